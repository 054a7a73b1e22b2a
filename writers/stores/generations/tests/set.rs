//! A folder and a range: what is swapped, renamed, missing, doubled or another's has a name, before anything is used.

use std::fs;
use std::path::Path;

use holdfast_store_generations::{
    Database, GenerationWriter, LogError, LogSet, Place, Stamp, file_name, verify,
};

mod common;
use common::{CHAIN, OTHER, T0, chain_of, databases, fill, named, variant};

fn open(folder: &Path, place: Place) -> Result<LogSet, LogError> {
    LogSet::open(folder, place)
}

fn range_error(folder: &Path, low: u32, high: u32) -> String {
    match open(folder, Place::Backup).and_then(|set| set.range(low, high)) {
        Ok(range) => format!("fine: {}..{}", range.low(), range.high()),
        Err(error) => variant(&error),
    }
}

#[test]
fn a_whole_chain_is_opened_and_any_part_of_it_is_a_range() {
    let dir = tempfile::tempdir().unwrap();
    let all = chain_of(dir.path(), CHAIN, 4);
    fs::write(dir.path().join("notes.txt"), "passed over").unwrap();
    drop(GenerationWriter::follow(dir.path(), &all[3], T0).unwrap());
    let set = open(dir.path(), Place::Backup).unwrap();
    assert_eq!(set.chain(), Some(CHAIN));
    assert_eq!(set.numbers().collect::<Vec<_>>(), [1, 2, 3, 4]);
    for low in 1..=4 {
        for high in low..=4 {
            let range = set.range(low, high).unwrap();
            assert_eq!((range.low(), range.high()), (low, high));
            assert_eq!(range.generations(), &all[low as usize - 1..high as usize]);
            assert_eq!(range.last_commit(), u64::from(high) * 2);
        }
    }
    for (low, high) in [(0, 1), (3, 2), (0, 0)] {
        assert_eq!(variant(&set.range(low, high).unwrap_err()), "InvalidParameter");
    }
}

#[test]
fn a_folder_without_generations_has_none_and_no_folder_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let set = open(dir.path(), Place::Live).unwrap();
    assert_eq!(set.chain(), None);
    assert_eq!(variant(&set.range(1, 1).unwrap_err()), "FileNotFound");
    assert_eq!(variant(&open(&dir.path().join("none"), Place::Live).unwrap_err()), "InvalidPath");
}

#[test]
fn the_first_missing_one_of_a_range_is_named_and_one_outside_does_not_matter() {
    for missing in 1..=4 {
        let dir = tempfile::tempdir().unwrap();
        chain_of(dir.path(), CHAIN, 4);
        fs::remove_file(named(dir.path(), missing)).unwrap();
        let error = open(dir.path(), Place::Backup).unwrap().range(1, 4).unwrap_err();
        assert!(
            matches!(&error, LogError::FileNotFound { path } if path.ends_with(file_name(missing))),
            "{error}"
        );
        if missing == 1 {
            assert_eq!(range_error(dir.path(), 2, 4), "fine: 2..4");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), CHAIN, 2);
    assert_eq!(range_error(dir.path(), 1, u32::MAX), "FileNotFound");
    assert_eq!(range_error(dir.path(), u32::MAX, u32::MAX), "FileNotFound");
}

#[test]
fn renamed_swapped_and_doubled_files_are_told_by_their_headers() {
    let dir = tempfile::tempdir().unwrap();
    let change = |change: &dyn Fn(&Path)| {
        let _ = fs::remove_dir_all(dir.path().join("set"));
        let folder = dir.path().join("set");
        fs::create_dir(&folder).unwrap();
        chain_of(&folder, CHAIN, 3);
        change(&folder);
        range_error(&folder, 1, 3)
    };
    let renamed = change(&|f| fs::rename(named(f, 3), named(f, 4)).unwrap());
    let spelled = change(&|f| fs::rename(named(f, 2), f.join("gen2.hlog")).unwrap());
    let long = change(&|f| fs::rename(named(f, 2), f.join("gen00000002.hlog")).unwrap());
    let doubled = change(&|f| assert!(fs::copy(named(f, 2), named(f, 4)).unwrap() > 0));
    let swapped = change(&|f| {
        fs::rename(named(f, 2), f.join("x")).unwrap();
        fs::rename(named(f, 3), named(f, 2)).unwrap();
        fs::rename(f.join("x"), named(f, 3)).unwrap();
    });
    for answer in [renamed, spelled, long, doubled, swapped] {
        assert_eq!(answer, "LogGenerationMismatch");
    }
}

#[test]
fn a_file_of_another_chain_is_named_by_place_whatever_its_number() {
    for (place, expected) in
        [(Place::Backup, "GivenLogFileHasBadSignature"), (Place::Live, "ExistingLogFileHasBadSignature")]
    {
        let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        chain_of(ours.path(), CHAIN, 3);
        chain_of(theirs.path(), OTHER, 5);
        for number in 2..=5 {
            let before = fs::read(named(ours.path(), number)).ok();
            fs::copy(named(theirs.path(), number), named(ours.path(), number)).unwrap();
            let error = open(ours.path(), place).unwrap_err();
            assert_eq!(variant(&error), expected);
            assert!(error.to_string().contains(&file_name(number)), "{error}");
            match before {
                Some(before) => fs::write(named(ours.path(), number), before).unwrap(),
                None => fs::remove_file(named(ours.path(), number)).unwrap(),
            }
        }
    }
}

/// The same chain id and numbers, another history: two that followed the same generation.
#[test]
fn a_generation_of_another_history_of_the_same_chain_does_not_follow() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = chain_of(one.path(), CHAIN, 3).remove(0);
    let mut other = GenerationWriter::follow(two.path(), &first, T0 + 500).unwrap();
    fill(&mut other, T0 + 555).unwrap();
    let other = other.seal(T0 + 600).unwrap();
    fs::copy(&other.path, named(one.path(), 2)).unwrap();
    assert_eq!(range_error(one.path(), 1, 2), "fine: 1..2");
    let error = open(one.path(), Place::Backup).unwrap().range(1, 3).unwrap_err();
    assert!(
        matches!(&error, LogError::GivenLogFileIsNotContiguous { path, before: 2, .. }
            if path.ends_with(file_name(3))),
        "{error}"
    );
}

#[test]
fn a_generation_with_another_table_of_databases_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), CHAIN, 1);
    let elsewhere = tempfile::tempdir().unwrap();
    let other = vec![Database { path: "/srv/other".into(), page_size: 512 }];
    let first = GenerationWriter::begin_chain(elsewhere.path(), CHAIN, other, T0).unwrap().seal(T0).unwrap();
    let second = GenerationWriter::follow(elsewhere.path(), &first, T0).unwrap().seal(T0).unwrap();
    fs::copy(&second.path, named(dir.path(), 2)).unwrap();
    assert_eq!(range_error(dir.path(), 1, 2), "AttachedDatabaseMismatch");
}

#[test]
fn damage_inside_the_range_is_named_by_place_and_outside_it_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), CHAIN, 3);
    let path = named(dir.path(), 2);
    let bytes = fs::read(&path).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    for (content, torn_or_corrupt) in
        [(&flipped[..], "LogCorrupt"), (&bytes[..bytes.len() - 9], "LogTornWrite")]
    {
        fs::write(&path, content).unwrap();
        assert_eq!(range_error(dir.path(), 1, 3), format!("{torn_or_corrupt}DuringHardRestore"));
        assert_eq!(range_error(dir.path(), 3, 3), "fine: 3..3");
        assert_eq!(range_error(dir.path(), 1, 1), "fine: 1..1");
        let backup = tempfile::tempdir().unwrap();
        fs::copy(named(dir.path(), 1), named(backup.path(), 1)).unwrap();
        let mut range = open(backup.path(), Place::Backup).unwrap().range(1, 1).unwrap();
        let error = range.roll_forward(&open(dir.path(), Place::Live).unwrap()).unwrap_err();
        assert_eq!(variant(&error), format!("{torn_or_corrupt}DuringHardRecovery"));
        assert_eq!(range.high(), 1, "nothing is added on an error");
    }
}

#[test]
fn the_live_folder_rolls_forward_without_gaps_or_not_at_all() {
    let (backup, live) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let all = chain_of(live.path(), CHAIN, 5);
    for number in 1..=2 {
        fs::copy(named(live.path(), number), named(backup.path(), number)).unwrap();
    }
    let range = open(backup.path(), Place::Backup).unwrap().range(1, 2).unwrap();
    let forward = || {
        let mut longer = range.clone();
        let added = longer.roll_forward(&open(live.path(), Place::Live)?)?;
        Ok::<_, LogError>((added, longer))
    };
    let (added, longer) = forward().unwrap();
    assert_eq!((added, longer.high()), (3, 5));
    assert!(longer.generations().iter().map(|g| g.sha256).eq(all.iter().map(|g| g.sha256)));
    // Those the backup has may be gone from the live folder, or even be there.
    fs::remove_file(named(live.path(), 1)).unwrap();
    fs::remove_file(named(live.path(), 2)).unwrap();
    assert_eq!(forward().unwrap().0, 3);
    // A hole in front and one in the middle.
    for hole in [3, 4] {
        let bytes = fs::read(named(live.path(), hole)).unwrap();
        fs::remove_file(named(live.path(), hole)).unwrap();
        let error = forward().unwrap_err();
        assert!(
            matches!(&error, LogError::MissingCurrentLogFiles { path } if path.ends_with(file_name(hole))),
            "{error}"
        );
        fs::write(named(live.path(), hole), bytes).unwrap();
    }
    // Another history of the same chain.
    let elsewhere = tempfile::tempdir().unwrap();
    let third =
        GenerationWriter::follow(elsewhere.path(), &all[1], T0 + 9000).unwrap().seal(T0 + 9000).unwrap();
    fs::copy(&third.path, named(live.path(), 3)).unwrap();
    assert_eq!(variant(&forward().unwrap_err()), "ExistingLogFileIsNotContiguous");
    // None at all, and another chain.
    for number in 3..=5 {
        fs::remove_file(named(live.path(), number)).unwrap();
    }
    assert_eq!(forward().unwrap().0, 0);
    chain_of(live.path(), OTHER, 1);
    assert_eq!(variant(&forward().unwrap_err()), "ExistingLogFileHasBadSignature");
}

#[test]
fn a_base_copy_gets_the_range_it_needs_or_a_named_error() {
    let dir = tempfile::tempdir().unwrap();
    chain_of(dir.path(), CHAIN, 4);
    let set = open(dir.path(), Place::Backup).unwrap();
    let stamp = Stamp {
        chain: CHAIN,
        database: databases()[1].path.clone(),
        index: 1,
        page_size: 1024,
        low: 2,
        high: 3,
    };
    let written = serde_json::to_string(&stamp).unwrap();
    assert_eq!(serde_json::from_str::<Stamp>(&written).unwrap(), stamp);
    let check = |low, high, stamp: &Stamp| match set.range(low, high).unwrap().check_base(stamp) {
        Ok(()) => "fine".to_owned(),
        Err(error) => format!("{} {}", variant(&error), error.jet()),
    };
    for (low, high) in [(1, 3), (1, 4), (2, 3), (2, 4)] {
        assert_eq!(check(low, high, &stamp), "fine");
    }
    assert_eq!(check(3, 4, &stamp), "StartingRestoreLogTooHigh -554");
    assert_eq!(check(1, 2, &stamp), "EndingRestoreLogTooLow -553");
    assert_eq!(check(2, 2, &stamp), "EndingRestoreLogTooLow -553");
    let with = |change: &dyn Fn(&mut Stamp)| {
        let mut other = stamp.clone();
        change(&mut other);
        check(1, 4, &other)
    };
    assert_eq!(with(&|s| s.chain = OTHER), "DatabaseLogSetMismatch -539");
    assert_eq!(with(&|s| s.low = 0), "RestoreOfNonBackupDatabase -615");
    for answer in [
        with(&|s| s.index = 0),
        with(&|s| s.index = 2),
        with(&|s| s.page_size = 512),
        with(&|s| s.database = "/srv/other".into()),
    ] {
        assert_eq!(answer, "AttachedDatabaseMismatch -1216");
    }
}

/// Names get eight digits where five no longer do. Such numbers are reached by a header, not by a million files.
#[test]
fn the_chain_goes_on_behind_the_last_short_name_and_ends_at_the_last_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut before = chain_of(dir.path(), CHAIN, 1).remove(0);
    before.header.number = 0xF_FFFE;
    for number in 0xF_FFFF..=0x10_0001 {
        let mut writer = GenerationWriter::follow(dir.path(), &before, T0 + 9000).unwrap();
        fill(&mut writer, T0 + 9000).unwrap();
        before = writer.seal(T0 + 9001).unwrap();
        assert_eq!(verify(&before.path, Place::Backup).unwrap().header.number, number);
    }
    assert!(dir.path().join("genFFFFF.hlog").exists() && dir.path().join("gen00100000.hlog").exists());
    let set = open(dir.path(), Place::Backup).unwrap();
    assert_eq!(set.range(0xF_FFFF, 0x10_0001).unwrap().generations().len(), 3);
    before.header.number = u32::MAX;
    let end = GenerationWriter::follow(dir.path(), &before, T0 + 9000).unwrap_err();
    assert_eq!((variant(&end).as_str(), end.jet()), ("LogSequenceEnd", -519));
}

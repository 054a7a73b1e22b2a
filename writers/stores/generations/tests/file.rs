//! One generation: what was written is read again, by us and by a stranger; whatever is wrong with it has a name.

use std::fs;
use std::path::Path;
use std::process::Command;

use holdfast_store_generations::{
    GenerationWriter, Kind, LogError, Place, Reader, file_name, unsealed_name, verify, verify_prefix,
};

mod common;
use common::{CHAIN, T0, chain_of, databases, fill, named, variant};

#[test]
fn records_pages_and_numbers_come_back_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let written = chain_of(dir.path(), CHAIN, 3);
    for (index, generation) in (0_u64..).zip(&written) {
        assert_eq!(verify(&generation.path, Place::Backup).unwrap(), *generation);
        let mut reader = Reader::open(&generation.path, Place::Backup).unwrap();
        assert_eq!(reader.header().databases, databases());
        let first = reader.next_record().unwrap().unwrap();
        let expected = (0, index * 2 + 1, T0 + index * 1000, 3, Kind::Transaction);
        assert_eq!((first.database, first.commit, first.time_ms, first.page_count, first.kind), expected);
        let byte = u8::try_from((T0 + index * 1000) % 251).unwrap();
        let page = reader.next_page().unwrap().unwrap();
        assert_eq!((page.number, page.bytes), (1, &[byte; 512][..]));
        assert_eq!(reader.next_page().unwrap().unwrap().number, 3);
        assert_eq!(reader.next_page().unwrap(), None);
        assert_eq!(reader.next_page().unwrap(), None, "stays at the end of the record");
        let second = reader.next_record().unwrap().unwrap();
        assert_eq!((second.commit, second.kind), (index * 2 + 2, Kind::Difference));
        // Its pages are not asked for.
        assert_eq!(reader.next_record().unwrap(), None);
        assert_eq!(reader.next_record().unwrap(), None);
        assert_eq!(generation.footer.page_counts, [3, 9]);
        assert_eq!(generation.bytes, fs::metadata(&generation.path).unwrap().len());
    }
    assert_eq!(written[1].header.predecessor, written[0].sha256);
    assert_eq!(written[2].footer.last_commit, 6);
}

#[test]
fn an_empty_generation_is_whole_and_the_next_goes_on_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = chain_of(dir.path(), CHAIN, 1).remove(0);
    let empty = GenerationWriter::follow(dir.path(), &first, T0 + 5).unwrap().seal(T0 + 6).unwrap();
    assert_eq!((empty.footer.first_commit, empty.footer.last_commit, empty.footer.records), (3, 2, 0));
    assert_eq!(verify(&empty.path, Place::Live).unwrap(), empty);
    let mut third = GenerationWriter::follow(dir.path(), &empty, T0 + 7).unwrap();
    fill(&mut third, T0 + 7).unwrap();
    assert_eq!(third.seal(T0 + 8).unwrap().footer.first_commit, 3);
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let dir = tempfile::tempdir().unwrap();
    let first = chain_of(dir.path(), CHAIN, 1).remove(0);
    let mut writer = GenerationWriter::follow(dir.path(), &first, 5).unwrap();
    fill(&mut writer, 7).unwrap();
    let second = writer.seal(3).unwrap();
    assert_eq!((second.header.created_ms, second.footer.sealed_ms), (T0 + 1, T0 + 1));
    assert_eq!(verify(&second.path, Place::Backup).unwrap(), second);
}

/// Every truncation of a closed file is a named error; read as one that is not closed, it is a prefix.
#[test]
fn every_truncation_is_torn_and_what_was_whole_before_it_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let whole = chain_of(dir.path(), CHAIN, 2).remove(1);
    let bytes = fs::read(&whole.path).unwrap();
    let mut seen = [0; 3];
    for length in 0..bytes.len() {
        let path = dir.path().join("cut");
        fs::write(&path, &bytes[..length]).unwrap();
        for (place, expected) in [
            (Place::Backup, "LogTornWriteDuringHardRestore"),
            (Place::Live, "LogTornWriteDuringHardRecovery"),
        ] {
            let error = verify(&path, place).unwrap_err();
            assert_eq!(variant(&error), expected, "cut to {length}: {error}");
        }
        match verify_prefix(&path, Place::Live) {
            Ok(prefix) => {
                seen[usize::try_from(prefix.records).unwrap()] += 1;
                assert!(prefix.bytes <= length as u64);
                assert_eq!(prefix.last_commit, 2 + prefix.records);
                let counts = [[0, 0], [3, 0], [3, 9]];
                assert_eq!(prefix.page_counts, counts[usize::try_from(prefix.records).unwrap()]);
            }
            Err(error) => assert_eq!(variant(&error), "LogTornWriteDuringHardRecovery", "{error}"),
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// Reads all of it, from memory.
fn walk(bytes: &[u8]) -> Result<(), LogError> {
    let mut reader = Reader::new(bytes, Path::new("memory"), Place::Backup)?;
    while reader.next_record()?.is_some() {}
    Ok(())
}

/// Every single flipped bit of a closed file is a named error; read as one that is not closed, it ends before the bit.
#[test]
fn every_flipped_bit_is_named_and_nothing_behind_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let whole = chain_of(dir.path(), CHAIN, 2).remove(1);
    let mut bytes = fs::read(&whole.path).unwrap();
    let end_of_records = verify_prefix(&whole.path, Place::Live).unwrap().bytes;
    let path = dir.path().join("flipped");
    let mut named = std::collections::BTreeMap::<String, u32>::new();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let error = walk(&bytes).expect_err("a flipped bit");
            *named.entry(variant(&error)).or_default() += 1;
            if bit == at % 8 {
                fs::write(&path, &bytes).unwrap();
                assert_eq!(variant(&verify(&path, Place::Backup).unwrap_err()), variant(&error));
                if let Ok(prefix) = verify_prefix(&path, Place::Backup) {
                    assert!(prefix.bytes <= at as u64 || at as u64 >= end_of_records, "byte {at} bit {bit}");
                }
            }
            bytes[at] ^= 1 << bit;
        }
    }
    let names: Vec<&str> = named.keys().map(String::as_str).collect();
    assert_eq!(names, ["BadLogVersion", "LogCorruptDuringHardRestore", "LogTornWriteDuringHardRestore"]);
    assert_eq!(named["BadLogVersion"], 32);
}

#[test]
fn what_follows_the_footer_and_zeros_instead_of_content_are_seen() {
    let dir = tempfile::tempdir().unwrap();
    let whole = chain_of(dir.path(), CHAIN, 1).remove(0);
    let bytes = fs::read(&whole.path).unwrap();
    let path = dir.path().join("changed");
    let check = |content: &[u8], expected: &str| {
        fs::write(&path, content).unwrap();
        assert_eq!(variant(&verify(&path, Place::Backup).unwrap_err()), expected);
    };
    check(&[&bytes[..], b"x"].concat(), "LogCorruptDuringHardRestore");
    check(&[&bytes[..], &bytes[..]].concat(), "LogCorruptDuringHardRestore");
    check(&vec![0; bytes.len()], "LogTornWriteDuringHardRestore");
    // A machine that lost power: the length is right, the end is zeros.
    let records = usize::try_from(verify_prefix(&whole.path, Place::Live).unwrap().bytes).unwrap();
    let mut zeroed = bytes.clone();
    zeroed[records..].fill(0);
    check(&zeroed, "LogTornWriteDuringHardRestore");
    check(b"SQLite format 3\0 and so on, long enough to be taken for a header if nobody looked at its first bytes......", "LogCorruptDuringHardRestore");
}

#[test]
fn only_regular_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let whole = chain_of(dir.path(), CHAIN, 1).remove(0);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&whole.path, &link).unwrap();
    assert_eq!(variant(&verify(&link, Place::Backup).unwrap_err()), "InvalidPath");
    assert_eq!(variant(&verify(dir.path(), Place::Backup).unwrap_err()), "InvalidPath");
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(variant(&verify(&pipe, Place::Backup).unwrap_err()), "InvalidPath");
    assert_eq!(variant(&verify(&dir.path().join("none"), Place::Backup).unwrap_err()), "FileNotFound");
}

#[test]
fn impossible_arguments_are_refused_and_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let begin = |databases| GenerationWriter::begin_chain(dir.path(), CHAIN, databases, T0);
    let with = |change: &dyn Fn(&mut holdfast_store_generations::Database)| {
        let mut all = databases();
        change(&mut all[1]);
        all
    };
    for wrong in [
        Vec::new(),
        vec![databases().remove(0); 257],
        with(&|d| d.page_size = 256),
        with(&|d| d.page_size = 131_072),
        with(&|d| d.page_size = 1000),
        with(&|d| d.path = "relative".into()),
        with(&|d| d.path = "/a\0b".into()),
        with(&|d| d.path = format!("/{}", "x".repeat(4096)).into()),
    ] {
        assert_eq!(variant(&begin(wrong).unwrap_err()), "InvalidParameter");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    let nowhere = GenerationWriter::begin_chain(&dir.path().join("none"), CHAIN, databases(), T0);
    assert_eq!(variant(&nowhere.unwrap_err()), "InvalidPath");

    let mut writer = begin(databases()).unwrap();
    assert_eq!(variant(&writer.record(2, Kind::Transaction, 1, T0).unwrap_err()), "InvalidParameter");
    assert_eq!(variant(&writer.record(0, Kind::Transaction, 0, T0).unwrap_err()), "InvalidParameter");
    let mut record = writer.record(0, Kind::Transaction, 3, T0).unwrap();
    for (number, length) in [(0, 512), (4, 512), (1, 511), (1, 1024)] {
        assert_eq!(variant(&record.page(number, &vec![0; length]).unwrap_err()), "InvalidParameter");
    }
    record.page(2, &[2; 512]).unwrap();
    assert_eq!(record.finish().unwrap(), 1);
    assert_eq!(verify(&writer.seal(T0).unwrap().path, Place::Backup).unwrap().footer.records, 1);
}

#[test]
fn a_half_record_is_never_closed_and_can_be_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = GenerationWriter::begin_chain(dir.path(), CHAIN, databases(), T0).unwrap();
    fill(&mut writer, T0).unwrap();
    let (position, bytes) = (writer.position(), writer.bytes());
    for pages in [0, 1, 1000] {
        let mut record = writer.record(0, Kind::Transaction, 7, T0).unwrap();
        for _ in 0..pages {
            record.page(5, &[5; 512]).unwrap();
        }
        drop(record);
        assert_eq!(variant(&writer.record(0, Kind::Transaction, 7, T0).unwrap_err()), "InvalidParameter");
        assert_eq!(variant(&writer.sync().unwrap_err()), "InvalidParameter");
        writer.go_back(&position).unwrap();
    }
    fill(&mut writer, T0).unwrap();
    writer.go_back(&position).unwrap();
    assert_eq!((writer.bytes(), writer.last_commit()), (bytes, 2));
    let sealed = writer.seal(T0 + 1).unwrap();
    assert_eq!(verify(&sealed.path, Place::Backup).unwrap(), sealed);
    let straight = tempfile::tempdir().unwrap();
    let same = chain_of(straight.path(), CHAIN, 1).remove(0);
    assert_eq!(sealed.sha256, same.sha256, "as if nothing had been taken back");

    let mut other = GenerationWriter::follow(dir.path(), &sealed, T0 + 2).unwrap();
    assert_eq!(variant(&other.go_back(&position).unwrap_err()), "InvalidParameter");
}

/// Whatever moment a writer is killed at: no closed generation, or a whole one; and the records up to the last sync.
#[test]
fn a_writer_killed_at_any_byte_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = GenerationWriter::begin_chain(dir.path(), CHAIN, databases(), T0).unwrap();
    fill(&mut writer, T0).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let unsealed = dir.path().join(unsealed_name(1));
    let bytes = fs::read(&unsealed).unwrap();
    assert!(!named(dir.path(), 1).exists());
    let header = bytes.len() - (32 + 2 * 516 + 24) - (32 + 1028 + 24);

    for length in (0..=bytes.len()).step_by(7).chain([header - 1, header, bytes.len()]) {
        fs::write(&unsealed, &bytes[..length]).unwrap();
        let reopened = GenerationWriter::reopen(dir.path(), 1);
        if length < header {
            assert_eq!(variant(&reopened.unwrap_err()), "LogTornWriteDuringHardRecovery");
            continue;
        }
        let mut writer = reopened.unwrap();
        let had = writer.last_commit();
        assert_eq!(had == 2, length == bytes.len());
        fill(&mut writer, T0 + 9).unwrap();
        let sealed = writer.seal(T0 + 10).unwrap();
        assert_eq!(sealed.footer.records, had + 2);
        assert_eq!(verify(&sealed.path, Place::Backup).unwrap(), sealed);
        fs::rename(&sealed.path, &unsealed).unwrap();
    }
}

#[test]
fn nothing_that_exists_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let first = chain_of(dir.path(), CHAIN, 2).remove(0);
    let before = fs::read(named(dir.path(), 2)).unwrap();
    let begin = || GenerationWriter::follow(dir.path(), &first, T0 + 1000);
    assert_eq!(variant(&begin().unwrap_err()), "FileAlreadyExists");
    fs::remove_file(named(dir.path(), 2)).unwrap();
    let writer = begin().unwrap();
    assert_eq!(variant(&begin().unwrap_err()), "FileAlreadyExists", "another is being written");
    // Somebody puts it back while it is written anew.
    fs::write(named(dir.path(), 2), &before).unwrap();
    assert_eq!(variant(&writer.seal(T0 + 1001).unwrap_err()), "FileAlreadyExists");
    assert_eq!(fs::read(named(dir.path(), 2)).unwrap(), before);
    assert_eq!(variant(&GenerationWriter::reopen(dir.path(), 7).unwrap_err()), "FileNotFound");
    fs::rename(dir.path().join(unsealed_name(2)), dir.path().join(unsealed_name(7))).unwrap();
    assert_eq!(variant(&GenerationWriter::reopen(dir.path(), 7).unwrap_err()), "LogGenerationMismatch");
}

#[test]
fn a_stranger_reads_the_same_from_the_document_alone() {
    let Some(python) = python() else { return };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_generation.py");
    let dir = tempfile::tempdir().unwrap();
    for generation in chain_of(dir.path(), CHAIN, 3) {
        let ran = Command::new(python).arg(script).arg(&generation.path).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let read: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
        assert_eq!(read["chain"], CHAIN.to_string());
        assert_eq!(read["number"], generation.header.number);
        assert_eq!(read["created_ms"], generation.header.created_ms);
        assert_eq!(read["predecessor"], hex(&generation.header.predecessor));
        assert_eq!(read["sha256"], hex(&generation.sha256));
        assert_eq!(read["databases"], serde_json::to_value(databases()).unwrap());
        assert_eq!(read["page_counts"], serde_json::json!(generation.footer.page_counts));
        assert_eq!(read["records"][0]["kind"], 1);
        assert_eq!(read["records"][1]["pages"][0][0], 9);
        assert_eq!(read["records"][1]["commit"], generation.footer.last_commit);

        // And it refuses what we refuse.
        let mut bytes = fs::read(&generation.path).unwrap();
        for at in (0..bytes.len()).step_by(bytes.len() / 6) {
            bytes[at] ^= 0x10;
            let changed = dir.path().join("changed");
            fs::write(&changed, &bytes).unwrap();
            let ran = Command::new(python).arg(script).arg(&changed).output().unwrap();
            assert!(!ran.status.success(), "byte {at} of {}", file_name(generation.header.number));
            assert!(verify(&changed, Place::Backup).is_err());
            bytes[at] ^= 0x10;
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[expect(clippy::print_stderr, reason = "a skipped test must say so to whoever runs it")]
fn python() -> Option<&'static str> {
    if Command::new("python3").arg("--version").output().is_ok_and(|ran| ran.status.success()) {
        return Some("python3");
    }
    assert!(std::env::var_os("CI").is_none(), "in CI nothing is skipped: needs python3");
    eprintln!("skipped: needs python3");
    None
}

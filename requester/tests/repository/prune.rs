//! Forgetting and pruning free space, and never what a set still needs.

use std::{fs, path::Path};

use holdfast::repository::{RepositoryError, RestoreOptions};

use crate::support::{Bench, noise, succeeded};

fn size_of(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("listed").map(|entry| entry.expect("listed"));
    entries
        .map(|entry| {
            let stat = entry.metadata().expect("stat");
            if stat.is_dir() { size_of(&entry.path()) } else { stat.len() }
        })
        .sum()
}

#[test]
fn pruning_frees_forgotten_sets_at_once_and_the_rest_restores_and_satisfies_restic() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("kept"), noise(3 << 20, 1)).expect("written");
    fs::write(tree.join("dropped"), noise(20 << 20, 2)).expect("written");
    let old = bench.store(&tree);
    fs::remove_file(tree.join("dropped")).expect("removed");
    let new = bench.store(&tree);
    let nobody = uuid::Uuid::nil();
    let refused = bench.repository.forget(&[old.set, nobody]);
    assert!(matches!(refused, Err(RepositoryError::NoSuchSet { set }) if set == nobody));
    assert_eq!(bench.repository.sets().expect("listed").len(), 2);
    bench.repository.forget(&[old.set]).expect("forgotten");
    assert_eq!(bench.repository.sets().expect("listed"), std::slice::from_ref(&new));

    let before = size_of(&bench.path());
    let planned = bench.repository.prune(true).expect("planned");
    assert!(planned.freed_bytes > 19 << 20, "{planned:?}");
    assert_eq!(size_of(&bench.path()), before, "a dry run changes nothing");
    let cut_off = bench.path().join("data/00/0000-tmp-1-1");
    fs::write(&cut_off, "half").expect("written");
    let done = bench.repository.prune(false).expect("pruned");
    assert_eq!((done.freed_bytes, done.leftovers), (planned.freed_bytes, 1));
    assert!(!cut_off.exists());
    let after = size_of(&bench.path());
    assert!(after < 4 << 20, "{after} bytes are left");

    bench.repository.check(true).expect("whole");
    let target = bench.place.path().join("back");
    let selection = [("/data/files".into(), target.clone())];
    bench.repository.restore_files(&new, &selection, &RestoreOptions::default()).expect("restored");
    assert_eq!(fs::read(target.join("kept")).expect("read"), fs::read(tree.join("kept")).expect("read"));
    if let Some(checked) = bench.restic(&["check", "--read-data"]) {
        let said = succeeded(&checked);
        assert!(said.contains("no errors were found"), "{said}");
    }
}

#[test]
fn partial_snapshots_keep_their_data_through_a_prune() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), noise(1 << 20, 7)).expect("written");
    let about = crate::support::about();
    let partial =
        bench.repository.archive(&about, crate::support::entries(&tree, "/data"), None).expect("archived");
    bench.repository.prune(false).expect("pruned");
    bench.repository.commit(&about, &[partial], Vec::new()).expect("committed");
    bench.repository.check(true).expect("whole");
}

#[test]
fn a_death_in_the_middle_of_an_amendment_shows_one_set_and_the_older_snapshot_goes() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    let first = bench.store(&tree);
    let snapshot = bench.path().join("snapshots").join(&first.snapshot);
    let saved = fs::read(&snapshot).expect("read");
    let second =
        bench.repository.amend(&first, vec![crate::support::document("more", b"1")]).expect("amended");
    assert!(!snapshot.exists());
    // As if it had died before the removal.
    fs::write(&snapshot, saved).expect("written");
    let sets = bench.repository.sets().expect("listed");
    assert_eq!(sets.len(), 1);
    assert_eq!((&sets[0].snapshot, &sets[0].superseded), (&second.snapshot, &vec![first.snapshot.clone()]));
    assert_eq!(bench.repository.remove_superseded().expect("removed"), 1);
    assert_eq!(bench.repository.sets().expect("listed"), [second]);
}

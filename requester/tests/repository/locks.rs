//! Stock restic and Holdfast keep out of each other's way.

use std::{
    fs, io,
    io::Write,
    path::Path,
    process::{Child, Command, Stdio},
};

use holdfast::repository::{LockKind, RepositoryError};

use crate::support::{Bench, PASSWORD, said, succeeded};

fn locks(bench: &Bench) -> usize {
    names(&bench.path().join("locks")).expect("listed")
}

/// Lock files; while one is being written it has a longer name.
fn names(folder: &Path) -> io::Result<usize> {
    Ok(fs::read_dir(folder)?
        .filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name().len() == 64))
        .count())
}

#[test]
fn stock_restic_waits_for_our_locks_and_unlock_removes_them() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), "x").expect("written");
    let backup = ["backup", tree.to_str().expect("plain")];
    let exclusive = bench.repository.lock(LockKind::Exclusive).expect("free");
    let Some(refused) = bench.restic(&backup) else { return };
    assert!(!refused.status.success() && said(&refused).contains("already locked"), "{}", said(&refused));
    // Our process lives: a plain unlock leaves the lock alone.
    succeeded(&bench.restic(&["unlock"]).expect("restic"));
    assert_eq!(locks(&bench), 1);
    drop(exclusive);
    assert_eq!(locks(&bench), 0);

    let shared = bench.repository.lock(LockKind::Shared).expect("free");
    succeeded(&bench.restic(&backup).expect("restic"));
    let refused = bench.restic(&["prune"]).expect("restic");
    assert!(!refused.status.success() && said(&refused).contains("already locked"), "{}", said(&refused));
    succeeded(&bench.restic(&["unlock", "--remove-all"]).expect("restic"));
    assert_eq!(locks(&bench), 0);
    drop(shared);
    succeeded(&bench.restic(&["prune"]).expect("restic"));
}

/// A restic that holds its lock until its input ends.
fn busy_restic(bench: &Bench) -> Option<Child> {
    let started = Command::new("restic")
        .args(["--no-cache", "backup", "--stdin", "--repo"])
        .arg(bench.path())
        .env("RESTIC_PASSWORD", PASSWORD)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match started {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "restic is not installed, and this is CI");
            println!("skipped: restic not installed");
            None
        }
        other => Some(other.expect("restic started")),
    }
}

#[test]
fn a_restic_at_work_is_named_to_whoever_needs_the_repository_alone() {
    let bench = Bench::new();
    let Some(mut restic) = busy_restic(&bench) else { return };
    while locks(&bench) == 0 {
        assert!(restic.try_wait().expect("asked").is_none(), "restic ended early");
        std::thread::yield_now();
    }
    // The lock file appears under its name only when whole.
    let Err(RepositoryError::Locked { owner, .. }) = bench.repository.prune(false) else {
        panic!("pruned under a running backup");
    };
    assert_eq!((owner.pid, owner.exclusive), (restic.id(), false));
    drop(bench.repository.lock(LockKind::Shared).expect("restic's lock is shared"));
    let mut input = restic.stdin.take().expect("piped");
    input.write_all(b"some input").expect("written");
    drop(input);
    assert!(restic.wait().expect("ended").success());
    bench.repository.prune(false).expect("free again");
}

#[test]
fn the_lock_of_a_killed_restic_does_not_keep_us_out() {
    let bench = Bench::new();
    let Some(mut restic) = busy_restic(&bench) else { return };
    while locks(&bench) == 0 {
        assert!(restic.try_wait().expect("asked").is_none(), "restic ended early");
        std::thread::yield_now();
    }
    restic.kill().expect("killed");
    restic.wait().expect("reaped");
    assert_eq!(locks(&bench), 1);
    bench.repository.prune(false).expect("nobody holds it");
    assert_eq!(locks(&bench), 0);
}

#[test]
fn operations_hold_a_lock_while_they_run_and_none_after() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    let path = bench.path();
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = seen.clone();
    let mut entries = crate::support::entries(&tree, "/data");
    entries.push(holdfast::repository::SourceEntry {
        save_as: "/data/probe".into(),
        kind: holdfast::repository::EntryKind::File(Box::new(move || {
            let locks = names(&path.join("locks"))?;
            count.store(locks, std::sync::atomic::Ordering::SeqCst);
            Ok(Box::new(io::empty()))
        })),
        metadata: Default::default(),
    });
    bench.repository.archive(&crate::support::about(), entries, None).expect("archived");
    assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 1);
    assert_eq!(locks(&bench), 0);
}

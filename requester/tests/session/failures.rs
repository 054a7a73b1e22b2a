//! Whichever phase a session fails in: nobody stays held, nothing is left, and what failed is told.

use std::time::{Duration, Instant};

use holdfast::failure::Exit;
use holdfast::session::BackupOptions;

use crate::support::{BUDGET, Fault, Scene};

/// Goal: whichever phase a writer fails in, everybody is thawed and there is no set.
/// Method: three writers; the middle one fails in each phase in turn.
#[tokio::test]
async fn a_writer_that_fails_in_any_phase_leaves_no_set_and_nobody_held() {
    for (fault, exit) in [
        (Fault::Absent, Exit::Refused),
        (Fault::Prepare, Exit::Refused),
        (Fault::PrepareSnapshot, Exit::FreezeAborted),
        (Fault::FreezeFails, Exit::FreezeAborted),
        (Fault::FreezeHangs, Exit::FreezeAborted),
        (Fault::FreezePanics, Exit::FreezeAborted),
        (Fault::ThawLate, Exit::FreezeAborted),
        (Fault::ThawStuck, Exit::ThawNotConfirmed),
        (Fault::PostSnapshot, Exit::Refused),
    ] {
        let scene = Scene::new();
        let writers =
            [scene.writer("a", Fault::None), scene.writer("b", fault), scene.writer("c", Fault::None)];
        let failure = scene.backup(&writers, &BackupOptions::default()).await.unwrap_err();
        assert_eq!(failure.exit, exit, "{fault:?}: {failure:?}");
        let text = format!("{} {}", failure.what, failure.causes().join(" "));
        assert!(text.contains("`b`"), "{fault:?} names its writer: {text}");
        for id in ["a", "b", "c"] {
            assert!(scene.is_free(id), "{fault:?}: {id} is held");
        }
        scene.nothing_is_left(fault == Fault::ThawStuck);
        // And the next backup succeeds.
        let writers = [scene.writer("a", Fault::None), scene.writer("b", Fault::None)];
        scene.backup(&writers, &BackupOptions::default()).await.unwrap();
    }
}

/// Goal: whoever has begun is told that the backup is given up, in whichever phase another one fails.
#[tokio::test]
async fn every_writer_that_has_begun_is_told_that_the_backup_is_given_up() {
    for (fault, begun) in [
        (Fault::Absent, [false; 2]),
        (Fault::Begin, [true, false]),
        (Fault::Prepare, [true; 2]),
        (Fault::PrepareSnapshot, [true; 2]),
        (Fault::FreezeFails, [true; 2]),
        (Fault::ThawLate, [true; 2]),
        (Fault::PostSnapshot, [true; 2]),
        (Fault::Complete, [false; 2]),
    ] {
        let scene = Scene::new();
        let writers = [scene.writer("a", Fault::None), scene.writer("b", fault)];
        let _ = scene.backup(&writers, &BackupOptions::default()).await;
        assert_eq!(["a", "b"].map(|id| scene.was_aborted(id)), begun, "{fault:?}");
    }
}

/// A person is told of the first; whoever looks for the reasons finds all of them.
#[tokio::test]
async fn every_writer_that_fails_in_a_phase_is_in_the_log() {
    for fault in [Fault::Absent, Fault::Prepare, Fault::PrepareSnapshot, Fault::PostSnapshot] {
        let scene = Scene::new();
        let writers = [scene.writer("a", fault), scene.writer("b", Fault::None), scene.writer("c", fault)];
        scene.backup(&writers, &BackupOptions::default()).await.unwrap_err();
        let log = scene.logs();
        for (id, failed) in [("a", true), ("b", false), ("c", true)] {
            let line =
                format!(r#""event":"writer-failed","writer":"{id}","error":"`{id}` refused: as asked""#);
            assert_eq!(log.contains(&line), failed, "{fault:?}, {id}: {log}");
        }
    }
}

#[tokio::test]
async fn a_writer_allowed_to_fail_by_name_is_left_out_and_the_set_says_so() {
    for fault in [Fault::Absent, Fault::Prepare, Fault::FreezeFails, Fault::FreezePanics] {
        let scene = Scene::new();
        let writers = [scene.writer("a", Fault::None), scene.writer("b", fault)];
        let options = BackupOptions { allow_incomplete: vec!["b".into()], ..BackupOptions::default() };
        let set = scene.backup(&writers, &options).await.unwrap();
        assert_eq!(set.exceptions.len(), 1, "{fault:?}");
        assert!(set.exceptions[0].contains("`b`"));
        assert_eq!(set.writers.len(), 1);
        // Allowing another one is no permission for this one.
        let options = BackupOptions { allow_incomplete: vec!["a".into()], ..BackupOptions::default() };
        assert!(scene.backup(&writers, &options).await.is_err());
    }
}

#[tokio::test]
async fn where_nobody_is_left_the_failure_is_the_writers_own() {
    let scene = Scene::new();
    let writers = [scene.writer("a", Fault::FreezeFails)];
    let options = BackupOptions { allow_incomplete: vec!["a".into()], ..BackupOptions::default() };
    let failure = scene.backup(&writers, &options).await.unwrap_err();
    assert_eq!(failure.exit, Exit::FreezeAborted, "{failure:?}");
    scene.nothing_is_left(false);
    let failure = scene.backup(&[], &options).await.unwrap_err();
    assert_eq!((failure.exit, failure.what.as_str()), (Exit::Usage, "no writer is configured"));
}

#[tokio::test]
async fn a_thaw_that_is_not_confirmed_is_never_covered_by_a_permission() {
    let scene = Scene::new();
    let writers = [scene.writer("a", Fault::None), scene.writer("b", Fault::ThawStuck)];
    let options = BackupOptions { allow_incomplete: vec!["b".into()], ..BackupOptions::default() };
    let failure = scene.backup(&writers, &options).await.unwrap_err();
    assert_eq!(failure.exit, Exit::ThawNotConfirmed);
    assert!(failure.state.contains("`b` (as asked) MAY STILL BE HELD"), "{}", failure.state);
}

/// A writer's word that it may hold is believed in every phase, and its record stays for `thaw --all`.
#[tokio::test]
async fn a_writer_that_says_that_it_may_hold_is_believed_also_where_nothing_is_to_be_held() {
    for fault in [Fault::PrepareSnapshotHeld, Fault::PostSnapshotHeld] {
        let scene = Scene::new();
        let writers = [scene.writer("a", Fault::None), scene.writer("b", fault)];
        let options = BackupOptions { allow_incomplete: vec!["b".into()], ..BackupOptions::default() };
        let failure = scene.backup(&writers, &options).await.unwrap_err();
        assert_eq!(failure.exit, Exit::ThawNotConfirmed, "{fault:?}");
        assert!(
            failure.state.starts_with("`b` (as asked) MAY STILL BE HELD; "),
            "{fault:?}: {}",
            failure.state
        );
        scene.nothing_is_left(true);
    }
}

/// Whatever follows a thaw may wait for the disk that the holder waits for; a person must not.
#[tokio::test]
async fn a_thaw_that_is_not_confirmed_is_told_before_anything_else_is_done() {
    let scene = Scene::new();
    let writers = [scene.writer("a", Fault::None), scene.writer("b", Fault::ThawStuck)];
    scene.backup(&writers, &BackupOptions::default()).await.unwrap_err();
    let told = scene.told();
    let at = |wanted: &str| told.iter().position(|text| text.contains(wanted));
    let (note, next) =
        (at("`b` (as asked) MAY STILL BE HELD: run `holdfast thaw --all` now"), at("at thawed"));
    assert!(note.is_some() && note < next, "{told:?}");
}

/// Nobody knows who holds what then, so nobody may say that nothing is held, nor write over the record.
#[tokio::test]
async fn a_record_of_holders_that_cannot_be_read_is_no_proof_that_nothing_is_held() {
    let scene = Scene::new();
    let record = scene.paths.runtime.join("holders.json");
    std::fs::write(&record, "cut off in the middle").unwrap();
    let writers = [scene.writer("a", Fault::None)];
    let failure = scene.backup(&writers, &BackupOptions::default()).await.unwrap_err();
    assert_eq!(failure.exit, Exit::ThawNotConfirmed, "{failure:?}");
    assert!(failure.causes().join(" ").contains("holders.json"), "{:?}", failure.causes());
    assert!(
        scene.told().iter().all(|text| !text.starts_with("at ")),
        "no session was begun: {:?}",
        scene.told()
    );
    assert_eq!(std::fs::read_to_string(&record).unwrap(), "cut off in the middle");
    std::fs::remove_file(record).unwrap();
    scene.backup(&writers, &BackupOptions::default()).await.unwrap();
}

/// A session that is given up (Ctrl-C) is a dropped future, at whatever point it waits.
#[tokio::test]
async fn a_session_given_up_while_it_holds_releases_everybody_at_once() {
    let scene = Scene::new();
    let writers = [scene.writer("a", Fault::None), scene.writer("b", Fault::FreezeHangs)];
    let options = BackupOptions::default();
    let running = scene.backup(&writers, &options);
    let given_up = tokio::time::timeout(BUDGET / 2, running).await;
    assert!(given_up.is_err(), "it was to be given up while `b` hangs");
    let begun = Instant::now();
    assert!(scene.is_free("a") && scene.is_free("b"));
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert!(scene.repository.sets().unwrap().is_empty());
    let log = scene.logs();
    assert!(log.ends_with("\"event\":\"session-ended\",\"outcome\":\"given up\"}\n"), "{log}");
}

#[tokio::test]
async fn a_second_session_is_told_who_runs_the_first() {
    let scene = Scene::new();
    let _first = holdfast::session::lock::SessionLock::take(&scene.paths.runtime, "backup").unwrap();
    let writers = [scene.writer("a", Fault::None)];
    let failure = scene.backup(&writers, &BackupOptions::default()).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Locked);
    assert!(failure.causes().join(" ").contains(&std::process::id().to_string()));
}

#[tokio::test]
async fn what_cannot_be_cut_is_refused_before_anything_is_held() {
    let scene = Scene::new();
    let writers = [scene.writer("a", Fault::None)];
    std::fs::remove_file(scene.dir.path().join("a/data")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", scene.dir.path().join("a/data")).unwrap();
    let failure = scene.backup(&writers, &BackupOptions::default()).await.unwrap_err();
    assert!(matches!(failure.exit, Exit::Refused), "{failure:?}");
    assert!(failure.causes().join(" ").contains("symbolic link"), "{:?}", failure.causes());
    assert!(
        scene.logs().lines().last().unwrap().contains("symbolic link"),
        "the log says why: {}",
        scene.logs()
    );
    scene.nothing_is_left(false);
}

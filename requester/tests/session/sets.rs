//! What becomes of a session that does not fail: the repository, the set, its log, and writers at its end.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use holdfast::failure::{Exit, Failure};
use holdfast::session::holders::Holders;
use holdfast::session::{BackupOptions, Target};
use holdfast_writer_api::document::{BackupSet, Level};

use crate::support::{BUDGET, Fault, Scene};

#[tokio::test]
async fn a_set_says_what_it_is_and_its_log_tells_every_phase() {
    let scene = Scene::new();
    let writers = [scene.writer("a", Fault::None), scene.writer("b", Fault::None)];
    let set = scene.backup(&writers, &BackupOptions::default()).await.unwrap();
    assert_eq!((set.level, set.one_instant), (Level::Application, true));
    assert_eq!(set.order.len(), 2);
    assert!(set.window_ms > 0.0 && set.window_ms < BUDGET.as_secs_f64() * 1e3);
    assert!(set.writers.iter().all(|w| w.held_ms.is_some_and(|ms| ms <= set.window_ms)));
    let stored = scene.repository.set(set.set).unwrap();
    let log = scene.repository.read_document(&stored, Path::new("events.ndjson"), 1 << 20).unwrap();
    let log = String::from_utf8(log).unwrap();
    let phases =
        ["identify", "prepare-backup", "prepare-snapshot", "freeze", "thawed", "post-snapshot", "store"];
    for phase in phases.into_iter().chain(["stored", "backup-complete"]) {
        assert!(log.contains(&format!("\"name\":\"{phase}\"")), "{phase} in {log}");
    }
    let data = scene.repository.reader(&stored).unwrap();
    let original = scene.dir.path().canonicalize().unwrap().join("a/data");
    let found = data.read_file(&holdfast::session::stored_path("a", &original), 100).unwrap();
    assert_eq!(found, b"data of a");
}

/// Goal: a new repository is made once, after all that can refuse, and before anything is frozen.
#[tokio::test]
async fn a_new_repository_is_made_once_when_nothing_can_refuse_any_more() {
    let scene = Scene::new();
    let made = Arc::new(AtomicUsize::new(0));
    let maker = |fails: bool| {
        let (made, repository) = (Arc::clone(&made), scene.repository.clone());
        Target::New(Arc::new(move || {
            made.fetch_add(1, Ordering::SeqCst);
            if fails { Err(Failure::refused(Exit::Failed, "as asked")) } else { Ok(repository.clone()) }
        }))
    };
    let both = |fault| [scene.writer("a", Fault::None), scene.writer("b", fault)];
    for fault in [Fault::Absent, Fault::Prepare] {
        scene.make_in(maker(false), &both(fault), &BackupOptions::default()).await.unwrap_err();
        assert_eq!(made.load(Ordering::SeqCst), 0, "{fault:?}");
    }
    // Whoever is left out fails later than that: the second attempt has the repository of the first.
    let options = BackupOptions { allow_incomplete: vec!["b".into()], ..BackupOptions::default() };
    let set = scene.make_in(maker(false), &both(Fault::FreezeFails), &options).await.unwrap().set;
    assert_eq!((made.load(Ordering::SeqCst), set.exceptions.len()), (1, 1));
    scene.repository.take_back(set.set).unwrap();
    // A freeze would hang: that nothing is frozen shows.
    let failure = scene.make_in(maker(true), &both(Fault::FreezeHangs), &options).await.unwrap_err();
    assert_eq!((failure.exit, failure.what.as_str()), (Exit::Failed, "as asked"));
    scene.nothing_is_left(false);
}

/// What a dead session left is named to the user and in the log of the session that found it, in the set too.
#[tokio::test]
async fn what_a_dead_session_left_is_in_the_log_of_the_next() {
    let scene = Scene::new();
    let mut holder = std::process::Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
    let dead = uuid::Uuid::now_v7();
    Holders::new(dead, [("b".into(), holder.id(), None)]).record(&scene.paths.runtime).unwrap();
    let set = scene.backup(&[scene.writer("a", Fault::None)], &BackupOptions::default()).await.unwrap();
    holder.wait().unwrap();
    let sentences = [
        "writer `b`: was still held, and is released".to_owned(),
        format!("session {dead}: ended without a word; no application is held by it"),
    ];
    let stored = scene.repository.set(set.set).unwrap();
    let log = scene.repository.read_document(&stored, Path::new("events.ndjson"), 1 << 20).unwrap();
    let log = String::from_utf8(log).unwrap();
    for sentence in sentences {
        assert!(scene.told().contains(&format!("left by a dead session: {sentence}")), "{:?}", scene.told());
        let (what, outcome) = sentence.split_once(": ").unwrap();
        let line = format!(r#""event":"leftover","what":"{what}","outcome":"{outcome}""#);
        assert!(log.contains(&line), "{line} in {log}");
    }
}

/// Goal: a writer that fails once the set exists does not take it back, and is not passed over: the result, the stored
/// set and the stored log name it.
#[tokio::test]
async fn a_writer_that_does_not_complete_leaves_the_set_and_is_told_of() {
    for (allowed, exit) in [(false, Exit::Failed), (true, Exit::Incomplete)] {
        let scene = Scene::new();
        let writers = [
            scene.writer("a", Fault::None),
            scene.writer("b", Fault::Complete),
            scene.writer("c", Fault::None),
        ];
        let allow_incomplete = if allowed { vec!["b".into()] } else { vec!["a".into()] };
        let options = BackupOptions { allow_incomplete, ..BackupOptions::default() };
        std::fs::create_dir(scene.paths.full_required()).unwrap();
        let full_required = |id: &str| scene.paths.full_required().join(format!("{id}.json"));
        ["a", "b"].iter().for_each(|id| std::fs::write(full_required(id), "{}").unwrap());

        let made = scene.make(&writers, &options).await.unwrap();
        assert_eq!(made.exit(), exit);
        assert_eq!((made.not_completed.len(), made.not_completed[0].allowed), (1, allowed));
        let failure = made.not_completed[0].failure(made.set.set);
        assert_eq!(failure.exit, exit);
        assert!(failure.what.contains("is stored") && failure.what.contains("`b`"), "{}", failure.what);
        assert!(failure.causes().join(" ").contains("as asked"), "{:?}", failure.causes());
        assert!(failure.state.contains("not truncated"), "{}", failure.state);
        assert!(failure.help.is_some_and(|help| help.contains("--allow-incomplete") != allowed));
        assert_eq!([full_required("a").exists(), full_required("b").exists()], [false, true]);

        let sets = scene.repository.sets().unwrap();
        assert_eq!(sets.len(), 1);
        let document =
            |path: &str| scene.repository.read_document(&sets[0], Path::new(path), 1 << 20).unwrap();
        let stored = BackupSet::parse(&document("set.json")).unwrap();
        assert_eq!(stored, made.set);
        assert_eq!(stored.exceptions, Vec::<String>::new(), "all of it is there");
        let says = |warnings: &[String]| warnings.iter().any(|text| text.contains("`b` did not complete"));
        assert!(
            says(&stored.warnings) && says(&stored.writer("b").unwrap().warnings),
            "{:?}",
            stored.warnings
        );
        assert!(!says(&stored.writer("a").unwrap().warnings));
        let log = String::from_utf8(document("events.ndjson")).unwrap();
        assert!(
            log.contains(r#""event":"writer-failed","writer":"b","error":"`b` refused: as asked""#),
            "{log}"
        );
        assert!(
            log.contains(r#""writer":"c","moved":{"event":"backup-completed"}"#),
            "the others completed: {log}"
        );
    }
}

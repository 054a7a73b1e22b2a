//! Whole sessions with writers that fail in every way: everybody is thawed, there is no set, nothing is left.
//!
//! The applications are files under a lock; the tests look at the locks, not at the writers' words.

#![allow(clippy::wildcard_enum_match_arm, reason = "each call of a faulty writer looks for its own fault")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast::config::{Config, Source, WriterCommon, WriterEntry};
use holdfast::failure::{Exit, Failure};
use holdfast::paths::Paths;
use holdfast::provider::Providers;
use holdfast::repository::{Options, Password, Repository};
use holdfast::session::{BackupOptions, Environment, Made, Target, backup};
use holdfast::writers::ConfiguredWriter;
use holdfast_writer_api::document::{BackupSet, Level};
use holdfast_writer_api::*;
use rustix::fs::{FlockOperation, flock};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Absent,
    Prepare,
    PrepareSnapshot,
    FreezeFails,
    FreezeHangs,
    FreezePanics,
    ThawLate,
    ThawStuck,
    PostSnapshot,
    Complete,
}

/// An application: a file with data, and a lock file that its writes take.
struct FileWriter {
    id: String,
    dir: PathBuf,
    fault: Fault,
}

struct Run {
    id: String,
    dir: PathBuf,
    fault: Fault,
    held: Option<File>,
}

const BUDGET: Duration = Duration::from_millis(400);

fn fails<T>(id: &str, now: bool, ok: T) -> Result<T, WriterError> {
    if now { Err(WriterError::rejected(id, "as asked")) } else { Ok(ok) }
}

#[async_trait]
impl Writer for FileWriter {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        let component = Component {
            kind: ComponentKind::FileGroup,
            path: String::new(),
            name: "data".into(),
            caption: String::new(),
            selectable: true,
            selectable_for_restore: true,
            held: true,
            dependencies: vec![],
            files: vec![FileSet {
                path: self.dir.clone(),
                pattern: "data".into(),
                recursive: false,
                optional: false,
                role: FileRole::Data,
            }],
            exclude: vec![],
            keys: vec![],
        };
        let metadata = WriterMetadata {
            schema: METADATA_SCHEMA.into(),
            writer_type: "file".into(),
            id: self.id.clone(),
            name: self.id.clone(),
            version: "1".into(),
            usage: Usage::UserData,
            source: DataSource::Other,
            restore: RestorePolicy {
                method: RestoreMethod::StopRestoreStart,
                rank: RestoreRank::Applications,
                service: None,
            },
            freeze_level: FreezeLevel::FrontEnd,
            freeze_budget_ms: Some(BUDGET.as_millis() as u64),
            busy_timeout_ms: None,
            backup_types: BackupTypes::default(),
            capabilities: Capabilities { freeze: true, ..Capabilities::default() },
            components: vec![component],
            warnings: vec![],
        };
        fails(&self.id, self.fault == Fault::Absent, metadata)
    }
    async fn begin_backup(&self, _: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        let (id, dir, fault) = (self.id.clone(), self.dir.clone(), self.fault);
        Ok(Box::new(Run { id, dir, fault, held: None }))
    }
    async fn begin_restore(&self, _: RestoreRequest) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Err(WriterError::unsupported(&self.id, "restore"))
    }
}

#[async_trait]
impl BackupParticipant for Run {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        fails(&self.id, self.fault == Fault::Prepare, Prepared::default())
    }
    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        fails(&self.id, self.fault == Fault::PrepareSnapshot, ())
    }
    async fn freeze(&mut self, _: &FreezeContext) -> Result<Mark, WriterError> {
        let lock = File::open(self.dir.join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        self.held = Some(lock);
        match self.fault {
            Fault::FreezeHangs => std::future::pending().await,
            Fault::FreezePanics => panic!("as asked"),
            fault => fails(&self.id, fault == Fault::FreezeFails, Mark::default()),
        }
    }
    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        match self.fault {
            Fault::ThawStuck => {
                let cause = Cause::new("as asked");
                return Err(WriterError::StuckFrozen { writer: self.id.clone(), cause });
            }
            Fault::ThawLate => tokio::time::sleep(BUDGET * 2).await,
            _ => {}
        }
        Ok(self.held.take().map_or(Thawed::WasNotHeld, |_| Thawed::Released))
    }
    async fn post_snapshot(&mut self, _: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        fails(&self.id, self.fault == Fault::PostSnapshot, PostSnapshot::default())
    }
    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        fails(&self.id, self.fault == Fault::Complete, Truncated::default())
    }
    async fn abort(&mut self) -> Result<(), WriterError> {
        Ok(())
    }
}

struct Scene {
    dir: tempfile::TempDir,
    paths: Paths,
    repository: Repository,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        let paths = Paths { state: at.join("state"), runtime: at.join("run") };
        paths.create().unwrap();
        let location = at.join("repository");
        let repository =
            Repository::init(location.to_str().unwrap(), &Password::new("pw"), &Options::default()).unwrap();
        Self { dir, paths, repository }
    }

    fn application(&self, id: &str) -> PathBuf {
        let app = self.dir.path().canonicalize().unwrap().join(id);
        std::fs::create_dir_all(&app).unwrap();
        std::fs::write(app.join("data"), format!("data of {id}")).unwrap();
        std::fs::write(app.join("lock"), "").unwrap();
        app
    }

    fn writer(&self, id: &str, fault: Fault) -> ConfiguredWriter {
        let dir = self.application(id);
        let entry = WriterEntry {
            id: id.into(),
            writer_type: "file".into(),
            settings: serde_json::Value::Null,
            common: WriterCommon::default(),
            source: Source::default(),
        };
        ConfiguredWriter::in_process(entry, Box::new(FileWriter { id: id.into(), dir, fault }))
    }

    async fn backup(
        &self,
        writers: &[ConfiguredWriter],
        options: &BackupOptions,
    ) -> Result<BackupSet, Failure> {
        self.make(writers, options).await.map(|made| made.set)
    }

    async fn make(&self, writers: &[ConfiguredWriter], options: &BackupOptions) -> Result<Made, Failure> {
        self.make_in(Target::Open(self.repository.clone()), writers, options).await
    }

    async fn make_in(
        &self,
        target: Target,
        writers: &[ConfiguredWriter],
        options: &BackupOptions,
    ) -> Result<Made, Failure> {
        let providers = Providers::linked(&[]).unwrap();
        let environment = Environment {
            config: &Config::default(),
            paths: &self.paths,
            providers: &providers,
            writers,
            target,
            note: &|_| {},
            progress: None,
            at: &|_| {},
        };
        backup(&environment, options).await
    }

    /// The event logs of all sessions.
    fn logs(&self) -> String {
        let logs = std::fs::read_dir(self.paths.sessions()).unwrap();
        logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect()
    }

    fn is_free(&self, id: &str) -> bool {
        let lock = File::open(self.dir.path().join(id).join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// `held`: a thaw was not confirmed, and then its record must stay for `thaw --all`.
    fn nothing_is_left(&self, held: bool) {
        assert!(self.repository.sets().unwrap().is_empty(), "no set");
        assert!(holdfast::provider::list(&self.paths.state).unwrap().records.is_empty(), "no shadow copy");
        assert_eq!(self.paths.runtime.join("holders.json").exists(), held, "recorded holders");
    }
}

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
    assert!(failure.state.contains("MAY STILL BE HELD"), "{}", failure.state);
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
    scene.nothing_is_left(false);
}

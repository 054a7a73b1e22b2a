//! A small application on disk, a set of it, and a machine to restore it on: `db` is whole once what is in `db-wal` is
//! appended to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::FutureExt;
use holdfast_writer_api::document::{
    BackupSet, ComponentRecord, KeyRecord, KeysState, Level, SET_SCHEMA, StoredRoot, WriterRecord,
};
use holdfast_writer_api::*;
use uuid::Uuid;

use super::storage::InMemoryStorage;
use super::writer::{Faults, InMemory, Log};
use crate::config::{Source, WriterCommon, WriterEntry};
use crate::failure::Failure;
use crate::paths::Paths;
use crate::repository::{
    Document, EntryKind, EntryMetadata, Repository, SetIdentity, SourceEntry, StoredSet,
};
use crate::restore::engine::*;
use crate::restore::registration::Registry;
use crate::restore::{NoSteps, Steps};
use crate::writers::ConfiguredWriter;

/// One application: a folder with `db`, `db-wal`, `certs/` and what a test adds.
pub struct App {
    pub id: &'static str,
    pub live: PathBuf,
    pub rank: RestoreRank,
    pub method: RestoreMethod,
    pub whole: bool,
    pub needs: Vec<&'static str>,
    pub keys: Vec<(KeyRecord, Vec<u8>)>,
}

impl App {
    pub fn new(root: &Path, id: &'static str) -> Self {
        let live = root.join("live").join(id);
        fs::create_dir_all(live.join("certs/deep")).unwrap();
        let app = Self {
            id,
            live,
            rank: RestoreRank::Applications,
            method: RestoreMethod::StopRestoreStart,
            whole: true,
            needs: Vec::new(),
            keys: Vec::new(),
        };
        app.write("db", "then;");
        app.write("db-wal", "committed;");
        app.write("certs/1.pem", "one");
        app.write("certs/deep/2.pem", "two");
        fs::set_permissions(app.live.join("certs/1.pem"), fs::Permissions::from_mode(0o640)).unwrap();
        app
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.live.join(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.live.join(name)).unwrap_or_else(|error| format!("<{error}>"))
    }

    /// What the application did since.
    pub fn change(&self) {
        self.write("db", "now;");
        self.write("db-wal", "of now;");
        self.write("certs/1.pem", "other");
        self.write("certs/3.pem", "new since");
    }

    pub fn is_changed(&self) -> bool {
        self.read("db") == "now;"
            && self.read("db-wal") == "of now;"
            && self.read("certs/3.pem") == "new since"
    }

    pub fn is_restored(&self) -> bool {
        self.read("db") == "then;committed;"
            && !self.live.join("db-wal").exists()
            && self.read("certs/1.pem") == "one"
            && self.read("certs/deep/2.pem") == "two"
            && !self.live.join("certs/3.pem").exists()
            && fs::metadata(self.live.join("certs/1.pem")).unwrap().mode() & 0o777 == 0o640
    }

    pub fn metadata(&self) -> WriterMetadata {
        let file = |path: &Path, pattern: &str, recursive, optional, role| FileSet {
            path: path.to_owned(),
            pattern: pattern.into(),
            recursive,
            optional,
            role,
        };
        let component = |kind, name: &str, files, keys| Component {
            held: true,
            dependencies: self
                .needs
                .iter()
                .map(|id| Dependency {
                    writer: (*id).into(),
                    component: ComponentRef::from_full_name("database"),
                })
                .collect(),
            files,
            keys,
            ..Component::new(kind, name)
        };
        let key = |(record, _): &(KeyRecord, Vec<u8>)| KeyFile {
            path: record.path.clone(),
            purpose: record.purpose.clone(),
            certificate: None,
        };
        let mut components = vec![
            component(
                ComponentKind::Database,
                "database",
                vec![
                    file(&self.live, "db", false, false, FileRole::Database),
                    file(&self.live, "db-wal", false, true, FileRole::Log),
                ],
                vec![],
            ),
            component(
                ComponentKind::FileGroup,
                "certs",
                vec![file(&self.live.join("certs"), "*", true, false, FileRole::Data)],
                vec![],
            ),
        ];
        if !self.keys.is_empty() {
            components.push(component(
                ComponentKind::Keys,
                "keys",
                vec![],
                self.keys.iter().map(key).collect(),
            ));
        }
        WriterMetadata {
            source: DataSource::TransactedDb,
            restore: RestorePolicy { method: self.method, rank: self.rank, service: None },
            capabilities: Capabilities {
                recover: true,
                post_restore: true,
                keys: true,
                ..Capabilities::default()
            },
            components,
            ..WriterMetadata::new("in-memory", self.id)
        }
    }

    fn record(&self) -> WriterRecord {
        let root = |name: &str, folder, whole, companions: &[&str]| {
            let original = self.live.join(name);
            StoredRoot {
                stored: format!("/data/{}{}", self.id, original.display()),
                original,
                folder,
                whole,
                companions: companions.iter().map(ToString::to_string).collect(),
            }
        };
        let component = |kind, name: &str, roots| ComponentRecord {
            reference: ComponentRef::from_full_name(name),
            kind,
            explicit: true,
            level: Some(Level::Application),
            succeeded: true,
            bytes: 1,
            files: 1,
            roots,
            stamp: None,
        };
        let mut components = vec![
            component(
                ComponentKind::Database,
                "database",
                vec![root("db", false, true, &["db-wal", "db-shm"])],
            ),
            component(ComponentKind::FileGroup, "certs", vec![root("certs", true, self.whole, &[])]),
        ];
        let mut keys = KeysState::NoneDeclared;
        if !self.keys.is_empty() {
            components.push(component(ComponentKind::Keys, "keys", vec![]));
            keys = KeysState::Sealed { keys: self.keys.iter().map(|(record, _)| record.clone()).collect() };
        }
        WriterRecord {
            id: self.id.into(),
            writer_type: "in-memory".into(),
            backup_type: BackupType::Full,
            mark: None,
            held_ms: None,
            components,
            keys,
            warnings: vec![],
        }
    }
}

/// A machine with applications, a set of them, and their writers.
pub struct Bench {
    pub root: tempfile::TempDir,
    pub paths: Paths,
    pub repository: Repository,
    pub storage: Arc<InMemoryStorage>,
    pub set: StoredSet,
    pub apps: Vec<App>,
    pub writers: Vec<ConfiguredWriter>,
    pub log: Log,
    pub faults: Faults,
    pub notes: Mutex<Vec<String>>,
}

impl Bench {
    /// One application, `app`, backed up and changed since.
    pub fn new() -> Self {
        Self::with(|root| vec![App::new(root, "app")])
    }

    /// The applications that `make` makes, in a repository shared by all tests: making one takes long.
    pub fn with(make: impl FnOnce(&Path) -> Vec<App>) -> Self {
        static SHARED: OnceLock<(Repository, Arc<InMemoryStorage>)> = OnceLock::new();
        Self::on(SHARED.get_or_init(InMemoryStorage::repository).clone(), make)
    }

    /// One application, in a repository of its own.
    pub fn alone() -> Self {
        Self::on(InMemoryStorage::repository(), |root| vec![App::new(root, "app")])
    }

    fn on(
        (repository, storage): (Repository, Arc<InMemoryStorage>),
        make: impl FnOnce(&Path) -> Vec<App>,
    ) -> Self {
        let root = tempfile::tempdir().unwrap();
        // Beneath /tmp everybody may write; targets need a folder that is ours.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let apps = make(root.path());
        let paths = Paths { state: root.path().join("state"), runtime: root.path().join("run") };
        paths.create().unwrap();
        let set = store(&repository, &apps);
        let (log, faults) = (Log::default(), Faults::default());
        let writers = apps.iter().map(|app| configured(app, &log, &faults)).collect();
        apps.iter().for_each(App::change);
        Self { root, paths, repository, storage, set, apps, writers, log, faults, notes: Mutex::default() }
    }

    pub fn app(&self) -> &App {
        &self.apps[0]
    }

    pub fn options(&self) -> RestoreOptions {
        // Whether the application is down cannot be seen where some process may not be looked into.
        RestoreOptions { assume_stopped: true, ..RestoreOptions::new(self.set.clone()) }
    }

    pub async fn run<T>(
        &self,
        at: &(dyn Fn(&str) + Sync),
        steps: Arc<dyn Steps + Send + Sync>,
        work: impl AsyncFnOnce(&RestoreEnvironment<'_>) -> T,
    ) -> T {
        let note = |text: &str| self.notes.lock().unwrap().push(text.to_owned());
        let (paths, writers) = (&self.paths, self.writers.as_slice());
        work(&RestoreEnvironment { paths, writers, note: &note, progress: None, steps, at }).await
    }

    pub async fn plan(&self, options: RestoreOptions) -> Result<RestorePlan, Failure> {
        self.run(&|_| {}, Arc::new(NoSteps), async |env| plan(env, &self.repository, options).await).await
    }

    pub async fn restore(&self, options: RestoreOptions) -> Result<RestoreReport, Failure> {
        self.restore_at(options, &|_| {}, Arc::new(NoSteps)).await
    }

    pub async fn restore_at(
        &self,
        options: RestoreOptions,
        at: &(dyn Fn(&str) + Sync),
        steps: Arc<dyn Steps + Send + Sync>,
    ) -> Result<RestoreReport, Failure> {
        self.run(at, steps, async |env| execute(env, plan(env, &self.repository, options).await?).await).await
    }

    /// A restore that dies at `point`.
    pub async fn die_at(&self, point: &str, options: RestoreOptions) {
        self.die_at_nth(point, 1, options).await;
    }

    /// A restore that dies when it comes to `point` for the nth time: with its nth writer.
    pub async fn die_at_nth(&self, point: &str, nth: usize, options: RestoreOptions) {
        let left = AtomicUsize::new(nth);
        let at = move |name: &str| {
            let dies = name == point && left.fetch_sub(1, Ordering::SeqCst) == 1;
            assert!(!dies, "died at {name}, as asked");
        };
        let died = AssertUnwindSafe(self.restore_at(options, &at, Arc::new(NoSteps))).catch_unwind().await;
        assert!(died.is_err(), "it did not come to {point}");
    }

    /// A restore that is stopped after the nth move on disk, as by a crash; whether it got that far.
    pub async fn stop_after(&self, moves: usize, options: RestoreOptions) -> bool {
        let steps = Arc::new(Countdown(Mutex::new(moves)));
        self.restore_at(options, &|_| {}, steps.clone()).await.is_err() && *steps.0.lock().unwrap() == 0
    }

    pub async fn recover(&self, options: RecoverOptions) -> Result<RecoverReport, Failure> {
        self.run(&|_| {}, Arc::new(NoSteps), async |env| recover(env, &options).await).await
    }

    /// A recovery that is stopped after the nth move on disk, unless it ends before.
    pub async fn recover_until(&self, moves: usize, options: RecoverOptions) {
        let steps = Arc::new(Countdown(Mutex::new(moves)));
        let done = self.run(&|_| {}, steps.clone(), async |env| recover(env, &options).await).await;
        assert!(done.is_ok() || *steps.0.lock().unwrap() == 0, "{:?}", done.err());
    }

    /// Nothing of a restore is left anywhere.
    pub fn is_clean(&self) -> bool {
        let markers = Registry::open(&self.paths.state).unwrap().list().unwrap();
        let hidden = walk(&self.root.path().join("live"))
            .into_iter()
            .filter(|path| path.to_string_lossy().contains(".holdfast-restore"))
            .count();
        markers.is_empty() && hidden == 0
    }

    pub fn calls(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

struct Countdown(Mutex<usize>);

impl Steps for Countdown {
    fn reached(&self, _: &'static str) -> ControlFlow<()> {
        let mut left = self.0.lock().unwrap();
        if *left == 0 {
            return ControlFlow::Break(());
        }
        *left -= 1;
        if *left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

pub fn configured(app: &App, log: &Log, faults: &Faults) -> ConfiguredWriter {
    let entry = WriterEntry {
        id: app.id.into(),
        writer_type: "in-memory".into(),
        settings: serde_json::Value::Null,
        common: WriterCommon::default(),
        source: Source::default(),
    };
    let writer = InMemory { id: app.id.into(), log: log.clone(), faults: faults.clone() };
    ConfiguredWriter::in_process(entry, Box::new(writer))
}

fn store(repository: &Repository, apps: &[App]) -> StoredSet {
    let about = SetIdentity {
        set: Uuid::now_v7(),
        time: jiff::Timestamp::now(),
        hostname: "bench".into(),
        tags: vec![],
        label: String::new(),
    };
    let mut entries: BTreeMap<PathBuf, SourceEntry> = BTreeMap::new();
    let mut documents = Vec::new();
    for app in apps {
        let base = PathBuf::from("/data").join(app.id);
        let stored =
            |path: &Path| base.join(path.strip_prefix("/").unwrap()).components().collect::<PathBuf>();
        for parent in app.live.ancestors() {
            entries.insert(stored(parent), folder(stored(parent), &fs::metadata(parent).unwrap()));
        }
        for path in walk(&app.live) {
            let is_key = app.keys.iter().any(|(record, _)| record.path == path);
            let meta = fs::symlink_metadata(&path).unwrap();
            let save_as = stored(&path);
            if is_key {
                continue;
            }
            if meta.is_dir() {
                entries.insert(save_as.clone(), folder(save_as, &meta));
                continue;
            }
            let metadata = EntryMetadata { size: meta.len(), ..metadata(&meta) };
            let kind = EntryKind::File(Box::new(move || Ok(Box::new(File::open(path)?))));
            entries.insert(save_as.clone(), SourceEntry { save_as, kind, metadata });
        }
        let path = format!("writers/{}.json", app.id).into();
        documents.push(Document { path, bytes: schema::to_bytes(&app.metadata()) });
        for (record, sealed) in &app.keys {
            let path = record.stored.strip_prefix("/holdfast/").unwrap().into();
            documents.push(Document { path, bytes: sealed.clone() });
        }
    }
    let data = PathBuf::from("/data");
    entries.insert(data.clone(), folder(data, &fs::metadata("/").unwrap()));
    let set = BackupSet {
        schema: SET_SCHEMA.into(),
        set: about.set,
        created: about.time.to_string(),
        host: "bench".into(),
        version: "0".into(),
        backup_type: BackupType::Full,
        base: None,
        level: Level::Application,
        one_instant: true,
        window_ms: 1.0,
        skew_ms: 0.0,
        order: vec![],
        writers: apps.iter().map(App::record).collect(),
        shadows: vec![],
        exceptions: vec![],
        warnings: vec![],
    };
    documents.push(Document { path: "set.json".into(), bytes: schema::to_bytes(&set) });
    let partial = repository.archive(&about, entries.into_values().collect(), None).unwrap();
    repository.commit(&about, &[partial], documents).unwrap()
}

fn metadata(meta: &fs::Metadata) -> EntryMetadata {
    EntryMetadata { mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid(), ..EntryMetadata::default() }
}

fn folder(save_as: PathBuf, meta: &fs::Metadata) -> SourceEntry {
    SourceEntry { save_as, kind: EntryKind::Directory, metadata: metadata(meta) }
}

pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(walk(&path));
        }
        found.push(path);
    }
    found
}

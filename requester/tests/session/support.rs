//! Applications that are files under a lock, with writers that fail where they are told to, and a scratch world.

#![allow(clippy::wildcard_enum_match_arm, reason = "each call of a faulty writer looks for its own fault")]

use std::fs::File;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use holdfast::config::{Config, Source, WriterCommon, WriterEntry};
use holdfast::failure::Failure;
use holdfast::paths::Paths;
use holdfast::provider::Providers;
use holdfast::repository::{Options, Password, Repository};
use holdfast::session::{BackupOptions, Environment, Made, Target, backup};
use holdfast::writers::ConfiguredWriter;
use holdfast_writer_api::document::BackupSet;
use holdfast_writer_api::*;
use rustix::fs::{FlockOperation, flock};

use crate::shadows::{LATE, STICKY};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Absent,
    Begin,
    Prepare,
    PrepareSnapshot,
    FreezeFails,
    FreezeHangs,
    FreezePanics,
    ThawLate,
    ThawStuck,
    PostSnapshot,
    /// Says that it may hold, where nothing is to be held: before its freeze, or after it confirmed its thaw.
    PrepareSnapshotHeld,
    PostSnapshotHeld,
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

pub const BUDGET: Duration = Duration::from_millis(400);

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
        fails(&self.id, fault == Fault::Begin, ())?;
        Ok(Box::new(Run { id, dir, fault, held: None }))
    }
    async fn begin_restore(&self, _: RestoreRequest) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Err(WriterError::unsupported(&self.id, "restore"))
    }
}

impl Run {
    fn says_held(&self, fault: Fault) -> Result<(), WriterError> {
        let cause = Cause::new("as asked");
        let held = WriterError::StuckFrozen { writer: self.id.clone(), cause };
        if self.fault == fault { Err(held) } else { Ok(()) }
    }
}

#[async_trait]
impl BackupParticipant for Run {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        fails(&self.id, self.fault == Fault::Prepare, Prepared::default())
    }
    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        self.says_held(Fault::PrepareSnapshotHeld)?;
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
            Fault::ThawLate => tokio::time::sleep(BUDGET * 2).await,
            _ => self.says_held(Fault::ThawStuck)?,
        }
        Ok(self.held.take().map_or(Thawed::WasNotHeld, |_| Thawed::Released))
    }
    async fn post_snapshot(&mut self, _: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        self.says_held(Fault::PostSnapshotHeld)?;
        fails(&self.id, self.fault == Fault::PostSnapshot, PostSnapshot::default())
    }
    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        fails(&self.id, self.fault == Fault::Complete, Truncated::default())
    }
    async fn abort(&mut self) -> Result<(), WriterError> {
        std::fs::write(self.dir.join("aborted"), "").unwrap();
        Ok(())
    }
}

pub struct Scene {
    pub dir: tempfile::TempDir,
    pub paths: Paths,
    pub repository: Repository,
    /// The notes to the user and the points reached, in order.
    told: Mutex<Vec<String>>,
}

impl Scene {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().canonicalize().unwrap();
        let paths = Paths { state: at.join("state"), runtime: at.join("run") };
        paths.create().unwrap();
        let location = at.join("repository");
        let repository =
            Repository::init(location.to_str().unwrap(), &Password::new("pw"), &Options::default()).unwrap();
        Self { dir, paths, repository, told: Mutex::default() }
    }

    fn application(&self, id: &str) -> PathBuf {
        let app = self.dir.path().canonicalize().unwrap().join(id);
        std::fs::create_dir_all(&app).unwrap();
        std::fs::write(app.join("data"), format!("data of {id}")).unwrap();
        std::fs::write(app.join("lock"), "").unwrap();
        app
    }

    pub fn writer(&self, id: &str, fault: Fault) -> ConfiguredWriter {
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

    /// A writer whose volume is cut by the provider of that name.
    pub fn writer_cut_by(&self, id: &str, provider: &str) -> ConfiguredWriter {
        let mut writer = self.writer(id, Fault::None);
        writer.entry.common.provider = Some(provider.into());
        writer
    }

    /// Whether the writer was told that the backup was given up.
    pub fn was_aborted(&self, id: &str) -> bool {
        self.dir.path().join(id).join("aborted").exists()
    }

    pub async fn backup(
        &self,
        writers: &[ConfiguredWriter],
        options: &BackupOptions,
    ) -> Result<BackupSet, Failure> {
        self.make(writers, options).await.map(|made| made.set)
    }

    pub async fn make(&self, writers: &[ConfiguredWriter], options: &BackupOptions) -> Result<Made, Failure> {
        self.make_in(Target::Open(self.repository.clone()), writers, options).await
    }

    pub async fn make_in(
        &self,
        target: Target,
        writers: &[ConfiguredWriter],
        options: &BackupOptions,
    ) -> Result<Made, Failure> {
        let providers = Providers::linked(&[&LATE, &STICKY]).unwrap();
        let environment = Environment {
            config: &Config::default(),
            paths: &self.paths,
            providers: &providers,
            writers,
            target,
            note: &|text| self.told.lock().unwrap().push(text.to_owned()),
            progress: None,
            at: &|point| self.told.lock().unwrap().push(format!("at {point}")),
        };
        backup(&environment, options).await
    }

    pub fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }

    /// The event logs of all sessions.
    pub fn logs(&self) -> String {
        let logs = std::fs::read_dir(self.paths.sessions()).unwrap();
        logs.map(|log| std::fs::read_to_string(log.unwrap().path()).unwrap()).collect()
    }

    pub fn is_free(&self, id: &str) -> bool {
        let lock = File::open(self.dir.path().join(id).join("lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// `held`: a thaw was not confirmed, and then its record must stay for `thaw --all`.
    pub fn nothing_is_left(&self, held: bool) {
        assert!(self.repository.sets().unwrap().is_empty(), "no set");
        assert!(holdfast::provider::list(&self.paths.state).unwrap().records.is_empty(), "no shadow copy");
        assert_eq!(self.paths.runtime.join("holders.json").exists(), held, "recorded holders");
    }
}

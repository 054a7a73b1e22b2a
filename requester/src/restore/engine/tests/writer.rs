//! A writer in memory: its recovery appends `db-wal` to `db`; it notes every call and fails where it is told to.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use holdfast_writer_api::*;

/// The calls of all writers of a test.
pub type Log = Arc<Mutex<Vec<String>>>;

/// What a writer in memory does wrong.
#[derive(Debug, Clone, Default)]
pub struct Faults(pub Arc<Mutex<BTreeSet<&'static str>>>);

impl Faults {
    pub fn set(&self, fault: &'static str) {
        self.0.lock().unwrap().insert(fault);
    }
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
    fn at(&self, writer: &str, fault: &str) -> Result<(), WriterError> {
        if self.0.lock().unwrap().contains(fault) {
            return Err(WriterError::rejected(writer, "as asked"));
        }
        Ok(())
    }
}

/// The writer of an [`App`](super::support::App).
pub struct InMemory {
    pub id: String,
    pub log: Log,
    pub faults: Faults,
}

struct InMemoryRestore {
    id: String,
    database: PathBuf,
    log: Log,
    faults: Faults,
}

#[async_trait]
impl Writer for InMemory {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        Err(WriterError::rejected(&self.id, "a restore asks the stored document, never a live writer"))
    }
    async fn begin_backup(&self, _: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        Err(WriterError::unsupported(&self.id, "backups"))
    }
    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        let files = &request.metadata.components[0].files[0];
        Ok(Box::new(InMemoryRestore {
            id: self.id.clone(),
            database: files.path.join(&files.pattern),
            log: self.log.clone(),
            faults: self.faults.clone(),
        }))
    }
}

impl InMemoryRestore {
    fn say(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{} {what}", self.id));
    }
    fn staged(&self, staged: &StagedFiles) -> Result<(PathBuf, PathBuf), WriterError> {
        let at = staged
            .locate(&self.database)
            .ok_or_else(|| WriterError::rejected(&self.id, "no database staged"))?;
        let wal = at.with_file_name(format!("{}-wal", at.file_name().unwrap().to_string_lossy()));
        Ok((at, wal))
    }
}

#[async_trait]
impl RestoreParticipant for InMemoryRestore {
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        Ok(OnlineState::Unknown)
    }
    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.say("check");
        self.faults.at(&self.id, "check")?;
        let (database, _) = self.staged(staged)?;
        if fs::read_to_string(database).unwrap().starts_with("then;") {
            return Ok(CheckReport::default());
        }
        Err(WriterError::rejected(&self.id, "not what was backed up"))
    }
    async fn register(&mut self, registration: &Registration) -> Result<(), WriterError> {
        assert!(registration.marker.exists(), "the marker is there first");
        self.say("register");
        self.faults.at(&self.id, "register")?;
        self.faults.at(&self.id, &format!("register-{}", self.id))
    }
    async fn recover(&mut self, staged: &StagedFiles, _: &RecoverContext) -> Result<Recovered, WriterError> {
        self.say("recover");
        let (database, wal) = self.staged(staged)?;
        if let Ok(log) = fs::read_to_string(&wal) {
            let text = fs::read_to_string(&database).unwrap();
            fs::write(&database, text + &log).unwrap();
            fs::remove_file(wal).unwrap();
        }
        self.faults.at(&self.id, "recover")?;
        Ok(Recovered { done: vec!["log appended".into()], ..Recovered::default() })
    }
    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.say("verify");
        let (database, _) = self.staged(staged)?;
        let found = fs::read_to_string(database).unwrap();
        if found != "then;committed;" {
            return Err(WriterError::rejected(&self.id, found));
        }
        let finding = Finding { check: "content".into(), result: "ok".into(), warning: false };
        Ok(CheckReport { findings: vec![finding] })
    }
    async fn post_restore_steps(&mut self) -> Result<Vec<HookStep>, WriterError> {
        Ok(vec![HookStep {
            name: "restart".into(),
            description: "start the application".into(),
            host: String::new(),
            timeout: std::time::Duration::from_secs(5),
            on_failure: OnFailure::Stop,
        }])
    }
    async fn run_step(&mut self, name: &str) -> Result<HookOutcome, WriterError> {
        self.say(name);
        self.faults.at(&self.id, "step")?;
        Ok(HookOutcome::Done)
    }
    async fn unregister(&mut self) -> Result<(), WriterError> {
        self.say("unregister");
        Ok(())
    }
}

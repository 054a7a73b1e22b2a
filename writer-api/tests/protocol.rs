//! A writer in a process of its own: whatever happens to it or to us, its application is free again.
//!
//! The writer holds a lock on a file; the tests watch that lock from outside, not the writer's word.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast_writer_api::protocol::{Launcher, Program, RemoteWriter, serve};
use holdfast_writer_api::*;
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

struct LockWriter {
    id: String,
    file: String,
    fault: String,
}

struct LockRun {
    id: String,
    path: String,
    fault: String,
    held: Option<File>,
}

fn build(config: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
    let text = |key: &str| config.settings[key].as_str().unwrap_or_default().to_owned();
    Ok(Box::new(LockWriter { file: text("file"), fault: text("fault"), id: config.id }))
}

#[async_trait]
impl Writer for LockWriter {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        Err(WriterError::rejected(&self.id, "nothing to identify"))
    }
    async fn begin_backup(&self, _: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        let (id, path, fault) = (self.id.clone(), self.file.clone(), self.fault.clone());
        Ok(Box::new(LockRun { id, path, fault, held: None }))
    }
    async fn begin_restore(&self, _: RestoreRequest) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Err(WriterError::unsupported(&self.id, "restore"))
    }
}

#[async_trait]
impl BackupParticipant for LockRun {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        Ok(Prepared::default())
    }
    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        Ok(())
    }
    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        match self.fault.as_str() {
            "hang" => tokio::time::sleep(ctx.budget * 100).await,
            "block" => std::thread::sleep(Duration::from_secs(600)),
            "panic" => panic!("as asked"),
            "exit" => std::process::exit(3),
            _ => {}
        }
        let file = File::open(&self.path).unwrap();
        flock(file.as_fd(), FlockOperation::LockExclusive).unwrap();
        self.held = Some(file);
        match self.fault.as_str() {
            "hold, then fail" => return Err(WriterError::rejected(&self.id, "as asked")),
            "hold, then block" => std::thread::sleep(Duration::from_secs(600)),
            _ => {}
        }
        Ok(Mark { position: "7".into(), ..Mark::default() })
    }
    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        Ok(self.held.take().map_or(Thawed::WasNotHeld, |_| Thawed::Released))
    }
    async fn post_snapshot(&mut self, _: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        Ok(PostSnapshot::default())
    }
    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        Ok(Truncated::default())
    }
    async fn abort(&mut self) -> Result<(), WriterError> {
        self.held = None;
        Ok(())
    }
}

static LOCK: WriterDescriptor = WriterDescriptor { name: "lock", summary: "holds a file's lock", build };

/// Not a test: the child process of the others.
#[test]
#[ignore = "the child process of the other tests"]
fn writer_process() {
    let mut registry = Registry::empty();
    registry.register(&LOCK).unwrap();
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let _ = serve(&registry, Program::new("lock-test", "1"), "lock", socket);
}

fn writer(file: &Path, fault: &str) -> RemoteWriter {
    let arguments = ["writer_process", "--exact", "--ignored", "--nocapture"];
    let launcher = Launcher::new(std::env::current_exe().unwrap(), arguments);
    RemoteWriter::new(launcher, "w", "lock", serde_json::json!({"file": file, "fault": fault}))
}

async fn begin(file: &Path, fault: &str) -> Box<dyn BackupParticipant> {
    let request = BackupRequest {
        set: Uuid::nil(),
        backup_type: BackupType::Full,
        components: vec![],
        previous_stamps: Default::default(),
    };
    writer(file, fault).begin_backup(request).await.unwrap()
}

fn budget(ms: u64) -> FreezeContext {
    FreezeContext { set: Uuid::nil(), budget: Duration::from_millis(ms) }
}

fn is_free(file: &Path) -> bool {
    flock(File::open(file).unwrap().as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn application() -> tempfile::NamedTempFile {
    tempfile::NamedTempFile::new().unwrap()
}

#[tokio::test]
async fn a_hold_lives_from_freeze_to_thaw_and_a_second_thaw_is_harmless() {
    let app = application();
    let mut run = begin(app.path(), "").await;
    assert_eq!(run.thaw().await, Ok(Thawed::WasNotHeld));
    assert_eq!(run.freeze(&budget(5000)).await.unwrap().position, "7");
    assert!(!is_free(app.path()));
    assert_eq!(run.thaw().await, Ok(Thawed::Released));
    assert!(is_free(app.path()));
    assert_eq!(run.thaw().await, Ok(Thawed::WasNotHeld));
}

#[tokio::test]
async fn dropping_a_participant_releases_before_drop_returns() {
    let app = application();
    for fault in ["", "hold, then fail"] {
        let mut run = begin(app.path(), fault).await;
        let _ = run.freeze(&budget(5000)).await;
        let before = Instant::now();
        drop(run);
        assert!(is_free(app.path()));
        assert!(before.elapsed() < Duration::from_millis(100), "took {:?}", before.elapsed());
    }
}

#[tokio::test]
async fn a_freeze_given_up_never_takes_hold_afterwards() {
    let app = application();
    // The application holds its own lock, so that the writer's process waits in the kernel for it.
    let busy = File::open(app.path()).unwrap();
    flock(busy.as_fd(), FlockOperation::LockExclusive).unwrap();
    let mut run = begin(app.path(), "").await;
    let error = run.freeze(&budget(80)).await.unwrap_err();
    assert!(matches!(error, WriterError::TimedOut { .. } | WriterError::NotResponding { .. }), "{error:?}");
    assert_eq!(run.thaw().await, Ok(Thawed::Released));
    drop(busy);
    // Its process is gone; there is nobody left who could take it.
    assert!(is_free(app.path()));
}

#[tokio::test]
async fn the_holder_ends_the_hold_at_its_own_deadline() {
    let app = application();
    let mut run = begin(app.path(), "").await;
    run.freeze(&budget(60)).await.unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while !is_free(app.path()) {
        assert!(Instant::now() < until, "still held long after its deadline");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let late = run.thaw().await.unwrap_err();
    assert!(matches!(late, WriterError::NotResponding { .. }), "{late:?}");
}

#[tokio::test]
async fn a_writer_that_hangs_blocks_panics_or_dies_is_a_named_error_and_holds_nothing() {
    let app = application();
    for fault in ["hang", "block", "hold, then block", "panic", "exit", "hold, then fail"] {
        let mut run = begin(app.path(), fault).await;
        // What ends by itself gets time to; what never ends is cut off soon.
        let limit = if matches!(fault, "panic" | "exit" | "hold, then fail") { 10_000 } else { 100 };
        let error = run.freeze(&budget(limit)).await.unwrap_err();
        let expected = match fault {
            "panic" | "exit" => matches!(error, WriterError::NotResponding { .. }),
            "hold, then fail" => matches!(error, WriterError::Rejected { .. }),
            // Its own deadline and ours race; either is right.
            _ => matches!(error, WriterError::TimedOut { .. } | WriterError::NotResponding { .. }),
        };
        assert!(expected, "{fault}: {error:?}");
        run.thaw().await.unwrap();
        assert!(is_free(app.path()), "{fault}");
    }
}

#[tokio::test]
async fn methods_out_of_order_are_refused_without_harm() {
    let app = application();
    let mut run = begin(app.path(), "").await;
    assert!(matches!(run.seal_keys(&[]).await, Err(WriterError::Unsupported { .. })));
    run.freeze(&budget(5000)).await.unwrap();
    assert_eq!(run.thaw().await, Ok(Thawed::Released));
}

#[tokio::test]
async fn an_unknown_program_is_a_named_error() {
    let launcher = Launcher::new("/nonexistent", [""; 0]);
    let writer = RemoteWriter::new(launcher, "w", "lock", serde_json::Value::Null);
    let error = writer.identify().await.unwrap_err();
    assert!(matches!(error, WriterError::NotResponding { .. }), "{error:?}");
}

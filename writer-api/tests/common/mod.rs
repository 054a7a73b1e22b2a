//! A writer that holds a lock on a file, and streams a file that does not exist. Tests watch the lock from outside.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::Duration;

use async_trait::async_trait;
use holdfast_writer_api::protocol::{Program, serve, socket_on_stdin};
use holdfast_writer_api::*;
use rustix::fs::{FlockOperation, flock};

struct LockWriter {
    id: String,
    file: String,
    fault: String,
}

/// Length of the stream.
pub const STREAM_BYTES: usize = 8 << 20;

struct LockRun {
    id: String,
    path: String,
    fault: String,
    held: Option<File>,
    stream: Option<std::thread::JoinHandle<std::io::Result<u64>>>,
}

fn build(config: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
    if config.settings.get("surprise").is_some() {
        return Err(SettingsError::new("surprise", "there is no such setting"));
    }
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
        Ok(Box::new(LockRun { id, path, fault, held: None, stream: None }))
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
    async fn list_streams(&mut self) -> Result<Vec<StreamFile>, WriterError> {
        Ok(vec![StreamFile {
            name: "main".into(),
            component: ComponentRef::from_full_name("main"),
            path: "/main".into(),
            size_hint: STREAM_BYTES as u64,
        }])
    }
    async fn open_stream(&mut self, name: &str) -> Result<Stream, WriterError> {
        if name != "main" {
            return Err(WriterError::rejected(&self.id, format!("there is no stream `{name}`")));
        }
        let (read, mut write) = std::io::pipe().unwrap();
        let breaks = self.fault == "stream breaks";
        self.stream = Some(std::thread::spawn(move || {
            for chunk in stream_content().chunks(65_521) {
                write.write_all(chunk)?;
                if breaks {
                    return Err(std::io::Error::other("the disk is gone"));
                }
            }
            Ok(STREAM_BYTES as u64)
        }));
        Ok(Stream { fd: read.into() })
    }
    async fn close_stream(&mut self, _: &str, bytes: u64) -> Result<(), WriterError> {
        let written = self.stream.take().unwrap().join().unwrap();
        match written {
            Ok(written) if written == bytes => Ok(()),
            Ok(written) => Err(WriterError::rejected(&self.id, format!("{written} written, {bytes} read"))),
            Err(error) => Err(WriterError::InconsistentSnapshot {
                writer: self.id.clone(),
                cause: Cause::from_error(&error),
            }),
        }
    }
}

static LOCK: WriterDescriptor = WriterDescriptor { name: "lock", summary: "holds a file's lock", build };

/// What the stream says.
pub fn stream_content() -> Vec<u8> {
    (0..STREAM_BYTES).map(|n| (n * 31 + n / 251) as u8).collect()
}

/// What the child process of a test runs.
#[expect(clippy::print_stderr, reason = "this is a program")]
pub fn serve_lock() {
    let mut registry = Registry::empty();
    registry.register(&LOCK).unwrap();
    let socket = socket_on_stdin().unwrap();
    if let Err(error) = serve(&registry, Program::new("lock-test", "1.2"), "lock", socket) {
        eprintln!("{}", chain(&error));
        std::process::exit(9);
    }
}

pub fn is_free(file: &std::path::Path) -> bool {
    flock(File::open(file).unwrap().as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok()
}

pub fn application() -> tempfile::NamedTempFile {
    tempfile::NamedTempFile::new().unwrap()
}

//! The hold, in the order of its calls.
//!
//! Choose something that the kernel or the application gives back by itself when this process ends, however it ends: a
//! lock, a database session (W7).

use std::fs::{File, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, Cause, FreezeContext, Mark, PhaseContext, PostSnapshot,
    Prepared, ShadowContext, Thawed, Truncated, WriterError, async_trait,
};

use crate::App;

/// One backup. Dropping it releases what is held (W6).
pub struct Backup {
    app: App,
    lock: Option<File>,
    held: Option<File>,
}

impl Backup {
    pub fn new(app: App) -> Self {
        Self {
            app,
            lock: None,
            held: None,
        }
    }
}

#[async_trait]
impl BackupParticipant for Backup {
    /// May take minutes. What can fail should fail here, where nothing is held.
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        let path = self.app.folder.join("lock");
        let opened = File::open(&path);
        let failed = |error| format!("cannot open {}: {error}", path.display());
        self.lock = Some(opened.map_err(|error| self.app.rejected(failed(error)))?);
        Ok(Prepared::default())
    }

    /// Shortens the freeze: flush here what the application has in memory.
    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        Ok(())
    }

    /// Once this has answered, no write gets through until `thaw` (W3). If it is given up, nothing stays (W5).
    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        let until = Instant::now() + ctx.budget / 2; // the rest is for the others
        let Some(lock) = self.lock.take() else {
            return Err(self.app.rejected("it was not prepared".into()));
        };
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(WriterError::Busy {
                        writer: self.app.id.clone(),
                        cause: Cause::new("somebody else holds the lock"),
                    });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(self.app.rejected(format!("cannot lock: {error}")));
                }
            }
        }
        self.held = Some(lock);
        Ok(Mark {
            proof: "the lock is ours".into(),
            ..Mark::default()
        })
    }

    /// In any state, any number of times, within 100 ms, and with the truth (W4).
    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        match self.held.take() {
            Some(_) => Ok(Thawed::Released),
            None => Ok(Thawed::WasNotHeld),
        }
    }

    /// The shadow copy is there and may be looked at.
    async fn post_snapshot(&mut self, _: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        Ok(PostSnapshot::default())
    }

    /// The set is stored: here, and nowhere else, logs may be truncated (W13).
    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        Ok(Truncated::default())
    }

    /// The backup was given up, in whatever state (W10).
    async fn abort(&mut self) -> Result<(), WriterError> {
        self.held = None;
        Ok(())
    }
}

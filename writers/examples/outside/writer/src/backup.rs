//! The hold: the lock that the application takes around each of its writes.

use std::fs::{File, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, Cause, FreezeContext, Mark, PhaseContext, PostSnapshot, Prepared,
    ShadowContext, Thawed, Truncated, WriterError, async_trait,
};

use crate::GuestBook;

/// One run. Closing `held` releases: dropping this, or the end of its process, is enough.
pub struct Backup {
    app: GuestBook,
    lock: Option<File>,
    held: Option<File>,
}

impl Backup {
    pub fn new(app: GuestBook) -> Self {
        Self { app, lock: None, held: None }
    }

    fn refused(&self, what: &str, error: std::io::Error) -> WriterError {
        WriterError::rejected(
            &self.app.id,
            format!("cannot {what} in {}: {error}", self.app.folder.display()),
        )
    }
}

#[async_trait]
impl BackupParticipant for Backup {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        // All that can fail for reasons that have been there before, fails here, where nothing is held.
        let lock = File::open(self.app.folder.join("lock"));
        self.lock = Some(lock.map_err(|error| self.refused("open the lock", error))?);
        Ok(Prepared::default())
    }

    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        Ok(())
    }

    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        let until = Instant::now() + ctx.budget / 2;
        let Some(lock) = self.lock.take() else {
            return Err(WriterError::rejected(&self.app.id, "it was not prepared"));
        };
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    // Blocks this thread. Others watch the time and the requester, whatever happens here.
                    thread::sleep(Duration::from_millis(1));
                }
                Err(TryLockError::WouldBlock) => {
                    let (writer, cause) = (self.app.id.clone(), Cause::new("it is being written to"));
                    return Err(WriterError::Busy { writer, cause });
                }
                Err(TryLockError::Error(error)) => return Err(self.refused("take the lock", error)),
            }
        }
        self.held = Some(lock);
        let size =
            std::fs::metadata(self.app.book()).map_err(|error| self.refused("see the book", error))?.len();
        Ok(Mark { position: format!("byte {size}"), ..Mark::default() })
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

//! A writer in memory, for tests and measurements of whoever drives writers (feature `testing`).
//! Owns: a hold that can be seen from outside, and faults that no real application can be made to show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::*;

/// How long a freeze takes with [`Fault::FreezeSlow`].
pub const SLOW_FREEZE: Duration = Duration::from_millis(20);

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// The freeze takes [`SLOW_FREEZE`], as one of a busy application may. Nothing is wrong with it.
    FreezeSlow,
    /// The freeze fails, its hold half taken.
    FreezeFails,
    /// The freeze takes its hold and never returns.
    FreezeHangs,
    /// The freeze takes its hold and panics.
    FreezePanics,
    /// The thaw says that the application may still be held, and it is.
    ThawStuck,
    /// The thaw takes twice the freeze's budget.
    ThawLate,
    /// The thaw takes 3 s: as long as one that hangs, as far as the others are concerned.
    ThawSlow,
}

/// A writer whose application is a flag: held or not.
#[derive(Debug, Clone, Default)]
pub struct InMemory {
    id: String,
    fault: Fault,
    held: Arc<AtomicBool>,
}

impl InMemory {
    /// A writer of that id and with that fault.
    pub fn new(id: impl Into<String>, fault: Fault) -> Self {
        Self { id: id.into(), fault, held: Arc::default() }
    }

    /// Whether its application is held, by any participant of this writer or of a clone.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// What it says of itself; it has no components.
    pub fn metadata(&self) -> WriterMetadata {
        WriterMetadata {
            capabilities: Capabilities { freeze: true, ..Capabilities::default() },
            ..WriterMetadata::new("in-memory", &self.id)
        }
    }

    /// Its part in a backup.
    pub fn participant(&self) -> Box<dyn BackupParticipant> {
        Box::new(Run { writer: self.clone(), budget: Duration::ZERO })
    }
}

#[async_trait]
impl Writer for InMemory {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        Ok(self.metadata())
    }
    async fn begin_backup(&self, _: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        Ok(self.participant())
    }
    async fn begin_restore(&self, _: RestoreRequest) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Err(WriterError::unsupported(&self.id, "restores"))
    }
}

struct Run {
    writer: InMemory,
    budget: Duration,
}

impl Run {
    fn hold(&self, held: bool) {
        self.writer.held.store(held, Ordering::SeqCst);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.hold(false);
    }
}

#[async_trait]
impl BackupParticipant for Run {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        Ok(Prepared::default())
    }
    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        Ok(())
    }
    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        self.budget = ctx.budget;
        self.hold(true);
        match self.writer.fault {
            Fault::FreezeFails => Err(WriterError::rejected(&self.writer.id, "as asked")),
            Fault::FreezeHangs => std::future::pending().await,
            Fault::FreezePanics => panic!("as asked"),
            Fault::FreezeSlow => {
                tokio::time::sleep(SLOW_FREEZE).await;
                Ok(Mark::default())
            }
            Fault::None | Fault::ThawStuck | Fault::ThawLate | Fault::ThawSlow => Ok(Mark::default()),
        }
    }
    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        match self.writer.fault {
            Fault::ThawStuck => {
                let (writer, cause) = (self.writer.id.clone(), Cause::new("as asked"));
                return Err(WriterError::StuckFrozen { writer, cause });
            }
            Fault::ThawLate => tokio::time::sleep(self.budget * 2).await,
            Fault::ThawSlow => tokio::time::sleep(Duration::from_secs(3)).await,
            Fault::None
            | Fault::FreezeSlow
            | Fault::FreezeFails
            | Fault::FreezeHangs
            | Fault::FreezePanics => {}
        }
        self.hold(false);
        Ok(Thawed::Released)
    }
    async fn post_snapshot(&mut self, _: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        Ok(PostSnapshot::default())
    }
    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        Ok(Truncated::default())
    }
    async fn abort(&mut self) -> Result<(), WriterError> {
        Ok(())
    }
}

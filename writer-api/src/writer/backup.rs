//! The writer's part in a backup: what it does in each phase, and what it owes.

use async_trait::async_trait;

use super::{
    BackupOutcome, FreezeContext, LogFile, Mark, PhaseContext, PostSnapshot, Prepared, SealedKey,
    ShadowContext, Stream, StreamFile, Thawed, Truncated,
};
use crate::WriterError;

/// One writer's part in one backup.
///
/// # Contract of every participant
/// Dropping it, in any state, releases whatever it holds, synchronously and within 100 ms; nothing may
/// take a hold after its `freeze` was given up (promise P1).
#[async_trait]
pub trait BackupParticipant: Send {
    /// Does the long work: connects, checks keys and privileges, chooses full or not.
    ///
    /// Called once, before anything is held. Every missing privilege is found here, not later.
    /// # Errors
    /// Any; the set is not begun.
    /// # Source
    /// `CVssWriter::OnPrepareBackup`.
    async fn prepare_backup(&mut self, ctx: &PhaseContext) -> Result<Prepared, WriterError>;

    /// Makes the freeze short: what can be flushed or opened beforehand, is.
    ///
    /// Called once, after every writer's `prepare_backup` and every provider's preparation returned.
    /// # Source
    /// `CVssWriter::OnPrepareSnapshot`.
    async fn prepare_snapshot(&mut self, ctx: &PhaseContext) -> Result<(), WriterError>;

    /// Holds the application's writes so that its held components form one point in time.
    ///
    /// Called at most once, after every writer's `prepare_snapshot` returned `Ok`.
    ///
    /// # Contract
    /// - On `Ok`, no write reaches this writer's held components until [`thaw`](Self::thaw).
    /// - On `Err`, or if the future is dropped, the application may be half held; the requester then
    ///   calls `thaw` or drops the participant.
    /// - The hold ends by itself at [`FreezeContext::budget`], counted from this call, whatever the
    ///   requester does: the deadline belongs to the holder too (promise P3).
    ///
    /// # Time
    /// Return well within the budget; at the deadline the future is dropped.
    /// # Errors
    /// - [`WriterError::Busy`], [`WriterError::TimedOut`]: will not quiesce now. Retryable.
    /// - [`WriterError::Rejected`]: cannot be held as configured. Not retryable.
    /// # Source
    /// `CVssWriter::OnFreeze`.
    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError>;

    /// Releases the hold.
    ///
    /// # Contract
    /// Works from any state and any number of times; on `Ok` nothing is held.
    /// # Time
    /// Within 100 ms.
    /// # Errors
    /// [`WriterError::TimedOut`]: the hold had ended by itself before; the backup failed.
    /// [`WriterError::StuckFrozen`]: it may still be held.
    /// # Source
    /// `CVssWriter::OnThaw`.
    async fn thaw(&mut self) -> Result<Thawed, WriterError>;

    /// Looks at the shadow copy and gives the stamps.
    ///
    /// Called once, after every writer was thawed and every provider finished.
    /// # Source
    /// `CVssWriter::OnPostSnapshot`.
    async fn post_snapshot(&mut self, ctx: &ShadowContext) -> Result<PostSnapshot, WriterError>;

    /// Learns that the set exists, and may truncate logs: exactly those in `outcome`.
    ///
    /// Called once, after the set is durable and was read back (promise P5); not called at all if the
    /// requester died.
    /// # Source
    /// `CVssWriter::OnBackupComplete`.
    async fn backup_complete(&mut self, outcome: &BackupOutcome) -> Result<Truncated, WriterError>;

    /// Gives the backup up: undoes what thaw and `post_snapshot` would have undone.
    ///
    /// Any number of times, from any state but after `backup_complete`.
    /// # Source
    /// `CVssWriter::OnAbort`.
    async fn abort(&mut self) -> Result<(), WriterError>;

    /// The process whose end releases the hold, if the hold lives in one of its own. The requester
    /// records it before the freeze, so that `thaw --all` can end it.
    fn holder(&self) -> Option<u32> {
        None
    }

    /// The process that releases the hold if the holder's end does not: it outlives the holder, thaws, and ends. The
    /// requester records it beside the holder, waits for it, and never ends it.
    fn guardian(&self) -> Option<u32> {
        None
    }

    /// Proves that each key of the named components fits, and seals it to `recipients` (`age1…`).
    ///
    /// Called after `prepare_backup`, if [`crate::Capabilities::keys`].
    /// # Contract
    /// The plain key never leaves the writer, not even as an error's text (promise P9).
    /// # Errors
    /// [`WriterError::Key`]: no set is made.
    async fn seal_keys(&mut self, recipients: &[String]) -> Result<Vec<SealedKey>, WriterError> {
        let _ = recipients;
        Err(WriterError::unsupported("", "keys"))
    }

    /// The files this writer streams itself, if [`crate::Capabilities::stream`].
    async fn list_streams(&mut self) -> Result<Vec<StreamFile>, WriterError> {
        Err(WriterError::unsupported("", "streams"))
    }

    /// Opens one of them. The reader gets the bytes at its own pace; the end of the file is the end of
    /// the stream, a failure is told by the next call.
    async fn open_stream(&mut self, name: &str) -> Result<Stream, WriterError> {
        Err(WriterError::unsupported("", format!("the stream `{name}`")))
    }

    /// Tells the end of a stream: how many bytes the reader got. An `Err` voids what was read.
    async fn close_stream(&mut self, name: &str, bytes: u64) -> Result<(), WriterError> {
        let _ = bytes;
        Err(WriterError::unsupported("", format!("the stream `{name}`")))
    }

    /// The log files that make the streamed files consistent, if [`crate::Capabilities::logs`].
    async fn list_logs(&mut self) -> Result<Vec<LogFile>, WriterError> {
        Err(WriterError::unsupported("", "logs"))
    }
}

//! The writer's side of the contract: three traits and what they exchange.
//!
//! A [`Writer`] is a factory. The state of one run lives in a participant with `&mut self`, so nothing
//! needs interior mutability and dropping it is the emergency exit: [`BackupParticipant`] in `backup`,
//! [`RestoreParticipant`] in `restore`. What they are asked and answer lies beside them, in `backup_terms`,
//! `payload` (keys, streams, logs) and `restore_terms`.
//!
//! Everything here but [`Stream`] travels over [`crate::protocol`]; times are milliseconds there and
//! `Duration` here.

mod backup;
mod backup_terms;
mod payload;
mod restore;
mod restore_terms;

use std::path::{Path, PathBuf};

use async_trait::async_trait;

pub use backup::BackupParticipant;
pub use backup_terms::{
    BackupOutcome, BackupRequest, BackupType, FreezeContext, Mark, PhaseContext, PostSnapshot, Prepared,
    ShadowContext, Thawed, Truncated,
};
pub use payload::{KeySeal, LogFile, SealedKey, Stream, StreamFile};
pub use restore::RestoreParticipant;
pub use restore_terms::{
    CheckReport, Finding, HookOutcome, HookStep, OnFailure, OnlineState, RecoverContext, Recovered,
    Registration, RestoreRequest, StagedFiles,
};

use crate::{WriterError, WriterMetadata};

/// Speaks for one application.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Describes the application's data.
    ///
    /// Called at any time, several times, also while a backup runs.
    /// # Contract
    /// Pure and repeatable: takes nothing, changes nothing, and says the same while nothing changed.
    /// # Errors
    /// A writer that fails here is *expected but absent*: the requester reports a failure, it does not
    /// leave the writer out.
    /// # Source
    /// `CVssWriter::OnIdentify`.
    async fn identify(&self) -> Result<WriterMetadata, WriterError>;

    /// Begins one backup with the components named in `request`.
    ///
    /// # Contract
    /// Holds nothing yet. Everything of this run lives in the participant.
    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError>;

    /// Begins one restore of the components named in `request`.
    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError>;
}

/// Where the file that was at `original` lies now; the longest prefix among `roots` counts.
fn locate(roots: &[(PathBuf, PathBuf)], original: &Path) -> Option<PathBuf> {
    let (from, to) = roots
        .iter()
        .filter(|(from, _)| original.starts_with(from))
        .max_by_key(|(from, _)| from.as_os_str().len())?;
    let rest = original.strip_prefix(from).ok()?;
    // Joining an empty rest would append a slash to a file's name.
    Some(if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) })
}

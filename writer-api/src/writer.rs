//! The writer's side of the contract: three traits and what they exchange.
//!
//! A [`Writer`] is a factory. The state of one run lives in a participant with `&mut self`, so nothing
//! needs interior mutability and dropping it is the emergency exit.
//!
//! Everything here but [`Stream`] travels over [`crate::protocol`]; times are milliseconds there and
//! `Duration` here.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ComponentRef, WriterError, WriterMetadata};

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

/// One writer's part in one restore. See design §5 and promises P7 and P8 for the order.
#[async_trait]
pub trait RestoreParticipant: Send {
    /// Whether the application runs, as far as the writer can tell. Asked again right before the swap.
    async fn online_state(&mut self) -> Result<OnlineState, WriterError>;

    /// Checks what was staged: engine's own checks, identity, keys. Changes nothing outside the staging.
    ///
    /// # Errors
    /// Any error is a refusal before anything live was touched.
    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError>;

    /// Registers the restore with the application, where it has a way of its own; the requester's
    /// durable marker exists already.
    async fn register(&mut self, registration: &Registration) -> Result<(), WriterError> {
        let _ = registration;
        Ok(())
    }

    /// All that was registered is in place; recovery may run.
    async fn register_complete(&mut self) -> Result<(), WriterError> {
        Ok(())
    }

    /// Brings the staged files to consistency: replays logs, rolls back what no commit covers.
    ///
    /// # Contract
    /// Works on the staged files only, while the live path is blocked; may run again after a crash.
    async fn recover(
        &mut self,
        staged: &StagedFiles,
        ctx: &RecoverContext,
    ) -> Result<Recovered, WriterError> {
        let _ = (staged, ctx);
        Err(WriterError::unsupported("", "recovery"))
    }

    /// Verifies the recovered files before they are put in place: by the engine, and by the keys.
    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError>;

    /// What to do once the files are in place, in order; empty without
    /// [`crate::Capabilities::post_restore`].
    async fn post_restore_steps(&mut self) -> Result<Vec<HookStep>, WriterError> {
        Ok(Vec::new())
    }

    /// Runs one of them. Idempotent.
    async fn run_step(&mut self, name: &str) -> Result<HookOutcome, WriterError> {
        Err(WriterError::unsupported("", format!("the step `{name}`")))
    }

    /// The restore is over: removes the application's own registration, if `register` made one.
    async fn unregister(&mut self) -> Result<(), WriterError> {
        Ok(())
    }
}

/// The kind of backup (`VSS_BACKUP_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupType {
    /// Everything; a base for later ones; may truncate logs.
    #[default]
    Full,
    /// Since the last full or incremental; may truncate logs.
    Incremental,
    /// Since the last full.
    Differential,
    /// Log files only.
    Log,
    /// Everything, without a trace: no base, no truncation.
    Copy,
}

impl BackupType {
    /// Whether logs may be truncated after it (promise P5).
    pub const fn may_truncate(self) -> bool {
        match self {
            Self::Full | Self::Incremental => true,
            Self::Differential | Self::Log | Self::Copy => false,
        }
    }
}

/// What a backup asks of a writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupRequest {
    /// The set.
    pub set: Uuid,
    /// Its kind, already reduced to one the writer declared.
    pub backup_type: BackupType,
    /// The components that take part, explicit and implicit.
    pub components: Vec<ComponentRef>,
    /// Stamps of the base set, by full component name.
    #[serde(default)]
    pub previous_stamps: BTreeMap<String, String>,
}

/// What every phase is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseContext {
    /// The set.
    pub set: Uuid,
    /// How long the phase may take, from the call.
    #[serde(rename = "budget_ms", with = "millis")]
    pub budget: Duration,
}

/// What a freeze is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FreezeContext {
    /// The set.
    pub set: Uuid,
    /// How long the application may be held, counted from the call of `freeze`: taking the hold,
    /// the cut, and the thaw have to fit.
    #[serde(rename = "budget_ms", with = "millis")]
    pub budget: Duration,
}

/// What came of `prepare_backup`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// The kind this writer will really make.
    pub backup_type: BackupType,
    /// Sentences for the administrator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The application's log position at the cut, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// What a person would compare: `wal frame 812`, `contextCSN …`.
    pub position: String,
    /// Engine facts by name.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
    /// How the hold was proven: `pid 12 holds WAL_WRITE_LOCK`. Empty where nothing is held.
    #[serde(default)]
    pub proof: String,
}

/// What came of a thaw. A repeat is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thawed {
    /// Was held, is free.
    Released,
    /// Held nothing.
    WasNotHeld,
}

/// Where the shadow copy lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowContext {
    /// The set.
    pub set: Uuid,
    /// Original folder → folder in the shadow copy; the longest prefix counts.
    pub roots: Vec<(PathBuf, PathBuf)>,
}

/// What came of `post_snapshot`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PostSnapshot {
    /// Opaque stamps by full component name, handed back with the next backup.
    #[serde(default)]
    pub stamps: BTreeMap<String, String>,
    /// Sentences for the administrator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How the backup ended, for `backup_complete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupOutcome {
    /// The set; it exists.
    pub set: Uuid,
    /// Its kind.
    pub backup_type: BackupType,
    /// Components that are wholly in the repository.
    pub succeeded: Vec<ComponentRef>,
    /// The exact files that may be truncated; empty unless the type may.
    #[serde(default)]
    pub stored_logs: Vec<String>,
}

/// What was truncated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Truncated {
    /// By name.
    #[serde(default)]
    pub logs: Vec<String>,
}

/// A key, sealed. The plain key is not in here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SealedKey {
    /// The component it belongs to.
    pub component: ComponentRef,
    /// Where the application keeps it.
    pub path: PathBuf,
    /// What it is for.
    pub purpose: String,
    /// Identifies the key without revealing it: `SHA256:…` of its public half.
    pub fingerprint: String,
    /// What was proved and how, or why nothing could be.
    pub proof: KeySeal,
    /// Mode, owner and group of the file.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The `age` file.
    #[serde(with = "hex")]
    pub sealed: Vec<u8>,
}

/// Whether a key was proved to fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum KeySeal {
    /// The public half equals the certificate's, and a fresh signature verified.
    Proved {
        /// Algorithm, as a person writes it.
        algorithm: String,
    },
    /// Sealed, but whether it fits could not be shown.
    NotProved {
        /// Why.
        why: String,
    },
}

/// A file that a writer streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamFile {
    /// Handed to `open_stream`; unique.
    pub name: String,
    /// The component it belongs to.
    pub component: ComponentRef,
    /// Where the file would lie if it were copied.
    pub path: PathBuf,
    /// Expected size in bytes; the stream may be longer or shorter.
    pub size_hint: u64,
}

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    /// Read to its end. A pipe or socket: the writer may stand on its other side.
    pub fd: OwnedFd,
}

/// A log file of a writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogFile {
    /// Its name, as `backup_complete` hands it back.
    pub name: String,
    /// Its generation.
    pub generation: u64,
    /// Where it lies.
    pub path: PathBuf,
}

/// What a restore asks of a writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The set it comes from.
    pub set: Uuid,
    /// The stored metadata of that set: what the files were then.
    pub metadata: WriterMetadata,
    /// The components that come back.
    pub components: Vec<ComponentRef>,
    /// Whether they go to the place they came from.
    pub in_place: bool,
}

/// Whether the application runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum OnlineState {
    /// It is down.
    Down,
    /// It runs, but serves nothing.
    Paused,
    /// It runs and serves.
    Ready,
    /// The writer cannot tell; the requester looks by itself.
    Unknown,
}

/// Where each file of the restore lies now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StagedFiles {
    /// Original file or folder → where it lies now; the longest prefix counts.
    pub roots: Vec<(PathBuf, PathBuf)>,
    /// Original path of a key → where its *plain* form lies now, if the restore has it.
    #[serde(default)]
    pub keys: Vec<(PathBuf, PathBuf)>,
}

impl StagedFiles {
    /// Where the file that was at `original` lies now, if it is part of the restore.
    pub fn locate(&self, original: &Path) -> Option<PathBuf> {
        locate(&self.roots, original)
    }
}

impl ShadowContext {
    /// Where the file that is at `original` lies in the shadow copy.
    pub fn locate(&self, original: &Path) -> Option<PathBuf> {
        locate(&self.roots, original)
    }
}

fn locate(roots: &[(PathBuf, PathBuf)], original: &Path) -> Option<PathBuf> {
    let (from, to) = roots
        .iter()
        .filter(|(from, _)| original.starts_with(from))
        .max_by_key(|(from, _)| from.as_os_str().len())?;
    let rest = original.strip_prefix(from).ok()?;
    // Joining an empty rest would append a slash to a file's name.
    Some(if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) })
}

/// What a check found. Findings that forbid going on are errors, not findings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// In the order they were made.
    pub findings: Vec<Finding>,
}

/// One check with its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was checked: `integrity_check of ca.db`.
    pub check: String,
    /// What came out: `ok`, `1204 rows`.
    pub result: String,
    /// Whether the administrator should look at it.
    #[serde(default)]
    pub warning: bool,
}

/// What a registration says (`CertSrvRestoreRegister`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Original path → path it goes to.
    pub map: Vec<(PathBuf, PathBuf)>,
    /// The requester's durable marker.
    pub marker: PathBuf,
}

/// How far a recovery goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RecoverContext {
    /// Low and high log generation, if there are logs to replay.
    #[serde(default)]
    pub generations: Option<(u64, u64)>,
    /// Where they lie.
    #[serde(default)]
    pub logs: Option<PathBuf>,
    /// Stop at this point, in the engine's own words.
    #[serde(default)]
    pub until: Option<String>,
}

/// What a recovery did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// Sentences: `812 WAL frames folded in`.
    pub done: Vec<String>,
    /// The application's position afterwards.
    #[serde(default)]
    pub mark: Mark,
}

/// A step after a restore: repoint, restart, resume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HookStep {
    /// Unique in the writer.
    pub name: String,
    /// What it does, for `restore plan`.
    pub description: String,
    /// Where it runs; empty: here.
    #[serde(default)]
    pub host: String,
    /// How long it may take.
    #[serde(rename = "timeout_ms", with = "millis")]
    pub timeout: Duration,
    /// What a failure means.
    pub on_failure: OnFailure,
}

/// What a failed step means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Stop here; `holdfast recover` goes on with it.
    Stop,
    /// Say so and go on.
    Continue,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookOutcome {
    /// Done now.
    Done,
    /// Had been done before.
    AlreadyDone,
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

/// Bytes as hexadecimal text: plain enough for a plugin in any language.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write;
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        out.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digits: Option<Vec<u8>> =
            text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        match digits {
            Some(digits) if digits.len().is_multiple_of(2) => {
                Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
            }
            _ => Err(D::Error::custom("expected an even number of hexadecimal digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_root_locates_a_file_and_a_file_root_stays_a_file() {
        let staged = StagedFiles {
            roots: vec![
                ("/srv".into(), "/s/1".into()),
                ("/srv/ca".into(), "/s/2".into()),
                ("/srv/ca/ca.db".into(), "/s/3/ca.db".into()),
            ],
            keys: vec![],
        };
        assert_eq!(staged.locate(Path::new("/srv/ca/x")), Some("/s/2/x".into()));
        assert_eq!(staged.locate(Path::new("/srv/ca/ca.db")).unwrap().as_os_str(), "/s/3/ca.db");
        assert_eq!(staged.locate(Path::new("/srvx")), None);
    }

    #[test]
    fn only_full_and_incremental_truncate() {
        use BackupType::*;
        let truncating: Vec<_> =
            [Full, Incremental, Differential, Log, Copy].into_iter().filter(|t| t.may_truncate()).collect();
        assert_eq!(truncating, [Full, Incremental]);
    }
}

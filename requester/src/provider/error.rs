//! What can go wrong while a shadow copy is made, held or deleted, and whether to try again.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::record::RecordError;
use crate::volume::VolumeError;

/// Why a provider does not serve a volume. Not a failure: another provider may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct NotSupported {
    /// In words for the person who configured it.
    pub reason: String,
}

impl NotSupported {
    /// From words.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// Why a shadow copy was not made, found or deleted. `Display` states this layer only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// The provider does not serve this volume.
    #[error("`{provider}` does not serve {volume}")]
    NotSupported {
        /// The provider.
        provider: String,
        /// The volume's id.
        volume: String,
        /// Why.
        #[source]
        source: NotSupported,
    },
    /// The work under the hold would take longer than the hold may last (promise P3). Nothing was held.
    #[error("the work under the hold would take {estimate_ms} ms, and {budget_ms} ms are allowed")]
    EstimateExceedsBudget {
        /// From what was measured on this disk, milliseconds.
        estimate_ms: u64,
        /// Milliseconds.
        budget_ms: u64,
    },
    /// The deadline passed while the copy was cut.
    #[error("the shadow copy was not cut by its deadline, but {late_ms} ms after it or later")]
    DeadlineExceeded {
        /// How late it was when it was noticed, milliseconds.
        late_ms: u64,
    },
    /// The requester gave up.
    #[error("the shadow copy was cancelled")]
    Cancelled,
    /// The disk that holds the shadow copy is full.
    #[error("no space left for the shadow copy in {}{}", path.display(), space(*.needed, *.available))]
    NoSpace {
        /// The folder of shadow copies, or the file in it.
        path: PathBuf,
        /// Bytes, where it was counted beforehand.
        needed: Option<u64>,
        /// Bytes, where it was counted beforehand.
        available: Option<u64>,
    },
    /// A file that nobody holds changed while the copy was cut.
    #[error("{} changed while the shadow copy was cut, and nobody holds it", path.display())]
    ChangedDuringCut {
        /// The file.
        path: PathBuf,
    },
    /// A selected file could not be taken for what it was declared to be.
    #[error("a selected file cannot be taken")]
    Files {
        /// Which, and why.
        #[source]
        source: VolumeError,
    },
    /// A selected path stands on another volume than it did.
    #[error("{} is on {found}, not on {expected}", path.display())]
    OtherVolume {
        /// The path.
        path: PathBuf,
        /// The volume asked for.
        expected: String,
        /// The volume it is on.
        found: String,
    },
    /// The folder for shadow copies cannot be trusted.
    #[error("{} cannot hold shadow copies: {problem}", path.display())]
    AreaRefused {
        /// The folder.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A record asks to delete what is no shadow copy of ours.
    #[error("refusing to delete {}: {problem}", path.display())]
    DeleteRefused {
        /// What the record names.
        path: PathBuf,
        /// Why it is not believed.
        problem: &'static str,
    },
    /// The record of the shadow copy could not be written, read or removed.
    #[error("the record of the shadow copy failed")]
    Record {
        /// Why.
        #[source]
        source: RecordError,
    },
    /// The finished copy is not what was asked for.
    #[error("{} is not as it was cut: {problem}", path.display())]
    Verification {
        /// Where.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
    /// A record names a provider that this program does not have.
    #[error("no provider `{name}` is registered")]
    NoSuchProvider {
        /// The name.
        name: String,
    },
    /// A path that the shadow copy does not contain.
    #[error("{} is not in the shadow copy", path.display())]
    NotInShadow {
        /// The path.
        path: PathBuf,
    },
    /// `commit` a second time, or `finish` without one.
    #[error("`{call}` is not allowed now")]
    OutOfOrder {
        /// The call.
        call: &'static str,
    },
    /// The step failed, and so did removing what it had left.
    #[error("{first}; what was left of it could not be removed")]
    CleanUp {
        /// What failed first.
        first: Box<Self>,
        /// What failed then.
        #[source]
        cleanup: Box<Self>,
    },
    /// A call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn space(needed: Option<u64>, available: Option<u64>) -> String {
    match (needed, available) {
        (Some(needed), Some(available)) => format!(": {needed} bytes needed, {available} available"),
        _ => String::new(),
    }
}

impl ProviderError {
    /// Names a failed call; a full disk or quota has a name of its own.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.as_ref().to_path_buf(), source.into());
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Self::NoSpace { path, needed: None, available: None },
            _ => Self::Io { action, path, source },
        }
    }

    /// Whether the same request may succeed when the machine is quieter. No `_` arm: a new variant must answer.
    pub fn retryable(&self) -> bool {
        match self {
            Self::ChangedDuringCut { .. } | Self::DeadlineExceeded { .. } => true,
            Self::Files { source } => matches!(source, VolumeError::Exchanged { .. }),
            Self::CleanUp { .. }
            | Self::NotSupported { .. }
            | Self::EstimateExceedsBudget { .. }
            | Self::Cancelled
            | Self::NoSpace { .. }
            | Self::OtherVolume { .. }
            | Self::AreaRefused { .. }
            | Self::DeleteRefused { .. }
            | Self::Record { .. }
            | Self::Verification { .. }
            | Self::NoSuchProvider { .. }
            | Self::NotInShadow { .. }
            | Self::OutOfOrder { .. }
            | Self::Io { .. } => false,
        }
    }
}

impl From<VolumeError> for ProviderError {
    fn from(source: VolumeError) -> Self {
        Self::Files { source }
    }
}

impl From<RecordError> for ProviderError {
    fn from(source: RecordError) -> Self {
        Self::Record { source }
    }
}

//! What can go wrong in the repository, as values a caller can match on.
//! Owns: [`RepositoryError`] and how failures of the storage and of the repository library become one of its variants.
//! Leaves to others: exit codes and wording for a person (the requester's command line).

use std::{any::Any, io, path::PathBuf};

use rustic_core::RusticError;
use uuid::Uuid;

use super::{
    lock::LockOwner,
    storage::{StorageError, StorageErrorKind},
};

/// Any error below this layer.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failed repository operation. `Display` states this layer only; print the whole chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// Nothing that looks like a repository is at the location.
    #[error("there is no repository at {location}")]
    NoRepository {
        /// Where it was looked for.
        location: String,
    },
    /// The bucket that should hold the repository does not exist. Holdfast makes repositories, not buckets.
    #[error("there is no bucket for a repository at {location}")]
    NoBucket {
        /// Where it was looked for.
        location: String,
        /// The server's answer.
        #[source]
        source: io::Error,
    },
    /// `init` found a repository, or files that belong to one.
    #[error("{location} already holds a repository or parts of one")]
    AlreadyExists {
        /// Where it was found.
        location: String,
    },
    /// No key file of the repository opens with the password.
    #[error("the password opens no key of the repository at {location}")]
    WrongPassword {
        /// Which repository.
        location: String,
    },
    /// Somebody else holds a lock that excludes ours.
    #[error("the repository at {location} is locked by {owner}")]
    Locked {
        /// Which repository.
        location: String,
        /// Who holds it, as that process wrote down.
        owner: Box<LockOwner>,
    },
    /// Our own lock could not be refreshed for so long that others may have taken it for stale.
    #[error("the lock on the repository at {location} could not be kept")]
    LockLost {
        /// Which repository.
        location: String,
    },
    /// Stored bytes are missing or are not those that were written.
    #[error("the repository at {location} is damaged: {what}")]
    Damaged {
        /// Which repository.
        location: String,
        /// The file or object, and what is wrong with it.
        what: String,
        /// The check that failed, if a library made it.
        #[source]
        source: Option<Cause>,
    },
    /// The file system or bucket is full, or a quota is used up: the repository's, or that of a restore's target.
    #[error("no space left for {path}")]
    NoSpace {
        /// What was being written.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The storage does not let us: wrong credentials, a file of another user, a file system that is read-only.
    #[error("the repository's storage refuses access to {path}")]
    Denied {
        /// The file or object.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The storage did not answer, or answered with an error of its own.
    #[error("the repository's storage failed at {path}")]
    Unreachable {
        /// The file or object.
        path: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The location names a storage that this build, or Holdfast, does not have.
    #[error("locations of the kind `{scheme}:` need {}", needs(*feature))]
    UnknownScheme {
        /// The part before the colon.
        scheme: String,
        /// The cargo feature that brings it, if there is one.
        feature: Option<&'static str>,
    },
    /// The location, or an option it needs, cannot be used.
    #[error("the repository location `{location}` cannot be used: {reason}")]
    InvalidLocation {
        /// As given.
        location: String,
        /// What is missing or malformed.
        reason: String,
    },
    /// The list of entries to archive is not one the format can hold. Nothing was stored.
    #[error("{} cannot be archived: {reason}", path.display())]
    InvalidSource {
        /// The entry.
        path: PathBuf,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// Some files could not be read whole. No snapshot was kept.
    #[error("{total} of the files could not be read whole, first {}", first(files))]
    Unreadable {
        /// The first of them, in no particular order; at most [`super::source::FAULTS_KEPT`].
        files: Vec<FileFault>,
        /// How many there are.
        total: u64,
    },
    /// A tag that restic's format cannot hold, or that Holdfast reserves.
    #[error("`{tag}` cannot be used as a tag")]
    InvalidTag {
        /// As given.
        tag: String,
    },
    /// No snapshot of this set is in the repository.
    #[error("set {set} is not in the repository")]
    NoSuchSet {
        /// The set asked for.
        set: Uuid,
    },
    /// A set exists, the path inside it does not, or is of another kind than asked for.
    #[error("the set holds no {what} {}", path.display())]
    NoSuchPath {
        /// What was asked for: `file`, `directory` or `entry`.
        what: &'static str,
        /// The path inside the snapshot.
        path: PathBuf,
    },
    /// A document is larger than the caller allows.
    #[error("{} holds {size} bytes, more than the {limit} allowed", path.display())]
    TooLarge {
        /// The path inside the snapshot.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A restore could not create or finish one of its entries.
    #[error("cannot {action} {}", path.display())]
    Target {
        /// What was tried.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The repository library refused, for a reason that is neither the storage's nor the data's.
    #[error("{operation} failed inside the repository library")]
    Library {
        /// What was being done.
        operation: &'static str,
        /// The library's error.
        #[source]
        source: Cause,
    },
    /// The repository library panicked; the panic was caught and nothing of the result is used.
    #[error("{operation} panicked inside the repository library: {message}")]
    Panicked {
        /// What was being done.
        operation: &'static str,
        /// The panic's message.
        message: String,
    },
}

/// One file that could not be read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFault {
    /// Its path inside the snapshot.
    pub path: PathBuf,
    /// Why, in words of the system or of the size check.
    pub reason: String,
}

fn needs(feature: Option<&'static str>) -> String {
    feature.map_or_else(
        || "a storage that Holdfast does not have".to_owned(),
        |name| format!("a build with the feature `{name}`"),
    )
}

fn first(files: &[FileFault]) -> String {
    files.first().map_or_else(|| "unknown".to_owned(), |f| format!("{} ({})", f.path.display(), f.reason))
}

/// The library's error, kept as text of one line: its own `Display` is a page of guidance for rustic's users.
#[derive(Debug, thiserror::Error)]
#[error("{line}")]
pub(super) struct LibraryError {
    line: String,
}

impl LibraryError {
    pub(super) fn cause(error: &RusticError) -> Cause {
        let line = error.display_log().replace('\n', " ");
        Box::new(Self { line })
    }
}

/// What a failure of the library means when the storage below it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Reading: the storage answered, so what it answered was wrong.
    Damage,
    /// Writing: nothing stored is known to be bad.
    Failure,
}

impl RepositoryError {
    /// The variant for a failure of the storage. A missing file is damage: it was listed, or named by another.
    pub(super) fn from_storage(location: &str, error: StorageError) -> Self {
        let StorageError { kind, path, source } = error;
        match kind {
            StorageErrorKind::NoSpace => Self::NoSpace { path, source },
            StorageErrorKind::NotFound => Self::Damaged {
                location: location.to_owned(),
                what: format!("{path} is missing"),
                source: Some(source.into()),
            },
            StorageErrorKind::Short => Self::Damaged {
                location: location.to_owned(),
                what: format!("{path} is shorter than the index says"),
                source: Some(source.into()),
            },
            StorageErrorKind::Denied => Self::Denied { path, source },
            StorageErrorKind::NoBucket => Self::NoBucket { location: location.to_owned(), source },
            StorageErrorKind::Other => Self::Unreachable { path, source },
        }
    }

    pub(super) fn from_library(
        location: &str,
        operation: &'static str,
        meaning: Meaning,
        error: &RusticError,
    ) -> Self {
        let source = LibraryError::cause(error);
        match meaning {
            Meaning::Damage => Self::Damaged {
                location: location.to_owned(),
                what: format!("{operation} met wrong bytes"),
                source: Some(source),
            },
            Meaning::Failure => Self::Library { operation, source },
        }
    }

    pub(super) fn from_panic(operation: &'static str, panic: &(dyn Any + Send)) -> Self {
        let message = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
            .unwrap_or_else(|| "no message".to_owned());
        Self::Panicked { operation, message }
    }

    pub(super) fn damaged(location: &str, what: impl Into<String>) -> Self {
        Self::Damaged { location: location.to_owned(), what: what.into(), source: None }
    }

    /// A failure on the target of a restore; a full disk there is [`RepositoryError::NoSpace`] as well.
    pub(super) fn target(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Self::NoSpace { path: path.display().to_string(), source };
        }
        Self::Target { action, path, source }
    }
}

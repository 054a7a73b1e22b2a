//! Where a repository's files lie: one trait, its local directory, a bucket that speaks S3, and the adapter that hands it to the repository library.
//! Owns: reading and durably writing whole files by kind and name.
//! Leaves to others: what is in them.

use std::{fmt, io};

use bytes::Bytes;

mod adapter;
mod local;
#[cfg(feature = "s3")]
mod s3;

pub(super) use adapter::Adapter;
pub use local::LocalStorage;
#[cfg(feature = "s3")]
pub(super) use s3::S3Storage;

/// The kinds of files restic's layout knows. Unlike the library's own list it has locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// The one file that makes a location a repository.
    Config,
    /// A master key, encrypted with a password.
    Key,
    /// A note that somebody is at work.
    Lock,
    /// The root of one set.
    Snapshot,
    /// Which blob lies where in which pack.
    Index,
    /// Blobs.
    Pack,
}

/// A failed access to one file.
#[derive(Debug, thiserror::Error)]
#[error("{path}")]
pub struct StorageError {
    /// What the caller can decide on.
    pub kind: StorageErrorKind,
    /// Path or object name.
    pub path: String,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

/// Classes of [`StorageError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageErrorKind {
    /// No such file.
    NotFound,
    /// Full disk or quota.
    NoSpace,
    /// The file has fewer bytes than were asked for.
    Short,
    /// Not permitted, or a read-only storage.
    Denied,
    /// The bucket does not exist.
    NoBucket,
    /// Anything else.
    Other,
}

impl StorageError {
    pub(super) fn new(path: impl Into<String>, source: io::Error) -> Self {
        use io::ErrorKind as E;
        let is = |kinds: &[E]| kinds.contains(&source.kind());
        let kind = if is(&[E::NotFound]) {
            StorageErrorKind::NotFound
        } else if is(&[E::StorageFull, E::QuotaExceeded]) {
            StorageErrorKind::NoSpace
        } else if is(&[E::UnexpectedEof]) {
            StorageErrorKind::Short
        } else if is(&[E::PermissionDenied, E::ReadOnlyFilesystem]) {
            StorageErrorKind::Denied
        } else {
            StorageErrorKind::Other
        };
        Self { kind, path: path.into(), source }
    }
}

/// A place for repository files. Implementations are shared between threads.
///
/// # Contract
/// - `write` returns only when the file, whole and under its name, survives a power cut; a cut write leaves nothing
///   under that name. Writing a name again replaces it.
/// - `list` gives only names that were written whole.
pub trait Storage: fmt::Debug + Send + Sync + 'static {
    /// The location as a person would write it, without secrets.
    fn location(&self) -> String;

    /// Makes the folders of an empty repository. Harmless on one that exists.
    ///
    /// # Errors
    /// If a folder cannot be made.
    fn create(&self) -> Result<(), StorageError>;

    /// Names (64 hex digits; `config` for the config) and sizes in bytes.
    ///
    /// # Errors
    /// If the storage cannot be listed. A folder that does not exist is an empty list.
    fn list(&self, kind: FileKind) -> Result<Vec<(String, u64)>, StorageError>;

    /// A whole file.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`], or whatever the system answers.
    fn read(&self, kind: FileKind, name: &str) -> Result<Bytes, StorageError>;

    /// `length` bytes from `offset`.
    ///
    /// # Errors
    /// [`StorageErrorKind::Short`] if the file ends before; else as `read`.
    fn read_range(
        &self,
        kind: FileKind,
        name: &str,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, StorageError>;

    /// Puts a file in place. See the trait's contract.
    ///
    /// # Errors
    /// [`StorageErrorKind::NoSpace`] if it does not fit.
    fn write(&self, kind: FileKind, name: &str, content: &[Bytes]) -> Result<(), StorageError>;

    /// Removes a file.
    ///
    /// # Errors
    /// [`StorageErrorKind::NotFound`] if it is not there.
    fn remove(&self, kind: FileKind, name: &str) -> Result<(), StorageError>;

    /// Removes what cut-off writes left. To be called under an exclusive lock only. Returns how many files went.
    ///
    /// # Errors
    /// If one cannot be removed.
    fn remove_leftovers(&self) -> Result<u64, StorageError> {
        Ok(0)
    }
}

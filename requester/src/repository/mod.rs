//! The repository: sets of files and documents in restic's format, which stock restic reads.
//! Owns: storage, locks, archiving, listing, reading, restoring, checking and pruning; one Holdfast set is one snapshot.
//! Leaves to others: what a set means (writers, sessions, chains), and what a person sees.
//!
//! Inside a snapshot lie `/data/<writer>/<original path>` and the documents under `/holdfast/`. A set is written in two
//! steps: [`Repository::archive`] stores data under a tag that no listing shows, [`Repository::commit`] merges all such
//! parts with the documents into the one snapshot that *is* the set. Dying in between leaves partial snapshots, which
//! [`Repository::partials`] finds.
//!
//! All calls block, some for long: use them through `spawn_blocking`.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
};

use rustic_core::{
    ConfigOptions, Credentials, KeyOptions, OpenStatus, RepositoryBackends, RepositoryOptions, RusticResult,
    repofile::MasterKey,
};
use zeroize::{Zeroize, Zeroizing};

mod archive;
mod crypto;
mod error;
pub mod keep;
mod keys;
mod location;
mod lock;
mod maintain;
mod read;
mod restore;
mod source;
mod storage;

pub use archive::{Document, Partial, SetIdentity, StoredPartial};
pub use error::{Cause, FileFault, RepositoryError};
pub use location::{Options, S3Options, SECRET_VARIABLES};
pub use lock::{LockGuard, LockKind, LockOwner};
pub use maintain::{CheckReport, PruneReport};
pub use read::{NodeKind, SetReader, StoredNode, StoredSet, TreeWalk, UnreadableSnapshot};
pub use restore::{LostAttribute, RestoreOptions, Restored};
pub use source::{EntryKind, EntryMetadata, FAULTS_KEPT, Opener, Progress, ProgressFn, SourceEntry};
pub use storage::{FileKind, LocalStorage, Storage, StorageError, StorageErrorKind};

use crypto::Cipher;
use error::Meaning;
use lock::Locks;
use storage::Adapter;

/// What cuts files: a polynomial of degree 53, whose coefficients are the bits.
const POLYNOMIALS: std::ops::Range<u64> = 1 << 53..1 << 54;

/// The library's repository, opened but without an index.
type Library = rustic_core::Repository<OpenStatus>;

/// A repository's password. Wiped from memory when dropped; never printed.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes the password as it is; line ends are the caller's to trim.
    pub fn new(password: impl Into<String>) -> Self {
        Self(Zeroizing::new(password.into()))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// An open repository. Cheap to clone; clones share their lock and their index.
#[derive(Clone)]
pub struct Repository {
    inner: Arc<Inner>,
}

struct Inner {
    storage: Arc<dyn Storage>,
    location: String,
    master: MasterKey,
    cipher: Arc<Cipher>,
    locks: Arc<Locks>,
    /// The index read last; dropped whenever this process changes the repository or lists its sets anew.
    index: Mutex<Option<Arc<read::Index>>>,
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Repository").field("location", &self.inner.location).finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes a new repository (format 2) and opens it.
    ///
    /// # Errors
    /// [`RepositoryError::AlreadyExists`] if there is one, or anything of one but orphaned keys;
    /// [`RepositoryError::UnknownScheme`], [`RepositoryError::InvalidLocation`]; the storage's own failures.
    pub fn init(location: &str, password: &Password, options: &Options) -> Result<Self, RepositoryError> {
        Self::init_on(location::storage(location, options)?, password)
    }

    /// Opens an existing repository.
    ///
    /// # Errors
    /// [`RepositoryError::NoRepository`], [`RepositoryError::WrongPassword`], [`RepositoryError::Damaged`];
    /// [`RepositoryError::UnknownScheme`], [`RepositoryError::InvalidLocation`]; the storage's own failures.
    pub fn open(location: &str, password: &Password, options: &Options) -> Result<Self, RepositoryError> {
        Self::open_on(location::storage(location, options)?, password)
    }

    /// As [`Repository::init`], on a storage of the caller's making.
    ///
    /// # Errors
    /// As [`Repository::init`].
    pub fn init_on(storage: Arc<dyn Storage>, password: &Password) -> Result<Self, RepositoryError> {
        let location = storage.location();
        keys::clear_for_init(&*storage, &location)?;
        let library = with_library(&storage, "making the repository", Meaning::Failure, |library| {
            with_credentials(password, |key| {
                library.init(key, &KeyOptions::default(), &ConfigOptions::default())
            })
        })?;
        Self::from_library(storage, &library)
    }

    /// As [`Repository::open`], on a storage of the caller's making.
    ///
    /// # Errors
    /// As [`Repository::open`].
    pub fn open_on(storage: Arc<dyn Storage>, password: &Password) -> Result<Self, RepositoryError> {
        let location = storage.location();
        let config =
            storage.list(FileKind::Config).map_err(|e| RepositoryError::from_storage(&location, e))?;
        if config.is_empty() {
            return Err(RepositoryError::NoRepository { location });
        }
        keys::check_bounds(&*storage, &location)?;
        let mut wrong_password = false;
        let opened = with_library(&storage, "opening the repository", Meaning::Damage, |library| {
            with_credentials(password, |key| library.open(key))
                .inspect_err(|error| wrong_password = error.is_incorrect_password())
        });
        match opened {
            Err(RepositoryError::Damaged { .. }) if wrong_password => {
                Err(RepositoryError::WrongPassword { location })
            }
            other => Self::from_library(storage, &other?),
        }
    }

    fn from_library(storage: Arc<dyn Storage>, library: &Library) -> Result<Self, RepositoryError> {
        let location = storage.location();
        // The library takes it as it is, and would look for the end of a division for ever.
        let polynomial = u64::from_str_radix(&library.config().chunker_polynomial, 16).unwrap_or_default();
        if !POLYNOMIALS.contains(&polynomial) {
            return Err(RepositoryError::damaged(
                &location,
                "its configuration has no polynomial to cut files by",
            ));
        }
        let master = library.key();
        let cipher = Cipher::new(&master)
            .ok_or_else(|| RepositoryError::damaged(&location, "the master key has a wrong length"))?;
        let cipher = Arc::new(cipher);
        let locks = Locks::new(storage.clone(), cipher.clone());
        let index = Mutex::new(None);
        Ok(Self { inner: Arc::new(Inner { storage, location, master, cipher, locks, index }) })
    }

    /// The location as a person would write it, without secrets.
    #[must_use]
    pub fn location(&self) -> &str {
        &self.inner.location
    }

    /// Runs `work` on the library, opened anew with the master key: no password, no index, and faults of its own.
    fn library<T>(
        &self,
        operation: &'static str,
        meaning: Meaning,
        work: impl FnOnce(Library) -> RusticResult<T>,
    ) -> Result<T, RepositoryError> {
        with_library(&self.inner.storage, operation, meaning, |library| {
            work(library.open(&Credentials::Masterkey(self.inner.master.clone()))?)
        })
    }

    fn storage_error(&self, error: StorageError) -> RepositoryError {
        RepositoryError::from_storage(&self.inner.location, error)
    }

    fn damaged(&self, what: impl Into<String>) -> RepositoryError {
        RepositoryError::damaged(&self.inner.location, what)
    }

    /// The next reader reads the index anew.
    fn forget_index(&self) {
        *self.inner.index.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The library takes passwords as a plain string: this one is wiped after use.
fn with_credentials<T>(password: &Password, work: impl FnOnce(&Credentials) -> T) -> T {
    let mut credentials = Credentials::Password(password.0.to_string());
    let result = work(&credentials);
    if let Credentials::Password(copy) = &mut credentials {
        copy.zeroize();
    }
    result
}

/// Runs `work` on the closed library. A fault of the storage below outranks what the library made of it; a panic is
/// caught.
fn with_library<T>(
    storage: &Arc<dyn Storage>,
    operation: &'static str,
    meaning: Meaning,
    work: impl FnOnce(rustic_core::Repository<()>) -> RusticResult<T>,
) -> Result<T, RepositoryError> {
    let location = storage.location();
    let adapter = Adapter::new(storage.clone());
    let backends = RepositoryBackends::new(adapter.clone(), None);
    // Unwind safety: `work` gives its result or is lost as a whole, and the storage keeps no state between calls.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        work(rustic_core::Repository::new(&RepositoryOptions::default().no_cache(true), &backends)?)
    }));
    if let Some(fault) = adapter.take_fault() {
        return Err(RepositoryError::from_storage(&location, fault));
    }
    match outcome {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(RepositoryError::from_library(&location, operation, meaning, &error)),
        Err(panic) => Err(RepositoryError::from_panic(operation, &*panic)),
    }
}

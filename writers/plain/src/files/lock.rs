//! The application's lock file.
//! Owns: opening it without following a link, taking `flock`, proving that it is still the file of that name.
//! Leaves to others: when the hold ends (`holder`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_writer_api::WriterError;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::io_error;

/// Between two attempts.
const POLL: Duration = Duration::from_millis(1);

/// Why the lock is not ours.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    /// The application kept it until the deadline.
    #[error("the lock file `{}` did not come free within {waited_ms} ms", path.display())]
    Busy { path: PathBuf, waited_ms: u128 },
    /// Given up while we waited.
    #[error("the hold of the lock file `{}` was given up", path.display())]
    GivenUp { path: PathBuf },
    /// The name leads to another file: whoever locks that one is not kept out.
    #[error("the lock file `{}` was replaced by another", path.display())]
    Replaced { path: PathBuf },
    /// The file system refused.
    #[error("cannot lock `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// An open lock file, not locked yet.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    file: File,
}

/// The lock. Dropping it closes the file, which releases.
#[derive(Debug)]
pub(super) struct Locked {
    lock: LockFile,
}

/// Refuses what cannot be the application's lock file. Opens nothing.
pub(super) fn look(writer: &str, path: &Path) -> Result<(), WriterError> {
    let found = std::fs::symlink_metadata(path)
        .map_err(|error| io_error(writer, path, "find the lock file", &error))?;
    if found.is_file() {
        return Ok(());
    }
    let why = format!(
        "the lock file `{}` is not a regular file; name the file the application locks",
        path.display()
    );
    Err(WriterError::rejected(writer, why))
}

impl LockFile {
    /// Opens it; never creates it, since a file of ours is not the one the application locks.
    pub(super) fn open(writer: &str, path: &Path) -> Result<Self, WriterError> {
        look(writer, path)?;
        // NONBLOCK: a pipe put there meanwhile must not stop us.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(flags.cast_signed())
            .open(path)
            .map_err(|error| io_error(writer, path, "open the lock file", &error))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Takes the lock, trying until `deadline` or until `give_up`.
    pub(super) fn hold(self, deadline: Instant, give_up: &AtomicBool) -> Result<Locked, LockError> {
        let asked = Instant::now();
        loop {
            if give_up.load(Ordering::SeqCst) {
                return Err(LockError::GivenUp { path: self.path });
            }
            match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    let waited_ms = asked.elapsed().as_millis();
                    return Err(LockError::Busy { path: self.path, waited_ms });
                }
                Err(error) => return Err(LockError::Io { path: self.path, source: error.into() }),
            }
        }
        let locked = Locked { lock: self };
        locked.prove()?;
        Ok(locked)
    }
}

impl Locked {
    /// That the locked file is still the one the application would open. Opens nothing.
    pub(super) fn prove(&self) -> Result<(), LockError> {
        let path = &self.lock.path;
        let failed = |source| LockError::Io { path: path.clone(), source };
        let ours = self.lock.file.metadata().map_err(failed)?;
        match std::fs::symlink_metadata(path) {
            Ok(named) if (named.dev(), named.ino()) == (ours.dev(), ours.ino()) => Ok(()),
            Ok(_) => Err(LockError::Replaced { path: path.clone() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(LockError::Replaced { path: path.clone() })
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// For the mark.
    pub(super) fn proof(&self) -> String {
        format!("process {} holds flock of `{}`", std::process::id(), self.lock.path.display())
    }
}

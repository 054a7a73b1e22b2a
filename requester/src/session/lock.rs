//! One session at a time, and whoever finds the lock taken is told who has it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Who holds a session lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its process.
    pub pid: u32,
    /// What it does, such as `backup`.
    pub what: String,
    /// Since when, RFC 3339.
    pub since: String,
}

/// Why the lock was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another session runs.
    #[error("another session runs: {what}, process {pid}, since {since}", what = owner.what, pid = owner.pid, since = owner.since)]
    Taken {
        /// Who.
        owner: Owner,
    },
    /// The lock file cannot be used.
    #[error("cannot use the session lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// The session lock. The kernel releases it when this process ends, however it ends.
#[derive(Debug)]
pub struct SessionLock {
    file: File,
}

impl SessionLock {
    /// Takes the lock in `runtime_dir`, without waiting.
    ///
    /// # Errors
    /// [`LockError::Taken`] with the owner.
    pub fn take(runtime_dir: &Path, what: &str) -> Result<Self, LockError> {
        let path = runtime_dir.join("session.lock");
        let io = |source| LockError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(io(error.into()));
            }
            let mut text = String::new();
            let _ = file.read_to_string(&mut text);
            // Between taking the lock and writing the name there is a moment without one.
            let owner = serde_json::from_str(&text).unwrap_or_else(|_| Owner {
                pid: 0,
                what: "a session that has just begun".into(),
                since: "now".into(),
            });
            return Err(LockError::Taken { owner });
        }
        let owner = Owner {
            pid: std::process::id(),
            what: what.to_owned(),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let text = serde_json::to_vec(&owner).unwrap_or_default();
        file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(&text)).map_err(io)?;
        Ok(Self { file })
    }
}

impl Drop for SessionLock {
    fn drop(&mut self) {
        // A name without a lock would only confuse; closing the file releases.
        let _ = self.file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_session_is_told_who_has_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = SessionLock::take(dir.path(), "backup").unwrap();
        match SessionLock::take(dir.path(), "restore") {
            Err(LockError::Taken { owner }) => {
                assert_eq!((owner.pid, owner.what.as_str()), (std::process::id(), "backup"));
            }
            other => panic!("{other:?}"),
        }
        drop(first);
        SessionLock::take(dir.path(), "restore").unwrap();
    }
}

//! Holds a database's writers, proves it, and lets them go.
//! Owns: the polling for the hold, its deadline and its being given up, the proof, the release.
//! Leaves to others: what the copy must look like (`mark`), ending the process when it is late (whoever runs it).

use std::io::ErrorKind;
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::access;
use crate::error::is_busy;
use crate::locks::{self, ByteOwner, RESERVED_BYTE, WAL_WRITE_BYTE};
use crate::open::{POLL, journal_family, millis};
use crate::{Database, JournalFamily, SqliteError};

/// How long a database may be held unless its application is known to wait longer: 1 s.
///
/// Applications fail when their own busy timeout passes. It is zero in the command line tool and in many bindings, 1 s in
/// node-sqlite3, 5 s in Python, Django, Go and rusqlite. A snapshot needs 15 to 50 ms, so that one second serves nearly
/// all of them; those with no timeout fail now and then with their own writers as well.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(1);

/// How long a hold is tried for without a rest. Ten commits of a slow disk; one processor is busy meanwhile.
const SPIN: Duration = Duration::from_millis(50);

/// A database whose writers are stopped. Readers, and checkpoints by others, go on.
///
/// Ends by [`release`](Self::release), by being dropped, or with the process: the kernel drops the lock.
///
/// While one exists, this process must not close any descriptor of the database file or of its `-shm` (see the crate's
/// documentation). [`prove`](Self::prove) tells whether it did.
#[derive(Debug)]
pub struct Hold {
    // `None` only inside `release`.
    database: Option<Database>,
    since: Instant,
}

/// How a hold was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// The kernel, asked through SQLite's own descriptor, named this process as the lock's owner. Exact in any pid
    /// namespace and on any local file system.
    Kernel,
    /// The kernel did not answer that question, as under some sandboxes; its list of this process's locks on that file
    /// (`/proc/self/fdinfo`) has it.
    Listed,
}

/// A hold that has ended.
#[derive(Debug)]
pub struct Released {
    /// From having the lock to having let it go.
    pub held: Duration,
    /// The database, still open, to be held again or dropped.
    pub database: Database,
}

impl Database {
    /// Stops the database's writers, trying until `deadline` or until `give_up` becomes true.
    ///
    /// Polls, at first without a rest, so that it is served within milliseconds even under saturating writers, where
    /// SQLite's own busy handler needs seconds. The hold is [proved](Hold::prove) before it is returned.
    ///
    /// # Contract
    /// - On `Ok`, no write reaches the database until the hold ends, and none is half done.
    /// - On `Err`, nothing is held, and since the connection is gone nothing can be held later. `give_up` is looked at
    ///   before each attempt and again with the lock in hand; what was taken after it was set is released before
    ///   returning. A caller that sets it may therefore still receive `Ok` only if that happened in the very last step;
    ///   dropping the hold ends it.
    ///
    /// # Errors
    /// [`SqliteError::HoldTimeout`], [`SqliteError::GivenUp`], [`SqliteError::NotHeld`] and [`SqliteError::Unprovable`] if
    /// the proof fails, [`SqliteError::Replaced`], or SQLite's own.
    pub fn hold(self, deadline: Instant, give_up: &AtomicBool) -> Result<Hold, SqliteError> {
        let asked = Instant::now();
        let check = |path: &Path| {
            let waited_ms = millis(asked.elapsed());
            if give_up.load(Ordering::SeqCst) {
                Err(SqliteError::GivenUp { path: path.to_owned(), waited_ms })
            } else if Instant::now() >= deadline {
                Err(SqliteError::HoldTimeout { path: path.to_owned(), waited_ms })
            } else {
                Ok(())
            }
        };
        loop {
            check(&self.path)?;
            match self.connection.execute_batch("BEGIN IMMEDIATE") {
                Ok(()) => break,
                // A writer that commits without a pause leaves its lock alone for some microseconds only: sleeping
                // would miss them hundreds of times.
                Err(e) if is_busy(&e) && asked.elapsed() < SPIN => thread::yield_now(),
                Err(e) if is_busy(&e) => {
                    thread::sleep(POLL.min(deadline.saturating_duration_since(Instant::now())));
                }
                Err(e) => return Err(SqliteError::engine(&self.path, "hold", e)),
            }
        }
        // From here on every way out goes through its `Drop`.
        let hold = Hold { since: Instant::now(), database: Some(self) };
        check(&hold.database().path)?;
        hold.prove()?;
        check(&hold.database().path)?;
        Ok(hold)
    }
}

impl Hold {
    /// The database that is held.
    #[must_use]
    #[expect(clippy::expect_used, reason = "only `release`, which consumes the hold, takes the database out")]
    pub fn database(&self) -> &Database {
        self.database.as_ref().expect("a hold has its database until it is released")
    }

    /// When the hold began.
    #[must_use]
    pub const fn since(&self) -> Instant {
        self.since
    }

    /// The journal family, which cannot change while the hold stands. It may have changed since the database was opened.
    ///
    /// # Errors
    /// SQLite's own.
    pub fn journal(&self) -> Result<JournalFamily, SqliteError> {
        let database = self.database();
        journal_family(&database.connection)
            .map_err(|e| SqliteError::engine(&database.path, "ask the journal mode of", e))
    }

    /// Proves, from the kernel's list of locks and not from SQLite's memory, that this process holds the database's
    /// writers: WRITE (byte 120 of `-shm`) in WAL mode, RESERVED (byte 0x40000001 of the database) otherwise.
    ///
    /// Call it again after the cut: a hold lost meanwhile shows only here. Takes a fraction of a millisecond.
    ///
    /// # Errors
    /// [`SqliteError::NotHeld`], [`SqliteError::Replaced`] (the name now leads to another file),
    /// [`SqliteError::Unprovable`].
    pub fn prove(&self) -> Result<Proof, SqliteError> {
        let database = self.database();
        database.refuse_replaced()?;
        let (lock, path, identity, byte) = match self.journal()? {
            JournalFamily::Wal => {
                let shm = access::beside(&database.path, "-shm");
                let identity = match access::find(&shm) {
                    Ok(found) => found.identity,
                    Err(SqliteError::Missing { path }) => return Err(SqliteError::Replaced { path }),
                    Err(other) => return Err(other),
                };
                ("WRITE", shm, identity, WAL_WRITE_BYTE)
            }
            JournalFamily::Rollback => ("RESERVED", database.path.clone(), database.identity, RESERVED_BYTE),
        };
        let not_held = |owner| SqliteError::NotHeld { path: database.path.clone(), lock, owner };
        // SQLite ends a transaction by itself on some I/O errors.
        if database.connection.is_autocommit() {
            return Err(not_held(None));
        }
        let unprovable = |source| SqliteError::Unprovable { path: database.path.clone(), source };
        let descriptors = access::own_descriptors(identity).map_err(unprovable)?;
        if descriptors.is_empty() {
            return Err(SqliteError::Replaced { path });
        }
        // Several answer alike: a lock belongs to the process and the file, not to a descriptor.
        let mut refusal = std::io::Error::from(ErrorKind::Unsupported);
        for descriptor in &descriptors {
            match locks::owner_of(*descriptor, byte) {
                Ok(ByteOwner::Process(pid)) if pid == std::process::id() => return Ok(Proof::Kernel),
                Ok(ByteOwner::Process(pid)) => return Err(not_held(Some(pid))),
                Ok(ByteOwner::Nobody | ByteOwner::Unnamed) => return Err(not_held(None)),
                // Also the answer of somebody's `O_PATH` handle.
                Err(e) => refusal = e,
            }
        }
        // A second connection's `BEGIN IMMEDIATE` would be no proof: within one process SQLite answers BUSY from its own
        // memory, whatever has become of the lock.
        if listed_as_ours(&descriptors, byte) { Ok(Proof::Listed) } else { Err(unprovable(refusal)) }
    }

    /// Lets the writers go and gives the database back.
    ///
    /// # Errors
    /// [`SqliteError::ReleaseFailed`]: the connection was closed instead, so that nothing is held then either.
    pub fn release(mut self) -> Result<Released, SqliteError> {
        #[expect(clippy::expect_used, reason = "`self` is consumed, so the database is taken out once")]
        let database = self.database.take().expect("a hold has its database until it is released");
        // Autocommit means that SQLite had ended the transaction already; `prove` reports it, release is done.
        if !database.connection.is_autocommit()
            && let Err(source) = database.connection.execute_batch("ROLLBACK")
        {
            return Err(SqliteError::ReleaseFailed { path: database.path.clone(), source });
        }
        Ok(Released { held: self.since.elapsed(), database })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Some(database) = &self.database {
            // Closing, which follows, ends the transaction as well.
            let _ = database.connection.execute_batch("ROLLBACK");
        }
    }
}

/// Whether the kernel's list of this process's locks has a write lock on that byte.
fn listed_as_ours(descriptors: &[RawFd], byte: u64) -> bool {
    descriptors.iter().any(|descriptor| {
        locks::of_descriptor(Path::new("/proc/self"), *descriptor)
            .is_ok_and(|locks| locks.iter().any(|lock| lock.write && lock.covers(byte)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fallback must agree with the exact query where both can be had.
    #[test]
    fn the_list_and_the_kernel_query_agree() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        for mode in ["wal", "delete"] {
            let path = folder.join(mode);
            let app = rusqlite::Connection::open(&path).unwrap();
            app.pragma_update(None, "journal_mode", mode).unwrap();
            app.execute_batch("CREATE TABLE t(a)").unwrap();
            let hold = Database::open(&path).unwrap();
            let hold = hold.hold(Instant::now() + Duration::from_secs(5), &AtomicBool::new(false)).unwrap();
            let (file, byte) = match hold.journal().unwrap() {
                JournalFamily::Wal => (access::beside(&path, "-shm"), WAL_WRITE_BYTE),
                JournalFamily::Rollback => (path.clone(), RESERVED_BYTE),
            };
            let descriptors = access::own_descriptors(access::find(&file).unwrap().identity).unwrap();
            assert_eq!(hold.prove().unwrap(), Proof::Kernel);
            assert!(listed_as_ours(&descriptors, byte), "{mode}");
            let released = hold.release().unwrap();
            assert!(!listed_as_ours(&descriptors, byte), "{mode}");
            drop(released);
        }
    }
}

//! Holds, describes and verifies a SQLite database from outside the application that owns it.
//!
//! The application needs no change and is not told: a [`Hold`] is an ordinary write transaction that never writes.
//! While it stands, writers wait (or get `SQLITE_BUSY`), readers go on, and the database file with its `-wal` or
//! `-journal` can be cut by a snapshot, a reflink or a copy.
//!
//! ```no_run
//! use std::{sync::atomic::AtomicBool, time::Instant};
//! use holdfast_store_sqlite::{Database, DEFAULT_BUDGET};
//!
//! # fn main() -> Result<(), holdfast_store_sqlite::SqliteError> {
//! let database = Database::open("/srv/ca/db.sqlite3")?;
//! let hold = database.hold(Instant::now() + DEFAULT_BUDGET, &AtomicBool::new(false))?;
//! let mark = hold.mark()?; // what a copy taken now must show
//! // … cut the files named by `component_files` …
//! hold.prove()?; // still held: the cut is consistent
//! let held = hold.release()?.held;
//! # drop((mark, held)); Ok(()) }
//! ```
//!
//! # The POSIX lock rule
//!
//! In the process that holds, closing *any* descriptor of the database file or of its `-shm` file drops SQLite's
//! locks, silently, for every connection on that file. Nothing in [`Database`] or [`Hold`] opens either file: they look
//! through `O_PATH` handles (which carry no locks) and through the descriptors SQLite itself keeps. Whoever holds must
//! do the same: **copy in another process.** `-wal` and `-journal` carry no locks and are free.
//!
//! # The close rule
//!
//! The last connection to close folds the `-wal` into the database and deletes it. Ours never does
//! (`SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE`): megabytes left by a killed application stay where they were.

mod access;
mod copy;
mod error;
mod files;
mod hold;
mod locks;
mod mark;
mod open;
mod openers;
mod recover;
mod verify;
mod wal;

pub use error::{Retry, SqliteError};
pub use files::{ComponentFile, FileRole, component_files, pending_super_journal};
pub use hold::{DEFAULT_BUDGET, Hold, Proof, Released};
pub use mark::{Mark, WalMark, check_against_mark};
pub use open::{Database, Description, JournalFamily, OPEN_PATIENCE};
pub use openers::{HolderKind, LockHolder, Openers, who_has_it_open};
pub use recover::{Folded, fold_in};
pub use verify::{
    ForeignKeyViolation, Level, MAX_MESSAGES, MAX_TABLES, TableRows, VerifyReport, verify_copy,
};
pub use wal::{WalHeader, WalScan, scan_wal};

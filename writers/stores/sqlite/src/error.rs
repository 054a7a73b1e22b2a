//! Why a database could not be held, described or verified.
//! Owns: one named error for each cause, what to do about it, and whether trying again can help.
//! Leaves to others: exit codes and wording for people beyond one sentence.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Why a SQLite database could not be held, described or verified. `Display` states this layer only; print the whole
/// chain, and [`help`](Self::help) beside it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteError {
    /// There is no file of this name.
    #[error("`{}` does not exist", path.display())]
    Missing {
        /// The file that was asked for.
        path: PathBuf,
    },
    /// The path, one of its folders, or a file beside the database is a symbolic link.
    #[error("`{}` is, or lies behind, a symbolic link", path.display())]
    Symlink {
        /// The path that was refused.
        path: PathBuf,
    },
    /// A folder, device, pipe or socket where a regular file was expected.
    #[error("`{}` is not a regular file", path.display())]
    NotRegular {
        /// The path that was refused.
        path: PathBuf,
    },
    /// The path cannot be handed to SQLite at all, because it contains a NUL byte or is empty.
    #[error("`{}` is not a usable path", path.display())]
    UnusablePath {
        /// The path that was refused.
        path: PathBuf,
    },
    /// A database without a single page, such as a file of length zero.
    #[error("`{}` is empty: no table was ever created in it", path.display())]
    Empty {
        /// The database.
        path: PathBuf,
    },
    /// The file's content is not SQLite's, or is encrypted.
    #[error("`{}` is not a SQLite database, or it is encrypted", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What SQLite answered, where it was SQLite that refused.
        #[source]
        source: Option<rusqlite::Error>,
    },
    /// SQLite found the content malformed.
    #[error("`{}` is damaged", path.display())]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite answered.
        #[source]
        source: rusqlite::Error,
    },
    /// The file system's locks do not reach, or may not reach, every user of the file.
    #[error("`{}` lies on {filesystem}, whose locks cannot be trusted", path.display())]
    NetworkFilesystem {
        /// The database.
        path: PathBuf,
        /// The file system's name.
        filesystem: &'static str,
    },
    /// We may only read. `BEGIN IMMEDIATE` succeeds on such a handle and, in WAL mode, stops nobody.
    #[error("`{}` can only be read by this process, so it cannot be held", path.display())]
    ReadOnly {
        /// The database.
        path: PathBuf,
    },
    /// Somebody keeps the database to itself, as `PRAGMA locking_mode=EXCLUSIVE` does.
    #[error("`{}` is kept exclusively by {}", path.display(), by_process(*.pid))]
    ExclusiveUser {
        /// The database.
        path: PathBuf,
        /// Who keeps it; unknown when the process is outside our pid namespace or was gone before we looked.
        pid: Option<u32>,
    },
    /// Nobody keeps it exclusively, but it could not be read in time either.
    #[error("`{}` stayed locked for {waited_ms} ms", path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// How long we tried, in milliseconds.
        waited_ms: u64,
        /// What SQLite answered last.
        #[source]
        source: rusqlite::Error,
    },
    /// Writers kept the database until the deadline. Nothing is held.
    #[error("`{}` could not be held within {waited_ms} ms", path.display())]
    HoldTimeout {
        /// The database.
        path: PathBuf,
        /// How long we tried, in milliseconds.
        waited_ms: u64,
    },
    /// The caller gave up while we waited. Nothing is held, and nothing will be.
    #[error("the hold of `{}` was given up after {waited_ms} ms", path.display())]
    GivenUp {
        /// The database.
        path: PathBuf,
        /// How long we had tried, in milliseconds.
        waited_ms: u64,
    },
    /// The lock that makes the hold is not ours (any more). What was cut meanwhile is not consistent.
    #[error("`{}` is not held: {lock} {}", path.display(), held_by(*.owner))]
    NotHeld {
        /// The database.
        path: PathBuf,
        /// Which lock was looked for.
        lock: &'static str,
        /// Who has it instead, if anybody.
        owner: Option<u32>,
    },
    /// Neither way of asking the kernel for the lock's owner gave an answer, so the hold was not trusted.
    #[error("the kernel does not say who holds `{}`", path.display())]
    Unprovable {
        /// The database.
        path: PathBuf,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// Another file now has the name of the one we opened.
    #[error("`{}` was replaced by another file", path.display())]
    Replaced {
        /// The name.
        path: PathBuf,
    },
    /// `ROLLBACK` failed. The connection was closed instead, which drops its locks too.
    #[error("the transaction that held `{}` could not be rolled back; its connection was closed", path.display())]
    ReleaseFailed {
        /// The database.
        path: PathBuf,
        /// What SQLite answered.
        #[source]
        source: rusqlite::Error,
    },
    /// The WAL index says something else than the `-wal` file.
    #[error("the WAL index of `{}` does not fit its `-wal` file: {what}", path.display())]
    WalIndex {
        /// The database.
        path: PathBuf,
        /// What did not fit.
        what: &'static str,
    },
    /// A file is longer than we are willing to read.
    #[error("`{}` is longer than {limit} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A copy is in use, so it is not private and must not be recovered or checked by us.
    #[error("`{}` is in use by process {pid}, so it is not a private copy", path.display())]
    InUse {
        /// The copy.
        path: PathBuf,
        /// One of its users.
        pid: u32,
    },
    /// The copy's journal belongs to a transaction over several databases; recovering it alone could undo a committed half.
    #[error("the journal beside `{}` belongs to a transaction over several databases (`{}`)",
        path.display(), super_journal.display())]
    SuperJournal {
        /// The copy.
        path: PathBuf,
        /// The super-journal the journal names, as the application spelled it.
        super_journal: PathBuf,
    },
    /// A copy is not of the instant its mark describes.
    #[error("`{}` is not of the marked instant: {field} is {found}, expected {expected}", path.display())]
    MarkMismatch {
        /// The copy.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// The mark's value.
        expected: String,
        /// The copy's value.
        found: String,
    },
    /// The `-wal` was not written over this database. SQLite replays it all the same, and the result can pass its checks.
    #[error("the log beside `{}` ends with {log_pages} pages, the database with {database_pages}", path.display())]
    ForeignLog {
        /// The copy.
        path: PathBuf,
        /// Pages after the log's last transaction.
        log_pages: u32,
        /// Pages after SQLite has read the database together with its log.
        database_pages: u32,
    },
    /// SQLite cannot check this database because its schema needs something only the application has, such as a
    /// function or a collation of its own.
    #[error("`{}` cannot be checked without its application", path.display())]
    NotCheckable {
        /// The copy.
        path: PathBuf,
        /// What SQLite answered.
        #[source]
        source: rusqlite::Error,
    },
    /// The file system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// SQLite refused for a reason without a variant of its own.
    #[error("SQLite cannot {action} `{}`", path.display())]
    Engine {
        /// The database.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What SQLite answered.
        #[source]
        source: rusqlite::Error,
    },
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Yes, when the application writes less.
    WhenQuieter,
    /// Only after somebody has changed something.
    Never,
}

impl SqliteError {
    /// What to do about it, as one sentence.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        match self {
            Self::Missing { .. } => {
                "name the file the application opens; it is created by the application, not by us"
            }
            Self::Symlink { .. } => {
                "name the real path, or remove the link if nobody should have put it there"
            }
            Self::NotRegular { .. } | Self::UnusablePath { .. } => "name the database file itself",
            Self::Empty { .. } => "leave it out, or let the application create its tables first",
            Self::NotADatabase { .. } => {
                "name the database file itself; encrypted databases cannot be held from outside"
            }
            Self::Damaged { .. } => "restore an older copy, or let `sqlite3 FILE .recover` save what is left",
            Self::NetworkFilesystem { .. } => {
                "run on the machine that owns the file system, or move the database to a local one"
            }
            Self::ReadOnly { .. } => {
                "run as the owner of the database, and on a file system mounted read-write"
            }
            Self::ExclusiveUser { .. } => {
                "set the application's `locking_mode` to NORMAL, or stop it for the backup"
            }
            Self::Busy { .. } | Self::HoldTimeout { .. } => {
                "look for a long write transaction in the application, raise the budget, or back up when it is quieter"
            }
            Self::GivenUp { .. } => "nothing: the application was not held",
            Self::NotHeld { .. } => {
                "discard what was cut; something in the holding process closed the database file or ended the transaction"
            }
            Self::Unprovable { .. } => "run where /proc is mounted and file locks can be queried",
            Self::Replaced { .. } => {
                "try again; if it happens again, find out who replaces the file while it is in use"
            }
            Self::ReleaseFailed { .. } => "nothing: the application is free; look for a failing disk",
            Self::WalIndex { .. } => "let the application close the database once, which rebuilds the index",
            Self::TooLong { .. } => "check what this file is; SQLite did not write it",
            Self::InUse { .. } => "stop that process, or work on a copy nobody else opens",
            Self::SuperJournal { .. } => {
                "restore all databases of that transaction with their journals together, and let the application open them"
            }
            Self::MarkMismatch { .. } | Self::ForeignLog { .. } => {
                "do not use this copy; files of different instants lie beside each other"
            }
            Self::NotCheckable { .. } => "check it with the application itself",
            Self::Io { .. } | Self::Engine { .. } => "see the cause",
        }
    }

    /// Whether trying again can help. No `_` arm: a new variant must answer.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Busy { .. } | Self::HoldTimeout { .. } | Self::Replaced { .. } | Self::GivenUp { .. } => {
                Retry::WhenQuieter
            }
            Self::Missing { .. }
            | Self::Symlink { .. }
            | Self::NotRegular { .. }
            | Self::UnusablePath { .. }
            | Self::Empty { .. }
            | Self::NotADatabase { .. }
            | Self::Damaged { .. }
            | Self::NetworkFilesystem { .. }
            | Self::ReadOnly { .. }
            | Self::ExclusiveUser { .. }
            | Self::NotHeld { .. }
            | Self::Unprovable { .. }
            | Self::ReleaseFailed { .. }
            | Self::WalIndex { .. }
            | Self::TooLong { .. }
            | Self::InUse { .. }
            | Self::SuperJournal { .. }
            | Self::MarkMismatch { .. }
            | Self::ForeignLog { .. }
            | Self::NotCheckable { .. }
            | Self::Io { .. }
            | Self::Engine { .. } => Retry::Never,
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.to_owned(), action, source: source.into() }
    }

    /// Sorts SQLite's answer into the variants a caller can act on.
    pub(crate) fn engine(path: &Path, action: &'static str, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match code(&source) {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path, source: Some(source) },
            Some(ErrorCode::DatabaseCorrupt) => Self::Damaged { path, source },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path },
            Some(ErrorCode::CannotOpen) if is_symlink_refusal(&source) => Self::Symlink { path },
            _ => Self::Engine { path, action, source },
        }
    }
}

/// SQLite's primary result code, if the error came from SQLite.
pub(crate) fn code(error: &rusqlite::Error) -> Option<ErrorCode> {
    error.sqlite_error_code()
}

/// Whether another connection was in the way, so that asking again can help.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(
        code(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed)
    )
}

fn is_symlink_refusal(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_CANTOPEN_SYMLINK)
}

fn by_process(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

fn held_by(owner: Option<u32>) -> String {
    owner.map_or_else(|| "is free".to_owned(), |pid| format!("belongs to process {pid}"))
}

//! Fixtures for whole runs: real certificate authorities, real volumes, a real object store, stock restic.
//!
//! Everything here starts something, asks it, and ends it again when dropped; no promise is asserted here.
//! The tests that do are in `tests/`, one file per promise.

pub mod between;
pub mod cfssl;
pub mod clock;
pub mod django_ca;
mod error;
pub mod holdfast;
pub mod http;
pub mod load;
pub mod moto;
pub mod openssl;
pub mod paused;
pub mod process;
pub mod require;
pub mod restic;
pub mod tree;
pub mod volumes;
pub mod watch;

pub use error::FixtureError;

/// The journal mode a SQLite application runs in. It is a property of the database file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// Rollback journal, SQLite's own default.
    Delete,
    /// Write-ahead log.
    Wal,
}

impl Journal {
    /// The word `PRAGMA journal_mode` takes and answers.
    #[must_use]
    pub const fn pragma(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Wal => "wal",
        }
    }
}

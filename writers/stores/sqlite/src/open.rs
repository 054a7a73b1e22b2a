//! Opens a live database so that it could be held, and describes it.
//! Owns: every refusal before a hold (links, file systems, read-only handles, exclusive users), our connection's
//! settings, and leaving the folder as it was found.
//! Leaves to others: the hold itself (`hold`), private copies (`verify`, `recover`).

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::access::{self, Identity};
use crate::error::is_busy;
use crate::locks::{self, ByteOwner, SHARED_FIRST};
use crate::{Openers, SqliteError, openers};

/// How long [`Database::open`] and [`Database::describe`] wait for a reader's turn. In the rollback modes a committing
/// writer shuts readers out for a moment; an exclusive user does for ever.
pub const OPEN_PATIENCE: Duration = Duration::from_secs(1);

/// Between two attempts. SQLite's own handler sleeps up to 100 ms and loses against busy writers for seconds.
pub(crate) const POLL: Duration = Duration::from_micros(200);

/// How the database writes its changes. The header tells only these two apart; which rollback mode (delete, truncate,
/// persist, memory, off) is each connection's own choice and not visible from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JournalFamily {
    /// Write-ahead log: changes go to `-wal`, checkpoints bring them into the database file.
    Wal,
    /// Rollback journal: changes go into the database file, old pages to `-journal`.
    Rollback,
}

/// What a database is like at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// How changes are written.
    pub journal: JournalFamily,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database, those only in the WAL included.
    pub page_count: u32,
    /// How many of them are unused.
    pub free_pages: u32,
    /// Length of the database file, in bytes.
    pub database_bytes: u64,
    /// Length of the `-wal` file, in bytes; zero if there is none. Old frames count as well.
    pub wal_bytes: u64,
    /// `PRAGMA application_id`: zero unless the application chose one.
    pub application_id: i32,
    /// `PRAGMA user_version`: free for the application, often its schema's version.
    pub user_version: i32,
    /// Changes whenever the schema changes.
    pub schema_cookie: u32,
    /// `UTF-8`, `UTF-16le` or `UTF-16be`.
    pub encoding: String,
    /// Device number of the database file, as `stat` says.
    pub device: u64,
    /// Inode number of the database file.
    pub inode: u64,
}

/// A live database, opened so that it can be held: read-write, never creating, never checkpointing.
///
/// Opening and reading do what any other reader does and no more. In WAL mode SQLite makes `-wal` and `-shm` if they are
/// missing; if the `-wal` was missing and is still empty when we close, they are removed again. A journal left hot by a
/// killed application is rolled back by the first read, as the application's own next start would.
#[derive(Debug)]
pub struct Database {
    // Before the rest, so that it is closed first.
    pub(crate) connection: Connection,
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
    /// There was no `-wal` before we came.
    clean_before: bool,
}

impl Database {
    /// Opens the database at `path` for holding, waiting at most [`OPEN_PATIENCE`] for a reader's turn.
    ///
    /// # Errors
    /// - [`SqliteError::Missing`], [`SqliteError::Symlink`] (in any part of the path, or beside the database),
    ///   [`SqliteError::NotRegular`], [`SqliteError::Empty`], [`SqliteError::NotADatabase`], [`SqliteError::Damaged`].
    /// - [`SqliteError::ReadOnly`]: a hold would succeed and hold nothing.
    /// - [`SqliteError::NetworkFilesystem`]: locks may not reach the application.
    /// - [`SqliteError::ExclusiveUser`]: the application keeps the file to itself; [`SqliteError::Busy`]: no reader's turn
    ///   within the patience for another reason.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, SqliteError> {
        let path = access::absolute(path.as_ref())?;
        let found = access::find(&path)?;
        if let Some(filesystem) = found.untrusted_filesystem(&path)? {
            return Err(SqliteError::NetworkFilesystem { path, filesystem });
        }
        access::refuse_linked_companions(&path)?;
        let clean_before = access::find_optional(&access::beside(&path, "-wal"))?.is_none();

        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW
            | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
        let connection =
            Connection::open_with_flags(&path, flags).map_err(|e| SqliteError::engine(&path, "open", e))?;
        // Before anything else: from here on every way out closes without folding in the WAL.
        set(&path, &connection, DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        set(&path, &connection, DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        set(&path, &connection, DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.busy_timeout(Duration::ZERO).map_err(|e| SqliteError::engine(&path, "configure", e))?;
        let database = Self { connection, path, identity: found.identity, clean_before };
        // SQLite falls back to reading without a word when it may not write.
        database.refuse_read_only()?;

        let pages =
            database.patiently(|c| c.query_row("PRAGMA page_count", (), |row| row.get::<_, u32>(0)))?;
        if pages == 0 {
            return Err(SqliteError::Empty { path: database.path.clone() });
        }
        // `page_count` believes a plausible header; the schema has to be parsed to know.
        database.patiently(|c| {
            c.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get::<_, i64>(0))
        })?;
        // Once more: a file format newer than SQLite's shows only now.
        database.refuse_read_only()?;
        database.refuse_replaced()?;
        Ok(database)
    }

    /// The database file's absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Describes the database as one reader sees it, waiting at most [`OPEN_PATIENCE`] for its turn.
    ///
    /// # Errors
    /// [`SqliteError::ExclusiveUser`], [`SqliteError::Busy`], [`SqliteError::Replaced`], or SQLite's own.
    pub fn describe(&self) -> Result<Description, SqliteError> {
        self.refuse_replaced()?;
        self.patiently(|c| {
            if !c.is_autocommit() {
                // Under a hold: one transaction already.
                return self.describe_in_transaction();
            }
            c.execute_batch("BEGIN")?;
            let described = self.describe_in_transaction();
            // A failed `ROLLBACK` of a read leaves nothing that the next one would not report.
            let ended = c.execute_batch("ROLLBACK");
            described.and_then(|d| ended.map(|()| d))
        })
    }

    fn describe_in_transaction(&self) -> Result<Description, rusqlite::Error> {
        let number = |sql: &str| self.connection.query_row(sql, (), |row| row.get::<_, u32>(0));
        let signed = |sql: &str| self.connection.query_row(sql, (), |row| row.get::<_, i32>(0));
        // Reads the header first: only then does the connection know its journal mode.
        let page_count = number("PRAGMA page_count")?;
        let length = |path: &Path| access::find_optional(path).ok().flatten().map_or(0, |found| found.bytes);
        Ok(Description {
            journal: journal_family(&self.connection)?,
            page_size: number("PRAGMA page_size")?,
            page_count,
            free_pages: number("PRAGMA freelist_count")?,
            database_bytes: length(&self.path),
            wal_bytes: length(&access::beside(&self.path, "-wal")),
            application_id: signed("PRAGMA application_id")?,
            user_version: signed("PRAGMA user_version")?,
            schema_cookie: number("PRAGMA schema_version")?,
            encoding: self.connection.query_row("PRAGMA encoding", (), |row| row.get(0))?,
            device: self.identity.device,
            inode: self.identity.inode,
        })
    }

    /// Errors unless the name still leads to the file SQLite has open.
    pub(crate) fn refuse_replaced(&self) -> Result<(), SqliteError> {
        let now = match access::find(&self.path) {
            Ok(found) => found.identity,
            Err(SqliteError::Missing { path }) => return Err(SqliteError::Replaced { path }),
            Err(other) => return Err(other),
        };
        let ours = access::own_descriptors(now)
            .map_err(|e| SqliteError::io(&self.path, "find our descriptors of", e))?;
        if now != self.identity || ours.is_empty() {
            return Err(SqliteError::Replaced { path: self.path.clone() });
        }
        Ok(())
    }

    fn refuse_read_only(&self) -> Result<(), SqliteError> {
        let read_only = self
            .connection
            .is_readonly("main")
            .map_err(|e| SqliteError::engine(&self.path, "ask about", e))?;
        if read_only { Err(SqliteError::ReadOnly { path: self.path.clone() }) } else { Ok(()) }
    }

    /// Repeats a read that others shut out, up to [`OPEN_PATIENCE`], and then finds out who did.
    fn patiently<T>(
        &self,
        mut read: impl FnMut(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, SqliteError> {
        let asked = Instant::now();
        loop {
            match read(&self.connection) {
                Ok(value) => return Ok(value),
                Err(e) if !is_busy(&e) => return Err(SqliteError::engine(&self.path, "read", e)),
                Err(_) if asked.elapsed() < OPEN_PATIENCE => thread::sleep(POLL),
                Err(source) => return Err(self.who_shuts_us_out(asked.elapsed(), source)),
            }
        }
    }

    fn who_shuts_us_out(&self, waited: Duration, source: rusqlite::Error) -> SqliteError {
        let owner = access::own_descriptors(self.identity)
            .unwrap_or_default()
            .into_iter()
            .find_map(|descriptor| locks::owner_of(descriptor, SHARED_FIRST).ok());
        match owner {
            Some(ByteOwner::Process(pid)) => {
                SqliteError::ExclusiveUser { path: self.path.clone(), pid: Some(pid) }
            }
            Some(ByteOwner::Unnamed) => SqliteError::ExclusiveUser { path: self.path.clone(), pid: None },
            Some(ByteOwner::Nobody) | None => {
                SqliteError::Busy { path: self.path.clone(), waited_ms: millis(waited), source }
            }
        }
    }

    /// Who else has this database open. See [`who_has_it_open`](crate::who_has_it_open).
    ///
    /// # Errors
    /// [`SqliteError::Io`] if `/proc` cannot be read.
    pub fn other_users(&self) -> Result<Openers, SqliteError> {
        let mut all = openers::who_has_it_open(&self.path)?;
        all.holders.retain(|holder| holder.pid != Some(std::process::id()));
        Ok(all)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // SQLite made an empty `-wal` and a `-shm` for us; its own last-one-out removes them, under its own locks. With a
        // single frame in it, the close rule stands. Nothing to do about a failure: the files are harmless.
        let wal = access::beside(&self.path, "-wal");
        if self.clean_before && matches!(access::find_optional(&wal), Ok(Some(found)) if found.bytes == 0) {
            let _ = self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
        }
    }
}

fn set(path: &Path, connection: &Connection, setting: DbConfig, value: bool) -> Result<(), SqliteError> {
    match connection.set_db_config(setting, value) {
        Ok(now) if now == value => Ok(()),
        Ok(_) => Err(SqliteError::engine(path, "configure", rusqlite::Error::InvalidQuery)),
        Err(e) => Err(SqliteError::engine(path, "configure", e)),
    }
}

/// The journal family this connection works in. Inside a transaction it cannot change.
pub(crate) fn journal_family(connection: &Connection) -> Result<JournalFamily, rusqlite::Error> {
    let mode: String = connection.query_row("PRAGMA journal_mode", (), |row| row.get(0))?;
    Ok(if mode.eq_ignore_ascii_case("wal") { JournalFamily::Wal } else { JournalFamily::Rollback })
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

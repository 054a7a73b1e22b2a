//! Opens a private copy of a database for checking or recovering.
//! Owns: making sure that it is private, and a connection that trusts nothing in it.
//! Leaves to others: what is done with it (`verify`, `recover`, `mark`).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::{SqliteError, access, files, openers};

/// The copy's absolute path, once it is known to be a regular, non-empty file that nobody uses.
///
/// A live database is refused: recovering it behind its application's back would destroy it, and reading it here would drop
/// the locks this process may have on it.
pub(crate) fn private(copy: &Path) -> Result<PathBuf, SqliteError> {
    let path = access::absolute(copy)?;
    if access::find(&path)?.bytes == 0 {
        return Err(SqliteError::Empty { path });
    }
    access::refuse_linked_companions(&path)?;
    if let Some(holder) = openers::who_has_it_open(&path)?.holders.first() {
        return Err(SqliteError::InUse { path, pid: holder.pid.unwrap_or(0) });
    }
    Ok(path)
}

/// Opens a private copy, letting SQLite recover it: a hot journal is rolled back here, a `-wal` is read with it.
///
/// The `-wal` is not folded in when the connection closes.
pub(crate) fn open(path: &Path) -> Result<Connection, SqliteError> {
    if let Some(super_journal) = files::pending_super_journal(path)? {
        return Err(SqliteError::SuperJournal { path: path.to_owned(), super_journal });
    }
    // Of another instant, if it was copied at all.
    remove_beside(path, "-shm")?;
    let fail = |e| SqliteError::engine(path, "open", e);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_PRIVATE_CACHE;
    let connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    for (setting, value) in [
        (DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true),
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
    ] {
        connection.set_db_config(setting, value).map_err(fail)?;
    }
    connection.busy_timeout(Duration::ZERO).map_err(fail)?;
    connection.execute_batch("PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0").map_err(fail)?;
    if connection.is_readonly("main").map_err(fail)? {
        return Err(SqliteError::ReadOnly { path: path.to_owned() });
    }
    let read = |sql: &str| connection.query_row(sql, (), |row| row.get::<_, i64>(0));
    let pages = read("PRAGMA page_count").map_err(|e| SqliteError::engine(path, "read", e))?;
    if pages == 0 {
        return Err(SqliteError::Empty { path: path.to_owned() });
    }
    read("SELECT count(*) FROM sqlite_schema").map_err(|e| SqliteError::engine(path, "read", e))?;
    Ok(connection)
}

/// Removes the file beside the copy whose name ends in `suffix`, if there is one.
pub(crate) fn remove_beside(path: &Path, suffix: &str) -> Result<(), SqliteError> {
    let file = access::beside(path, suffix);
    match fs::remove_file(&file) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(SqliteError::io(&file, "remove", e)),
    }
}

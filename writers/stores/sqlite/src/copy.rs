//! Opens a private copy of a database for checking or recovering.
//! Owns: making sure that it is private, and a connection that trusts nothing in it.
//! Leaves to others: what is done with it (`verify`, `recover`, `mark`).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::{SqliteError, WalScan, access, files, openers, scan_wal};

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
    // A process being started has, until it becomes another program, every descriptor of the one that starts it.
    let mut patience = 10;
    while let Some(holder) = openers::who_has_it_open(&path)?.holders.first() {
        if patience == 0 {
            return Err(SqliteError::InUse { path, pid: holder.pid.unwrap_or(0) });
        }
        patience -= 1;
        thread::sleep(Duration::from_millis(2));
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

/// The log beside a copy, if there is one, walked before SQLite sees it.
pub(crate) fn log_beside(path: &Path) -> Result<Option<WalScan>, SqliteError> {
    let log = access::beside(path, "-wal");
    access::find_optional(&log)?.map(|_| scan_wal(&log)).transpose()
}

/// Errors if a log was not written over this database, as far as the number of pages tells.
///
/// A transaction that changes the number writes the first page, which has it as well. SQLite does not compare: frames of
/// a newer log whose pages the older database does not know are out of every tree's reach, and no check of its own
/// sees them.
pub(crate) fn refuse_foreign_log(
    path: &Path,
    log: Option<WalScan>,
    database_pages: u32,
) -> Result<(), SqliteError> {
    match log {
        Some(log) if log.committed_frames > 0 && log.page_count != database_pages => {
            Err(SqliteError::ForeignLog { path: path.to_owned(), log_pages: log.page_count, database_pages })
        }
        Some(_) | None => Ok(()),
    }
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

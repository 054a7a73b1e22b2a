//! Brings a private copy into one file.
//! Owns: applying the `-wal`, rolling back a hot journal, removing what is left, making it last.
//! Leaves to others: whether that file may be put in place (`verify`, `mark`, and the restore).

use std::fs::File;
use std::path::Path;

use rusqlite::ffi;
use serde::{Deserialize, Serialize};

use crate::open::journal_family;
use crate::{JournalFamily, SqliteError, copy, files};

/// What was done to bring a copy into one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folded {
    /// The journal family in the header, unchanged.
    pub journal: JournalFamily,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database.
    pub page_count: u32,
    /// Frames of the `-wal` up to the last transaction's end, now in the database file.
    pub wal_frames: u32,
    /// A hot journal was rolled back.
    pub rolled_back: bool,
}

/// Recovers a private copy to a single file: the `-wal` is applied, a hot journal rolled back, both and `-shm` removed, the
/// file and its folder synced. The journal mode in the header stays.
///
/// Cut off at any moment, it can be started again.
///
/// # Errors
/// As [`verify_copy`](crate::verify_copy), [`SqliteError::ForeignLog`], and [`SqliteError::Io`].
pub fn fold_in(database_copy: &Path) -> Result<Folded, SqliteError> {
    let path = copy::private(database_copy)?;
    let (log, rolled_back) = (copy::log_beside(&path)?, files::journal_is_hot(&path)?);
    let connection = copy::open(&path)?;
    let fail = |e| SqliteError::engine(&path, "recover", e);
    let journal = journal_family(&connection).map_err(fail)?;
    let number = |sql: &str| connection.query_row(sql, (), |row| row.get::<_, u32>(0)).map_err(fail);
    let (page_size, page_count) = (number("PRAGMA page_size")?, number("PRAGMA page_count")?);
    let mut wal_frames = 0;
    if journal == JournalFamily::Wal {
        copy::refuse_foreign_log(&path, log, page_count)?;
        // A passive one first: truncating answers zero frames, since none are left.
        wal_frames = checkpoint(&connection, "PASSIVE").map_err(fail)?;
        checkpoint(&connection, "TRUNCATE").map_err(fail)?;
    }
    connection.close().map_err(|(_, e)| fail(e))?;

    // SQLite has read the database, so that nothing in these counts any more.
    for suffix in ["-wal", "-shm", "-journal"] {
        copy::remove_beside(&path, suffix)?;
    }
    let synced = |path: &Path| {
        File::open(path).and_then(|file| file.sync_all()).map_err(|e| SqliteError::io(path, "sync", e))
    };
    // A checkpoint syncs the file only as the copy's own settings ask for.
    synced(&path)?;
    let folder = path.parent().unwrap_or(&path);
    synced(folder)?;
    Ok(Folded { journal, page_size, page_count, wal_frames, rolled_back })
}

/// Runs a checkpoint that nobody can be in the way of, and says how many frames the log had.
fn checkpoint(connection: &rusqlite::Connection, mode: &str) -> Result<u32, rusqlite::Error> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |row| {
        let (busy, log, done): (i64, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if busy != 0 || log != done {
            return Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None));
        }
        Ok(u32::try_from(log).unwrap_or(0))
    })
}

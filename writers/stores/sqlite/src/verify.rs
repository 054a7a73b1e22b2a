//! Checks a private copy of a database.
//! Owns: which checks are made, how much of their answers is kept.
//! Leaves to others: whether the copy is of the right instant (`mark`), bringing it into one file (`recover`).

use std::path::Path;

use rusqlite::{Connection, ErrorCode, types::ValueRef};
use serde::{Deserialize, Serialize};

use crate::error::code;
use crate::open::journal_family;
use crate::{JournalFamily, SqliteError, WalScan, copy, files};

/// At most so many messages of each kind are kept.
pub const MAX_MESSAGES: usize = 100;
/// At most so many tables are counted.
pub const MAX_TABLES: u32 = 1000;
/// Longer messages and names are cut, in bytes.
const MAX_TEXT: usize = 1024;

/// How thoroughly to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// `quick_check`: every page's structure. Reads everything once.
    Quick,
    /// `integrity_check`: indexes against their tables as well; foreign keys; and rows are counted.
    Full,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// How thoroughly it was checked.
    pub level: Level,
    /// The journal family in the header.
    pub journal: JournalFamily,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages, with those in the `-wal`.
    pub page_count: u32,
    /// The `-wal` beside the copy as it was found. Valid frames fewer than its length suggests are usually old ones behind
    /// the log's end; only a [`Mark`](crate::Mark) tells.
    pub wal: Option<WalScan>,
    /// A hot journal lay beside the copy and was rolled back.
    pub rolled_back: bool,
    /// What SQLite complains about, at most [`MAX_MESSAGES`]. Empty: sound. Values inside a row carry no checksum, so that
    /// a change there is not noticed.
    pub problems: Vec<String>,
    /// There were more.
    pub more_problems: bool,
    /// Rows that refer to missing ones, at most [`MAX_MESSAGES`]. SQLite lets applications leave these checks off, so they are
    /// no damage. Looked for by [`Level::Full`].
    pub foreign_keys: Vec<ForeignKeyViolation>,
    /// There were more.
    pub more_foreign_keys: bool,
    /// Foreign keys were looked at to the end or to the limit.
    pub foreign_keys_checked: bool,
    /// Rows of each table, at most [`MAX_TABLES`]. Counted by [`Level::Full`] if there are no problems.
    pub tables: Vec<TableRows>,
}

/// A row that refers to a missing one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignKeyViolation {
    /// The referring table.
    pub table: String,
    /// The referring row; `None` in a table without row numbers.
    pub rowid: Option<i64>,
    /// The table that lacks the row.
    pub parent: String,
}

/// How many rows a table has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// The table.
    pub table: String,
    /// Its rows; `None` if they could not be counted.
    pub rows: Option<u64>,
}

impl VerifyReport {
    /// Whether SQLite finds nothing wrong. Foreign keys do not count.
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Checks a private copy: the database with its `-wal` or `-journal` beside it, which SQLite takes into account.
///
/// In WAL mode the database and `-wal` are left as they are. A hot journal is rolled back, which changes the copy. A `-shm`
/// is removed. Takes about as long as reading the file.
///
/// # Errors
/// Findings are in the report. Errors are: a file that is not a database at all or whose schema cannot be read
/// ([`SqliteError::Missing`], [`SqliteError::Symlink`], [`SqliteError::NotRegular`], [`SqliteError::Empty`],
/// [`SqliteError::NotADatabase`], [`SqliteError::Damaged`]), one that is not private ([`SqliteError::InUse`]) or only
/// readable, one whose journal cannot be judged alone ([`SqliteError::SuperJournal`]), one whose schema needs its
/// application ([`SqliteError::NotCheckable`]).
pub fn verify_copy(database_copy: &Path, level: Level) -> Result<VerifyReport, SqliteError> {
    let path = copy::private(database_copy)?;
    let wal = copy::log_beside(&path)?;
    let rolled_back = files::journal_is_hot(&path)?;

    let connection = copy::open(&path)?;
    let outcome = check(&path, &connection, level, wal, rolled_back);
    drop(connection);
    copy::remove_beside(&path, "-shm")?;
    outcome
}

fn check(
    path: &Path,
    connection: &Connection,
    level: Level,
    wal: Option<WalScan>,
    rolled_back: bool,
) -> Result<VerifyReport, SqliteError> {
    let fail = |e| SqliteError::engine(path, "read", e);
    let number = |sql: &str| connection.query_row(sql, (), |row| row.get::<_, u32>(0)).map_err(fail);
    let (problems, more_problems) = structure(path, connection, level)?;
    let mut report = VerifyReport {
        level,
        journal: journal_family(connection).map_err(fail)?,
        page_size: number("PRAGMA page_size")?,
        page_count: number("PRAGMA page_count")?,
        wal,
        rolled_back,
        problems,
        more_problems,
        foreign_keys: Vec::new(),
        more_foreign_keys: false,
        foreign_keys_checked: false,
        tables: Vec::new(),
    };
    // A log that SQLite ignores, because the header names another journal family, is only told in `wal`.
    if report.journal == JournalFamily::Wal
        && let Err(foreign) = copy::refuse_foreign_log(path, wal, report.page_count)
    {
        report.problems.insert(0, cut(&foreign.to_string()));
        report.more_problems |= report.problems.len() > MAX_MESSAGES;
        report.problems.truncate(MAX_MESSAGES);
    }
    if level == Level::Full && report.is_sound() {
        // A key to a table that does not exist is an error to SQLite and, once more, no damage.
        report.foreign_keys_checked = foreign_keys(connection, &mut report).is_ok();
        report.tables = tables(connection).map_err(fail)?;
    }
    Ok(report)
}

/// SQLite's own check. Damage met on the way is a finding like those it lists.
fn structure(path: &Path, connection: &Connection, level: Level) -> Result<(Vec<String>, bool), SqliteError> {
    let pragma = match level {
        Level::Quick => "quick_check",
        Level::Full => "integrity_check",
    };
    let mut problems = Vec::new();
    // One more than is kept, to know whether there are more.
    let listed = (|| {
        let mut statement = connection.prepare(&format!("PRAGMA {pragma}({})", MAX_MESSAGES + 1))?;
        let mut rows = statement.query(())?;
        while problems.len() <= MAX_MESSAGES
            && let Some(row) = rows.next()?
        {
            let message = text(row.get_ref(0)?);
            if message != "ok" {
                problems.push(message);
            }
        }
        Ok::<_, rusqlite::Error>(())
    })();
    match listed {
        Ok(()) => {}
        Err(e) if matches!(code(&e), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)) => {
            problems.push(cut(&e.to_string()));
        }
        // `SQLITE_ERROR`: a function or collation that only the application has.
        Err(source) if code(&source) == Some(ErrorCode::Unknown) => {
            return Err(SqliteError::NotCheckable { path: path.to_owned(), source });
        }
        Err(e) => return Err(SqliteError::engine(path, "check", e)),
    }
    let more = problems.len() > MAX_MESSAGES;
    problems.truncate(MAX_MESSAGES);
    Ok((problems, more))
}

fn foreign_keys(connection: &Connection, report: &mut VerifyReport) -> Result<(), rusqlite::Error> {
    let mut statement = connection.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        if report.foreign_keys.len() == MAX_MESSAGES {
            report.more_foreign_keys = true;
            break;
        }
        report.foreign_keys.push(ForeignKeyViolation {
            table: text(row.get_ref(0)?),
            rowid: row.get(1)?,
            parent: text(row.get_ref(2)?),
        });
    }
    Ok(())
}

fn tables(connection: &Connection) -> Result<Vec<TableRows>, rusqlite::Error> {
    // Virtual tables have no root page, and run code of their own.
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0 ORDER BY name LIMIT ?",
    )?;
    let mut rows = statement.query([MAX_TABLES])?;
    let mut tables = Vec::new();
    while let Some(row) = rows.next()? {
        let name = row.get_ref(0)?.as_str().ok().map(|name| name.replace('"', "\"\""));
        let rows = name.and_then(|name| {
            connection
                .query_row(&format!("SELECT count(*) FROM main.\"{name}\""), (), |row| row.get::<_, i64>(0))
                .ok()
                .and_then(|rows| u64::try_from(rows).ok())
        });
        tables.push(TableRows { table: text(row.get_ref(0)?), rows });
    }
    Ok(tables)
}

/// Whatever a hostile schema put there, as bounded text.
fn text(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            cut(&String::from_utf8_lossy(bytes.get(..MAX_TEXT).unwrap_or(bytes)))
        }
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => String::new(),
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default().to_owned()
}

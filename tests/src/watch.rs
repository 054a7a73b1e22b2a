//! An application watched from outside: a process that commits one SQLite row after the other and says when.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    Journal,
    error::FixtureError,
    load::{Ack, Acks, Load},
    process::command,
};

const WRITER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/sqlite_writer.py");

/// A process that writes to a SQLite database (`entry(id, begun_ns, filler)`, ids without gaps) until stopped.
#[derive(Debug)]
pub struct SqliteWriter {
    database: PathBuf,
    load: Load,
}

impl SqliteWriter {
    /// Starts it: full speed, and a busy timeout of 5 s, Python's own default.
    ///
    /// # Errors
    /// [`FixtureError::Io`] if it cannot be started; [`FixtureError::Deadline`] if it does not commit within 10 s.
    pub fn start(database: &Path, journal: Journal) -> Result<Self, FixtureError> {
        Self::start_with(database, journal, Duration::from_secs(5), Duration::ZERO)
    }

    /// Starts it with a busy timeout (how long it waits for a lock before it counts as refused) and a pause between
    /// commits; returns after its first commit.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(
        database: &Path,
        journal: Journal,
        busy_timeout: Duration,
        pause: Duration,
    ) -> Result<Self, FixtureError> {
        let mut python = command("python3");
        // What the script shares with others is imported: no bytecode into the source tree.
        python.env("PYTHONDONTWRITEBYTECODE", "1").arg(WRITER).arg(database).arg(journal.pragma());
        python.args([busy_timeout.as_secs_f64().to_string(), pause.as_secs_f64().to_string()]);
        let load = Load::in_process("the SQLite writer", &mut python)?;
        load.acks().wait_for(1, Duration::from_secs(10))?;
        Ok(Self { database: database.to_path_buf(), load })
    }

    /// Its database.
    #[must_use]
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.load.pid()
    }

    /// What it has committed and what it was refused, to wait on or to keep.
    #[must_use]
    pub fn acks(&self) -> &Acks {
        self.load.acks()
    }

    /// Waits for a commit acknowledged after this call.
    ///
    /// # Errors
    /// [`FixtureError::Deadline`] if it is still held after `limit`.
    pub fn wrote_again_within(&self, limit: Duration) -> Result<Ack, FixtureError> {
        self.load.acks().wrote_again_within(limit)
    }

    /// Ends it after the commit under way; gives all commits.
    #[must_use]
    pub fn stop(self) -> Vec<Ack> {
        self.load.stop()
    }

    /// Ends it by SIGKILL, leaving journal or WAL as a crash does; gives all commits it had told of.
    #[must_use]
    pub fn kill(self) -> Vec<Ack> {
        self.load.kill()
    }
}

/// The ids in a database that a [`SqliteWriter`] wrote, after `PRAGMA integrity_check` said ok.
///
/// # Errors
/// [`FixtureError::Answer`] with SQLite's words.
pub fn ids(database: &Path) -> Result<Vec<u64>, FixtureError> {
    let read = || {
        let database = rusqlite::Connection::open(database)?;
        let verdict: String = database.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        let mut statement = database.prepare("SELECT id FROM entry ORDER BY id")?;
        let ids = statement.query_map([], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, rusqlite::Error>((verdict, ids))
    };
    let (verdict, ids) =
        read().map_err(|error| FixtureError::answer(database.display().to_string(), error.to_string()))?;
    if verdict != "ok" {
        return Err(FixtureError::answer(database.display().to_string(), verdict));
    }
    Ok(ids.into_iter().map(|id| u64::try_from(id).unwrap_or(0)).collect())
}

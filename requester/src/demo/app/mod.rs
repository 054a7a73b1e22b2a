//! The live applications: each writes again and again until it is killed, and acknowledges what is durable.
//!
//! Owns: the loop, its pace, what happens when the store is locked. Leaves to others: what a write is (`ca`,
//! `directory`, `orchestrator`), where it goes ([`Places`]).
//!
//! They know nothing of Holdfast. A hold is to them what any other client with a lock is: they wait up to
//! [`BUSY_TIMEOUT`], and then try again.

mod ca;
mod directory;
mod orchestrator;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::ack::{Ack, AckError, AckLog};
use super::places::{CA, DIRECTORY, ORCHESTRATOR, Places};
use crate::session::events::now_ns;

pub(super) use ca::serial_bytes;
pub(super) use orchestrator::{open_secret, read_key, workflow_for};

/// How long an application waits for a lock before it says that it is busy.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two writes: what is left is some hundred writes a second, as the disk allows.
const PAUSE: Duration = Duration::from_millis(5);

/// Why an application ended, or could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppError {
    /// There is no application of this name.
    #[error("there is no application `{name}`; expected ca, directory or orchestrator")]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// Locked for longer than an application waits. Retried by the loop, with a new beginning.
    #[error("{what} was locked for more than {} s", BUSY_TIMEOUT.as_secs())]
    Busy {
        /// What is locked.
        what: &'static str,
    },
    /// A file or folder.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The database refused.
    #[error("the database of `{application}` failed")]
    Database {
        /// Whose.
        application: &'static str,
        /// What it said.
        #[source]
        source: rusqlite::Error,
    },
    /// No certificate or revocation list could be made, or the CA's key cannot be used.
    #[error("the certificate authority cannot sign")]
    Certificate(#[from] rcgen::Error),
    /// A file of the application does not say what it should.
    #[error("{} is not usable: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was expected.
        problem: String,
    },
    /// The operating system has no random numbers.
    #[error("there are no random numbers")]
    Random(#[source] io::Error),
    /// The write was made and cannot be acknowledged.
    #[error("a write could not be acknowledged")]
    Ack(#[from] AckError),
}

impl AppError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }

    /// Tells "locked" from everything else.
    fn database(application: &'static str) -> impl Fn(rusqlite::Error) -> Self {
        move |source| match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy | rusqlite::ErrorCode::DatabaseLocked) => {
                Self::Busy { what: "the database" }
            }
            Some(_) | None => Self::Database { application, source },
        }
    }
}

/// One durable write.
struct Written {
    id: String,
    digest: String,
}

/// What the loop needs of an application.
trait Application {
    /// The number of the next write: one more than the store's greatest.
    fn next(&self) -> Result<u64, AppError>;
    /// Makes write `n`. Durable on return.
    fn write(&mut self, n: u64, begun_ns: u64) -> Result<Written, AppError>;
}

/// Makes a new, empty application in its folder, which must not exist.
///
/// # Errors
/// [`AppError`].
pub fn create(name: &str, places: &Places) -> Result<(), AppError> {
    match name {
        CA => ca::create(places),
        DIRECTORY => directory::create(places),
        ORCHESTRATOR => orchestrator::create(places),
        _ => Err(AppError::Unknown { name: name.to_owned() }),
    }
}

/// Runs an application of the scene in `dir` until it is killed or its standard input is closed, which is how it
/// learns that the demonstration is gone.
///
/// # Errors
/// [`AppError`]: it cannot start or go on. A locked store is no reason.
pub fn run(name: &str, dir: &Path) -> Result<(), AppError> {
    let stop = Arc::new(AtomicBool::new(false));
    let parent_gone = Arc::clone(&stop);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        let mut ignored = [0; 64];
        while matches!(input.read(&mut ignored), Ok(read) if read > 0) {}
        parent_gone.store(true, Ordering::Relaxed);
    });
    run_until(name, dir, &stop)
}

/// As [`run`], until `stop`; the write under way is finished and acknowledged.
///
/// # Errors
/// [`AppError`].
pub fn run_until(name: &str, dir: &Path, stop: &AtomicBool) -> Result<(), AppError> {
    let places = Places::new(dir);
    let mut application: Box<dyn Application> = match name {
        CA => Box::new(ca::Ca::open(&places)?),
        DIRECTORY => Box::new(directory::Directory::open(&places)?),
        ORCHESTRATOR => Box::new(orchestrator::Orchestrator::open(&places)?),
        _ => return Err(AppError::Unknown { name: name.to_owned() }),
    };
    let mut acks = AckLog::open(&places.acks(), name)?;
    let mut n = retrying(stop, || application.next())?.unwrap_or(1);
    while !stop.load(Ordering::Relaxed) {
        // A write that was refused is begun anew: only the attempt that succeeds counts, and not an earlier time.
        let begun = || {
            let begun_ns = now_ns();
            application.write(n, begun_ns).map(|written| (written, begun_ns))
        };
        let Some((Written { id, digest }, begun_ns)) = retrying(stop, begun)? else { break };
        acks.append(&Ack { n, id, digest, begun_ns, acked_ns: now_ns() })?;
        n += 1;
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Tries again while the store is locked; `None` when told to stop.
fn retrying<T>(
    stop: &AtomicBool,
    mut attempt: impl FnMut() -> Result<T, AppError>,
) -> Result<Option<T>, AppError> {
    while !stop.load(Ordering::Relaxed) {
        match attempt() {
            Err(AppError::Busy { .. }) => {}
            done => return done.map(Some),
        }
    }
    Ok(None)
}

/// `count` random bytes.
fn random<const COUNT: usize>() -> Result<[u8; COUNT], AppError> {
    let mut bytes = [0; COUNT];
    getrandom::fill(&mut bytes).map_err(|error| AppError::Random(io::Error::other(error)))?;
    Ok(bytes)
}

/// A new database file that only we can read, with `schema` in it.
fn create_database(
    application: &'static str,
    path: &Path,
    schema: &str,
) -> Result<rusqlite::Connection, AppError> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(AppError::io("create", path))?;
    let connection = open_database(application, path)?;
    connection.execute_batch(schema).map_err(AppError::database(application))?;
    Ok(connection)
}

/// Opens an existing database as the applications do: patient, and durable with every commit.
fn open_database(application: &'static str, path: &Path) -> Result<rusqlite::Connection, AppError> {
    use rusqlite::OpenFlags;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = AppError::database(application);
    let connection = rusqlite::Connection::open_with_flags(path, flags).map_err(&failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(&failed)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;").map_err(&failed)?;
    Ok(connection)
}

/// SQLite's integers are signed; times and counts stay far below.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

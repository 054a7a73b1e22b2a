//! The proof: counts, in what was brought back, every write that was acknowledged before its application's freeze.
//!
//! Owns: what counts as lost, changed, or too new, and when the proof has failed. Leaves to others: how a store is read
//! (`ca`, `directory`, `orchestrator`).
//!
//! Count **before** the applications write again: they number their writes from what the store has, so that the numbers
//! of writes that came after the cut are given out a second time.

mod ca;
mod directory;
mod orchestrator;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ack::{self, AckError};
use super::app::AppError;
use super::places::{APPLICATIONS, CA, DIRECTORY, Places};

/// How many of a kind are named; all are counted.
const NAMED: usize = 3;

/// When an application was held, on `CLOCK_MONOTONIC`, in nanoseconds. From the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Before its freeze was called. What was acknowledged earlier must be in the set.
    pub called_ns: u64,
    /// Its freeze had returned. What was begun later cannot be in the set.
    pub taken_ns: u64,
    /// It was free again.
    pub released_ns: u64,
}

/// Something that must hold of all of a kind, such as "certificates that verify against the CA".
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Of what, in the plural.
    pub what: &'static str,
    /// How many are good.
    pub good: u64,
    /// How many are not.
    pub bad: u64,
    /// What is wrong with the first few.
    pub problems: Vec<String>,
}

impl Check {
    fn new(what: &'static str) -> Self {
        Self { what, good: 0, bad: 0, problems: Vec::new() }
    }

    fn note(&mut self, good: bool, problem: impl FnOnce() -> String) {
        if good {
            self.good += 1;
            return;
        }
        self.bad += 1;
        if self.problems.len() < NAMED {
            self.problems.push(problem());
        }
    }
}

/// What was found of one application.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Counted {
    /// Which.
    pub application: &'static str,
    /// Writes acknowledged before its freeze was called.
    pub acknowledged: u64,
    /// Of these, found with the very same bytes.
    pub found: u64,
    /// Of these, not there.
    pub missing: Vec<String>,
    /// Of these, there with other bytes.
    pub changed: Vec<String>,
    /// There although begun while it was held, before the thaw. Must be none.
    pub begun_held: Vec<String>,
    /// There although begun after the thaw. Must be none.
    pub begun_after_thaw: Vec<String>,
    /// Acknowledged after the freeze was called, whether there or not: what the restore set back, at most.
    pub later: u64,
    /// All that is there.
    pub present: u64,
    /// The longest that a client waited for a write from the freeze on, in milliseconds: what the hold cost.
    pub longest_wait_ms: f64,
    /// What else was looked at.
    pub checks: Vec<Check>,
}

impl Counted {
    /// Why this is no proof; empty when it is one.
    pub fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.acknowledged == 0 {
            failures.push("nothing was acknowledged before its freeze, so that nothing is proved".to_owned());
        }
        for (which, ids) in [
            ("acknowledged writes are missing", &self.missing),
            ("acknowledged writes came back changed", &self.changed),
            ("writes begun while it was held are in the set", &self.begun_held),
            ("writes begun after the thaw are in the set", &self.begun_after_thaw),
        ] {
            if !ids.is_empty() {
                failures.push(format!("{} {which}: {}", ids.len(), some(ids)));
            }
        }
        for check in self.checks.iter().filter(|check| check.bad > 0) {
            let (bad, all) = (check.bad, check.good + check.bad);
            failures.push(format!(
                "not so for {bad} of {all}: {}: {}",
                check.what,
                check.problems.join("; ")
            ));
        }
        failures
    }
}

/// What was found of all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// By application, in the order of [`APPLICATIONS`].
    pub applications: Vec<Counted>,
}

impl Verdict {
    /// Why this is no proof, application by application; empty when it is one.
    pub fn failures(&self) -> Vec<String> {
        let of = |counted: &Counted| {
            let name = counted.application;
            counted
                .failures()
                .into_iter()
                .map(move |failure| format!("{name}: {failure}"))
                .collect::<Vec<_>>()
        };
        self.applications.iter().flat_map(of).collect()
    }

    /// Writes acknowledged before the freeze, of all applications.
    pub fn acknowledged(&self) -> u64 {
        self.applications.iter().map(|counted| counted.acknowledged).sum()
    }

    /// Of these, found unchanged.
    pub fn found(&self) -> u64 {
        self.applications.iter().map(|counted| counted.found).sum()
    }
}

/// Why nothing is proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CountError {
    /// Counted, and not as it must be. The demonstration has failed.
    #[error(
        "{} of {} acknowledged writes were found: {}",
        verdict.found(), verdict.acknowledged(), verdict.failures().join("; ")
    )]
    Disproved {
        /// The counts.
        verdict: Verdict,
    },
    /// The set does not say when an application was held.
    #[error("the set does not say when `{application}` was held")]
    NoHold {
        /// Which.
        application: &'static str,
    },
    /// The times of a hold are not in order.
    #[error("the hold of `{application}` is said to end before it begins ({hold:?})")]
    Disordered {
        /// Which.
        application: &'static str,
        /// The times.
        hold: Hold,
    },
    /// There is nothing to count by.
    #[error("what was acknowledged cannot be read")]
    Acks(#[from] AckError),
    /// A part of the application did not come back, or not readable.
    #[error("{} did not come back whole", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl CountError {
    fn unreadable<E: Into<Box<dyn std::error::Error + Send + Sync>>>(path: &Path) -> impl Fn(E) -> Self {
        move |source| Self::Unreadable { path: path.to_owned(), source: source.into() }
    }
}

impl From<AppError> for CountError {
    fn from(error: AppError) -> Self {
        match &error {
            AppError::Io { path, .. } | AppError::Unusable { path, .. } => {
                Self::Unreadable { path: path.clone(), source: error.into() }
            }
            AppError::Unknown { .. }
            | AppError::Busy { .. }
            | AppError::Database { .. }
            | AppError::Certificate(_)
            | AppError::Random(_)
            | AppError::Ack(_) => Self::Unreadable { path: PathBuf::new(), source: error.into() },
        }
    }
}

/// One write as the store has it.
struct Item {
    id: String,
    digest: String,
    begun_ns: u64,
}

/// What a store has.
struct Found {
    items: Vec<Item>,
    checks: Vec<Check>,
}

/// Counts what is in the scratch folder `dir` against the acknowledgements in `acks` and the holds of the set.
///
/// No application may be running. Databases are opened as the application would, so that a `-wal` may be folded in.
///
/// # Errors
/// [`CountError::Disproved`] when anything acknowledged before its freeze is missing or changed, when anything begun
/// after it is there, or when a check fails; the others when counting is not possible.
pub fn verify(dir: &Path, acks: &Path, holds: &BTreeMap<String, Hold>) -> Result<Verdict, CountError> {
    let verdict = count(dir, acks, holds)?;
    if verdict.failures().is_empty() { Ok(verdict) } else { Err(CountError::Disproved { verdict }) }
}

fn count(dir: &Path, acks: &Path, holds: &BTreeMap<String, Hold>) -> Result<Verdict, CountError> {
    let places = Places::new(dir);
    let ca = ca::read(&places)?;
    let serials = ids(&ca.items);
    let directory = directory::read(&places, &serials)?;
    let people = ids(&directory.items);
    let orchestrator = orchestrator::read(&places, &people)?;
    let applications = APPLICATIONS
        .into_iter()
        .map(|application| {
            let found = match application {
                CA => &ca,
                DIRECTORY => &directory,
                _ => &orchestrator,
            };
            let hold = *holds.get(application).ok_or(CountError::NoHold { application })?;
            if hold.called_ns > hold.taken_ns || hold.taken_ns > hold.released_ns {
                return Err(CountError::Disordered { application, hold });
            }
            Ok(compare(application, found, &ack::read(acks, application)?, hold))
        })
        .collect::<Result<_, CountError>>()?;
    Ok(Verdict { applications })
}

fn compare(application: &'static str, found: &Found, acks: &[ack::Ack], hold: Hold) -> Counted {
    let there: HashMap<&str, &str> =
        found.items.iter().map(|item| (item.id.as_str(), item.digest.as_str())).collect();
    let (before, later): (Vec<_>, Vec<_>) = acks.iter().partition(|ack| ack.acked_ns < hold.called_ns);
    let (mut missing, mut changed) = (Vec::new(), Vec::new());
    for ack in &before {
        match there.get(ack.id.as_str()) {
            Some(digest) if *digest == ack.digest => {}
            Some(_) => changed.push(ack.id.clone()),
            None => missing.push(ack.id.clone()),
        }
    }
    let begun = |from: u64, to: u64| {
        let between = |item: &&Item| item.begun_ns > from && item.begun_ns <= to;
        found.items.iter().filter(between).map(|item| item.id.clone()).collect()
    };
    let longest = later.iter().map(|ack| ack.acked_ns.saturating_sub(ack.begun_ns)).max().unwrap_or(0);
    Counted {
        application,
        acknowledged: before.len() as u64,
        found: (before.len() - missing.len() - changed.len()) as u64,
        missing,
        changed,
        begun_held: begun(hold.taken_ns, hold.released_ns),
        begun_after_thaw: begun(hold.released_ns, u64::MAX),
        later: later.len() as u64,
        present: found.items.len() as u64,
        longest_wait_ms: std::time::Duration::from_nanos(longest).as_secs_f64() * 1e3,
        checks: found.checks.clone(),
    }
}

fn ids(items: &[Item]) -> HashSet<String> {
    items.iter().map(|item| item.id.clone()).collect()
}

fn some(ids: &[String]) -> String {
    let more = if ids.len() > NAMED { ", …" } else { "" };
    ids.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}

/// Opens a database that was brought back, and has SQLite check all of it.
fn open_checked(path: &Path) -> Result<(rusqlite::Connection, Check), CountError> {
    use rusqlite::OpenFlags;
    let failed = CountError::unreadable::<rusqlite::Error>(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(path, flags).map_err(&failed)?;
    let mut check = Check::new("databases pass SQLite's integrity check");
    let answer: String =
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0)).map_err(&failed)?;
    check.note(answer == "ok", || answer.clone());
    Ok((connection, check))
}

#[cfg(test)]
mod tests;

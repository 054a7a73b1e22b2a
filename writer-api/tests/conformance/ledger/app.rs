//! A small application: it appends entries to a book under `flock`, and acknowledges them.
//!
//! ```text
//! lock         taken around each write
//! book         the entries, one a line
//! archive      earlier entries; never changes
//! accounts     without it the ledger does not open
//! key          nor without this
//! logs/*.log   three of them
//! running      locked while it runs
//! restoring    while it is there, or its lock is taken, the ledger does not start
//! ```

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast_writer_api::testkit::{Fixture, FixtureError, Poke, Subject, below};
use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

pub const ACCOUNTS: &str = "ledger 1\n";
pub const KEY: &str = "-----BEGIN LEDGER KEY-----\nc2VhbGVkLW9yLW5vdC1hdC1hbGw=\n-----END LEDGER KEY-----\n";

/// A running ledger.
pub struct Ledger {
    place: TempDir,
    subject: Subject,
    /// Its lock is held while the ledger runs.
    running: Option<File>,
    entries: usize,
}

impl Ledger {
    /// A new one, running; `subject` says for a folder how the writer is started.
    pub fn new(subject: impl FnOnce(&Path) -> Subject) -> Self {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path();
        for name in ["lock", "running", "book"] {
            fs::write(dir.join(name), "").unwrap();
        }
        fs::write(dir.join("accounts"), ACCOUNTS).unwrap();
        fs::write(dir.join("archive"), "a1\na2\na3\n").unwrap();
        fs::write(dir.join("key"), KEY).unwrap();
        fs::set_permissions(dir.join("key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::create_dir(dir.join("logs")).unwrap();
        for n in 1..=3 {
            fs::write(dir.join(format!("logs/{n}.log")), format!("log {n}\n")).unwrap();
        }
        let subject = subject(dir);
        let mut ledger = Self { place, subject, running: None, entries: 0 };
        assert!(ledger.comes_up());
        ledger
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn comes_up(&mut self) -> bool {
        if self.file("restoring").exists() || is_locked(&self.file("restoring-lock")) {
            return false;
        }
        let running = File::open(self.file("running")).unwrap();
        flock(&running, FlockOperation::LockExclusive).unwrap();
        self.running = Some(running);
        true
    }
}

/// Whether somebody has the lock of that file.
pub fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// Closing alone would not do: a process that another test is just starting has the open file as well, until it becomes
/// what it will be.
fn unlock(file: &File) {
    flock(file, FlockOperation::Unlock).unwrap();
}

/// The entries of the ledger at `dir`, as the ledger reads them: unfinished lines of the book do not count.
fn read(dir: &Path) -> Result<Vec<String>, FixtureError> {
    let file = |name: &str| {
        fs::read_to_string(dir.join(name))
            .map_err(|error| FixtureError::failed(format!("open `{name}`"), &error))
    };
    for (name, expected) in [("accounts", ACCOUNTS), ("key", KEY)] {
        if file(name)? != expected {
            return Err(FixtureError::because("open the ledger", format!("`{name}` is not what it was")));
        }
    }
    let (archive, book) = (file("archive")?, file("book")?);
    let whole = book.rfind('\n').map_or("", |end| &book[..end]);
    let entries: Vec<String> = archive.lines().chain(whole.lines()).map(str::to_owned).collect();
    let unique: HashSet<&String> = entries.iter().collect();
    assert_eq!(unique.len(), entries.len(), "an entry is there twice");
    Ok(entries)
}

#[async_trait]
impl Fixture for Ledger {
    fn writer(&self) -> Subject {
        self.subject.clone()
    }

    async fn poke(&mut self, patience: Duration) -> Result<Poke, FixtureError> {
        if self.running.is_none() {
            return Err(FixtureError::because("write", "the ledger is down"));
        }
        let until = Instant::now() + patience;
        let lock = File::open(self.file("lock")).unwrap();
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            if Instant::now() >= until {
                return Ok(Poke::Held);
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.entries += 1;
        let entry = format!("e{}", self.entries);
        let mut book = OpenOptions::new().append(true).open(self.file("book")).unwrap();
        writeln!(book, "{entry}").unwrap();
        book.sync_data().unwrap();
        unlock(&lock);
        Ok(Poke::Written(entry))
    }

    async fn contents(&mut self) -> Result<Vec<String>, FixtureError> {
        read(self.place.path())
    }

    async fn contents_of(&mut self, root: &Path) -> Result<Vec<String>, FixtureError> {
        read(&below(root, self.place.path()))
    }

    async fn stop(&mut self) -> Result<(), FixtureError> {
        if let Some(running) = self.running.take() {
            unlock(&running);
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<bool, FixtureError> {
        Ok(self.running.is_some() || self.comes_up())
    }

    async fn logs(&mut self) -> Result<Vec<String>, FixtureError> {
        let names = fs::read_dir(self.file("logs")).unwrap().map(|entry| entry.unwrap().file_name());
        Ok(names.map(|name| name.into_string().unwrap()).collect())
    }

    fn registers(&self) -> bool {
        true
    }
}

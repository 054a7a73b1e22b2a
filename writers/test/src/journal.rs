//! What the writer saw, one JSON object a line, durable before anybody gets an answer to it.
//!
//! Several writers may keep one journal: only then the rules about writers among each other can be checked. A line is
//! written by one call in append mode, so that lines of different processes never mix.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest journal that is read.
const MAX_BYTES: u64 = 1 << 30;

/// Why a journal cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// It cannot be opened, read or written.
    #[error("cannot {action} the journal {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The journal.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is none of ours.
    #[error("line {line} of {} is no line of a journal", path.display())]
    Line {
        /// The journal.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When it was written, in nanoseconds of the machine's monotonic clock.
    pub at_ns: u64,
    /// The writer's id.
    pub writer: String,
    /// Who wrote it: every process is one conversation.
    #[serde(flatten)]
    pub process: Process,
    /// What happened.
    #[serde(flatten)]
    pub record: Record,
}

/// A process that another one with the same number is not taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did.
    pub since: u64,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum Record {
    /// A process of the writer began.
    Started {
        /// The process that started it: the requester.
        requester: u32,
    },
    /// A call came.
    Called {
        /// The method; with its interface, if it is another than ours.
        method: String,
        /// Its parameters.
        parameters: Value,
        /// The error it was refused with, if it was no call that could be understood.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refused: Option<String>,
        /// The files and folders it names, and whether they are there.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        seen: Vec<Seen>,
        /// The commands that were run because of it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        looked: Vec<Looked>,
    },
    /// It was answered; the answer went out after this line.
    Answered {
        /// The method.
        method: String,
        /// The error's full name, if it was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// The reply, or the error's parameters.
        parameters: Value,
    },
    /// It was not answered as the protocol wants it.
    Misbehaved {
        /// The method.
        method: String,
        /// `do` of the script.
        how: String,
    },
    /// A message came that was none, and the conversation ended.
    Nonsense {
        /// What was wrong with it.
        why: String,
    },
    /// Something came while a call was still being answered.
    Early {},
    /// The requester hung up while the call was being answered: it waits no longer.
    HungUp {
        /// The method.
        method: String,
    },
    /// The hold was ended by its own deadline.
    Released {},
    /// A stream was read to its end.
    Streamed {
        /// Which.
        name: String,
        /// How many bytes went into it.
        bytes: u64,
    },
    /// The socket was closed.
    Ended {
        /// The requester's process was gone as well.
        requester_gone: bool,
    },
}

/// A file or folder that a call named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Where the application has it.
    pub original: PathBuf,
    /// Where the requester says that it lies; absent if it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<PathBuf>,
    /// Whether it lies there.
    pub found: bool,
}

/// A command of the script's `[[look]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Its exit code; absent if it could not be started, or a signal ended it.
    pub code: Option<i32>,
    /// The end of what it said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub said: String,
}

/// A journal being kept.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    writer: String,
    process: Process,
}

impl Journal {
    /// Opens it to be gone on with, and makes it if it is not there.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn open(path: &Path, writer: &str) -> Result<Self, JournalError> {
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| JournalError::Io { action: "open", path: path.to_owned(), source })?;
        Ok(Self { file, path: path.to_owned(), writer: writer.to_owned(), process: Process::this() })
    }

    /// Adds a line of this process.
    ///
    /// # Errors
    /// [`JournalError::Io`]; nobody may be answered then.
    pub fn add(&mut self, record: Record) -> Result<(), JournalError> {
        self.add_of(self.process, record)
    }

    /// Adds a line of another process of this writer.
    ///
    /// # Errors
    /// As [`Journal::add`].
    pub fn add_of(&mut self, process: Process, record: Record) -> Result<(), JournalError> {
        let line = Line { at_ns: now_ns(), writer: self.writer.clone(), process, record };
        let written = serde_json::to_vec(&line).map_err(io::Error::from).and_then(|mut bytes| {
            bytes.push(b'\n');
            self.file.write_all(&bytes)?;
            self.file.sync_data()
        });
        written.map_err(|source| JournalError::Io { action: "write", path: self.path.clone(), source })
    }
}

/// All lines of a journal. One that is not there yet is empty.
///
/// # Errors
/// [`JournalError`], with the line.
pub fn read(path: &Path) -> Result<Vec<Line>, JournalError> {
    let failed = |source| JournalError::Io { action: "read", path: path.to_owned(), source };
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let lines = bytes.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(n, line)| {
            let wrong = |source| JournalError::Line { path: path.to_owned(), line: n + 1, source };
            serde_json::from_slice(line).map_err(wrong)
        })
        .collect()
}

impl Process {
    /// The one that runs this.
    pub fn this() -> Self {
        let pid = std::process::id();
        Self { pid, since: Self::stat(pid).map_or(0, |(_, since)| since) }
    }

    /// The one that has this number now.
    pub fn of(pid: u32) -> Self {
        Self { pid, since: Self::stat(pid).map_or(0, |(_, since)| since) }
    }

    /// Whether it runs. A zombie holds nothing, and does not.
    pub fn is_alive(self) -> bool {
        matches!(Self::stat(self.pid), Some((state, since)) if state != 'Z' && state != 'X' && since == self.since)
    }

    /// Its state, and when it started.
    fn stat(pid: u32) -> Option<(char, u64)> {
        let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
        // The second field is a name in parentheses, and may contain anything.
        let end = text.iter().rposition(|byte| *byte == b')')?;
        let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        // State is field 3, the start time field 22.
        Some((state, fields.nth(18)?.parse().ok()?))
    }
}

/// Nanoseconds of the machine's monotonic clock.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.ndjson");
        assert_eq!(read(&path).unwrap(), []);
        let mut journal = Journal::open(&path, "w").unwrap();
        let seen = Seen { original: "/srv".into(), at: None, found: false };
        let called = Record::Called {
            method: "Freeze".into(),
            parameters: serde_json::json!({"set": "x", "budget_ms": 5}),
            refused: None,
            seen: vec![seen],
            looked: vec![Looked { command: vec!["true".into()], code: Some(0), said: String::new() }],
        };
        for record in [Record::Started { requester: 1 }, called, Record::Early {}, Record::Released {}] {
            journal.add(record.clone()).unwrap();
            let last = read(&path).unwrap().pop().unwrap();
            assert_eq!((last.writer.as_str(), last.process, last.record), ("w", Process::this(), record));
        }
        assert!(Process::this().is_alive());
        assert!(!Process { since: 1, ..Process::this() }.is_alive());
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.ndjson");
        Journal::open(&path, "w").unwrap().add(Record::Early {}).unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"record\":\"something\"}\n").unwrap();
        assert!(matches!(read(&path), Err(JournalError::Line { line: 2, .. })));
    }
}

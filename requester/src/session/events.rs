//! The event log of a session: NDJSON with monotonic times, from which window, skew and holds are
//! computed.
//!
//! Nothing is written between the first freeze and the last thaw: the log may lie on the very disk that
//! is held. Events are kept in memory and written by [`EventLog::flush`].

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use holdfast_writer_api::state;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Nanoseconds on the machine's monotonic clock: the same for every process on it.
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// A line of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, on the monotonic clock, in nanoseconds.
    pub at_ns: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are the documentation; docs/operations.md lists them")]
pub enum What {
    SessionStarted {
        set: Uuid,
        pid: u32,
        time: String,
    },
    Leftover {
        what: String,
        outcome: String,
    },
    Phase {
        name: String,
    },
    Writer {
        writer: String,
        moved: state::Event,
        state: state::State,
    },
    Held {
        writer: String,
        position: String,
        proof: String,
    },
    WriterFailed {
        writer: String,
        error: String,
    },
    WriterSaid {
        writer: String,
        text: String,
        /// Lines before this one that were dropped: it talks faster than anybody asks.
        #[serde(default, skip_serializing_if = "is_zero")]
        dropped: u64,
    },
    CommitStarted {
        volumes: usize,
    },
    CommitDone {
        provider: String,
        volume: PathBuf,
        commit_ms: f64,
    },
    CommitFailed {
        error: String,
    },
    SetStored {
        set: Uuid,
        bytes: u64,
        files: u64,
    },
    Truncated {
        writer: String,
        logs: Vec<String>,
    },
    SessionEnded {
        outcome: String,
    },
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// The log of one session.
#[derive(Debug)]
pub struct EventLog {
    file: Option<File>,
    entries: Vec<Entry>,
    written: usize,
}

impl EventLog {
    /// A log in `path`, which must not exist yet.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        Ok(Self { file: Some(file), entries: Vec::with_capacity(256), written: 0 })
    }

    /// A log that is only kept in memory.
    pub fn in_memory() -> Self {
        Self { file: None, entries: Vec::new(), written: 0 }
    }

    /// Makes room for what a session with so many writers records while it holds, so that nothing is
    /// allocated then.
    pub fn reserve(&mut self, writers: usize) {
        self.entries.reserve(writers * 8 + 64);
    }

    /// Records an event now. Does not touch the disk.
    pub fn record(&mut self, what: What) -> u64 {
        let at_ns = now_ns();
        self.record_at(at_ns, what);
        at_ns
    }

    /// Records an event that was timed elsewhere.
    pub fn record_at(&mut self, at_ns: u64, what: What) {
        self.entries.push(Entry { at_ns, what });
    }

    /// Writes what was not written yet. A log that cannot be written never stops a session: what it is
    /// for goes into the set as well.
    pub fn flush(&mut self) {
        // Writers report their moves after the fact; a log is read from top to bottom.
        self.entries[self.written..].sort_by_key(|entry| entry.at_ns);
        let text = to_ndjson(&self.entries[self.written..]);
        self.written = self.entries.len();
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&text).and_then(|()| file.sync_data())
        {
            tracing::warn!(%error, "the session's event log cannot be written");
            self.file = None;
        }
    }

    /// The whole log in order of time, for the set.
    pub fn document(&self) -> Vec<u8> {
        let mut entries = self.entries.clone();
        entries.sort_by_key(|entry| entry.at_ns);
        to_ndjson(&entries)
    }

    /// All entries, as they were recorded.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// One JSON object a line.
fn to_ndjson(entries: &[Entry]) -> Vec<u8> {
    let mut text = Vec::new();
    for entry in entries {
        // Our entries have string keys and finite numbers only.
        let _ = serde_json::to_writer(&mut text, entry);
        text.push(b'\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_disk_before_flush_and_every_line_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = EventLog::create(&path).unwrap();
        log.record(What::Phase { name: "freeze".into() });
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        log.flush();
        log.record(What::SessionEnded { outcome: "ok".into() });
        log.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        let back: Vec<Entry> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(back, log.entries());
        assert!(back[0].at_ns <= back[1].at_ns);
    }
}

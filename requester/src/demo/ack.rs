//! Acknowledgements: what an application told its clients, one JSON object a line, outside of what is backed up.
//!
//! A line is written after the write it speaks of is durable. The log itself is not synced: it has to outlive its
//! application, which dies by SIGKILL, and not the machine.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longer lines are not ours.
const MAX_LINE: u64 = 4096;

/// One acknowledged write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Counts the application's writes, from 1.
    pub n: u64,
    /// What was written: a serial number, a distinguished name, a secret's name.
    pub id: String,
    /// SHA-256 over what was written, so that "found" means these very bytes.
    pub digest: String,
    /// `CLOCK_MONOTONIC` before the first thing was done for it, in nanoseconds.
    pub begun_ns: u64,
    /// `CLOCK_MONOTONIC` once it was durable, in nanoseconds.
    pub acked_ns: u64,
}

/// Why acknowledgements cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AckError {
    /// The system refused.
    #[error("the acknowledgements in {} cannot be used", path.display())]
    Io {
        /// The log.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A whole line that no application of ours wrote: nothing can be counted by it.
    #[error("{}:{line} is no acknowledgement", path.display())]
    Malformed {
        /// The log.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What was expected.
        #[source]
        source: serde_json::Error,
    },
}

/// Where `application` writes them.
pub fn path(folder: &Path, application: &str) -> PathBuf {
    folder.join(format!("{application}.ndjson"))
}

/// The log of a running application.
#[derive(Debug)]
pub(super) struct AckLog {
    path: PathBuf,
    file: File,
}

impl AckLog {
    /// Opens the log at its end. A last line that was cut off was never read as an acknowledgement and is removed.
    pub(super) fn open(folder: &Path, application: &str) -> Result<Self, AckError> {
        let path = path(folder, application);
        let failed = |source| AckError::Io { path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        let (_, whole) = tail(&file).map_err(failed)?;
        file.set_len(whole).map_err(failed)?;
        Ok(Self { path, file })
    }

    /// Appends one line in one call, so that a kill leaves all of it or nothing.
    pub(super) fn append(&mut self, ack: &Ack) -> Result<(), AckError> {
        let failed = |source| AckError::Io { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(ack).map_err(|error| failed(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(failed)
    }
}

/// All whole lines, in order. No log at all is none acknowledged.
///
/// # Errors
/// [`AckError`].
pub fn read(folder: &Path, application: &str) -> Result<Vec<Ack>, AckError> {
    let path = path(folder, application);
    let failed = |source| AckError::Io { path: path.clone(), source };
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let (mut reader, mut acks, mut line) = (BufReader::new(file), Vec::new(), Vec::new());
    loop {
        line.clear();
        (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).map_err(failed)?;
        if line.last() != Some(&b'\n') && (line.len() as u64) < MAX_LINE {
            // The end, or a line cut off by a kill: nobody was told.
            return Ok(acks);
        }
        let number = acks.len() as u64 + 1;
        let malformed = |source| AckError::Malformed { path: path.clone(), line: number, source };
        acks.push(serde_json::from_slice(&line).map_err(malformed)?);
    }
}

/// How many there are; cheap enough to ask again and again.
pub(super) fn count(folder: &Path, application: &str) -> io::Result<u64> {
    match std::fs::read(path(folder, application)) {
        Ok(bytes) => Ok(bytes.iter().filter(|byte| **byte == b'\n').count() as u64),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// The latest acknowledgement: what a client of that application knows to be there. None yet, or unreadable: `None`.
pub(super) fn latest(folder: &Path, application: &str) -> Option<Ack> {
    let file = File::open(path(folder, application)).ok()?;
    let (bytes, _) = tail(&file).ok()?;
    let whole = &bytes[..=bytes.iter().rposition(|byte| *byte == b'\n')?];
    let line = whole[..whole.len() - 1].rsplit(|byte| *byte == b'\n').next()?;
    serde_json::from_slice(line).ok()
}

/// The end of the log, and its length without a line that was cut off.
fn tail(mut file: &File) -> io::Result<(Vec<u8>, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    let start = length.saturating_sub(2 * MAX_LINE);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(2 * MAX_LINE).read_to_end(&mut bytes)?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
    Ok((bytes, start + whole))
}

/// SHA-256 in hexadecimal over `parts`, each with its length, so that no two lists give the same.
pub(super) fn digest(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex(&hash.finalize())
}

/// Lower-case hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ack(n: u64) -> Ack {
        Ack { n, id: format!("id-{n}"), digest: digest(&[b"x"]), begun_ns: n, acked_ns: n + 1 }
    }

    #[test]
    fn what_was_acknowledged_reads_back_in_order_and_a_cut_off_line_does_not_count() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), "ca").unwrap(), []);
        let mut log = AckLog::open(dir.path(), "ca").unwrap();
        assert_eq!(latest(dir.path(), "ca"), None);
        for n in 1..=100 {
            log.append(&ack(n)).unwrap();
        }
        log.file.write_all(br#"{"n":101,"id":"#).unwrap();
        let all: Vec<Ack> = (1..=100).map(ack).collect();
        assert_eq!(read(dir.path(), "ca").unwrap(), all);
        assert_eq!(latest(dir.path(), "ca"), Some(ack(100)));
        assert_eq!(count(dir.path(), "ca").unwrap(), 100);
        // The next run of the application goes on after the last whole line.
        AckLog::open(dir.path(), "ca").unwrap().append(&ack(101)).unwrap();
        assert_eq!(read(dir.path(), "ca").unwrap().len(), 101);
    }

    #[test]
    fn a_line_that_is_no_acknowledgement_is_named() {
        let dir = tempfile::tempdir().unwrap();
        AckLog::open(dir.path(), "ca").unwrap().append(&ack(1)).unwrap();
        let mut text = std::fs::read(path(dir.path(), "ca")).unwrap();
        text.extend_from_slice(b"nonsense\n");
        std::fs::write(path(dir.path(), "ca"), &text).unwrap();
        assert!(matches!(read(dir.path(), "ca"), Err(AckError::Malformed { line: 2, .. })));
        std::fs::write(path(dir.path(), "ca"), vec![b'x'; 10_000]).unwrap();
        assert!(matches!(read(dir.path(), "ca"), Err(AckError::Malformed { line: 1, .. })));
    }
}

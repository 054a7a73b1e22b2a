//! Names the files that make up a database on disk.
//! Owns: what belongs into a copy and what does not, and the super-journal's trace.
//! Leaves to others: copying.

use std::ffi::OsString;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{SqliteError, access};

const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
/// SQLite itself allows 512 bytes.
const LONGEST_NAME: usize = 4096;

/// One file of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub role: FileRole,
    /// It may be missing at any moment, and its absence says something: a restore must then remove it at the target.
    pub optional: bool,
}

/// What a file is to its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileRole {
    /// The database file.
    Database,
    /// The write-ahead log.
    Wal,
    /// The rollback journal.
    Journal,
}

/// What to copy, and what to remove before a copy is put back: the database, its `-wal`, its `-journal`. Both logs are
/// named whatever the journal mode, since it can change until the hold.
///
/// Never `-shm`: it is rebuilt, and a copy of it would be of another instant. A transaction over several attached
/// databases has a super-journal of its own beside the first of them; under a hold there is none, and
/// [`pending_super_journal`] finds its trace in a copy that was cut without one.
#[must_use]
pub fn component_files(database: &Path) -> Vec<ComponentFile> {
    vec![
        ComponentFile { path: database.to_owned(), role: FileRole::Database, optional: false },
        ComponentFile { path: access::beside(database, "-wal"), role: FileRole::Wal, optional: true },
        ComponentFile { path: access::beside(database, "-journal"), role: FileRole::Journal, optional: true },
    ]
}

/// The super-journal named by the hot journal beside `database`, if there is one: the database was cut in the middle of
/// committing a transaction over several databases. Whether that transaction counts is decided by the super-journal's
/// existence, for all of them together.
///
/// # Errors
/// [`SqliteError::Symlink`], [`SqliteError::NotRegular`], [`SqliteError::Io`].
pub fn pending_super_journal(database: &Path) -> Result<Option<PathBuf>, SqliteError> {
    let Some(journal) = Journal::open(database)? else { return Ok(None) };
    // Layout of the end: name, its length, the sum of its bytes, the magic.
    let Some(tail_at) = journal.bytes.checked_sub(16) else { return Ok(None) };
    let mut tail = [0; 16];
    if journal.read(&mut tail, tail_at)?.is_none() {
        return Ok(None);
    }
    let [l0, l1, l2, l3, s0, s1, s2, s3, magic @ ..] = tail;
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let Some(name_at) = tail_at.checked_sub(length as u64) else { return Ok(None) };
    if magic != JOURNAL_MAGIC || length == 0 || length > LONGEST_NAME || !journal.is_hot()? {
        return Ok(None);
    }
    let mut name = vec![0; length];
    if journal.read(&mut name, name_at)?.is_none() {
        return Ok(None);
    }
    // `char` is signed where SQLite usually runs, and unsigned on ARM: either sum is genuine.
    let unsigned = name.iter().fold(0_u32, |sum, b| sum.wrapping_add(u32::from(*b)));
    let signed = name.iter().fold(0_u32, |sum, b| sum.wrapping_add_signed(i32::from(b.cast_signed())));
    let sum = u32::from_be_bytes([s0, s1, s2, s3]);
    Ok((sum == unsigned || sum == signed).then(|| OsString::from_vec(name).into()))
}

/// Whether the journal beside `database` would be rolled back by whoever opens it next, if nobody is writing.
pub(crate) fn journal_is_hot(database: &Path) -> Result<bool, SqliteError> {
    Journal::open(database)?.map_or(Ok(false), |journal| journal.is_hot())
}

struct Journal {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Journal {
    fn open(database: &Path) -> Result<Option<Self>, SqliteError> {
        let path = access::beside(database, "-journal");
        let Some(found) = access::find_optional(&path)? else { return Ok(None) };
        // No locks live on a journal, so that it may be opened and closed freely.
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { path, file, bytes: found.bytes })),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(SqliteError::io(&path, "open", e)),
        }
    }

    /// SQLite's own rule: a journal whose first byte is not zero.
    fn is_hot(&self) -> Result<bool, SqliteError> {
        let mut first = [0];
        Ok(self.read(&mut first, 0)?.is_some() && first != [0])
    }

    /// `None` if the file ends before.
    fn read(&self, buffer: &mut [u8], at: u64) -> Result<Option<()>, SqliteError> {
        match self.file.read_exact_at(buffer, at) {
            Ok(()) => Ok(Some(())),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(SqliteError::io(&self.path, "read", e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn journal(name: &[u8], sum: u32, magic: [u8; 8]) -> Vec<u8> {
        let mut bytes = JOURNAL_MAGIC.to_vec();
        bytes.resize(512, 0);
        bytes.extend(name);
        bytes.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
        bytes.extend(sum.to_be_bytes());
        bytes.extend(magic);
        bytes
    }

    #[test]
    fn a_super_journal_is_found_only_in_a_whole_and_hot_journal() {
        let dir = tempfile::tempdir().unwrap();
        let database = dir.path().canonicalize().unwrap().join("db");
        let path = access::beside(&database, "-journal");
        let name = b"/srv/a/db-mj1A2B3C4D5";
        let sum: u32 = name.iter().map(|b| u32::from(*b)).sum();
        assert_eq!(pending_super_journal(&database).unwrap(), None);

        let whole = journal(name, sum, JOURNAL_MAGIC);
        fs::write(&path, &whole).unwrap();
        assert_eq!(pending_super_journal(&database).unwrap(), Some(PathBuf::from("/srv/a/db-mj1A2B3C4D5")));

        let mut persisted = whole.clone();
        persisted[..28].fill(0);
        let mut endless = whole.clone();
        let at = endless.len() - 16;
        endless[at..at + 4].fill(0xff);
        for other in [
            journal(name, sum + 1, JOURNAL_MAGIC),
            journal(name, sum, [0; 8]),
            journal(b"", 0, JOURNAL_MAGIC),
            persisted,
            endless,
            whole[..15].to_vec(),
            Vec::new(),
        ] {
            fs::write(&path, other).unwrap();
            assert_eq!(pending_super_journal(&database).unwrap(), None);
        }
    }
}

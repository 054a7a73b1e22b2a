//! Says what a copy cut under a hold must look like, and checks one against it.
//! Owns: the mark, how it is read without harming the hold's locks, the comparison.
//! Leaves to others: whether the content is sound (`verify`), bringing it into one file (`recover`).

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::access::{self, Identity};
use crate::{Hold, JournalFamily, SqliteError, copy, files, wal};

/// A database's position, read while it is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// How changes are written.
    pub journal: JournalFamily,
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages of the database, those only in the WAL included.
    pub page_count: u32,
    /// Changes whenever the schema changes.
    pub schema_cookie: u32,
    /// The database file's change counter, which grows with each transaction. Rollback modes only: in WAL mode it stands
    /// still, and a checkpoint may move it under the hold.
    pub change_counter: Option<u32>,
    /// The log's position; `None` in the rollback modes, or if there is no log.
    pub wal: Option<WalMark>,
}

/// A position in a `-wal` file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalMark {
    /// The salts in the file's header, which every frame of this round repeats.
    pub salts: [u32; 2],
    /// The header's checkpoint sequence.
    pub checkpoint_sequence: u32,
    /// The last frame of the last transaction. Zero: everything is in the database file, and whatever frames the log still
    /// shows are old ones that change nothing.
    pub frames: u32,
}

impl Hold {
    /// Reads the position. Takes no longer for a large log than for a small one: under the hold the WAL index names the
    /// last committed frame, which is compared with the log.
    ///
    /// # Errors
    /// [`SqliteError::WalIndex`], [`SqliteError::Replaced`], [`SqliteError::Io`], or SQLite's own.
    pub fn mark(&self) -> Result<Mark, SqliteError> {
        let database = self.database();
        let path = &database.path;
        let number = |sql: &str| {
            database
                .connection
                .query_row(sql, (), |row| row.get::<_, u32>(0))
                .map_err(|e| SqliteError::engine(path, "read the position of", e))
        };
        let journal = self.journal()?;
        let page_count = number("PRAGMA page_count")?;
        let mut mark = Mark {
            journal,
            page_size: number("PRAGMA page_size")?,
            page_count,
            schema_cookie: number("PRAGMA schema_version")?,
            change_counter: None,
            wal: None,
        };
        match journal {
            JournalFamily::Rollback => {
                let mut counter = [0; 4];
                read_held(path, database.identity, &mut counter, 24)?;
                mark.change_counter = Some(u32::from_be_bytes(counter));
            }
            JournalFamily::Wal => mark.wal = wal_mark(path, page_count)?,
        }
        Ok(mark)
    }
}

/// The WAL index's header, kept twice; see `WalIndexHdr` in SQLite's `wal.c`. Words are in the machine's order.
const INDEX_HEADER_BYTES: usize = 48;

fn wal_mark(database: &Path, page_count: u32) -> Result<Option<WalMark>, SqliteError> {
    let misfit = |what| SqliteError::WalIndex { path: database.to_owned(), what };
    let shm = access::beside(database, "-shm");
    let identity = match access::find(&shm) {
        Ok(found) => found.identity,
        Err(SqliteError::Missing { path }) => return Err(SqliteError::Replaced { path }),
        Err(other) => return Err(other),
    };
    let mut index = [0; 2 * INDEX_HEADER_BYTES];
    read_held(&shm, identity, &mut index, 0)?;
    let (first, second) = index.split_at(INDEX_HEADER_BYTES);
    // Nobody may write it while we hold WRITE; a writer killed in between left them unequal, and `BEGIN` repaired it.
    if first != second {
        return Err(misfit("its two headers differ"));
    }
    let native =
        |at: usize| first.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_ne_bytes);
    let (frames, pages) = (native(16), native(20));
    // The salts are copied from the log byte by byte.
    let salts = [u32::from_be(native(32)), u32::from_be(native(36))];

    match (wal::peek(&access::beside(database, "-wal"), frames)?, frames) {
        (None, 0) => Ok(None),
        (Some((header, _)), 0) => {
            Ok(Some(WalMark { salts: header.salts, checkpoint_sequence: header.checkpoint_sequence, frames }))
        }
        (None, _) => Err(misfit("the log has no valid header")),
        (Some((header, end)), _) => {
            let end = end.ok_or_else(|| misfit("the log ends before the last committed frame"))?;
            if header.salts != salts || end.salts != salts {
                return Err(misfit("the salts differ"));
            }
            if end.page_count != pages || pages != page_count {
                return Err(misfit("the number of pages differs"));
            }
            Ok(Some(WalMark { salts, checkpoint_sequence: header.checkpoint_sequence, frames }))
        }
    }
}

/// Reads from a file this process has locks on, through the descriptor SQLite already has: opening one of our own and
/// closing it would drop the locks.
fn read_held(path: &Path, identity: Identity, buffer: &mut [u8], at: u64) -> Result<(), SqliteError> {
    let failed = |e: io::Error| SqliteError::io(path, "read", e);
    let mut last = None;
    for descriptor in access::own_descriptors(identity).map_err(failed)? {
        // SAFETY: the descriptor is one of this file's in our process, seen a moment ago. SQLite's stays open as long as
        // the connection, which the hold owns. Should it be another's that was closed meanwhile, `pread` reads from
        // another file or answers EBADF; it changes nothing.
        let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
        match rustix::io::pread(borrowed, &mut *buffer, at) {
            Ok(read) if read == buffer.len() => return Ok(()),
            Ok(_) => last = Some(io::Error::from(ErrorKind::UnexpectedEof)),
            // An `O_PATH` handle answers EBADF.
            Err(e) => last = Some(e.into()),
        }
    }
    Err(last.map_or_else(|| SqliteError::Replaced { path: path.to_owned() }, failed))
}

/// Checks that a private copy (the database with its `-wal` or `-journal` beside it) is of the instant of `mark`, before
/// anything recovers it. This is what notices a log of another time beside the database, which SQLite itself may
/// replay without a word.
///
/// Changes nothing. Reads the `-wal` once.
///
/// # Errors
/// [`SqliteError::MarkMismatch`] names the first difference. [`SqliteError::InUse`]: not a private copy. Otherwise as
/// [`verify_copy`](crate::verify_copy).
pub fn check_against_mark(database_copy: &Path, mark: &Mark) -> Result<(), SqliteError> {
    let path = copy::private(database_copy)?;
    let mut header = [0; 100];
    let file = File::open(&path).map_err(|e| SqliteError::io(&path, "open", e))?;
    match file.read_exact_at(&mut header, 0) {
        Ok(()) if header.starts_with(b"SQLite format 3\0") => {}
        Ok(()) => return Err(SqliteError::NotADatabase { path, source: None }),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
            return Err(SqliteError::NotADatabase { path, source: None });
        }
        Err(e) => return Err(SqliteError::io(&path, "read", e)),
    }
    let bytes = file.metadata().map_err(|e| SqliteError::io(&path, "look at", e))?.len();
    let word =
        |at: usize| header.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_be_bytes);
    let expect = |field: &'static str, expected: String, found: String| {
        if expected == found {
            Ok(())
        } else {
            Err(SqliteError::MarkMismatch { path: path.clone(), field, expected, found })
        }
    };

    let journal = if header[18] == 2 { JournalFamily::Wal } else { JournalFamily::Rollback };
    expect("the journal family", format!("{:?}", mark.journal), format!("{journal:?}"))?;
    // Stored as 1 for 65536, which does not fit.
    let page_size = match u16::from_be_bytes([header[16], header[17]]) {
        1 => 65536,
        small => u32::from(small),
    };
    expect("the page size", mark.page_size.to_string(), page_size.to_string())?;

    let needed = u64::from(mark.page_count) * u64::from(mark.page_size);
    let long_enough = || {
        let field = "the length of the file";
        // An application may have it grow in chunks, so that more is no difference.
        if bytes >= needed { Ok(()) } else { expect(field, needed.to_string(), bytes.to_string()) }
    };
    match mark.journal {
        JournalFamily::Rollback => {
            if let Some(counter) = mark.change_counter {
                expect("the change counter", counter.to_string(), word(24).to_string())?;
            }
            expect("the schema cookie", mark.schema_cookie.to_string(), word(40).to_string())?;
            long_enough()?;
            // Under a hold no transaction is under way.
            expect("a hot journal", false.to_string(), files::journal_is_hot(&path)?.to_string())
        }
        JournalFamily::Wal => {
            let log = access::beside(&path, "-wal");
            let scan = access::find_optional(&log)?.map(|_| wal::scan_wal(&log)).transpose()?;
            let header = scan.and_then(|s| s.header);
            let salts = |s: [u32; 2]| format!("{:08x}{:08x}", s[0], s[1]);
            let of_copy = header.map_or_else(|| "absent".to_owned(), |h| salts(h.salts));
            match &mark.wal {
                None if header.is_none() => long_enough(),
                None => expect("the log", "absent".to_owned(), of_copy),
                // Everything is in the database file: the log may be missing, but not be another one.
                Some(log) if log.frames == 0 => {
                    if header.is_some() {
                        expect("the log's salts", salts(log.salts), of_copy)?;
                    }
                    long_enough()
                }
                Some(log) => {
                    expect("the log's salts", salts(log.salts), of_copy)?;
                    let (frames, pages) = scan.map_or((0, 0), |s| (s.committed_frames, s.page_count));
                    expect("the log's last frame", log.frames.to_string(), frames.to_string())?;
                    expect("the number of pages", mark.page_count.to_string(), pages.to_string())
                }
            }
        }
    }
}

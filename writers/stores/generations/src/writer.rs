//! Writes one generation, record by record, and closes it.
//! Owns: the temporary name, both hashes, what is durable when, going back to an earlier position.
//! Leaves to others: which pages belong into a record, and when a generation is closed.

use std::fs::{self, File};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::format::{RECORD_HEAD_BYTES, checksum};
use crate::reader::{Reader, prefix};
use crate::{
    Database, Footer, Generation, Header, Kind, LogError, MAX_DATABASES, Place, Prefix, RecordHead,
    file_name, unsealed_name,
};

/// A generation being written. It has its [final name](file_name) only once it is closed and durable; until then that of
/// [`unsealed_name`]. Dropping it leaves it so, for [`reopen`](Self::reopen).
///
/// After an error of the file system nothing more is accepted: what is in the file is known again only by reading it.
#[derive(Debug)]
pub struct GenerationWriter {
    folder: PathBuf,
    unsealed: PathBuf,
    file: BufWriter<File>,
    so_far: Prefix,
    /// In the middle of a record, or after an error.
    broken: bool,
}

/// A place between two records of one writer, to go back to.
#[derive(Debug, Clone)]
pub struct Position {
    so_far: Prefix,
}

impl GenerationWriter {
    /// Begins generation 1 of a new chain in `folder`. Times are in milliseconds since 1970 (UTC).
    ///
    /// # Errors
    /// - [`LogError::InvalidParameter`]: no database or more than [`MAX_DATABASES`], a path that is not absolute or too
    ///   long, an impossible page size, the nil chain.
    /// - [`LogError::FileAlreadyExists`]: the folder has a generation 1, closed or not.
    /// - [`LogError::InvalidPath`], [`LogError::DiskFull`], [`LogError::DiskIo`].
    pub fn begin_chain(
        folder: &Path,
        chain: Uuid,
        databases: Vec<Database>,
        now_ms: u64,
    ) -> Result<Self, LogError> {
        if chain.is_nil() {
            return Err(LogError::InvalidParameter { what: "the nil chain is no signature" });
        }
        if databases.is_empty() || databases.len() > MAX_DATABASES {
            return Err(LogError::InvalidParameter { what: "a chain has from 1 to 256 databases" });
        }
        for database in &databases {
            database.check().map_err(|what| LogError::InvalidParameter { what })?;
        }
        let predecessor = [0; 32];
        Self::create(
            folder,
            Header { chain, number: 1, predecessor, commit_before: 0, created_ms: now_ms, databases },
        )
    }

    /// Begins the generation after `before` in `folder`. A clock that went back stands still instead.
    ///
    /// # Errors
    /// As [`begin_chain`](Self::begin_chain); [`LogError::LogSequenceEnd`].
    pub fn follow(folder: &Path, before: &Generation, now_ms: u64) -> Result<Self, LogError> {
        let number = before.header.number.checked_add(1).ok_or(LogError::LogSequenceEnd)?;
        let header = Header {
            number,
            predecessor: before.sha256,
            commit_before: before.footer.last_commit,
            created_ms: now_ms.max(before.footer.sealed_ms),
            ..before.header.clone()
        };
        Self::create(folder, header)
    }

    fn create(folder: &Path, header: Header) -> Result<Self, LogError> {
        if !folder.is_dir() {
            return Err(LogError::InvalidPath { path: folder.to_owned(), why: "is not a folder" });
        }
        let sealed = folder.join(file_name(header.number));
        if fs::symlink_metadata(&sealed).is_ok() {
            return Err(LogError::FileAlreadyExists { path: sealed });
        }
        let unsealed = folder.join(unsealed_name(header.number));
        // It will have pages of a database: not for others to read.
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&unsealed)
            .map_err(|e| LogError::io(&unsealed, "create", e))?;
        let bytes = header.encode();
        let so_far = Prefix {
            records: 0,
            last_commit: header.commit_before,
            last_ms: header.created_ms,
            page_counts: vec![0; header.databases.len()],
            bytes: bytes.len() as u64,
            hash: Sha256::new_with_prefix(&bytes),
            header,
        };
        let file = BufWriter::with_capacity(1 << 18, file);
        let mut writer = Self { folder: folder.to_owned(), unsealed, file, so_far, broken: false };
        let written = writer.file.write_all(&bytes).and_then(|()| writer.file.flush());
        if let Err(e) = written.map_err(|e| LogError::io(&writer.unsealed, "write", e)) {
            // Without a header it could not even be reopened, and it would be in the way of the next try.
            let _ = fs::remove_file(&writer.unsealed);
            return Err(e);
        }
        sync_folder(folder)?;
        Ok(writer)
    }

    /// Takes up generation `number` where a writer that was killed left it: at the end of its last whole record. What
    /// follows it is cut off.
    ///
    /// # Errors
    /// [`LogError::FileNotFound`], the errors of a live generation's header, [`LogError::LogGenerationMismatch`],
    /// [`LogError::DiskIo`].
    pub fn reopen(folder: &Path, number: u32) -> Result<Self, LogError> {
        let unsealed = folder.join(unsealed_name(number));
        let so_far = prefix(Reader::open(&unsealed, Place::Live)?)?;
        if so_far.header.number != number {
            return Err(LogError::LogGenerationMismatch { path: unsealed, number: so_far.header.number });
        }
        let failed = |e| LogError::io(&unsealed, "reopen", e);
        let mut file = File::options().write(true).open(&unsealed).map_err(failed)?;
        file.set_len(so_far.bytes).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        let file = BufWriter::with_capacity(1 << 18, file);
        Ok(Self { folder: folder.to_owned(), unsealed, file, so_far, broken: false })
    }

    /// What the generation says about itself.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.so_far.header
    }

    /// The last record's commit number, or the last one before this generation.
    #[must_use]
    pub const fn last_commit(&self) -> u64 {
        self.so_far.last_commit
    }

    /// Bytes up to the last whole record.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.so_far.bytes
    }

    /// Begins a record: a database of the table by its index, which will have `page_count` pages after it. A clock that
    /// went back stands still instead.
    ///
    /// # Errors
    /// [`LogError::InvalidParameter`]: no such database, no page, or the writer is broken; [`LogError::DiskIo`],
    /// [`LogError::DiskFull`].
    pub fn record(
        &mut self,
        database: u32,
        kind: Kind,
        page_count: u32,
        now_ms: u64,
    ) -> Result<RecordWriter<'_>, LogError> {
        self.refuse_broken()?;
        let Some(entry) = self.so_far.header.databases.get(database as usize) else {
            return Err(LogError::InvalidParameter { what: "the chain has no database of that index" });
        };
        let page_size = entry.page_size as usize;
        if page_count == 0 {
            return Err(LogError::InvalidParameter { what: "a database has at least one page" });
        }
        let commit = self.so_far.last_commit.checked_add(1).ok_or(LogError::LogSequenceEnd)?;
        let head =
            RecordHead { database, commit, time_ms: now_ms.max(self.so_far.last_ms), page_count, kind };
        // Until the record is whole. One that is dropped halfway has to be taken back.
        self.broken = true;
        let (file_hash, record_hash) = (self.so_far.hash.clone(), Sha256::new());
        let mut record =
            RecordWriter { writer: self, head, page_size, pages: 0, bytes: 0, file_hash, record_hash };
        let head: [u8; RECORD_HEAD_BYTES] = record.head.encode();
        record.put(&head)?;
        Ok(record)
    }

    /// Where the last whole record ends.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { so_far: self.so_far.clone() }
    }

    /// Goes back to an earlier position of this writer: the records since, a half one and a failed write are undone.
    ///
    /// # Errors
    /// [`LogError::InvalidParameter`] for another generation's position; [`LogError::DiskIo`], after which the writer is
    /// broken.
    pub fn go_back(&mut self, position: &Position) -> Result<(), LogError> {
        let (there, here) = (&position.so_far, &self.so_far);
        if there.header != here.header || there.bytes > here.bytes {
            return Err(LogError::InvalidParameter { what: "the position is not of this generation" });
        }
        self.broken = true;
        let failed = |e| LogError::io(&self.unsealed, "truncate", e);
        // What is buffered goes out first, or it would come out behind the new end. It need not succeed: what it could not
        // write is to be cut off anyway.
        let _ = self.file.flush();
        let file = self.file.get_ref().try_clone().map_err(failed)?;
        self.file = BufWriter::with_capacity(1 << 18, file);
        self.file.get_ref().set_len(there.bytes).map_err(failed)?;
        self.file.seek(SeekFrom::Start(there.bytes)).map_err(failed)?;
        self.so_far = there.clone();
        self.broken = false;
        Ok(())
    }

    /// Makes all whole records durable: after it, a crash of the machine does not lose them.
    ///
    /// # Errors
    /// [`LogError::InvalidParameter`] if the writer is broken, [`LogError::DiskFull`], [`LogError::DiskIo`].
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.refuse_broken()?;
        self.broken = true;
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        synced.map_err(|e| LogError::io(&self.unsealed, "sync", e))?;
        self.broken = false;
        Ok(())
    }

    /// Closes the generation: footer, sync, final name, sync of the folder. Only now does it exist for a recovery.
    ///
    /// # Errors
    /// [`LogError::InvalidParameter`] if the writer is broken, [`LogError::FileAlreadyExists`] if the final name is taken,
    /// [`LogError::DiskFull`], [`LogError::DiskIo`]. The unsealed file is left, and can be [reopened](Self::reopen).
    pub fn seal(mut self, now_ms: u64) -> Result<Generation, LogError> {
        self.refuse_broken()?;
        let so_far = self.so_far;
        let footer = Footer {
            first_commit: so_far.header.commit_before + 1,
            last_commit: so_far.last_commit,
            records: so_far.records,
            sealed_ms: now_ms.max(so_far.last_ms),
            page_counts: so_far.page_counts,
        };
        let mut bytes = footer.encode();
        let mut hash = so_far.hash;
        hash.update(&bytes);
        let closing: [u8; 32] = hash.clone().finalize().into();
        hash.update(closing);
        bytes.extend(closing);

        let written = self.file.write_all(&bytes).and_then(|()| self.file.flush());
        written
            // Content before name: a name that survives a crash must not lead to less than the whole.
            .and_then(|()| self.file.get_ref().sync_all())
            .map_err(|e| LogError::io(&self.unsealed, "write", e))?;
        let path = self.folder.join(file_name(so_far.header.number));
        rename_to_new(&self.unsealed, &path)?;
        sync_folder(&self.folder)?;
        Ok(Generation {
            path,
            header: so_far.header,
            footer,
            sha256: hash.finalize().into(),
            bytes: so_far.bytes + bytes.len() as u64,
        })
    }

    const fn refuse_broken(&self) -> Result<(), LogError> {
        if self.broken {
            return Err(LogError::InvalidParameter {
                what: "a record was left unfinished, or a write failed: go back first, or reopen",
            });
        }
        Ok(())
    }
}

/// A record being written. Dropped before [`finish`](Self::finish), it leaves the generation broken until it
/// [goes back](GenerationWriter::go_back).
#[derive(Debug)]
pub struct RecordWriter<'a> {
    writer: &'a mut GenerationWriter,
    head: RecordHead,
    page_size: usize,
    pages: u32,
    bytes: u64,
    file_hash: Sha256,
    record_hash: Sha256,
}

impl RecordWriter<'_> {
    /// Adds a page image. A page that comes again replaces the one before.
    ///
    /// # Errors
    /// [`LogError::InvalidParameter`]: a number of zero or behind the database's end, not the length of a page;
    /// [`LogError::DiskFull`], [`LogError::DiskIo`].
    pub fn page(&mut self, number: u32, image: &[u8]) -> Result<(), LogError> {
        if number == 0 || number > self.head.page_count {
            return Err(LogError::InvalidParameter { what: "the page lies behind the end of its database" });
        }
        if image.len() != self.page_size {
            return Err(LogError::InvalidParameter { what: "the page has not its database's page size" });
        }
        self.pages = self
            .pages
            .checked_add(1)
            .ok_or(LogError::InvalidParameter { what: "a record has less than 2^32 pages" })?;
        self.put(&number.to_le_bytes())?;
        self.put(image)
    }

    /// Makes the record whole, and says its commit number. It is durable after [`GenerationWriter::sync`].
    ///
    /// # Errors
    /// [`LogError::DiskFull`], [`LogError::DiskIo`].
    pub fn finish(mut self) -> Result<u64, LogError> {
        let pages = self.pages;
        self.put(&0_u32.to_le_bytes())?;
        self.put(&pages.to_le_bytes())?;
        let sum = checksum(self.record_hash.clone());
        self.put(&sum)?;
        let so_far = &mut self.writer.so_far;
        so_far.records += 1;
        so_far.last_commit = self.head.commit;
        so_far.last_ms = self.head.time_ms;
        if let Some(count) = so_far.page_counts.get_mut(self.head.database as usize) {
            *count = self.head.page_count;
        }
        so_far.bytes += self.bytes;
        so_far.hash = self.file_hash;
        self.writer.broken = false;
        Ok(self.head.commit)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.file_hash.update(bytes);
        self.record_hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.writer.file.write_all(bytes).map_err(|e| LogError::io(&self.writer.unsealed, "write", e))
    }
}

/// Renames without replacing anything.
fn rename_to_new(from: &Path, to: &Path) -> Result<(), LogError> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // A file system without it: a link does not replace either.
        Err(Errno::INVAL | Errno::NOSYS) => fs::hard_link(from, to)
            .and_then(|()| fs::remove_file(from))
            .map_err(|e| LogError::io(to, "name", e)),
        Err(e) => Err(LogError::io(to, "name", e)),
    }
}

fn sync_folder(folder: &Path) -> Result<(), LogError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| LogError::io(folder, "sync", e))
}

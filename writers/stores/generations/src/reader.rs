//! Reads one generation, checking everything on the way.
//! Owns: the walk over records and pages, both hashes, and reading a file that is not closed up to its last whole record.
//! Leaves to others: how generations follow each other (`set`).

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use crate::format::{
    CHECKSUM_BYTES, FIXED_FOOTER_BYTES, FIXED_HEADER_BYTES, FOOTER_TAG, Fault, RECORD_HEAD_BYTES, RECORD_TAG,
    checksum,
};
use crate::{Footer, Header, LogError, Place, RecordHead};

/// A closed generation, all of which has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The file.
    pub path: PathBuf,
    /// What it says about itself.
    pub header: Header,
    /// What closes it.
    pub footer: Footer,
    /// SHA-256 of the whole file, which the next generation names.
    pub sha256: [u8; 32],
    /// Its length.
    pub bytes: u64,
}

/// As much of a generation as can be used, closed or not.
#[derive(Debug, Clone)]
pub struct Prefix {
    /// What the generation says about itself.
    pub header: Header,
    /// Whole records from the first on.
    pub records: u64,
    /// The last whole record's commit number; the header's `commit_before` if there is none.
    pub last_commit: u64,
    /// When it was written; when the generation was begun, if there is none.
    pub last_ms: u64,
    /// Pages of each database after its last whole record; zero for those without one.
    pub page_counts: Vec<u32>,
    /// Bytes up to the end of the last whole record.
    pub bytes: u64,
    /// Over those bytes.
    pub(crate) hash: Sha256,
}

/// A page image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page<'a> {
    /// From 1; at most the record's page count.
    pub number: u32,
    /// As many as the database's page has.
    pub bytes: &'a [u8],
}

/// Reads a generation from its header to its footer: records, and in each its pages, one in memory at a time.
///
/// A record's pages come before its checksum is known. Whoever acts on them must have [verified](verify) the file
/// before, or hold them back until [`next_page`](Self::next_page) answers `None`.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    path: PathBuf,
    place: Place,
    page: Vec<u8>,
    /// The record whose pages come next, and how many have come.
    inside: Option<(RecordHead, u32)>,
    so_far: Prefix,
    footer: Option<(Footer, [u8; 32])>,
}

#[derive(Debug)]
struct Input<R> {
    inner: BufReader<R>,
    file: Sha256,
    record: Sha256,
    bytes: u64,
}

/// A fault of the bytes, or of the disk they lie on.
enum Trouble {
    Fault(Fault),
    Io(std::io::Error),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl<R: Read> Input<R> {
    fn exact(&mut self, buffer: &mut [u8], what: &'static str) -> Result<(), Trouble> {
        self.inner.read_exact(buffer).map_err(|e| {
            if e.kind() == ErrorKind::UnexpectedEof {
                Trouble::Fault(Fault::Torn(what))
            } else {
                Trouble::Io(e)
            }
        })?;
        self.file.update(&*buffer);
        self.record.update(&*buffer);
        self.bytes += buffer.len() as u64;
        Ok(())
    }

    fn at_end(&mut self) -> Result<bool, Trouble> {
        match self.inner.read_exact(&mut [0]) {
            Ok(()) => Ok(false),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(true),
            Err(e) => Err(Trouble::Io(e)),
        }
    }
}

impl Reader<File> {
    /// Opens a generation and reads its header. Follows no link and waits for no pipe.
    ///
    /// # Errors
    /// [`LogError::FileNotFound`], [`LogError::InvalidPath`], [`LogError::DiskIo`], and all of [`Reader::new`].
    pub fn open(path: &Path, place: Place) -> Result<Self, LogError> {
        Self::new(open_regular(path)?, path, place)
    }
}

pub(crate) fn open_regular(path: &Path) -> Result<File, LogError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = opened.map_err(|e| {
        if e.raw_os_error() == Some(Errno::LOOP.raw_os_error()) {
            LogError::InvalidPath { path: path.to_owned(), why: "is a symbolic link" }
        } else {
            LogError::io(path, "open", e)
        }
    })?;
    let meta = file.metadata().map_err(|e| LogError::io(path, "look at", e))?;
    if meta.is_file() {
        Ok(file)
    } else {
        Err(LogError::InvalidPath { path: path.to_owned(), why: "is not a regular file" })
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header from `input`; `path` and `place` are for errors.
    ///
    /// # Errors
    /// [`LogError::BadLogVersion`], or the torn or corrupt error of that place.
    pub fn new(input: R, path: &Path, place: Place) -> Result<Self, LogError> {
        let mut input = Input {
            inner: BufReader::with_capacity(1 << 17, input),
            file: Sha256::new(),
            record: Sha256::new(),
            bytes: 0,
        };
        let header = read_header(&mut input).map_err(|trouble| named(path, place, input.bytes, trouble))?;
        let so_far = Prefix {
            records: 0,
            last_commit: header.commit_before,
            last_ms: header.created_ms,
            page_counts: vec![0; header.databases.len()],
            bytes: input.bytes,
            hash: input.file.clone(),
            header,
        };
        let (path, page) = (path.to_owned(), Vec::new());
        Ok(Self { input, path, place, page, inside: None, so_far, footer: None })
    }

    /// What the generation says about itself.
    pub const fn header(&self) -> &Header {
        &self.so_far.header
    }

    /// The next record's head; pages of the one before that were not asked for are read and checked first. `None` behind
    /// the last record, once the footer was read and fits everything before it.
    ///
    /// # Errors
    /// The torn or corrupt error of the place; a file that is not closed is torn. [`LogError::DiskIo`].
    pub fn next_record(&mut self) -> Result<Option<RecordHead>, LogError> {
        while self.next_page()?.is_some() {}
        if self.footer.is_some() {
            return Ok(None);
        }
        self.record_or_footer().map_err(|trouble| self.named(trouble))
    }

    /// The next page of the current record; `None` behind the last one, once the record's checksum was found right.
    ///
    /// # Errors
    /// As [`next_record`](Self::next_record).
    pub fn next_page(&mut self) -> Result<Option<Page<'_>>, LogError> {
        match self.page_or_end() {
            Ok(Some(number)) => Ok(Some(Page { number, bytes: &self.page })),
            Ok(None) => Ok(None),
            Err(trouble) => Err(self.named(trouble)),
        }
    }

    fn named(&self, trouble: Trouble) -> LogError {
        named(&self.path, self.place, self.input.bytes, trouble)
    }

    fn record_or_footer(&mut self) -> Result<Option<RecordHead>, Trouble> {
        // The footer's hash is over all before it, its tag included.
        self.input.record = Sha256::new();
        let mut tag = [0; 4];
        self.input.exact(&mut tag, "it ends without a footer: it was never closed")?;
        match tag {
            RECORD_TAG => {}
            FOOTER_TAG => {
                self.footer = Some(self.read_footer()?);
                return Ok(None);
            }
            [0, 0, 0, 0] => return Err(Fault::Torn("zeros instead of a record").into()),
            _ => return Err(Fault::Corrupt("neither a record nor the footer").into()),
        }
        let mut rest = [0; RECORD_HEAD_BYTES - 4];
        self.input.exact(&mut rest, "the head of a record is cut off")?;
        let head = RecordHead::decode(&rest)?;
        let database = self.so_far.header.databases.get(head.database as usize);
        let page_size = database.ok_or(Fault::Corrupt("a record names no known database"))?.page_size;
        if self.so_far.last_commit.checked_add(1) != Some(head.commit) {
            return Err(Fault::Corrupt("the commit numbers are not consecutive").into());
        }
        if head.time_ms < self.so_far.last_ms {
            return Err(Fault::Corrupt("a record is older than the one before").into());
        }
        self.page.resize(page_size as usize, 0);
        self.inside = Some((head, 0));
        Ok(Some(head))
    }

    fn page_or_end(&mut self) -> Result<Option<u32>, Trouble> {
        let Some((head, count)) = self.inside else { return Ok(None) };
        let mut number = [0; 4];
        self.input.exact(&mut number, "a record is cut off")?;
        let number = u32::from_le_bytes(number);
        if number != 0 {
            if number > head.page_count {
                return Err(Fault::Corrupt("a page lies behind the end of its database").into());
            }
            let count = count.checked_add(1).ok_or(Fault::Corrupt("a record has too many pages"))?;
            self.input.exact(&mut self.page, "a page is cut off")?;
            self.inside = Some((head, count));
            return Ok(Some(number));
        }
        let mut counted = [0; 4];
        self.input.exact(&mut counted, "the end of a record is cut off")?;
        let expected = checksum(self.input.record.clone());
        let mut sum = [0; CHECKSUM_BYTES];
        self.input.exact(&mut sum, "the checksum of a record is cut off")?;
        if sum != expected {
            return Err(Fault::Corrupt("the checksum of a record is wrong").into());
        }
        if u32::from_le_bytes(counted) != count {
            return Err(Fault::Corrupt("a record has another number of pages").into());
        }
        self.inside = None;
        self.so_far.records += 1;
        self.so_far.last_commit = head.commit;
        self.so_far.last_ms = head.time_ms;
        if let Some(pages) = self.so_far.page_counts.get_mut(head.database as usize) {
            *pages = head.page_count;
        }
        self.so_far.bytes = self.input.bytes;
        self.so_far.hash = self.input.file.clone();
        Ok(None)
    }

    fn read_footer(&mut self) -> Result<(Footer, [u8; 32]), Trouble> {
        let databases = self.so_far.page_counts.len();
        let mut rest = vec![0; FIXED_FOOTER_BYTES + 4 * databases];
        self.input.exact(&mut rest, "the footer is cut off")?;
        let expected: [u8; 32] = self.input.file.clone().finalize().into();
        let mut hash = [0; 32];
        self.input.exact(&mut hash, "the footer is cut off")?;
        if hash != expected {
            return Err(Fault::Corrupt("the hash in the footer is wrong").into());
        }
        let footer = Footer::decode(&rest, databases)?;
        let so_far = &self.so_far;
        if footer.first_commit.checked_sub(1) != Some(so_far.header.commit_before)
            || footer.last_commit != so_far.last_commit
            || footer.records != so_far.records
            || footer.page_counts != so_far.page_counts
            || footer.sealed_ms < so_far.last_ms
        {
            return Err(Fault::Corrupt("the footer does not fit the records").into());
        }
        if !self.input.at_end()? {
            return Err(Fault::Corrupt("something follows the footer").into());
        }
        Ok((footer, self.input.file.clone().finalize().into()))
    }
}

fn read_header<R: Read>(input: &mut Input<R>) -> Result<Header, Trouble> {
    let mut fixed = [0; FIXED_HEADER_BYTES];
    input.exact(&mut fixed, "the header is cut off")?;
    let mut bytes = fixed.to_vec();
    bytes.resize(Header::length(&fixed)?, 0); // at most a megabyte
    input.exact(bytes.get_mut(FIXED_HEADER_BYTES..).unwrap_or_default(), "the header is cut off")?;
    Ok(Header::decode(&bytes)?)
}

fn named(path: &Path, place: Place, at: u64, trouble: Trouble) -> LogError {
    match trouble {
        Trouble::Fault(fault) => LogError::fault(path, place, at, fault),
        Trouble::Io(e) => LogError::io(path, "read", e),
    }
}

/// Reads a closed generation from end to end and checks every byte of it. Says nothing of its name or its neighbours.
///
/// # Errors
/// As [`Reader::open`] and [`Reader::next_record`].
pub fn verify(path: &Path, place: Place) -> Result<Generation, LogError> {
    let mut reader = Reader::open(path, place)?;
    while reader.next_record()?.is_some() {}
    let bytes = reader.input.bytes;
    let header = reader.so_far.header;
    // `None` came only with a footer.
    let Some((footer, sha256)) = reader.footer else {
        return Err(LogError::fault(path, place, bytes, Fault::Torn("it has no footer")));
    };
    Ok(Generation { path: path.to_owned(), header, footer, sha256, bytes })
}

/// Reads a generation up to its last whole record, whatever comes behind it: what a killed writer leaves.
///
/// # Errors
/// As [`Reader::open`]: without a header nothing can be used. [`LogError::DiskIo`].
pub fn verify_prefix(path: &Path, place: Place) -> Result<Prefix, LogError> {
    prefix(Reader::open(path, place)?)
}

/// As [`verify_prefix`], from anything that can be read.
pub(crate) fn prefix<R: Read>(mut reader: Reader<R>) -> Result<Prefix, LogError> {
    loop {
        match reader.next_record() {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(reader.so_far),
            Err(error @ LogError::DiskIo { .. }) => return Err(error),
            Err(_) => return Ok(reader.so_far),
        }
    }
}

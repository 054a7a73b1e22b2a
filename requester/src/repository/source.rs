//! What goes into a snapshot: entries given by the caller, checked first, and every byte of every file accounted for.
//! Owns: [`SourceEntry`], the rules for a list of them, and the note of each file that could not be read whole.
//!
//! The library logs an unreadable file and saves the snapshot without it; a set must not lack a file silently.

use std::{
    collections::VecDeque,
    fmt, io,
    io::{BufReader, Read},
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use rustic_core::{
    ErrorKind, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticError, RusticResult,
    repofile::{Metadata, Node, NodeType},
};

use super::error::{FileFault, RepositoryError};

/// How many unreadable files an error names; it counts the rest.
pub const FAULTS_KEPT: usize = 100;

/// Bytes between two progress reports within one file.
const PROGRESS_STEP: u64 = 4 << 20;

/// Files up to this size are one chunk, which is read at once. In longer ones the library looks for the next cut in
/// pieces of 4 KiB: it gets them from larger reads.
const ONE_CHUNK: u64 = 512 << 10;
const READ_AHEAD: usize = 256 << 10;

/// Opens a file's content, some dozens of files before its turn comes, so that the disk can be at work on it meanwhile.
/// Called at most once, on any thread.
pub type Opener = Box<dyn FnOnce() -> io::Result<Box<dyn Read + Send>> + Send>;

/// Told how much is done so far; called from several threads, often. Must not block.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// How much of an archive or restore is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of file content.
    pub bytes: u64,
    /// Files whose content is complete.
    pub files: u64,
}

/// One entry to be stored.
pub struct SourceEntry {
    /// Where it will lie in the snapshot: absolute, without `.`, `..` or a trailing slash.
    pub save_as: PathBuf,
    /// What it is.
    pub kind: EntryKind,
    /// Its attributes.
    pub metadata: EntryMetadata,
}

/// The kinds of entries, with what each needs.
pub enum EntryKind {
    /// A folder.
    Directory,
    /// A regular file; [`EntryMetadata::size`] is what it must deliver, no less and no more.
    File(Opener),
    /// A symbolic link.
    Symlink {
        /// Its target, stored as it is.
        target: PathBuf,
    },
    /// A named pipe.
    Fifo,
    /// A socket: stored, and skipped at restore, since its server makes it anew.
    Socket,
    /// A block device.
    BlockDevice {
        /// `st_rdev`.
        device: u64,
    },
    /// A character device.
    CharDevice {
        /// `st_rdev`.
        device: u64,
    },
}

impl fmt::Debug for EntryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::File(_) => "file",
            Self::Symlink { .. } => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::BlockDevice { .. } => "block device",
            Self::CharDevice { .. } => "character device",
        })
    }
}

impl fmt::Debug for SourceEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.save_as.display())
    }
}

/// Attributes of an entry, as `lstat` and `listxattr` give them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EntryMetadata {
    /// Permission bits with setuid, setgid and sticky (the low 12 bits of `st_mode`; higher bits are ignored).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change of the content.
    pub mtime: Option<Timestamp>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of the attributes. Stored, cannot be restored.
    pub ctime: Option<Timestamp>,
    /// Bytes of content; regular files only.
    pub size: u64,
    /// With `device`, what makes two entries hard links of one file.
    pub inode: u64,
    /// See `inode`.
    pub device: u64,
    /// Number of names; above 1 hard links are looked for at restore.
    pub links: u64,
    /// Names and values, ACLs included (`system.posix_acl_access`, `system.posix_acl_default`).
    pub xattrs: Vec<(String, Vec<u8>)>,
}

/// What the library writes for permission bits is Go's `os.FileMode`, which restic reads; only the low nine agree.
const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_STICKY: u32 = 1 << 20;
const GO_DIR: u32 = 1 << 31;
const GO_SYMLINK: u32 = 1 << 27;
const GO_DEVICE: u32 = 1 << 26;
const GO_FIFO: u32 = 1 << 25;
const GO_SOCKET: u32 = 1 << 24;
const GO_CHAR: u32 = 1 << 21;

fn to_go_mode(mode: u32, kind: &EntryKind) -> u32 {
    let mut go = mode & 0o777;
    for (bit, flag) in [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)] {
        if mode & bit != 0 {
            go |= flag;
        }
    }
    go | match kind {
        EntryKind::File(_) => 0,
        EntryKind::Directory => GO_DIR,
        EntryKind::Symlink { .. } => GO_SYMLINK,
        EntryKind::Fifo => GO_FIFO,
        EntryKind::Socket => GO_SOCKET,
        EntryKind::BlockDevice { .. } => GO_DEVICE,
        EntryKind::CharDevice { .. } => GO_DEVICE | GO_CHAR,
    }
}

/// The twelve bits of `chmod` from a stored mode.
pub(super) fn from_go_mode(go: u32) -> u32 {
    let mut mode = go & 0o777;
    for (bit, flag) in [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)] {
        if go & flag != 0 {
            mode |= bit;
        }
    }
    mode
}

/// Checks the rules of a list: absolute plain paths, sorted by [`Path`]'s order, none twice, parents first.
pub(super) fn check_entries(entries: &[SourceEntry]) -> Result<(), RepositoryError> {
    let fault = |entry: &SourceEntry, reason| {
        Err(RepositoryError::InvalidSource { path: entry.save_as.clone(), reason })
    };
    let mut open_folders: Vec<&Path> = vec![Path::new("/")];
    let mut previous: Option<&Path> = None;
    for entry in entries {
        let path = entry.save_as.as_path();
        let mut components = path.components();
        let plain = components.next() == Some(Component::RootDir)
            && components.clone().next().is_some()
            && components.all(|part| matches!(part, Component::Normal(_)));
        // Components hide doubled and trailing slashes and `.`: what they rebuild must be what was given.
        if !plain || path.components().collect::<PathBuf>().as_os_str() != path.as_os_str() {
            return fault(entry, "its path is not absolute and plain");
        }
        if path.as_os_str().as_bytes().contains(&0) {
            return fault(entry, "its path holds a zero byte");
        }
        if previous.is_some_and(|previous| previous == path) {
            return fault(entry, "it is listed twice");
        }
        if previous.is_some_and(|previous| previous > path) {
            return fault(entry, "the entries are not sorted");
        }
        while open_folders.last().is_some_and(|folder| path.parent() != Some(*folder)) {
            open_folders.pop();
        }
        if open_folders.is_empty() {
            return fault(entry, "its parent is not listed as a directory");
        }
        if matches!(entry.kind, EntryKind::Directory) {
            open_folders.push(path);
        }
        previous = Some(path);
    }
    Ok(())
}

/// Counts and faults of one archive, shared by all its readers.
#[derive(Default)]
pub(super) struct Ledger {
    bytes: AtomicU64,
    files: AtomicU64,
    faults: Mutex<(Vec<FileFault>, u64)>,
    progress: Option<ProgressFn>,
}

impl Ledger {
    pub(super) fn new(progress: Option<ProgressFn>) -> Arc<Self> {
        Arc::new(Self { progress, ..Self::default() })
    }

    fn fault(&self, path: &Path, reason: impl Into<String>) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.1 += 1;
        if faults.0.len() < FAULTS_KEPT {
            faults.0.push(FileFault { path: path.to_owned(), reason: reason.into() });
        }
    }

    pub(super) fn report(&self) {
        if let Some(progress) = &self.progress {
            progress(self.done());
        }
    }

    pub(super) fn add_bytes(&self, count: u64) {
        self.bytes.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_file(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.report();
    }

    pub(super) fn done(&self) -> Progress {
        Progress { bytes: self.bytes.load(Ordering::Relaxed), files: self.files.load(Ordering::Relaxed) }
    }

    pub(super) fn take_error(&self) -> Option<RepositoryError> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (files, total) = std::mem::take(&mut *faults);
        (total > 0).then_some(RepositoryError::Unreadable { files, total })
    }
}

/// The library's view of a checked list of entries.
pub(super) struct EntrySource {
    entries: Mutex<VecDeque<SourceEntry>>,
    ledger: Arc<Ledger>,
}

impl EntrySource {
    pub(super) fn new(entries: Vec<SourceEntry>, ledger: Arc<Ledger>) -> Self {
        Self { entries: Mutex::new(entries.into()), ledger }
    }
}

/// Gives the entries away, once.
pub(super) struct Entries {
    rest: VecDeque<SourceEntry>,
    ledger: Arc<Ledger>,
}

impl Iterator for Entries {
    type Item = RusticResult<ReadSourceEntry<CheckedOpener>>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.rest.pop_front()?;
        Some(Ok(to_library(entry, &self.ledger)))
    }
}

impl ReadSource for EntrySource {
    type Open = CheckedOpener;
    type Iter = Entries;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Self::Iter {
        let rest = std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner));
        Entries { rest, ledger: self.ledger.clone() }
    }
}

/// The library does not export the type of an attribute; one that it parsed itself serves as the mould.
fn set_xattrs(meta: &mut Metadata, xattrs: Vec<(String, Vec<u8>)>) {
    const MOULD: &str = r#"{"extended_attributes":[{"name":"","value":""}]}"#;
    if xattrs.is_empty() {
        return;
    }
    let parsed = serde_json::from_str::<Metadata>(MOULD).map(|meta| meta.extended_attributes);
    let mould = parsed.ok().and_then(|mut attributes| attributes.pop());
    for (name, value) in xattrs {
        if let Some(mut attribute) = mould.clone() {
            attribute.name = name;
            attribute.value = Some(value);
            meta.extended_attributes.push(attribute);
        }
    }
}

fn to_library(entry: SourceEntry, ledger: &Arc<Ledger>) -> ReadSourceEntry<CheckedOpener> {
    let SourceEntry { save_as, kind, metadata } = entry;
    let name = save_as.file_name().unwrap_or_default().to_owned();
    let mut meta = Metadata {
        mode: Some(to_go_mode(metadata.mode, &kind)),
        mtime: metadata.mtime,
        atime: metadata.atime,
        ctime: metadata.ctime,
        uid: Some(metadata.uid),
        gid: Some(metadata.gid),
        inode: metadata.inode,
        device_id: metadata.device,
        size: 0,
        links: metadata.links,
        ..Metadata::default()
    };
    set_xattrs(&mut meta, metadata.xattrs);
    let mut open = None;
    let node_type = match kind {
        EntryKind::Directory => NodeType::Dir,
        EntryKind::File(opener) => {
            meta.size = metadata.size;
            open = Some(CheckedOpener {
                path: save_as.clone(),
                announced: metadata.size,
                opened: opener(),
                ledger: ledger.clone(),
            });
            NodeType::File
        }
        EntryKind::Symlink { target } => NodeType::from_link(&target),
        EntryKind::Fifo => NodeType::Fifo,
        EntryKind::Socket => NodeType::Socket,
        EntryKind::BlockDevice { device } => NodeType::Dev { device },
        EntryKind::CharDevice { device } => NodeType::Chardev { device },
    };
    ReadSourceEntry { path: save_as, node: Node::new_node(&name, node_type, meta), open }
}

/// Hands out a reader of one file that counts.
pub(super) struct CheckedOpener {
    path: PathBuf,
    announced: u64,
    opened: io::Result<Box<dyn Read + Send>>,
    ledger: Arc<Ledger>,
}

impl ReadSourceOpen for CheckedOpener {
    type Reader = CheckedReader;

    fn open(self) -> RusticResult<CheckedReader> {
        let Self { path, announced, opened, ledger } = self;
        match opened {
            Ok(content) => {
                let content = match announced {
                    0..=ONE_CHUNK => content,
                    _ => Box::new(BufReader::with_capacity(READ_AHEAD, content)),
                };
                Ok(CheckedReader { path, announced, content, ledger, read: 0, reported: 0, failed: false })
            }
            Err(error) => {
                ledger.fault(&path, error.to_string());
                Err(RusticError::with_source(ErrorKind::InputOutput, "cannot open a file to archive", error))
            }
        }
    }
}

/// Counts what is read; when dropped, a difference to the announced size is a fault.
pub(super) struct CheckedReader {
    path: PathBuf,
    announced: u64,
    content: Box<dyn Read + Send>,
    ledger: Arc<Ledger>,
    read: u64,
    reported: u64,
    failed: bool,
}

impl Read for CheckedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.content.read(buffer) {
            Ok(count) => {
                self.read += count as u64;
                if self.read > self.announced {
                    // Stop at once: a file that grows for ever must not fill the repository.
                    self.failed = true;
                    let reason = format!("it grew past the {} bytes announced", self.announced);
                    self.ledger.fault(&self.path, reason.clone());
                    return Err(io::Error::other(reason));
                }
                self.ledger.add_bytes(count as u64);
                if self.read - self.reported >= PROGRESS_STEP {
                    self.reported = self.read;
                    self.ledger.report();
                }
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failed = true;
                self.ledger.fault(&self.path, error.to_string());
                Err(error)
            }
        }
    }
}

impl Drop for CheckedReader {
    fn drop(&mut self) {
        if self.failed {
            return;
        }
        if self.read < self.announced {
            let reason = format!("{} bytes were announced, {} could be read", self.announced, self.read);
            self.ledger.fault(&self.path, reason);
        } else {
            self.ledger.add_file();
        }
    }
}

//! A scratch repository, trees to store in it, and stock restic beside it.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use holdfast::repository::{
    Document, EntryKind, EntryMetadata, Options, Password, Repository, RepositoryError, SetIdentity,
    SourceEntry, StoredSet,
};
use jiff::Timestamp;
use uuid::Uuid;

pub const PASSWORD: &str = "correct horse";

/// A repository in a scratch folder.
pub struct Bench {
    pub place: tempfile::TempDir,
    pub repository: Repository,
}

impl Bench {
    pub fn new() -> Self {
        let place = tempfile::tempdir().expect("scratch folder");
        let location = place.path().join("repository");
        let repository = Repository::init(utf8(&location), &Password::new(PASSWORD), &Options::default());
        Self { repository: repository.expect("a new repository"), place }
    }

    pub fn path(&self) -> PathBuf {
        self.place.path().join("repository")
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.place.path().join(name);
        fs::create_dir(&path).expect("a folder");
        path
    }

    pub fn open(&self) -> Result<Repository, RepositoryError> {
        Repository::open(utf8(&self.path()), &Password::new(PASSWORD), &Options::default())
    }

    /// Stores a tree below `/data/files` and commits it with one document.
    pub fn store(&self, tree: &Path) -> StoredSet {
        let about = about();
        let entries = entries(tree, "/data/files");
        let partial = self.repository.archive(&about, entries, None).expect("archived");
        let documents = vec![document("set.json", b"{}"), document("writers/files.json", b"{\"writer\":1}")];
        self.repository.commit(&about, &[partial], documents).expect("committed")
    }

    /// A repository that is not a local folder.
    #[cfg(feature = "s3")]
    pub fn at(location: &str, options: &Options) -> Self {
        let place = tempfile::tempdir().expect("scratch folder");
        let repository = Repository::init(location, &Password::new(PASSWORD), options);
        Self { repository: repository.expect("a new repository"), place }
    }

    /// Stock restic on this repository; `None`, said aloud, where it is not installed.
    pub fn restic(&self, arguments: &[&str]) -> Option<Output> {
        let output = Command::new("restic")
            .args(["--no-cache", "--repo"])
            .arg(self.path())
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD)
            .output();
        match output {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                assert!(std::env::var_os("CI").is_none(), "restic is not installed, and this is CI");
                println!("skipped: restic not installed");
                None
            }
            other => Some(other.expect("restic ran")),
        }
    }
}

pub fn utf8(path: &Path) -> &str {
    path.to_str().expect("scratch paths are plain")
}

pub fn about() -> SetIdentity {
    SetIdentity {
        set: Uuid::now_v7(),
        time: Timestamp::now(),
        hostname: "bench".into(),
        tags: vec!["nightly".into()],
        label: "a test".into(),
    }
}

pub fn document(path: &str, bytes: &[u8]) -> Document {
    Document { path: path.into(), bytes: bytes.into() }
}

pub fn succeeded(output: &Output) -> String {
    let text = said(output);
    assert!(output.status.success(), "restic failed: {text}");
    text
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A tree as a caller would describe it, every parent included.
pub fn entries(tree: &Path, below: &str) -> Vec<SourceEntry> {
    let mut entries = Vec::new();
    let mut parents: Vec<&Path> = Path::new(below).ancestors().filter(|p| p.parent().is_some()).collect();
    parents.reverse();
    for parent in parents {
        entries.push(SourceEntry {
            save_as: parent.into(),
            kind: EntryKind::Directory,
            metadata: EntryMetadata { mode: 0o700, ..EntryMetadata::default() },
        });
    }
    collect(tree, Path::new(below), &mut entries);
    entries.sort_by(|a, b| a.save_as.cmp(&b.save_as));
    entries
}

fn collect(folder: &Path, below: &Path, entries: &mut Vec<SourceEntry>) {
    for entry in fs::read_dir(folder).expect("listed") {
        let path = entry.expect("listed").path();
        let save_as = below.join(path.file_name().expect("a name"));
        let stat = path.symlink_metadata().expect("stat");
        let kind = kind_of(&path, &stat);
        let is_folder = matches!(kind, EntryKind::Directory);
        entries.push(SourceEntry { save_as: save_as.clone(), kind, metadata: metadata_of(&path, &stat) });
        if is_folder {
            collect(&path, &save_as, entries);
        }
    }
}

fn kind_of(path: &Path, stat: &fs::Metadata) -> EntryKind {
    match stat.mode() & 0o170_000 {
        0o040_000 => EntryKind::Directory,
        0o120_000 => EntryKind::Symlink { target: fs::read_link(path).expect("a link") },
        0o010_000 => EntryKind::Fifo,
        0o140_000 => EntryKind::Socket,
        0o060_000 => EntryKind::BlockDevice { device: stat.rdev() },
        0o020_000 => EntryKind::CharDevice { device: stat.rdev() },
        _ => {
            let path = path.to_owned();
            EntryKind::File(Box::new(move || Ok(Box::new(File::open(path)?))))
        }
    }
}

fn metadata_of(path: &Path, stat: &fs::Metadata) -> EntryMetadata {
    let time = |seconds: i64, nanoseconds: i64| {
        Timestamp::new(seconds, i32::try_from(nanoseconds).expect("below a second")).ok()
    };
    EntryMetadata {
        mode: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: time(stat.mtime(), stat.mtime_nsec()),
        atime: time(stat.atime(), stat.atime_nsec()),
        ctime: time(stat.ctime(), stat.ctime_nsec()),
        size: if stat.is_file() { stat.len() } else { 0 },
        inode: stat.ino(),
        device: stat.dev(),
        links: stat.nlink(),
        xattrs: xattrs_of(path),
    }
}

pub fn xattrs_of(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
    let mut found: Vec<(String, Vec<u8>)> = names
        .map(|name| {
            let name = String::from_utf8(name.to_vec()).expect("plain names");
            let mut value = vec![0; 64 << 10];
            let length = rustix::fs::lgetxattr(path, &name, &mut value[..]).expect("an attribute");
            value.truncate(length);
            (name, value)
        })
        .collect();
    found.sort();
    found
}

/// Bytes that neither compress nor repeat.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

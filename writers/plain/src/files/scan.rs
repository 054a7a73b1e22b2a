//! Looks for private keys that would be stored in plain form (promise P9).
//! Owns: walking the file sets as the requester will read them, what is looked into.
//! Leaves to others: what a private key looks like (`holdfast-store-keys`).
//!
//! Every file and folder is opened beneath the root of its set, and no link is followed on the way (promise P10).

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use holdfast_store_keys::contains_private_key;
use holdfast_writer_api::pattern::Exclude;
use holdfast_writer_api::{FileSet, WriterError};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, statat};
use rustix::io::Errno;

use crate::io_error;

/// Larger files are not looked into: no key file is that long.
const MAX_LOOKED_INTO: u64 = 1024 * 1024;
/// As much of every file is read; the rest only if this part looks as if a key could follow.
const HEAD: usize = 64 * 1024;
/// Files looked into at a time: what takes long is to wait for the disk.
const THREADS: usize = 4;

/// The files of `sets` that contain a private key, sorted.
///
/// # Errors
/// What cannot be read could not be backed up either: [`WriterError::Denied`], [`WriterError::Rejected`].
pub(super) fn plain_keys(
    writer: &str,
    sets: &[FileSet],
    exclude: &[String],
) -> Result<Vec<PathBuf>, WriterError> {
    let mut found = Vec::new();
    for set in sets {
        let excluded = Exclude::all(exclude, &set.path)
            .map_err(|error| WriterError::rejected(writer, error.to_string()))?;
        let root = open(CWD, &set.path, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)
            .map_err(|error| failed(writer, &set.path, error))?;
        let search = Search { writer, base: &set.path, root, excluded };
        found.append(&mut search.look_into(search.files(set)?)?);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The search of one set.
struct Search<'a> {
    writer: &'a str,
    base: &'a Path,
    root: OwnedFd,
    /// What is left out of the set.
    excluded: Vec<Exclude>,
}

impl Search<'_> {
    /// The regular files of the set, below its root.
    fn files(&self, set: &FileSet) -> Result<Vec<PathBuf>, WriterError> {
        if set.pattern != "*" {
            let file = PathBuf::from(&set.pattern);
            return Ok(if self.is_excluded(&file) { Vec::new() } else { vec![file] });
        }
        let mut files = Vec::new();
        let mut folders = vec![PathBuf::from(".")];
        while let Some(folder) = folders.pop() {
            let path = join(self.base, &folder);
            let handle = match open(&self.root, &folder, OFlags::DIRECTORY, BENEATH) {
                // Removed, or replaced by a file, since it was listed.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                other => other.map_err(|error| self.failed(&path, error))?,
            };
            let entries = Dir::read_from(&handle).map_err(|error| self.failed(&path, error))?;
            for entry in entries {
                let entry = entry.map_err(|error| self.failed(&path, error))?;
                let name = entry.file_name();
                if matches!(name.to_bytes(), b"." | b"..") {
                    continue;
                }
                let below = folder.join(OsStr::from_bytes(name.to_bytes()));
                if self.is_excluded(&below) {
                    continue;
                }
                let mut kind = entry.file_type();
                if kind == FileType::Unknown {
                    // Some file systems do not say; what is gone by now is neither.
                    kind = statat(&handle, name, AtFlags::SYMLINK_NOFOLLOW)
                        .map_or(kind, |found| FileType::from_raw_mode(found.st_mode));
                }
                if kind == FileType::Directory && set.recursive {
                    folders.push(below);
                } else if kind == FileType::RegularFile {
                    files.push(below);
                }
            }
        }
        Ok(files)
    }

    /// Those of `files` that contain a key.
    fn look_into(&self, files: Vec<PathBuf>) -> Result<Vec<PathBuf>, WriterError> {
        let next = Mutex::new(files.into_iter());
        let search = || {
            let (mut found, mut buffer) = (Vec::new(), Vec::new());
            // Nothing in here panics with the lock held.
            while let Some(below) = next.lock().ok().and_then(|mut files| files.next()) {
                if self.holds_a_key(&below, &mut buffer)? {
                    found.push(join(self.base, &below));
                }
            }
            Ok(found)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(search)).collect();
            let mut all = Vec::new();
            for thread in threads {
                let found = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                all.append(&mut found?);
            }
            Ok(all)
        })
    }

    fn is_excluded(&self, below: &Path) -> bool {
        self.excluded.iter().any(|exclude| exclude.matches(plain(below)))
    }

    fn holds_a_key(&self, below: &Path, buffer: &mut Vec<u8>) -> Result<bool, WriterError> {
        let failed = |error| self.failed(&join(self.base, below), error);
        let file = match open(&self.root, below, OFlags::NONBLOCK | OFlags::NOCTTY, BENEATH) {
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(false),
            other => other.map_err(failed)?,
        };
        let status = fstat(&file).map_err(failed)?;
        let size = u64::try_from(status.st_size).unwrap_or(0);
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || size > MAX_LOOKED_INTO {
            return Ok(false);
        }
        let size = usize::try_from(size).unwrap_or(HEAD);
        buffer.resize(size.min(HEAD), 0);
        let mut read = fill(&file, buffer, 0).map_err(failed)?;
        if read == HEAD && size > HEAD && may_continue_with_a_key(buffer) {
            buffer.resize(size, 0);
            read += fill(&file, &mut buffer[HEAD..], HEAD).map_err(failed)?;
        }
        let found = contains_private_key(&buffer[..read]);
        // Not kept in memory longer than needed.
        buffer.fill(0);
        Ok(found)
    }

    fn failed(&self, path: &Path, error: Errno) -> WriterError {
        failed(self.writer, path, error)
    }
}

fn failed(writer: &str, path: &Path, error: Errno) -> WriterError {
    if error == Errno::LOOP {
        let why = format!("`{}` lies behind a symbolic link; name its real path", path.display());
        return WriterError::rejected(writer, why);
    }
    io_error(writer, path, "read", &error.into())
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

fn open(at: impl AsFd, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Result<OwnedFd, Errno> {
    openat2(at, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | flags, Mode::empty(), resolve)
}

/// Without the `.` at which a walk begins.
fn plain(below: &Path) -> &Path {
    below.strip_prefix(".").unwrap_or(below)
}

fn join(base: &Path, below: &Path) -> PathBuf {
    let below = plain(below);
    // Joining nothing would append a slash.
    if below.as_os_str().is_empty() { base.to_owned() } else { base.join(below) }
}

/// Reads until `buffer` is full or the file ends.
fn fill(file: &OwnedFd, buffer: &mut [u8], from: usize) -> Result<usize, Errno> {
    let mut read = 0;
    while read < buffer.len() {
        match rustix::io::pread(file, &mut buffer[read..], (from + read) as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// A bundle of certificates with a key at its end, or a binary container, which is told only as a whole.
fn may_continue_with_a_key(head: &[u8]) -> bool {
    head.first() == Some(&0x30) || memchr::memmem::find(head, b"-----BEGIN ").is_some()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use holdfast_writer_api::FileRole;

    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n";

    fn search(root: &Path, recursive: bool, exclude: &[&str]) -> Vec<String> {
        let set = FileSet {
            path: root.to_owned(),
            pattern: "*".into(),
            recursive,
            optional: false,
            role: FileRole::Data,
        };
        let exclude: Vec<_> = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
        let found = plain_keys("www", &[set], &exclude).unwrap();
        found.iter().map(|path| path.strip_prefix(root).unwrap().display().to_string()).collect()
    }

    #[test]
    fn keys_are_found_at_any_depth_inside_bundles_and_not_where_nothing_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("top.key"), KEY).unwrap();
        fs::write(root.join("a/b/deep.json"), format!("{{\"key\": \"{KEY}\"}}")).unwrap();
        fs::write(root.join("a/public.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
        let certificates = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".repeat(3000);
        assert!(certificates.len() > HEAD);
        fs::write(root.join("a/bundle.pem"), format!("{certificates}{KEY}")).unwrap();
        fs::write(root.join("a/huge"), format!("{KEY}{}", "x".repeat(MAX_LOOKED_INTO as usize))).unwrap();
        assert_eq!(search(root, true, &[]), ["a/b/deep.json", "a/bundle.pem", "top.key"]);
        assert_eq!(search(root, false, &[]), ["top.key"]);
        assert_eq!(search(root, true, &["b", "*.key"]), ["a/bundle.pem"]);
    }

    #[test]
    fn links_pipes_and_odd_names_neither_lead_out_nor_block() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(elsewhere.path().join("other.key"), KEY).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), folder.path().join("folder")).unwrap();
        std::os::unix::fs::symlink(elsewhere.path().join("other.key"), folder.path().join("file")).unwrap();
        rustix::fs::mknodat(CWD, folder.path().join("pipe"), FileType::Fifo, 0o600.into(), 0).unwrap();
        let odd = folder.path().join(OsStr::from_bytes(b"\xff.key"));
        fs::write(&odd, KEY).unwrap();
        assert_eq!(search(folder.path(), true, &[]).len(), 1);
        let linked = folder.path().join("folder");
        let set = FileSet {
            path: linked,
            pattern: "*".into(),
            recursive: true,
            optional: false,
            role: FileRole::Data,
        };
        let refused = plain_keys("www", &[set], &[]);
        assert!(matches!(refused, Err(WriterError::Rejected { .. })), "{refused:?}");
    }
}

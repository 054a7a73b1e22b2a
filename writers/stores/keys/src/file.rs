//! Reads a key file and nothing else: one regular file, bounded, not through a link; and writes a new private one.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Largest key file, in bytes. An RSA key of 8192 bits has 6 kB; a bundle some tens.
pub const MAX_KEY_FILE: usize = 1024 * 1024;

/// A key file as it was read. The content is wiped when dropped and is not part of `Debug`.
pub struct KeyFile {
    /// All bytes of it.
    pub content: Zeroizing<Vec<u8>>,
    /// Permission bits (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// What an administrator should know; no reason to refuse.
    pub warning: Option<KeyFileWarning>,
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("KeyFile")
            .field("bytes", &self.content.len())
            .field("mode", &format_args!("{:o}", self.mode))
            .field("uid", &self.uid)
            .field("gid", &self.gid)
            .field("warning", &self.warning)
            .finish_non_exhaustive()
    }
}

/// What is wrong with how a key file lies there, without making it unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileWarning {
    /// Its group may read or change it.
    #[error("the key file {path} is open to its group (mode {mode:04o}); 0600 is usual")]
    OpenToGroup {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Everybody may read or change it: the key must be taken as known to every user of the machine.
    #[error("the key file {path} is open to every user (mode {mode:04o}); 0600 is usual")]
    OpenToAll {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// Why a key file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Not there, or not permitted.
    #[error("the key file {path} cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The last part of the path is a symbolic link: it could lead to another user's file.
    #[error("{path} is a symbolic link; name the key file itself")]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A folder, pipe, socket or device.
    #[error("{path} is not a regular file")]
    NotRegular {
        /// What was named.
        path: PathBuf,
    },
    /// Too big to be a key file.
    #[error("{path} has more than {limit} bytes: too large for a key file")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in bytes.
        limit: usize,
    },
    /// Nothing in it.
    #[error("the key file {path} is empty")]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a key file: regular, at most 1 MiB, its name no symbolic link. Never blocks on a pipe.
///
/// # Errors
/// [`KeyFileError`]. A mode open to others is no error but [`KeyFile::warning`].
pub fn read_key_file(path: &Path) -> Result<KeyFile, KeyFileError> {
    let (content, metadata) = read_bounded(path, MAX_KEY_FILE)?;
    if content.is_empty() {
        return Err(KeyFileError::Empty { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    let warning = if mode & 0o007 != 0 {
        Some(KeyFileWarning::OpenToAll { path: path.to_owned(), mode })
    } else if mode & 0o070 != 0 {
        Some(KeyFileWarning::OpenToGroup { path: path.to_owned(), mode })
    } else {
        None
    };
    Ok(KeyFile { content, mode, uid: metadata.uid(), gid: metadata.gid(), warning })
}

/// All of a regular file of at most `limit` bytes, without following a link at its name.
pub(crate) fn read_bounded(
    path: &Path,
    limit: usize,
) -> Result<(Zeroizing<Vec<u8>>, std::fs::Metadata), KeyFileError> {
    let failed = |source| KeyFileError::Read { path: path.to_owned(), source };
    // NONBLOCK: opening a pipe must not wait for its other end.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC).bits();
    let file =
        OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path).map_err(|source| {
            if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) && path.is_symlink() {
                KeyFileError::Link { path: path.to_owned() }
            } else {
                failed(source)
            }
        })?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotRegular { path: path.to_owned() });
    }
    let too_large = || KeyFileError::TooLarge { path: path.to_owned(), limit };
    let expected =
        usize::try_from(metadata.len()).ok().filter(|size| *size <= limit).ok_or_else(too_large)?;
    // Room for one byte more than allowed: the file may grow meanwhile, the buffer must not (it would leave a copy).
    let mut content = Zeroizing::new(Vec::with_capacity(limit.min(expected.saturating_add(4096)) + 1));
    let room = content.capacity();
    file.take(room as u64 - 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() > limit || content.len() > expected + 4096 {
        return Err(too_large());
    }
    Ok((content, metadata))
}

/// Creates `path` with mode 0600 and this content, durably: file and folder are on disk when it returns. Never
/// replaces anything; what was begun is removed when it fails.
pub(crate) fn create_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let written = file.write_all(content).and_then(|()| file.sync_all()).and_then(|()| sync_parent(path));
    if written.is_err() {
        // The first error is the one to tell; a leftover is visible and refuses the next try by name.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn file(folder: &Path, name: &str, content: &[u8], mode: u32) -> PathBuf {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn a_private_file_is_read_without_warning_and_an_open_one_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let closed = read_key_file(&file(folder.path(), "a", b"key", 0o600)).unwrap();
        assert_eq!((closed.content.as_slice(), closed.mode, &closed.warning), (&b"key"[..], 0o600, &None));
        let group = read_key_file(&file(folder.path(), "b", b"key", 0o640)).unwrap();
        assert!(matches!(group.warning, Some(KeyFileWarning::OpenToGroup { mode: 0o640, .. })));
        let all = read_key_file(&file(folder.path(), "c", b"key", 0o644)).unwrap();
        assert!(matches!(all.warning, Some(KeyFileWarning::OpenToAll { mode: 0o644, .. })));
        assert!(!format!("{all:?}").contains("key,"));
    }

    #[test]
    fn links_folders_pipes_and_oversized_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let real = file(folder.path(), "real", b"key", 0o600);
        let link = folder.path().join("link");
        symlink(&real, &link).unwrap();
        assert!(matches!(read_key_file(&link), Err(KeyFileError::Link { .. })));
        assert!(matches!(read_key_file(folder.path()), Err(KeyFileError::NotRegular { .. })));
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert!(matches!(read_key_file(&pipe), Err(KeyFileError::NotRegular { .. })));
        let large = file(folder.path(), "large", &vec![1; MAX_KEY_FILE + 1], 0o600);
        assert!(matches!(read_key_file(&large), Err(KeyFileError::TooLarge { .. })));
        assert_eq!(
            read_key_file(&file(folder.path(), "full", &vec![1; MAX_KEY_FILE], 0o600)).unwrap().content.len(),
            MAX_KEY_FILE
        );
        assert!(matches!(
            read_key_file(&file(folder.path(), "none", b"", 0o600)),
            Err(KeyFileError::Empty { .. })
        ));
        assert!(matches!(read_key_file(&folder.path().join("gone")), Err(KeyFileError::Read { .. })));
    }

    #[test]
    fn a_private_file_is_created_closed_and_never_replaces_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new");
        create_private(&path, b"one").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(create_private(&path, b"two").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
    }
}

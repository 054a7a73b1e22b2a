//! Looks at files without harming the locks on them.
//! Owns: path and link rules, file identity through `O_PATH`, the file system's name, SQLite's own descriptors.
//! Leaves to others: everything SQLite does with the files.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::SqliteError;

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
}

/// A regular file found at a path that holds no symbolic link. Carries no locks: `O_PATH` descriptors are left out when
/// the kernel drops a process's locks at `close`.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) identity: Identity,
    pub(crate) bytes: u64,
    handle: OwnedFd,
}

/// The path as SQLite gets it: absolute, so that a name such as `file:x` is never taken for a URI.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, SqliteError> {
    if path.as_os_str().is_empty() || path.as_os_str().as_bytes().contains(&0) {
        return Err(SqliteError::UnusablePath { path: path.to_owned() });
    }
    std::path::absolute(path).map_err(|e| SqliteError::io(path, "resolve", e))
}

/// The file beside `database` whose name ends in `suffix`, such as `-wal`.
pub(crate) fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(database);
    name.push(suffix);
    name.into()
}

/// Finds the regular file at `path`, following no link in any part of it.
///
/// # Errors
/// [`SqliteError::Missing`], [`SqliteError::Symlink`], [`SqliteError::NotRegular`], or [`SqliteError::Io`].
pub(crate) fn find(path: &Path) -> Result<Found, SqliteError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let handle = match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Not there before Linux 5.6 nor under some sandboxes. SQLite's own NOFOLLOW walks the folders afterwards.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::open(path, flags | OFlags::NOFOLLOW, Mode::empty()),
        other => other,
    };
    let handle = handle.map_err(|e| match e {
        Errno::NOENT => SqliteError::Missing { path: path.to_owned() },
        Errno::LOOP => SqliteError::Symlink { path: path.to_owned() },
        e => SqliteError::io(path, "look at", e),
    })?;
    let stat = rustix::fs::fstat(&handle).map_err(|e| SqliteError::io(path, "look at", e))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Symlink => return Err(SqliteError::Symlink { path: path.to_owned() }),
        FileType::Directory
        | FileType::Fifo
        | FileType::Socket
        | FileType::CharacterDevice
        | FileType::BlockDevice
        | FileType::Unknown => return Err(SqliteError::NotRegular { path: path.to_owned() }),
    }
    Ok(Found {
        identity: Identity { device: stat.st_dev, inode: stat.st_ino },
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        handle,
    })
}

/// As [`find`], with `None` for a file that is not there.
pub(crate) fn find_optional(path: &Path) -> Result<Option<Found>, SqliteError> {
    match find(path) {
        Ok(found) => Ok(Some(found)),
        Err(SqliteError::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// SQLite follows links for the files beside the database even when told not to for the database itself.
pub(crate) fn refuse_linked_companions(database: &Path) -> Result<(), SqliteError> {
    for suffix in ["-wal", "-shm", "-journal"] {
        find_optional(&beside(database, suffix))?;
    }
    Ok(())
}

impl Found {
    /// The name of the file system if its locks may not reach every user of the file.
    pub(crate) fn untrusted_filesystem(&self, path: &Path) -> Result<Option<&'static str>, SqliteError> {
        let fs = rustix::fs::fstatfs(&self.handle)
            .map_err(|e| SqliteError::io(path, "name the file system of", e))?;
        // The type's width and sign differ between architectures; the magic numbers are 32 bits.
        #[expect(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            reason = "the kernel's magic is 32 bits"
        )]
        Ok(untrusted(fs.f_type as u32))
    }

    /// `major:minor` of the file's device as `/proc/locks` prints it, which on btrfs is not what `stat` says.
    pub(crate) fn superblock_device(&self) -> Option<(u32, u32)> {
        let statx = rustix::fs::statx(
            self.handle.as_fd(),
            "",
            rustix::fs::AtFlags::EMPTY_PATH,
            rustix::fs::StatxFlags::MNT_ID,
        )
        .ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        mounts.lines().find_map(|line| {
            let mut fields = line.split_ascii_whitespace();
            let id: u64 = fields.next()?.parse().ok()?;
            let (major, minor) = fields.nth(1)?.split_once(':')?;
            (id == statx.stx_mnt_id).then_some((major.parse().ok()?, minor.parse().ok()?))
        })
    }
}

const fn untrusted(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x6969 => "NFS",
        0x517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x6573_5546 => "FUSE",
        0x0102_1997 => "9P",
        0x00c3_6400 => "Ceph",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x7375_7245 => "Coda",
        0x0bd0_0bd0 => "Lustre",
        0x7461_636f => "OCFS2",
        0x0116_1970 => "GFS2",
        0x1983_0326 => "BeeGFS",
        0x4750_4653 => "GPFS",
        _ => return None,
    })
}

/// This process's descriptors of that file. SQLite's are among them as long as its connection is open, and asking
/// through them neither opens nor closes anything.
pub(crate) fn own_descriptors(identity: Identity) -> std::io::Result<Vec<RawFd>> {
    let found = descriptors_among(Path::new("/proc/self/fd"), &[identity])?;
    Ok(found.into_iter().map(|(descriptor, _)| descriptor).collect())
}

/// The descriptors listed in `folder` (a `/proc/PID/fd`) that are of one of those files, each with the file's index.
pub(crate) fn descriptors_among(folder: &Path, files: &[Identity]) -> std::io::Result<Vec<(RawFd, usize)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // A descriptor closed since the listing is none of ours.
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        let identity = Identity { device: meta.dev(), inode: meta.ino() };
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let (Some(number), Some(which)) = (number, files.iter().position(|file| *file == identity)) {
            found.push((number, which));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_filesystems_are_told_from_local_ones() {
        assert_eq!(untrusted(0x6969), Some("NFS"));
        assert_eq!(untrusted(0xff53_4d42), Some("SMB"));
        assert_eq!(untrusted(0x6573_5546), Some("FUSE"));
        for local in [0xef53, 0x9123_683e, 0x5846_5342, 0x0102_1994, 0x2fc1_2fc1, 0x794c_7630] {
            assert_eq!(untrusted(local), None, "{local:#x}");
        }
    }

    #[test]
    fn a_link_anywhere_in_the_path_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        fs::create_dir(real.join("a")).unwrap();
        fs::write(real.join("a/db"), b"x").unwrap();
        std::os::unix::fs::symlink(real.join("a"), real.join("b")).unwrap();
        std::os::unix::fs::symlink(real.join("a/db"), real.join("c")).unwrap();
        assert!(find(&real.join("a/db")).is_ok());
        assert!(matches!(find(&real.join("b/db")), Err(SqliteError::Symlink { .. })));
        assert!(matches!(find(&real.join("c")), Err(SqliteError::Symlink { .. })));
        assert!(matches!(find(&real.join("a")), Err(SqliteError::NotRegular { .. })));
        assert!(matches!(find(&real.join("none")), Err(SqliteError::Missing { .. })));
    }

    #[test]
    fn own_descriptors_are_found_by_file_not_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = find(&file.path().canonicalize().unwrap()).unwrap();
        // The `O_PATH` handle is one of them; locks asked through it answer EBADF, and the next is tried.
        assert_eq!(own_descriptors(found.identity).unwrap().len(), 2);
    }

    #[test]
    fn the_superblock_device_is_that_of_some_mount() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = find(&file.path().canonicalize().unwrap()).unwrap();
        assert!(found.superblock_device().is_some());
    }
}

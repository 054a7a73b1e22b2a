//! System calls of a restore: every name is created anew, relative to an open folder, and no link is followed.
//! Owns: creating entries and setting their attributes, owner before mode.

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
        XattrFlags,
    },
    io::Errno,
};

use super::{EntryMetadata, LostAttribute, NodeKind, RepositoryError};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder that the caller prepared. Its path may lead through links of the system's; itself it is none.
pub(super) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, FOLDER, Mode::empty())?)
}

/// A folder below one of ours.
pub(super) fn open_below(base: &OwnedFd, relative: &Path) -> io::Result<OwnedFd> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(rustix::fs::openat2(base, relative, FOLDER, Mode::empty(), beneath)?)
}

pub(super) fn make_folder(parent: &OwnedFd, name: &OsStr, may_exist: bool) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => Ok(rustix::fs::openat(parent, name, FOLDER, Mode::empty())?),
        Err(Errno::EXIST) if may_exist => {
            let folder = rustix::fs::openat(parent, name, FOLDER, Mode::empty())?;
            for entry in Dir::read_from(&folder)? {
                if ![&b"."[..], b".."].contains(&entry?.file_name().to_bytes()) {
                    return Err(io::ErrorKind::DirectoryNotEmpty.into());
                }
            }
            Ok(folder)
        }
        Err(error) => Err(error.into()),
    }
}

/// A new file of the given size, all hole.
pub(super) fn make_file(parent: &OwnedFd, name: &OsStr, size: u64) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
    if size > 0 {
        file.set_len(size)?;
    }
    Ok(file)
}

pub(super) fn make_link(parent: &OwnedFd, name: &OsStr, target: &Path) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, parent, name)?)
}

pub(super) fn make_special(parent: &OwnedFd, name: &OsStr, kind: &NodeKind) -> io::Result<()> {
    let (file_type, device) = match kind {
        NodeKind::BlockDevice { device } => (FileType::BlockDevice, *device),
        NodeKind::CharDevice { device } => (FileType::CharacterDevice, *device),
        NodeKind::Fifo => (FileType::Fifo, 0),
        NodeKind::Directory | NodeKind::File | NodeKind::Symlink { .. } | NodeKind::Socket => {
            return Err(io::ErrorKind::InvalidInput.into());
        }
    };
    Ok(rustix::fs::mknodat(parent, name, file_type, Mode::RUSR | Mode::WUSR, device)?)
}

/// A further name for a file of ours. All folders on the way are still closed to others.
pub(super) fn link(base: &OwnedFd, first: &Path, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::linkat(base, first, parent, name, AtFlags::empty())?)
}

/// Writes everything on the file systems of these folders to disk.
pub(super) fn sync(bases: &[Arc<OwnedFd>]) -> io::Result<()> {
    let mut synced = Vec::new();
    for base in bases {
        let device = rustix::fs::fstat(base)?.st_dev;
        if !synced.contains(&device) {
            rustix::fs::syncfs(base)?;
            synced.push(device);
        }
    }
    Ok(())
}

/// Sets attributes, and keeps the list of those that could not be set.
pub(super) struct Attributes {
    allow_lost: bool,
    lost: Mutex<Vec<LostAttribute>>,
}

/// How an entry is reached: open for use, or only as a place (`O_PATH`), which most calls refuse.
#[derive(Clone, Copy)]
enum Reach<'a> {
    Open(BorrowedFd<'a>),
    Place(BorrowedFd<'a>),
}

impl Reach<'_> {
    /// A path that leads to the entry itself, also if it is a link.
    fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    fn chown(self, uid: u32, gid: u32) -> rustix::io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self {
            Self::Open(fd) => rustix::fs::fchown(fd, uid, gid),
            Self::Place(fd) => rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    fn chmod(self, mode: u32) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Open(fd) => rustix::fs::fchmod(fd, mode),
            Self::Place(fd) => rustix::fs::chmod(Self::proc_path(fd), mode),
        }
    }

    fn set_xattr(self, name: &str, value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Self::Place(fd) => rustix::fs::setxattr(Self::proc_path(fd), name, value, XattrFlags::empty()),
        }
    }

    fn set_times(self, times: &Timestamps) -> rustix::io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::futimens(fd, times),
            Self::Place(fd) => rustix::fs::utimensat(fd, "", times, AtFlags::EMPTY_PATH),
        }
    }
}

impl Attributes {
    pub(super) fn new(allow_lost: bool) -> Self {
        Self { allow_lost, lost: Mutex::new(Vec::new()) }
    }

    pub(super) fn into_lost(self) -> Vec<LostAttribute> {
        self.lost.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lose(&self, path: &Path, what: &str, reason: impl Into<String>) {
        let lost = LostAttribute { path: path.to_owned(), what: what.to_owned(), reason: reason.into() };
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(lost);
    }

    /// Whether a failure is one of privileges or of the target's abilities, and the caller allows for it.
    pub(super) fn may_lose(&self, error: &io::Error) -> bool {
        let kind = Errno::from_io_error(error);
        self.allow_lost && matches!(kind, Some(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::INVAL))
    }

    /// Of a file or folder that is open.
    pub(super) fn of_open(
        &self,
        fd: impl AsFd,
        path: &Path,
        metadata: &EntryMetadata,
    ) -> Result<(), RepositoryError> {
        self.set(Reach::Open(fd.as_fd()), path, metadata, false)
    }

    /// Of a link or special file, which cannot be opened.
    pub(super) fn of_special(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        path: &Path,
        metadata: &EntryMetadata,
        is_link: bool,
    ) -> Result<(), RepositoryError> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::openat(parent, name, flags, Mode::empty())
            .map_err(|e| RepositoryError::target("open", path, e.into()))?;
        self.set(Reach::Place(place.as_fd()), path, metadata, is_link)
    }

    /// `Ok(true)` if set, `Ok(false)` if lost with the caller's leave.
    fn tried(
        &self,
        path: &Path,
        action: &'static str,
        what: &str,
        result: rustix::io::Result<()>,
    ) -> Result<bool, RepositoryError> {
        match result.map_err(io::Error::from) {
            Ok(()) => Ok(true),
            Err(error) if self.may_lose(&error) => {
                self.lose(path, what, error.to_string());
                Ok(false)
            }
            Err(error) => Err(RepositoryError::target(action, path, error)),
        }
    }

    fn set(
        &self,
        reach: Reach<'_>,
        path: &Path,
        metadata: &EntryMetadata,
        is_link: bool,
    ) -> Result<(), RepositoryError> {
        // A change of owner clears setuid bits and capabilities: it comes first.
        let owned = self.tried(path, "set the owner of", "owner", reach.chown(metadata.uid, metadata.gid))?;
        for (name, value) in &metadata.xattrs {
            self.tried(path, "set an extended attribute of", name, reach.set_xattr(name, value))?;
        }
        if !is_link {
            // With a wrong owner these bits would lend the wrong rights.
            let mode = if owned { metadata.mode } else { metadata.mode & !0o6000 };
            self.tried(path, "set the mode of", "mode", reach.chmod(mode))?;
        }
        let times =
            Timestamps { last_access: timespec(metadata.atime), last_modification: timespec(metadata.mtime) };
        self.tried(path, "set the times of", "times", reach.set_times(&times))?;
        Ok(())
    }
}

fn timespec(time: Option<Timestamp>) -> Timespec {
    let Some(time) = time else { return Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT } };
    let (mut tv_sec, mut tv_nsec) = (time.as_second(), i64::from(time.subsec_nanosecond()));
    if tv_nsec < 0 {
        // Before 1970 jiff counts both parts downwards; the kernel wants the fraction upwards.
        tv_sec -= 1;
        tv_nsec += 1_000_000_000;
    }
    Timespec { tv_sec, tv_nsec }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_fraction() {
        let time: Timestamp = "1969-12-31T23:59:58.25Z".parse().expect("a time");
        let timespec = timespec(Some(time));
        assert_eq!((timespec.tv_sec, timespec.tv_nsec), (-2, 250_000_000));
    }

    #[test]
    fn a_folder_that_is_a_link_is_not_followed_and_one_with_content_is_not_reused() {
        let place = tempfile::tempdir().expect("scratch folder");
        let base = open_folder(place.path()).expect("opened");
        std::fs::create_dir(place.path().join("real")).expect("a folder");
        std::os::unix::fs::symlink("real", place.path().join("link")).expect("a link");
        assert!(make_folder(&base, OsStr::new("link"), true).is_err());
        assert!(open_below(&base, Path::new("link")).is_err());
        assert!(make_folder(&base, OsStr::new("real"), true).is_ok());
        std::fs::write(place.path().join("real/x"), "x").expect("written");
        assert!(make_folder(&base, OsStr::new("real"), true).is_err());
        assert!(make_folder(&base, OsStr::new("real"), false).is_err());
    }
}

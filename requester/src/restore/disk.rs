//! Single-name operations beneath an open folder, none of which follows a link.
//! Owns: the identity of a file, the two renames, fsync of folders, removal of a tree with flat memory.

use std::{
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Statx, StatxAttributes, StatxFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

/// What kind of thing a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// Which file this is, whatever it is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Device number. Does not survive a reboot or remount on btrfs, LVM and others.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub kind: Kind,
    /// Birth time, seconds and nanoseconds, where the filesystem keeps one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub born: Option<(i64, u32)>,
}

impl Identity {
    /// Whether both are the same file.
    // The birth time replaces the device where there is one: it tells a reused inode from the one that was deleted,
    // and stays valid when a reboot between two steps numbers the devices anew.
    pub fn same(&self, other: &Self) -> bool {
        self.ino == other.ino
            && self.kind == other.kind
            && match (self.born, other.born) {
                (Some(mine), Some(theirs)) => mine == theirs,
                (None, None) => self.dev == other.dev,
                (Some(_), None) | (None, Some(_)) => false,
            }
    }

    fn of(stat: &Statx) -> Self {
        Self {
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            kind: match FileType::from_raw_mode(stat.stx_mode.into()) {
                FileType::RegularFile => Kind::File,
                FileType::Directory => Kind::Directory,
                FileType::Symlink => Kind::Link,
                FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => Kind::Other,
            },
            born: StatxFlags::from_bits_retain(stat.stx_mask)
                .contains(StatxFlags::BTIME)
                .then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
        }
    }
}

/// What one look at a name tells.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub id: Identity,
    pub uid: u32,
    pub mode: u32,
    pub mount_root: bool,
}

impl From<&Statx> for Seen {
    fn from(stat: &Statx) -> Self {
        Self {
            id: Identity::of(stat),
            uid: stat.stx_uid,
            mode: u32::from(stat.stx_mode) & 0o7777,
            mount_root: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
        }
    }
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Looks at `name` in `dir` without following it; `None` when there is nothing.
pub(super) fn look(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Seen>, Errno> {
    match rustix::fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, WANTED) {
        Ok(stat) => Ok(Some(Seen::from(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Looks at an open file.
pub(super) fn look_at(fd: BorrowedFd<'_>) -> Result<Seen, Errno> {
    rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, WANTED).map(|stat| Seen::from(&stat))
}

/// Opens the folder `name` beneath `dir` for reading and fsync.
pub(super) fn open_dir(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(
        dir,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Lets two names change places in one step.
pub(super) fn exchange(
    a: BorrowedFd<'_>,
    a_name: &OsStr,
    b: BorrowedFd<'_>,
    b_name: &OsStr,
) -> Result<(), Errno> {
    rustix::fs::renameat_with(a, a_name, b, b_name, RenameFlags::EXCHANGE)
}

/// Moves a name; fails with `EXIST` rather than replace anything.
pub(super) fn move_new(
    from: BorrowedFd<'_>,
    from_name: &OsStr,
    to: BorrowedFd<'_>,
    to_name: &OsStr,
) -> Result<(), Errno> {
    rustix::fs::renameat_with(from, from_name, to, to_name, RenameFlags::NOREPLACE)
}

/// Sets the mode of `name` if it still is `id`, whatever happens to the name meanwhile.
pub(super) fn chmod_checked(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    id: &Identity,
    mode: u32,
) -> Result<bool, Errno> {
    let fd = rustix::fs::openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !look_at(fd.as_fd())?.id.same(id) {
        return Ok(false);
    }
    // fchmod refuses an O_PATH descriptor; the magic link leads to the very inode just identified.
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::chmod(link, Mode::from_raw_mode(mode))?;
    Ok(true)
}

/// Removes everything in the folder `dir`, but not `dir` itself, and never crosses into a mounted filesystem.
///
/// Memory and descriptors stay flat however deep the tree is: subfolders are first moved up into `dir`.
pub(super) fn empty_dir(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut fresh = 0_u64;
    loop {
        let mut found = false;
        for name in names(dir)? {
            found = true;
            if look(dir, &name)?.is_some_and(|seen| seen.id.kind == Kind::Directory) {
                flatten(dir, &name, &mut fresh)?;
            } else {
                unlink(dir, &name)?;
            }
        }
        if !found {
            return Ok(());
        }
    }
}

/// Empties one folder of `top` (files away, subfolders up into `top`) and removes it.
fn flatten(top: BorrowedFd<'_>, name: &OsStr, fresh: &mut u64) -> Result<(), Errno> {
    let Some(seen) = look(top, name)? else { return Ok(()) };
    if seen.mount_root {
        return Err(Errno::BUSY);
    }
    if seen.mode & 0o700 != 0o700 {
        chmod_checked(top, name, &seen.id, 0o700)?;
    }
    let folder = open_dir(top, name)?;
    loop {
        let children = names(folder.as_fd())?;
        if children.is_empty() {
            break;
        }
        for child in children {
            lift(folder.as_fd(), &child, top, fresh)?;
        }
    }
    match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Removes `child` from `folder`: a file for good, a subfolder by moving it to `top`.
fn lift(folder: BorrowedFd<'_>, child: &OsStr, top: BorrowedFd<'_>, fresh: &mut u64) -> Result<(), Errno> {
    let Some(inner) = look(folder, child)? else { return Ok(()) };
    if inner.id.kind != Kind::Directory {
        return unlink(folder, child);
    }
    // Without privileges a folder must be writable to get a new parent.
    if inner.mode & 0o700 != 0o700 {
        chmod_checked(folder, child, &inner.id, 0o700)?;
    }
    loop {
        *fresh += 1;
        match move_new(folder, child, top, OsStr::new(&format!(".gone-{fresh}"))) {
            Err(Errno::EXIST) => {}
            done => return done,
        }
    }
}

fn unlink(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Removes `name`, file or whole folder. Nothing there is fine.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let Some(seen) = look(dir, name)? else { return Ok(()) };
    if seen.id.kind != Kind::Directory {
        return unlink(dir, name);
    }
    if seen.mount_root {
        return Err(Errno::BUSY);
    }
    if seen.mode & 0o700 != 0o700 {
        chmod_checked(dir, name, &seen.id, 0o700)?;
    }
    empty_dir(open_dir(dir, name)?.as_fd())?;
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// The names in a folder, at most 4096 of them: callers that empty a folder come back for the rest.
pub(super) fn names(dir: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut out = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            out.push(OsStr::from_bytes(name).to_owned());
            if out.len() == 4096 {
                break;
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_deep_tree_with_closed_folders_is_removed() {
        let top = tempfile::tempdir().unwrap();
        let mut path = top.path().join("a");
        fs::create_dir(&path).unwrap();
        for depth in 0..300 {
            fs::write(path.join("f"), b"x").unwrap();
            path.push(format!("d{depth}"));
            fs::create_dir(&path).unwrap();
        }
        for n in 0..5000 {
            fs::write(top.path().join("a").join(format!("n{n}")), b"").unwrap();
        }
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        let fd = open_dir(rustix::fs::CWD, top.path().as_os_str()).unwrap();
        remove(fd.as_fd(), OsStr::new("a")).unwrap();
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 0);
    }

    #[test]
    fn removal_does_not_follow_links() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("kept")).unwrap();
        fs::write(top.path().join("kept/f"), b"x").unwrap();
        fs::create_dir(top.path().join("gone")).unwrap();
        std::os::unix::fs::symlink(top.path().join("kept"), top.path().join("gone/link")).unwrap();
        let fd = open_dir(rustix::fs::CWD, top.path().as_os_str()).unwrap();
        remove(fd.as_fd(), OsStr::new("gone")).unwrap();
        assert!(top.path().join("kept/f").exists());
        assert!(!top.path().join("gone").exists());
    }
}

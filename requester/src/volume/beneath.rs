//! Opens files beneath a root without following links and without leaving its mount (promise P10).
//!
//! Every look at data that a service user owns goes through a [`Root`]: whatever that user renames or links
//! meanwhile, the kernel resolves each name beneath the folder that was opened, or refuses.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::VolumeError;
use super::meta::{Kind, Meta};
use super::real::{open_strict, real_path};

/// The kernel's own limit for a list of attributes and for one value.
const MAX_ATTRIBUTES: usize = 64 << 10;

/// A folder that is held open, and the only way to what lies beneath it.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    path: PathBuf,
    meta: Meta,
}

impl Root {
    /// Opens a folder by its absolute path. Links on the way are followed only where an administrator could
    /// have put them: see [`real_path`].
    ///
    /// # Errors
    /// [`VolumeError::SymlinkRefused`], [`VolumeError::NotAFolder`], [`VolumeError::Missing`].
    pub fn open(dir: &Path) -> Result<Self, VolumeError> {
        Self::open_real(&real_path(dir)?)
    }

    /// As [`Root::open`], but no link at all is followed: for folders of our own.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn open_real(dir: &Path) -> Result<Self, VolumeError> {
        let fd = open_strict(dir, OFlags::PATH)?;
        let meta = Meta::of(&fd).map_err(|e| VolumeError::from_errno("look at", dir, e))?;
        if meta.kind != Kind::Directory {
            return Err(VolumeError::NotAFolder { path: dir.into(), found: meta.kind });
        }
        let dir_fd = open_strict(dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Self::from_fd(dir_fd, dir.to_path_buf())
    }

    fn from_fd(dir: OwnedFd, path: PathBuf) -> Result<Self, VolumeError> {
        let meta = Meta::of(&dir).map_err(|e| VolumeError::from_errno("look at", &path, e))?;
        Ok(Self { dir, path, meta })
    }

    /// The folder's path when it was opened, without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself, as it was when it was opened.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The open folder.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Opens a regular file for reading.
    ///
    /// Nothing but a regular file is ever opened: what the name stands for is looked at first, through a
    /// handle that cannot be exchanged, so no device is touched and no pipe waited for.
    ///
    /// # Errors
    /// [`VolumeError::SymlinkRefused`], [`VolumeError::NotAFile`], [`VolumeError::MountPoint`],
    /// [`VolumeError::Missing`].
    pub fn open_file(&self, rel: &Path) -> Result<File, VolumeError> {
        self.open_file_meta(rel).map(|(file, _)| file)
    }

    /// As [`Root::open_file`], with what the open file is.
    ///
    /// # Errors
    /// As [`Root::open_file`].
    pub fn open_file_meta(&self, rel: &Path) -> Result<(File, Meta), VolumeError> {
        let path = self.path.join(rel);
        let fd = self.resolve(rel, OFlags::PATH)?;
        let meta = Meta::of(&fd).map_err(|e| VolumeError::from_errno("look at", &path, e))?;
        match meta.kind {
            Kind::File => {}
            Kind::Symlink => return Err(VolumeError::SymlinkRefused { path }),
            Kind::Directory
            | Kind::Fifo
            | Kind::Socket
            | Kind::BlockDevice
            | Kind::CharDevice
            | Kind::Unknown => return Err(VolumeError::NotAFile { path, found: meta.kind }),
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::open(by_descriptor(&fd), flags, Mode::empty())
            .map_err(|e| VolumeError::from_errno("open", &path, e))?;
        Ok((file.into(), meta))
    }

    /// Opens a file and makes sure that it is the one that was `seen` under that name before.
    ///
    /// # Errors
    /// [`VolumeError::Exchanged`], else as [`Root::open_file`].
    pub fn open_seen(&self, rel: &Path, seen: &Meta) -> Result<(File, Meta), VolumeError> {
        let (file, meta) = self.open_file_meta(rel)?;
        if !meta.same_file(seen) {
            return Err(VolumeError::Exchanged { path: self.path.join(rel) });
        }
        Ok((file, meta))
    }

    /// Opens a folder beneath this one, `""` being this one.
    ///
    /// # Errors
    /// [`VolumeError::SymlinkRefused`], [`VolumeError::NotAFolder`], [`VolumeError::MountPoint`].
    pub fn open_dir(&self, rel: &Path) -> Result<Self, VolumeError> {
        let path = self.path.join(rel);
        let looked = self.stat(rel)?;
        match looked.kind {
            Kind::Directory => {}
            Kind::Symlink => return Err(VolumeError::SymlinkRefused { path }),
            Kind::File | Kind::Fifo | Kind::Socket | Kind::BlockDevice | Kind::CharDevice | Kind::Unknown => {
                return Err(VolumeError::NotAFolder { path, found: looked.kind });
            }
        }
        let dir = self.resolve(rel, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Self::from_fd(dir, path)
    }

    /// What a name stands for; a link is a link. `""` is the folder itself, as it is now.
    ///
    /// # Errors
    /// [`VolumeError::Missing`], [`VolumeError::SymlinkRefused`] for a link on the way.
    pub fn stat(&self, rel: &Path) -> Result<Meta, VolumeError> {
        let path = self.path.join(rel);
        let fd = self.resolve(rel, OFlags::PATH)?;
        Meta::of(&fd).map_err(|e| VolumeError::from_errno("look at", path, e))
    }

    /// Where a link points, unresolved.
    ///
    /// # Errors
    /// [`VolumeError::Io`] when it is no link.
    pub fn read_link(&self, rel: &Path) -> Result<PathBuf, VolumeError> {
        let fd = self.resolve(rel, OFlags::PATH)?;
        let target = rustix::fs::readlinkat(&fd, c"", Vec::new())
            .map_err(|e| VolumeError::from_errno("read the link", self.path.join(rel), e))?;
        Ok(OsString::from_vec(target.into_bytes()).into())
    }

    /// The extended attributes of a name, ACLs among them, sorted by name. A link has its own.
    ///
    /// # Errors
    /// As [`Root::stat`]. A filesystem without attributes has none, which is no error.
    pub fn xattrs(&self, rel: &Path) -> Result<Vec<(OsString, Vec<u8>)>, VolumeError> {
        let path = self.path.join(rel);
        let (parent, name) = match (rel.parent(), rel.file_name()) {
            (Some(parent), Some(name)) => (parent, Path::new(name)),
            _ => (Path::new(""), Path::new(".")),
        };
        let dir = self.resolve(parent, OFlags::PATH | OFlags::DIRECTORY)?;
        xattrs_at(&by_descriptor(&dir).join(name), &path)
    }

    fn resolve(&self, rel: &Path, flags: OFlags) -> Result<OwnedFd, VolumeError> {
        let path = self.path.join(rel);
        let plain = rel.components().all(|c| matches!(c, Component::Normal(_)))
            && !rel.as_os_str().as_bytes().contains(&0);
        if !plain {
            return Err(VolumeError::NotPlain { path: rel.into() });
        }
        let name = if rel.as_os_str().is_empty() { Path::new(".") } else { rel };
        open_beneath(self.dir.as_fd(), name, flags).map_err(|e| VolumeError::from_errno("open", path, e))
    }
}

/// Opens a name beneath a folder: no links, no other mount, not above.
pub(crate) fn open_beneath(dir: BorrowedFd<'_>, name: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let how = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    let mut tries = 0;
    loop {
        let opened =
            rustix::fs::openat2(dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), how);
        tries += 1;
        match opened {
            // A rename somewhere in the system while the kernel resolved; its advice is to try again.
            Err(Errno::AGAIN | Errno::INTR) if tries < 100 => {}
            other => return other,
        }
    }
}

/// The path by which calls that take only paths reach an open file.
pub(crate) fn by_descriptor(fd: impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// The attributes of an open file or folder, sorted by name; errors speak of `path`.
pub(crate) fn xattrs_open(file: impl AsFd, path: &Path) -> Result<Vec<(OsString, Vec<u8>)>, VolumeError> {
    let fd = file.as_fd();
    xattrs(path, |buf| rustix::fs::flistxattr(fd, buf), |name, buf| rustix::fs::fgetxattr(fd, name, buf))
}

/// The attributes of what `at` names, its last part not followed; errors speak of `path`.
fn xattrs_at(at: &Path, path: &Path) -> Result<Vec<(OsString, Vec<u8>)>, VolumeError> {
    xattrs(path, |buf| rustix::fs::llistxattr(at, buf), |name, buf| rustix::fs::lgetxattr(at, name, buf))
}

fn xattrs(
    path: &Path,
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&OsStr, &mut [u8]) -> rustix::io::Result<usize>,
) -> Result<Vec<(OsString, Vec<u8>)>, VolumeError> {
    let fail = |e| VolumeError::from_errno("read the attributes of", path, e);
    let mut names = vec![0_u8; 1 << 10];
    let length = match grown(&mut names, list) {
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(e) => return Err(fail(e)),
    };
    let mut found = Vec::new();
    let mut value = Vec::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        let name = OsStr::from_bytes(name);
        value.resize(256, 0);
        match grown(&mut value, |buf| get(name, buf)) {
            Ok(length) => found.push((name.to_owned(), value[..length].to_vec())),
            // Removed since the list was read.
            Err(Errno::NODATA) => {}
            Err(e) => return Err(fail(e)),
        }
    }
    found.sort();
    Ok(found)
}

fn grown(
    buf: &mut Vec<u8>,
    read: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<usize> {
    loop {
        match read(buf.as_mut_slice()) {
            Err(Errno::RANGE) if buf.len() < MAX_ATTRIBUTES => buf.resize(buf.len() * 4, 0),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use super::*;

    fn scratch() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/file"), "content").unwrap();
        let root = Root::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn a_file_beneath_is_read_and_nothing_above_can_be_named() {
        let (_dir, root) = scratch();
        let mut text = String::new();
        root.open_file(Path::new("sub/file")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        for above in ["../x", "sub/../../x", "/etc/hostname", "sub/./file\0"] {
            assert!(matches!(root.open_file(Path::new(above)), Err(VolumeError::NotPlain { .. })), "{above}");
        }
        assert!(matches!(root.open_file(Path::new("none")), Err(VolumeError::Missing { .. })));
    }

    #[test]
    fn a_link_is_refused_as_the_file_on_the_way_and_as_a_folder() {
        let (dir, root) = scratch();
        symlink("sub/file", dir.path().join("link")).unwrap();
        symlink("sub", dir.path().join("way")).unwrap();
        let refused = |e| matches!(e, Err(VolumeError::SymlinkRefused { .. }));
        assert!(refused(root.open_file(Path::new("link")).map(drop)));
        assert!(refused(root.open_file(Path::new("way/file")).map(drop)));
        assert!(refused(root.open_dir(Path::new("way")).map(drop)));
        assert_eq!(root.stat(Path::new("link")).unwrap().kind, Kind::Symlink);
        assert_eq!(root.read_link(Path::new("link")).unwrap(), Path::new("sub/file"));
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_its_writer() {
        let (dir, root) = scratch();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let refused = root.open_file(Path::new("pipe")).unwrap_err();
        assert!(matches!(refused, VolumeError::NotAFile { found: Kind::Fifo, .. }));
        assert!(matches!(root.open_dir(Path::new("sub/file")), Err(VolumeError::NotAFolder { .. })));
    }

    #[test]
    fn a_file_put_in_place_of_the_one_that_was_seen_is_noticed() {
        let (dir, root) = scratch();
        let seen = root.stat(Path::new("sub/file")).unwrap();
        root.open_seen(Path::new("sub/file"), &seen).unwrap();
        std::fs::write(dir.path().join("other"), "x").unwrap();
        std::fs::rename(dir.path().join("other"), dir.path().join("sub/file")).unwrap();
        let refused = root.open_seen(Path::new("sub/file"), &seen).unwrap_err();
        assert!(matches!(refused, VolumeError::Exchanged { .. }));
    }

    #[test]
    fn attributes_of_files_and_of_the_root_itself_are_read_whole() {
        let (dir, root) = scratch();
        let big = vec![7_u8; 3000];
        for name in ["user.b", "user.a"] {
            let set = rustix::fs::setxattr(
                dir.path().join("sub/file"),
                name,
                &big,
                rustix::fs::XattrFlags::empty(),
            );
            if set == Err(Errno::NOTSUP) {
                println!("skipped: this filesystem has no attributes");
                return;
            }
            // ext4 keeps all attributes of a file in one block.
            let _ = set.inspect_err(|e| assert_eq!(*e, Errno::NOSPC));
        }
        let found = root.xattrs(Path::new("sub/file")).unwrap();
        assert!(found.iter().any(|(name, value)| name == "user.b" && *value == big));
        assert!(found.is_sorted());
        assert!(root.xattrs(Path::new("")).unwrap().iter().all(|(name, _)| name != "user.b"));
    }
}

//! From a configured path to the path without links: which links on the way may be followed.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use super::error::VolumeError;
use super::meta::{Kind, Meta};

/// As many as the kernel follows.
const MAX_LINKS: usize = 40;

/// The same place without a link on the way.
///
/// An administrator may keep `/var/lib/app` as a link to another disk; a service user may not redirect us by
/// one. A link is followed only if it belongs to root or to the running user and lies in a folder of theirs
/// that no one else can write, or whose sticky bit keeps others from exchanging it.
///
/// # Errors
/// [`VolumeError::SymlinkRefused`] with the link, [`VolumeError::Missing`], [`VolumeError::NotPlain`].
pub fn real_path(path: &Path) -> Result<PathBuf, VolumeError> {
    let mut todo = names(path)?;
    todo.reverse();
    let mut done = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = todo.pop() {
        if name == ".." {
            // `done` has no links in it, so what lies above it is what stands before it.
            done.pop();
            continue;
        }
        let dir = open_strict(&done, OFlags::PATH | OFlags::DIRECTORY)?;
        let here = done.join(&name);
        let meta = Meta::at(&dir, &name).map_err(|e| VolumeError::from_errno("look at", &here, e))?;
        if meta.kind != Kind::Symlink {
            done = here;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(VolumeError::TooMany {
                path: path.into(),
                what: "links on the way",
                limit: MAX_LINKS,
            });
        }
        let folder = Meta::of(&dir).map_err(|e| VolumeError::from_errno("look at", &done, e))?;
        if !trusted_link(&meta, &folder) {
            return Err(VolumeError::SymlinkRefused { path: here });
        }
        let target = rustix::fs::readlinkat(&dir, &name, Vec::new())
            .map_err(|e| VolumeError::from_errno("read the link", &here, e))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            done = PathBuf::from("/");
        }
        let parts: Vec<_> = target.components().collect();
        todo.extend(parts.into_iter().rev().filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
        }));
    }
    Ok(done)
}

/// Opens a path on which no link may lie, not even the last name.
pub(crate) fn open_strict(path: &Path, flags: OFlags) -> Result<OwnedFd, VolumeError> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty(), resolve)
        .map_err(|e| VolumeError::from_errno("open", path, e))
}

/// The names of an absolute path without `.` and `..`.
pub(crate) fn names(path: &Path) -> Result<Vec<OsString>, VolumeError> {
    let plain = path.is_absolute()
        && path.components().all(|c| matches!(c, Component::Normal(_) | Component::RootDir))
        && !path.as_os_str().as_encoded_bytes().contains(&0);
    if !plain {
        return Err(VolumeError::NotPlain { path: path.into() });
    }
    Ok(path.components().filter(|c| *c != Component::RootDir).map(|c| c.as_os_str().to_owned()).collect())
}

/// Whether this id is root's or ours.
pub(crate) fn trusted_user(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

fn trusted_link(link: &Meta, folder: &Meta) -> bool {
    let exchangeable = folder.mode & 0o022 != 0 && folder.mode & 0o1000 == 0;
    trusted_user(link.uid) && trusted_user(folder.uid) && !exchangeable
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, lchown, symlink};

    use super::*;

    #[test]
    fn an_administrators_link_is_followed_and_one_others_could_have_put_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("disk/app")).unwrap();
        symlink("disk/../disk/./app", base.join("app")).unwrap();
        assert_eq!(real_path(&base.join("app")).unwrap(), base.join("disk/app"));

        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o777)).unwrap();
        let refused = real_path(&base.join("app")).unwrap_err();
        assert!(matches!(refused, VolumeError::SymlinkRefused { path } if path == base.join("app")));
        std::fs::set_permissions(&base, PermissionsExt::from_mode(0o700)).unwrap();

        if rustix::process::geteuid().is_root() {
            lchown(base.join("app"), Some(1234), None).unwrap();
            assert!(matches!(real_path(&base.join("app/x")), Err(VolumeError::SymlinkRefused { .. })));
        }
    }

    #[test]
    fn loops_and_crooked_paths_end_with_a_name() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(matches!(real_path(&dir.path().join("a")), Err(VolumeError::TooMany { .. })));
        for crooked in ["relative", "/a/../b", ""] {
            assert!(matches!(real_path(Path::new(crooked)), Err(VolumeError::NotPlain { .. })), "{crooked}");
        }
        assert!(matches!(real_path(&dir.path().join("none/x")), Err(VolumeError::Missing { .. })));
    }
}

//! From an absolute path to an open folder, past links that nobody else could have planted and no others.
//! Owns: the rule which links count. Leaves to others: everything below the folder.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::{
    disk::{self, Kind, Seen},
    error::Problem,
};

/// Links followed on one path before it counts as a loop; the kernel's own number.
const MAX_LINKS: usize = 40;

/// As far as a path exists.
pub(super) struct Walked {
    /// The last folder that exists, open as a place (`O_PATH`).
    pub fd: OwnedFd,
    /// Names below it that do not exist yet.
    pub missing: Vec<OsString>,
}

/// Refuses what cannot name a target and drops a trailing slash.
pub(super) fn clean(path: &Path) -> Result<PathBuf, Problem> {
    let bad = |why| Problem::BadPath { path: path.to_owned(), why };
    if path.as_os_str().is_empty() {
        return Err(bad("it is empty"));
    }
    if !path.is_absolute() {
        return Err(bad("it is not absolute"));
    }
    if path.as_os_str().as_bytes().contains(&0) {
        return Err(bad("it contains a zero byte"));
    }
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            Component::ParentDir => return Err(bad("it contains `..`")),
            Component::Normal(name) => out.push(name),
        }
    }
    if out.parent().is_none() {
        return Err(bad("it is the root folder"));
    }
    Ok(out)
}

/// Walks down to the folder `path`.
///
/// A link on the way is followed only if root or this user owns it and nobody else can have put it there; the last name
/// may not be a link at all.
pub(super) fn walk(path: &Path) -> Result<Walked, Problem> {
    let euid = rustix::process::geteuid().as_raw();
    let fail = |errno| Problem::io("open", path)(errno);
    let mut fd = root().map_err(fail)?;
    let mut todo: VecDeque<OsString> = path.iter().skip(1).map(OsStr::to_owned).collect();
    // Becomes false in a folder that others can write: a link of root's that they moved there is still their doing.
    let mut trusted = true;
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        let next = match rustix::fs::openat(
            &fd,
            &name,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(next) => next,
            Err(Errno::NOENT) => {
                let mut missing = vec![name];
                missing.extend(todo);
                if missing.iter().any(|name| name == "..") {
                    return Err(fail(Errno::NOENT));
                }
                return Ok(Walked { fd, missing });
            }
            Err(errno) => return Err(fail(errno)),
        };
        let seen = disk::look_at(next.as_fd()).map_err(fail)?;
        match seen.id.kind {
            Kind::Directory => {
                trusted &= is_ours(&seen, euid);
                fd = next;
            }
            Kind::Link if todo.is_empty() => return Err(Problem::ParentIsLink { path: path.to_owned() }),
            Kind::Link => {
                let target = rustix::fs::readlinkat(&next, "", Vec::new()).map_err(fail)?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if !trusted || (seen.uid != 0 && seen.uid != euid) {
                    return Err(Problem::LinkInPath { path: path.to_owned(), link: PathBuf::from(name) });
                }
                links += 1;
                if links > MAX_LINKS {
                    return Err(fail(Errno::LOOP));
                }
                if target.is_absolute() {
                    fd = root().map_err(fail)?;
                }
                for part in target.components().rev() {
                    match part {
                        Component::Normal(name) => todo.push_front(name.to_owned()),
                        Component::ParentDir => todo.push_front("..".into()),
                        Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
                    }
                }
            }
            Kind::File | Kind::Other => return Err(fail(Errno::NOTDIR)),
        }
    }
    Ok(Walked { fd, missing: Vec::new() })
}

fn root() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// A folder in which nobody but root and this user can rename what is there.
fn is_ours(seen: &Seen, euid: u32) -> bool {
    (seen.uid == 0 || seen.uid == euid) && (seen.mode & 0o022 == 0 || seen.mode & 0o1000 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    #[test]
    fn a_target_is_an_absolute_path_below_the_root() {
        assert_eq!(clean(Path::new("/srv/ca/keys/")).unwrap(), Path::new("/srv/ca/keys"));
        for bad in ["", "srv/ca", "/", "/srv/../etc", "/./"] {
            assert!(matches!(clean(Path::new(bad)), Err(Problem::BadPath { .. })), "{bad}");
        }
    }

    #[test]
    fn a_link_as_the_last_folder_is_refused_and_an_own_link_above_is_followed() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("real/inner")).unwrap();
        symlink("real", top.join("alias")).unwrap();
        assert!(matches!(walk(&top.join("alias")), Err(Problem::ParentIsLink { .. })));
        let walked = walk(&top.join("alias/inner")).unwrap();
        let there = disk::look_at(walked.fd.as_fd()).unwrap().id;
        let real = walk(&top.join("real/inner")).unwrap();
        assert!(there.same(&disk::look_at(real.fd.as_fd()).unwrap().id));
    }

    #[test]
    fn a_link_in_a_folder_that_others_can_write_is_refused() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        fs::create_dir_all(top.join("open/real/inner")).unwrap();
        symlink("real", top.join("open/alias")).unwrap();
        fs::set_permissions(top.join("open"), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(walk(&top.join("open/alias/inner")), Err(Problem::LinkInPath { .. })));
    }

    #[test]
    fn missing_folders_are_named_from_the_top() {
        let top = tempfile::tempdir().unwrap();
        let walked = walk(&top.path().canonicalize().unwrap().join("x/y")).unwrap();
        assert_eq!(walked.missing, ["x", "y"]);
    }
}

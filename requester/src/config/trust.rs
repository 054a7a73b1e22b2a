//! Nothing is trusted for being there (promise P10): who could have written this file?

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A file, or a folder above it, that someone else can change.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", path.display())]
pub struct Untrusted {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// Most links followed on the way, as the kernel has it.
const MAX_LINKS: usize = 40;

/// Checks that `path` and every folder on the way to it, through links too, belong to root or to the running user
/// and can be written by no one else. A sticky folder such as `/tmp` is no danger: others cannot rename in it.
///
/// # Errors
/// [`Untrusted`], naming the first that fails.
pub fn check_trusted(path: &Path) -> Result<(), Untrusted> {
    let unseen = |path: &Path, error| Untrusted {
        path: path.to_owned(),
        problem: format!("cannot be looked at: {error}"),
    };
    let whole = std::path::absolute(path).map_err(|error| unseen(path, error))?;
    // Walked by hand: whoever can change a link on the way decides what is found, wherever it leads today.
    let mut here = PathBuf::from("/");
    let mut rest: Vec<OsString> = names(&whole);
    let mut links = 0;
    check_one(&here, &fs::metadata(&here).map_err(|error| unseen(&here, error))?, rest.is_empty())?;
    while let Some(name) = rest.pop() {
        if name == ".." {
            here.pop();
            continue;
        }
        let next = here.join(name);
        let meta = fs::symlink_metadata(&next).map_err(|error| unseen(&next, error))?;
        check_one(&next, &meta, rest.is_empty())?;
        if !meta.is_symlink() {
            here = next;
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(Untrusted { path: next, problem: "leads through too many links".into() });
        }
        let target = fs::read_link(&next).map_err(|error| unseen(&next, error))?;
        if target.is_absolute() {
            here = PathBuf::from("/");
        }
        rest.extend(names(&target));
    }
    Ok(())
}

/// The names in a path, the last one first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

fn check_one(path: &Path, meta: &fs::Metadata, last: bool) -> Result<(), Untrusted> {
    let fail = |problem: String| Err(Untrusted { path: path.to_owned(), problem });
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != us {
        return fail(format!("belongs to user {}; it must belong to root or to you", meta.uid()));
    }
    let sticky_folder = !last && meta.is_dir() && meta.mode() & 0o1000 != 0;
    // A link has no mode of its own.
    if meta.mode() & 0o022 != 0 && !sticky_folder && !meta.is_symlink() {
        let mode = meta.mode() & 0o7777;
        return fail(format!("can be written by others (mode {mode:o}); run `chmod go-w` on it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_others_can_write_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("holdfast.toml");
        std::fs::write(&file, "").unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(&file, 0o600);
        check_trusted(&file).unwrap();
        mode(&file, 0o660);
        assert_eq!(check_trusted(&file).unwrap_err().path, file.canonicalize().unwrap());
        mode(&file, 0o600);
        mode(dir.path(), 0o777);
        assert_eq!(check_trusted(&file).unwrap_err().path, dir.path().canonicalize().unwrap());
    }

    #[test]
    fn a_link_is_only_as_good_as_every_folder_it_leads_through() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let folder = |name: &str, mode| {
            let folder = dir.join(name);
            std::fs::create_dir(&folder).unwrap();
            std::fs::set_permissions(&folder, PermissionsExt::from_mode(mode)).unwrap();
            folder
        };
        let (safe, open) = (folder("safe", 0o755), folder("open", 0o777));
        let link = |from: PathBuf, to: &str| std::os::unix::fs::symlink(to, from).unwrap();
        std::fs::write(safe.join("program"), "").unwrap();
        std::fs::set_permissions(safe.join("program"), PermissionsExt::from_mode(0o755)).unwrap();

        link(safe.join("link"), "program");
        link(safe.join("around"), "../safe/./link");
        check_trusted(&safe.join("around")).unwrap();
        // What it leads to is good; the link itself lies where anyone can change it.
        link(open.join("link"), "../safe/program");
        link(safe.join("through"), "../open/link");
        for path in [open.join("link"), safe.join("through")] {
            assert_eq!(check_trusted(&path).unwrap_err().path, open, "{}", path.display());
        }
        link(safe.join("loop"), "loop");
        assert!(check_trusted(&safe.join("loop")).unwrap_err().problem.contains("links"));
        assert!(check_trusted(&safe.join("absent")).unwrap_err().problem.contains("looked at"));
    }
}

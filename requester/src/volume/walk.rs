//! Lists what lies beneath a [`Root`]: sorted, bounded, links reported and never followed, other mounts and
//! subvolumes reported and never entered.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use super::Pattern;
use super::beneath::{Root, open_beneath};
use super::error::VolumeError;
use super::meta::{Kind, Meta};

/// Folders inside each other; each costs an open descriptor while it is walked.
const MAX_DEPTH: usize = 200;
/// Entries of one walk; an entry costs about 200 bytes.
const MAX_ENTRIES: usize = 8_000_000;
/// The inode number of every btrfs subvolume's root.
pub(crate) const SUBVOLUME_ROOT: u64 = 256;

/// One thing found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the folder that was walked from.
    pub rel: PathBuf,
    /// What it is.
    pub meta: Meta,
    /// Set where another volume begins; nothing below was looked at.
    pub boundary: Option<Boundary>,
}

/// Where a walk stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// Another filesystem, or another part of this one, is mounted here.
    Mount,
    /// A btrfs subvolume of its own.
    Subvolume,
}

/// What a walk does with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visit {
    /// List it; if a folder, go into it.
    Take,
    /// List it and do not go into it.
    Leaf,
    /// Do not list it; if a folder, go into it.
    Pass,
    /// Neither.
    Skip,
}

impl Root {
    /// Everything in the folder `rel` whose name matches `pattern`, in the order of [`Path`]; below as well if
    /// `recursive`, every folder then listed before what it contains.
    ///
    /// # Errors
    /// [`VolumeError::BadPattern`], [`VolumeError::TooDeep`], [`VolumeError::TooMany`], and as
    /// [`Root::open_dir`]. What vanishes while the walk goes on is left out.
    pub fn walk(&self, rel: &Path, recursive: bool, pattern: &str) -> Result<Vec<Entry>, VolumeError> {
        let pattern = Pattern::new(pattern)?;
        self.walk_with(rel, &mut |path, kind| {
            let name = path.file_name().unwrap_or_default();
            match (kind, recursive) {
                (Kind::Directory, true) => Visit::Take,
                _ if pattern.matches(name) => Visit::Leaf,
                _ => Visit::Skip,
            }
        })
    }

    /// As [`Root::walk`], asking `visit` about each entry by its path below the root and its kind.
    ///
    /// # Errors
    /// As [`Root::walk`].
    pub fn walk_with(
        &self,
        rel: &Path,
        visit: &mut dyn FnMut(&Path, Kind) -> Visit,
    ) -> Result<Vec<Entry>, VolumeError> {
        let start = self.open_dir(rel)?;
        let mut walker = Walker { root: self, start: start.meta().clone(), visit, found: Vec::new() };
        walker.folder(start.as_fd(), rel, 0)?;
        Ok(walker.found)
    }
}

struct Walker<'a> {
    root: &'a Root,
    start: Meta,
    visit: &'a mut dyn FnMut(&Path, Kind) -> Visit,
    found: Vec<Entry>,
}

impl Walker<'_> {
    fn folder(&mut self, dir: BorrowedFd<'_>, rel: &Path, depth: usize) -> Result<(), VolumeError> {
        let path = self.root.path().join(rel);
        if depth > MAX_DEPTH {
            return Err(VolumeError::TooDeep { path, limit: MAX_DEPTH });
        }
        let names = names(dir).map_err(|e| VolumeError::from_errno("list", &path, e))?;
        for name in names {
            let rel = rel.join(OsStr::from_bytes(name.as_bytes()));
            let meta = match Meta::at(dir, name.as_c_str()) {
                Ok(meta) => meta,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(VolumeError::from_errno("look at", self.root.path().join(&rel), e)),
            };
            let visit = (self.visit)(&rel, meta.kind);
            if visit == Visit::Skip {
                continue;
            }
            let mut boundary = self.boundary(&meta);
            let mut below = None;
            if meta.kind == Kind::Directory && visit != Visit::Leaf && boundary.is_none() {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                match open_beneath(dir, Path::new(OsStr::from_bytes(name.as_bytes())), flags) {
                    Ok(fd) => below = Some(fd),
                    Err(Errno::XDEV) => boundary = Some(Boundary::Mount),
                    Err(Errno::NOENT) => continue,
                    // A file or link by now: whoever asked for this folder gets the name of what changed.
                    Err(Errno::NOTDIR | Errno::LOOP) => {
                        return Err(VolumeError::Exchanged { path: self.root.path().join(&rel) });
                    }
                    Err(e) => return Err(VolumeError::from_errno("open", self.root.path().join(&rel), e)),
                }
            }
            if visit != Visit::Pass || boundary.is_some() {
                if self.found.len() >= MAX_ENTRIES {
                    return Err(VolumeError::TooMany { path, what: "entries", limit: MAX_ENTRIES });
                }
                self.found.push(Entry { rel: rel.clone(), meta, boundary });
            }
            if let Some(fd) = below {
                self.folder(fd.as_fd(), &rel, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Device numbers are compared for folders only: on overlay a file shows the number of a layer.
    fn boundary(&self, meta: &Meta) -> Option<Boundary> {
        match (meta.mnt_id, self.start.mnt_id) {
            (Some(there), Some(here)) if there != here => return Some(Boundary::Mount),
            _ => {}
        }
        if meta.kind != Kind::Directory || meta.dev == self.start.dev {
            return None;
        }
        let same_mount_known = meta.mnt_id.is_some();
        Some(if meta.ino == SUBVOLUME_ROOT && same_mount_known {
            Boundary::Subvolume
        } else {
            Boundary::Mount
        })
    }
}

/// The names in a folder, sorted by their bytes: with folders entered in turn, that is [`Path`]'s order.
fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
        if names.len() > MAX_ENTRIES {
            return Err(Errno::OVERFLOW);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn rels(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|e| e.rel.to_str().unwrap()).collect()
    }

    #[test]
    fn a_walk_is_sorted_and_links_are_listed_but_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["a", "a/empty", "b"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        for file in ["a-1.db", "a/x.db", "a/y.txt", "b/z.db", "top.db"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        symlink("/", dir.path().join("b/out.db")).unwrap();
        let root = Root::open(dir.path()).unwrap();

        let all = root.walk(Path::new(""), true, "*").unwrap();
        let expected = ["a", "a/empty", "a/x.db", "a/y.txt", "a-1.db", "b", "b/out.db", "b/z.db", "top.db"];
        assert_eq!(rels(&all), expected);
        assert!(all.windows(2).all(|w| w[0].rel < w[1].rel));
        assert_eq!(all[6].meta.kind, Kind::Symlink);

        let flat = root.walk(Path::new(""), false, "*.db").unwrap();
        assert_eq!(rels(&flat), ["a-1.db", "top.db"]);
        let below = root.walk(Path::new("b"), false, "?.db").unwrap();
        assert_eq!(rels(&below), ["b/z.db"]);
    }

    #[test]
    fn twenty_thousand_files_are_listed_within_seconds() {
        // In memory where possible: making them on a busy disk takes longer than anything measured here.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for folder in 0..20 {
            let folder = dir.path().join(format!("d{folder}"));
            std::fs::create_dir(&folder).unwrap();
            (0..1000).for_each(|n| std::fs::write(folder.join(format!("f{n}")), "").unwrap());
        }
        let root = Root::open(dir.path()).unwrap();
        let begun = std::time::Instant::now();
        let found = root.walk(Path::new(""), true, "*").unwrap();
        assert_eq!(found.len(), 20_020);
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
    }

    #[test]
    fn folders_without_end_are_a_named_error() {
        let dir = tempfile::tempdir().unwrap();
        let deep: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 2).collect();
        std::fs::create_dir_all(dir.path().join(deep)).unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(matches!(root.walk(Path::new(""), true, "*"), Err(VolumeError::TooDeep { .. })));
    }
}

//! The tree of a shadow copy: `<area>/<id>/srv/ca/db.sqlite3`, in a folder that only we can enter.
//!
//! While it is filled everything in it is ours; owners, modes, attributes and times are put on at the end,
//! folders last, so that what reads the copy afterwards finds the original's.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{Source, Transfer};
use crate::provider::area::make_folder;
use crate::provider::budget::Limits;
use crate::provider::error::ProviderError;
use crate::provider::record::ShadowRecord;
use crate::provider::shadow::Origins;
use crate::volume::{FoundFile, Kind, Meta, Root, by_descriptor, open_beneath, xattrs_open};

/// Files kept open between making and filling them; opening one costs about as much as cloning it. The usual
/// limit for a process is 1024.
const KEPT_OPEN: usize = 256;

/// What a name in the tree shall look like in the end.
struct Node {
    meta: Meta,
    xattrs: Vec<(OsString, Vec<u8>)>,
}

pub(super) struct Tree {
    root: Root,
    folders: HashSet<PathBuf>,
    made: HashSet<PathBuf>,
    open: HashMap<PathBuf, File>,
    filled: BTreeMap<PathBuf, Node>,
    /// First names of files that have several, by device, inode and whether they are held.
    linked: HashMap<(u64, u64, bool), PathBuf>,
    parent: Option<(PathBuf, OwnedFd)>,
}

impl Tree {
    pub(super) fn new(area: &Root, record: &ShadowRecord) -> Result<Self, ProviderError> {
        let name = record.path.file_name().unwrap_or_default();
        make_folder(area.as_fd(), Path::new(name), &record.path)?;
        Ok(Self {
            root: Root::open_real(&record.path)?,
            folders: HashSet::new(),
            made: HashSet::new(),
            open: HashMap::new(),
            filled: BTreeMap::new(),
            linked: HashMap::new(),
            parent: None,
        })
    }

    pub(super) fn root(&self) -> &Root {
        &self.root
    }

    /// Makes what can be made of a held file before its content is final: folders, and the empty file.
    pub(super) fn make(
        &mut self,
        base: &Path,
        file: &FoundFile,
        transfer: &impl Transfer,
    ) -> Result<(), ProviderError> {
        let rel = base.join(&file.rel);
        match file.meta.kind {
            Kind::Directory => self.folder(&rel),
            // The second name of a file must not exist when it is linked.
            Kind::File if file.meta.links == 1 && !self.made.contains(&rel) => {
                let to = self.create(&rel)?;
                transfer.reserve(&to, &file.meta, &self.root.path().join(&rel))?;
                if self.open.len() < KEPT_OPEN {
                    self.open.insert(rel.clone(), to);
                }
                self.made.insert(rel);
                Ok(())
            }
            Kind::File
            | Kind::Symlink
            | Kind::Fifo
            | Kind::Socket
            | Kind::BlockDevice
            | Kind::CharDevice
            | Kind::Unknown => self.parent_of(&rel).map(drop),
        }
    }

    /// Puts one file into the tree, as it is now. A name that is there already is left as it is: two
    /// selections may overlap.
    pub(super) fn fill(
        &mut self,
        from: &Root,
        base: &Path,
        file: &FoundFile,
        held: bool,
        transfer: &impl Transfer,
        limits: Limits<'_>,
    ) -> Result<(), ProviderError> {
        let rel: PathBuf = base.join(&file.rel).components().collect();
        if self.filled.contains_key(&rel) {
            return Ok(());
        }
        let node = match file.meta.kind {
            Kind::Directory => {
                self.folder(&rel)?;
                let xattrs = from.xattrs(&file.rel)?;
                Node { meta: file.meta.clone(), xattrs }
            }
            Kind::File => match self.link(&rel, &file.meta, held)? {
                Some(()) => Node { meta: file.meta.clone(), xattrs: Vec::new() },
                None => self.content(from, file, &rel, transfer, limits)?,
            },
            Kind::Symlink => {
                let target = from.read_link(&file.rel)?;
                let (dir, name) = self.parent_of(&rel)?;
                rustix::fs::symlinkat(&target, dir, name).map_err(|e| self.failed("create", &rel, e))?;
                Node { meta: file.meta.clone(), xattrs: Vec::new() }
            }
            Kind::Fifo | Kind::Socket | Kind::BlockDevice | Kind::CharDevice => {
                let kind = file.meta.kind.file_type();
                let (dir, name) = self.parent_of(&rel)?;
                rustix::fs::mknodat(dir, name, kind, Mode::RUSR | Mode::WUSR, file.meta.rdev)
                    .map_err(|e| self.failed("create", &rel, e))?;
                Node { meta: file.meta.clone(), xattrs: Vec::new() }
            }
            Kind::Unknown => return Ok(()),
        };
        self.filled.insert(rel, node);
        Ok(())
    }

    /// Removes what was made and is no longer there, and puts owners, modes, attributes and times on.
    pub(super) fn finish(&mut self) -> Result<Origins, ProviderError> {
        self.open.clear();
        let gone: Vec<PathBuf> =
            self.made.iter().filter(|rel| !self.filled.contains_key(*rel)).cloned().collect();
        for rel in gone {
            let (dir, name) = self.parent_of(&rel)?;
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(self.failed("remove", &rel, e)),
            }
        }
        // Backwards: what is in a folder before the folder, whose times and mode are then final.
        let filled = std::mem::take(&mut self.filled);
        for (rel, node) in filled.iter().rev() {
            self.dress(rel, node)?;
        }
        self.verify(&filled)
    }

    fn content(
        &mut self,
        from: &Root,
        file: &FoundFile,
        rel: &Path,
        transfer: &impl Transfer,
        limits: Limits<'_>,
    ) -> Result<Node, ProviderError> {
        let (source, meta) = from.open_seen(&file.rel, &file.meta)?;
        let to = match self.open.remove(rel) {
            Some(to) => to,
            None if self.made.contains(rel) => self.reopen(rel)?,
            None => self.create(rel)?,
        };
        let shadow = self.root.path().join(rel);
        let on_its_way = Source { from: &source, meta: &meta, path: &file.path, to: &to, shadow: &shadow };
        transfer.transfer(&on_its_way, limits)?;
        let xattrs = xattrs_open(&source, &file.path)?;
        Ok(Node { meta, xattrs })
    }

    /// The second name of a file becomes one here too.
    fn link(&mut self, rel: &Path, meta: &Meta, held: bool) -> Result<Option<()>, ProviderError> {
        if meta.links < 2 {
            return Ok(None);
        }
        let first =
            self.linked.entry((meta.dev, meta.ino, held)).or_insert_with(|| rel.to_path_buf()).clone();
        if first == rel {
            return Ok(None);
        }
        // A file made for this name, from when it was the only one, would be in the way.
        if self.made.remove(rel) {
            self.open.remove(rel);
            let (dir, name) = self.parent_of(rel)?;
            rustix::fs::unlinkat(dir, name, AtFlags::empty()).map_err(|e| self.failed("remove", rel, e))?;
        }
        let root = self.root.as_fd().try_clone_to_owned().map_err(|e| self.failed("open", rel, e))?;
        let (dir, name) = self.parent_of(rel)?;
        rustix::fs::linkat(&root, &first, dir, name, AtFlags::empty())
            .map_err(|e| self.failed("link", rel, e))?;
        Ok(Some(()))
    }

    fn create(&mut self, rel: &Path) -> Result<File, ProviderError> {
        let (dir, name) = self.parent_of(rel)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR);
        opened.map(File::from).map_err(|e| self.failed("create", rel, e))
    }

    fn reopen(&mut self, rel: &Path) -> Result<File, ProviderError> {
        let (dir, name) = self.parent_of(rel)?;
        let opened = open_beneath(dir.as_fd(), Path::new(name), OFlags::WRONLY);
        opened.map(File::from).map_err(|e| self.failed("open", rel, e))
    }

    /// Makes a folder and all above it.
    fn folder(&mut self, rel: &Path) -> Result<(), ProviderError> {
        if rel.as_os_str().is_empty() || self.folders.contains(rel) {
            return Ok(());
        }
        let mut so_far = PathBuf::new();
        for name in rel.components() {
            so_far.push(name);
            if self.folders.insert(so_far.clone()) {
                make_folder(self.root.as_fd(), &so_far, &self.root.path().join(&so_far))?;
            }
        }
        Ok(())
    }

    /// The folder of a name, open, and the last part of the name. Names come sorted, so the last folder is
    /// mostly the right one.
    fn parent_of<'a>(&mut self, rel: &'a Path) -> Result<(&OwnedFd, &'a OsStr), ProviderError> {
        let name = rel.file_name().unwrap_or(OsStr::new("."));
        let folder = rel.parent().unwrap_or(Path::new(""));
        if self.parent.as_ref().is_none_or(|(at, _)| at != folder) {
            self.folder(folder)?;
            let at = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let fd = open_beneath(self.root.as_fd(), at, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(|e| self.failed("open", folder, e))?;
            self.parent = Some((folder.to_path_buf(), fd));
        }
        match &self.parent {
            Some((_, fd)) => Ok((fd, name)),
            None => unreachable!("set above"),
        }
    }

    fn dress(&mut self, rel: &Path, node: &Node) -> Result<(), ProviderError> {
        if rel.as_os_str().is_empty() {
            // The whole filesystem is selected; our own folder stays shut.
            return Ok(());
        }
        let shadow = self.root.path().join(rel);
        let fail = |action, e: Errno| ProviderError::io(action, &shadow, e);
        let (dir, name) = self.parent_of(rel)?;
        let meta = &node.meta;
        let has = Meta::at(dir, name).map_err(|e| fail("look at", e))?;
        if (has.uid, has.gid) != (meta.uid, meta.gid) {
            let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
            rustix::fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|e| fail("give to its owner", e))?;
        }
        if meta.kind != Kind::Symlink {
            // After the owner, whose change takes away set-user-id; before the ACL, whose mask it would change.
            rustix::fs::chmodat(dir, name, meta.permissions(), AtFlags::empty())
                .map_err(|e| fail("set the mode of", e))?;
        }
        let at = by_descriptor(dir).join(name);
        for (key, value) in &node.xattrs {
            match rustix::fs::lsetxattr(&at, key.as_os_str(), value, XattrFlags::empty()) {
                Ok(()) => {}
                // The kernel's own label; whoever may not set it gets the right one by policy.
                Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP) if key == "security.selinux" => {}
                Err(e) => return Err(fail("set the attributes of", e)),
            }
        }
        let time = |t: crate::volume::Time| Timespec { tv_sec: t.seconds, tv_nsec: t.nanos.into() };
        let times = Timestamps { last_access: time(meta.atime), last_modification: time(meta.mtime) };
        rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| fail("set the times of", e))
    }

    /// Looks at every file once more, and says which one it was read from.
    fn verify(&self, filled: &BTreeMap<PathBuf, Node>) -> Result<Origins, ProviderError> {
        let mut read_from = HashMap::new();
        for (rel, node) in filled.iter().filter(|(_, n)| n.meta.kind == Kind::File) {
            let is = self.root.stat(rel)?;
            if is.kind != Kind::File || is.size != node.meta.size {
                let problem = format!("{} bytes were cut, and {} are there", node.meta.size, is.size);
                return Err(ProviderError::Verification { path: self.root.path().join(rel), problem });
            }
            read_from.insert(is.ino, node.meta.id());
        }
        Ok(Origins::Copied(read_from))
    }

    fn failed(&self, action: &'static str, rel: &Path, error: impl Into<std::io::Error>) -> ProviderError {
        ProviderError::io(action, self.root.path().join(rel), error)
    }
}

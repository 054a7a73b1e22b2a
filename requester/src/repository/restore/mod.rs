//! Restoring files: the library's restore panics on a full disk, loses holes and only warns of lost attributes.
//! Owns: the order of a restore — folders and names first, content by parallel workers, attributes of folders last.
//! Leaves to others: where staging folders are, what becomes of what was restored.
//!
//! Folders belong to us with mode 0700 until everything inside is done, so that nobody can exchange a part of a path
//! while it is used. Content is made durable by one `syncfs` per target file system instead of an fsync for every file.

use std::{
    collections::HashMap,
    ffi::OsString,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustic_core::DataId;

use super::{
    Repository,
    error::RepositoryError,
    read::{NodeKind, SetReader, StoredNode, StoredSet},
    source::{EntryMetadata, Progress, ProgressFn},
};

mod content;
mod place;

use content::{Piece, Pool};
use place::Attributes;

/// How a restore treats what it cannot set, and whom it tells.
#[derive(Clone, Default)]
pub struct RestoreOptions {
    /// Owners, attributes and device nodes that our privileges or the target file system do not allow are left out and
    /// listed in [`Restored::lost`], instead of failing the restore. A file that cannot get its owner gets no setuid or
    /// setgid bit either.
    pub allow_lost_attributes: bool,
    /// Told how much is done.
    pub progress: Option<ProgressFn>,
}

/// What a restore did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    /// Bytes of file content (holes included) and number of regular files; a further hard link counts as neither.
    pub done: Progress,
    /// Attributes and entries left out. Sockets are here always, since their server makes them anew.
    pub lost: Vec<LostAttribute>,
}

/// Something a restore left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostAttribute {
    /// The path below the target.
    pub path: PathBuf,
    /// `owner`, `mode`, `times`, `socket`, `device`, or the name of the extended attribute.
    pub what: String,
    /// Why.
    pub reason: String,
}

/// The folder a target path lies in, opened once.
type Base = Arc<OwnedFd>;

/// A name below a base: relative, never through a link.
#[derive(Clone)]
struct Spot {
    base: Base,
    relative: PathBuf,
    /// For messages: the whole path.
    shown: PathBuf,
}

/// The first name of a file with several.
struct FirstLink {
    spot: Spot,
    content: Vec<DataId>,
    size: u64,
}

impl Repository {
    /// Restores entries of a set, each with everything below it. `selection` pairs a path inside the snapshot with the
    /// path it shall have; the folder that is to hold it exists, and the path itself does not (an empty folder may stand
    /// where a folder is to come). When it returns, everything is durable.
    ///
    /// Runs of 4 KiB of zeros become holes. Names of one file (hard links) inside the selection are so again.
    /// Memory is bounded by the number of folders and hard links and by some 16 MiB a worker.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchPath`]; [`RepositoryError::Target`] with what could not be created or set;
    /// [`RepositoryError::NoSpace`]; [`RepositoryError::Damaged`] for wrong bytes in the repository; the storage's
    /// failures. What was created until then stays, for the caller to remove with its staging folder.
    pub fn restore_files(
        &self,
        set: &StoredSet,
        selection: &[(PathBuf, PathBuf)],
        options: &RestoreOptions,
    ) -> Result<Restored, RepositoryError> {
        let _lock = self.lock_for_reading()?;
        let reader = self.reader(set)?;
        let attributes = Attributes::new(options.allow_lost_attributes);
        let pool = Pool::new(&reader, &attributes, options.progress.clone());
        let mut plan = Plan {
            reader: &reader,
            attributes: &attributes,
            pool: &pool,
            links: HashMap::new(),
            folders: Vec::new(),
            bases: Vec::new(),
        };
        let planned = std::thread::scope(|scope| {
            pool.start(scope);
            let planned = selection.iter().try_for_each(|(from, to)| plan.entry(from, to));
            // Ends the workers too, in any case.
            pool.close();
            planned
        });
        // A worker's failure is the cause; the planner's then only says that it was told to stop.
        let done = pool.finish()?;
        planned?;
        plan.finish()?;
        Ok(Restored { done, lost: attributes.into_lost() })
    }
}

struct Plan<'a> {
    reader: &'a SetReader,
    attributes: &'a Attributes,
    pool: &'a Pool<'a>,
    links: HashMap<(u64, u64), FirstLink>,
    /// Parents before children.
    folders: Vec<(Spot, EntryMetadata)>,
    bases: Vec<Base>,
}

impl Plan<'_> {
    /// One entry of the selection.
    fn entry(&mut self, from: &Path, to: &Path) -> Result<(), RepositoryError> {
        let node = self.reader.node(from)?;
        let (Some(parent), Some(name)) = (to.parent(), to.file_name()) else {
            let source = std::io::ErrorKind::InvalidInput.into();
            return Err(RepositoryError::target("restore to", to, source));
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let base =
            Arc::new(place::open_folder(parent).map_err(|e| RepositoryError::target("open", parent, e))?);
        self.bases.push(base.clone());
        let spot = Spot { base: base.clone(), relative: name.into(), shown: to.to_owned() };
        if node.kind != NodeKind::Directory {
            return self.leaf(&base, name.to_owned(), spot, node);
        }
        let top = self.folder(&base, name.to_owned(), spot.clone(), &node, true)?;
        // The folders that the walk is inside of, outermost first.
        let mut open = vec![(node.path.clone(), spot, Arc::new(top))];
        for below in self.reader.walk(from)? {
            let below = below?;
            while open.last().is_some_and(|(path, ..)| below.path.parent() != Some(path)) {
                open.pop();
            }
            let (Some((_, above, parent)), Some(name)) = (open.last(), below.path.file_name()) else {
                return Err(self.reader.repository.damaged("a folder listing is out of order"));
            };
            let name = name.to_owned();
            let spot = Spot {
                base: base.clone(),
                relative: above.relative.join(&name),
                shown: above.shown.join(&name),
            };
            let parent = parent.clone();
            if below.kind == NodeKind::Directory {
                let path = below.path.clone();
                let opened = self.folder(&parent, name, spot.clone(), &below, false)?;
                open.push((path, spot, Arc::new(opened)));
            } else {
                self.leaf(&parent, name, spot, below)?;
            }
        }
        Ok(())
    }

    fn folder(
        &mut self,
        parent: &OwnedFd,
        name: OsString,
        spot: Spot,
        node: &StoredNode,
        may_exist: bool,
    ) -> Result<OwnedFd, RepositoryError> {
        let opened = place::make_folder(parent, &name, may_exist)
            .map_err(|e| RepositoryError::target("create folder", &spot.shown, e))?;
        // The snapshot's root has no attributes of its own.
        if node.path != Path::new("/") {
            self.folders.push((spot, node.metadata.clone()));
        }
        Ok(opened)
    }

    fn leaf(
        &mut self,
        parent: &OwnedFd,
        name: OsString,
        spot: Spot,
        node: StoredNode,
    ) -> Result<(), RepositoryError> {
        let StoredNode { kind, metadata, content, .. } = node;
        match kind {
            NodeKind::File => self.file(parent, &name, spot, metadata, content),
            NodeKind::Socket => {
                self.attributes.lose(&spot.shown, "socket", "its server makes it anew");
                Ok(())
            }
            NodeKind::Symlink { target } => {
                place::make_link(parent, &name, &target)
                    .map_err(|e| RepositoryError::target("create link", &spot.shown, e))?;
                self.attributes.of_special(parent, &name, &spot.shown, &metadata, true)
            }
            NodeKind::Fifo | NodeKind::BlockDevice { .. } | NodeKind::CharDevice { .. } => {
                match place::make_special(parent, &name, &kind) {
                    Ok(()) => self.attributes.of_special(parent, &name, &spot.shown, &metadata, false),
                    Err(error) if kind != NodeKind::Fifo && self.attributes.may_lose(&error) => {
                        self.attributes.lose(&spot.shown, "device", error.to_string());
                        Ok(())
                    }
                    Err(error) => Err(RepositoryError::target("create special file", &spot.shown, error)),
                }
            }
            NodeKind::Directory => Err(self.reader.repository.damaged("a folder where a file was listed")),
        }
    }

    fn file(
        &mut self,
        parent: &OwnedFd,
        name: &OsString,
        spot: Spot,
        metadata: EntryMetadata,
        content: Vec<DataId>,
    ) -> Result<(), RepositoryError> {
        let places = content.iter().map(|id| self.reader.place(id)).collect::<Result<Vec<_>, _>>()?;
        let size: u64 = places.iter().map(|place| u64::from(place.size())).sum();
        if size != metadata.size {
            let what = format!("{} has {size} bytes, its entry says {}", spot.shown.display(), metadata.size);
            return Err(self.reader.repository.damaged(what));
        }
        if metadata.links > 1 {
            let key = (metadata.device, metadata.inode);
            // Equal content too: an inode number may have been used again while the set was read.
            match self.links.get(&key) {
                Some(first) if first.content == content && first.size == size => {
                    match place::link(&first.spot.base, &first.spot.relative, parent, name) {
                        Ok(()) => return Ok(()),
                        // The selection spans file systems: a file of its own.
                        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {}
                        Err(error) => {
                            return Err(RepositoryError::target("create hard link", spot.shown, error));
                        }
                    }
                }
                Some(_) => {}
                None => {
                    self.links.insert(key, FirstLink { spot: spot.clone(), content, size });
                }
            }
        }
        let file = place::make_file(parent, name, size)
            .map_err(|e| RepositoryError::target("create", &spot.shown, e))?;
        let pieces = places.into_iter().scan(0, |offset, place| {
            let piece = Piece { offset: *offset, place };
            *offset += u64::from(piece.place.size());
            Some(piece)
        });
        self.pool.add(file, spot.shown, metadata, pieces.collect())
    }

    /// Attributes of folders, innermost first, now that nothing is created in them any more; then everything to disk.
    fn finish(self) -> Result<(), RepositoryError> {
        for (spot, metadata) in self.folders.iter().rev() {
            let folder = place::open_below(&spot.base, &spot.relative)
                .map_err(|e| RepositoryError::target("open", &spot.shown, e))?;
            self.attributes.of_open(&folder, &spot.shown, metadata)?;
        }
        place::sync(&self.bases).map_err(|e| RepositoryError::target("sync", "the restored files", e))
    }
}

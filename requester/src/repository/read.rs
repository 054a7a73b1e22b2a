//! Reading: which sets there are, their documents, their trees, and single blobs.
//! Owns: listing, and every byte that leaves a pack: decrypted, decompressed, and compared with the hash that names it.
//!
//! Blobs are read here and not by the library, which checks that a blob was sealed with our key, but not that it is the
//! blob asked for: two packs of one layout, exchanged by whoever can write to the storage, would go unnoticed.

use std::{
    path::{Component, Path, PathBuf},
    sync::{Arc, PoisonError},
    vec,
};

use jiff::Timestamp;
use rustic_core::{
    DataId, IndexedFullStatus, PackedId, TreeId,
    repofile::{Node, NodeType, SnapshotFile, SnapshotId, Tree},
};
use uuid::Uuid;

use super::{
    Repository,
    archive::{TAG_PARTIAL, TAG_SET, is_reserved, revision_tag, set_tag},
    crypto,
    error::{Meaning, RepositoryError},
    source::{EntryMetadata, from_go_mode},
    storage::{FileKind, StorageErrorKind},
};

/// The largest blob read into memory, in bytes. Data blobs are at most 8 MiB, a tree blob is one folder's listing.
const BLOB_LIMIT: u32 = 512 << 20;

/// A set in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSet {
    /// The set's id.
    pub set: Uuid,
    /// Id of its snapshot, in hex: what stock restic calls it.
    pub snapshot: String,
    /// The instant it shows.
    pub time: Timestamp,
    /// The host its data are from.
    pub hostname: String,
    /// The user's tags.
    pub tags: Vec<String>,
    /// Its free text.
    pub label: String,
    /// Bytes of file content, as counted when stored; 0 if unknown.
    pub bytes: u64,
    /// Number of entries that are not folders, likewise.
    pub files: u64,
    /// 0 as committed; one more for each [`Repository::amend`].
    pub revision: u32,
    /// Snapshots of the same set that this one replaces; left by a death in the middle of an amendment.
    pub superseded: Vec<String>,
    pub(super) id: SnapshotId,
    pub(super) tree: TreeId,
}

impl StoredSet {
    pub(super) fn from_snapshot(snapshot: &SnapshotFile) -> Option<Self> {
        if !snapshot.tags.contains(TAG_SET) || snapshot.tags.contains(TAG_PARTIAL) {
            return None;
        }
        let summary = snapshot.summary.as_ref();
        Some(Self {
            set: set_tag(&snapshot.tags)?,
            snapshot: snapshot.id.to_hex().as_str().to_owned(),
            time: snapshot.time.timestamp(),
            hostname: snapshot.hostname.clone(),
            tags: snapshot.tags.iter().filter(|tag| !is_reserved(tag)).cloned().collect(),
            label: snapshot.label.clone(),
            bytes: summary.map_or(0, |summary| summary.total_bytes_processed),
            files: summary.map_or(0, |summary| summary.total_files_processed),
            revision: revision_tag(&snapshot.tags),
            superseded: Vec::new(),
            id: snapshot.id,
            tree: snapshot.tree,
        })
    }
}

/// A snapshot that does not decrypt, or is none.
#[derive(Debug)]
pub struct UnreadableSnapshot {
    /// Its id, in hex.
    pub snapshot: String,
    /// [`RepositoryError::Damaged`], naming it.
    pub error: RepositoryError,
}

/// One entry of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNode {
    /// Its absolute path inside the snapshot.
    pub path: PathBuf,
    /// What it is.
    pub kind: NodeKind,
    /// Its attributes.
    pub metadata: EntryMetadata,
    pub(super) content: Vec<DataId>,
    pub(super) subtree: Option<TreeId>,
}

/// The kinds of stored entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A folder.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink {
        /// Its target.
        target: PathBuf,
    },
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice {
        /// `st_rdev`.
        device: u64,
    },
    /// A character device.
    CharDevice {
        /// `st_rdev`.
        device: u64,
    },
}

/// The library with all of the repository's index in memory (about 50 bytes a blob).
pub(super) struct Index {
    library: rustic_core::Repository<IndexedFullStatus>,
}

/// Where a blob lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlobPlace {
    /// Name of the blob: the hash of its content.
    pub(super) name: String,
    pub(super) pack: String,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// Bytes after decryption, if it was compressed.
    pub(super) compressed_from: Option<u32>,
}

impl BlobPlace {
    /// Bytes of content.
    pub(super) fn size(&self) -> u32 {
        self.compressed_from.unwrap_or_else(|| self.length.saturating_sub(32))
    }
}

impl Repository {
    /// All snapshots; one that disappears while being listed is left out.
    pub(super) fn snapshots(&self) -> Result<Vec<SnapshotFile>, RepositoryError> {
        let (snapshots, unreadable) = self.snapshots_and_unreadable()?;
        unreadable.into_iter().next().map_or(Ok(snapshots), |bad| Err(bad.error))
    }

    pub(super) fn snapshots_and_unreadable(
        &self,
    ) -> Result<(Vec<SnapshotFile>, Vec<UnreadableSnapshot>), RepositoryError> {
        let storage = &self.inner.storage;
        let listed = storage.list(FileKind::Snapshot).map_err(|e| self.storage_error(e))?;
        let (mut snapshots, mut unreadable) = (Vec::with_capacity(listed.len()), Vec::new());
        for (name, _) in listed {
            let sealed = match storage.read(FileKind::Snapshot, &name) {
                Err(error) if error.kind == StorageErrorKind::NotFound => continue,
                other => other.map_err(|e| self.storage_error(e))?,
            };
            let plain = self.inner.cipher.open_unpacked(&sealed);
            let parsed = plain.and_then(|plain| serde_json::from_slice::<SnapshotFile>(&plain).ok());
            if let (Some(mut snapshot), Ok(id)) = (parsed, name.parse()) {
                snapshot.id = id;
                snapshots.push(snapshot);
            } else {
                let what = format!(
                    "snapshot {name} cannot be read; `holdfast forget {} --even-last-copy` gives it up",
                    name.get(..8).unwrap_or(&name)
                );
                unreadable.push(UnreadableSnapshot { error: self.damaged(what), snapshot: name });
            }
        }
        Ok((snapshots, unreadable))
    }

    /// The sets, oldest first; of several snapshots of one set, the newest.
    ///
    /// # Errors
    /// The storage's failures; [`RepositoryError::Damaged`].
    pub fn sets(&self) -> Result<Vec<StoredSet>, RepositoryError> {
        let (sets, unreadable) = self.sets_and_unreadable()?;
        unreadable.into_iter().next().map_or(Ok(sets), |bad| Err(bad.error))
    }

    /// As [`Repository::sets`], and the snapshots of which nobody knows whether they are sets.
    ///
    /// # Errors
    /// The storage's failures.
    pub fn sets_and_unreadable(&self) -> Result<(Vec<StoredSet>, Vec<UnreadableSnapshot>), RepositoryError> {
        // Whoever lists anew wants to see what others stored meanwhile.
        self.forget_index();
        let (snapshots, unreadable) = self.snapshots_and_unreadable()?;
        let mut found: Vec<StoredSet> = snapshots.iter().filter_map(StoredSet::from_snapshot).collect();
        found.sort_by(|a, b| {
            (a.time, a.set, a.revision, &a.snapshot).cmp(&(b.time, b.set, b.revision, &b.snapshot))
        });
        let mut sets: Vec<StoredSet> = Vec::with_capacity(found.len());
        for mut set in found {
            if let Some(older) = sets.iter().position(|older| older.set == set.set) {
                let older = sets.remove(older);
                set.superseded = older.superseded;
                set.superseded.push(older.snapshot);
            }
            sets.push(set);
        }
        Ok((sets, unreadable))
    }

    /// One set, whatever has become of others.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchSet`], or [`RepositoryError::Damaged`] where a snapshot that cannot be read may be it; the
    /// storage's failures.
    pub fn set(&self, set: Uuid) -> Result<StoredSet, RepositoryError> {
        let (sets, unreadable) = self.sets_and_unreadable()?;
        let missing =
            || unreadable.into_iter().next().map_or(RepositoryError::NoSuchSet { set }, |bad| bad.error);
        sets.into_iter().find(|stored| stored.set == set).ok_or_else(missing)
    }

    pub(super) fn index(&self) -> Result<Arc<Index>, RepositoryError> {
        let mut cached = self.inner.index.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = &*cached {
            return Ok(index.clone());
        }
        let library = self.library("reading the index", Meaning::Damage, |library| library.to_indexed())?;
        Ok(cached.insert(Arc::new(Index { library })).clone())
    }

    /// Access to the content of one set.
    ///
    /// # Errors
    /// The storage's failures; [`RepositoryError::Damaged`].
    pub fn reader(&self, set: &StoredSet) -> Result<SetReader, RepositoryError> {
        Ok(SetReader { repository: self.clone(), index: self.index()?, tree: set.tree })
    }

    /// A document of a set: `path` is below `/holdfast`, as in [`super::Document`].
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchPath`], [`RepositoryError::TooLarge`], [`RepositoryError::Damaged`], the storage's
    /// failures.
    pub fn read_document(
        &self,
        set: &StoredSet,
        path: &Path,
        limit: u64,
    ) -> Result<Vec<u8>, RepositoryError> {
        self.reader(set)?.read_file(&Path::new(super::archive::DOCUMENTS).join(path), limit)
    }

    /// All entries of a set, each folder before its content.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`], the storage's failures; also as items.
    pub fn tree(&self, set: &StoredSet) -> Result<TreeWalk, RepositoryError> {
        self.reader(set)?.walk(Path::new("/"))
    }
}

/// Access to the content of one set. Keeps the repository's index in memory.
#[derive(Clone)]
pub struct SetReader {
    pub(super) repository: Repository,
    pub(super) index: Arc<Index>,
    tree: TreeId,
}

impl SetReader {
    pub(super) fn place<T: PackedId + Copy + std::ops::Deref<Target = rustic_core::Id>>(
        &self,
        id: &T,
    ) -> Result<BlobPlace, RepositoryError> {
        let name = id.to_hex().as_str().to_owned();
        let entry = self
            .index
            .library
            .get_index_entry(id)
            .map_err(|_| self.repository.damaged(format!("blob {name} is in no index")))?;
        let place = BlobPlace {
            name,
            pack: entry.pack.to_hex().as_str().to_owned(),
            offset: entry.location.offset,
            length: entry.location.length,
            compressed_from: entry.location.uncompressed_length.map(std::num::NonZero::get),
        };
        if place.size() > BLOB_LIMIT || place.length > BLOB_LIMIT {
            return Err(self.repository.damaged(format!("blob {} is larger than any blob", place.name)));
        }
        Ok(place)
    }

    /// Opens the sealed bytes of a blob and proves that they are that blob.
    pub(super) fn open_blob(&self, place: &BlobPlace, sealed: &[u8]) -> Result<Vec<u8>, RepositoryError> {
        let wrong =
            |what: &str| self.repository.damaged(format!("pack {}: blob {} {what}", place.pack, place.name));
        let plain = self.repository.inner.cipher.open(sealed).ok_or_else(|| wrong("does not decrypt"))?;
        let plain = match place.compressed_from {
            None => plain,
            Some(size) => zstd::bulk::decompress(&plain, size as usize)
                .ok()
                .filter(|content| content.len() == size as usize)
                .ok_or_else(|| wrong("does not decompress"))?,
        };
        if crypto::name_of(&plain) != place.name {
            return Err(wrong("holds the content of another"));
        }
        Ok(plain)
    }

    pub(super) fn read_blob(&self, place: &BlobPlace) -> Result<Vec<u8>, RepositoryError> {
        let storage = &self.repository.inner.storage;
        let sealed = storage
            .read_range(FileKind::Pack, &place.pack, place.offset.into(), place.length as usize)
            .map_err(|e| self.repository.storage_error(e))?;
        self.open_blob(place, &sealed)
    }

    fn nodes(&self, folder: &Path, tree: &TreeId) -> Result<vec::IntoIter<StoredNode>, RepositoryError> {
        let place = self.place(tree)?;
        let plain = self.read_blob(&place)?;
        let tree: Tree = serde_json::from_slice(&plain).map_err(|_| {
            self.repository.damaged(format!("folder listing {} cannot be parsed", place.name))
        })?;
        let nodes = tree.nodes.into_iter().map(|node| self.stored(folder, node));
        Ok(nodes.collect::<Result<Vec<_>, _>>()?.into_iter())
    }

    fn stored(&self, folder: &Path, node: Node) -> Result<StoredNode, RepositoryError> {
        let name = node.name().into_owned();
        let mut parts = Path::new(&name).components();
        // A name such as `../x` would leave the folder that a restore is meant for.
        let plain =
            matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == name);
        if !plain || name.as_encoded_bytes().contains(&0) {
            return Err(self.repository.damaged(format!("{} holds an impossible name", folder.display())));
        }
        let path = folder.join(&name);
        let kind = match &node.node_type {
            NodeType::File => NodeKind::File,
            NodeType::Dir => NodeKind::Directory,
            NodeType::Symlink { .. } => NodeKind::Symlink { target: node.node_type.to_link().to_owned() },
            NodeType::Dev { device } => NodeKind::BlockDevice { device: *device },
            NodeType::Chardev { device } => NodeKind::CharDevice { device: *device },
            NodeType::Fifo => NodeKind::Fifo,
            NodeType::Socket => NodeKind::Socket,
        };
        if kind == NodeKind::Directory && node.subtree.is_none() {
            return Err(self.repository.damaged(format!("folder {} has no listing", path.display())));
        }
        let meta = node.meta;
        let xattrs = meta.extended_attributes.into_iter().map(|x| (x.name, x.value.unwrap_or_default()));
        let metadata = EntryMetadata {
            mode: from_go_mode(meta.mode.unwrap_or(0o600)),
            uid: meta.uid.unwrap_or_default(),
            gid: meta.gid.unwrap_or_default(),
            mtime: meta.mtime,
            atime: meta.atime,
            ctime: meta.ctime,
            size: meta.size,
            inode: meta.inode,
            device: meta.device_id,
            links: meta.links,
            xattrs: xattrs.collect(),
        };
        Ok(StoredNode {
            path,
            kind,
            metadata,
            content: node.content.unwrap_or_default(),
            subtree: node.subtree,
        })
    }

    /// The entry at a path; `/` is a folder without attributes.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchPath`]; [`RepositoryError::Damaged`]; the storage's failures.
    pub fn node(&self, path: &Path) -> Result<StoredNode, RepositoryError> {
        let missing = || RepositoryError::NoSuchPath { what: "entry", path: path.to_owned() };
        let mut node = StoredNode {
            path: "/".into(),
            kind: NodeKind::Directory,
            metadata: EntryMetadata { mode: 0o700, ..EntryMetadata::default() },
            content: Vec::new(),
            subtree: Some(self.tree),
        };
        for part in path.components() {
            match part {
                Component::RootDir => {}
                Component::Normal(name) => {
                    let tree = node.subtree.ok_or_else(missing)?;
                    let wanted = node.path.join(name);
                    node = self
                        .nodes(&node.path, &tree)?
                        .find(|node| node.path == wanted)
                        .ok_or_else(missing)?;
                }
                Component::Prefix(_) | Component::CurDir | Component::ParentDir => return Err(missing()),
            }
        }
        Ok(node)
    }

    /// All entries below a folder, each folder before its content; of a file, itself.
    ///
    /// # Errors
    /// As [`SetReader::node`]; also as items.
    pub fn walk(&self, path: &Path) -> Result<TreeWalk, RepositoryError> {
        let node = self.node(path)?;
        let first = match &node.subtree {
            Some(tree) => self.nodes(&node.path, tree)?,
            None => vec![node].into_iter(),
        };
        Ok(TreeWalk { reader: self.clone(), open: vec![first], failed: false })
    }

    /// A whole file.
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchPath`] if there is none or it is no regular file; [`RepositoryError::TooLarge`] if it
    /// is longer than `limit` bytes; [`RepositoryError::Damaged`]; the storage's failures.
    pub fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, RepositoryError> {
        let node = match self.node(path) {
            Ok(node) if node.kind == NodeKind::File => node,
            Ok(_) | Err(RepositoryError::NoSuchPath { .. }) => {
                return Err(RepositoryError::NoSuchPath { what: "file", path: path.to_owned() });
            }
            Err(error) => return Err(error),
        };
        let places = node.content.iter().map(|id| self.place(id)).collect::<Result<Vec<_>, _>>()?;
        let size: u64 = places.iter().map(|place| u64::from(place.size())).sum();
        if size != node.metadata.size {
            let what = format!("{} has {size} bytes, its entry says {}", path.display(), node.metadata.size);
            return Err(self.repository.damaged(what));
        }
        if size > limit {
            return Err(RepositoryError::TooLarge { path: path.to_owned(), size, limit });
        }
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        for place in &places {
            content.extend(self.read_blob(place)?);
        }
        Ok(content)
    }
}

/// Entries of a set, read folder by folder. Ends after its first error.
pub struct TreeWalk {
    reader: SetReader,
    open: Vec<vec::IntoIter<StoredNode>>,
    failed: bool,
}

impl Iterator for TreeWalk {
    type Item = Result<StoredNode, RepositoryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        loop {
            let Some(node) = self.open.last_mut()?.next() else {
                self.open.pop();
                continue;
            };
            if let Some(tree) = &node.subtree {
                match self.reader.nodes(&node.path, tree) {
                    Ok(nodes) => self.open.push(nodes),
                    Err(error) => {
                        self.failed = true;
                        return Some(Err(error));
                    }
                }
            }
            return Some(Ok(node));
        }
    }
}

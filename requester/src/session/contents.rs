//! From shadow copies to the repository: which file is stored where.
//!
//! Owns: the layout `/data/<writer>/<original path>`, and what a restore will replace as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_writer_api::document::{ComponentRecord, StoredRoot};
use holdfast_writer_api::{ComponentKind, FileRole};
use rustix::fs::Advice;

use super::plan::PlannedComponent;
use crate::provider::{ProviderError, ShadowCopy};
use crate::repository::{EntryKind, EntryMetadata, SourceEntry};
use crate::volume::{FoundFile, Kind, Meta, Root, Time, VolumeError};

/// Why a component cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// A file is not what it was declared to be.
    #[error(transparent)]
    Files(#[from] ProviderError),
    /// A file is a declared key, under another name.
    #[error(
        "{} is the same file as {}, a key of `{writer}`, which must not be stored in plain: remove that link, exclude it, or \
         declare it as a key too",
        path.display(),
        key.display()
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, as it was declared.
        key: PathBuf,
        /// The writer that declares it.
        writer: String,
    },
}

/// What a component became: its record without level and stamp, and the entries to store.
pub struct Contents {
    entries: BTreeMap<PathBuf, SourceEntry>,
}

/// Where the files of `writer` lie in a set.
pub fn stored_path(writer: &str, original: &Path) -> PathBuf {
    let below = original.strip_prefix("/").unwrap_or(original);
    // Joining an empty path would leave a slash at the end.
    Path::new("/data").join(writer).join(below).components().collect()
}

impl Contents {
    /// Nothing yet.
    pub fn new() -> Self {
        let mut entries = BTreeMap::new();
        let data = PathBuf::from("/data");
        entries.insert(data.clone(), folder(data, EntryMetadata { mode: 0o700, ..EntryMetadata::default() }));
        Self { entries }
    }

    /// Adds the files of `component` from its shadow copies, and returns what the set says of it.
    ///
    /// # Errors
    /// A file is not what it was declared to be: a link, another type, missing; or it is a key (promise P9).
    pub fn add(
        &mut self,
        component: &PlannedComponent,
        shadows: &[ShadowCopy],
    ) -> Result<ComponentRecord, ContentsError> {
        let mut record = ComponentRecord {
            reference: component.component.reference(),
            kind: component.component.kind,
            explicit: component.explicit,
            level: None,
            succeeded: true,
            bytes: 0,
            files: 0,
            roots: roots(component),
            stamp: None,
        };
        for key in &component.component.keys {
            // The key itself travels sealed; a folder that holds nothing else comes back as it was.
            self.add_parents(&component.writer, &key.path);
        }
        // Planned without any; a link may have been made since.
        let keys = component.keys.after_the_cut(shadows)?;
        for (volume, selection) in &component.selections {
            let shadow = &shadows[*volume];
            let (root, files) = shadow.files(selection)?;
            let root = Arc::new(root);
            for found in files {
                record.files += 1;
                if found.meta.kind == Kind::File {
                    record.bytes += found.meta.size;
                    if let Some(key) = keys.find(shadow.original(&found.meta)) {
                        let (key, writer) = (key.path.clone(), key.writer.clone());
                        return Err(ContentsError::Key { path: found.path, key, writer });
                    }
                }
                let is_plain_set = !selection.recursive && is_pattern(&selection.pattern);
                if is_plain_set {
                    record.roots.push(single_root(&component.writer, &found));
                }
                self.store(&component.writer, &root, found).map_err(ProviderError::from)?;
            }
        }
        Ok(record)
    }

    fn store(&mut self, writer: &str, root: &Arc<Root>, found: FoundFile) -> Result<(), VolumeError> {
        let save_as = stored_path(writer, &found.path);
        self.add_parents(writer, &found.path);
        let metadata = metadata(root, &found)?;
        let kind = match found.meta.kind {
            Kind::File => EntryKind::File(opener(Arc::clone(root), found.rel, found.meta)),
            Kind::Directory => EntryKind::Directory,
            Kind::Symlink => EntryKind::Symlink { target: root.read_link(&found.rel)? },
            Kind::Fifo => EntryKind::Fifo,
            Kind::Socket => EntryKind::Socket,
            Kind::BlockDevice => EntryKind::BlockDevice { device: found.meta.rdev },
            Kind::CharDevice => EntryKind::CharDevice { device: found.meta.rdev },
            Kind::Unknown => {
                let path = found.path;
                return Err(VolumeError::NotAFile { path, found: Kind::Unknown });
            }
        };
        // A folder of its own beats the parent that was put there for a file below it.
        self.entries.insert(save_as.clone(), SourceEntry { save_as, kind, metadata });
        Ok(())
    }

    /// The folders above, with the owner and mode they have on the machine.
    fn add_parents(&mut self, writer: &str, original: &Path) {
        for parent in original.ancestors().skip(1) {
            let save_as = stored_path(writer, parent);
            if self.entries.contains_key(&save_as) {
                break;
            }
            let metadata = std::fs::symlink_metadata(parent).map_or_else(
                |_| EntryMetadata { mode: 0o755, ..EntryMetadata::default() },
                |found| EntryMetadata {
                    mode: found.mode() & 0o7777,
                    uid: found.uid(),
                    gid: found.gid(),
                    ..EntryMetadata::default()
                },
            );
            self.entries.insert(save_as.clone(), folder(save_as, metadata));
        }
    }

    /// Everything, sorted, parents first.
    pub fn into_entries(self) -> Vec<SourceEntry> {
        self.entries.into_values().collect()
    }
}

fn folder(save_as: PathBuf, metadata: EntryMetadata) -> SourceEntry {
    SourceEntry { save_as, kind: EntryKind::Directory, metadata }
}

fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// The roots that are known without looking: named files, and folders stored recursively.
fn roots(component: &PlannedComponent) -> Vec<StoredRoot> {
    let declared = &component.component;
    let named = |set: &&holdfast_writer_api::FileSet| !set.recursive && !is_pattern(&set.pattern);
    let is_database = declared.kind == ComponentKind::Database;
    let mut roots = Vec::new();
    for set in declared.files.iter().filter(named) {
        let original = set.path.join(&set.pattern);
        // A database's logs come and go with it.
        if is_database && set.role == FileRole::Log {
            continue;
        }
        let mut companions: Vec<String> = if is_database && set.role == FileRole::Database {
            let logs = declared.files.iter().filter(named);
            logs.filter(|log| log.role == FileRole::Log && log.path == set.path)
                .filter(|log| log.pattern.starts_with(&set.pattern))
                .map(|log| log.pattern.clone())
                .collect()
        } else {
            Vec::new()
        };
        if !companions.is_empty() {
            companions.push(format!("{}-shm", set.pattern));
        }
        let stored = stored_path(&component.writer, &original).to_string_lossy().into_owned();
        roots.push(StoredRoot { original, stored, folder: false, whole: true, companions });
    }
    for set in declared.files.iter().filter(|set| set.recursive) {
        roots.push(StoredRoot {
            original: set.path.clone(),
            stored: stored_path(&component.writer, &set.path).to_string_lossy().into_owned(),
            folder: true,
            whole: set.pattern == "*" && declared.exclude.is_empty(),
            companions: Vec::new(),
        });
    }
    roots
}

fn single_root(writer: &str, found: &FoundFile) -> StoredRoot {
    StoredRoot {
        stored: stored_path(writer, &found.path).to_string_lossy().into_owned(),
        original: found.path.clone(),
        folder: found.meta.kind == Kind::Directory,
        whole: true,
        companions: Vec::new(),
    }
}

fn metadata(root: &Root, found: &FoundFile) -> Result<EntryMetadata, VolumeError> {
    let meta = &found.meta;
    let xattrs = root
        .xattrs(&found.rel)?
        .into_iter()
        .map(|(name, value)| (String::from_utf8_lossy(name.as_bytes()).into_owned(), value))
        .collect();
    let time = |time: Time| jiff::Timestamp::new(time.seconds, i32::try_from(time.nanos).unwrap_or(0)).ok();
    Ok(EntryMetadata {
        mode: meta.mode & 0o7777,
        uid: meta.uid,
        gid: meta.gid,
        mtime: time(meta.mtime),
        atime: None,
        ctime: time(meta.ctime),
        size: meta.size,
        inode: meta.ino,
        device: meta.dev,
        links: u64::from(meta.links),
        xattrs,
    })
}

/// Opens the very file that was found, when its turn comes.
fn opener(root: Arc<Root>, rel: PathBuf, seen: Meta) -> crate::repository::Opener {
    Box::new(move || {
        let (file, _) = root.open_seen(&rel, &seen).map_err(io::Error::other)?;
        let _ = rustix::fs::fadvise(&file, 0, None, Advice::Sequential);
        let _ = rustix::fs::fadvise(&file, 0, READ_EARLY, Advice::WillNeed);
        Ok(Box::new(ReadOnce(file)) as Box<dyn Read + Send>)
    })
}

/// As much of a file is asked of the disk before its turn comes.
const READ_EARLY: Option<NonZeroU64> = NonZeroU64::new(512 << 10);

/// A file of a shadow copy: what was read of it is of no use to anybody, and must not push the applications' own pages
/// out of memory.
struct ReadOnce(File);

impl Read for ReadOnce {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Drop for ReadOnce {
    fn drop(&mut self) {
        let _ = rustix::fs::fadvise(&self.0, 0, None, Advice::DontNeed);
    }
}

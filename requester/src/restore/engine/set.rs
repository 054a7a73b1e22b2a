//! A stored set as the engine reads it: its documents parsed, checked against each other, and nothing believed blindly.
//!
//! Owns: which documents are read, their limits, and that paths in them stay where the set keeps a writer's files.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use holdfast_writer_api::WriterMetadata;
use holdfast_writer_api::document::BackupSet;
use holdfast_writer_api::schema::MAX_DOCUMENT_BYTES;

use super::fault;
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::repository::{Repository, RepositoryError, SetReader, StoredSet};

/// Where documents lie in a snapshot.
pub(super) const DOCUMENTS: &str = "/holdfast";

/// A set, read and understood.
pub(super) struct SetContents {
    pub stored: StoredSet,
    pub repository: Repository,
    pub reader: SetReader,
    pub set: BackupSet,
    /// By writer id.
    pub metadata: BTreeMap<String, WriterMetadata>,
}

impl SetContents {
    /// Reads the documents. Blocks.
    ///
    /// # Errors
    /// The repository's; a document that is missing, damaged, of a newer schema, or of another set.
    pub fn read(repository: &Repository, stored: &StoredSet) -> Result<Self, Failure> {
        let what = "the set cannot be read";
        let reader = repository.reader(stored).map_err(|error| fault::repository(what, error))?;
        let set = BackupSet::parse(&document(&reader, "set.json")?)?;
        let bad = |why: String| Failure::refused(Exit::Failed, format!("the set contradicts itself: {why}"));
        if set.set != stored.set {
            return Err(bad(format!("its document is that of set {}", set.set)));
        }
        if let Some(base) = set.base {
            let what = format!("set {} builds on set {base} and cannot be restored by itself", set.set);
            return Err(Failure::refused(Exit::ChainBroken, what).help("restore the full set it builds on"));
        }
        let mut metadata = BTreeMap::new();
        for writer in &set.writers {
            if !is_name(&writer.id) {
                return Err(bad(format!("`{}` cannot be a writer's id", writer.id)));
            }
            let bytes = document(&reader, &format!("writers/{}.json", writer.id))?;
            let described = WriterMetadata::parse(&bytes)?;
            described.check().map_err(|error| {
                let what = format!("the stored description of writer `{}` cannot be used", writer.id);
                Failure::new(Exit::Failed, what, error, NOTHING_CHANGED)
            })?;
            if described.id != writer.id {
                return Err(bad(format!("the description of `{}` is that of `{}`", writer.id, described.id)));
            }
            if metadata.insert(writer.id.clone(), described).is_some() {
                return Err(bad(format!("writer `{}` is in it twice", writer.id)));
            }
        }
        Ok(Self { stored: stored.clone(), repository: repository.clone(), reader, set, metadata })
    }

    /// A sealed key, from the path its record names.
    ///
    /// # Errors
    /// As [`SetContents::read`].
    pub fn sealed(&self, stored: &str) -> Result<Vec<u8>, Failure> {
        let path = Path::new(stored);
        if !path.starts_with(Path::new(DOCUMENTS).join("keys")) || !is_plain(path) {
            let what = format!("the set contradicts itself: `{stored}` is no place of a sealed key");
            return Err(Failure::refused(Exit::Failed, what));
        }
        let limit = holdfast_store_keys::MAX_SEALED as u64;
        self.reader
            .read_file(path, limit)
            .map_err(|error| fault::repository("a sealed key cannot be read", error))
    }
}

/// Where the files of `writer` lie in a set.
pub(super) fn stored_path(writer: &str, original: &Path) -> PathBuf {
    let below = original.strip_prefix("/").unwrap_or(original);
    // Joining an empty path would leave a slash at the end.
    Path::new("/data").join(writer).join(below).components().collect()
}

/// Whether `path` is absolute without `.` and `..`.
pub(super) fn is_plain(path: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)))
}

fn is_name(id: &str) -> bool {
    let mut parts = Path::new(id).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == id)
}

fn document(reader: &SetReader, path: &str) -> Result<Vec<u8>, Failure> {
    let whole = Path::new(DOCUMENTS).join(path);
    reader.read_file(&whole, MAX_DOCUMENT_BYTES as u64).map_err(|error| {
        if !matches!(error, RepositoryError::NoSuchPath { .. }) {
            return fault::repository("the set's documents cannot be read", error);
        }
        let what = format!("the set lacks its document `{path}`");
        Failure::new(Exit::Failed, what, error, NOTHING_CHANGED).help(
            "it was not made by `holdfast backup`, or was cut off; `holdfast list backups` shows the others",
        )
    })
}

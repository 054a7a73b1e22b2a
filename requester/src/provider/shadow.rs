//! A finished shadow copy, and the guard that removes an unfinished one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::ProviderError;
use super::record::ShadowRecord;
use crate::volume::{FileId, FileSelection, FoundFile, Meta, Root, resolve};

/// How a provider deletes what a record describes; must do nothing where nothing is left.
pub type DeleteShadow = fn(&ShadowRecord) -> Result<(), ProviderError>;

/// Where a folder of the original lies in the shadow copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// A folder, as a selection names it or as it is without links.
    pub original: PathBuf,
    /// The same folder in the copy.
    pub shadow: PathBuf,
}

/// Which file of the live volume each regular file of a copy shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// The copy keeps inode numbers, as a snapshot does.
    SameInodes {
        /// Device number of the live volume; that of the copy is another.
        dev: u64,
    },
    /// The copy has files of its own: by their inode numbers, what each was read from.
    Copied(HashMap<u64, FileId>),
}

/// A shadow copy that exists and is read-only. Dropping it keeps it: its record leads back to it.
#[derive(Debug)]
pub struct ShadowCopy {
    /// What is recorded of it: id, set, provider, volume, place, creation.
    pub record: ShadowRecord,
    /// Where things are in it, the longest match counting.
    pub mappings: Vec<Mapping>,
    origins: Origins,
    delete: DeleteShadow,
}

impl ShadowCopy {
    /// For providers: a copy that was cut and verified.
    pub fn new(record: ShadowRecord, mappings: Vec<Mapping>, origins: Origins, delete: DeleteShadow) -> Self {
        Self { record, mappings, origins, delete }
    }

    /// Which file of the live volume a file of this copy shows. A file that was made in the copy is its own.
    pub fn original(&self, in_copy: &Meta) -> FileId {
        match &self.origins {
            Origins::SameInodes { dev } => FileId { dev: *dev, ino: in_copy.ino },
            Origins::Copied(by_inode) => by_inode.get(&in_copy.ino).copied().unwrap_or(in_copy.id()),
        }
    }

    /// Where the copy of a path lies, whether or not there is anything. The folder of a selection may be
    /// given as the selection named it.
    pub fn shadow_path(&self, original: &Path) -> Option<PathBuf> {
        let holding = self.mappings.iter().filter_map(|m| {
            let below = original.strip_prefix(&m.original).ok()?;
            Some((m.original.as_os_str().len(), m.shadow.join(below)))
        });
        let (_, mut path) = holding.max_by_key(|(length, _)| *length)?;
        // `join("")` leaves a slash at the end.
        path = path.components().collect();
        Some(path)
    }

    /// The copy of a path: its folder, opened, and its name in it. The name is empty for the root of a volume.
    ///
    /// # Errors
    /// [`ProviderError::NotInShadow`] if the copy covers no such path; [`ProviderError::Files`] if its folder
    /// is not there.
    pub fn locate(&self, original: &Path) -> Result<(Root, PathBuf), ProviderError> {
        let outside = || ProviderError::NotInShadow { path: original.to_path_buf() };
        let shadow = self.shadow_path(original).ok_or_else(outside)?;
        let below = shadow.strip_prefix(&self.record.path).map_err(|_| outside())?;
        match (below.parent(), below.file_name()) {
            (Some(folder), Some(name)) => {
                let root = Root::open_real(&self.record.path.join(folder).components().collect::<PathBuf>())?;
                Ok((root, name.into()))
            }
            _ => Ok((Root::open_real(&self.record.path)?, PathBuf::new())),
        }
    }

    /// The files of a selection as they are in the copy. [`FoundFile::path`] is the original's.
    ///
    /// # Errors
    /// As [`resolve`]; [`ProviderError::NotInShadow`].
    pub fn files(&self, selection: &FileSelection) -> Result<(Root, Vec<FoundFile>), ProviderError> {
        let (folder, name) = self.locate(&selection.path)?;
        match folder.open_dir(&name) {
            Ok(root) => {
                let found = resolve(&root, selection)?;
                Ok((root, found))
            }
            // The selection names a file by its path, or something optional that was not there.
            Err(not_a_folder) => {
                use crate::volume::VolumeError;
                let named = name.to_str().filter(|n| selection.pattern == "*" || selection.pattern == *n);
                let single = match (&not_a_folder, named, selection.path.parent()) {
                    (VolumeError::NotAFolder { .. }, Some(name), Some(parent)) => FileSelection {
                        path: parent.into(),
                        pattern: name.to_owned(),
                        recursive: false,
                        ..selection.clone()
                    },
                    (VolumeError::Missing { .. }, _, _) if selection.optional => {
                        return Ok((folder, Vec::new()));
                    }
                    _ => return Err(not_a_folder.into()),
                };
                let found = resolve(&folder, &single)?;
                Ok((folder, found))
            }
        }
    }

    /// Deletes the copy, then its record.
    ///
    /// # Errors
    /// As the provider's `delete`; the record stays then.
    pub fn delete(self) -> Result<(), ProviderError> {
        (self.delete)(&self.record)?;
        Ok(self.record.remove()?)
    }
}

/// A recorded copy that is not finished: removed, copy first and record last, unless it is kept.
#[derive(Debug)]
pub struct Pending {
    record: Option<ShadowRecord>,
    delete: DeleteShadow,
}

impl Pending {
    /// Writes the record; from here on a crash leaves something that `gc` finds.
    ///
    /// # Errors
    /// [`ProviderError::Record`].
    pub fn begin(record: ShadowRecord, delete: DeleteShadow) -> Result<Self, ProviderError> {
        record.write()?;
        Ok(Self { record: Some(record), delete })
    }

    /// The record.
    ///
    /// # Panics
    /// Never: it is taken only by methods that consume `self`.
    pub fn record(&self) -> &ShadowRecord {
        match &self.record {
            Some(record) => record,
            None => unreachable!("taken only by methods that consume the guard"),
        }
    }

    /// Removes what there is.
    ///
    /// # Errors
    /// As the provider's `delete`; the record stays then.
    pub fn undo(mut self) -> Result<(), ProviderError> {
        let undone = self.remove();
        self.record = None;
        undone
    }

    /// Removes what there is because of `first`, and reports both if that fails as well.
    pub fn undo_after(self, first: ProviderError) -> ProviderError {
        match self.undo() {
            Ok(()) => first,
            Err(cleanup) => ProviderError::CleanUp { first: Box::new(first), cleanup: Box::new(cleanup) },
        }
    }

    /// The copy is finished.
    pub fn keep(mut self, mappings: Vec<Mapping>, origins: Origins) -> ShadowCopy {
        match self.record.take() {
            Some(record) => ShadowCopy::new(record, mappings, origins, self.delete),
            None => unreachable!("taken only by methods that consume the guard"),
        }
    }

    fn remove(&self) -> Result<(), ProviderError> {
        let Some(record) = &self.record else { return Ok(()) };
        (self.delete)(record)?;
        Ok(record.remove()?)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            // Nobody is left to tell; the record stays, and `gc` finds it.
            let id = self.record.as_ref().map(|r| r.id);
            tracing::warn!(?id, %error, "an unfinished shadow copy could not be removed");
        }
    }
}

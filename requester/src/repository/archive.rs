//! Writing a set: data first, as partial snapshots; then all of them with the documents, as one.
//! Owns: the tags that tell a set from its parts, and the order of writes in which death leaves no half set.

use std::{
    collections::BTreeSet,
    io::Cursor,
    path::{Component, Path, PathBuf},
};

use jiff::{Timestamp, tz::TimeZone};
use rustic_core::{
    BackupOptions, ParentOptions, StringList, last_modified_node,
    repofile::{SnapshotFile, SnapshotId},
};
use uuid::Uuid;

use super::{
    Repository,
    error::{Meaning, RepositoryError},
    lock::LockKind,
    read::StoredSet,
    source::{
        EntryKind, EntryMetadata, EntrySource, Ledger, Progress, ProgressFn, SourceEntry, check_entries,
    },
};

/// Tag of a snapshot that is a set.
pub(super) const TAG_SET: &str = "holdfast";
/// Tag of a snapshot that is a part of a set not yet committed.
pub(super) const TAG_PARTIAL: &str = "holdfast-partial";
/// Prefix of the tag with the set's id.
pub(super) const TAG_ID: &str = "set:";
/// Prefix of the tag that counts [`Repository::amend`]; absent in the first version. A tag, because restic keeps tags
/// through all its commands and drops fields that it does not know.
pub(super) const TAG_REVISION: &str = "revision:";
/// The folder of documents in a snapshot.
pub(super) const DOCUMENTS: &str = "/holdfast";

/// What a set is called in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetIdentity {
    /// The set's id.
    pub set: Uuid,
    /// The instant it shows: the time of its freeze, not of its storing.
    pub time: Timestamp,
    /// The host its data are from.
    pub hostname: String,
    /// The user's tags. Without commas, and none of Holdfast's own.
    pub tags: Vec<String>,
    /// A free text; may be empty. Stock restic ignores it.
    pub label: String,
}

/// Data of a set, stored but not yet part of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partial {
    pub(super) snapshot: SnapshotId,
    /// What was read: bytes of content and number of regular files.
    pub stored: Progress,
}

/// A partial snapshot found in the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPartial {
    /// Id of the snapshot, in hex.
    pub snapshot: String,
    /// The set it would have become part of; `None` if its tag was lost.
    pub set: Option<Uuid>,
    /// When it was stored.
    pub time: Timestamp,
    /// The host that stored it.
    pub hostname: String,
}

/// A document of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Below `/holdfast`: relative, of ASCII letters, digits and `._-`, for example `writers/ca.json`.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

impl Repository {
    /// Stores data as a partial snapshot. Reads every file to its end, changed or not: an equal size and time do not
    /// prove equal content for a database that writes through a memory map.
    ///
    /// Memory grows with the number of entries (about 1 KiB each), not with bytes.
    ///
    /// # Errors
    /// [`RepositoryError::InvalidSource`] before anything is stored; [`RepositoryError::Locked`]; [`RepositoryError::Unreadable`] if any file could
    /// not be read whole or was not as long as announced; [`RepositoryError::NoSpace`] and the storage's other
    /// failures. After an error no snapshot is left; blobs already stored are unused until `prune`.
    pub fn archive(
        &self,
        about: &SetIdentity,
        entries: Vec<SourceEntry>,
        progress: Option<ProgressFn>,
    ) -> Result<Partial, RepositoryError> {
        check_entries(&entries)?;
        let _lock = self.lock(LockKind::Shared)?;
        let snapshot = snapshot_of(about, TAG_PARTIAL)?;
        let expected = entries.iter().filter(|e| !matches!(e.kind, EntryKind::Directory)).count() as u64;
        let ledger = Ledger::new(progress);
        let source = EntrySource::new(entries, ledger.clone());
        let stored = self.library("archiving", Meaning::Failure, |library| {
            let options =
                BackupOptions::default().no_scan(true).parent_opts(ParentOptions::default().force(true));
            library.to_indexed_ids()?.archive(&options, &source, snapshot, &[PathBuf::from("/")])
        });
        self.forget_index();
        let fault = match &stored {
            // A storage that fails makes files fail too: it comes first.
            Err(
                RepositoryError::NoSpace { .. }
                | RepositoryError::Denied { .. }
                | RepositoryError::NoBucket { .. }
                | RepositoryError::Unreachable { .. },
            ) => None,
            _ => ledger.take_error(),
        };
        let stored = match (stored, fault) {
            (Ok(snapshot), None) => snapshot,
            (Err(error), None) | (Err(_), Some(error)) => return Err(error),
            (Ok(snapshot), Some(error)) => {
                self.remove_snapshots(&[snapshot.id])?;
                return Err(error);
            }
        };
        // The library leaves out what fails inside it with no more than a line in the log: count.
        let counted = stored.summary.as_ref().map_or(0, |summary| summary.total_files_processed);
        if counted != expected {
            self.remove_snapshots(&[stored.id])?;
            let source = format!("{expected} entries were given, {counted} stored").into();
            return Err(RepositoryError::Library { operation: "archiving", source });
        }
        Ok(Partial { snapshot: stored.id, stored: ledger.done() })
    }

    /// Makes the set: merges the partial snapshots and the documents into one snapshot, then removes the partial ones.
    /// When it returns, the set is durable.
    ///
    /// Where partial snapshots hold the same path, the entry changed last stays.
    ///
    /// # Errors
    /// [`RepositoryError::InvalidSource`] for a document's path; the storage's failures. After an error there is either
    /// no set (the partial snapshots are still there), or, if only their removal failed, the set.
    pub fn commit(
        &self,
        about: &SetIdentity,
        partials: &[Partial],
        documents: Vec<Document>,
    ) -> Result<StoredSet, RepositoryError> {
        let _lock = self.lock(LockKind::Shared)?;
        let snapshot = snapshot_of(about, TAG_SET)?;
        let mut parts: Vec<SnapshotId> = partials.iter().map(|partial| partial.snapshot).collect();
        parts.push(self.archive_documents(about, documents, Timestamp::now())?);
        self.merge(snapshot, &parts, &parts, about.set)
    }

    /// Adds documents to a set, or replaces them: a new snapshot with all of the old, then the old one is removed.
    ///
    /// # Errors
    /// As [`Repository::commit`]; [`RepositoryError::NoSuchSet`]. After an error the set is there, old or new.
    pub fn amend(&self, set: &StoredSet, documents: Vec<Document>) -> Result<StoredSet, RepositoryError> {
        let _lock = self.lock(LockKind::Shared)?;
        let about = SetIdentity {
            set: set.set,
            time: set.time,
            hostname: set.hostname.clone(),
            tags: set.tags.clone(),
            label: set.label.clone(),
        };
        let mut snapshot = snapshot_of(&about, TAG_SET)?;
        snapshot.tags.add(format!("{TAG_REVISION}{}", set.revision.saturating_add(1)));
        snapshot.original = Some(set.id);
        // The newer of two documents stays in the merge: make sure that ours is, also after the clock was set back.
        let newest = self.newest_document(set)?;
        let changed =
            Timestamp::now().max(newest.saturating_add(jiff::SignedDuration::from_secs(1)).unwrap_or(newest));
        let part = self.archive_documents(&about, documents, changed)?;
        self.merge(snapshot, &[set.id, part], &[part, set.id], set.set)
    }

    fn newest_document(&self, set: &StoredSet) -> Result<Timestamp, RepositoryError> {
        let mut newest = Timestamp::UNIX_EPOCH;
        for node in self.reader(set)?.walk(Path::new(DOCUMENTS))? {
            newest = newest.max(node?.metadata.mtime.unwrap_or_default());
        }
        Ok(newest)
    }

    fn archive_documents(
        &self,
        about: &SetIdentity,
        documents: Vec<Document>,
        changed: Timestamp,
    ) -> Result<SnapshotId, RepositoryError> {
        let entries = document_entries(documents, changed)?;
        Ok(self.archive(about, entries, None)?.snapshot)
    }

    fn merge(
        &self,
        mut snapshot: SnapshotFile,
        parts: &[SnapshotId],
        obsolete: &[SnapshotId],
        set: Uuid,
    ) -> Result<StoredSet, RepositoryError> {
        let merged = self.library("merging the parts of a set", Meaning::Failure, |library| {
            let found = parts.iter().map(|id| {
                let mut part: SnapshotFile = library.get_file(id)?;
                part.id = *id;
                Ok(part)
            });
            let found = found.collect::<rustic_core::RusticResult<Vec<_>>>()?;
            let mut summary = rustic_core::repofile::SnapshotSummary::default();
            for part in found.iter().filter_map(|part| part.summary.as_ref()) {
                summary.total_files_processed += part.total_files_processed;
                summary.total_bytes_processed += part.total_bytes_processed;
                summary.files_new += part.files_new;
                summary.data_blobs += part.data_blobs;
                summary.data_added += part.data_added;
                summary.data_added_packed += part.data_added_packed;
                summary.data_added_files += part.data_added_files;
                summary.data_added_files_packed += part.data_added_files_packed;
            }
            snapshot.summary = Some(summary);
            library.to_indexed()?.merge_snapshots(&found, &last_modified_node, snapshot)
        });
        self.forget_index();
        let merged = merged?;
        let stored = StoredSet::from_snapshot(&merged).ok_or(RepositoryError::NoSuchSet { set })?;
        self.remove_snapshots(obsolete)?;
        Ok(stored)
    }

    pub(super) fn remove_snapshots(&self, ids: &[SnapshotId]) -> Result<(), RepositoryError> {
        self.library("removing snapshots", Meaning::Failure, |library| library.delete_snapshots(ids))
    }

    /// Partial snapshots: parts of sets still being written, or left by a session that died.
    ///
    /// # Errors
    /// The storage's failures; [`RepositoryError::Damaged`].
    pub fn partials(&self) -> Result<Vec<StoredPartial>, RepositoryError> {
        let found = self.snapshots()?.into_iter().filter(|snapshot| snapshot.tags.contains(TAG_PARTIAL));
        Ok(found
            .map(|snapshot| StoredPartial {
                snapshot: snapshot.id.to_hex().as_str().to_owned(),
                set: set_tag(&snapshot.tags),
                time: snapshot
                    .summary
                    .as_ref()
                    .map_or(snapshot.time.timestamp(), |s| s.backup_start.timestamp()),
                hostname: snapshot.hostname,
            })
            .collect())
    }

    /// Removes partial snapshots: those of one set, or all. Returns how many. The caller knows that no session is at
    /// work on them.
    ///
    /// # Errors
    /// The storage's failures; [`RepositoryError::Damaged`].
    pub fn remove_partials(&self, of: Option<Uuid>) -> Result<usize, RepositoryError> {
        let _lock = self.lock(LockKind::Shared)?;
        let mut ids: Vec<SnapshotId> = Vec::new();
        for snapshot in self.snapshots()? {
            if snapshot.tags.contains(TAG_PARTIAL)
                && of.is_none_or(|set| set_tag(&snapshot.tags) == Some(set))
            {
                ids.push(snapshot.id);
            }
        }
        if !ids.is_empty() {
            self.remove_snapshots(&ids)?;
        }
        Ok(ids.len())
    }

    /// Takes back a set of the caller's own making: its snapshots are removed, and what is left of its parts. For the
    /// session that has just committed it, which holds a shared lock and so cannot [`forget`](Self::forget). Its data
    /// stay until [`prune`](Self::prune). Nothing to take back is no error.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] by another's exclusive lock; [`RepositoryError::Damaged`] where a snapshot that cannot
    /// be read may be it; the storage's failures. After an error the set may be there, whole.
    pub fn take_back(&self, set: Uuid) -> Result<(), RepositoryError> {
        let _lock = self.lock(LockKind::Shared)?;
        let (mut found, unreadable) = self.snapshots_and_unreadable()?;
        found.retain(|snapshot| set_tag(&snapshot.tags) == Some(set));
        if let (true, Some(bad)) = (found.is_empty(), unreadable.into_iter().next()) {
            // It may be what is to be taken back.
            return Err(bad.error);
        }
        let (parts, whole): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|snapshot| snapshot.tags.contains(TAG_PARTIAL));
        let mut whole: Vec<_> =
            whole.into_iter().filter(|snapshot| snapshot.tags.contains(TAG_SET)).collect();
        // Older ones first: dying in between must not bring an older version back. Parts last: `gc` finds them.
        whole.sort_by_key(|snapshot| revision_tag(&snapshot.tags));
        let mut ids = whole.iter().chain(&parts).map(|snapshot| snapshot.id);
        ids.try_for_each(|id| self.remove_snapshots(&[id]))
    }
}

/// How often the set was amended.
pub(super) fn revision_tag(tags: &StringList) -> u32 {
    let counted = tags.iter().find_map(|tag| tag.strip_prefix(TAG_REVISION)?.parse().ok());
    counted.unwrap_or(0)
}

pub(super) fn set_tag(tags: &StringList) -> Option<Uuid> {
    tags.iter().find_map(|tag| tag.strip_prefix(TAG_ID)?.parse().ok())
}

/// Whether a tag is one of ours, and not to be given or shown as a user's.
pub(super) fn is_reserved(tag: &str) -> bool {
    tag == TAG_SET || tag == TAG_PARTIAL || tag.starts_with(TAG_ID) || tag.starts_with(TAG_REVISION)
}

fn snapshot_of(about: &SetIdentity, tag: &str) -> Result<SnapshotFile, RepositoryError> {
    let mut tags = StringList::default();
    tags.add(tag.to_owned());
    tags.add(format!("{TAG_ID}{}", about.set));
    for tag in &about.tags {
        if tag.is_empty() || tag.contains(',') || tag.chars().any(char::is_control) || is_reserved(tag) {
            return Err(RepositoryError::InvalidTag { tag: tag.clone() });
        }
        tags.add(tag.clone());
    }
    Ok(SnapshotFile {
        time: about.time.to_zoned(TimeZone::UTC),
        program_version: concat!("holdfast ", env!("CARGO_PKG_VERSION")).to_owned(),
        hostname: about.hostname.clone(),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        label: about.label.clone(),
        tags,
        ..SnapshotFile::default()
    })
}

fn document_entries(
    mut documents: Vec<Document>,
    changed: Timestamp,
) -> Result<Vec<SourceEntry>, RepositoryError> {
    let metadata = |mode, size| EntryMetadata {
        mode,
        size,
        mtime: Some(changed),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        links: 1,
        ..EntryMetadata::default()
    };
    documents.sort_by(|a, b| a.path.cmp(&b.path));
    let mut entries = Vec::with_capacity(documents.len() + 4);
    let mut folders = BTreeSet::new();
    let folder = |entries: &mut Vec<SourceEntry>, path: PathBuf| {
        entries.push(SourceEntry { save_as: path, kind: EntryKind::Directory, metadata: metadata(0o700, 0) });
    };
    folder(&mut entries, DOCUMENTS.into());
    for Document { path, bytes } in documents {
        // Plain names only: the merge sorts by the escaped form of a name, which differs for others.
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)))
            && path.to_str().is_some_and(|text| {
                !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
            });
        if !plain {
            return Err(RepositoryError::InvalidSource {
                path,
                reason: "a document's name is relative and plain ASCII",
            });
        }
        let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()).collect();
        above.reverse();
        for parent in above {
            if folders.insert(parent.to_owned()) {
                folder(&mut entries, Path::new(DOCUMENTS).join(parent));
            }
        }
        let size = bytes.len() as u64;
        entries.push(SourceEntry {
            save_as: Path::new(DOCUMENTS).join(&path),
            kind: EntryKind::File(Box::new(move || Ok(Box::new(Cursor::new(bytes))))),
            metadata: metadata(0o600, size),
        });
    }
    Ok(entries)
}

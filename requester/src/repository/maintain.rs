//! Checking, forgetting and pruning.
//! Owns: which of the library's options are safe here, and under which lock.
//!
//! Pruning deletes at once. The library's default marks packs first and deletes them a day later, because rustic takes
//! no locks; we hold restic's exclusive lock, which every restic and every Holdfast respects. Marks are also a field of
//! the index that stock restic does not know and its `check` complains about. The price: rustic's own command must not
//! be run on the repository at the same time.

use rustic_core::{CheckOptions, CheckResults, LimitOption, PruneOptions, repofile::SnapshotId};
use uuid::Uuid;

use super::{
    Repository,
    error::{Meaning, RepositoryError},
    lock::LockKind,
    storage::FileKind,
};

/// How many problems an error names; it counts the rest.
const PROBLEMS_KEPT: usize = 10;

/// A repository without damage.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What is odd but loses nothing, for example a pack that a cut-off backup left and `prune` will remove.
    pub notes: Vec<String>,
}

/// What a prune did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Bytes of content in use before, and after.
    pub used_bytes: u64,
    /// Bytes freed.
    pub freed_bytes: u64,
    /// Bytes unused that stay, since their packs are mostly in use.
    pub left_bytes: u64,
    /// Packs removed whole.
    pub packs_removed: u64,
    /// Packs whose used part is copied to new ones.
    pub packs_repacked: u64,
    /// Files of cut-off writes removed; counted only when not a dry run.
    pub leftovers: u64,
}

impl Repository {
    /// Checks that every set is whole: index, folder listings, presence and size of packs; with `read_data` also every
    /// byte of every pack in use. The latter reads the whole repository.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] with the number of problems and the first of them; [`RepositoryError::Locked`]; the
    /// storage's failures.
    pub fn check(&self, read_data: bool) -> Result<CheckReport, RepositoryError> {
        let _lock = self.lock_for_reading()?;
        // Unreadable snapshots: named here, where the library only stops.
        self.snapshots()?;
        let results = self.library("checking", Meaning::Damage, |library| {
            library.check(CheckOptions::default().read_data(read_data))
        })?;
        let (mut problems, mut notes) = (Vec::new(), Vec::new());
        for (level, finding) in results.0 {
            let text = finding.to_string().replace('\n', " ");
            // The type of the level is not exported; its judgement on a single finding is.
            let single = CheckResults(vec![(level, finding)]);
            if single.is_ok().is_ok() { notes.push(text) } else { problems.push(text) }
        }
        if problems.is_empty() {
            return Ok(CheckReport { notes });
        }
        let total = problems.len();
        problems.truncate(PROBLEMS_KEPT);
        Err(self.damaged(format!("{total} problems: {}", problems.join("; "))))
    }

    /// Removes sets, with all their snapshots. Their data stay until [`Repository::prune`].
    ///
    /// # Errors
    /// [`RepositoryError::NoSuchSet`] before anything is removed; [`RepositoryError::Locked`]; the storage's failures.
    pub fn forget(&self, sets: &[Uuid]) -> Result<(), RepositoryError> {
        let _lock = self.lock(LockKind::Exclusive)?;
        let stored = self.sets()?;
        let mut ids: Vec<SnapshotId> = Vec::new();
        for &set in sets {
            let found =
                stored.iter().find(|stored| stored.set == set).ok_or(RepositoryError::NoSuchSet { set })?;
            // Older ones first: dying in between must not bring an older version back.
            for older in &found.superseded {
                ids.push(older.parse().map_err(|_| RepositoryError::NoSuchSet { set })?);
            }
            ids.push(found.id);
        }
        // One by one, in this order; the library would remove them in any.
        ids.iter().try_for_each(|id| self.remove_snapshots(std::slice::from_ref(id)))
    }

    /// Removes snapshots that cannot be read, by their ids in hex. One that can be read is left alone.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`]; the storage's failures.
    pub fn remove_unreadable(&self, snapshots: &[String]) -> Result<(), RepositoryError> {
        let _lock = self.lock(LockKind::Exclusive)?;
        let (_, unreadable) = self.sets_and_unreadable()?;
        for bad in unreadable.iter().filter(|bad| snapshots.contains(&bad.snapshot)) {
            let removed = self.inner.storage.remove(FileKind::Snapshot, &bad.snapshot);
            removed.map_err(|error| self.storage_error(error))?;
        }
        Ok(())
    }

    /// Removes snapshots that a newer one of the same set replaces; see [`super::StoredSet::superseded`]. Returns how
    /// many.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`]; [`RepositoryError::Damaged`]; the storage's failures.
    pub fn remove_superseded(&self) -> Result<usize, RepositoryError> {
        let _lock = self.lock(LockKind::Shared)?;
        let names = self.sets()?.into_iter().flat_map(|set| set.superseded);
        let ids: Vec<SnapshotId> = names.filter_map(|name| name.parse().ok()).collect();
        if !ids.is_empty() {
            self.remove_snapshots(&ids)?;
        }
        Ok(ids.len())
    }

    /// Frees the space of what no snapshot uses. Partial snapshots count as used: remove them first.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`]; [`RepositoryError::Damaged`]; [`RepositoryError::NoSpace`], since packs are written
    /// before others are removed; the storage's failures.
    pub fn prune(&self, dry_run: bool) -> Result<PruneReport, RepositoryError> {
        let lock = if dry_run { self.lock_for_reading()? } else { Some(self.lock(LockKind::Exclusive)?) };
        // restic's own limits: any amount is repacked, until 5 % of the repository is unused.
        let options = PruneOptions::default().instant_delete(true).max_repack(LimitOption::Unlimited);
        let mut report = PruneReport::default();
        if !dry_run {
            report.leftovers =
                self.inner.storage.remove_leftovers().map_err(|error| self.storage_error(error))?;
        }
        self.library("pruning", Meaning::Failure, |library| {
            let plan = library.prune_plan(&options)?;
            let size = plan.stats.size_sum();
            report.used_bytes = size.used;
            report.freed_bytes = size.remove + size.repackrm + plan.stats.size_unref;
            report.left_bytes = size.unused.saturating_sub(size.remove + size.repackrm);
            report.packs_removed = plan.stats.packs.unused + plan.stats.packs_unref;
            report.packs_repacked = plan.stats.packs.repack;
            if dry_run { Ok(()) } else { library.prune(&options, plan) }
        })?;
        self.forget_index();
        if let Some(lock) = lock.filter(|_| !dry_run) {
            lock.check()?;
        }
        Ok(report)
    }
}

//! Lays a writer's data beside their targets, where nothing live is touched (promise P7).
//!
//! Owns: the staging folders of one writer, what is restored into them, and the owners of folders that are made above.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_writer_api::StagedFiles;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use uuid::Uuid;

use super::RestoreOptions;
use super::fault;
use super::plan::PreparedWriter;
use super::request::SavedRequest;
use super::set::{SetContents, stored_path};
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::paths::Paths;
use crate::repository::{self, NodeKind, ProgressFn};
use crate::restore::error::{LiveState, RestoreError};
use crate::restore::registration::Registry;
use crate::restore::target::TargetMap;
use crate::restore::{About, Placement, Plan, Steps, Together, Undo};

/// A writer's data beside their targets, and what going on with them takes.
pub(super) struct Staged {
    pub placement: Placement,
    pub saved: SavedRequest,
    pub lost: Vec<String>,
}

/// What staging works with.
pub(super) struct Staging<'s> {
    pub paths: &'s Paths,
    pub contents: &'s Arc<SetContents>,
    pub options: &'s RestoreOptions,
    pub progress: Option<ProgressFn>,
    pub steps: &'s dyn Steps,
    /// The restore that all its writers share.
    pub together: &'s Together,
}

impl Staging<'_> {
    /// Stages `writer`; on a failure whatever was made is removed again, unless a test asked to stop. Blocks, long.
    ///
    /// # Errors
    /// The placement's and the repository's; nothing was changed.
    pub fn stage(&self, writer: &PreparedWriter) -> Result<Staged, Failure> {
        let id = &writer.id;
        let what = format!("the restore of `{id}` cannot begin");
        let unchanged = |problem| RestoreError { problem, state: LiveState::Unchanged };
        let registry = Registry::open(&self.paths.state)
            .map_err(|problem| fault::placement(id, what.clone(), unchanged(problem)))?;
        let plan = Plan::new(&writer.specs()).map_err(|error| fault::placement(id, what.clone(), error))?;
        let restore = Uuid::now_v7();
        let about = About {
            restore,
            set: self.contents.set.set.to_string(),
            writer: id.clone(),
            together: Some(self.together.clone()),
            components: writer.request.components.iter().map(ToString::to_string).collect(),
            confirmations: self
                .options
                .assume_stopped
                .then(|| "assume-stopped".to_owned())
                .into_iter()
                .collect(),
        };
        let mut placement = Placement::begin(plan, about, &registry, self.steps)
            .map_err(|error| fault::placement(id, what, error))?;
        match self.fill(writer, &placement, restore) {
            Ok((saved, lost)) => Ok(Staged { placement, saved, lost }),
            Err(failure) => {
                // The first failure is the one to tell; what stays is found by its marker at the next start.
                let _ = placement.rollback(Undo::BeforePublish, self.steps);
                Err(failure)
            }
        }
    }

    fn fill(
        &self,
        writer: &PreparedWriter,
        placement: &Placement,
        restore: Uuid,
    ) -> Result<(SavedRequest, Vec<String>), Failure> {
        let id = &writer.id;
        let may_lose = !writer.request.in_place;
        let staged_at = |target: &Path| {
            placement.staged_path(target).map(Path::to_owned).map_err(|error| {
                fault::placement(id, format!("the staging of `{id}` is not what was planned"), error)
            })
        };
        let mut saved = SavedRequest::new(restore, writer.request.clone(), writer.signs.clone());
        saved.keep_old.clone_from(&writer.keep_old);
        saved.assume_stopped = self.options.assume_stopped;
        saved.replaces = writer.replaces;
        let mut selection = Vec::new();
        let mut files = StagedFiles::default();
        for unit in &writer.units {
            let staged = staged_at(&unit.target)?;
            for rider in &unit.riders {
                let beside = staged.with_file_name(&rider.name);
                selection.push((rider.stored.clone(), beside.clone()));
                files.roots.push((rider.original.clone(), beside));
            }
            selection.push((unit.stored.clone(), staged.clone()));
            files.roots.push((unit.original.clone(), staged));
            saved.map.push((unit.original.clone(), unit.target.clone()));
        }
        dress_parents(self.contents, writer, placement, &self.options.target, may_lose).map_err(|error| {
            let what = format!("the folders above the data of `{id}` cannot be made as they were");
            Failure::new(Exit::Failed, what, error, NOTHING_CHANGED)
        })?;
        let mut lost = Vec::new();
        if !selection.is_empty() {
            let options = repository::RestoreOptions {
                allow_lost_attributes: may_lose,
                progress: self.progress.clone(),
            };
            let restored =
                self.contents.repository.restore_files(&self.contents.stored, &selection, &options).map_err(
                    |error| fault::repository(&format!("the data of `{id}` cannot be staged"), error),
                )?;
            let told = |lost: repository::LostAttribute| {
                format!("{}: {}: {}", lost.path.display(), lost.what, lost.reason)
            };
            lost.extend(restored.lost.into_iter().map(told));
        }
        for key in &writer.keys {
            let around = match &key.inside {
                Some(folder) => staged_at(folder)?,
                None if key.spec().is_some() => {
                    let staged = staged_at(&key.target)?;
                    staged.parent().map(Path::to_owned).unwrap_or_default()
                }
                None => PathBuf::new(),
            };
            let below = key.inside.as_deref().or(key.target.parent()).unwrap_or(Path::new("/"));
            let relative = key.target.strip_prefix(below).unwrap_or(&key.target);
            key.stage(self.contents, self.options.identity.as_deref(), &around, relative, may_lose)?;
            let plain = key.plain_at(|target| placement.staged_path(target).ok().map(Path::to_owned));
            files.keys.extend(plain.map(|plain| (key.record.path.clone(), plain)));
            saved.map.push((key.record.path.clone(), key.target.clone()));
        }
        saved.staged = files;
        Ok((saved, lost))
    }
}

/// Gives the folders that had to be made above the targets the owner and mode they had: an application that may not
/// write in its own folder is not restored.
fn dress_parents(
    contents: &SetContents,
    writer: &PreparedWriter,
    placement: &Placement,
    map: &TargetMap,
    may_lose: bool,
) -> Result<(), std::io::Error> {
    for site in placement.marker().sites.iter().filter(|site| site.created > 0) {
        let units = writer.units.iter().map(|unit| (&unit.target, &unit.original));
        let keys = writer.keys.iter().map(|key| (&key.target, &key.record.path));
        let found = units.chain(keys).find(|(target, _)| target.parent() == Some(&site.parent));
        let Some(original) = found.and_then(|(_, original)| original.parent()) else { continue };
        let pairs = site.parent.ancestors().take(site.created).zip(original.ancestors());
        for (made, was) in pairs {
            // Above the point that a rule sends elsewhere, the two have nothing to do with each other.
            if map.target(was).ok().as_deref() != Some(made) {
                break;
            }
            let Ok(node) = contents.reader.node(&stored_path(&writer.id, was)) else { continue };
            if node.kind != NodeKind::Directory {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let folder: OwnedFd = rustix::fs::openat(CWD, made, flags, Mode::empty())?;
            let metadata = &node.metadata;
            let stat = rustix::fs::fstat(&folder)?;
            if (stat.st_uid, stat.st_gid) != (metadata.uid, metadata.gid) {
                let uid = rustix::process::Uid::from_raw(metadata.uid);
                let gid = rustix::process::Gid::from_raw(metadata.gid);
                match rustix::fs::fchown(&folder, Some(uid), Some(gid)) {
                    // Without privileges the folder is ours, in another place or where it was somebody else's.
                    Err(Errno::PERM) if may_lose || !rustix::process::geteuid().is_root() => {}
                    done => done?,
                }
            }
            rustix::fs::fchmod(&folder, Mode::from_raw_mode(metadata.mode & 0o7777))?;
        }
    }
    Ok(())
}

//! `btrfs`: one read-only snapshot of a subvolume, cut by one call. Another subvolume, even of the same
//! filesystem, is another volume.
//!
//! What the instant means: the kernel writes out the dirty pages of one file after the other and then cuts the
//! tree. So what is held, and what was synced, is of one instant. What an application that is *not* held has
//! written but not synced is as after a power cut: one file may be newer than another. That is the level
//! `crash`, and no more.

mod ioctl;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::budget::{Limits, check_estimate};
use super::error::{NotSupported, ProviderError};
use super::record::ShadowRecord;
use super::registry::ProviderDescriptor;
use super::shadow::{Mapping, Origins, Pending, ShadowCopy};
use super::{Atomicity, PreparedShadow, Provider, ShadowArea, ShadowRequest, area};
use crate::volume::{FileSelection, Kind, Meta, Root, SUBVOLUME_ROOT, Volume, VolumeMap, open_beneath};

const NAME: &str = "btrfs";
/// Key of the record's detail: the uuid of the subvolume that the snapshot is of.
const SOURCE_UUID: &str = "source-uuid";

inventory::submit! {
    ProviderDescriptor {
        name: NAME,
        atomicity: Atomicity::Volume,
        summary: "read-only snapshot of a btrfs subvolume",
        build: || Box::new(BtrfsProvider),
    }
}

/// The provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct BtrfsProvider;

impl Provider for BtrfsProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn atomicity(&self) -> Atomicity {
        Atomicity::Volume
    }

    fn supports(&self, volume: &Volume, _: &[FileSelection], _: &ShadowArea) -> Result<(), NotSupported> {
        let no = |reason: String| Err(NotSupported { reason });
        if volume.fs_type != "btrfs" {
            return no(format!("{} is {}, not btrfs", volume.mount_point.display(), volume.fs_type));
        }
        let Some(root) = &volume.subvolume_root else {
            let at = volume.mount_point.display();
            return no(format!("no mount shows the root of the subvolume that {at} is a part of"));
        };
        if volume.read_only {
            return no(format!("{} is mounted read-only", volume.mount_point.display()));
        }
        let us = rustix::process::geteuid();
        if us.is_root() {
            return Ok(());
        }
        if !volume.has_option("user_subvol_rm_allowed") {
            return no(
                "without root, deleting snapshots needs the mount option user_subvol_rm_allowed".into()
            );
        }
        match Root::open_real(root) {
            Ok(root) if root.meta().uid == us.as_raw() => Ok(()),
            Ok(found) => {
                let owner = found.meta().uid;
                no(format!("{} belongs to user {owner}, and only root may snapshot it", root.display()))
            }
            Err(error) => no(error.to_string()),
        }
    }

    fn prepare(&self, request: ShadowRequest) -> Result<Box<dyn PreparedShadow>, ProviderError> {
        self.supports(&request.volume, &request.files, &request.area).map_err(|source| {
            ProviderError::NotSupported { provider: NAME.into(), volume: request.volume.id.clone(), source }
        })?;
        let root_path = request.volume.subvolume_root.as_deref().unwrap_or(Path::new("/"));
        let source = Root::open_real(root_path)?;
        let area = area::open_or_make(root_path)?;
        let mut record =
            ShadowRecord::new(&request.area.state_dir, request.set, NAME, &request.volume, area.path());
        let mappings = mappings(&request, &record, source.path())?;
        let identity = ioctl::identity(source.as_fd())
            .map_err(|e| ProviderError::io("identify the subvolume", root_path, e))?;
        record.details.insert(SOURCE_UUID.into(), identity.uuid.to_string());

        let estimate = flush_and_measure(&source)?;
        check_estimate(estimate, request.budget)?;
        let pending = Pending::begin(record, delete)?;
        Ok(Box::new(Prepared { source, area, pending, mappings, estimate, state: State::Ready }))
    }

    fn delete(&self, record: &ShadowRecord) -> Result<(), ProviderError> {
        delete(record)
    }
}

/// A snapshot commits a transaction, and so does `syncfs`. The first flushes what has gathered; what the second
/// takes is what the cut will take, give or take what is written in between.
fn flush_and_measure(source: &Root) -> Result<Duration, ProviderError> {
    let fail = |e| ProviderError::io("flush", source.path(), e);
    rustix::fs::syncfs(source.as_fd()).map_err(fail)?;
    let begun = Instant::now();
    rustix::fs::syncfs(source.as_fd()).map_err(fail)?;
    Ok(begun.elapsed() * 2 + Duration::from_millis(5))
}

/// Where each selection lies in the snapshot, also if it is seen through a bind mount.
fn mappings(
    request: &ShadowRequest,
    record: &ShadowRecord,
    source: &Path,
) -> Result<Vec<Mapping>, ProviderError> {
    let map = VolumeMap::read()?;
    let mut mappings = vec![Mapping { original: source.into(), shadow: record.path.clone() }];
    for selection in &request.files {
        let Some(settled) = selection.settle()? else { continue };
        let place = map.place(&settled.path)?;
        if place.volume.id != request.volume.id {
            return Err(ProviderError::OtherVolume {
                path: settled.path,
                expected: request.volume.id.clone(),
                found: place.volume.id,
            });
        }
        let inside = place.inside.unwrap_or_default();
        let shadow = record.path.join(inside).components().collect();
        let mapping = Mapping { original: settled.path, shadow };
        if !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    Ok(mappings)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Cut,
    Failed,
}

struct Prepared {
    source: Root,
    area: Root,
    pending: Pending,
    mappings: Vec<Mapping>,
    estimate: Duration,
    state: State,
}

impl PreparedShadow for Prepared {
    fn estimate(&self) -> Duration {
        self.estimate
    }

    fn commit(&mut self, deadline: Instant, cancel: &AtomicBool) -> Result<(), ProviderError> {
        if self.state != State::Ready {
            return Err(ProviderError::OutOfOrder { call: "commit" });
        }
        self.state = State::Failed;
        let limits = Limits::new(deadline, cancel);
        limits.check()?;
        let path = &self.pending.record().path;
        let name = path.file_name().unwrap_or_default();
        ioctl::snapshot(self.source.as_fd(), self.area.as_fd(), name)
            .map_err(|e| ProviderError::io("snapshot", self.source.path(), e))?;
        // The call cannot be interrupted: whoever held until now held too long.
        limits.check()?;
        self.state = State::Cut;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<ShadowCopy, ProviderError> {
        match self.verify() {
            Ok(()) => {
                let origins = Origins::SameInodes { dev: self.source.meta().dev };
                Ok(self.pending.keep(self.mappings, origins))
            }
            Err(error) => Err(self.pending.undo_after(error)),
        }
    }

    fn abort(self: Box<Self>) -> Result<(), ProviderError> {
        self.pending.undo()
    }
}

impl Prepared {
    fn verify(&self) -> Result<(), ProviderError> {
        if self.state != State::Cut {
            return Err(ProviderError::OutOfOrder { call: "finish" });
        }
        let path = &self.pending.record().path;
        let snapshot = Root::open_real(path)?;
        let fail = |e| ProviderError::io("identify the snapshot", path, e);
        let of = ioctl::identity(self.source.as_fd()).map_err(fail)?;
        let is = ioctl::identity(snapshot.as_fd()).map_err(fail)?;
        let wrong =
            |problem: &str| Err(ProviderError::Verification { path: path.clone(), problem: problem.into() });
        if is.parent != of.uuid {
            return wrong("it is a snapshot of another subvolume");
        }
        if !ioctl::read_only(snapshot.as_fd()).map_err(fail)? {
            return wrong("it is not read-only");
        }
        Ok(())
    }
}

/// Deletes a snapshot if it is one of ours: in our area, named by its record, and a snapshot of what the record
/// says. It need not be read-only: another program of ours may have died while deleting it.
fn delete(record: &ShadowRecord) -> Result<(), ProviderError> {
    let Some((area, name)) = area::of_record(record)? else { return Ok(()) };
    let path = &record.path;
    let refuse = |problem| Err(ProviderError::DeleteRefused { path: path.clone(), problem });
    let meta = match Meta::at(area.as_fd(), name.as_os_str()) {
        Ok(meta) => meta,
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        Err(e) => return Err(ProviderError::io("look at", path, e)),
    };
    if meta.kind != Kind::Directory || meta.ino != SUBVOLUME_ROOT || meta.dev == area.meta().dev {
        return refuse("it is no subvolume");
    }
    if meta.mnt_id != area.meta().mnt_id {
        return refuse("something is mounted there");
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let fd = open_beneath(area.as_fd(), Path::new(&name), flags)
        .map_err(|e| ProviderError::io("open", path, e))?;
    let is = ioctl::identity(&fd).map_err(|e| ProviderError::io("identify", path, e))?;
    let of = record.details.get(SOURCE_UUID).and_then(|uuid| uuid.parse::<uuid::Uuid>().ok());
    if of.is_none_or(|of| of.is_nil() || of != is.parent) {
        return refuse("it is not a snapshot of the subvolume that the record names");
    }
    if !rustix::process::geteuid().is_root() {
        ioctl::make_writable(&fd).map_err(|e| ProviderError::io("make writable", path, e))?;
    }
    drop(fd);
    ioctl::destroy(area.as_fd(), &name).map_err(|e| ProviderError::io("delete the snapshot", path, e))
}

//! `reflink`: each file cloned by FICLONE, on XFS and btrfs. A clone shares its blocks with the original, so
//! it costs neither space nor the time to copy; but every file is cut for itself.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{IFlags, ioctl_ficlone, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use super::budget::Limits;
use super::copy::scratch_file;
use super::error::{NotSupported, ProviderError};
use super::mirror::{self, Source, Transfer, open_unless_gone};
use super::record::ShadowRecord;
use super::registry::ProviderDescriptor;
use super::{Atomicity, PreparedShadow, Provider, ShadowArea, ShadowRequest};
use crate::volume::{FileSelection, FoundFile, Kind, Meta, Root, Volume, VolumeError, VolumeMap, resolve};

const NAME: &str = "reflink";
/// The largest files are all tried beforehand, and of the others as many.
const TRIED: usize = 16;

inventory::submit! {
    ProviderDescriptor {
        name: NAME,
        atomicity: Atomicity::File,
        summary: "clones of the files (FICLONE) on XFS or btrfs",
        build: || Box::new(ReflinkProvider),
    }
}

/// The provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReflinkProvider;

impl Provider for ReflinkProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn atomicity(&self) -> Atomicity {
        Atomicity::File
    }

    fn supports(
        &self,
        volume: &Volume,
        files: &[FileSelection],
        area: &ShadowArea,
    ) -> Result<(), NotSupported> {
        let no = |reason: String| Err(NotSupported { reason });
        if volume.network || volume.fs_type == "overlay" {
            // On overlay the clone would be of whichever layer the file lies in today.
            return no(format!("{} is {}", volume.mount_point.display(), volume.fs_type));
        }
        if volume.read_only {
            return no(format!("{} is mounted read-only", volume.mount_point.display()));
        }
        let folder = folder(volume, area).map_err(|e| NotSupported::new(e.to_string()))?;
        match try_clone(files, &folder) {
            Ok(()) => mirror::check_owners(files),
            Err(ProviderError::Io { source, .. }) => {
                let (fs, at) = (&volume.fs_type, folder.display());
                no(format!("{fs} does not clone files into {at}: {source}"))
            }
            Err(error) => no(error.to_string()),
        }
    }

    fn prepare(&self, request: ShadowRequest) -> Result<Box<dyn PreparedShadow>, ProviderError> {
        self.supports(&request.volume, &request.files, &request.area).map_err(|source| {
            ProviderError::NotSupported { provider: NAME.into(), volume: request.volume.id.clone(), source }
        })?;
        let folder = folder(&request.volume, &request.area)?;
        mirror::prepare(NAME, &folder, &request, Cloning)
    }

    fn delete(&self, record: &ShadowRecord) -> Result<(), ProviderError> {
        mirror::delete(record)
    }
}

/// Clones lie on the filesystem of their originals: in the configured folder or the state directory if that
/// is there, else at the top of the volume.
fn folder(volume: &Volume, area: &ShadowArea) -> Result<PathBuf, VolumeError> {
    let map = VolumeMap::read()?;
    for candidate in [area.dir.as_deref(), Some(&area.state_dir)].into_iter().flatten() {
        match map.resolve(candidate) {
            Ok(there) if there.device == volume.device && there.fs_type == volume.fs_type => {
                return Ok(candidate.to_path_buf());
            }
            Ok(_) | Err(VolumeError::Missing { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(volume.subvolume_root.as_ref().unwrap_or(&volume.mount_point).clone())
}

/// Clones one of the files into a file without a name. Whether it works depends on the filesystem, on how it
/// was made, and on the mounts in between; only trying tells.
fn try_clone(files: &[FileSelection], folder: &Path) -> Result<(), ProviderError> {
    let into = Root::open(folder)?;
    let (to, path) = scratch_file(&into)?;
    for selection in files {
        let Some(selection) = selection.settle()? else { continue };
        let root = Root::open(&selection.path)?;
        let found = resolve(&root, &selection)?;
        if let Some(file) = found.iter().find(|f| f.meta.kind == Kind::File && f.meta.size > 0) {
            let Some((from, meta)) = open_unless_gone(&root, file)? else { continue };
            let source = Source { from: &from, meta: &meta, path: &file.path, to: &to, shadow: &path };
            return clone(&source);
        }
    }
    let (mut from, from_path) = scratch_file(&into)?;
    from.write_all(&[1; 4096]).map_err(|e| ProviderError::io("write", &from_path, e))?;
    ioctl_ficlone(&to, &from).map_err(|e| ProviderError::io("clone", &from_path, e))
}

struct Cloning;

impl Transfer for Cloning {
    fn transfer(&self, source: &Source<'_>, limits: Limits<'_>) -> Result<(), ProviderError> {
        limits.check()?;
        if source.meta.size == 0 { Ok(()) } else { clone(source) }
    }

    fn reserve(&self, _: &File, _: &Meta, _: &Path) -> Result<(), ProviderError> {
        Ok(())
    }

    fn rehearse(&self, files: &[(&Root, &FoundFile)], shadow: &Root) -> Result<Duration, ProviderError> {
        let mut largest: Vec<_> = files.iter().collect();
        largest.sort_by_key(|(_, f)| std::cmp::Reverse(f.meta.size));
        let one = |(root, file): &(&Root, &FoundFile)| -> Result<Duration, ProviderError> {
            let (to, path) = scratch_file(shadow)?;
            let begun = Instant::now();
            let Some((from, meta)) = open_unless_gone(root, file)? else { return Ok(Duration::ZERO) };
            let source = Source { from: &from, meta: &meta, path: &file.path, to: &to, shadow: &path };
            self.transfer(&source, Limits::default())?;
            Ok(begun.elapsed())
        };
        let (large, small) = largest.split_at(largest.len().min(TRIED));
        let mut total = Duration::ZERO;
        for file in large {
            total += one(file)?;
        }
        let step = (small.len() / TRIED).max(1);
        let (mut tried, mut took) = (0, Duration::ZERO);
        for file in small.iter().step_by(step) {
            took += one(file)?;
            tried += 1;
        }
        let all = took.as_nanos().saturating_mul(small.len() as u128).checked_div(tried).unwrap_or_default();
        total += Duration::from_nanos(u64::try_from(all).unwrap_or(u64::MAX));
        Ok(total * 2)
    }

    fn check_space(&self, _: &[(&Root, &FoundFile)], _: &Root) -> Result<(), ProviderError> {
        Ok(())
    }
}

fn clone(source: &Source<'_>) -> Result<(), ProviderError> {
    let fail = |e| ProviderError::io("clone", source.path, e);
    match ioctl_ficlone(source.to, source.from) {
        Ok(()) => Ok(()),
        // btrfs refuses to mix files with and without copy-on-write; databases are often without.
        Err(Errno::INVAL) => {
            let flags = ioctl_getflags(source.from).map_err(fail)?;
            if !flags.contains(IFlags::NOCOW) {
                return Err(fail(Errno::INVAL));
            }
            let ours = ioctl_getflags(source.to).map_err(fail)?;
            ioctl_setflags(source.to, ours | IFlags::NOCOW).map_err(fail)?;
            ioctl_ficlone(source.to, source.from).map_err(fail)
        }
        // Clones share blocks, but the list of them takes some.
        Err(Errno::NOSPC | Errno::DQUOT) => {
            Err(ProviderError::NoSpace { path: source.shadow.into(), needed: None, available: None })
        }
        Err(e) => Err(fail(e)),
    }
}

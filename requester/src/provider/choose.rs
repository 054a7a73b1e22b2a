//! Which provider serves a volume, and whether every selected file lies inside what will be copied.

use std::path::{Path, PathBuf};

use super::{Atomicity, Provider, ShadowArea};
use crate::volume::{FileSelection, Root, Volume, VolumeError, VolumeMap, resolve};

/// All selections that stand on one volume.
#[derive(Debug, Clone)]
pub struct VolumeGroup {
    /// The volume.
    pub volume: Volume,
    /// The selections, in the order given.
    pub files: Vec<FileSelection>,
}

/// No provider serves a volume.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no provider serves {} ({volume}){}", mount_point.display(), list(refused))]
pub struct NoProvider {
    /// The volume's id.
    pub volume: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Each provider and its reason.
    pub refused: Vec<(String, String)>,
}

fn list(refused: &[(String, String)]) -> String {
    refused.iter().map(|(name, reason)| format!("; `{name}`: {reason}")).collect()
}

/// Takes the provider with the strongest atomicity that serves the volume, by name among equals; only the
/// preferred one if one is given.
///
/// # Errors
/// [`NoProvider`] with every provider's reason.
pub fn choose<'a>(
    volume: &Volume,
    files: &[FileSelection],
    area: &ShadowArea,
    providers: &'a [Box<dyn Provider>],
    preferred: Option<&str>,
) -> Result<&'a dyn Provider, NoProvider> {
    let mut candidates: Vec<&dyn Provider> = providers.iter().map(AsRef::as_ref).collect();
    let mut refused = Vec::new();
    if let Some(name) = preferred {
        candidates.retain(|p| p.name() == name);
        if candidates.is_empty() {
            refused.push((name.to_owned(), "is not registered".to_owned()));
        }
    }
    candidates.sort_by_key(|p| (p.atomicity(), p.name()));
    for provider in candidates {
        match provider.supports(volume, files, area) {
            Ok(()) => return Ok(provider),
            Err(error) => refused.push((provider.name().to_owned(), error.reason)),
        }
    }
    Err(NoProvider { volume: volume.id.clone(), mount_point: volume.mount_point.clone(), refused })
}

/// Sorts selections by the volume they really stand on, and proves that each lies inside it whole: nested
/// mount points and subvolumes are refused by name. An optional selection that is absent stands on the volume
/// of the nearest folder above it that exists.
///
/// # Errors
/// [`VolumeError::MountPoint`], [`VolumeError::Subvolume`], [`VolumeError::SymlinkRefused`],
/// [`VolumeError::Missing`], and as [`resolve`].
pub fn group(map: &VolumeMap, files: &[FileSelection]) -> Result<Vec<VolumeGroup>, VolumeError> {
    let mut groups: Vec<VolumeGroup> = Vec::new();
    for selection in files {
        let volume = match selection.settle()? {
            Some(settled) => {
                // The walk refuses the first file of another volume.
                resolve(&Root::open(&settled.path)?, &settled)?;
                map.resolve(&settled.path)?
            }
            None => nearest(map, &selection.path)?,
        };
        match groups.iter_mut().find(|g| g.volume.id == volume.id) {
            Some(group) => group.files.push(selection.clone()),
            None => groups.push(VolumeGroup { volume, files: vec![selection.clone()] }),
        }
    }
    Ok(groups)
}

/// Proves that every file of the selections lies inside one of the volumes that are copied.
///
/// # Errors
/// [`VolumeError::MountPoint`] with the first selection that lies outside, else as [`group`].
pub fn check_contained(
    map: &VolumeMap,
    volumes: &[Volume],
    files: &[FileSelection],
) -> Result<(), VolumeError> {
    for group in group(map, files)? {
        if let (false, Some(outside)) = (volumes.iter().any(|v| v.id == group.volume.id), group.files.first())
        {
            return Err(VolumeError::MountPoint { path: outside.path.clone() });
        }
    }
    Ok(())
}

fn nearest(map: &VolumeMap, path: &Path) -> Result<Volume, VolumeError> {
    let mut missing = None;
    for folder in path.ancestors() {
        match map.resolve(folder) {
            Err(error @ VolumeError::Missing { .. }) => missing = Some(error),
            other => return other,
        }
    }
    Err(missing.unwrap_or_else(|| VolumeError::NotPlain { path: path.into() }))
}

/// What follows from an atomicity for a component that is not held (design, promise P4).
impl Atomicity {
    /// Whether files that nobody holds are of one instant without proving that they did not change.
    pub const fn serves_unheld(self) -> bool {
        match self {
            Self::Volume => true,
            Self::File | Self::None => false,
        }
    }
}

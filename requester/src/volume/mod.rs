//! What a path really stands on: mounts, btrfs subvolumes, bind mounts, overlay, network filesystems; and
//! finding and opening files beneath a root (promise P10).
//!
//! Owns: the mount table, the identity of a volume, file selections. Leaves to others: copying (`provider`).

mod beneath;
mod error;
mod meta;
pub mod mountinfo;
mod real;
mod selection;
mod walk;

use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

pub use beneath::Root;
pub(crate) use beneath::{by_descriptor, open_beneath, xattrs_open};
pub use error::VolumeError;
pub use holdfast_writer_api::pattern::{BadPattern, Exclude, Pattern};
pub use meta::{FileId, Kind, Meta, Time};
pub use mountinfo::Mount;
pub(crate) use real::open_strict;
pub use real::real_path;
pub use selection::{FileSelection, FoundFile, SHADOW_FOLDER, resolve};
pub(crate) use walk::SUBVOLUME_ROOT;
pub use walk::{Boundary, Entry, Visit};

/// What is shadow-copied as one: a filesystem, or on btrfs one subvolume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Equal for all paths that can be cut at one instant, whichever mount they are seen through.
    pub id: String,
    /// As the mount table calls it.
    pub fs_type: String,
    /// Where the mount is through which the path was reached.
    pub mount_point: PathBuf,
    /// On btrfs the root of the subvolume, as far as any mount shows it.
    pub subvolume_root: Option<PathBuf>,
    /// Device number that the path shows (on btrfs the subvolume's).
    pub st_dev: u64,
    /// The filesystem's own `major:minor`; equal for all subvolumes of one btrfs.
    pub device: String,
    /// The mount's id.
    pub mnt_id: u64,
    /// The device, share or name that was mounted.
    pub source: String,
    /// The filesystem's mount options.
    pub options: String,
    /// Nothing can be written through the mount.
    pub read_only: bool,
    /// Other hosts can write to it.
    pub network: bool,
}

impl Volume {
    /// Whether a mount option is set.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|o| o == option)
    }
}

/// A path and what it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The path without links.
    pub real: PathBuf,
    /// What it stands on.
    pub volume: Volume,
    /// On btrfs the path below [`Volume::subvolume_root`], also where a bind mount hides that root.
    pub inside: Option<PathBuf>,
}

/// The mounts at one moment.
#[derive(Debug, Clone)]
pub struct VolumeMap {
    mounts: Vec<Mount>,
}

impl VolumeMap {
    /// Reads the kernel's table.
    ///
    /// # Errors
    /// As [`mountinfo::read`].
    pub fn read() -> Result<Self, VolumeError> {
        Ok(Self { mounts: mountinfo::read()? })
    }

    /// What an existing path stands on.
    ///
    /// # Errors
    /// [`VolumeError::Missing`], [`VolumeError::SymlinkRefused`], [`VolumeError::NoMount`].
    pub fn resolve(&self, path: &Path) -> Result<Volume, VolumeError> {
        self.place(path).map(|place| place.volume)
    }

    /// As [`VolumeMap::resolve`], with the path in the terms of that volume.
    ///
    /// # Errors
    /// As [`VolumeMap::resolve`].
    pub fn place(&self, path: &Path) -> Result<Place, VolumeError> {
        let real = real_path(path)?;
        let meta = look(&real)?;
        let mount = self.mount_of(&real, &meta).ok_or_else(|| VolumeError::NoMount { path: real.clone() })?;
        let mut volume = Volume {
            id: format!("{}:{}", mount.fs_type, mount.device),
            fs_type: mount.fs_type.clone(),
            mount_point: mount.mount_point.clone(),
            subvolume_root: None,
            st_dev: meta.dev,
            device: mount.device.clone(),
            mnt_id: mount.id,
            source: mount.source.clone(),
            options: mount.super_options.clone(),
            read_only: mount.read_only(),
            network: is_network(&mount.fs_type),
        };
        let mut inside = None;
        if mount.fs_type == "btrfs" {
            let (major, minor) = (rustix::fs::major(meta.dev), rustix::fs::minor(meta.dev));
            volume.id = format!("btrfs:{major}:{minor}");
            if let Some((root, seen_at)) = self.subvolume(mount, &real, &meta)? {
                inside = seen_at.strip_prefix(&root).ok().map(Path::to_path_buf);
                volume.subvolume_root = Some(root);
            }
        }
        Ok(Place { real, volume, inside })
    }

    /// Mount points and btrfs subvolumes that begin below a folder, sorted. Those of shadow copies are not
    /// counted, nor what lies below another of the list.
    ///
    /// # Errors
    /// As [`Root::open`] and [`Root::walk`].
    pub fn nested(&self, folder: &Path) -> Result<Vec<PathBuf>, VolumeError> {
        let place = self.place(folder)?;
        let below = |m: &&Mount| m.mount_point.starts_with(&place.real) && m.mount_point != place.real;
        let mut nested: Vec<PathBuf> =
            self.mounts.iter().filter(below).map(|m| m.mount_point.clone()).collect();
        if place.volume.fs_type == "btrfs" {
            let root = Root::open_real(&place.real)?;
            let entries = root.walk_with(Path::new(""), &mut |rel, kind| {
                let ours = rel.file_name().is_some_and(|n| n == SHADOW_FOLDER);
                if kind == Kind::Directory && !ours { Visit::Pass } else { Visit::Skip }
            })?;
            nested.extend(entries.iter().map(|e| place.real.join(&e.rel)));
        }
        nested.sort();
        nested.dedup_by(|later, earlier| later.starts_with(&*earlier));
        Ok(nested)
    }

    /// Newer mounts cover older ones of the same place, so the last of the longest counts. Only used where
    /// the kernel does not name the mount itself.
    fn mount_of(&self, real: &Path, meta: &Meta) -> Option<&Mount> {
        if let Some(id) = meta.mnt_id {
            return self.mounts.iter().find(|m| m.id == id);
        }
        let holding = self.mounts.iter().filter(|m| real.starts_with(&m.mount_point));
        holding.max_by_key(|m| m.mount_point.as_os_str().len())
    }

    /// The subvolume's root, and the path itself as seen through the mount that shows this root.
    fn subvolume(
        &self,
        mount: &Mount,
        real: &Path,
        meta: &Meta,
    ) -> Result<Option<(PathBuf, PathBuf)>, VolumeError> {
        if let Some(root) = climb(real, meta)? {
            return Ok(Some((root, real.to_path_buf())));
        }
        // A folder of the subvolume was bind-mounted. Another mount may show the whole.
        let Ok(below) = real.strip_prefix(&mount.mount_point) else { return Ok(None) };
        let in_filesystem = mount.root.join(below);
        for other in self.mounts.iter().filter(|m| m.device == mount.device && m.id != mount.id) {
            let Ok(below) = in_filesystem.strip_prefix(&other.root) else { continue };
            let seen_at = plain_join(&other.mount_point, below);
            // It may be covered by a later mount: only the same file counts.
            let Ok(there) = look(&seen_at) else { continue };
            if !there.same_file(meta) {
                continue;
            }
            if let Some(root) = climb(&seen_at, &there)? {
                return Ok(Some((root, seen_at)));
            }
        }
        Ok(None)
    }
}

/// Whether a path lies inside a folder, by name; both are taken as they are.
pub fn inside(root: &Path, path: &Path) -> bool {
    path.starts_with(root)
}

/// Walks up to the root of the btrfs subvolume, or to the end of the mount.
fn climb(path: &Path, meta: &Meta) -> Result<Option<PathBuf>, VolumeError> {
    for folder in path.ancestors() {
        let here = look(folder)?;
        if here.dev != meta.dev || here.mnt_id != meta.mnt_id {
            return Ok(None);
        }
        if here.kind == Kind::Directory && here.ino == SUBVOLUME_ROOT {
            return Ok(Some(folder.to_path_buf()));
        }
    }
    Ok(None)
}

fn look(path: &Path) -> Result<Meta, VolumeError> {
    let fd = open_strict(path, OFlags::PATH)?;
    Meta::of(&fd).map_err(|e| VolumeError::from_errno("look at", path, e))
}

/// `join` without the trailing slash that an empty second half leaves.
fn plain_join(base: &Path, below: &Path) -> PathBuf {
    if below.as_os_str().is_empty() { base.to_path_buf() } else { base.join(below) }
}

/// Filesystems that other hosts write to, by the names of the mount table.
fn is_network(fs_type: &str) -> bool {
    const NETWORK: [&str; 21] = [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "fuse.ceph",
        "fuse.cephfs",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
    ];
    NETWORK.contains(&fs_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_resolved_to_the_mount_that_the_kernel_names() {
        let dir = tempfile::tempdir().unwrap();
        let map = VolumeMap::read().unwrap();
        let place = map.place(dir.path()).unwrap();
        assert_eq!(place.real, dir.path().canonicalize().unwrap());
        assert!(place.real.starts_with(&place.volume.mount_point));
        assert_eq!(map.resolve(&dir.path().join("x")).unwrap_err().to_string(), {
            format!("{} does not exist", dir.path().canonicalize().unwrap().join("x").display())
        });
        let proc = map.resolve(Path::new("/proc/self/mountinfo"));
        // `/proc/self` is the kernel's own link, and root's.
        assert_eq!(proc.unwrap().fs_type, "proc");
    }

    #[test]
    fn network_filesystems_are_known_by_name() {
        assert!(is_network("nfs4") && is_network("fuse.sshfs") && is_network("cifs"));
        assert!(!is_network("ext4") && !is_network("overlay"));
    }

    #[test]
    fn inside_goes_by_whole_names() {
        assert!(inside(Path::new("/srv/ca"), Path::new("/srv/ca/db")));
        assert!(!inside(Path::new("/srv/ca"), Path::new("/srv/ca2")));
    }
}

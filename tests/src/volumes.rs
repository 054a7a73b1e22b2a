//! Real volumes on loop devices, mounted in a folder of their own until dropped. Needs root.
//! Owns: that nothing stays mounted, frozen or attached, also after a run that was killed.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    error::FixtureError,
    process::{self, command, run},
};

const LIMIT: Duration = Duration::from_secs(60);
/// Folders are named PREFIX-PID-STARTTIME-RANDOM, so that a later run knows whose owner is gone.
const PREFIX: &str = "holdfast-volume";

/// The smallest image that all of the `mkfs` programs accept, in bytes. Images are sparse: they cost what is written.
pub const SMALL: u64 = 512 << 20;

/// A file system of its own, until dropped.
#[derive(Debug)]
pub struct LoopVolume {
    folder: TempDir,
    kind: &'static str,
}

impl LoopVolume {
    /// btrfs: atomic snapshots and reflinks.
    ///
    /// # Errors
    /// Whatever `mkfs.btrfs` or `mount` says, e.g. for want of root.
    pub fn btrfs(bytes: u64) -> Result<Self, FixtureError> {
        Self::create("btrfs", bytes, command("mkfs.btrfs").arg("--quiet"))
    }

    /// XFS with reflinks, without snapshots.
    ///
    /// # Errors
    /// As [`btrfs`](Self::btrfs).
    pub fn xfs_reflink(bytes: u64) -> Result<Self, FixtureError> {
        Self::create("xfs", bytes, command("mkfs.xfs").args(["-q", "-m", "reflink=1"]))
    }

    /// ext4: neither. Without blocks reserved for root, so that full is full.
    ///
    /// # Errors
    /// As [`btrfs`](Self::btrfs).
    pub fn ext4(bytes: u64) -> Result<Self, FixtureError> {
        Self::create("ext4", bytes, command("mkfs.ext4").args(["-q", "-F", "-m", "0"]))
    }

    fn create(kind: &'static str, bytes: u64, mkfs: &mut Command) -> Result<Self, FixtureError> {
        remove_orphans();
        let name =
            format!("{PREFIX}-{}-{}-", std::process::id(), start_time(std::process::id()).unwrap_or(0));
        let folder = tempfile::Builder::new()
            .prefix(&name)
            .tempdir()
            .map_err(FixtureError::io("make a folder for a volume"))?;
        let volume = Self { folder, kind };
        let image = volume.image();
        File::create_new(&image)
            .and_then(|file| file.set_len(bytes))
            .map_err(FixtureError::io(format!("make {}", image.display())))?;
        run(mkfs.arg(&image), LIMIT)?;
        process::create_dir(&volume.path())?;
        // By `mount` and not by `losetup`: the loop device then detaches itself with the last use of the volume.
        run(command("mount").args(["-o", "loop", "-t", kind]).arg(&image).arg(volume.path()), LIMIT)?;
        Ok(volume)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// The file system's type as the kernel names it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    /// Makes a btrfs subvolume; `name` is relative to the mount point.
    ///
    /// # Errors
    /// Whatever `btrfs` says, e.g. on another file system.
    pub fn subvolume(&self, name: &str) -> Result<PathBuf, FixtureError> {
        let path = self.path().join(name);
        run(command("btrfs").args(["subvolume", "create"]).arg(&path), LIMIT)?;
        Ok(path)
    }

    /// Fills it until at most `leave` bytes are free, with a file named `filler`. Gives the file's path.
    ///
    /// # Errors
    /// Whatever `fallocate` or a write says, except that the volume is full.
    pub fn fill(&self, leave: u64) -> Result<PathBuf, FixtureError> {
        /// What the file system may need to describe the file itself.
        const SLACK: u64 = 1 << 20;
        let path = self.path().join("filler");
        let most = self.free()?.saturating_sub(leave + SLACK);
        run(command("fallocate").args(["-l", &most.to_string()]).arg(&path), LIMIT)?;
        let what = || format!("fill {}", path.display());
        let mut file = File::options().append(true).open(&path).map_err(FixtureError::io(what()))?;
        while self.free()? > leave {
            // Synced, or delayed allocation would promise more than there is.
            match file.write_all(&[1; 4096]).and_then(|()| file.sync_data()) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::StorageFull => break,
                Err(error) => return Err(FixtureError::io(what())(error)),
            }
        }
        Ok(path)
    }

    /// Freezes the file system: whoever writes to it waits in the kernel, where not even SIGKILL reaches it, until the
    /// handle is dropped. After `at_most` (15 s at most) a process that outlives this one thaws it, whatever happens.
    ///
    /// # Errors
    /// Whatever `fsfreeze` says, e.g. for want of root.
    pub fn freeze(&self, at_most: Duration) -> Result<Frozen, FixtureError> {
        assert!(at_most <= Duration::from_secs(15), "nobody else on this machine is to wait for longer");
        let path = self.path();
        let fsfreeze = command("fsfreeze");
        let mut watchdog = command("sh");
        watchdog.args(["-c", "sleep \"$1\"; exec \"$2\" --unfreeze \"$3\"", "watchdog"]);
        watchdog.arg(at_most.as_secs_f64().to_string()).arg(fsfreeze.get_program()).arg(&path);
        let watchdog = watchdog
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(FixtureError::io("start what thaws the volume whatever happens"))?;
        // From here on every way out thaws.
        let frozen = Frozen { path, watchdog };
        run(command("fsfreeze").arg("--freeze").arg(&frozen.path), LIMIT)?;
        Ok(frozen)
    }

    /// Bytes that an unprivileged writer still has.
    ///
    /// # Errors
    /// [`FixtureError::Io`].
    pub fn free(&self) -> Result<u64, FixtureError> {
        let path = self.path();
        let space = rustix::fs::statvfs(&path).map_err(|errno| {
            FixtureError::io(format!("ask {} for its space", path.display()))(errno.into())
        })?;
        Ok(space.f_bavail * space.f_frsize)
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }
}

impl Drop for LoopVolume {
    fn drop(&mut self) {
        unmount(&self.path());
    }
}

/// A frozen file system, until dropped.
#[derive(Debug)]
pub struct Frozen {
    path: PathBuf,
    watchdog: Child,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        unfreeze(&self.path);
        process::kill_group(&mut self.watchdog);
    }
}

/// Fails, and changes nothing, on what is not frozen.
fn unfreeze(path: &Path) {
    let _ = process::capture(command("fsfreeze").arg("--unfreeze").arg(path), LIMIT);
}

/// The mount points at or below `path`, for tests that prove that nothing was left mounted.
#[must_use]
pub fn mounted_below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    points.map(|point| PathBuf::from(unescape(point))).filter(|point| point.starts_with(path)).collect()
}

/// Thaws, unmounts with everything mounted below, and lazily if something still uses it.
fn unmount(path: &Path) {
    if mounted_below(path).is_empty() {
        return;
    }
    // A frozen file system cannot be unmounted.
    unfreeze(path);
    if run(command("umount").arg("--recursive").arg(path), LIMIT).is_err() {
        let _ = process::capture(command("umount").args(["--recursive", "--lazy"]).arg(path), LIMIT);
    }
}

/// Unmounts and removes volumes whose process has died without dropping them.
fn remove_orphans() {
    let Ok(folders) = fs::read_dir(std::env::temp_dir()) else { return };
    for folder in folders.flatten() {
        let name = folder.file_name();
        if name.to_str().and_then(owner_of).is_some_and(|(pid, started)| start_time(pid) != Some(started)) {
            unmount(&folder.path().join("mnt"));
            // Never through a mount: if it is still mounted, this fails on the mount point.
            if mounted_below(&folder.path()).is_empty() {
                let _ = fs::remove_dir_all(folder.path());
            }
        }
    }
}

fn owner_of(name: &str) -> Option<(u32, u64)> {
    let mut parts = name.strip_prefix(PREFIX)?.strip_prefix('-')?.split('-');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Clock ticks since boot at which a process started: with its id, the only name that is not given twice.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, and may contain anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// mountinfo writes blank, tab, newline and backslash in octal.
fn unescape(point: &str) -> String {
    point.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{LoopVolume, SMALL, owner_of, start_time, unescape};
    use crate::{
        process::{command, run},
        require::{require_root_or_skip, require_tool},
    };

    #[test]
    fn an_owner_is_known_by_pid_and_start_time() {
        assert_eq!(owner_of("holdfast-volume-12-345-aBc"), Some((12, 345)));
        assert_eq!(owner_of("holdfast-volume-x"), None);
        assert!(start_time(std::process::id()).is_some());
    }

    /// The watchdog is what every test with a frozen disk relies on: it must work without its handle.
    #[test]
    fn a_frozen_volume_is_thawed_in_time_also_when_nobody_drops_its_handle() {
        let tools = ["mkfs.ext4", "fsfreeze"].map(require_tool);
        let (Some(()), [Some(_), Some(_)]) = (require_root_or_skip(), tools) else { return };
        let volume = LoopVolume::ext4(SMALL).expect("a volume");
        let mut frozen = volume.freeze(Duration::from_secs(1)).expect("frozen");
        let begun = Instant::now();
        let touched = volume.path().join("touched");
        run(command("touch").arg(&touched), Duration::from_secs(15)).expect("a write that waited");
        assert!(touched.exists() && begun.elapsed() > Duration::from_millis(500), "{:?}", begun.elapsed());
        assert!(frozen.watchdog.wait().expect("its end").success(), "it was the watchdog that thawed");
    }

    #[test]
    fn mount_points_with_blanks_are_read_back() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
    }
}

//! Finds out who uses a database, without being noticed.
//! Owns: the search through every process's descriptors and their locks, and through `/proc/locks` for the rest.
//! Leaves to others: what follows from it (a restore is refused, an operator is told).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::SqliteError;
use crate::access::{self, Identity};
use crate::locks::{self, ListedLock, PENDING_BYTE, SHARED_FIRST, SHARED_SIZE, WAL_DMS_BYTE, WAL_WRITE_BYTE};

/// A process that uses a database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LockHolder {
    /// The process; `None` for a lock that belongs to an open file and not to a process, which is not SQLite's way.
    pub pid: Option<u32>,
    /// How it uses it.
    pub kind: HolderKind,
}

/// How a process uses a database. One process may show several kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HolderKind {
    /// Writing, or holding the writers as a backup does.
    Writer,
    /// Reading, or in WAL mode merely having it open.
    Reader,
    /// The WAL index is in use.
    WalIndex,
    /// The database, its log or its index is open without any lock. An idle application in a rollback mode shows only this.
    Descriptor,
}

/// Who uses a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Openers {
    /// Those found, sorted by process. Empty: nobody, as far as we could see.
    pub holders: Vec<LockHolder>,
    /// Processes whose descriptors we may not list. Zero when run as root; otherwise an idle application of another user
    /// may be among them.
    pub unexamined: u32,
}

impl Openers {
    /// Whether nobody uses it for certain.
    #[must_use]
    pub fn certainly_none(&self) -> bool {
        self.holders.is_empty() && self.unexamined == 0
    }
}

/// Who has `database` open: by SQLite's locks on it and on its `-shm`, and by any descriptor of either or of its `-wal`.
/// Our own process counts. Processes outside our pid namespace cannot be seen.
///
/// Opens none of the files. A file that is missing has no users.
///
/// # Errors
/// [`SqliteError::Symlink`], [`SqliteError::NotRegular`], or [`SqliteError::Io`] if `/proc` cannot be read.
pub fn who_has_it_open(database: &Path) -> Result<Openers, SqliteError> {
    let database = access::absolute(database)?;
    let (wal, shm) = (access::beside(&database, "-wal"), access::beside(&database, "-shm"));
    let mut parts = Vec::new();
    for (part, path) in [(Part::Database, &database), (Part::Wal, &wal), (Part::Index, &shm)] {
        parts.extend(target(path)?.map(|target| (part, target)));
    }
    if parts.is_empty() {
        return Ok(Openers { holders: Vec::new(), unexamined: 0 });
    }
    let files: Vec<(Part, Identity)> = parts.iter().map(|(part, target)| (*part, target.identity)).collect();
    let proc = PathBuf::from("/proc");
    let mut holders = BTreeSet::new();
    let mut examined = BTreeSet::new();
    let mut unexamined: u32 = 0;
    for entry in fs::read_dir(&proc).map_err(|e| SqliteError::io(&proc, "list", e))? {
        let entry = entry.map_err(|e| SqliteError::io(&proc, "list", e))?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        match kinds_of(&entry.path(), &files) {
            Ok(kinds) => {
                examined.insert(pid);
                holders.extend(kinds.into_iter().map(|kind| LockHolder { pid: Some(pid), kind }));
            }
            Err(e) if e.kind() == ErrorKind::PermissionDenied && !is_kernel_thread(&entry.path()) => {
                unexamined += 1
            }
            // Gone since the listing, or the kernel's own.
            Err(_) => {}
        }
    }

    // Those we may not examine show at least their locks. The others are left out: on btrfs a file of another subvolume can
    // look the same here.
    let locks_path = Path::new("/proc/locks");
    for lock in locks::listed().map_err(|e| SqliteError::io(locks_path, "read", e))? {
        if lock.pid.is_some_and(|pid| examined.contains(&pid)) {
            continue;
        }
        for (part, target) in &parts {
            if target.is_locked_by(&lock)
                && let Some(kind) = kind_of(*part, &lock)
            {
                holders.insert(LockHolder { pid: lock.pid, kind });
            }
        }
    }
    Ok(Openers { holders: holders.into_iter().collect(), unexamined })
}

/// What a file is to the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Database,
    Wal,
    Index,
}

struct Target {
    identity: Identity,
    superblock: Option<(u32, u32)>,
}

impl Target {
    /// By the device `stat` knows, or by the superblock's, which is what `/proc/locks` prints and differs on btrfs.
    fn is_locked_by(&self, lock: &ListedLock) -> bool {
        let device = (lock.major, lock.minor);
        let by_stat = (rustix::fs::major(self.identity.device), rustix::fs::minor(self.identity.device));
        lock.inode == self.identity.inode && (device == by_stat || Some(device) == self.superblock)
    }
}

/// Our own handle is closed before the descriptors are searched, so that it does not count.
fn target(path: &Path) -> Result<Option<Target>, SqliteError> {
    Ok(access::find_optional(path)?
        .map(|found| Target { identity: found.identity, superblock: found.superblock_device() }))
}

/// How a process, given by its folder in `/proc`, uses these files: by the locks on each of its descriptors, or merely by
/// having one.
fn kinds_of(process: &Path, files: &[(Part, Identity)]) -> std::io::Result<BTreeSet<HolderKind>> {
    let identities: Vec<Identity> = files.iter().map(|(_, identity)| *identity).collect();
    let mut kinds = BTreeSet::new();
    let mut open = false;
    for (descriptor, which) in access::descriptors_among(&process.join("fd"), &identities)? {
        open = true;
        let Some((part, _)) = files.get(which) else { continue };
        // Closed since the listing: it has no lock then.
        let locks = locks::of_descriptor(process, descriptor).unwrap_or_default();
        kinds.extend(locks.iter().filter_map(|lock| kind_of(*part, lock)));
    }
    if open && kinds.is_empty() {
        kinds.insert(HolderKind::Descriptor);
    }
    Ok(kinds)
}

fn kind_of(part: Part, lock: &ListedLock) -> Option<HolderKind> {
    match part {
        Part::Database if lock.touches(PENDING_BYTE, SHARED_FIRST + SHARED_SIZE - 1) => {
            Some(if lock.write { HolderKind::Writer } else { HolderKind::Reader })
        }
        Part::Index if lock.write && lock.covers(WAL_WRITE_BYTE) => Some(HolderKind::Writer),
        Part::Index if lock.touches(WAL_WRITE_BYTE, WAL_DMS_BYTE) => Some(HolderKind::WalIndex),
        Part::Database | Part::Index | Part::Wal => None,
    }
}

/// Kernel threads have no files but, to other users, refuse to say so. `PF_KTHREAD` is the ninth field's bit 21.
fn is_kernel_thread(process: &Path) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let Ok(stat) = fs::read_to_string(process.join("stat")) else { return false };
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok())
        .is_some_and(|flags| flags & PF_KTHREAD != 0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    use super::*;

    /// What is left for processes we may not examine must name the same locks as their own lists do.
    #[test]
    fn proc_locks_shows_a_hold_on_the_file_stat_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("db");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        let hold = crate::Database::open(&path).unwrap();
        let hold = hold.hold(Instant::now() + Duration::from_secs(5), &AtomicBool::new(false)).unwrap();
        let database = target(&path).unwrap().unwrap();
        let shown = |kind| {
            locks::listed().unwrap().iter().any(|lock| {
                lock.pid == Some(std::process::id())
                    && database.is_locked_by(lock)
                    && kind_of(Part::Database, lock) == Some(kind)
            })
        };
        // A single reading may miss a lock while others come and go.
        assert!((0..100).any(|_| shown(HolderKind::Writer)));
        drop(hold);
        assert!(!shown(HolderKind::Writer));
    }

    #[test]
    fn a_process_that_is_no_kernel_thread_is_told_from_one() {
        assert!(!is_kernel_thread(Path::new("/proc/self")));
        assert!(!is_kernel_thread(Path::new("/proc/none")));
    }
}

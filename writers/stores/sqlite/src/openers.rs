//! Finds out who uses a database, without being noticed.
//! Owns: the search through `/proc/locks` and through every process's descriptors.
//! Leaves to others: what follows from it (a restore is refused, an operator is told).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::SqliteError;
use crate::access::{self, Identity};
use crate::hold::is_of;
use crate::locks::{self, PENDING_BYTE, SHARED_FIRST, SHARED_SIZE, WAL_DMS_BYTE, WAL_WRITE_BYTE};

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
    let main = target(&database)?;
    let shm = target(&shm)?;
    let files: Vec<Identity> = [main.as_ref(), shm.as_ref(), target(&wal)?.as_ref()]
        .into_iter()
        .flatten()
        .map(|t| t.identity)
        .collect();
    if files.is_empty() {
        return Ok(Openers { holders: Vec::new(), unexamined: 0 });
    }

    let proc = PathBuf::from("/proc");
    let mut holders = BTreeSet::new();
    let mut unexamined = BTreeSet::new();
    let mut cleared = BTreeSet::new();
    for entry in fs::read_dir(&proc).map_err(|e| SqliteError::io(&proc, "list", e))? {
        let entry = entry.map_err(|e| SqliteError::io(&proc, "list", e))?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        match has_open(&entry.path().join("fd"), &files) {
            Ok(true) => {
                holders.insert(LockHolder { pid: Some(pid), kind: HolderKind::Descriptor });
            }
            Ok(false) => {
                cleared.insert(pid);
            }
            Err(e) if e.kind() == ErrorKind::PermissionDenied && !is_kernel_thread(&entry.path()) => {
                unexamined.insert(pid);
            }
            // Gone since the listing, or the kernel's own.
            Err(_) => {}
        }
    }

    let locks_path = Path::new("/proc/locks");
    for lock in locks::listed().map_err(|e| SqliteError::io(locks_path, "read", e))? {
        // On btrfs a file of another subvolume can look the same here. Whoever has no descriptor has no lock.
        if lock.pid.is_some_and(|pid| cleared.contains(&pid)) {
            continue;
        }
        let on =
            |target: &Option<Target>| target.as_ref().is_some_and(|t| is_of(&lock, t.identity, t.superblock));
        let kind = if on(&main) && lock.touches(PENDING_BYTE, SHARED_FIRST + SHARED_SIZE - 1) {
            if lock.write { HolderKind::Writer } else { HolderKind::Reader }
        } else if on(&shm) && lock.touches(WAL_WRITE_BYTE, WAL_DMS_BYTE) {
            if lock.write && lock.covers(WAL_WRITE_BYTE) { HolderKind::Writer } else { HolderKind::WalIndex }
        } else {
            continue;
        };
        holders.remove(&LockHolder { pid: lock.pid, kind: HolderKind::Descriptor });
        holders.insert(LockHolder { pid: lock.pid, kind });
    }
    let unexamined = u32::try_from(unexamined.len()).unwrap_or(u32::MAX);
    Ok(Openers { holders: holders.into_iter().collect(), unexamined })
}

struct Target {
    identity: Identity,
    superblock: Option<(u32, u32)>,
}

/// Our own handle is closed before the descriptors are searched, so that it does not count.
fn target(path: &Path) -> Result<Option<Target>, SqliteError> {
    Ok(access::find_optional(path)?
        .map(|found| Target { identity: found.identity, superblock: found.superblock_device() }))
}

fn has_open(folder: &Path, files: &[Identity]) -> std::io::Result<bool> {
    for file in files {
        if !access::descriptors_of(folder, *file)?.is_empty() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Kernel threads have no files but, to other users, refuse to say so. `PF_KTHREAD` is the ninth field's bit 21.
fn is_kernel_thread(process: &Path) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let Ok(stat) = fs::read_to_string(process.join("stat")) else { return false };
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(6)?.parse::<u64>().ok())
        .is_some_and(|flags| flags & PF_KTHREAD != 0)
}

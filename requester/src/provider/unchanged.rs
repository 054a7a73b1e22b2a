//! Proves that files which nobody holds did not change between two moments.
//!
//! A fingerprint is what `stat` says of every file, and which files there are. That a file whose fingerprint is
//! the same has the same content needs two things more, and [`settled`] waits for both:
//! - The kernel's timestamps have a grain. A write in the same grain as the one before it leaves no trace, so a
//!   fingerprint only counts once every timestamp in it is older than the grain.
//! - A write through a memory map leaves a trace only if its page was clean. So the files are flushed, and the
//!   fingerprint only counts if it is the same before and after that. (In tmpfs no page is ever clean: there a
//!   write through a map by an application that is not held goes unseen.)

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::error::ProviderError;
use crate::volume::{FoundFile, Kind, Meta, Root, Time};

/// Longer than a tick of the slowest kernel (100 Hz).
const GRAIN: Duration = Duration::from_millis(20);
const TRIES: usize = 10;

/// What a set of files was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(PathBuf, Trace)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Trace {
    /// Which files a folder has is in the list; its times also change for files that are not selected.
    Folder {
        dev: u64,
        ino: u64,
        mode: u32,
        owner: (u32, u32),
    },
    Other {
        kind: Kind,
        dev: u64,
        ino: u64,
        size: u64,
        mtime: Time,
        ctime: Time,
    },
}

impl Fingerprint {
    pub(super) fn of(found: &[FoundFile]) -> Self {
        Self(found.iter().map(|f| (f.path.clone(), trace(&f.meta))).collect())
    }

    /// The first path that is not the same in both.
    pub(super) fn difference(&self, other: &Self) -> Option<PathBuf> {
        let (mut ours, mut theirs) = (self.0.iter().peekable(), other.0.iter().peekable());
        loop {
            match (ours.next(), theirs.next()) {
                (None, None) => return None,
                (Some(a), Some(b)) if a == b => {}
                // Both are sorted: the smaller one is missing on the other side, or differs.
                (Some(a), Some(b)) => return Some(a.0.clone().min(b.0.clone())),
                (Some(only), None) | (None, Some(only)) => return Some(only.0.clone()),
            }
        }
    }

    /// A file whose next change might not show. A time in the future is no such: the next change has another.
    fn within_grain(&self) -> Option<PathBuf> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let young = |trace: &Trace| match trace {
            Trace::Other { ctime, .. } => {
                let seconds = u64::try_from(ctime.seconds).unwrap_or_default();
                now.abs_diff(Duration::new(seconds, ctime.nanos)) < GRAIN
            }
            Trace::Folder { .. } => false,
        };
        self.0.iter().find(|(_, trace)| young(trace)).map(|(path, _)| path.clone())
    }
}

fn trace(meta: &Meta) -> Trace {
    match meta.kind {
        Kind::Directory => {
            Trace::Folder { dev: meta.dev, ino: meta.ino, mode: meta.mode, owner: (meta.uid, meta.gid) }
        }
        Kind::File
        | Kind::Symlink
        | Kind::Fifo
        | Kind::Socket
        | Kind::BlockDevice
        | Kind::CharDevice
        | Kind::Unknown => Trace::Other {
            kind: meta.kind,
            dev: meta.dev,
            ino: meta.ino,
            size: meta.size,
            mtime: meta.mtime,
            ctime: meta.ctime,
        },
    }
}

/// Lists files until their fingerprint is such that any later change will show.
///
/// # Errors
/// [`ProviderError::ChangedDuringCut`] if they keep changing.
pub(super) fn settled(
    root: &Root,
    mut list: impl FnMut() -> Result<Vec<FoundFile>, ProviderError>,
) -> Result<(Vec<FoundFile>, Fingerprint), ProviderError> {
    let mut restless = root.path().to_path_buf();
    for _ in 0..TRIES {
        let found = list()?;
        let before = Fingerprint::of(&found);
        write_out(root, &found)?;
        let found = list()?;
        let after = Fingerprint::of(&found);
        match before.difference(&after).or_else(|| after.within_grain()) {
            None => return Ok((found, after)),
            Some(path) => restless = path,
        }
        std::thread::sleep(GRAIN);
    }
    Err(ProviderError::ChangedDuringCut { path: restless })
}

/// Writes out the dirty pages of files, and only theirs: flushing the whole filesystem waits for everyone
/// else's data too. What cannot be opened has changed, and the next listing tells.
pub(super) fn write_out(root: &Root, found: &[FoundFile]) -> Result<(), ProviderError> {
    let how =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    for file in found.iter().filter(|f| f.meta.kind == Kind::File && f.meta.size > 0) {
        let Ok((open, _)) = root.open_seen(&file.rel, &file.meta) else { continue };
        // SAFETY: the call takes a descriptor, which is open, and numbers; it touches no memory of ours.
        let done = unsafe { libc::sync_file_range(open.as_raw_fd(), 0, 0, how) };
        if done != 0 {
            return Err(ProviderError::io("flush", &file.path, std::io::Error::last_os_error()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::volume::{FileSelection, resolve};

    fn list(root: &Root) -> Result<Vec<FoundFile>, ProviderError> {
        Ok(resolve(root, &FileSelection::tree(root.path()))?)
    }

    #[test]
    fn any_change_after_a_settled_fingerprint_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().canonicalize().unwrap().join(name);
        for name in ["a", "b", "c"] {
            std::fs::write(path(name), "1234").unwrap();
        }
        let root = Root::open(dir.path()).unwrap();
        let changes: [(&str, &dyn Fn()); 5] = [
            ("a", &|| std::fs::write(path("a"), "4321").unwrap()),
            ("b", &|| {
                std::fs::OpenOptions::new().append(true).open(path("b")).unwrap().write_all(b"5").unwrap();
            }),
            ("b2", &|| std::fs::write(path("b2"), "").unwrap()),
            ("b2", &|| std::fs::remove_file(path("b2")).unwrap()),
            ("b", &|| std::fs::rename(path("c"), path("b")).unwrap()),
        ];
        for (name, change) in changes {
            let (_, before) = settled(&root, || list(&root)).unwrap();
            assert_eq!(before.difference(&Fingerprint::of(&list(&root).unwrap())), None);
            change();
            assert_eq!(before.difference(&Fingerprint::of(&list(&root).unwrap())), Some(path(name)));
        }
    }

    #[test]
    fn files_that_never_rest_are_given_up_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let file = root.path().join("busy");
        let mut n = 0;
        let error = settled(&root, || {
            n += 1;
            std::fs::write(&file, n.to_string()).unwrap();
            list(&root)
        });
        let error = error.unwrap_err();
        assert!(matches!(&error, ProviderError::ChangedDuringCut { path } if *path == file));
        assert!(error.retryable());
    }
}

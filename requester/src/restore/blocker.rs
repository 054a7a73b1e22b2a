//! The thing that stands at a live path while its restore is unfinished.
//!
//! Where a file is expected it is a folder: every `open` that could write or create answers `EISDIR`, for root too, and
//! SQLite says "unable to open database file". Where a folder is expected it is a file: anything below it is `ENOTDIR`.
//!
//! SQLite's side files need no blockers of their own: `-journal`, `-wal` and `-shm` are made only by a connection that
//! has opened the main file, and that open is what fails.

use std::{
    ffi::OsStr,
    io::Write,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use super::disk::{self, Identity, Kind};

/// The mode of a folder blocker at the live path. Root can still read the note in it.
const SHUT: u32 = 0o000;
/// The mode in which a folder blocker can be moved by a user who is not root.
const MOVABLE: u32 = 0o700;
const NOTE: &str = "README";

/// Makes a blocker for a unit of `kind`, durable, with `note` in it.
pub(super) fn make(dir: BorrowedFd<'_>, name: &OsStr, kind: Kind, note: &str) -> Result<Identity, Errno> {
    disk::remove(dir, name)?;
    if kind == Kind::Directory {
        write_note(dir, name, note)?;
    } else {
        rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(MOVABLE))?;
        let folder = disk::open_dir(dir, name)?;
        rustix::fs::fchmod(&folder, Mode::from_raw_mode(MOVABLE))?;
        write_note(folder.as_fd(), OsStr::new(NOTE), note)?;
        rustix::fs::fsync(&folder)?;
    }
    rustix::fs::fsync(dir)?;
    disk::look(dir, name)?.map(|seen| seen.id).ok_or(Errno::NOENT)
}

fn write_note(dir: BorrowedFd<'_>, name: &OsStr, note: &str) -> Result<(), Errno> {
    let fd = rustix::fs::openat(
        dir,
        name,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o444),
    )?;
    let mut file = std::fs::File::from(fd);
    let written = file.write_all(note.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Shuts the blocker that stands at the live path.
pub(super) fn shut(dir: BorrowedFd<'_>, name: &OsStr, blocker: &Identity) -> Result<(), Errno> {
    set(dir, name, blocker, SHUT)
}

/// Makes the blocker movable again.
pub(super) fn loosen(dir: BorrowedFd<'_>, name: &OsStr, blocker: &Identity) -> Result<(), Errno> {
    set(dir, name, blocker, MOVABLE)
}

fn set(dir: BorrowedFd<'_>, name: &OsStr, blocker: &Identity, mode: u32) -> Result<(), Errno> {
    if blocker.kind == Kind::Directory {
        disk::chmod_checked(dir, name, blocker, mode)?;
    }
    Ok(())
}

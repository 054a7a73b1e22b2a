//! Files that are there after the machine dies: temporary name, fsync, rename, fsync of the folder.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// How names of files that are not finished begin.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// Puts `bytes` at `path`, replacing what was there. Durable on return; a reader sees the old file or the new one.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"));
    };
    let mut draft = std::ffi::OsString::from(UNFINISHED);
    draft.push(name);
    let draft = folder.join(draft);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&draft, path)?;
    File::open(folder)?.sync_all()
}

/// A new folder for nobody but us.
pub(super) fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

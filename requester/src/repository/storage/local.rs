//! A repository in a local directory, in restic's layout.
//! Owns: files put in place by temporary name, fsync, rename and fsync of the folder.
//!
//! The library's own local backend renames too, but does not fsync the folder: after a power cut a snapshot could be
//! there whose pack is not.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, IoSlice, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{FileKind, Storage, StorageError};

/// Part of the name of files being written. restic uses the same, and skips such names when listing.
const TEMPORARY: &str = "-tmp-";

/// A directory in restic's default layout.
#[derive(Debug)]
pub struct LocalStorage {
    root: PathBuf,
    counter: AtomicU64,
}

impl LocalStorage {
    /// Touches nothing yet.
    pub fn new(root: PathBuf) -> Self {
        Self { root, counter: AtomicU64::new(0) }
    }

    fn folder(&self, kind: FileKind) -> PathBuf {
        match kind {
            FileKind::Config => self.root.clone(),
            FileKind::Key => self.root.join("keys"),
            FileKind::Lock => self.root.join("locks"),
            FileKind::Snapshot => self.root.join("snapshots"),
            FileKind::Index => self.root.join("index"),
            FileKind::Pack => self.root.join("data"),
        }
    }

    fn parent(&self, kind: FileKind, name: &str) -> PathBuf {
        let folder = self.folder(kind);
        match (kind, name.get(..2)) {
            (FileKind::Pack, Some(shard)) => folder.join(shard),
            _ => folder,
        }
    }

    fn path(&self, kind: FileKind, name: &str) -> PathBuf {
        self.parent(kind, name).join(name)
    }

    fn write_whole(&self, parent: &Path, path: &Path, name: &str, content: &[Bytes]) -> io::Result<()> {
        // Unique among the processes and threads that write here; O_EXCL catches what the name does not.
        let unique = self.counter.fetch_add(1, Ordering::Relaxed);
        let temporary = parent.join(format!("{name}{TEMPORARY}{}-{unique}", std::process::id()));
        let result = (|| {
            let mut file = match create_new(&temporary) {
                // Another tool may have removed an empty shard, or restic made none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_folder(parent)?;
                    create_new(&temporary)?
                }
                // A process of an earlier boot with our number left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    fs::remove_file(&temporary)?;
                    create_new(&temporary)?
                }
                other => other?,
            };
            write_all_vectored(&mut file, content)?;
            file.sync_all()?;
            // It is on the disk, and nobody reads it soon: the memory is the applications'.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
            fs::rename(&temporary, path)?;
            sync_folder(parent)
        })();
        if result.is_err() {
            // Best effort: the first error is the one to report, and leftovers are found again by prune.
            let _ = fs::remove_file(&temporary);
        }
        result
    }
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o400).open(path)
}

fn write_all_vectored(file: &mut File, content: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = content.iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a folder that lasts; one that exists is fine.
fn make_folder(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_folder),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn is_name(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.display().to_string();
    move |source| StorageError::new(path, source)
}

/// Every regular file of a folder; a folder that is not there has none.
fn files_of(
    folder: &Path,
    mut each: impl FnMut(PathBuf, &str, &fs::DirEntry) -> io::Result<()>,
) -> Result<(), StorageError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(at(folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(at(folder))?;
        if let Some(name) = entry.file_name().to_str() {
            each(entry.path(), name, &entry).map_err(at(&entry.path()))?;
        }
    }
    Ok(())
}

impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn create(&self) -> Result<(), StorageError> {
        let made = (|| {
            if !self.root.is_dir() {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.root)?;
                self.root.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), sync_folder)?;
            }
            for kind in [FileKind::Key, FileKind::Lock, FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
                make_folder(&self.folder(kind))?;
            }
            let data = self.folder(FileKind::Pack);
            for shard in 0..=u8::MAX {
                let shard = data.join(format!("{shard:02x}"));
                match DirBuilder::new().mode(0o700).create(&shard) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
            }
            sync_folder(&data)
        })();
        made.map_err(at(&self.root))
    }

    fn list(&self, kind: FileKind) -> Result<Vec<(String, u64)>, StorageError> {
        let mut found = Vec::new();
        if kind == FileKind::Config {
            let path = self.path(kind, "config");
            match fs::metadata(&path) {
                Ok(metadata) => found.push(("config".to_owned(), metadata.len())),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) => return Err(at(&path)(error)),
            }
            return Ok(found);
        }
        let mut take = |_: PathBuf, name: &str, entry: &fs::DirEntry| {
            if is_name(name) {
                match entry.metadata() {
                    Ok(metadata) if metadata.is_file() => found.push((name.to_owned(), metadata.len())),
                    Ok(_) => {}
                    // Removed since the folder was read: not listed.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        if kind == FileKind::Pack {
            let mut shards = Vec::new();
            files_of(&self.folder(kind), |path, name, _| {
                if name.len() == 2 {
                    shards.push(path);
                }
                Ok(())
            })?;
            for shard in shards {
                files_of(&shard, &mut take)?;
            }
        } else {
            files_of(&self.folder(kind), &mut take)?;
        }
        Ok(found)
    }

    fn read(&self, kind: FileKind, name: &str) -> Result<Bytes, StorageError> {
        let path = self.path(kind, name);
        fs::read(&path).map(Bytes::from).map_err(at(&path))
    }

    fn read_range(
        &self,
        kind: FileKind,
        name: &str,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, StorageError> {
        let path = self.path(kind, name);
        let read = || {
            let mut content = vec![0; length];
            File::open(&path)?.read_exact_at(&mut content, offset)?;
            Ok(Bytes::from(content))
        };
        read().map_err(at(&path))
    }

    fn write(&self, kind: FileKind, name: &str, content: &[Bytes]) -> Result<(), StorageError> {
        let path = self.path(kind, name);
        self.write_whole(&self.parent(kind, name), &path, name, content).map_err(at(&path))
    }

    fn remove(&self, kind: FileKind, name: &str) -> Result<(), StorageError> {
        let path = self.path(kind, name);
        fs::remove_file(&path).and_then(|()| sync_folder(&self.parent(kind, name))).map_err(at(&path))
    }

    fn remove_leftovers(&self) -> Result<u64, StorageError> {
        let mut removed = 0;
        let mut folders = vec![self.root.clone()];
        for kind in [FileKind::Key, FileKind::Snapshot, FileKind::Index] {
            folders.push(self.folder(kind));
        }
        let data = self.folder(FileKind::Pack);
        folders.extend((0..=u8::MAX).map(|shard| data.join(format!("{shard:02x}"))));
        for folder in folders {
            files_of(&folder, |path, name, _| {
                if name.contains(TEMPORARY) {
                    fs::remove_file(&path)?;
                    removed += 1;
                }
                Ok(())
            })?;
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::storage::StorageErrorKind;

    const NAME: &str = "00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa00aa";

    fn storage() -> (tempfile::TempDir, LocalStorage) {
        let place = tempfile::tempdir().expect("scratch folder");
        let storage = LocalStorage::new(place.path().join("repository"));
        storage.create().expect("folders");
        (place, storage)
    }

    #[test]
    fn what_was_written_is_listed_and_read_back_in_restics_layout() {
        let (place, storage) = storage();
        storage.write(FileKind::Pack, NAME, &["one ".into(), Bytes::new(), "two".into()]).expect("written");
        assert_eq!(storage.list(FileKind::Pack).expect("listed"), [(NAME.to_owned(), 7)]);
        assert_eq!(storage.read(FileKind::Pack, NAME).expect("read"), "one two");
        assert_eq!(storage.read_range(FileKind::Pack, NAME, 4, 3).expect("read"), "two");
        assert!(place.path().join("repository/data/00").join(NAME).is_file());
        storage.remove(FileKind::Pack, NAME).expect("removed");
        assert!(storage.list(FileKind::Pack).expect("listed").is_empty());
    }

    #[test]
    fn a_write_that_was_cut_off_is_never_listed_and_is_cleaned_up() {
        let (place, storage) = storage();
        let cut = place.path().join("repository/data/00").join(format!("{NAME}-tmp-1-1"));
        fs::write(&cut, "half").expect("written");
        assert!(storage.list(FileKind::Pack).expect("listed").is_empty());
        assert_eq!(storage.remove_leftovers().expect("cleaned"), 1);
        assert!(!cut.exists());
    }

    #[test]
    fn reading_past_the_end_and_reading_nothing_are_told_apart() {
        let (_place, storage) = storage();
        storage.write(FileKind::Index, NAME, &["short".into()]).expect("written");
        let short = storage.read_range(FileKind::Index, NAME, 3, 9).expect_err("too few bytes");
        assert_eq!(short.kind, StorageErrorKind::Short);
        let missing = storage.read(FileKind::Snapshot, NAME).expect_err("not there");
        assert_eq!(missing.kind, StorageErrorKind::NotFound);
    }

    #[test]
    fn a_folder_that_does_not_exist_lists_as_empty_and_holds_no_config() {
        let storage = LocalStorage::new("/nonexistent/repository".into());
        assert!(storage.list(FileKind::Config).expect("listed").is_empty());
        assert!(storage.list(FileKind::Pack).expect("listed").is_empty());
    }
}

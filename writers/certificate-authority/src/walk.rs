//! Walks the file sets beside the database: to find keys that must not be in them, and to notice a change during the cut.
//!
//! Folders are entered by `openat2` without following any link (promise P10); files of the database and declared keys
//! are never opened. Opening and closing the database would drop SQLite's locks on it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use holdfast_store_keys::{PrivateKeyKind, find_private_key};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Most files and folders that are watched during a cut; looking at them takes some milliseconds.
pub(crate) const MAX_WATCHED: usize = 10_000;
/// Most that are searched for keys.
const MAX_SEARCHED: usize = 1_000_000;
const MAX_DEPTH: usize = 64;
/// A file is searched in pieces of this size, which overlap by more than a PEM label.
const PIECE: usize = 1024 * 1024;
const OVERLAP: usize = 256;

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    #[error("`{path}` cannot be looked at")]
    Look {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` lies more than {MAX_DEPTH} folders deep")]
    TooDeep { path: PathBuf },
    #[error("there are more than {limit} files")]
    TooMany { limit: usize },
    #[error(
        "`{path}` contains {kind}: name it in `private-keys`, so that it is sealed and kept out of the other files"
    )]
    Key { path: PathBuf, kind: PrivateKeyKind },
    #[error("`{path}` is another name of the database")]
    Database { path: PathBuf },
}

impl WalkError {
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Look { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }
}

/// What a file set looked like: compared, it tells whether anything was written in between.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Signature(BTreeMap<PathBuf, Entry>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    /// A folder's own times change with files that are none of ours, such as `-journal`; its entries are listed.
    Folder { inode: u64, mode: u32 },
    /// Everything else, by what the kernel changes with every write.
    Other { inode: u64, mode: u32, bytes: i64, modified: (i64, u64), changed: (i64, u64) },
}

impl Signature {
    /// The first path that differs.
    pub(crate) fn difference(&self, later: &Self) -> Option<PathBuf> {
        let changed = self.0.iter().find(|(path, entry)| later.0.get(*path) != Some(entry));
        let new = || later.0.keys().find(|path| !self.0.contains_key(*path));
        changed.map(|(path, _)| path).or_else(new).cloned()
    }
}

/// Looks at everything in `paths` but what is `reserved`. Opens no file.
pub(crate) fn signature(paths: &[PathBuf], reserved: &[PathBuf]) -> Result<Signature, WalkError> {
    let mut signature = Signature::default();
    let mut walk = Walk::new(reserved, MAX_WATCHED);
    walk.all(paths, &mut |path, _, stat| {
        let (inode, mode) = (stat.st_ino, stat.st_mode);
        let entry = if FileType::from_raw_mode(mode) == FileType::Directory {
            Entry::Folder { inode, mode }
        } else {
            let (modified, changed) =
                ((stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec));
            Entry::Other { inode, mode, bytes: stat.st_size, modified, changed }
        };
        signature.0.insert(path.to_owned(), entry);
        Ok(())
    })?;
    Ok(signature)
}

/// Searches everything in `paths` but what is `reserved` for private keys, by content.
pub(crate) fn refuse_keys(paths: &[PathBuf], reserved: &[PathBuf], database: &Path) -> Result<(), WalkError> {
    let known = rustix::fs::lstat(database).map(|stat| (stat.st_dev, stat.st_ino)).ok();
    let mut walk = Walk::new(reserved, MAX_SEARCHED);
    walk.all(paths, &mut |path, at, stat| {
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        // Not even opened: closing it would drop the locks of a connection of ours.
        if known == Some((stat.st_dev, stat.st_ino)) {
            return Err(WalkError::Database { path: path.to_owned() });
        }
        match search(at).map_err(|source| WalkError::Look { path: path.to_owned(), source })? {
            Some(kind) => Err(WalkError::Key { path: path.to_owned(), kind }),
            None => Ok(()),
        }
    })
}

/// How to open what is being looked at.
struct At<'a> {
    folder: &'a OwnedFd,
    name: &'a OsStr,
}

fn search(at: &At<'_>) -> io::Result<Option<PrivateKeyKind>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(at.folder, at.name, flags, Mode::empty()) {
        Ok(file) => file,
        // Gone since it was listed.
        Err(Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut piece = vec![0; PIECE];
    let mut kept = 0;
    loop {
        let mut filled = kept;
        while filled < PIECE {
            match rustix::io::read(&file, &mut piece[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(kind) = find_private_key(&piece[..filled]) {
            return Ok(Some(kind));
        }
        if filled < PIECE {
            return Ok(None);
        }
        piece.copy_within(PIECE - OVERLAP.., 0);
        kept = OVERLAP;
    }
}

type Visit<'v> = dyn FnMut(&Path, &At<'_>, &Stat) -> Result<(), WalkError> + 'v;

struct Walk<'r> {
    reserved: BTreeSet<&'r Path>,
    left: usize,
    limit: usize,
}

impl<'r> Walk<'r> {
    fn new(reserved: &'r [PathBuf], limit: usize) -> Self {
        Self { reserved: reserved.iter().map(PathBuf::as_path).collect(), left: limit, limit }
    }

    fn all(&mut self, paths: &[PathBuf], visit: &mut Visit<'_>) -> Result<(), WalkError> {
        for path in paths {
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
            let folder = open_folder(CWD, parent.as_os_str(), ResolveFlags::NO_MAGICLINKS)
                .map_err(|source| WalkError::Look { path: parent.to_owned(), source })?;
            self.one(path, &At { folder: &folder, name }, 0, visit)?;
        }
        Ok(())
    }

    fn one(
        &mut self,
        path: &Path,
        at: &At<'_>,
        depth: usize,
        visit: &mut Visit<'_>,
    ) -> Result<(), WalkError> {
        let look = |source: io::Error| WalkError::Look { path: path.to_owned(), source };
        if self.reserved.contains(path) {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(WalkError::TooDeep { path: path.to_owned() });
        }
        self.left = self.left.checked_sub(1).ok_or(WalkError::TooMany { limit: self.limit })?;
        let stat = match rustix::fs::statat(at.folder, at.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) if depth > 0 => return Ok(()),
            Err(error) => return Err(look(error.into())),
        };
        visit(path, at, &stat)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let folder = match open_folder(at.folder, at.name, beneath) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(look(error)),
        };
        for entry in Dir::read_from(&folder).map_err(|error| look(error.into()))? {
            let entry = entry.map_err(|error| look(error.into()))?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name != "." && name != ".." {
                self.one(&path.join(name), &At { folder: &folder, name }, depth + 1, visit)?;
            }
        }
        Ok(())
    }
}

fn open_folder(base: impl AsFd, name: &OsStr, resolve: ResolveFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::openat2(&base, name, flags, Mode::empty(), resolve) {
        // Before Linux 5.6 and under some sandboxes: one name at a time is as safe when it may not be a link.
        Err(Errno::NOSYS | Errno::PERM) => {
            Ok(rustix::fs::openat(base, name, flags | OFlags::NOFOLLOW, Mode::empty())?)
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let guard = tempfile::tempdir().unwrap();
        let path = guard.path().canonicalize().unwrap();
        fs::create_dir_all(path.join("conf/deep")).unwrap();
        fs::write(path.join("conf/a.json"), "{}").unwrap();
        fs::write(path.join("conf/deep/b.pem"), "-----BEGIN CERTIFICATE-----").unwrap();
        fs::write(path.join("conf/certs.db"), "SQLite format 3\0").unwrap();
        (guard, path)
    }

    #[test]
    fn a_key_is_found_however_deep_and_wherever_in_the_file_and_named() {
        let (_guard, path) = folder();
        let paths = [path.join("conf")];
        let database = path.join("conf/certs.db");
        let reserved = [database.clone()];
        refuse_keys(&paths, &reserved, &database).unwrap();
        // Across the border of two pieces.
        let mut large = vec![b'x'; PIECE - 10];
        large.extend(b"-----BEGIN RSA PRIVATE KEY-----");
        let key = path.join("conf/deep/old.log");
        fs::write(&key, large).unwrap();
        let error = refuse_keys(&paths, &reserved, &database).unwrap_err();
        assert!(matches!(&error, WalkError::Key { path, .. } if *path == key), "{error}");
        // Declared, it is left alone.
        refuse_keys(&paths, &[database.clone(), key], &database).unwrap();
    }

    #[test]
    fn links_are_not_followed_and_another_name_of_the_database_is_refused() {
        let (_guard, path) = folder();
        let database = path.join("conf/certs.db");
        fs::create_dir(path.join("elsewhere")).unwrap();
        fs::write(path.join("elsewhere/key"), "-----BEGIN PRIVATE KEY-----").unwrap();
        symlink(path.join("elsewhere"), path.join("conf/link")).unwrap();
        symlink(path.join("elsewhere/key"), path.join("conf/link2")).unwrap();
        refuse_keys(&[path.join("conf")], std::slice::from_ref(&database), &database).unwrap();
        fs::hard_link(&database, path.join("conf/second")).unwrap();
        let error =
            refuse_keys(&[path.join("conf")], std::slice::from_ref(&database), &database).unwrap_err();
        assert!(matches!(error, WalkError::Database { .. }));
    }

    #[test]
    fn every_kind_of_change_shows_in_the_signature_and_reserved_files_do_not() {
        let (_guard, path) = folder();
        let paths = [path.join("conf")];
        let reserved = [path.join("conf/certs.db"), path.join("conf/certs.db-journal")];
        let look = || signature(&paths, &reserved).unwrap();
        let before = look();
        fs::write(path.join("conf/certs.db"), "changed").unwrap();
        fs::write(path.join("conf/certs.db-journal"), "new").unwrap();
        assert_eq!(before.difference(&look()), None);
        type Change = fn(&Path);
        let changes: [(&str, Change); 4] = [
            ("conf/a.json", |root| fs::write(root.join("conf/a.json"), "[]").unwrap()),
            ("conf/new", |root| fs::write(root.join("conf/new"), "").unwrap()),
            ("conf/deep/b.pem", |root| fs::remove_file(root.join("conf/deep/b.pem")).unwrap()),
            ("conf/a.json", |root| fs::rename(root.join("conf/new"), root.join("conf/a.json")).unwrap()),
        ];
        for (changed, change) in changes {
            let before = look();
            change(&path);
            assert_eq!(before.difference(&look()), Some(path.join(changed)));
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_an_error_with_its_path() {
        let (_guard, path) = folder();
        let missing = path.join("none");
        let error = signature(std::slice::from_ref(&missing), &[]).unwrap_err();
        assert!(matches!(&error, WalkError::Look { path, .. } if *path == missing), "{error}");
    }
}

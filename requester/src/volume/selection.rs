//! Which files a component's file set names, and finding them beneath their root.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::beneath::Root;
use super::error::VolumeError;
use super::meta::{Kind, Meta};
use super::real::{names, real_path, trusted_user};
use super::walk::{Boundary, Visit};
use super::{Exclude, Pattern};

/// The folder in which shadow copies lie; never part of a selection.
pub const SHADOW_FOLDER: &str = ".holdfast-shadows";

/// Some files of one folder: VSS's file set, as the providers need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSelection {
    /// A folder, absolute; or one regular file, [`FileSelection::pattern`] then being `*` or its name.
    pub path: PathBuf,
    /// A file name with `?` and `*`. A name without them must exist unless [`FileSelection::optional`];
    /// a pattern may match none. Folders do not match.
    pub pattern: String,
    /// Folders below as well, empty ones too, and the folder itself.
    pub recursive: bool,
    /// What is named may be absent, the folder too.
    pub optional: bool,
    /// Names at any depth, or paths below the folder, `?` and `*` allowed; each with all that lies below it.
    pub exclude: Vec<String>,
    /// Whether the application holds its writes to these files while the copy is cut. Where it does not,
    /// a provider without volume atomicity must prove that they did not change.
    pub held: bool,
}

/// One file of a selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// Where it lies, below the selection's folder as it was named.
    pub path: PathBuf,
    /// The same below the [`Root`]; empty for the folder itself.
    pub rel: PathBuf,
    /// What it is. Links are links; open files by [`Root::open_seen`] with this.
    pub meta: Meta,
}

impl FileSelection {
    /// One file by name, held, not optional.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { recursive: false, ..Self::tree(path) }
    }

    /// A folder with everything below it, held.
    pub fn tree(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            pattern: "*".to_owned(),
            recursive: true,
            optional: false,
            exclude: Vec::new(),
            held: true,
        }
    }

    /// The files of a folder that match, held.
    pub fn matching(path: impl Into<PathBuf>, pattern: impl Into<String>) -> Self {
        Self { pattern: pattern.into(), recursive: false, ..Self::tree(path) }
    }

    /// The same selection as folder and pattern: a [`FileSelection::path`] that names a regular file becomes
    /// its folder and its name. `None` if it is optional and absent.
    ///
    /// # Errors
    /// [`VolumeError::SymlinkRefused`] if it names a file through a link, [`VolumeError::Missing`],
    /// [`VolumeError::NotAFile`], [`VolumeError::BadPattern`].
    pub fn settle(&self) -> Result<Option<Self>, VolumeError> {
        names(&self.path)?;
        Pattern::new(&self.pattern)?;
        let (Some(folder), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(Some(self.clone()));
        };
        let absent = |e: VolumeError| {
            if self.optional && matches!(e, VolumeError::Missing { .. }) { Ok(None) } else { Err(e) }
        };
        let parent = match Root::open(folder) {
            Ok(parent) => parent,
            Err(e) => return absent(e),
        };
        let meta = match parent.stat(Path::new(name)) {
            // The folder itself may be a mount point; only what is beneath it may not.
            Err(crossed @ VolumeError::MountPoint { .. }) => match Root::open(&self.path) {
                Ok(root) => root.meta().clone(),
                Err(VolumeError::NotAFolder { .. }) => return Err(crossed),
                Err(e) => return Err(e),
            },
            Err(e) => return absent(e),
            Ok(meta) => meta,
        };
        let file_named = || -> Result<&str, VolumeError> {
            let name = name.to_str().filter(|n| Pattern::new(n).is_ok_and(|p| p.literal().is_some()));
            let name = name.ok_or_else(|| VolumeError::NotPlain { path: self.path.clone() })?;
            if self.pattern != "*" && self.pattern != name {
                return Err(VolumeError::NotAFolder { path: self.path.clone(), found: meta.kind });
            }
            Ok(name)
        };
        match meta.kind {
            Kind::Directory => Ok(Some(self.clone())),
            Kind::Symlink => match real_path(&self.path).and_then(|real| Root::open_real(&real)) {
                Ok(_) => Ok(Some(self.clone())),
                Err(VolumeError::NotAFolder { .. }) => {
                    Err(VolumeError::SymlinkRefused { path: self.path.clone() })
                }
                Err(e) => Err(e),
            },
            Kind::File => {
                let pattern = file_named()?.to_owned();
                Ok(Some(Self { path: folder.into(), pattern, recursive: false, ..self.clone() }))
            }
            Kind::Fifo | Kind::Socket | Kind::BlockDevice | Kind::CharDevice | Kind::Unknown => {
                Err(VolumeError::NotAFile { path: self.path.clone(), found: meta.kind })
            }
        }
    }
}

/// Finds the files of a settled selection; `root` is its folder, opened, or a shadow copy of it.
///
/// In the order of [`Path`], folders before what they contain, no file twice.
///
/// # Errors
/// - [`VolumeError::SymlinkRefused`], [`VolumeError::NotAFile`]: a link, pipe, … where a file was named.
///   Those that a pattern with `?` or `*` matches are listed as what they are.
/// - [`VolumeError::MountPoint`], [`VolumeError::Subvolume`]: another volume begins inside the selection.
/// - [`VolumeError::ForeignHardLink`]: the folder's owner linked someone else's file into it.
/// - [`VolumeError::Missing`]: a named file, unless optional.
pub fn resolve(root: &Root, selection: &FileSelection) -> Result<Vec<FoundFile>, VolumeError> {
    let pattern = Pattern::new(&selection.pattern)?;
    let excludes = Exclude::all(&selection.exclude, &selection.path)?;
    let excluded = |rel: &Path| excludes.iter().any(|e| e.matches(rel));
    let mut found = Vec::new();
    let mut take = |rel: PathBuf, meta: Meta| -> Result<(), VolumeError> {
        let path =
            if rel.as_os_str().is_empty() { selection.path.clone() } else { selection.path.join(&rel) };
        refuse_foreign_link(root, &rel, &meta, &path)?;
        found.push(FoundFile { path, rel, meta });
        Ok(())
    };

    if let (Some(name), false) = (pattern.literal(), selection.recursive) {
        let rel = Path::new(name);
        if excluded(rel) {
            return Ok(found);
        }
        match root.stat(rel) {
            Ok(meta) => {
                must_be_file(&meta, selection.path.join(rel))?;
                take(rel.into(), meta)?;
            }
            Err(VolumeError::Missing { .. }) if selection.optional => {}
            Err(VolumeError::Missing { .. }) => {
                return Err(VolumeError::Missing { path: selection.path.join(rel) });
            }
            Err(e) => return Err(e),
        }
        return Ok(found);
    }

    if selection.recursive {
        take(PathBuf::new(), root.stat(Path::new(""))?)?;
    }
    let entries = root.walk_with(Path::new(""), &mut |rel, kind| {
        let name = rel.file_name().unwrap_or_default();
        if excluded(rel) {
            return Visit::Skip;
        }
        match (kind, selection.recursive) {
            (Kind::Directory, true) if name == OsStr::new(SHADOW_FOLDER) => Visit::Skip,
            (Kind::Directory, true) => Visit::Take,
            (Kind::Directory, false) => Visit::Skip,
            _ if pattern.matches(name) => Visit::Take,
            _ => Visit::Skip,
        }
    })?;
    let mut named = false;
    for entry in entries {
        let path = selection.path.join(&entry.rel);
        match entry.boundary {
            Some(Boundary::Mount) => return Err(VolumeError::MountPoint { path }),
            Some(Boundary::Subvolume) => return Err(VolumeError::Subvolume { path }),
            None => {}
        }
        if pattern.literal().is_some() && entry.meta.kind != Kind::Directory {
            must_be_file(&entry.meta, path)?;
            named = true;
        }
        take(entry.rel, entry.meta)?;
    }
    match pattern.literal() {
        Some(name) if !named && !selection.optional => {
            Err(VolumeError::Missing { path: selection.path.join(name) })
        }
        _ => Ok(found),
    }
}

fn must_be_file(meta: &Meta, path: PathBuf) -> Result<(), VolumeError> {
    match meta.kind {
        Kind::File => Ok(()),
        Kind::Symlink => Err(VolumeError::SymlinkRefused { path }),
        Kind::Directory
        | Kind::Fifo
        | Kind::Socket
        | Kind::BlockDevice
        | Kind::CharDevice
        | Kind::Unknown => Err(VolumeError::NotAFile { path, found: meta.kind }),
    }
}

/// A service user can hard-link any file of the same filesystem into a folder of theirs where the kernel's
/// `protected_hardlinks` is off, and would then find it in a restore they may read.
fn refuse_foreign_link(root: &Root, rel: &Path, meta: &Meta, path: &Path) -> Result<(), VolumeError> {
    if meta.kind != Kind::File || meta.links < 2 {
        return Ok(());
    }
    let folder = match rel.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => root.stat(parent)?,
        _ => root.stat(Path::new(""))?,
    };
    if trusted_user(folder.uid) || folder.uid == meta.uid {
        return Ok(());
    }
    Err(VolumeError::ForeignHardLink { path: path.into(), owner: meta.uid, folder_owner: folder.uid })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn found(selection: &FileSelection) -> Result<Vec<String>, VolumeError> {
        let Some(selection) = selection.settle()? else { return Ok(Vec::new()) };
        let root = Root::open(&selection.path)?;
        let found = resolve(&root, &selection)?;
        assert!(found.iter().all(|f| f.path == selection.path.join(&f.rel) || f.rel.as_os_str().is_empty()));
        Ok(found.iter().map(|f| f.rel.to_str().unwrap().to_owned()).collect())
    }

    fn scratch() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sub/empty")).unwrap();
        std::fs::create_dir_all(dir.path().join(SHADOW_FOLDER).join("old")).unwrap();
        for file in ["ca.db", "ca.db-wal", "sub/x.db", "sub/x.tmp"] {
            std::fs::write(dir.path().join(file), file).unwrap();
        }
        dir
    }

    #[test]
    fn a_named_file_must_exist_unless_optional_and_a_pattern_may_match_none() {
        let dir = scratch();
        let of = |pattern: &str| FileSelection::matching(dir.path(), pattern);
        assert_eq!(found(&of("ca.db")).unwrap(), ["ca.db"]);
        assert!(
            matches!(found(&of("none.db")), Err(VolumeError::Missing { path }) if path.ends_with("none.db"))
        );
        assert!(found(&FileSelection { optional: true, ..of("none.db") }).unwrap().is_empty());
        assert!(found(&of("*.none")).unwrap().is_empty());
        assert_eq!(found(&of("ca.*")).unwrap(), ["ca.db", "ca.db-wal"]);
        let absent = FileSelection::matching(dir.path().join("none"), "*");
        assert!(matches!(found(&absent), Err(VolumeError::Missing { .. })));
        assert!(found(&FileSelection { optional: true, ..absent }).unwrap().is_empty());
    }

    #[test]
    fn a_tree_has_its_folders_but_neither_excludes_nor_shadow_copies() {
        let dir = scratch();
        let mut tree = FileSelection::tree(dir.path());
        assert_eq!(
            found(&tree).unwrap(),
            ["", "ca.db", "ca.db-wal", "sub", "sub/empty", "sub/x.db", "sub/x.tmp"]
        );
        tree.exclude =
            vec!["*.tmp".into(), "sub/empty".into(), dir.path().join("ca.db").display().to_string()];
        assert_eq!(found(&tree).unwrap(), ["", "ca.db-wal", "sub", "sub/x.db"]);
    }

    #[test]
    fn a_path_to_a_file_is_its_folder_and_its_name() {
        let dir = scratch();
        let file = FileSelection::file(dir.path().join("ca.db"));
        assert_eq!(found(&file).unwrap(), ["ca.db"]);
        let other = FileSelection { pattern: "other".into(), ..file };
        assert!(matches!(found(&other), Err(VolumeError::NotAFolder { .. })));
    }

    #[test]
    fn a_link_put_where_a_file_was_declared_is_refused_and_one_in_a_tree_stays_a_link() {
        let dir = scratch();
        std::fs::remove_file(dir.path().join("ca.db")).unwrap();
        symlink("/etc/hostname", dir.path().join("ca.db")).unwrap();
        for selection in [
            FileSelection::matching(dir.path(), "ca.db"),
            FileSelection::file(dir.path().join("ca.db")),
            FileSelection { pattern: "ca.db".into(), ..FileSelection::tree(dir.path()) },
        ] {
            let refused = found(&selection).unwrap_err();
            assert!(matches!(refused, VolumeError::SymlinkRefused { path } if path.ends_with("ca.db")));
        }
        let root = Root::open(dir.path()).unwrap();
        let tree = resolve(&root, &FileSelection::tree(dir.path())).unwrap();
        let link = tree.iter().find(|f| f.rel == Path::new("ca.db")).unwrap();
        assert_eq!(link.meta.kind, Kind::Symlink);
    }

    #[test]
    fn someone_elses_file_hard_linked_into_a_service_users_folder_is_refused() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root to give files away");
            return;
        }
        let dir = scratch();
        std::fs::hard_link(dir.path().join("ca.db"), dir.path().join("sub/stolen")).unwrap();
        chown(dir.path().join("sub"), Some(1234), None).unwrap();
        let refused = found(&FileSelection::tree(dir.path())).unwrap_err();
        assert!(matches!(refused, VolumeError::ForeignHardLink { owner: 0, folder_owner: 1234, .. }));
    }
}

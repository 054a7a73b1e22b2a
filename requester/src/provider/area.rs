//! The folder that shadow copies lie in: ours alone, and the only place where anything is deleted.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::error::ProviderError;
use super::record::ShadowRecord;
use crate::volume::{Kind, Meta, Root, SHADOW_FOLDER, VolumeError, open_beneath, open_strict, real_path};

/// Where a requester keeps what it needs for shadow copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowArea {
    /// Records are written to `shadows/` in it; copies go into `.holdfast-shadows/` in it by default.
    pub state_dir: PathBuf,
    /// A folder to put copies into instead, in a `.holdfast-shadows/` of its own. A snapshot of a volume
    /// stays on that volume regardless.
    pub dir: Option<PathBuf>,
}

impl ShadowArea {
    /// Everything in the state directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self { state_dir: state_dir.into(), dir: None }
    }
}

/// Opens `<folder>/.holdfast-shadows`, making it (mode 0700) if it is not there.
///
/// # Errors
/// [`ProviderError::AreaRefused`] if it is a link, belongs to someone else or is open to others.
pub(super) fn open_or_make(folder: &Path) -> Result<Root, ProviderError> {
    let real = real_path(folder)?;
    let parent = open_strict(&real, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let path = real.join(SHADOW_FOLDER);
    match rustix::fs::mkdirat(&parent, SHADOW_FOLDER, Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(&parent).map_err(|e| ProviderError::io("sync", &real, e))?,
        Err(Errno::EXIST) => {}
        Err(e) => return Err(ProviderError::io("create", &path, e)),
    }
    open_ours(&path)
}

fn open_ours(path: &Path) -> Result<Root, ProviderError> {
    let refuse = |problem: String| Err(ProviderError::AreaRefused { path: path.into(), problem });
    let root = match Root::open_real(path) {
        Ok(root) => root,
        Err(VolumeError::SymlinkRefused { .. }) => return refuse("it is a symbolic link".into()),
        Err(VolumeError::NotAFolder { found, .. }) => return refuse(format!("it is {found}")),
        Err(e) => return Err(e.into()),
    };
    let (meta, us) = (root.meta(), rustix::process::geteuid().as_raw());
    if meta.uid != us {
        return refuse(format!("it belongs to user {}, not to the running user {us}", meta.uid));
    }
    if meta.mode & 0o077 != 0 {
        return refuse(format!("its mode is {:o}, not 700", meta.mode));
    }
    Ok(root)
}

/// The area of a recorded shadow copy and the copy's name in it; `None` if the area is gone.
///
/// A record is not believed: it may be damaged or forged, and what it names is deleted by root. So the path
/// must be `…/.holdfast-shadows/<its own id>`, without a link, in a folder that only we can write.
///
/// # Errors
/// [`ProviderError::DeleteRefused`], [`ProviderError::AreaRefused`].
pub(super) fn of_record(record: &ShadowRecord) -> Result<Option<(Root, OsString)>, ProviderError> {
    let path = &record.path;
    let refuse = |problem| Err(ProviderError::DeleteRefused { path: path.clone(), problem });
    let name = OsString::from(record.id.to_string());
    let plain = path.is_absolute()
        && path.components().as_path() == path.as_path()
        && !path.components().any(|c| matches!(c, std::path::Component::ParentDir));
    let Some(area) = path.parent().filter(|_| plain) else {
        return refuse("its path is not plain");
    };
    if path.file_name() != Some(name.as_os_str()) {
        return refuse("it is not named after the shadow copy");
    }
    if area.file_name() != Some(OsStr::new(SHADOW_FOLDER)) {
        return refuse("it does not lie in a folder of shadow copies");
    }
    match open_ours(area) {
        Ok(area) => Ok(Some((area, name))),
        Err(ProviderError::Files { source: VolumeError::Missing { .. } }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes a folder of mode 0700 and opens it.
pub(super) fn make_folder(dir: BorrowedFd<'_>, name: &Path, path: &Path) -> Result<OwnedFd, ProviderError> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(ProviderError::io("create", path, e)),
    }
    open_beneath(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)
        .map_err(|e| ProviderError::io("open", path, e))
}

/// Deletes `name` in `area` with all below it, never following a link, never entering another mount or
/// subvolume. Nothing there is no error.
///
/// # Errors
/// [`ProviderError::DeleteRefused`] where another volume begins; [`ProviderError::Io`].
pub(super) fn remove_tree(area: &Root, name: &OsStr) -> Result<(), ProviderError> {
    let path = area.path().join(name);
    remove(area.as_fd(), name, area.meta(), &path)
}

fn remove(dir: BorrowedFd<'_>, name: &OsStr, start: &Meta, path: &Path) -> Result<(), ProviderError> {
    let meta = match Meta::at(dir, name) {
        Ok(meta) => meta,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(ProviderError::io("look at", path, e)),
    };
    let mut flags = AtFlags::empty();
    if meta.kind == Kind::Directory {
        if meta.dev != start.dev || meta.mnt_id != start.mnt_id {
            let problem = "another volume begins there";
            return Err(ProviderError::DeleteRefused { path: path.into(), problem });
        }
        if meta.mode & 0o700 != 0o700 {
            // A copied folder keeps its mode, which may shut out an owner who is not root.
            rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())
                .map_err(|e| ProviderError::io("open up", path, e))?;
        }
        let fd = open_beneath(dir, Path::new(name), OFlags::RDONLY | OFlags::DIRECTORY)
            .map_err(|e| ProviderError::io("open", path, e))?;
        for below in names(fd.as_fd()).map_err(|e| ProviderError::io("list", path, e))? {
            let below = OsStr::from_bytes(below.as_bytes());
            remove(fd.as_fd(), below, start, &path.join(below))?;
        }
        flags = AtFlags::REMOVEDIR;
    }
    match rustix::fs::unlinkat(dir, name, flags) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(ProviderError::io("remove", path, e)),
    }
}

fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<CString>> {
    let all = Dir::read_from(dir)?.map(|e| e.map(|e| e.file_name().to_owned()));
    all.filter(|n| !n.as_ref().is_ok_and(|n| matches!(n.to_bytes(), b"." | b".."))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use uuid::Uuid;

    use super::*;
    use crate::volume::VolumeMap;

    #[test]
    fn an_area_that_others_could_write_or_that_is_a_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let area = open_or_make(dir.path()).unwrap();
        assert_eq!(area.meta().mode, 0o700);
        std::fs::set_permissions(area.path(), PermissionsExt::from_mode(0o750)).unwrap();
        assert!(matches!(open_or_make(dir.path()), Err(ProviderError::AreaRefused { .. })));

        std::fs::remove_dir(area.path()).unwrap();
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        symlink("elsewhere", area.path()).unwrap();
        assert!(matches!(open_or_make(dir.path()), Err(ProviderError::AreaRefused { .. })));
    }

    #[test]
    fn a_forged_record_deletes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let volume = VolumeMap::read().unwrap().resolve(dir.path()).unwrap();
        let area = open_or_make(dir.path()).unwrap();
        let good = ShadowRecord::new(dir.path(), Uuid::now_v7(), "copy", &volume, area.path());
        assert!(of_record(&good).unwrap().is_some());
        let id = good.id.to_string();
        let base = area.path().parent().unwrap();
        symlink(area.path(), base.join("link")).unwrap();
        std::fs::create_dir_all(base.join("open").join(SHADOW_FOLDER)).unwrap();
        for forged in [
            base.join("data").join(&id),
            area.path().join("other-name"),
            area.path().join("..").join(SHADOW_FOLDER).join(&id),
            PathBuf::from(SHADOW_FOLDER).join(&id),
            PathBuf::from("/"),
            PathBuf::new(),
            base.join("open").join(SHADOW_FOLDER).join(&id),
        ] {
            let mut record = good.clone();
            record.path.clone_from(&forged);
            let refused = of_record(&record).map(|found| found.is_some());
            assert!(
                matches!(
                    refused,
                    Err(ProviderError::DeleteRefused { .. } | ProviderError::AreaRefused { .. })
                ),
                "{} {refused:?}",
                forged.display()
            );
        }
        let mut gone = good;
        gone.path = base.join("none").join(SHADOW_FOLDER).join(&id);
        assert!(of_record(&gone).unwrap().is_none());
    }

    #[test]
    fn removing_a_tree_follows_no_link_and_opens_shut_folders() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("kept"), "").unwrap();
        let area = open_or_make(dir.path()).unwrap();
        let tree = area.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::write(tree.join("a/b/file"), "").unwrap();
        symlink(dir.path(), tree.join("a/out")).unwrap();
        std::fs::set_permissions(tree.join("a/b"), PermissionsExt::from_mode(0o000)).unwrap();
        remove_tree(&area, OsStr::new("tree")).unwrap();
        remove_tree(&area, OsStr::new("tree")).unwrap();
        assert!(!tree.exists() && dir.path().join("kept").exists());
    }
}

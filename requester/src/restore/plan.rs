//! Looks at the targets of a restore and says whether they are fit, before anything is changed.

use std::path::{Path, PathBuf};

use std::os::fd::AsFd;

use super::{
    disk::{self, Kind},
    error::{LiveState, Problem, RestoreError},
    registration::{CompanionRecord, HIDDEN_PREFIX, SiteRecord, UnitRecord},
    walk,
};

/// A live path to be replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitSpec {
    /// Absolute path of a file or folder; a slash at its end is ignored.
    pub live: PathBuf,
    /// [`Kind::File`] or [`Kind::Directory`]: what the application expects there.
    pub kind: Kind,
    /// Names beside it that must not outlive the old data, such as `certs.db-wal`. One that is staged too is put in
    /// place together with its main file.
    pub companions: Vec<std::ffi::OsString>,
}

/// Targets that were looked at and found fit. Nothing has been changed.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) sites: Vec<SiteRecord>,
    pub(super) units: Vec<UnitRecord>,
}

impl Plan {
    /// Looks at every target and remembers what is there.
    ///
    /// # Errors
    /// A [`Problem`] that names the first unfit target; the state is always [`LiveState::Unchanged`].
    pub fn new(specs: &[UnitSpec]) -> Result<Self, RestoreError> {
        Self::look(specs).map_err(|problem| RestoreError { problem, state: LiveState::Unchanged })
    }

    /// The live paths, with slashes at their ends dropped.
    pub fn live_paths(&self) -> impl Iterator<Item = &Path> {
        self.units.iter().map(|unit| unit.live.as_path())
    }

    /// Every side file's path.
    pub fn companion_paths(&self) -> impl Iterator<Item = &Path> {
        self.units.iter().flat_map(|unit| unit.companions.iter().map(|companion| companion.live.as_path()))
    }

    fn look(specs: &[UnitSpec]) -> Result<Self, Problem> {
        let mut plan = Self { sites: Vec::new(), units: Vec::new() };
        for spec in specs {
            let live = walk::clean(&spec.live)?;
            let bad = |why| Problem::BadPath { path: live.clone(), why };
            let (Some(parent), Some(name)) = (live.parent(), live.file_name()) else {
                return Err(bad("it has no folder"));
            };
            if name.as_encoded_bytes().starts_with(HIDDEN_PREFIX.as_bytes()) {
                return Err(bad("it is a restore's own staging folder"));
            }
            if !matches!(spec.kind, Kind::File | Kind::Directory) {
                return Err(bad("only a file or a folder can be replaced"));
            }
            for companion in &spec.companions {
                let plain = Path::new(companion).components().count() == 1
                    && Path::new(companion).file_name() == Some(companion.as_os_str());
                if !plain || companion == name {
                    return Err(bad("a side file must be another name in the same folder"));
                }
            }
            let known = plan.sites.iter().position(|site| site.parent == parent);
            let site = known.unwrap_or(plan.sites.len());
            if known.is_none() {
                plan.sites.push(look_at_parent(parent)?);
            }
            let old = look_at_live(&live, parent)?;
            let companions = spec.companions.iter();
            plan.units.push(UnitRecord {
                site,
                staged: PathBuf::new(),
                aside: PathBuf::new(),
                kind: spec.kind,
                old,
                new: None,
                blocker: None,
                was_published: false,
                companions: companions
                    .map(|name| CompanionRecord { live: parent.join(name), old: None, new: None })
                    .collect(),
                live,
            });
        }
        if plan.units.is_empty() {
            return Err(Problem::BadPath { path: PathBuf::new(), why: "a restore without targets" });
        }
        let mut names: Vec<&Path> = plan.live_paths().chain(plan.companion_paths()).collect();
        names.sort();
        // Sorted by component, a path comes right before what lies below it.
        for pair in names.windows(2) {
            if let [first, second] = pair
                && second.starts_with(first)
            {
                return Err(Problem::Overlap { first: first.to_path_buf(), second: second.to_path_buf() });
            }
        }
        Ok(plan)
    }
}

fn look_at_parent(parent: &Path) -> Result<SiteRecord, Problem> {
    let walked = walk::walk(parent)?;
    let seen = disk::look_at(walked.fd.as_fd()).map_err(Problem::io("look at", parent))?;
    if seen.mode & 0o1002 == 0o0002 {
        return Err(Problem::ParentOpenToAll { path: parent.to_owned() });
    }
    Ok(SiteRecord {
        parent: parent.to_owned(),
        identity: walked.missing.is_empty().then_some(seen.id),
        created: walked.missing.len(),
        hidden: None,
    })
}

fn look_at_live(live: &Path, parent: &Path) -> Result<Option<disk::Identity>, Problem> {
    let walked = walk::walk(parent)?;
    if !walked.missing.is_empty() {
        return Ok(None);
    }
    let name = live.file_name().unwrap_or_default();
    let Some(seen) = disk::look(walked.fd.as_fd(), name).map_err(Problem::io("look at", live))? else {
        return Ok(None);
    };
    match seen.id.kind {
        Kind::File | Kind::Directory => {}
        Kind::Link | Kind::Other => return Err(Problem::LiveNotPlain { path: live.to_owned() }),
    }
    if seen.mount_root {
        return Err(Problem::MountPoint { path: live.to_owned() });
    }
    movable(&seen, live)?;
    Ok(Some(seen.id))
}

/// Without privileges, a folder gets a new parent only if its owner may write in it.
pub(super) fn movable(seen: &disk::Seen, path: &Path) -> Result<(), Problem> {
    if seen.id.kind == Kind::Directory && seen.mode & 0o200 == 0 && !rustix::process::geteuid().is_root() {
        return Err(Problem::NotMovable { path: path.to_owned() });
    }
    Ok(())
}

//! One folder that holds targets, open and identified, and where each unit in it stands.
//! Owns: opening by identity, the place of the blocker, fsync after moves.

use std::{
    ffi::OsStr,
    ops::ControlFlow,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use jiff::Timestamp;
use rustix::io::Errno;

use super::{
    disk,
    error::Problem,
    registration::{Marker, SiteRecord, UnitRecord},
    walk,
};

/// Told after every step that changed something on disk; may ask to stop there, as a crash would.
pub trait Steps {
    /// `step` has just been done. `Break` leaves everything as it is, without any cleaning up.
    fn reached(&self, step: &'static str) -> ControlFlow<()>;

    /// The time written into the marker.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Goes straight through.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSteps;

impl Steps for NoSteps {
    fn reached(&self, _step: &'static str) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

pub(super) fn reached(steps: &dyn Steps, step: &'static str) -> Result<(), Problem> {
    match steps.reached(step) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Problem::Stopped { step }),
    }
}

/// Where a unit stands, told by where its blocker lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The blocker waits in `old/`: the live path is untouched, or its own again.
    Untouched,
    /// The blocker stands at the live path.
    Blocked,
    /// The blocker lies in `new/`: the live path is the new data.
    Published,
    /// There is no blocker: not yet made, removed after its work, or taken away by somebody.
    NoBlocker,
}

/// The open folders of a [`SiteRecord`].
pub(super) struct Site {
    pub parent: OwnedFd,
    pub hidden: Option<OwnedFd>,
    new: Option<OwnedFd>,
    old: Option<OwnedFd>,
    record: SiteRecord,
    hidden_path: std::path::PathBuf,
}

impl Site {
    /// Opens the folders, proving that they are the recorded ones. `None` when the parent does not exist and this
    /// restore is the one that would make it.
    pub fn open(marker: &Marker, record: &SiteRecord) -> Result<Option<Self>, Problem> {
        let changed = || Problem::ParentChanged { path: record.parent.clone() };
        let walked = walk::walk(&record.parent)?;
        if !walked.missing.is_empty() {
            return if record.created > 0 { Ok(None) } else { Err(changed()) };
        }
        let parent = disk::open_dir(walked.fd.as_fd(), OsStr::new("."))
            .map_err(Problem::io("open", &record.parent))?;
        let seen = disk::look_at(parent.as_fd()).map_err(Problem::io("look at", &record.parent))?;
        match &record.identity {
            Some(identity) if !identity.same(&seen.id) => return Err(changed()),
            Some(_) | None => {}
        }
        let hidden_path = record.parent.join(marker.hidden_name());
        let mut site =
            Self { parent, hidden: None, new: None, old: None, record: record.clone(), hidden_path };
        site.open_hidden(&marker.hidden_name())?;
        Ok(Some(site))
    }

    fn open_hidden(&mut self, name: &OsStr) -> Result<(), Problem> {
        let not_ours = || Problem::StagingNotOurs { path: self.hidden_path.clone() };
        let io = |errno| Problem::io("open", &self.hidden_path)(errno);
        let hidden = match disk::open_dir(self.parent.as_fd(), name) {
            Ok(hidden) => hidden,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_ours()),
            Err(errno) => return Err(io(errno)),
        };
        let seen = disk::look_at(hidden.as_fd()).map_err(io)?;
        // Before its identity is recorded (a crash right after mkdir) owner and mode must do: nobody can forge both.
        let known = self.record.hidden.is_none_or(|identity| identity.same(&seen.id));
        if !known || seen.uid != rustix::process::geteuid().as_raw() || seen.mode & 0o077 != 0 {
            return Err(not_ours());
        }
        for (slot, name) in [(&mut self.new, "new"), (&mut self.old, "old")] {
            *slot = match disk::open_dir(hidden.as_fd(), OsStr::new(name)) {
                Ok(fd) => Some(fd),
                Err(Errno::NOENT) => None,
                Err(errno) => return Err(Problem::io("open", &self.hidden_path)(errno)),
            };
        }
        self.hidden = Some(hidden);
        Ok(())
    }

    /// The folder of staged data.
    pub fn new_dir(&self) -> Result<BorrowedFd<'_>, Problem> {
        self.new
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| Problem::StagingNotOurs { path: self.hidden_path.join("new") })
    }

    /// The folder of old data.
    pub fn old_dir(&self) -> Result<BorrowedFd<'_>, Problem> {
        self.old
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| Problem::StagingNotOurs { path: self.hidden_path.join("old") })
    }

    /// Where `unit` stands.
    pub fn place(&self, unit: &UnitRecord) -> Result<Place, Problem> {
        let Some(blocker) = &unit.blocker else { return Ok(Place::NoBlocker) };
        let io = |errno| Problem::io("look at", &unit.live)(errno);
        let name = name_of(unit);
        let is_at = |dir: Option<&OwnedFd>| -> Result<bool, Problem> {
            let Some(dir) = dir else { return Ok(false) };
            Ok(disk::look(dir.as_fd(), name).map_err(io)?.is_some_and(|seen| seen.id.same(blocker)))
        };
        Ok(if is_at(self.old.as_ref())? {
            Place::Untouched
        } else if is_at(Some(&self.parent))? {
            Place::Blocked
        } else if is_at(self.new.as_ref())? {
            Place::Published
        } else {
            Place::NoBlocker
        })
    }

    /// Makes all moves so far durable.
    pub fn sync(&self) -> Result<(), Problem> {
        for fd in [self.new.as_ref(), self.old.as_ref(), self.hidden.as_ref(), Some(&self.parent)]
            .into_iter()
            .flatten()
        {
            rustix::fs::fsync(fd).map_err(Problem::io("sync", &self.record.parent))?;
        }
        Ok(())
    }

    /// Makes everything written to this filesystem durable, the staged data among it, whoever wrote them.
    pub fn sync_filesystem(&self) -> Result<(), Problem> {
        rustix::fs::syncfs(&self.parent).map_err(Problem::io("sync", &self.record.parent))
    }

    pub fn hidden_path(&self) -> &std::path::Path {
        &self.hidden_path
    }
}

/// The last name of a unit's live path; markers without one are refused when read.
pub(super) fn name_of(unit: &UnitRecord) -> &OsStr {
    unit.live.file_name().unwrap_or_default()
}

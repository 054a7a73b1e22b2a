//! Takes a restore from plan to published, one durable step at a time.
//! Owns: staging folders, registration, blocking, publishing, settling, and going on after a crash.
//! Leaves to others: whether the targets are fit (`plan`), the moves of one unit (`moves`), putting the old data back (`rollback`), whether the application is down (`offline`: ask right
//! before [`Placement::block`], [`Placement::publish`] and any [`Placement::resume`] whose phase
//! [needs it](Phase::needs_offline)), one session at a time (the session lock).
//!
//! **Invariant:** the marker is durable before the live path changes, and says at least what was begun.
//! **Invariant:** nothing in `old/` is deleted outside [`Phase::Settling`], except a blocker known by identity.
//! **Invariant:** side files leave after their main file is blocked and return before it is unblocked, so that no
//! database is ever within reach without the log or journal that belongs to it.

use std::{ffi::OsStr, os::fd::AsFd, path::Path};

use jiff::Timestamp;
use rustix::{fs::Mode, io::Errno};
use uuid::Uuid;

use super::{
    blocker, disk,
    error::{LiveState, Problem, RestoreError},
    moves::{block_unit, publish_unit, refresh_staged},
    phase::{Event, Phase},
    plan::Plan,
    registration::{
        CompanionRecord, Marker, PhaseEntered, Registry, SCHEMA, SiteRecord, Together, UnitRecord,
        hidden_name,
    },
    site::{Place, Site, Steps, name_of, reached},
    walk,
};

/// Whose data a restore brings back; written into the marker for whoever finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// This restore.
    pub restore: Uuid,
    /// The backup set.
    pub set: String,
    /// The writer.
    pub writer: String,
    /// The restore of several writers that this one is a part of.
    pub together: Option<Together>,
    /// Logical paths of its components.
    pub components: Vec<String>,
    /// What the user confirmed by name.
    pub confirmations: Vec<String>,
}

/// What becomes of the old data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldData {
    /// Removed now.
    Remove,
    /// Kept aside, and the restore can be undone, until the time given or until told.
    Keep {
        /// The time, if there is one.
        until: Option<Timestamp>,
    },
}

/// How far a rollback may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undo {
    /// Only while no live path is the new data yet.
    BeforePublish,
    /// Also afterwards: whatever was written since the restore is lost.
    EvenPublished,
}

/// Where an interrupted restore stands after going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// It had not been registered: discarded, live paths never touched.
    Discarded,
    /// Every live path is blocked: recover on the staged data, then [`Placement::recovery_done`].
    Blocked,
    /// Recovery had finished: [`Placement::publish`] is next.
    Recovered,
    /// Every live path is the new data: verify, then [`Placement::settle`].
    Published,
    /// Finished, old data still kept.
    Settled,
    /// Finished, old data removed, marker gone.
    Removed,
    /// The old data are back, marker gone.
    RolledBack,
}

/// One restore and its marker.
#[derive(Debug)]
pub struct Placement {
    pub(super) registry: Registry,
    pub(super) marker: Marker,
}

impl Placement {
    /// Makes the staging folders beside the targets, and folders that are missing above them.
    ///
    /// On an error whatever was made is removed again.
    ///
    /// # Errors
    /// [`Problem::Busy`], [`Problem::ParentChanged`], [`Problem::NoExchange`], [`Problem::StagingNotOurs`],
    /// [`Problem::Io`]: nothing was changed.
    pub fn begin(
        plan: Plan,
        about: About,
        registry: &Registry,
        steps: &dyn Steps,
    ) -> Result<Self, RestoreError> {
        let unchanged = |problem| RestoreError { problem, state: LiveState::Unchanged };
        let mut placement = Self::new(plan, about, registry, steps).map_err(unchanged)?;
        placement.make_folders(steps).map_err(|problem| {
            // A stop stands for a crash, which cleans nothing.
            if !matches!(problem, Problem::Stopped { .. }) {
                // The first error is the one to report; the marker stays if this fails too, and says the same.
                let _ = placement.run_rollback_from_here(steps);
            }
            unchanged(problem)
        })?;
        Ok(placement)
    }

    fn new(plan: Plan, about: About, registry: &Registry, steps: &dyn Steps) -> Result<Self, Problem> {
        for other in registry.list()? {
            let other = other?;
            if other.phase == Phase::Settled {
                continue;
            }
            for (mine, theirs) in
                plan.live_paths().flat_map(|m| other.units.iter().map(move |t| (m, &t.live)))
            {
                if mine.starts_with(theirs) || theirs.starts_with(mine) {
                    return Err(Problem::Busy { path: mine.to_owned(), restore: other.restore });
                }
            }
        }
        let mut units = plan.units;
        for unit in &mut units {
            let hidden = unit.live.with_file_name(hidden_name(about.restore));
            unit.staged = hidden.join("new").join(name_of(unit));
            unit.aside = hidden.join("old").join(name_of(unit));
        }
        let marker = Marker {
            schema: SCHEMA.to_owned(),
            restore: about.restore,
            set: about.set,
            writer: about.writer,
            together: about.together,
            components: about.components,
            confirmations: about.confirmations,
            phase: Phase::Staging,
            rollback_from: None,
            keep_old_until: None,
            sites: plan.sites,
            units,
            history: vec![PhaseEntered { phase: Phase::Staging, at: steps.now() }],
        };
        registry.save(&marker)?;
        Ok(Self { registry: registry.clone(), marker })
    }

    fn make_folders(&mut self, steps: &dyn Steps) -> Result<(), Problem> {
        reached(steps, "marker of staging")?;
        let hidden = self.marker.hidden_name();
        for index in 0..self.marker.sites.len() {
            let Some(record) = self.marker.sites.get_mut(index) else { break };
            make_parents(record, steps)?;
            let parent = record.parent.clone();
            let walked = walk::walk(&parent)?;
            let fd =
                disk::open_dir(walked.fd.as_fd(), OsStr::new(".")).map_err(Problem::io("open", &parent))?;
            let seen = disk::look_at(fd.as_fd()).map_err(Problem::io("look at", &parent))?.id;
            if !walked.missing.is_empty() || !record.identity.is_none_or(|planned| planned.same(&seen)) {
                return Err(Problem::ParentChanged { path: parent });
            }
            record.identity = Some(seen);
            let path = parent.join(&hidden);
            match make_private(fd.as_fd(), &hidden) {
                Err(Errno::EXIST) => return Err(Problem::StagingNotOurs { path }),
                made => made.map_err(Problem::io("create", &path))?,
            }
            reached(steps, "staging folder")?;
            let inner = disk::open_dir(fd.as_fd(), &hidden).map_err(Problem::io("open", &path))?;
            record.hidden = Some(disk::look_at(inner.as_fd()).map_err(Problem::io("look at", &path))?.id);
            for name in ["new", "old"] {
                make_private(inner.as_fd(), OsStr::new(name)).map_err(Problem::io("create", &path))?;
                reached(steps, "folder in the staging folder")?;
            }
            match disk::exchange(inner.as_fd(), OsStr::new("new"), inner.as_fd(), OsStr::new("old")) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    return Err(Problem::NoExchange { path: parent });
                }
                tried => tried.map_err(Problem::io("exchange names in", &path))?,
            }
            rustix::fs::fsync(&inner).map_err(Problem::io("sync", &path))?;
            rustix::fs::fsync(&fd).map_err(Problem::io("sync", &parent))?;
        }
        self.registry.save(&self.marker)?;
        reached(steps, "marker of staging folders")
    }

    /// Takes up a restore by its marker, as it was left.
    ///
    /// # Errors
    /// [`Problem::NoSuchRestore`] and the `Marker…` problems, with [`LiveState::Blocked`] where nothing better is known.
    pub fn load(registry: &Registry, restore: Uuid) -> Result<Self, RestoreError> {
        match registry.load(restore) {
            Ok(marker) => Ok(Self { registry: registry.clone(), marker }),
            Err(problem @ Problem::NoSuchRestore { .. }) => {
                Err(RestoreError { problem, state: LiveState::Unchanged })
            }
            Err(problem) => Err(RestoreError { problem, state: LiveState::Blocked }),
        }
    }

    /// What the marker says.
    pub fn marker(&self) -> &Marker {
        &self.marker
    }

    /// Where the new data of the unit `live` belong before [`register`](Self::register), and where recovery finds them.
    ///
    /// # Errors
    /// [`Problem::NoSuchUnit`].
    pub fn staged_path(&self, live: &Path) -> Result<&Path, RestoreError> {
        let live = walk::clean(live).map_err(|problem| self.error(problem))?;
        let unit = self.marker.units.iter().find(|unit| unit.live == live);
        unit.map(|unit| unit.staged.as_path())
            .ok_or_else(|| self.error(Problem::NoSuchUnit { path: live.clone() }))
    }

    /// Makes the restore binding: staged data durable, blockers ready, marker `registered`. Done before: no effect.
    ///
    /// From here on the start gate holds. The live paths are still untouched.
    ///
    /// # Errors
    /// [`Problem::StagedMissing`], [`Problem::StagedWrongKind`], [`Problem::LiveChanged`]: nothing was changed.
    pub fn register(&mut self, steps: &dyn Steps) -> Result<(), RestoreError> {
        if self.marker.phase == Phase::Registered {
            return Ok(());
        }
        self.run_register(steps).map_err(|problem| self.error(problem))
    }

    fn run_register(&mut self, steps: &dyn Steps) -> Result<(), Problem> {
        self.marker.phase.after(Event::Register)?;
        let sites = self.sites()?;
        let mut units = self.marker.units.clone();
        for unit in &mut units {
            let site = at(&sites, unit)?;
            refresh_staged(site, unit)?;
            let live =
                disk::look(site.parent.as_fd(), name_of(unit)).map_err(Problem::io("look at", &unit.live))?;
            let unchanged = match (&unit.old, live) {
                (Some(old), Some(seen)) => old.same(&seen.id),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if !unchanged {
                return Err(Problem::LiveChanged { path: unit.live.clone() });
            }
        }
        for site in sites.iter().flatten() {
            site.sync_filesystem()?;
        }
        for unit in &mut units {
            let site = at(&sites, unit)?;
            unit.blocker = Some(
                blocker::make(site.old_dir()?, name_of(unit), unit.kind, &self.note(unit))
                    .map_err(Problem::io("create the blocker for", &unit.live))?,
            );
            reached(steps, "blocker made")?;
        }
        let before = std::mem::replace(&mut self.marker.units, units);
        self.advance(Event::Register, steps).inspect_err(|problem| {
            if !matches!(problem, Problem::Stopped { .. }) {
                self.marker.units = before;
            }
        })
    }

    /// Puts every blocker in place and its side files aside. Done before: no effect.
    ///
    /// Ask whether the application is down right before this.
    ///
    /// # Errors
    /// [`Problem::LiveChanged`] and others; units not yet blocked are untouched, and this may be called again.
    pub fn block(&mut self, steps: &dyn Steps) -> Result<(), RestoreError> {
        if matches!(self.marker.phase, Phase::Blocked | Phase::Recovered) {
            return Ok(());
        }
        self.run_block(steps).map_err(|problem| self.error(problem))
    }

    fn run_block(&mut self, steps: &dyn Steps) -> Result<(), Problem> {
        self.marker.phase.after(Event::BlockDone)?;
        let sites = self.sites()?;
        for unit in &mut self.marker.units {
            let site = at(&sites, unit)?;
            block_unit(site, unit, steps)?;
            for companion in &mut unit.companions {
                let (io, name) = (|errno| Problem::io("move", &companion.live)(errno), side(companion));
                match disk::move_new(site.parent.as_fd(), name, site.old_dir()?, name) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(Errno::EXIST) => {
                        return Err(Problem::StrayCompanion { path: companion.live.clone() });
                    }
                    Err(errno) => return Err(io(errno)),
                }
                companion.old = disk::look(site.old_dir()?, name).map_err(io)?.map(|seen| seen.id);
                reached(steps, "side file aside")?;
            }
        }
        sync_all(&sites)?;
        self.advance(Event::BlockDone, steps)
    }

    /// Records that recovery on the staged data is finished. Done before: no effect.
    ///
    /// # Errors
    /// [`Problem::IllegalMove`] unless every live path is blocked.
    pub fn recovery_done(&mut self, steps: &dyn Steps) -> Result<(), RestoreError> {
        if self.marker.phase == Phase::Recovered {
            return Ok(());
        }
        self.advance(Event::RecoveryDone, steps).map_err(|problem| self.error(problem))
    }

    /// Exchanges every blocker for the staged data. Done before: no effect.
    ///
    /// # Errors
    /// [`Problem::StrayCompanion`], [`Problem::BlockerReplaced`], [`Problem::StagedMissing`] and others; may be called
    /// again once the cause is gone.
    pub fn publish(&mut self, steps: &dyn Steps) -> Result<(), RestoreError> {
        self.run_publish(steps).map_err(|problem| self.error(problem))
    }

    fn run_publish(&mut self, steps: &dyn Steps) -> Result<(), Problem> {
        let sites = self.sites()?;
        if self.marker.phase == Phase::Recovered {
            // Recovery may have put other files in the place of the staged ones, and made or removed side files.
            let mut units = self.marker.units.clone();
            for unit in &mut units {
                let site = at(&sites, unit)?;
                refresh_staged(site, unit)?;
                for companion in &mut unit.companions {
                    let seen = disk::look(site.new_dir()?, side(companion));
                    let seen = seen.map_err(Problem::io("look at", &companion.live))?;
                    companion.new = seen.map(|seen| seen.id);
                }
            }
            for site in sites.iter().flatten() {
                site.sync_filesystem()?;
            }
            self.marker.units = units;
            self.advance(Event::PublishStarted, steps)?;
        }
        if self.marker.phase != Phase::Published {
            self.marker.phase.after(Event::PublishDone)?;
            for unit in &self.marker.units {
                publish_unit(at(&sites, unit)?, unit, steps)?;
            }
            sync_all(&sites)?;
            self.advance(Event::PublishDone, steps)?;
        }
        for unit in &self.marker.units {
            let site = at(&sites, unit)?;
            if site.place(unit)? == Place::Published {
                disk::remove(site.new_dir()?, name_of(unit)).map_err(Problem::io("remove", &unit.staged))?;
                reached(steps, "blocker removed")?;
            }
        }
        Ok(())
    }

    /// Ends a published restore: staging removed, old data removed or kept, the marker removed last.
    ///
    /// Settling with [`OldData::Keep`] leaves the marker, which no longer gates a start; a later call removes both.
    ///
    /// # Errors
    /// [`Problem::IllegalMove`] before all is published; [`Problem::Io`], after which it may be called again.
    pub fn settle(&mut self, old: OldData, steps: &dyn Steps) -> Result<(), RestoreError> {
        self.run_settle(old, steps).map_err(|problem| self.error(problem))
    }

    fn run_settle(&mut self, old: OldData, steps: &dyn Steps) -> Result<(), Problem> {
        if let OldData::Keep { until } = old
            && self.marker.phase != Phase::Settling
        {
            self.marker.keep_old_until = until;
            if self.marker.phase == Phase::Settled {
                return self.registry.save(&self.marker);
            }
            self.marker.phase.after(Event::OldKept)?;
            for site in self.sites()?.iter().flatten() {
                disk::empty_dir(site.new_dir()?)
                    .map_err(Problem::io("empty", site.hidden_path().join("new")))?;
            }
            reached(steps, "staging emptied")?;
            return self.advance(Event::OldKept, steps);
        }
        if self.marker.phase != Phase::Settling {
            self.advance(Event::SettleStarted, steps)?;
        }
        for site in self.sites()?.iter().flatten() {
            let hidden = self.marker.hidden_name();
            disk::remove(site.parent.as_fd(), &hidden).map_err(Problem::io("remove", site.hidden_path()))?;
            rustix::fs::fsync(&site.parent).map_err(Problem::io("sync", site.hidden_path()))?;
            reached(steps, "staging and old data removed")?;
        }
        self.registry.remove(self.marker.restore)?;
        reached(steps, "marker removed")
    }

    /// Goes on where an interrupted restore stopped, as far as that needs nobody else.
    ///
    /// # Errors
    /// As the step it goes on with. Safe to call any number of times.
    pub fn resume(&mut self, steps: &dyn Steps) -> Result<Resumed, RestoreError> {
        match self.marker.phase {
            Phase::Staging => self.rollback(Undo::BeforePublish, steps).map(|()| Resumed::Discarded),
            Phase::Registered => self.block(steps).map(|()| Resumed::Blocked),
            Phase::Blocked => Ok(Resumed::Blocked),
            Phase::Recovered => Ok(Resumed::Recovered),
            Phase::Publishing | Phase::Published => self.publish(steps).map(|()| Resumed::Published),
            Phase::Settled => Ok(Resumed::Settled),
            Phase::Settling => self.settle(OldData::Remove, steps).map(|()| Resumed::Removed),
            Phase::RollingBack => {
                let discarded = self.marker.rollback_from == Some(Phase::Staging);
                self.rollback(Undo::EvenPublished, steps)?;
                Ok(if discarded { Resumed::Discarded } else { Resumed::RolledBack })
            }
        }
    }

    /// Moves to the next phase, durably.
    pub(super) fn advance(&mut self, event: Event, steps: &dyn Steps) -> Result<(), Problem> {
        let mut next = self.marker.clone();
        next.phase = self.marker.phase.after(event)?;
        next.history.push(PhaseEntered { phase: next.phase, at: steps.now() });
        self.registry.save(&next)?;
        self.marker = next;
        reached(steps, "marker of the next phase")
    }

    pub(super) fn sites(&self) -> Result<Vec<Option<Site>>, Problem> {
        let discarding = self.marker.rollback_from == Some(Phase::Staging);
        let open = |record: &SiteRecord| match Site::open(&self.marker, record) {
            // Nothing is known to have been made here, and nothing of somebody else's is touched: without this, a start
            // that was refused for such a folder could not be cleared away either.
            Err(
                Problem::ParentChanged { .. }
                | Problem::ParentIsLink { .. }
                | Problem::LinkInPath { .. }
                | Problem::StagingNotOurs { .. },
            ) if discarding && record.hidden.is_none() => Ok(None),
            opened => opened,
        };
        self.marker.sites.iter().map(open).collect()
    }

    pub(super) fn error(&self, problem: Problem) -> RestoreError {
        let state = match (self.marker.phase, self.marker.rollback_from) {
            (Phase::RollingBack, Some(Phase::Staging)) => LiveState::Unchanged,
            (phase, _) => LiveState::of(phase),
        };
        RestoreError { problem, state }
    }

    /// What the blocker tells whoever looks at it.
    pub(super) fn note(&self, unit: &UnitRecord) -> String {
        format!(
            "{live} is blocked by an unfinished restore of Holdfast.\n\n\
             restore:   {restore}\nset:       {set}\nwriter:    {writer}\nold data:  {aside}\nnew data:  {staged}\n\n\
             Finish it:  holdfast recover --writer {writer}\n\
             Do not remove or replace this by hand: the application would start on data that are not recovered.\n",
            live = unit.live.display(),
            restore = self.marker.restore,
            set = self.marker.set,
            writer = self.marker.writer,
            aside = unit.aside.display(),
            staged = unit.staged.display(),
        )
    }
}

/// Makes the missing folders of `record`; several targets may share them.
fn make_parents(record: &SiteRecord, steps: &dyn Steps) -> Result<(), Problem> {
    if record.created == 0 {
        return Ok(());
    }
    let mut walked = walk::walk(&record.parent)?;
    // More missing than planned: a folder above went away meanwhile.
    if walked.missing.len() > record.created {
        return Err(Problem::ParentChanged { path: record.parent.clone() });
    }
    for name in std::mem::take(&mut walked.missing) {
        let io = |errno| Problem::io("create", &record.parent)(errno);
        rustix::fs::mkdirat(&walked.fd, &name, Mode::from_raw_mode(0o755)).map_err(io)?;
        let above = disk::open_dir(walked.fd.as_fd(), OsStr::new(".")).map_err(io)?;
        rustix::fs::fsync(&above).map_err(io)?;
        walked.fd = disk::open_dir(above.as_fd(), &name).map_err(io)?;
        reached(steps, "missing folder made")?;
    }
    Ok(())
}

fn make_private(dir: std::os::fd::BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))
}

/// The open folder of a unit; only a rollback can meet one whose folder has gone.
pub(super) fn at<'a>(sites: &'a [Option<Site>], unit: &UnitRecord) -> Result<&'a Site, Problem> {
    let parent = || Problem::ParentChanged { path: unit.live.parent().unwrap_or(&unit.live).to_owned() };
    sites.get(unit.site).and_then(Option::as_ref).ok_or_else(parent)
}

/// The last name of a side file.
pub(super) fn side(companion: &CompanionRecord) -> &OsStr {
    companion.live.file_name().unwrap_or_default()
}

pub(super) fn sync_all(sites: &[Option<Site>]) -> Result<(), Problem> {
    sites.iter().flatten().try_for_each(Site::sync)
}

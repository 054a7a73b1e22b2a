//! Puts the old data back, from any phase in which they are still whole.
//!
//! Units that are already the new data are blocked again first, all of them; only then does any old data return. So an
//! application never meets one unit from before and another from after.

use std::{ffi::OsStr, os::fd::AsFd};

use rustix::{fs::AtFlags, io::Errno};

use super::{
    blocker, disk,
    error::{Problem, RestoreError},
    phase::{Event, Phase},
    placement::{Placement, Undo, at, side, sync_all},
    registration::UnitRecord,
    site::{Place, Site, Steps, name_of, reached},
    walk,
};

impl Placement {
    /// Puts the old data back, removes staging and the folders this restore made, and last the marker.
    ///
    /// After publishing this must be asked for ([`Undo::EvenPublished`]), with the application seen to be down: what
    /// it wrote since is lost.
    ///
    /// # Errors
    /// [`Problem::AlreadyPublished`], [`Problem::IllegalMove`] once old data are being removed: refused, nothing moved.
    /// [`Problem::StrayCompanion`], [`Problem::BlockerReplaced`]: may be called again once the cause is gone.
    pub fn rollback(&mut self, undo: Undo, steps: &dyn Steps) -> Result<(), RestoreError> {
        let run = |this: &mut Self| {
            if this.marker.phase != Phase::RollingBack {
                this.begin_rollback(undo, steps)?;
            }
            this.run_rollback(steps)
        };
        run(self).map_err(|problem| self.error(problem))
    }

    /// Makes it durable that this restore goes back, and moves nothing yet: so that of several restores that belong
    /// together none goes forward once another has begun to go back. Done before: no effect.
    ///
    /// # Errors
    /// As [`rollback`](Self::rollback).
    pub fn give_up(&mut self, undo: Undo, steps: &dyn Steps) -> Result<(), RestoreError> {
        if self.marker.phase == Phase::RollingBack {
            return Ok(());
        }
        self.begin_rollback(undo, steps).map_err(|problem| self.error(problem))
    }

    /// Blocks again whatever is the new data already; a restore that was [given up](Self::give_up) only. Done before: no
    /// effect. With several restores that belong together: all of them, before old data of any return.
    ///
    /// # Errors
    /// As [`rollback`](Self::rollback).
    pub fn withdraw(&mut self, steps: &dyn Steps) -> Result<(), RestoreError> {
        self.block_published(steps).map_err(|problem| self.error(problem))
    }

    fn block_published(&self, steps: &dyn Steps) -> Result<(), Problem> {
        if self.marker.phase != Phase::RollingBack || self.marker.rollback_from == Some(Phase::Staging) {
            return Ok(());
        }
        let sites = self.sites()?;
        for unit in self.marker.units.iter().filter(|unit| unit.was_published) {
            if let Some(site) = open(&sites, unit) {
                block_again(site, unit, steps)?;
            }
        }
        sync_all(&sites)
    }

    /// Undoes what a failed start made.
    pub(super) fn run_rollback_from_here(&mut self, steps: &dyn Steps) -> Result<(), Problem> {
        self.begin_rollback(Undo::BeforePublish, steps)?;
        self.run_rollback(steps)
    }

    fn begin_rollback(&mut self, undo: Undo, steps: &dyn Steps) -> Result<(), Problem> {
        let from = self.marker.phase;
        from.after(Event::RollbackStarted)?;
        // Staging has touched no unit, and its folders need not even open.
        let sites = if from == Phase::Staging { Vec::new() } else { self.sites()? };
        let mut units = self.marker.units.clone();
        for unit in &mut units {
            let published = match from {
                Phase::Published | Phase::Settled => true,
                Phase::Publishing => is_published(at(&sites, unit)?, unit)?,
                Phase::Staging
                | Phase::Registered
                | Phase::Blocked
                | Phase::Recovered
                | Phase::Settling
                | Phase::RollingBack => false,
            };
            if published && undo == Undo::BeforePublish {
                return Err(Problem::AlreadyPublished { path: unit.live.clone() });
            }
            unit.was_published = published;
        }
        for unit in units.iter_mut().filter(|unit| unit.was_published) {
            let site = at(&sites, unit)?;
            if site.place(unit)? != Place::Published {
                let made = blocker::make(site.new_dir()?, name_of(unit), unit.kind, &self.note(unit));
                unit.blocker = Some(made.map_err(Problem::io("create the blocker for", &unit.live))?);
                reached(steps, "blocker made again")?;
            }
        }
        self.marker.units = units;
        self.marker.rollback_from = Some(from);
        self.advance(Event::RollbackStarted, steps)
    }

    fn run_rollback(&mut self, steps: &dyn Steps) -> Result<(), Problem> {
        let sites = self.sites()?;
        let from = self.marker.rollback_from.unwrap_or(Phase::Registered);
        if from != Phase::Staging {
            self.block_published(steps)?;
            for unit in &self.marker.units {
                if let Some(site) = open(&sites, unit) {
                    unblock(site, unit, from, steps)?;
                }
            }
            sync_all(&sites)?;
        }
        for site in sites.iter().flatten() {
            self.clear(site, from, steps)?;
        }
        self.remove_made_folders(steps)?;
        self.registry.remove(self.marker.restore)?;
        reached(steps, "marker removed")
    }

    /// Removes the hidden folder. From `old/` only blockers are removed: data there that nobody accounted for stay.
    fn clear(&self, site: &Site, from: Phase, steps: &dyn Steps) -> Result<(), Problem> {
        let Some(hidden) = &site.hidden else { return Ok(()) };
        let io = |errno| Problem::io("remove", site.hidden_path())(errno);
        if let Ok(old) = site.old_dir() {
            // Before registration nothing live was ever moved: all there is are blockers that no marker knows yet.
            if from == Phase::Staging {
                disk::empty_dir(old).map_err(io)?;
            }
            for unit in &self.marker.units {
                let seen = disk::look(old, name_of(unit)).map_err(io)?;
                if seen.is_some_and(|seen| unit.blocker.is_some_and(|blocker| blocker.same(&seen.id))) {
                    disk::remove(old, name_of(unit)).map_err(io)?;
                    reached(steps, "blocker removed")?;
                }
            }
            match rustix::fs::unlinkat(hidden, "old", AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    return Err(Problem::OldDataLeft { path: site.hidden_path().join("old") });
                }
                done => done.map_err(io)?,
            }
            reached(steps, "folder of old data removed")?;
        }
        disk::remove(hidden.as_fd(), OsStr::new("new")).map_err(io)?;
        rustix::fs::unlinkat(&site.parent, self.marker.hidden_name(), AtFlags::REMOVEDIR).map_err(io)?;
        rustix::fs::fsync(&site.parent).map_err(io)?;
        reached(steps, "staging folder removed")
    }

    /// Removes the folders this restore made above its targets, as far as nobody has put anything into them.
    fn remove_made_folders(&self, steps: &dyn Steps) -> Result<(), Problem> {
        for record in &self.marker.sites {
            for folder in record.parent.ancestors().take(record.created) {
                let (Some(above), Some(name)) = (folder.parent(), folder.file_name()) else { break };
                let walked = walk::walk(above)?;
                if !walked.missing.is_empty() {
                    continue;
                }
                match rustix::fs::unlinkat(&walked.fd, name, AtFlags::REMOVEDIR) {
                    Ok(()) => reached(steps, "made folder removed")?,
                    Err(Errno::NOENT) => {}
                    Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => break,
                    Err(errno) => return Err(Problem::io("remove", folder)(errno)),
                }
            }
        }
        Ok(())
    }
}

fn open<'a>(sites: &'a [Option<Site>], unit: &UnitRecord) -> Option<&'a Site> {
    sites.get(unit.site).and_then(Option::as_ref)
}

/// Whether an interrupted publishing had come past `unit`.
fn is_published(site: &Site, unit: &UnitRecord) -> Result<bool, Problem> {
    Ok(match site.place(unit)? {
        Place::Published => true,
        Place::Untouched | Place::Blocked => false,
        Place::NoBlocker => {
            let live = disk::look(site.parent.as_fd(), name_of(unit));
            let live = live.map_err(Problem::io("look at", &unit.live))?;
            unit.new.is_some_and(|new| live.is_some_and(|seen| seen.id.same(&new)))
        }
    })
}

/// Takes the new data, or what the application has made of them, away from the live path.
fn block_again(site: &Site, unit: &UnitRecord, steps: &dyn Steps) -> Result<(), Problem> {
    let (name, parent) = (name_of(unit), site.parent.as_fd());
    let io = |errno| Problem::io("block", &unit.live)(errno);
    if site.place(unit)? == Place::Published {
        let new = site.new_dir()?;
        match disk::exchange(parent, name, new, name) {
            // The application, or somebody, removed it meanwhile.
            Err(Errno::NOENT) => disk::move_new(new, name, parent, name).map_err(io)?,
            done => done.map_err(io)?,
        }
        reached(steps, "live path blocked again")?;
    }
    if site.place(unit)? == Place::Blocked
        && let Some(blocker) = &unit.blocker
    {
        blocker::shut(parent, name, blocker).map_err(io)?;
    }
    Ok(())
}

/// Side files first, then the old data, in one step each.
fn unblock(site: &Site, unit: &UnitRecord, from: Phase, steps: &dyn Steps) -> Result<(), Problem> {
    let (name, parent) = (name_of(unit), site.parent.as_fd());
    let io = |errno| Problem::io("put back", &unit.live)(errno);
    let place = site.place(unit)?;
    if place == Place::Untouched {
        return Ok(());
    }
    let Ok(old) = site.old_dir() else {
        // `old/` is removed only after every unit is back.
        return Ok(());
    };
    let waiting = disk::look(old, name).map_err(io)?.is_some();
    if place == Place::NoBlocker && !waiting {
        return Ok(());
    }
    let replaced = || Problem::BlockerReplaced { path: unit.live.clone() };
    if place == Place::NoBlocker && disk::look(parent, name).map_err(io)?.is_some() {
        return Err(replaced());
    }
    return_side_files(site, unit, from, steps)?;
    let Some(blocker) = unit.blocker.as_ref().filter(|_| place == Place::Blocked) else {
        match disk::move_new(old, name, parent, name) {
            Err(Errno::EXIST) => return Err(replaced()),
            done => done.map_err(io)?,
        }
        return reached(steps, "old data live");
    };
    blocker::loosen(parent, name, blocker).map_err(io)?;
    reached(steps, "blocker loosened")?;
    if waiting {
        disk::exchange(parent, name, old, name).map_err(io)?;
        if site.place(unit)? != Place::Untouched {
            disk::exchange(parent, name, old, name).map_err(io)?;
            return Err(replaced());
        }
    } else {
        disk::move_new(parent, name, old, name).map_err(io)?;
    }
    reached(steps, "old data live")
}

fn return_side_files(site: &Site, unit: &UnitRecord, from: Phase, steps: &dyn Steps) -> Result<(), Problem> {
    let (parent, old) = (site.parent.as_fd(), site.old_dir()?);
    for companion in &unit.companions {
        let side = side(companion);
        let io = |errno| Problem::io("put back", &companion.live)(errno);
        let there = disk::look(parent, side).map_err(io)?;
        let is =
            |id: Option<disk::Identity>| id.is_some_and(|id| there.is_some_and(|seen| seen.id.same(&id)));
        let waiting = disk::look(old, side).map_err(io)?.is_some();
        // A blocking that was cut off may not have come to this one: it is still the old data's own.
        let its_own = !waiting && (is(companion.old) || (from == Phase::Registered && there.is_some()));
        if there.is_some() && !its_own {
            // What was put there with the new data, or made from them since, goes with them.
            if !unit.was_published && !is(companion.new) {
                return Err(Problem::StrayCompanion { path: companion.live.clone() });
            }
            disk::remove(site.new_dir()?, side).map_err(io)?;
            disk::move_new(parent, side, site.new_dir()?, side).map_err(io)?;
            reached(steps, "new side file away")?;
        }
        if waiting {
            disk::move_new(old, side, parent, side).map_err(io)?;
            reached(steps, "old side file back")?;
        }
    }
    Ok(())
}

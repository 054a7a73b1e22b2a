//! The two moves of one unit: out of the application's reach, and back as the new data.
//! Each looks at what is on disk first, and takes its exchange back if something else than expected came away.

use std::os::fd::AsFd;

use rustix::io::Errno;

use super::{
    blocker,
    disk::{self, Kind},
    error::Problem,
    placement::side,
    plan::movable,
    registration::UnitRecord,
    site::{Place, Site, Steps, name_of, reached},
};

/// Looks again at what is staged for `unit`.
pub(super) fn refresh_staged(site: &Site, unit: &mut UnitRecord) -> Result<(), Problem> {
    let seen = disk::look(site.new_dir()?, name_of(unit)).map_err(Problem::io("look at", &unit.staged))?;
    let seen = seen.ok_or_else(|| Problem::StagedMissing { path: unit.staged.clone() })?;
    if seen.id.kind != unit.kind {
        let expected = if unit.kind == Kind::Directory { "folder" } else { "file" };
        return Err(Problem::StagedWrongKind { path: unit.staged.clone(), expected });
    }
    movable(&seen, &unit.staged)?;
    unit.new = Some(seen.id);
    Ok(())
}

/// Exchanges the live path for the blocker, and takes it back if what came away is not what was planned for.
pub(super) fn block_unit(site: &Site, unit: &UnitRecord, steps: &dyn Steps) -> Result<(), Problem> {
    let (name, parent, old) = (name_of(unit), site.parent.as_fd(), site.old_dir()?);
    let io = |errno| Problem::io("block", &unit.live)(errno);
    let changed = || Problem::LiveChanged { path: unit.live.clone() };
    let Some(blocker) = &unit.blocker else { return Err(changed()) };
    match site.place(unit)? {
        Place::Blocked => {}
        Place::Untouched => {
            match &unit.old {
                Some(planned) => {
                    match disk::exchange(parent, name, old, name) {
                        Err(Errno::NOENT) => return Err(changed()),
                        done => done.map_err(io)?,
                    }
                    let came = disk::look(old, name).map_err(io)?;
                    if !came.is_some_and(|seen| seen.id.same(planned)) {
                        disk::exchange(parent, name, old, name).map_err(io)?;
                        return Err(changed());
                    }
                }
                None => match disk::move_new(old, name, parent, name) {
                    Err(Errno::EXIST) => return Err(changed()),
                    done => done.map_err(io)?,
                },
            }
            reached(steps, "live path blocked")?;
        }
        Place::Published | Place::NoBlocker => {
            return Err(Problem::BlockerReplaced { path: unit.live.clone() });
        }
    }
    blocker::shut(parent, name, blocker).map_err(io)?;
    reached(steps, "blocker shut")
}

/// Puts the staged side files in place, then the staged data.
pub(super) fn publish_unit(site: &Site, unit: &UnitRecord, steps: &dyn Steps) -> Result<(), Problem> {
    let (name, parent, new) = (name_of(unit), site.parent.as_fd(), site.new_dir()?);
    let io = |errno| Problem::io("publish", &unit.live)(errno);
    let replaced = || Problem::BlockerReplaced { path: unit.live.clone() };
    let place = site.place(unit)?;
    let live = disk::look(parent, name).map_err(io)?;
    let blocked = match place {
        Place::Published => return Ok(()),
        Place::Blocked => true,
        // Taken away by hand, with nothing in its place: still nothing the application could have opened.
        Place::NoBlocker if live.is_none() => false,
        Place::NoBlocker if unit.new.is_some_and(|new| live.is_some_and(|seen| seen.id.same(&new))) => {
            return Ok(());
        }
        Place::NoBlocker | Place::Untouched => return Err(replaced()),
    };
    for companion in &unit.companions {
        let io = |errno| Problem::io("publish", &companion.live)(errno);
        let stray = || Problem::StrayCompanion { path: companion.live.clone() };
        let side = side(companion);
        let there = disk::look(parent, side).map_err(io)?;
        let arrived = companion.new.is_some_and(|new| there.is_some_and(|seen| seen.id.same(&new)));
        if there.is_some() && !arrived {
            return Err(stray());
        }
        if companion.new.is_some() && !arrived {
            match disk::move_new(new, side, parent, side) {
                Err(Errno::EXIST) => return Err(stray()),
                done => done.map_err(io)?,
            }
            reached(steps, "side file in place")?;
        }
    }
    if !blocked {
        match disk::move_new(new, name, parent, name) {
            Err(Errno::EXIST) => return Err(replaced()),
            done => done.map_err(io)?,
        }
        return reached(steps, "new data live");
    }
    if let Some(blocker) = &unit.blocker {
        blocker::loosen(parent, name, blocker).map_err(io)?;
        reached(steps, "blocker loosened")?;
    }
    disk::exchange(parent, name, new, name).map_err(io)?;
    if site.place(unit)? != Place::Published {
        disk::exchange(parent, name, new, name).map_err(io)?;
        return Err(replaced());
    }
    reached(steps, "new data live")
}

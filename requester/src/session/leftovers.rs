//! What dead sessions left: found at the next start and by `gc`, named, and removed.

use std::fmt;

use holdfast_writer_api::chain;
use tokio::task::spawn_blocking;

use super::holders::{Holders, Released};
use super::record::hostname;
use super::shadows;
use crate::paths::Paths;
use crate::provider::{self, Providers};
use crate::repository::Repository;

/// Something that was left, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub what: String,
    /// What became of it.
    pub outcome: String,
}

impl Leftover {
    fn new(what: impl Into<String>, outcome: impl Into<String>) -> Self {
        Self { what: what.into(), outcome: outcome.into() }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.outcome)
    }
}

/// What was left, and whether all of it could be dealt with.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Each thing.
    pub found: Vec<Leftover>,
    /// An application may still be held. Nothing but holders was looked at then: the rest may lie on the very disk that
    /// a holder waits for.
    pub may_be_held: bool,
}

impl Leftovers {
    /// All of it in one line.
    pub fn describe(&self) -> String {
        self.found.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// Removes what is left. Call with the session lock held: then
/// whatever is on record belongs to the dead.
pub async fn clean(paths: &Paths, providers: &Providers, repository: Option<&Repository>) -> Leftovers {
    let mut left = holders(paths);
    if left.may_be_held {
        return left;
    }
    let (state, built) = (paths.state.clone(), providers.build());
    let shadows = spawn_blocking(move || match provider::orphans(&state) {
        Ok(records) => {
            let damaged = records.damaged.into_iter();
            let damaged = damaged.map(|error| Leftover::new("a shadow copy's record", chain(&error)));
            let removed = records.records.into_iter().map(|record| {
                let what = format!("shadow copy {} of set {}", record.id, record.set);
                match provider::delete(&record, &built) {
                    Ok(()) => Leftover::new(what, "removed"),
                    Err(error) => Leftover::new(what, format!("NOT removed: {}", chain(&error))),
                }
            });
            removed.chain(damaged).collect()
        }
        Err(error) => vec![Leftover::new("the records of shadow copies", format!("cannot be read: {error}"))],
    })
    .await;
    left.found.extend(shadows.unwrap_or_default());
    if let Some(repository) = repository.cloned() {
        left.found.extend(spawn_blocking(move || partials(&repository)).await.unwrap_or_default());
    }
    left
}

/// Ends the holders and removes the shadow copies of this very process, whose session was given up. Tells only what it
/// could not.
pub async fn clean_own(paths: &Paths, providers: &Providers) -> Leftovers {
    let mut left = holders(paths);
    if left.may_be_held {
        return left;
    }
    // That this session ended is no news, nor that it held somebody until then.
    left.found.clear();
    let (state, built) = (paths.state.clone(), providers.build());
    let failed = spawn_blocking(move || {
        // A cut that was under way notices that it was given up, and removes what it made.
        shadows::wait_for_cuts();
        let records = provider::list(&state).map(|listed| listed.records).unwrap_or_default();
        let ours = records.into_iter().filter(|record| record.owner == provider::Owner::current());
        let failed = ours.filter_map(|record| {
            let error = provider::delete(&record, &built).err()?;
            let outcome = format!("NOT removed: {}; `holdfast gc` tries again", chain(&error));
            Some(Leftover::new(format!("shadow copy {}", record.id), outcome))
        });
        failed.collect::<Vec<_>>()
    })
    .await;
    left.found.extend(failed.unwrap_or_default());
    left
}

fn holders(paths: &Paths) -> Leftovers {
    let recorded = match Holders::recorded(&paths.runtime) {
        Ok(Some(holders)) => holders,
        Ok(None) => return Leftovers::default(),
        Err(error) => {
            // Nobody knows who holds what, so nobody may say that nothing is held.
            let what = format!("the record of holders, {}", Holders::file(&paths.runtime).display());
            let found = vec![Leftover::new(what, format!("cannot be read: {}", chain(&error)))];
            return Leftovers { found, may_be_held: true };
        }
    };
    let ended = recorded.end();
    let may_be_held = ended.iter().any(|(_, released)| released.may_be_held());
    let mut found: Vec<_> = ended
        .into_iter()
        .filter_map(|(holder, released)| {
            let outcome = match released {
                Released::WasNotHeld => return None,
                Released::Released => "was still held, and is released".to_owned(),
                Released::StillHeld => {
                    format!("STILL HELD: process {} was killed, and waits in the kernel", holder.pid)
                }
                Released::NotThawed => {
                    let guardian = holder.guardian.as_ref().map_or(0, |guardian| guardian.pid);
                    format!("STILL HELD: process {guardian} tries to thaw it, so far in vain")
                }
                Released::Lost => {
                    "MAY STILL BE HELD: its guardian was killed, so release it by hand; then run \
                                   `holdfast thaw --all`"
                        .to_owned()
                }
                Released::NotPermitted => {
                    format!("STILL HELD: process {} belongs to another user", holder.pid)
                }
            };
            Some(Leftover::new(format!("writer `{}`", holder.writer), outcome))
        })
        .collect();
    if !may_be_held {
        let session = format!("session {}", recorded.set);
        found.push(Leftover::new(session, "ended without a word; no application is held by it"));
        Holders::forget(&paths.runtime, recorded.set);
    }
    Leftovers { found, may_be_held }
}

/// Only this host's: another one may be storing its own right now. And only while nobody else is at work on the
/// repository: the host name does not tell machines apart, nor two sessions of one machine, but whoever stores holds a
/// lock from before its first part to after its last.
fn partials(repository: &Repository) -> Vec<Leftover> {
    // First the parts, then the locks: what is listed here is of somebody seen there, or of the dead.
    let partials = match repository.partials() {
        Ok(partials) => partials,
        Err(error) => {
            return vec![Leftover::new("parts of sets", format!("cannot be listed: {}", chain(&error)))];
        }
    };
    let ours = partials.into_iter().filter(|partial| partial.hostname == hostname());
    let mut sets: Vec<_> = ours.filter_map(|partial| partial.set).collect();
    sets.sort();
    sets.dedup();
    if sets.is_empty() {
        return Vec::new();
    }
    let at_work = repository.others_at_work().map(|others| others.into_iter().next());
    let remove = |set| {
        let outcome = match &at_work {
            Ok(None) => match repository.remove_partials(Some(set)) {
                Ok(_) => "removed".to_owned(),
                Err(error) => format!("NOT removed: {}", chain(&error)),
            },
            Ok(Some(owner)) => format!(
                "left alone, since it may be of a session at work now ({owner}); a later `holdfast gc` removes it if not"
            ),
            Err(error) => format!("NOT removed: who is at work cannot be told: {}", chain(error)),
        };
        Leftover::new(format!("a part of set {set}, which was cut off while it was stored"), outcome)
    };
    sets.into_iter().map(remove).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::{
        EntryKind, EntryMetadata, LockKind, Options, Password, SetIdentity, SourceEntry,
    };

    #[test]
    fn a_part_is_removed_only_when_nobody_else_is_at_work_on_the_repository() {
        let place = tempfile::tempdir().unwrap();
        let location = place.path().join("repository");
        let (location, password) = (location.to_str().unwrap(), Password::new("x"));
        let theirs = Repository::init(location, &password, &Options::default()).unwrap();
        let ours = Repository::open(location, &password, &Options::default()).unwrap();
        let identity = |hostname| SetIdentity {
            set: uuid::Uuid::now_v7(),
            time: jiff::Timestamp::now(),
            hostname,
            tags: vec![],
            label: String::new(),
        };
        let folder = || SourceEntry {
            save_as: "/data".into(),
            kind: EntryKind::Directory,
            metadata: EntryMetadata { mode: 0o700, ..EntryMetadata::default() },
        };
        // A session of the same host name: another machine of that name, or this one under other paths.
        let storing = theirs.lock(LockKind::Shared).unwrap();
        let here = identity(hostname());
        theirs.archive(&here, vec![folder()], None).unwrap();
        theirs.archive(&identity("elsewhere".into()), vec![folder()], None).unwrap();
        // Also beside a lock of our own.
        let _held = ours.lock(LockKind::Shared).unwrap();
        let said = partials(&ours);
        assert!(
            matches!(&*said, [one] if one.what.contains(&here.set.to_string()) && one.outcome.contains("left alone")),
            "{said:?}"
        );
        assert_eq!(ours.partials().unwrap().len(), 2, "nothing was removed");

        drop(storing);
        let said = partials(&ours);
        assert!(matches!(&*said, [one] if one.outcome == "removed"), "{said:?}");
        let left: Vec<_> = ours.partials().unwrap().into_iter().map(|partial| partial.hostname).collect();
        assert_eq!(left, ["elsewhere"], "what another host stored is its own to remove");
        assert_eq!(partials(&ours), []);
    }
}

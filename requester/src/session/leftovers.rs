//! What dead sessions left: found at the next start and by `gc`, named, and removed.

use tokio::task::spawn_blocking;

use super::holders::{Holders, Released};
use super::record::hostname;
use super::shadows;
use crate::paths::Paths;
use crate::provider::{self, Providers};
use crate::repository::Repository;

/// What was left, and whether all of it could be dealt with.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// A sentence for each thing.
    pub found: Vec<String>,
    /// A holder was killed and is still there: its application may be held.
    pub still_held: bool,
}

/// Removes what is left. Call with the session lock held: then
/// whatever is on record belongs to the dead.
pub async fn clean(paths: &Paths, providers: &Providers, repository: Option<&Repository>) -> Leftovers {
    let Leftovers { mut found, still_held } = holders(paths);
    let (state, built) = (paths.state.clone(), providers.build());
    let shadows = spawn_blocking(move || match provider::orphans(&state) {
        Ok(records) => {
            let damaged = records.damaged.into_iter().map(|e| format!("a shadow copy's record: {e}"));
            let removed = records.records.into_iter().map(|record| {
                let name = format!("shadow copy {} of set {}", record.id, record.set);
                match provider::delete(&record, &built) {
                    Ok(()) => format!("{name}: removed"),
                    Err(error) => format!("{name}: NOT removed: {error}"),
                }
            });
            removed.chain(damaged).collect()
        }
        Err(error) => vec![format!("the records of shadow copies cannot be read: {error}")],
    })
    .await;
    found.extend(shadows.unwrap_or_default());
    if let Some(repository) = repository.cloned() {
        found.extend(spawn_blocking(move || partials(&repository)).await.unwrap_or_default());
    }
    Leftovers { found, still_held }
}

/// Removes the shadow copies of this very process, whose session was given up. Returns what it could not.
pub async fn clean_own(paths: &Paths, providers: &Providers) -> Vec<String> {
    let (state, built) = (paths.state.clone(), providers.build());
    let removed: Vec<String> = spawn_blocking(move || {
        // A cut that was under way notices that it was given up, and removes what it made.
        shadows::wait_for_cuts();
        let records = provider::list(&state).map(|listed| listed.records).unwrap_or_default();
        let ours = records.into_iter().filter(|record| record.owner == provider::Owner::current());
        let failed = ours.filter_map(|record| {
            let error = provider::delete(&record, &built).err()?;
            Some(format!("shadow copy {} was NOT removed: {error}; `holdfast gc` tries again", record.id))
        });
        failed.collect()
    })
    .await
    .unwrap_or_default();
    let mut left = holders(paths).found;
    // That this session ended is no news.
    left.retain(|line| !line.contains("without a word"));
    left.extend(removed);
    left
}

fn holders(paths: &Paths) -> Leftovers {
    let recorded = match Holders::recorded(&paths.runtime) {
        Ok(Some(holders)) => holders,
        Ok(None) => return Leftovers::default(),
        Err(error) => {
            let found = vec![format!("the recorded holders cannot be read: {error}")];
            return Leftovers { found, still_held: false };
        }
    };
    let ended = recorded.end();
    let still_held = ended.iter().any(|(_, released)| *released == Released::StillHeld);
    let mut found: Vec<_> = ended
        .into_iter()
        .filter_map(|(holder, released)| match released {
            Released::Released => Some(format!("`{}` was still held, and is released", holder.writer)),
            Released::StillHeld => {
                Some(format!("`{}` is STILL HELD: run `holdfast thaw --all`", holder.writer))
            }
            Released::WasNotHeld => None,
        })
        .collect();
    if !still_held {
        found.push(format!("session {} ended without a word; no application is held by it", recorded.set));
        Holders::forget(&paths.runtime);
    }
    Leftovers { found, still_held }
}

/// Only this host's: another one may be storing its own right now. And only while nobody else is at work on the
/// repository: the host name does not tell machines apart, nor two sessions of one machine, but whoever stores holds a
/// lock from before its first part to after its last.
fn partials(repository: &Repository) -> Vec<String> {
    // First the parts, then the locks: what is listed here is of somebody seen there, or of the dead.
    let partials = match repository.partials() {
        Ok(partials) => partials,
        Err(error) => return vec![format!("partial sets cannot be listed: {error}")],
    };
    let ours = partials.into_iter().filter(|partial| partial.hostname == hostname());
    let mut sets: Vec<_> = ours.filter_map(|partial| partial.set).collect();
    sets.sort();
    sets.dedup();
    if sets.is_empty() {
        return Vec::new();
    }
    let at_work = repository.others_at_work().map(|others| others.into_iter().next());
    let remove = |set| match &at_work {
        Ok(None) => match repository.remove_partials(Some(set)) {
            Ok(_) => format!("a part of set {set}, which was cut off while it was stored: removed"),
            Err(error) => format!("a part of set {set}: NOT removed: {error}"),
        },
        Ok(Some(owner)) => format!(
            "a part of set {set}: left alone, since it may be of a session at work now ({owner}); \
             a later `holdfast gc` removes it if not"
        ),
        Err(error) => format!("a part of set {set}: NOT removed: who is at work cannot be told: {error}"),
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
            matches!(&*said, [one] if one.contains(&here.set.to_string()) && one.contains("left alone")),
            "{said:?}"
        );
        assert_eq!(ours.partials().unwrap().len(), 2, "nothing was removed");

        drop(storing);
        let said = partials(&ours);
        assert!(matches!(&*said, [one] if one.ends_with(": removed")), "{said:?}");
        let left: Vec<_> = ours.partials().unwrap().into_iter().map(|partial| partial.hostname).collect();
        assert_eq!(left, ["elsewhere"], "what another host stored is its own to remove");
        assert_eq!(partials(&ours), Vec::<String>::new());
    }
}

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

/// Only this machine's: another one may be storing its own right now.
fn partials(repository: &Repository) -> Vec<String> {
    let partials = match repository.partials() {
        Ok(partials) => partials,
        Err(error) => return vec![format!("partial sets cannot be listed: {error}")],
    };
    let ours = partials.into_iter().filter(|partial| partial.hostname == hostname());
    let mut sets: Vec<_> = ours.filter_map(|partial| partial.set).collect();
    sets.sort();
    sets.dedup();
    sets.into_iter()
        .map(|set| match repository.remove_partials(Some(set)) {
            Ok(_) => format!("a part of set {set}, which was cut off while it was stored: removed"),
            Err(error) => format!("a part of set {set}: NOT removed: {error}"),
        })
        .collect()
}

//! Which components come back, and which writer comes before which.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_writer_api::document::WriterRecord;
use holdfast_writer_api::selection::{Inclusion, for_restore};
use holdfast_writer_api::{Component, ComponentRef, RestoreRank, WriterMetadata};

use super::RestoreOptions;
use super::set::SetContents;
use crate::failure::{Exit, Failure, NOTHING_CHANGED};

/// A writer of the set and the components of it that come back.
#[derive(Debug)]
pub(super) struct Chosen {
    pub record: WriterRecord,
    pub metadata: WriterMetadata,
    pub components: Vec<Component>,
}

impl Chosen {
    /// Whether the component of that name comes back.
    pub fn has(&self, reference: &ComponentRef) -> bool {
        self.components.iter().any(|component| component.is(reference))
    }
}

/// The writers that come back, in their order.
///
/// # Errors
/// An unknown writer or component, or one that cannot be chosen: exit 2. A circle of dependencies: exit 4.
pub(super) fn choose(contents: &SetContents, options: &RestoreOptions) -> Result<Vec<Chosen>, Failure> {
    let ids: Vec<&str> = contents.set.writers.iter().map(|writer| writer.id.as_str()).collect();
    if let Some(unknown) =
        options.writers.iter().chain(options.components.keys()).find(|id| !ids.contains(&id.as_str()))
    {
        let what = format!("the set has no writer `{unknown}`; it has: {}", ids.join(", "));
        return Err(Failure::refused(Exit::Usage, what));
    }
    let wanted = |id: &String| {
        let by_writer = options.writers.contains(id);
        let by_component = options.components.contains_key(id);
        by_writer || by_component || (options.writers.is_empty() && options.components.is_empty())
    };
    let mut chosen = Vec::new();
    for record in contents.set.writers.iter().filter(|record| wanted(&record.id)) {
        let Some(metadata) = contents.metadata.get(&record.id) else { continue };
        let names: &[ComponentRef] = options.components.get(&record.id).map_or(&[], Vec::as_slice);
        let components = components(record, metadata, names)?;
        if !components.is_empty() {
            let components = components.into_iter().cloned().collect();
            chosen.push(Chosen { record: record.clone(), metadata: metadata.clone(), components });
        }
    }
    if chosen.is_empty() {
        return Err(Failure::refused(Exit::Usage, "there is nothing to restore: the set has no components"));
    }
    in_order(chosen)
}

fn components<'s>(
    record: &'s WriterRecord,
    metadata: &'s WriterMetadata,
    names: &[ComponentRef],
) -> Result<Vec<&'s Component>, Failure> {
    let mut in_backup = Vec::new();
    for stored in &record.components {
        let component = metadata.component(&stored.reference).ok_or_else(|| {
            let what = format!(
                "the set contradicts itself: `{}/{}` is not in its writer's description",
                record.id, stored.reference
            );
            Failure::refused(Exit::Failed, what)
        })?;
        in_backup.push((component, if stored.explicit { Inclusion::Explicit } else { Inclusion::Implicit }));
    }
    for_restore(&in_backup, names).map_err(|error| {
        let what = format!("the components of `{}` cannot be chosen like this", record.id);
        Failure::new(Exit::Usage, what, error, NOTHING_CHANGED)
    })
}

/// By rank, and before that by dependency: what has to be there first, is.
// A dependency is a statement about these two components; a rank only one about their kinds. Where they agree, as they
// should, this is "by rank, and inside a rank by dependency".
fn in_order(mut chosen: Vec<Chosen>) -> Result<Vec<Chosen>, Failure> {
    let ids: BTreeSet<String> = chosen.iter().map(|writer| writer.record.id.clone()).collect();
    let needs: BTreeMap<String, BTreeSet<String>> = chosen
        .iter()
        .map(|writer| {
            let on = writer.components.iter().flat_map(|component| &component.dependencies);
            let on = on.map(|dependency| dependency.writer.clone()).filter(|id| ids.contains(id));
            (writer.record.id.clone(), on.collect())
        })
        .collect();
    let mut ordered: Vec<Chosen> = Vec::new();
    chosen.sort_by_key(|writer| writer.metadata.restore.rank);
    while !chosen.is_empty() {
        let there = |id: &String| ordered.iter().any(|done| done.record.id == *id);
        let free = chosen.iter().position(|writer| needs[&writer.record.id].iter().all(there));
        let Some(free) = free else {
            let circle = circle(&needs, &chosen[0].record.id);
            let what = format!("the writers depend on each other in a circle: {}", circle.join(" → "));
            return Err(Failure::refused(Exit::Refused, what).help("restore them one by one, with --writer"));
        };
        ordered.push(chosen.remove(free));
    }
    Ok(ordered)
}

/// Follows unmet dependencies from `start` until a name comes again.
fn circle(needs: &BTreeMap<String, BTreeSet<String>>, start: &str) -> Vec<String> {
    // Every writer left has a dependency among those left; ones that are done lead nowhere and are not circles.
    fn find(needs: &BTreeMap<String, BTreeSet<String>>, path: &mut Vec<String>) -> Option<Vec<String>> {
        for next in needs.get(path.last()?)? {
            if let Some(at) = path.iter().position(|seen| seen == next) {
                let mut circle = path[at..].to_vec();
                circle.push(next.clone());
                return Some(circle);
            }
            path.push(next.clone());
            if let Some(found) = find(needs, path) {
                return Some(found);
            }
            path.pop();
        }
        None
    }
    find(needs, &mut vec![start.to_owned()]).unwrap_or_else(|| vec![start.to_owned()])
}

/// A rank as the documents write it.
pub(super) const fn rank_name(rank: RestoreRank) -> &'static str {
    match rank {
        RestoreRank::BootFiles => "boot files",
        RestoreRank::Services => "services",
        RestoreRank::Directory => "directory",
        RestoreRank::Applications => "applications",
        RestoreRank::Registry => "registry",
    }
}

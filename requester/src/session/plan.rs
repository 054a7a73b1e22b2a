//! What a backup will cut, decided before anything is held: components → files → volumes → providers.
//!
//! Owns: the refusals of preflight. Each names the component, the path and the reason, and all of them
//! are collected, so that an administrator mends them in one go.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_writer_api::selection::{self, Inclusion};
use holdfast_writer_api::{Component, ComponentKind, ComponentRef, WriterMetadata};

use crate::provider::{Atomicity, Provider, ProviderRegistry};
use crate::volume::{FileSelection, Volume, VolumeMap};

/// A component that takes part.
#[derive(Debug, Clone)]
pub struct PlannedComponent {
    /// Its writer's id.
    pub writer: String,
    /// The component as its writer declared it.
    pub component: Component,
    /// Whether it was named itself.
    pub explicit: bool,
    /// Whether its writer holds it during the cut.
    pub held: bool,
    /// Its files, each with the index of its volume in [`CutPlan::volumes`].
    pub selections: Vec<(usize, FileSelection)>,
}

/// A volume that takes part.
pub struct PlannedVolume {
    /// The volume.
    pub volume: Volume,
    /// Who cuts it.
    pub provider: &'static dyn Provider,
    /// All selections on it, of all components.
    pub selections: Vec<FileSelection>,
}

/// Everything that is decided before the freeze.
pub struct CutPlan {
    /// Components, in the order of the writers.
    pub components: Vec<PlannedComponent>,
    /// Volumes, by mount point.
    pub volumes: Vec<PlannedVolume>,
}

/// Why a backup is refused before it begins. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[error("{}", refusals.join("\n       "))]
pub struct Refused {
    /// All reasons.
    pub refusals: Vec<String>,
}

/// A writer that takes part, and what the user wants of it.
pub struct Wanted<'w> {
    /// Its description.
    pub metadata: &'w WriterMetadata,
    /// The chosen components; empty for all.
    pub chosen: Vec<ComponentRef>,
    /// The provider it asks for.
    pub provider: Option<&'w str>,
}

/// Decides what is cut by whom.
///
/// # Errors
/// [`Refused`] with every reason found.
pub fn plan(
    wanted: &[Wanted<'_>],
    map: &VolumeMap,
    providers: &ProviderRegistry,
) -> Result<CutPlan, Refused> {
    let mut refusals = Vec::new();
    let mut components = Vec::new();
    let mut volumes: BTreeMap<PathBuf, (usize, Volume, Vec<FileSelection>, Option<&str>)> = BTreeMap::new();
    for writer in wanted {
        let id = &writer.metadata.id;
        let chosen = match selection::for_backup(&writer.metadata.components, &writer.chosen) {
            Ok(chosen) => chosen,
            Err(error) => {
                refusals.push(format!("writer `{id}`: {error}"));
                continue;
            }
        };
        for (component, inclusion) in chosen {
            let name = component.reference();
            let held = component.held && writer.metadata.capabilities.freeze;
            let mut planned = PlannedComponent {
                writer: id.clone(),
                component: component.clone(),
                explicit: inclusion == Inclusion::Explicit,
                held,
                selections: Vec::new(),
            };
            for files in &component.files {
                let selection = FileSelection {
                    path: files.path.clone(),
                    pattern: files.pattern.clone(),
                    recursive: files.recursive,
                    optional: files.optional,
                    exclude: component.exclude.clone(),
                    held,
                };
                let at = || format!("writer `{id}`, component `{name}`");
                let volume = match map.resolve(&files.path) {
                    Ok(volume) => volume,
                    Err(error) => {
                        refusals.push(format!("{}: {error}", at()));
                        continue;
                    }
                };
                let next = volumes.len();
                let key = volume.root().to_owned();
                let entry = volumes.entry(key).or_insert((next, volume, Vec::new(), None));
                entry.2.push(selection.clone());
                match (entry.3, writer.provider) {
                    (Some(one), Some(other)) if one != other => refusals.push(format!(
                        "{}: asks for provider `{other}`, another writer on the same volume for `{one}`",
                        at()
                    )),
                    (None, wish) => entry.3 = wish,
                    _ => {}
                }
                planned.selections.push((entry.0, selection));
            }
            components.push(planned);
        }
    }
    let mut by_index: Vec<_> = volumes.into_values().collect();
    by_index.sort_by_key(|(index, ..)| *index);
    let mut planned_volumes = Vec::new();
    for (_, volume, selections, wish) in by_index {
        match crate::provider::choose(providers, &volume, &selections, wish) {
            Ok(provider) => planned_volumes.push(PlannedVolume { volume, provider, selections }),
            Err(reasons) => refusals.push(format!(
                "volume {}: no provider can cut it: {reasons}",
                volume.root().display(),
            )),
        }
    }
    for component in components.iter().filter(|c| !c.held && c.component.kind != ComponentKind::Keys) {
        let mut on: Vec<usize> = component.selections.iter().map(|(volume, _)| *volume).collect();
        on.sort_unstable();
        on.dedup();
        if on.len() > 1 {
            refusals.push(format!(
                "writer `{}`, component `{}` is not held and lies on {} volumes: they cannot share one instant",
                component.writer,
                component.component.reference(),
                on.len()
            ));
        }
    }
    if refusals.is_empty() {
        return Ok(CutPlan { components, volumes: planned_volumes });
    }
    Err(Refused { refusals })
}

impl CutPlan {
    /// Whether all components will show one instant: everything is either held over the whole cut, or cut
    /// by one and the same shadow copy.
    pub fn one_instant(&self) -> bool {
        let mut unheld: Vec<usize> = self
            .components
            .iter()
            .filter(|component| !component.held)
            .flat_map(|component| component.selections.iter().map(|(volume, _)| *volume))
            .collect();
        unheld.sort_unstable();
        unheld.dedup();
        unheld.len() <= 1
    }

    /// Atomicity of a volume's provider, for the documents.
    pub fn atomicity(&self, volume: usize) -> Atomicity {
        self.volumes[volume].provider.atomicity()
    }
}

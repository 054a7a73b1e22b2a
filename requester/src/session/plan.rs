//! What a backup will cut, decided before anything is held: components → files → volumes → providers.
//!
//! Owns: the refusals of preflight. Each names the component, the path and the reason, and all of them
//! are collected, so that an administrator mends them in one go.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_writer_api::selection::{self, Inclusion};
use holdfast_writer_api::{Component, ComponentKind, ComponentRef, WriterMetadata};

use super::keys::DeclaredKeys;
use crate::provider::{Provider, ShadowArea};
use crate::volume::{Exclude, FileSelection, Pattern, Volume, VolumeError, VolumeMap};

/// File systems without files of their own. Their files have no size, so that they would be stored as empty ones.
const PSEUDO: [&str; 12] = [
    "proc",
    "sysfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "tracefs",
    "securityfs",
    "configfs",
    "bpf",
    "pstore",
    "devpts",
    "mqueue",
];

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
    /// What none of its files may be, under whatever name.
    pub keys: Arc<DeclaredKeys>,
}

/// A volume that takes part.
pub struct PlannedVolume {
    /// The volume.
    pub volume: Volume,
    /// Who cuts it.
    pub provider: Arc<dyn Provider>,
    /// All selections on it, of all components.
    pub selections: Vec<FileSelection>,
}

impl PlannedVolume {
    /// What a person calls it: its subvolume's root, else its mount point.
    pub fn root(&self) -> PathBuf {
        root(&self.volume)
    }
}

fn root(volume: &Volume) -> PathBuf {
    volume.subvolume_root.clone().unwrap_or_else(|| volume.mount_point.clone())
}

/// Everything that is decided before the freeze.
pub struct CutPlan {
    /// Components, in the order of the writers.
    pub components: Vec<PlannedComponent>,
    /// Volumes, by mount point.
    pub volumes: Vec<PlannedVolume>,
}

impl CutPlan {
    /// The components of one writer.
    pub fn of(&self, writer: &str) -> impl Iterator<Item = &Component> {
        self.components
            .iter()
            .filter(move |planned| planned.writer == writer)
            .map(|planned| &planned.component)
    }
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

/// Decides what is cut by whom. `bystanders` take no part; their keys are kept out of everybody's files all the same.
///
/// # Errors
/// [`Refused`] with every reason found.
pub fn plan(
    wanted: &[Wanted<'_>],
    bystanders: &[WriterMetadata],
    map: &VolumeMap,
    providers: &[Arc<dyn Provider>],
    area: &ShadowArea,
) -> Result<CutPlan, Refused> {
    let mut refusals = Vec::new();
    let mut components = Vec::new();
    let declaring = wanted.iter().map(|writer| writer.metadata).chain(bystanders);
    let keys = DeclaredKeys::look(declaring).unwrap_or_else(|problems| {
        refusals.extend(problems);
        DeclaredKeys::default()
    });
    let keys = Arc::new(keys);
    #[expect(clippy::type_complexity, reason = "local to this function, and read top to bottom")]
    let mut volumes: BTreeMap<String, (usize, Volume, Vec<FileSelection>, Option<&str>)> = BTreeMap::new();
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
                keys: Arc::clone(&keys),
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
                let mut refuse = |error: VolumeError| refusals.push(format!("{}: {error}", at()));
                let selection = match selection.settle() {
                    Ok(Some(selection)) => selection,
                    // Optional, and not there.
                    Ok(None) => continue,
                    Err(error) => {
                        refuse(error);
                        continue;
                    }
                };
                let volume = match map.resolve(&selection.path) {
                    Ok(volume) => volume,
                    Err(error) => {
                        refuse(error);
                        continue;
                    }
                };
                if PSEUDO.contains(&volume.fs_type.as_str()) {
                    refusals.push(format!(
                        "{}: {} lies on {}, where the kernel shows its state: nothing there can be backed up",
                        at(),
                        selection.path.join(&selection.pattern).display(),
                        volume.fs_type
                    ));
                    continue;
                }
                if selection.recursive {
                    match map.nested(&selection.path) {
                        Ok(nested) => refusals.extend(nested.into_iter().map(|inner| {
                            format!(
                                "{}: {} is a volume of its own inside {}; exclude it or give it a writer",
                                at(),
                                inner.display(),
                                selection.path.display()
                            )
                        })),
                        Err(error) => refuse(error),
                    }
                }
                let next = volumes.len();
                let key = volume.id.clone();
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
    let with_keys: Vec<_> = by_index.iter().map(|(_, volume, ..)| keys.on_volume(map, &volume.id)).collect();
    let mut planned_volumes = Vec::new();
    for (_, volume, selections, wish) in by_index {
        match choose(&volume, &selections, providers, area, wish) {
            Ok(provider) => planned_volumes.push(PlannedVolume { volume, provider, selections }),
            Err(reasons) => {
                refusals.push(format!("no provider can cut {}: {reasons}", root(&volume).display()));
            }
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
    refusals.extend(shared_files(&components));
    refusals.extend(keys_by_other_names(&components, &with_keys));
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
}

/// What two components would both store: a declared key in plain (promise P9), or files that two writers
/// claim, of which no restore could say whose they are.
fn shared_files(components: &[PlannedComponent]) -> Vec<String> {
    let mut shared = Vec::new();
    for taker in components {
        let at = || format!("writer `{}`, component `{}`", taker.writer, taker.component.reference());
        for (_, selection) in &taker.selections {
            for key in taker.keys.iter().filter(|key| covers(selection, &key.path)) {
                shared.push(format!(
                    "{}: takes in {}, a key of `{}`, which must not be stored in plain: exclude it",
                    at(),
                    key.path.display(),
                    key.writer
                ));
            }
            for owner in components {
                if owner.writer == taker.writer {
                    continue;
                }
                for (_, other) in &owner.selections {
                    let named = !other.recursive && !other.pattern.contains(['*', '?']);
                    let path = if named { other.path.join(&other.pattern) } else { other.path.clone() };
                    // Side files come and go with their database, which is named itself.
                    if selection.recursive && !other.optional && covers(selection, &path) {
                        shared.push(format!(
                            "{}: takes in {}, which is component `{}` of writer `{}`: exclude it",
                            at(),
                            path.display(),
                            owner.component.reference(),
                            owner.writer
                        ));
                    }
                }
            }
        }
    }
    shared
}

/// Declared keys that a component would store in plain under names that no declaration mentions (promise P9).
/// `with_keys` says of each volume whether a key lies on it.
fn keys_by_other_names(components: &[PlannedComponent], with_keys: &[bool]) -> Vec<String> {
    let mut found = Vec::new();
    for taker in components {
        for (_, selection) in taker.selections.iter().filter(|(volume, _)| with_keys[*volume]) {
            let keys = taker.keys.among(selection).into_iter();
            found.extend(keys.map(|(path, key)| format!(
                "writer `{}`, component `{}`: takes in {}, the same file as {}, a key of `{}`, which must not be stored \
                 in plain: remove that link, exclude it, or declare it as a key too",
                taker.writer,
                taker.component.reference(),
                path.display(),
                key.path.display(),
                key.writer
            )));
        }
    }
    found
}

/// Whether `selection` takes in `path`.
fn covers(selection: &FileSelection, path: &Path) -> bool {
    let Ok(below) = path.strip_prefix(&selection.path) else { return false };
    let (Some(name), depth) = (below.file_name(), below.components().count()) else {
        return selection.recursive;
    };
    let matches = Pattern::new(&selection.pattern).is_ok_and(|pattern| pattern.matches(name));
    let excluded = || {
        let excludes =
            selection.exclude.iter().filter_map(|text| Exclude::new(text, &selection.path).ok()?);
        let excludes: Vec<_> = excludes.collect();
        below.ancestors().any(|part| excludes.iter().any(|exclude| exclude.matches(part)))
    };
    (selection.recursive || depth == 1) && (matches || selection.pattern == "*") && !excluded()
}

/// The strongest provider that can, or the one that was asked for.
fn choose(
    volume: &Volume,
    selections: &[FileSelection],
    providers: &[Arc<dyn Provider>],
    area: &ShadowArea,
    wish: Option<&str>,
) -> Result<Arc<dyn Provider>, String> {
    let mut candidates: Vec<_> =
        providers.iter().filter(|p| wish.is_none_or(|name| p.name() == name)).collect();
    candidates.sort_by_key(|provider| provider.atomicity());
    let mut reasons = Vec::new();
    for provider in candidates {
        match provider.supports(volume, selections, area) {
            Ok(()) => return Ok(Arc::clone(provider)),
            Err(reason) => reasons.push(format!("`{}`: {reason}", provider.name())),
        }
    }
    match (wish, reasons.is_empty()) {
        (Some(name), true) => Err(format!("there is no provider `{name}`")),
        _ => Err(reasons.join("; ")),
    }
}

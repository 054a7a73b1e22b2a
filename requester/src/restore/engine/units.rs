//! From what a set stored to what a restore replaces: files and folders that change places as a whole.
//!
//! Owns: which stored roots become units, what travels beside them, and what of today's files must not stay among them.
//! Leaves to others: whether the targets are fit ([`crate::restore::plan`]), keys ([`super::keys`]).

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use holdfast_writer_api::document::StoredRoot;
use holdfast_writer_api::pattern::{Exclude, Pattern};

use super::choose::Chosen;
use super::fault;
use super::set::{SetContents, is_plain, stored_path};
use crate::failure::{Exit, Failure};
use crate::repository::{NodeKind, RepositoryError, StoredNode};
use crate::restore::target::TargetMap;
use crate::restore::{Kind, UnitSpec};

/// A path that is replaced as a whole.
#[derive(Debug, Clone)]
pub(super) struct Unit {
    /// Full name of the component it came with.
    pub component: String,
    /// Where the application had it.
    pub original: PathBuf,
    /// Where it goes.
    pub target: PathBuf,
    /// Where it lies in the set.
    pub stored: PathBuf,
    pub folder: bool,
    /// False: something of the folder was not stored.
    pub whole: bool,
    /// Names beside it that go away with the old data.
    pub companions: Vec<String>,
    /// What the set has of them, and links and special files that come and go with it.
    pub riders: Vec<Rider>,
    /// Those of them that are there today, match what the component takes in, and were not there then.
    pub removes: Vec<String>,
    pub bytes: u64,
    pub entries: u64,
}

/// Something of the set that is put in place together with a unit.
#[derive(Debug, Clone)]
pub(super) struct Rider {
    /// Its name beside the target.
    pub name: String,
    /// Where the application had it.
    pub original: PathBuf,
    /// Where it lies in the set.
    pub stored: PathBuf,
}

impl Unit {
    /// As the placement wants it.
    pub fn spec(&self) -> UnitSpec {
        let mut companions: Vec<OsString> = Vec::new();
        let riders = self.riders.iter().map(|rider| &rider.name);
        for name in self.companions.iter().chain(riders).chain(&self.removes).map(OsString::from) {
            if !companions.contains(&name) {
                companions.push(name);
            }
        }
        let kind = if self.folder { Kind::Directory } else { Kind::File };
        UnitSpec { live: self.target.clone(), kind, companions }
    }

    /// Whether something is there now.
    pub fn replaces(&self) -> bool {
        self.target.symlink_metadata().is_ok()
    }
}

/// The units of one writer, and sentences about what could not become one.
pub(super) struct Units {
    pub units: Vec<Unit>,
    pub notes: Vec<String>,
    pub problems: Vec<String>,
}

/// Works out the units of `writer`. Blocks: reads the set's folders.
///
/// # Errors
/// The repository's; a set whose paths lead out of a writer's place in it.
pub(super) fn units(contents: &SetContents, writer: &Chosen, map: &TargetMap) -> Result<Units, Failure> {
    let id = writer.record.id.as_str();
    let mut found = Units { units: Vec::new(), notes: Vec::new(), problems: Vec::new() };
    let mut odd = Vec::new();
    for (component, root) in outermost(writer) {
        check_root(id, root)?;
        let node = match contents.reader.node(Path::new(&root.stored)) {
            Ok(node) => node,
            Err(RepositoryError::NoSuchPath { .. }) => {
                found.notes.push(format!(
                    "{} was not there when the set was made and is left alone",
                    root.original.display()
                ));
                continue;
            }
            Err(error) => return Err(fault::repository("the set's files cannot be read", error)),
        };
        let target = match map.target(&root.original) {
            Ok(target) => target,
            Err(error) => {
                found.problems.push(error.to_string());
                continue;
            }
        };
        match node.kind {
            NodeKind::File | NodeKind::Directory => {
                found.units.push(unit(contents, id, component, root, &node, target)?);
            }
            NodeKind::Symlink { .. }
            | NodeKind::Fifo
            | NodeKind::Socket
            | NodeKind::BlockDevice { .. }
            | NodeKind::CharDevice { .. } => odd.push((component, root.original.clone(), node, target)),
        }
    }
    for (component, original, node, target) in odd {
        ride_along(&mut found, &component, original, node, &target);
    }
    drop_strays(writer, map, &mut found);
    Ok(found)
}

/// The stored roots of the chosen components, without those that lie inside another: a folder brings back all that is
/// stored below it.
fn outermost(writer: &Chosen) -> Vec<(String, &StoredRoot)> {
    let mut roots: BTreeMap<&Path, (String, &StoredRoot)> = BTreeMap::new();
    for record in writer.record.components.iter().filter(|record| writer.has(&record.reference)) {
        for root in &record.roots {
            let name = record.reference.to_string();
            match roots.get_mut(root.original.as_path()) {
                // Two file sets of one folder: what either left out is missing.
                Some((_, known)) if root.folder && !root.whole && known.whole => *known = root,
                Some(_) => {}
                None => {
                    roots.insert(&root.original, (name, root));
                }
            }
        }
    }
    // Sorted by component, a folder comes right before what lies below it.
    let mut kept: Vec<(String, &StoredRoot)> = Vec::new();
    for (_, (name, root)) in roots {
        let inside =
            kept.last().is_some_and(|(_, outer)| outer.folder && root.original.starts_with(&outer.original));
        if !inside {
            kept.push((name, root));
        }
    }
    kept
}

fn check_root(writer: &str, root: &StoredRoot) -> Result<(), Failure> {
    let sound = is_plain(&root.original)
        && root.original.file_name().is_some()
        && Path::new(&root.stored) == stored_path(writer, &root.original)
        && root
            .companions
            .iter()
            .all(|name| !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..");
    if sound {
        return Ok(());
    }
    let what = format!("the set contradicts itself: `{}` is no place of a file of `{writer}`", root.stored);
    Err(Failure::refused(Exit::Failed, what))
}

fn unit(
    contents: &SetContents,
    writer: &str,
    component: String,
    root: &StoredRoot,
    node: &StoredNode,
    target: PathBuf,
) -> Result<Unit, Failure> {
    let failed = |error| fault::repository("the set's files cannot be read", error);
    let folder = node.kind == NodeKind::Directory;
    let (mut bytes, mut entries) = (on_disk(node), 1);
    if folder {
        for inner in contents.reader.walk(&node.path).map_err(failed)? {
            bytes += on_disk(&inner.map_err(failed)?);
            entries += 1;
        }
    }
    let mut riders = Vec::new();
    let mut companions = Vec::new();
    for old_name in &root.companions {
        let original = root.original.with_file_name(old_name);
        let stored = stored_path(writer, &original);
        let name = renamed(old_name, &root.original, &target);
        companions.push(name.clone());
        match contents.reader.node(&stored) {
            Ok(node) => {
                bytes += on_disk(&node);
                entries += 1;
                riders.push(Rider { name, original, stored });
            }
            Err(RepositoryError::NoSuchPath { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(Unit {
        component,
        original: root.original.clone(),
        target,
        stored: node.path.clone(),
        folder,
        whole: root.whole || !folder,
        companions,
        riders,
        removes: Vec::new(),
        bytes,
        entries,
    })
}

/// A side file is found by its main file's name, also when that is restored under another: `x.db-wal` beside `x.db`.
fn renamed(companion: &str, original: &Path, target: &Path) -> String {
    let name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    match (name(original), name(target)) {
        (Some(old), Some(new)) => companion
            .strip_prefix(old.as_str())
            .map_or_else(|| companion.to_owned(), |rest| format!("{new}{rest}")),
        _ => companion.to_owned(),
    }
}

/// A file takes whole blocks, and an entry of its own takes some space too.
fn on_disk(node: &StoredNode) -> u64 {
    node.metadata.size.div_ceil(4096).saturating_mul(4096)
}

/// A link or special file cannot be a unit (a blocker could not take its place unseen); it comes and goes beside one.
fn ride_along(found: &mut Units, component: &str, original: PathBuf, node: StoredNode, target: &Path) {
    let beside = |unit: &&mut Unit| unit.target.parent() == target.parent();
    let name = target.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    match (found.units.iter_mut().find(beside), name) {
        (Some(unit), Some(name)) => {
            unit.entries += 1;
            unit.riders.push(Rider { name, original, stored: node.path });
        }
        _ => found.problems.push(format!(
            "{} of `{component}` is a link or special file with no file of the same restore beside it",
            target.display()
        )),
    }
}

/// Files that a pattern of the component takes in, that are there today and are not in the set: left where they are,
/// they would mix with the restored ones. What the component left out is none of them: the set does not know it.
fn drop_strays(writer: &Chosen, map: &TargetMap, found: &mut Units) {
    for component in &writer.components {
        let patterns =
            component.files.iter().filter(|set| !set.recursive && set.pattern.contains(['*', '?']));
        for set in patterns {
            let Ok(folder) = map.target(&set.path) else { continue };
            // Of a description that was checked when it was read.
            let Ok(pattern) = Pattern::new(&set.pattern) else { continue };
            let Ok(excluded) = Exclude::all(&component.exclude, &set.path) else { continue };
            let taken_in = |name: &OsStr| {
                pattern.matches(name) && !excluded.iter().any(|exclude| exclude.matches(Path::new(name)))
            };
            let known: Vec<String> = found
                .units
                .iter()
                .filter(|unit| unit.target.parent() == Some(&folder))
                .flat_map(|unit| {
                    let own = unit.target.file_name().map(|name| name.to_string_lossy().into_owned());
                    let riders = unit.riders.iter().map(|rider| rider.name.clone());
                    own.into_iter().chain(riders).chain(unit.companions.clone()).chain(unit.removes.clone())
                })
                .collect();
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            let strays: Vec<String> = entries
                .filter_map(Result::ok)
                .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()))
                .filter(|entry| taken_in(&entry.file_name()))
                .filter_map(|entry| entry.file_name().into_string().ok())
                .filter(|name| !known.contains(name))
                .collect();
            if strays.is_empty() {
                continue;
            }
            match found.units.iter_mut().find(|unit| unit.target.parent() == Some(&folder)) {
                Some(unit) => unit.removes.extend(strays),
                None => found.notes.push(format!(
                    "{} held nothing that matches `{}` when the set was made; what matches now is left alone",
                    folder.display(),
                    set.pattern
                )),
            }
        }
    }
}

//! What `reflink` and `copy` share: a tree of files under the paths of their originals. How the bytes of one
//! file get there is a [`Transfer`].
//!
//! Folders and files are made while nothing is held. Files that nobody holds are copied then as well, and
//! `commit` proves that they have not changed since; it fills only those that are held.

mod tree;

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::budget::{Limits, check_estimate};
use super::error::{NotSupported, ProviderError};
use super::record::ShadowRecord;
use super::shadow::{Mapping, Pending, ShadowCopy};
use super::unchanged::{Fingerprint, settled, write_out};
use super::{PreparedShadow, ShadowRequest, area};
use crate::volume::{FileSelection, FoundFile, Kind, Meta, Root, VolumeMap, resolve};
use tree::Tree;

/// How one file gets into the shadow copy.
pub(super) trait Transfer: Send {
    /// Gives the empty file `to` the content of `from`; errors about `to` speak of `shadow`, others of `path`.
    fn transfer(&self, source: &Source<'_>, limits: Limits<'_>) -> Result<(), ProviderError>;

    /// Does beforehand what can be done for a file of this size.
    fn reserve(&self, to: &File, meta: &Meta, shadow: &Path) -> Result<(), ProviderError>;

    /// How long transferring these files will take, from trying some of them.
    fn rehearse(&self, files: &[(&Root, &FoundFile)], shadow: &Root) -> Result<Duration, ProviderError>;

    /// Refuses beforehand what cannot fit.
    fn check_space(&self, files: &[(&Root, &FoundFile)], area: &Root) -> Result<(), ProviderError>;
}

/// One file on its way.
pub(super) struct Source<'a> {
    pub from: &'a File,
    pub meta: &'a Meta,
    pub path: &'a Path,
    pub to: &'a File,
    pub shadow: &'a Path,
}

/// A selection whose folder is there.
struct Open {
    selection: FileSelection,
    root: Root,
    /// Where the folder lies in the tree: its path without links, without the first slash.
    base: PathBuf,
}

impl Open {
    /// `None` if it is optional and absent.
    fn new(selection: &FileSelection, volume: &str) -> Result<Option<Self>, ProviderError> {
        let Some(selection) = selection.settle()? else { return Ok(None) };
        let root = Root::open(&selection.path)?;
        let found = VolumeMap::read()?.resolve(root.path())?.id;
        if found != volume {
            let expected = volume.to_owned();
            return Err(ProviderError::OtherVolume { path: selection.path, expected, found });
        }
        let base = root.path().strip_prefix("/").unwrap_or(Path::new("")).to_path_buf();
        Ok(Some(Self { selection, root, base }))
    }

    fn list(&self) -> Result<Vec<FoundFile>, ProviderError> {
        Ok(resolve(&self.root, &self.selection)?)
    }

    /// Without the files that another selection holds: those may change until they are held.
    fn list_without(&self, held: &HashSet<PathBuf>) -> Result<Vec<FoundFile>, ProviderError> {
        let mut found = self.list()?;
        found.retain(|f| f.meta.kind == Kind::Directory || !held.contains(&self.base.join(&f.rel)));
        Ok(found)
    }

    fn mappings(&self, record: &ShadowRecord) -> [Mapping; 2] {
        let shadow: PathBuf = record.path.join(&self.base).components().collect();
        [&self.selection.path, self.root.path()]
            .map(|original| Mapping { original: original.into(), shadow: shadow.clone() })
    }
}

/// One selection of the request.
struct Part {
    asked: FileSelection,
    open: Option<Open>,
    /// What it was when it was copied, if nobody holds it.
    unheld: Option<Fingerprint>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Cut,
    Failed,
}

struct Prepared<T> {
    transfer: T,
    volume: String,
    parts: Vec<Part>,
    /// Where held files lie in the tree.
    held: HashSet<PathBuf>,
    tree: Tree,
    pending: Pending,
    mappings: Vec<Mapping>,
    estimate: Duration,
    state: State,
}

/// Without root a file of someone else can be read perhaps, but its copy would belong to us.
pub(super) fn check_owners(files: &[FileSelection]) -> Result<(), NotSupported> {
    let us = rustix::process::geteuid();
    if us.is_root() {
        return Ok(());
    }
    let refuse = |e: &dyn std::fmt::Display| NotSupported::new(e.to_string());
    for selection in files {
        let Some(selection) = selection.settle().map_err(|e| refuse(&e))? else { continue };
        let root = Root::open(&selection.path).map_err(|e| refuse(&e))?;
        let found = resolve(&root, &selection).map_err(|e| refuse(&e))?;
        if let Some(foreign) = found.iter().find(|f| f.meta.uid != us.as_raw()) {
            let (path, owner) = (foreign.path.display(), foreign.meta.uid);
            return Err(NotSupported::new(format!(
                "{path} belongs to user {owner}, and only root can copy it with its owner"
            )));
        }
    }
    Ok(())
}

/// Makes everything that can be made before the hold.
pub(super) fn prepare<T: Transfer + 'static>(
    provider: &'static str,
    folder: &Path,
    request: &ShadowRequest,
    transfer: T,
) -> Result<Box<dyn PreparedShadow>, ProviderError> {
    let area = area::open_or_make(folder)?;
    let mut parts = Vec::new();
    for asked in &request.files {
        let open = Open::new(asked, &request.volume.id)?;
        parts.push(Part { asked: asked.clone(), open, unheld: None });
    }
    let lists = parts.iter().map(|p| p.open.as_ref().map_or(Ok(Vec::new()), Open::list));
    let lists = lists.collect::<Result<Vec<_>, _>>()?;
    transfer.check_space(&with_roots(&parts, &lists, |_| true), &area)?;

    let record =
        ShadowRecord::new(&request.area.state_dir, request.set, provider, &request.volume, area.path());
    let pending = Pending::begin(record, delete)?;
    let built = Tree::new(&area, pending.record()).and_then(|tree| {
        let mut prepared = Prepared {
            transfer,
            volume: request.volume.id.clone(),
            parts,
            held: HashSet::new(),
            tree,
            mappings: Vec::new(),
            estimate: Duration::ZERO,
            state: State::Ready,
            pending,
        };
        match prepared.build(&lists, request.budget) {
            Ok(()) => Ok(prepared),
            Err(error) => Err(prepared.pending.undo_after(error)),
        }
    })?;
    Ok(Box::new(built))
}

/// Opens a file for a rehearsal. Nobody holds it yet: a journal that was listed a moment ago may be gone, or
/// another one by now, and then there is nothing to rehearse with.
pub(super) fn open_unless_gone(root: &Root, file: &FoundFile) -> Result<Option<(File, Meta)>, ProviderError> {
    use crate::volume::VolumeError;
    match root.open_seen(&file.rel, &file.meta) {
        Ok(open) => Ok(Some(open)),
        Err(VolumeError::Exchanged { .. } | VolumeError::Missing { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn with_roots<'a>(
    parts: &'a [Part],
    lists: &'a [Vec<FoundFile>],
    wanted: impl Fn(&Part) -> bool,
) -> Vec<(&'a Root, &'a FoundFile)> {
    let mut files = Vec::new();
    for (part, list) in parts.iter().zip(lists).filter(|(part, _)| wanted(part)) {
        let Some(open) = &part.open else { continue };
        files.extend(list.iter().filter(|f| f.meta.kind == Kind::File).map(|f| (&open.root, f)));
    }
    files
}

impl<T: Transfer> Prepared<T> {
    fn build(&mut self, lists: &[Vec<FoundFile>], budget: Duration) -> Result<(), ProviderError> {
        for (part, list) in self.parts.iter().zip(lists).filter(|(part, _)| part.asked.held) {
            let Some(open) = &part.open else { continue };
            self.held.extend(list.iter().map(|f| open.base.join(&f.rel)));
        }
        // What nobody holds is copied now, so that it costs nothing under the hold.
        for part in &mut self.parts {
            let Some(open) = part.open.as_ref().filter(|_| !part.asked.held) else { continue };
            let (found, fingerprint) = settled(&open.root, || open.list_without(&self.held))?;
            for file in &found {
                self.tree.fill(&open.root, &open.base, file, false, &self.transfer, Limits::default())?;
            }
            part.unheld = Some(fingerprint);
        }
        let begun = Instant::now();
        for (part, list) in self.parts.iter().zip(lists) {
            let Some(open) = part.open.as_ref().filter(|_| part.asked.held) else { continue };
            for file in list {
                self.tree.make(&open.base, file, &self.transfer)?;
            }
        }
        let making = begun.elapsed();
        let roots = self.parts.iter().filter_map(|p| p.open.as_ref());
        self.mappings = roots.flat_map(|open| open.mappings(self.pending.record())).collect();
        for (part, list) in self.parts.iter().zip(lists).filter(|(part, _)| part.asked.held) {
            // Whatever has gathered is written out while nobody waits for it.
            if let Some(open) = &part.open {
                write_out(&open.root, list)?;
            }
        }
        let begun = Instant::now();
        for open in self.parts.iter().filter_map(|p| p.open.as_ref()) {
            open.list()?;
        }
        let listing = begun.elapsed();
        let held = with_roots(&self.parts, lists, |part| part.asked.held);
        let transferring = self.transfer.rehearse(&held, self.tree.root())?;
        self.estimate = transferring + making + listing * 2;
        check_estimate(self.estimate, budget)
    }

    fn cut(&mut self, limits: Limits<'_>) -> Result<(), ProviderError> {
        limits.check()?;
        for part in self.parts.iter_mut().filter(|p| p.asked.held) {
            // Opened again by name: the folder may have been exchanged, or be there only now.
            let open = Open::new(&part.asked, &self.volume)?;
            if let (Some(now), Some(then)) = (&open, &part.open)
                && !now.root.meta().same_file(then.root.meta())
            {
                return Err(crate::volume::VolumeError::Exchanged { path: part.asked.path.clone() }.into());
            }
            let Some(open) = open else { continue };
            for file in open.list()? {
                limits.check()?;
                self.held.insert(open.base.join(&file.rel));
                self.tree.fill(&open.root, &open.base, &file, true, &self.transfer, limits)?;
            }
            if part.open.is_none() {
                self.mappings.extend(open.mappings(self.pending.record()));
            }
            part.open = Some(open);
        }
        for part in &self.parts {
            let Some(before) = &part.unheld else {
                if !part.asked.held && Open::new(&part.asked, &self.volume)?.is_some() {
                    return Err(ProviderError::ChangedDuringCut { path: part.asked.path.clone() });
                }
                continue;
            };
            let now = match Open::new(&part.asked, &self.volume)? {
                Some(open) => Fingerprint::of(&open.list_without(&self.held)?),
                None => Fingerprint::of(&[]),
            };
            if let Some(path) = before.difference(&now) {
                return Err(ProviderError::ChangedDuringCut { path });
            }
        }
        limits.check()
    }
}

impl<T: Transfer> PreparedShadow for Prepared<T> {
    fn estimate(&self) -> Duration {
        self.estimate
    }

    fn commit(&mut self, deadline: Instant, cancel: &AtomicBool) -> Result<(), ProviderError> {
        if self.state != State::Ready {
            return Err(ProviderError::OutOfOrder { call: "commit" });
        }
        self.state = State::Failed;
        self.cut(Limits::new(deadline, cancel))?;
        self.state = State::Cut;
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<ShadowCopy, ProviderError> {
        let finished = match self.state {
            State::Cut => self.tree.finish(),
            State::Ready | State::Failed => Err(ProviderError::OutOfOrder { call: "finish" }),
        };
        let this = *self;
        match finished {
            Ok(origins) => Ok(this.pending.keep(this.mappings, origins)),
            Err(error) => Err(this.pending.undo_after(error)),
        }
    }

    fn abort(self: Box<Self>) -> Result<(), ProviderError> {
        let Self { pending, tree, .. } = *self;
        // Its open files would keep their blocks.
        drop(tree);
        pending.undo()
    }
}

/// Deletes a tree of ours: a plain folder, in our area, named by its record.
pub(super) fn delete(record: &ShadowRecord) -> Result<(), ProviderError> {
    let Some((area, name)) = area::of_record(record)? else { return Ok(()) };
    area::remove_tree(&area, &name)
}

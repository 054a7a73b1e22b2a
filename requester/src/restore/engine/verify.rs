//! `holdfast verify`: every byte, every document, and each component by its own engine, in a scratch folder.
//!
//! Owns: what is checked and what counts as a failure. Changes nothing but the scratch folder, which it removes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_store_keys::sealed_to;
use holdfast_writer_api::document::KeysState;
use holdfast_writer_api::{RecoverContext, RestoreRequest, StagedFiles};
use serde::Serialize;
use uuid::Uuid;

use super::choose::{self, Chosen};
use super::fault::{self, blocking, chain, guarded};
use super::plan::Check;
use super::set::SetContents;
use super::units::{self, Unit};
use super::{RestoreEnvironment, RestoreOptions};
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::process::start_time;
use crate::repository::{self, Repository, RepositoryError, StoredSet};
use crate::restore::space::{self, Margin, Need};
use crate::restore::target::TargetMap;

const VERIFY_SCHEMA: &str = "holdfast.verify/1";

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// `holdfast.verify/1`.
    pub schema: &'static str,
    /// The set.
    pub set: Uuid,
    /// Whether nothing is wrong with it.
    pub sound: bool,
    /// Whether every byte of the repository was read again.
    pub read_data: bool,
    /// The repository and the set as a whole.
    pub checks: Vec<Check>,
    /// The writers.
    pub writers: Vec<ComponentFindings>,
}

/// What was found in the components of one writer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ComponentFindings {
    /// The writer.
    pub writer: String,
    /// Full names of its components.
    pub components: Vec<String>,
    /// In the order they were made.
    pub checks: Vec<Check>,
}

impl VerifyReport {
    /// What the command answers when something is wrong: exit 7.
    pub fn failure(&self) -> Option<Failure> {
        let all = || self.checks.iter().chain(self.writers.iter().flat_map(|writer| &writer.checks));
        let wrong: Vec<_> = all()
            .filter(|check| !check.ok)
            .map(|check| format!("{}: {}", check.what, check.result))
            .collect();
        let first = wrong.first()?;
        let more = match wrong.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let what = format!("set {} does not verify: {first}{more}", self.set);
        Some(
            Failure::refused(Exit::VerifyFailed, what)
                .help("make a new backup now; `holdfast list backups` shows older sets"),
        )
    }
}

/// Checks a set. `quick` leaves out reading all of the repository's data; the set's own files are read in any case.
///
/// # Errors
/// The repository cannot be reached, is locked, or there is no space for the scratch folder. What is wrong with the set
/// is in the report.
pub async fn verify(
    env: &RestoreEnvironment<'_>,
    repository: &Repository,
    stored: &StoredSet,
    quick: bool,
) -> Result<VerifyReport, Failure> {
    let mut report = VerifyReport {
        schema: VERIFY_SCHEMA,
        set: stored.set,
        sound: false,
        read_data: !quick,
        checks: Vec::new(),
        writers: Vec::new(),
    };
    let state = env.paths.state.clone();
    blocking(move || sweep(&state)).await;
    check_repository(repository, quick, &mut report).await?;
    let (there, set) = (repository.clone(), stored.clone());
    match blocking(move || SetContents::read(&there, &set)).await {
        Ok(contents) => {
            let count = contents.metadata.len();
            report.checks.push(good("documents", format!("read, of {count} writers")));
            components(env, Arc::new(contents), &mut report).await?;
        }
        Err(failure) => report.checks.push(bad("documents", &failure)),
    }
    let writers = report.writers.iter().flat_map(|writer| &writer.checks);
    report.sound = report.checks.iter().chain(writers).all(|check| check.ok);
    Ok(report)
}

fn good(what: impl Into<String>, result: impl Into<String>) -> Check {
    Check { what: what.into(), result: result.into(), ok: true }
}

fn bad(what: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Check {
    Check { what: what.into(), result: chain(error), ok: false }
}

async fn check_repository(
    repository: &Repository,
    quick: bool,
    report: &mut VerifyReport,
) -> Result<(), Failure> {
    let there = repository.clone();
    let what = if quick { "repository" } else { "repository, every byte" };
    match blocking(move || there.check(!quick)).await {
        Ok(found) => {
            report.checks.push(good(what, "no damage"));
            report.checks.extend(found.notes.into_iter().map(|note| good(what, note)));
            Ok(())
        }
        Err(error @ RepositoryError::Damaged { .. }) => {
            report.checks.push(bad(what, &error));
            Ok(())
        }
        Err(error) => Err(fault::repository("the repository cannot be checked", error)),
    }
}

async fn components(
    env: &RestoreEnvironment<'_>,
    contents: Arc<SetContents>,
    report: &mut VerifyReport,
) -> Result<(), Failure> {
    let chosen = match choose::choose(&contents, &RestoreOptions::new(contents.stored.clone())) {
        Ok(chosen) => chosen,
        Err(failure) => {
            report.checks.push(bad("components", &failure));
            return Ok(());
        }
    };
    for writer in chosen {
        let mut findings = ComponentFindings {
            writer: writer.record.id.clone(),
            components: writer.components.iter().map(|component| component.reference().to_string()).collect(),
            checks: Vec::new(),
        };
        let writer = Arc::new(writer);
        let scratch = scratch_folder(&env.paths.state);
        let (there, those, folder) = (contents.clone(), writer.clone(), scratch.clone());
        let laid = blocking(move || lay_out(&there, &those, folder)).await?;
        match laid {
            Ok(laid) => {
                findings.checks.extend(laid.checks.iter().cloned());
                by_its_writer(env, &contents, &writer, &laid, &mut findings.checks).await;
                blocking(move || drop(laid)).await;
            }
            Err(check) => findings.checks.push(check),
        }
        report.writers.push(findings);
    }
    Ok(())
}

/// A name that tells whose it is, so that what a dead verification left can be removed by the next.
fn scratch_folder(state: &Path) -> PathBuf {
    let pid = std::process::id();
    let started = start_time(pid).unwrap_or_default();
    state.join("verify").join(format!("{pid}-{started}-{}", Uuid::now_v7().simple()))
}

/// Removes the copies that dead verifications left. Blocks.
fn sweep(state: &Path) {
    let Ok(entries) = std::fs::read_dir(state.join("verify")) else { return };
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name();
        let mut parts = name.to_str().unwrap_or_default().split('-').map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(started))) = (parts.next(), parts.next()) else { continue };
        if u32::try_from(pid).ok().and_then(start_time) != Some(started) {
            drop(Scratch(entry.path()));
        }
    }
}

/// A writer's files in a scratch folder, which goes when this goes.
struct LaidOut {
    _scratch: Scratch,
    staged: StagedFiles,
    checks: Vec<Check>,
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is a copy in our own state folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Restores everything of `writer` into `folder`. The inner error is the set's fault, the outer the machine's.
fn lay_out(
    contents: &SetContents,
    writer: &Chosen,
    folder: PathBuf,
) -> Result<Result<LaidOut, Check>, Failure> {
    use std::os::unix::fs::DirBuilderExt;
    let id = &writer.record.id;
    let units = match units::units(contents, writer, &TargetMap::default()) {
        Ok(units) => units,
        Err(failure) => return Ok(Err(bad("files", &failure))),
    };
    let need = |unit: &Unit| Need { target: folder.clone(), bytes: unit.bytes, entries: unit.entries };
    space::check(&units.units.iter().map(need).collect::<Vec<_>>(), Margin::default()).map_err(|error| {
        fault::refused(format!("there is no room to verify `{id}`"), error)
            .help("free some in the state folder")
    })?;
    let failed =
        |error| Failure::new(Exit::Failed, "the scratch folder cannot be made", error, NOTHING_CHANGED);
    let make =
        |folder: &Path| std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed);
    make(&folder)?;
    let scratch = Scratch(folder);
    let (mut selection, mut staged) = (Vec::new(), StagedFiles::default());
    for (index, unit) in units.units.iter().enumerate() {
        let beside = scratch.0.join(index.to_string());
        make(&beside)?;
        for rider in &unit.riders {
            selection.push((rider.stored.clone(), beside.join(&rider.name)));
            staged.roots.push((rider.original.clone(), beside.join(&rider.name)));
        }
        let name = unit.original.file_name().unwrap_or_default();
        selection.push((unit.stored.clone(), beside.join(name)));
        staged.roots.push((unit.original.clone(), beside.join(name)));
    }
    let options = repository::RestoreOptions { allow_lost_attributes: true, progress: None };
    let mut checks = match contents.repository.restore_files(&contents.stored, &selection, &options) {
        Ok(restored) => vec![good(
            "files",
            format!("{} files, {} bytes read back", restored.done.files, restored.done.bytes),
        )],
        Err(error @ (RepositoryError::Damaged { .. } | RepositoryError::NoSuchPath { .. })) => {
            return Ok(Err(bad("files", &error)));
        }
        Err(error) => {
            return Err(fault::repository(&format!("the files of `{id}` cannot be read back"), error));
        }
    };
    checks.extend(units.notes.into_iter().map(|note| good("files", note)));
    if let KeysState::Sealed { keys } = &writer.record.keys {
        for key in keys {
            let what = format!("key {} ({})", key.path.display(), key.purpose);
            checks.push(match contents.sealed(&key.stored) {
                Ok(sealed) => match sealed_to(&sealed) {
                    Ok(to) => {
                        let to: Vec<_> = to.iter().map(ToString::to_string).collect();
                        good(what, format!("is in the set, sealed to {}", to.join(", ")))
                    }
                    Err(error) => bad(what, &error),
                },
                Err(failure) => bad(what, &failure),
            });
        }
    }
    Ok(Ok(LaidOut { _scratch: scratch, staged, checks }))
}

async fn by_its_writer(
    env: &RestoreEnvironment<'_>,
    contents: &SetContents,
    writer: &Chosen,
    laid: &LaidOut,
    checks: &mut Vec<Check>,
) {
    let id = &writer.record.id;
    let Some(configured) = env.writer(id) else {
        let kind = &writer.record.writer_type;
        checks
            .push(good("engine", format!("not asked: no writer `{id}` of type `{kind}` is configured here")));
        return;
    };
    let request = RestoreRequest {
        set: contents.set.set,
        metadata: writer.metadata.clone(),
        components: writer.components.iter().map(|component| component.reference()).collect(),
        in_place: false,
    };
    let asked = async {
        let mut participant = configured.writer.begin_restore(request).await?;
        let mut found = participant.check(&laid.staged).await?.findings;
        if writer.metadata.capabilities.recover {
            let recovered = participant.recover(&laid.staged, &RecoverContext::default()).await?;
            checks.extend(recovered.done.into_iter().map(|done| good("recovery", done)));
        }
        found.extend(participant.verify(&laid.staged).await?.findings);
        Ok(found)
    };
    match guarded(id, "verify", asked).await {
        Ok(found) => checks.extend(found.into_iter().map(|finding| good(finding.check, finding.result))),
        Err(error) => checks.push(bad("engine", &error)),
    }
}

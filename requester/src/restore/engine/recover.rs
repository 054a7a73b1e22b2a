//! What a start gate runs: finishes a registered restore, or fails and so keeps the application down (promise P8).
//!
//! Owns: which markers concern whom, and giving a restore up. Needs no repository, no password and, for what is not
//! registered, no configuration. Harmless any number of times.

use std::io;
use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::RestoreEnvironment;
use super::down::Signs;
use super::fault::{self, blocking, chain, guarded};
use super::finish::{Run, finish, give_up};
use super::report::WriterReport;
use super::request::{RequestError, SavedRequest};
use crate::failure::{Exit, Failure};
use crate::paths::Paths;
use crate::restore::error::{LiveState, Problem, RestoreError};
use crate::restore::registration::{Marker, Registry};
use crate::restore::{Phase, Placement, Undo};
use crate::session::lock::{LockError, SessionLock};
use holdfast_writer_api::{RestoreRequest, WriterMetadata};

const RECOVER_SCHEMA: &str = "holdfast.recover/1";

/// What is asked of [`recover`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoverOptions {
    /// Only the restores that this writer has a part in; the other writers of such a restore go the same way.
    pub writer: Option<String>,
    /// Give them up and put the old data back, where they still are; also those that ended and kept the old data.
    pub roll_back: bool,
    /// The user's word that the application is down where that cannot be seen.
    pub assume_stopped: bool,
}

impl RecoverOptions {
    fn concerns(&self, marker: &Marker) -> bool {
        self.writer.as_ref().is_none_or(|writer| *writer == marker.writer)
    }
}

/// What was found registered, and what became of it. Empty when nothing was.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecoverReport {
    /// `holdfast.recover/1`.
    pub schema: &'static str,
    /// The restores, oldest first.
    pub restores: Vec<Recovery>,
}

/// One restore that was gone on with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recovery {
    /// The restore.
    pub restore: Uuid,
    /// The set its data are from.
    pub set: String,
    /// What became of it: `finished`, `discarded`, `rolled-back`.
    pub outcome: &'static str,
    /// The writer and what was done.
    #[serde(flatten)]
    pub report: WriterReport,
}

/// The report of a [`recover`] that finds nothing to do; `None` when there is something. Takes neither configuration nor
/// lock: a start gate must not fail for what a restore would need that nobody registered.
///
/// # Errors
/// A marker cannot be read.
pub async fn nothing_registered(
    paths: &Paths,
    options: &RecoverOptions,
) -> Result<Option<RecoverReport>, Failure> {
    let found = registered(paths, options).await?;
    Ok(found.is_empty().then(|| RecoverReport { schema: RECOVER_SCHEMA, restores: Vec::new() }))
}

/// Goes on with every registered restore, or gives it up.
///
/// # Errors
/// A marker cannot be read; another session works on it (exit 11); a restore cannot be finished: it stays blocked, the
/// failure says what to do.
pub async fn recover(
    env: &RestoreEnvironment<'_>,
    options: &RecoverOptions,
) -> Result<RecoverReport, Failure> {
    let mut report = RecoverReport { schema: RECOVER_SCHEMA, restores: Vec::new() };
    let found = registered(env.paths, options).await?;
    if found.is_empty() {
        return Ok(report);
    }
    // At boot the runtime folder is empty.
    env.paths.create().map_err(|error| {
        Failure::new(
            Exit::Failed,
            "the state folder cannot be made",
            error,
            "registered restores stay as they are",
        )
    })?;
    let lock = match SessionLock::take(&env.paths.runtime, "recover") {
        Ok(lock) => Arc::new(lock),
        // A restore that ends by starting its application runs this gate while it has the lock itself.
        Err(LockError::Taken { .. })
            if !options.roll_back
                && !found
                    .iter()
                    .flatten()
                    .any(|marker| options.concerns(marker) && marker.phase.gates_start()) =>
        {
            return Ok(report);
        }
        Err(error) => return Err(error.into()),
    };
    let mut first = None;
    for markers in registered(env.paths, options).await? {
        match one(env, options, &markers, &lock).await {
            Ok(recoveries) => report.restores.extend(recoveries),
            Err(failure) => {
                let writers: Vec<_> = markers.iter().map(|marker| format!("`{}`", marker.writer)).collect();
                (env.note)(&format!("the restore of {}: {}", writers.join(", "), failure.what));
                first.get_or_insert(failure);
            }
        }
    }
    match first {
        Some(failure) => Err(failure),
        None => Ok(report),
    }
}

/// The restores that ask for something, oldest first, each with the markers of all its writers in their order.
async fn registered(paths: &Paths, options: &RecoverOptions) -> Result<Vec<Vec<Marker>>, Failure> {
    let held = |problem: Problem| {
        let what = "it cannot be told whether a restore is registered, so no application may start";
        Failure::new(Exit::Failed, what, problem, "registered restores stay as they are")
            .help("look at the markers in `restores` of the state folder")
    };
    let state = paths.state.clone();
    let folder = paths.restores();
    let listed = blocking(move || {
        match folder.symlink_metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            _ => {}
        }
        Registry::open(&state)?.list()
    })
    .await
    .map_err(held)?;
    let mut found: Vec<Vec<Marker>> = Vec::new();
    for marker in listed {
        let marker = marker.map_err(held)?;
        let alike = |group: &&mut Vec<Marker>| {
            marker.together.is_some() && group.iter().any(|other| other.together == marker.together)
        };
        match found.iter_mut().find(alike) {
            Some(group) => group.push(marker),
            None => found.push(vec![marker]),
        }
    }
    let unfinished =
        |group: &Vec<Marker>| group.iter().any(|marker| marker.phase != Phase::Settled) || options.roll_back;
    found.retain(|group| unfinished(group) && group.iter().any(|marker| options.concerns(marker)));
    found.iter_mut().for_each(|group| group.sort_by_key(Marker::position));
    Ok(found)
}

/// Where the writers of one restore go, all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Forward,
    /// Nothing live was touched yet.
    Discard,
    Back,
}

impl Way {
    // All are registered before the first live path is blocked, all are published before the first old data are removed,
    // and of a restore that is given up every marker says so before any goes. So the phases tell what happened.
    fn of(markers: &[Marker], roll_back: bool) -> Self {
        let any = |phase: Phase| markers.iter().any(|marker| marker.phase == phase);
        let is_gone = |writer: &String| markers.iter().all(|marker| marker.writer != *writer);
        let mut together = markers.iter().filter_map(|marker| marker.together.as_ref());
        let one_is_gone = together.any(|together| together.writers.iter().any(is_gone));
        if any(Phase::Staging) {
            Self::Discard
        } else if any(Phase::RollingBack) {
            Self::Back
        } else if any(Phase::Settling) || (any(Phase::Published) && one_is_gone) {
            // Old data of one are gone: going back with the others would put two points in time beside each other.
            Self::Forward
        } else if roll_back {
            Self::Back
        } else {
            Self::Forward
        }
    }
}

async fn one(
    env: &RestoreEnvironment<'_>,
    options: &RecoverOptions,
    markers: &[Marker],
    lock: &Arc<SessionLock>,
) -> Result<Vec<Recovery>, Failure> {
    let way = Way::of(markers, options.roll_back);
    let mut runs = Vec::new();
    for marker in markers {
        // One that ended and kept its old data only ever goes back.
        if marker.phase != Phase::Settled || way == Way::Back {
            runs.push(take_up(env, options, marker, way, lock).await?);
        }
    }
    let outcome = match way {
        Way::Forward => {
            for run in runs.iter_mut().filter(|run| run.phase() != Phase::Settling) {
                engage(env, run).await?;
            }
            finish(env, &mut runs).await?;
            "finished"
        }
        Way::Discard => {
            put_back(env, &mut runs).await?;
            "discarded"
        }
        Way::Back => {
            roll_back(env, &mut runs).await?;
            "rolled-back"
        }
    };
    let recovery = |Run { saved, report, .. }: Run| Recovery {
        restore: saved.restore,
        set: markers.first().map(|marker| marker.set.clone()).unwrap_or_default(),
        outcome,
        report,
    };
    Ok(runs.into_iter().map(recovery).collect())
}

/// The restore as its marker and its saved request have it.
async fn take_up(
    env: &RestoreEnvironment<'_>,
    options: &RecoverOptions,
    marker: &Marker,
    way: Way,
    lock: &Arc<SessionLock>,
) -> Result<Run, Failure> {
    let (state, paths, restore) = (env.paths.state.clone(), env.paths.clone(), marker.restore);
    let loaded = blocking(move || {
        let registry =
            Registry::open(&state).map_err(|problem| RestoreError { problem, state: LiveState::Blocked })?;
        Ok((Placement::load(&registry, restore)?, SavedRequest::load(&paths, restore)))
    })
    .await;
    let (placement, saved) = loaded.map_err(|error: RestoreError| {
        fault::placement(
            &marker.writer,
            format!("the restore of `{}` cannot be taken up", marker.writer),
            error,
        )
    })?;
    let saved = match saved {
        Ok(saved) if saved.restore == restore => saved,
        // Going back, and clearing away, takes the marker alone.
        Ok(_) | Err(_) if way != Way::Forward || !needs_request(marker.phase) => stand_in(env, marker),
        Ok(_) => return Err(no_request(marker, None)),
        Err(error) => return Err(no_request(marker, Some(error))),
    };
    let mut run = Run::new(marker.writer.clone(), saved, placement, false, lock);
    run.assume_stopped |=
        options.assume_stopped || marker.confirmations.iter().any(|word| word == "assume-stopped");
    Ok(run)
}

const fn needs_request(phase: Phase) -> bool {
    match phase {
        Phase::Registered | Phase::Blocked | Phase::Recovered | Phase::Publishing | Phase::Published => true,
        Phase::Staging | Phase::Settled | Phase::Settling | Phase::RollingBack => false,
    }
}

fn no_request(marker: &Marker, error: Option<RequestError>) -> Failure {
    let what = format!(
        "the restore of `{}` cannot be gone on with: its saved request is missing or damaged",
        marker.writer
    );
    let state = fault::state(&marker.writer, LiveState::of(marker.phase));
    let help = format!("`holdfast recover --writer {} --roll-back` puts the old data back", marker.writer);
    Failure { cause: error.map(Into::into), state, ..Failure::refused(Exit::Failed, what) }.help(help)
}

/// What a rollback needs of a request: which signs of life to look for.
fn stand_in(env: &RestoreEnvironment<'_>, marker: &Marker) -> SavedRequest {
    let files = marker.units.iter().map(|unit| unit.live.clone()).collect();
    let common = env.writer(&marker.writer).map(|writer| &writer.entry.common);
    let request = RestoreRequest {
        set: marker.set.parse().unwrap_or_default(),
        // Nothing is asked of a writer that nobody describes.
        metadata: WriterMetadata::new("", &marker.writer),
        components: Vec::new(),
        in_place: false,
    };
    SavedRequest::new(marker.restore, request, Signs::new(common, files))
}

async fn roll_back(env: &RestoreEnvironment<'_>, runs: &mut [Run]) -> Result<(), Failure> {
    for run in runs.iter_mut() {
        let answer = run.ask().await;
        if !answer.may_move {
            let what = format!("the application of `{}` is not down: {}", run.writer, answer.result);
            let state = fault::state(&run.writer, LiveState::of(run.phase()));
            return Err(Failure { state, ..Failure::refused(Exit::Refused, what) }
                .help("stop it; if you know that it is down, say so with --assume-stopped"));
        }
    }
    for run in runs.iter_mut().filter(|run| run.saved.with_writer) {
        let Some(configured) = env.writer(&run.writer) else { continue };
        // The application's own registration, if it has one, goes too; the old data come back with or without it.
        let undone = async {
            let mut participant = configured.writer.begin_restore(run.saved.request.clone()).await?;
            participant.unregister().await
        };
        if let Err(error) = guarded(&run.writer, "unregister the restore", undone).await {
            let warning = format!("`{}` could not unregister the restore: {}", run.writer, chain(&error));
            run.report.warnings.push(warning);
        }
    }
    put_back(env, runs).await
}

async fn put_back(env: &RestoreEnvironment<'_>, runs: &mut [Run]) -> Result<(), Failure> {
    give_up(env, runs, Undo::EvenPublished).await.map_err(|(writer, error)| {
        fault::placement(&writer, format!("the old data of `{writer}` cannot be put back"), error)
    })
}

/// Calls the writer back in, where one took part.
async fn engage(env: &RestoreEnvironment<'_>, run: &mut Run) -> Result<(), Failure> {
    if !run.saved.with_writer {
        return Ok(());
    }
    let writer = run.writer.clone();
    let state = fault::state(&writer, LiveState::of(run.phase()));
    let Some(configured) = env.writer(&writer) else {
        if !run.phase().gates_start() {
            run.report
                .warnings
                .push(format!("`{writer}` is not configured any more: its own last steps were left out"));
            return Ok(());
        }
        let what = format!(
            "the restore of `{writer}` cannot be finished: there is no such writer in the configuration any more"
        );
        let help = format!(
            "put its [[writer]] back, or give the restore up with `holdfast recover --writer {writer} --roll-back`"
        );
        return Err(Failure { state, ..Failure::refused(Exit::Failed, what) }.help(help));
    };
    let begun =
        guarded(&writer, "begin the restore", configured.writer.begin_restore(run.saved.request.clone()))
            .await;
    run.participant = Some(begun.map_err(|error| {
        Failure::new(Exit::Failed, format!("`{writer}` cannot go on with its restore"), error, state)
            .help(fault::go_on(&writer))
    })?);
    Ok(())
}

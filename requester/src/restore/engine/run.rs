//! Does what was planned. Start reading at [`execute`].
//!
//! Owns: one restore at a time on a machine, stop commands, that all is staged and checked before anything live changes,
//! and that all its writers are registered or none. Leaves to others: the way from there on ([`super::finish`]).

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::fault::{self, chain, guarded, locked};
use super::finish::{Run, finish, register, stopped, take_back};
use super::plan::{Prepared, PreparedWriter, RestorePlan};
use super::report::{REPORT_SCHEMA, RestoreReport, WriterReport};
use super::request::SavedRequest;
use super::stage::{Staged, Staging};
use super::stop::stop;
use super::{RestoreEnvironment, documents};
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::restore::registration::{Marker, Registry};
use crate::restore::{NoSteps, Phase, Placement, Together, Undo};
use crate::session::lock::SessionLock;

/// How long an application may take to be gone after its stop commands ended.
const STOPPING: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Restores as planned.
///
/// # Errors
/// [`RestorePlan::refusal`]; another session (exit 11); a refusal found on the way, with nothing changed; exit 1 when
/// something failed after every writer was blocked: the state says how the data of each stand.
pub async fn execute(env: &RestoreEnvironment<'_>, plan: RestorePlan) -> Result<RestoreReport, Failure> {
    if let Some(refusal) = plan.refusal() {
        return Err(refusal);
    }
    env.paths.create().map_err(|error| {
        Failure::new(Exit::Failed, "the state folder cannot be made", error, NOTHING_CHANGED)
    })?;
    let lock = Arc::new(SessionLock::take(&env.paths.runtime, "restore")?);
    sweep(env, &lock).await;
    let (set, needs, prepared) = (plan.set, plan.needs, plan.prepared);
    let mut report = RestoreReport {
        schema: REPORT_SCHEMA,
        set,
        stopped: Vec::new(),
        writers: Vec::new(),
        documents: None,
        needs,
    };
    if prepared.options.stop {
        stop_all(env, &prepared, &mut report).await?;
    }
    let done = stage_and_check(env, &prepared, &mut report, &lock).await;
    let mut runs = done.map_err(|failure| after_stop(failure, &report))?;
    if let Err(failure) = register_all(env, &mut runs).await {
        return Err(after_stop(take_back(env, &mut runs, failure).await, &report));
    }
    finish(env, &mut runs).await.map_err(|failure| after_stop(failure, &report))?;
    report.writers.extend(runs.into_iter().map(|run| run.report));
    if let Some(folder) = prepared.documents {
        let (contents, place) = (prepared.contents.clone(), folder.clone());
        locked(&lock, move || documents::write(&contents, &place)).await?;
        report.documents = Some(folder);
    }
    Ok(report)
}

fn after_stop(mut failure: Failure, report: &RestoreReport) -> Failure {
    if !report.stopped.is_empty() && failure.state == NOTHING_CHANGED {
        failure.state = "the stop commands were run; nothing else was changed".into();
    }
    failure
}

/// Clears away what restores left that died before their registration: whoever has the lock knows they are dead.
async fn sweep(env: &RestoreEnvironment<'_>, lock: &Arc<SessionLock>) {
    let paths = env.paths.clone();
    let swept = locked(lock, move || {
        SavedRequest::sweep(&paths);
        let Ok(registry) = Registry::open(&paths.state) else { return Vec::new() };
        let markers = registry.list().unwrap_or_default().into_iter().filter_map(Result::ok);
        let markers: Vec<_> = markers.collect();
        // One whose sibling was registered goes back together with it, and only `recover` does that.
        let dead = markers.iter().filter(|marker| {
            let alike = |other: &&Marker| other.together.is_some() && other.together == marker.together;
            marker.phase == Phase::Staging
                && markers.iter().filter(alike).all(|other| other.phase == Phase::Staging)
        });
        dead.map(|marker| {
            let done = Placement::load(&registry, marker.restore).and_then(|mut dead| dead.resume(&NoSteps));
            (marker.writer.clone(), done.map(|_| ()))
        })
        .collect()
    })
    .await;
    for (writer, done) in swept {
        (env.note)(&match done {
            Ok(()) => format!("left by a dead restore of `{writer}`: its staging, removed"),
            Err(error) => {
                format!("left by a dead restore of `{writer}`: its staging, which stays: {}", chain(&error))
            }
        });
    }
}

async fn stop_all(
    env: &RestoreEnvironment<'_>,
    prepared: &Prepared,
    report: &mut RestoreReport,
) -> Result<(), Failure> {
    for writer in prepared.writers.iter().filter(|writer| writer.replaces) {
        let Some(configured) = env.writer(&writer.id) else { continue };
        report.stopped.extend(stop(&writer.id, &configured.entry.common, env.note).await);
        let until = tokio::time::Instant::now() + STOPPING;
        loop {
            let answer = writer.signs.ask(&writer.id, None, prepared.options.assume_stopped).await;
            if answer.may_move {
                break;
            }
            // What cannot be seen does not become visible by waiting.
            if !answer.running || tokio::time::Instant::now() >= until {
                let what = format!("the application of `{}` is not down: {}", writer.id, answer.result);
                let failed = report.stopped.iter().find(|stopped| !stopped.ok);
                let help = match (failed, answer.running) {
                    (Some(failed), _) => format!("`{}` {}", failed.command.join(" "), failed.result),
                    (None, true) => "its stop commands do not stop it, or not all of it".into(),
                    (None, false) => "if you know that it is down, say so with --assume-stopped".into(),
                };
                return Err(after_stop(Failure::refused(Exit::Refused, what).help(help), report));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Stages all, then checks all. On a failure all staging is removed again.
async fn stage_and_check(
    env: &RestoreEnvironment<'_>,
    prepared: &Prepared,
    report: &mut RestoreReport,
    lock: &Arc<SessionLock>,
) -> Result<Vec<Run>, Failure> {
    let mut runs = Vec::new();
    let staged = prepared.writers.iter().filter(|writer| !writer.specs().is_empty());
    let together = Together { id: Uuid::now_v7(), writers: staged.map(|writer| writer.id.clone()).collect() };
    let done = async {
        for writer in &prepared.writers {
            match stage(env, prepared, writer, &together, lock).await? {
                Outcome::Run(run) => runs.push(*run),
                Outcome::Nothing(nothing) => report.writers.push(*nothing),
            }
        }
        (env.at)("staged");
        for run in &mut runs {
            check(run).await?;
        }
        Ok(())
    }
    .await;
    match done {
        Ok(()) => Ok(runs),
        Err(failure) => {
            discard(env, runs, &failure).await;
            Err(failure)
        }
    }
}

/// What came of staging a writer.
enum Outcome {
    Run(Box<Run>),
    /// Nothing had to be put in place.
    Nothing(Box<WriterReport>),
}

async fn stage(
    env: &RestoreEnvironment<'_>,
    prepared: &Prepared,
    writer: &Arc<PreparedWriter>,
    together: &Together,
    lock: &Arc<SessionLock>,
) -> Result<Outcome, Failure> {
    let keys: Vec<_> = writer.keys.iter().map(|key| (key.record.path.clone(), key.source)).collect();
    if writer.specs().is_empty() {
        let components = writer.request.components.iter().map(ToString::to_string).collect();
        return Ok(Outcome::Nothing(Box::new(WriterReport {
            writer: writer.id.clone(),
            components,
            keys,
            ..WriterReport::default()
        })));
    }
    (env.note)(&format!("staging the data of `{}`", writer.id));
    let (paths, contents, options) = (env.paths.clone(), prepared.contents.clone(), prepared.options.clone());
    let (progress, steps, there) = (env.progress.clone(), Arc::clone(&env.steps), Arc::clone(writer));
    let together = together.clone();
    let staged = locked(lock, move || {
        let staging = Staging {
            paths: &paths,
            contents: &contents,
            options: &options,
            progress,
            steps: &*steps,
            together: &together,
        };
        staging.stage(&there)
    });
    let Staged { placement, mut saved, lost } = staged.await?;
    let configured = env.writer(&writer.id);
    saved.with_writer = configured.is_some();
    let mut run = Run::new(writer.id.clone(), saved, placement, true, lock);
    run.report.keys = keys;
    run.report.lost = lost;
    if let Some(configured) = configured {
        // As ourselves and not as the data's owner: the staging is closed to everybody else until it is published, so
        // that nobody can have planted anything in it.
        let begun =
            guarded(&writer.id, "begin the restore", configured.writer.begin_restore(writer.request.clone()))
                .await;
        match begun {
            Ok(participant) => run.participant = Some(participant),
            Err(error) => {
                let failure =
                    fault::writer_refused(format!("`{}` cannot begin the restore", writer.id), error);
                discard(env, vec![run], &failure).await;
                return Err(failure);
            }
        }
    }
    Ok(Outcome::Run(Box::new(run)))
}

async fn check(run: &mut Run) -> Result<(), Failure> {
    let Some(participant) = &mut run.participant else { return Ok(()) };
    let found = guarded(&run.writer, "check what was staged", participant.check(&run.saved.staged)).await;
    let found = found.map_err(|error| {
        fault::writer_refused(format!("`{}` refuses what the set holds of it", run.writer), error)
    })?;
    run.report.findings.extend(found.findings);
    Ok(())
}

/// Removes staging that was not registered.
async fn discard(env: &RestoreEnvironment<'_>, runs: Vec<Run>, failure: &Failure) {
    if stopped(failure) {
        return;
    }
    for mut run in runs {
        drop(run.participant.take());
        if let Err(error) =
            run.on_disk(env, |placement, steps| placement.rollback(Undo::BeforePublish, steps)).await
        {
            (env.note)(&format!("the staging of `{}` could not be removed: {}", run.writer, chain(&error)));
        }
    }
}

/// Registers every writer, before the first live path is touched: markers first, then the applications' own.
async fn register_all(env: &RestoreEnvironment<'_>, runs: &mut [Run]) -> Result<(), Failure> {
    for run in runs.iter_mut() {
        run.must_be_down().await?;
    }
    for run in runs {
        register(env, run).await?;
    }
    Ok(())
}

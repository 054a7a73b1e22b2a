//! Takes the restore of its writers from where each stands to its end: the same function in a first run and after a crash.
//!
//! Owns: the order of marker moves and writer calls (promise P8), and what a failure in each phase leads to.
//! Leaves to others: the moves ([`crate::restore::placement`]), and what was staged ([`super::stage`]).
//!
//! **Invariant:** until every live path is blocked, a first run that cannot go on takes itself back: a refusal. From then
//! on a failure leaves the live paths blocked, and `holdfast recover` goes on.
//! **Invariant:** all writers of a restore go forward, or all go back: a crash never leaves the application of one on
//! old data beside another on new.

use std::sync::Arc;
use std::time::Duration;

use holdfast_writer_api::{
    HookStep, OnFailure, RecoverContext, Registration, RestoreParticipant, WriterError,
};

use super::RestoreEnvironment;
use super::down::{Answer, Signs};
use super::fault::{self, chain, guarded, locked};
use super::report::{StepReport, WriterReport};
use super::request::{SavedRequest, require_full};
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::restore::error::{LiveState, Problem, RestoreError};
use crate::restore::{Kind, OldData, Phase, Placement, Steps, Undo};
use crate::session::lock::SessionLock;

/// Writers that hang in the short calls of a restore.
const SHORT: Duration = Duration::from_secs(60);

/// One writer's restore under way.
pub(super) struct Run {
    pub writer: String,
    pub saved: SavedRequest,
    /// Away only while a step works on it.
    pub placement: Option<Placement>,
    pub participant: Option<Box<dyn RestoreParticipant>>,
    /// A first run: what it began it can take back as long as nothing live was moved.
    pub fresh: bool,
    pub assume_stopped: bool,
    /// Its writer was told of the registration, by this process.
    pub announced: bool,
    pub lock: Arc<SessionLock>,
    pub report: WriterReport,
}

impl Run {
    pub fn new(
        writer: String,
        saved: SavedRequest,
        placement: Placement,
        fresh: bool,
        lock: &Arc<SessionLock>,
    ) -> Self {
        let report = WriterReport {
            writer: writer.clone(),
            restore: Some(saved.restore),
            components: saved.request.components.iter().map(ToString::to_string).collect(),
            targets: placement.marker().units.iter().map(|unit| unit.live.clone()).collect(),
            ..WriterReport::default()
        };
        let assume_stopped = saved.assume_stopped;
        Self {
            writer,
            saved,
            placement: Some(placement),
            participant: None,
            fresh,
            assume_stopped,
            announced: false,
            lock: Arc::clone(lock),
            report,
        }
    }

    pub fn phase(&self) -> Phase {
        // A step that was cut off has left its marker; nothing is known here that is safer than "registered".
        self.placement.as_ref().map_or(Phase::Registered, |placement| placement.marker().phase)
    }

    /// Works on the placement, off the runtime's threads.
    pub async fn on_disk(
        &mut self,
        env: &RestoreEnvironment<'_>,
        work: impl FnOnce(&mut Placement, &dyn Steps) -> Result<(), RestoreError> + Send + 'static,
    ) -> Result<(), RestoreError> {
        let Some(mut placement) = self.placement.take() else {
            let problem = Problem::NoSuchRestore { restore: self.saved.restore };
            return Err(RestoreError { problem, state: LiveState::Blocked });
        };
        let steps = Arc::clone(&env.steps);
        let (placement, done) = locked(&self.lock, move || {
            let done = work(&mut placement, &*steps);
            (placement, done)
        })
        .await;
        self.placement = Some(placement);
        done
    }

    /// Whether the application is down, as far as what stands at the live paths can still be its own.
    pub async fn ask(&mut self) -> Answer {
        if !self.saved.replaces && self.phase() != Phase::Settled && self.phase() != Phase::Published {
            return Answer { may_move: true, running: false, result: "nothing of it was there".into() };
        }
        let mut signs = self.saved.signs.clone();
        if let Some(placement) = &self.placement {
            signs = visible(signs, placement);
        }
        let participant = self.participant.as_mut().filter(|_| self.saved.request.in_place && self.fresh);
        signs.ask(&self.writer, participant, self.assume_stopped).await
    }

    fn unfinished(&self, what: impl Into<String>, error: WriterError) -> Failure {
        fault::unfinished(&self.writer, what, error, LiveState::of(self.phase()))
    }

    /// A refusal unless the application is down.
    pub async fn must_be_down(&mut self) -> Result<(), Failure> {
        let answer = self.ask().await;
        if answer.may_move {
            return Ok(());
        }
        let what = format!("the application of `{}` is not down: {}", self.writer, answer.result);
        let phase = self.phase();
        if phase == Phase::Staging {
            return Err(Failure::refused(Exit::Refused, what));
        }
        let state = fault::state(&self.writer, LiveState::of(phase));
        Err(Failure { state, ..Failure::refused(Exit::Failed, what) }.help(fault::go_on(&self.writer)))
    }
}

/// Takes a first run back as long as nothing is published; `failure` becomes a refusal if that works.
pub(super) async fn take_back(
    env: &RestoreEnvironment<'_>,
    runs: &mut [Run],
    mut failure: Failure,
) -> Failure {
    if stopped(&failure) || runs.iter().any(|run| !run.fresh) {
        return failure;
    }
    for run in runs.iter_mut().filter(|run| run.announced) {
        let Some(mut participant) = run.participant.take() else { continue };
        if let Err(error) = short(&run.writer, "unregister the restore", participant.unregister()).await {
            (env.note)(&format!("`{}` could not unregister the restore: {}", run.writer, chain(&error)));
        }
    }
    match give_up(env, runs, Undo::BeforePublish).await {
        Ok(()) => {
            failure.state = NOTHING_CHANGED.into();
            failure.help = None;
            if failure.exit == Exit::Failed {
                failure.exit = Exit::Refused;
            }
        }
        Err((writer, error)) => {
            failure.state = format!(
                "{}; taking it back failed too: {}",
                fault::state(&writer, error.state),
                chain(&error)
            );
            failure.help = Some(fault::go_on(&writer));
        }
    }
    failure
}

/// Puts the old data of all back. Whatever crash comes between two of them, none goes forward any more.
///
/// # Errors
/// Whose did not go back, and why.
pub(super) async fn give_up(
    env: &RestoreEnvironment<'_>,
    runs: &mut [Run],
    undo: Undo,
) -> Result<(), (String, RestoreError)> {
    for run in runs.iter_mut() {
        let done = run.on_disk(env, move |placement, steps| placement.give_up(undo, steps)).await;
        done.map_err(|error| (run.writer.clone(), error))?;
    }
    for run in runs.iter_mut() {
        let done = run.on_disk(env, |placement, steps| placement.withdraw(steps)).await;
        done.map_err(|error| (run.writer.clone(), error))?;
    }
    // Every one is tried: what hinders one says nothing of the next.
    let mut first = Ok(());
    for run in runs {
        match run.on_disk(env, move |placement, steps| placement.rollback(undo, steps)).await {
            Ok(()) => SavedRequest::remove(env.paths, run.saved.restore),
            Err(error) if matches!(error.problem, Problem::Stopped { .. }) => {
                return Err((run.writer.clone(), error));
            }
            Err(error) => first = first.and(Err((run.writer.clone(), error))),
        }
    }
    first
}

/// The live paths at which no blocker stands: only there can an application have something open.
fn visible(mut signs: Signs, placement: &Placement) -> Signs {
    let units = &placement.marker().units;
    signs.files.retain(|file| {
        let Some(unit) = units.iter().find(|unit| unit.live == *file) else { return true };
        let is_folder = file.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        is_folder == (unit.kind == Kind::Directory)
    });
    signs
}

/// Whether a test asked to stop here, as a crash would: nothing is cleaned up then.
pub(super) fn stopped(failure: &Failure) -> bool {
    let cause = failure.cause.as_deref().and_then(|cause| cause.downcast_ref::<RestoreError>());
    cause.is_some_and(|error| matches!(error.problem, Problem::Stopped { .. }))
}

/// Goes on until the restore of all of `runs` is over; each is registered at least. They go step by step together: no
/// data are published before all are recovered, and no old data removed before all are published.
///
/// # Errors
/// A refusal that changed nothing, in a first run before all are blocked; else exit 1, the live paths blocked or already
/// restored, as the failure's state says.
pub(super) async fn finish(env: &RestoreEnvironment<'_>, runs: &mut [Run]) -> Result<(), Failure> {
    if let Err(failure) = block_all(env, runs).await {
        return Err(take_back(env, runs, failure).await);
    }
    each(env, runs, &[Phase::Blocked], recover_staged).await?;
    each(env, runs, &[Phase::Recovered, Phase::Publishing], publish).await?;
    each(env, runs, &[Phase::Published], close).await?;
    each(env, runs, &[Phase::Published, Phase::Settling], settle).await
}

async fn block_all(env: &RestoreEnvironment<'_>, runs: &mut [Run]) -> Result<(), Failure> {
    each(env, runs, &[Phase::Registered], announce).await?;
    each(env, runs, &[Phase::Registered], block).await
}

/// Does `step` with every run that is in one of `phases`, in order, up to the first that fails.
async fn each(
    env: &RestoreEnvironment<'_>,
    runs: &mut [Run],
    phases: &[Phase],
    step: impl AsyncFn(&RestoreEnvironment<'_>, &mut Run) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failed = None;
    for run in runs.iter_mut().filter(|run| phases.contains(&run.phase())) {
        if let Err(failure) = step(env, run).await {
            failed = Some((run.writer.clone(), failure));
            break;
        }
    }
    match failed {
        Some((writer, failure)) => Err(beside(failure, runs, &writer)),
        None => Ok(()),
    }
}

/// Adds how the others of the same restore stand.
fn beside(mut failure: Failure, runs: &[Run], writer: &str) -> Failure {
    let others = |phases: &[Phase]| {
        let found = runs.iter().filter(|run| run.writer != writer && phases.contains(&run.phase()));
        found.map(|run| format!("`{}`", run.writer)).collect::<Vec<_>>().join(", ")
    };
    use Phase as P;
    for (what, phases) in [
        ("blocked with it", [P::Registered, P::Blocked, P::Recovered, P::Publishing].as_slice()),
        ("restored before", &[P::Published, P::Settled, P::Settling]),
    ] {
        let names = others(phases);
        if !names.is_empty() {
            failure.state = format!("{}; {what}: {names}", failure.state);
        }
    }
    failure
}

/// Makes the restore of one writer binding.
pub(super) async fn register(env: &RestoreEnvironment<'_>, run: &mut Run) -> Result<(), Failure> {
    let writer = run.writer.clone();
    let (saved, paths) = (run.saved.clone(), env.paths.clone());
    let result = locked(&run.lock, move || saved.save(&paths)).await;
    result.map_err(|error| {
        let what = format!("the restore of `{writer}` cannot be registered");
        Failure::new(Exit::Failed, what, error, NOTHING_CHANGED)
    })?;
    run.on_disk(env, |placement, steps| placement.register(steps)).await.map_err(|error| {
        fault::placement(&writer, format!("the restore of `{writer}` cannot be registered"), error)
    })?;
    (env.at)("registered");
    Ok(())
}

/// Tells the writer, before the first live path of any is touched.
async fn announce(env: &RestoreEnvironment<'_>, run: &mut Run) -> Result<(), Failure> {
    let Some(mut participant) = run.participant.take() else { return Ok(()) };
    let registration = Registration {
        map: run.saved.map.clone(),
        marker: env.paths.restores().join(format!("{}.json", run.saved.restore)),
    };
    let told = short(&run.writer, "register the restore", participant.register(&registration)).await;
    run.participant = Some(participant);
    run.announced = told.is_ok();
    told.map_err(|error| run.unfinished(format!("`{}` does not take the restore", run.writer), error))
}

async fn block(env: &RestoreEnvironment<'_>, run: &mut Run) -> Result<(), Failure> {
    let writer = run.writer.clone();
    // Again, right before the swap: since the marker a gated start waits, but one by hand does not.
    run.must_be_down().await?;
    run.on_disk(env, |placement, steps| placement.block(steps)).await.map_err(|error| {
        fault::placement(&writer, format!("the live paths of `{writer}` cannot be blocked"), error)
    })?;
    (env.at)("blocked");
    Ok(())
}

async fn recover_staged(env: &RestoreEnvironment<'_>, run: &mut Run) -> Result<(), Failure> {
    let writer = run.writer.clone();
    if let Some(mut participant) = run.participant.take() {
        let done = recovery(&writer, participant.as_mut(), &run.saved, &mut run.report).await;
        run.participant = Some(participant);
        done.map_err(|error| {
            run.unfinished(format!("the data of `{writer}` could not be recovered"), error)
        })?;
    }
    run.on_disk(env, |placement, steps| placement.recovery_done(steps)).await.map_err(|error| {
        fault::placement(&writer, format!("the recovery of `{writer}` cannot be recorded"), error)
    })?;
    (env.at)("recovered");
    Ok(())
}

async fn recovery(
    writer: &str,
    participant: &mut dyn RestoreParticipant,
    saved: &SavedRequest,
    report: &mut WriterReport,
) -> Result<(), WriterError> {
    short(writer, "hear that the restore is registered", participant.register_complete()).await?;
    // One without it has nothing to recover: its data are what they are.
    if saved.request.metadata.capabilities.recover {
        let ctx = RecoverContext::default();
        let recovered = guarded(writer, "recover", participant.recover(&saved.staged, &ctx)).await?;
        report.recovered.extend(recovered.done);
    }
    let verified = guarded(writer, "verify", participant.verify(&saved.staged)).await?;
    report.findings.extend(verified.findings);
    Ok(())
}

async fn publish(env: &RestoreEnvironment<'_>, run: &mut Run) -> Result<(), Failure> {
    let writer = run.writer.clone();
    let answer = run.ask().await;
    if !answer.may_move {
        let what =
            format!("the application of `{writer}` is not down though its data are away: {}", answer.result);
        let state = fault::state(&writer, LiveState::of(run.phase()));
        return Err(Failure { state, ..Failure::refused(Exit::Failed, what) }.help(fault::go_on(&writer)));
    }
    run.on_disk(env, |placement, steps| placement.publish(steps)).await.map_err(|error| {
        fault::placement(&writer, format!("the data of `{writer}` cannot be put in place"), error)
    })?;
    (env.at)("published");
    Ok(())
}

/// The data are in place; what is left concerns others, and may be done again.
async fn close(env: &RestoreEnvironment<'_>, run: &mut Run) -> Result<(), Failure> {
    let writer = run.writer.clone();
    if run.saved.request.in_place && !run.report.full_required {
        let (paths, id, restore, set) =
            (env.paths.clone(), writer.clone(), run.saved.restore, run.saved.request.set);
        locked(&run.lock, move || require_full(&paths, &id, set, restore)).await.map_err(|error| {
            let what = format!("it cannot be noted that `{writer}` needs a full backup");
            fault::unfinished(&writer, what, error, LiveState::Published)
        })?;
        run.report.full_required = true;
    }
    if let Some(mut participant) = run.participant.take() {
        let done = after(env, &writer, participant.as_mut(), &run.saved, &mut run.report).await;
        run.participant = Some(participant);
        done.map_err(|error| {
            run.unfinished(format!("a step after the restore of `{writer}` failed"), error)
        })?;
    }
    Ok(())
}

async fn settle(env: &RestoreEnvironment<'_>, run: &mut Run) -> Result<(), Failure> {
    let writer = run.writer.clone();
    let old = if run.saved.keep_old.is_some() { OldData::Keep { until: None } } else { OldData::Remove };
    if let (OldData::Keep { .. }, Some(placement)) = (old, &run.placement) {
        let kept = placement.marker().units.iter().filter(|unit| unit.old.is_some());
        run.report.old_data = kept.map(|unit| unit.aside.clone()).collect();
    }
    run.on_disk(env, move |placement, steps| placement.settle(old, steps)).await.map_err(|error| {
        fault::placement(&writer, format!("what the restore of `{writer}` left cannot be removed"), error)
    })?;
    SavedRequest::remove(env.paths, run.saved.restore);
    Ok(())
}

async fn after(
    env: &RestoreEnvironment<'_>,
    writer: &str,
    participant: &mut dyn RestoreParticipant,
    saved: &SavedRequest,
    report: &mut WriterReport,
) -> Result<(), WriterError> {
    if saved.request.metadata.capabilities.post_restore {
        for step in short(writer, "name its steps", participant.post_restore_steps()).await? {
            let (name, result) = (step.name.clone(), one_step(writer, participant, &step).await);
            match result {
                Ok(outcome) => report.steps.push(StepReport { name, outcome: Some(outcome), error: None }),
                Err(error) if step.on_failure == OnFailure::Continue => {
                    (env.note)(&format!("`{writer}`: {}: {}", step.description, chain(&error)));
                    report.steps.push(StepReport { name, outcome: None, error: Some(chain(&error)) });
                }
                Err(error) => return Err(error),
            }
        }
    }
    short(writer, "unregister the restore", participant.unregister()).await
}

async fn one_step(
    writer: &str,
    participant: &mut dyn RestoreParticipant,
    step: &HookStep,
) -> Result<holdfast_writer_api::HookOutcome, WriterError> {
    within(writer, &step.name, step.timeout, participant.run_step(&step.name)).await
}

async fn short<T>(
    writer: &str,
    action: &str,
    call: impl Future<Output = Result<T, WriterError>>,
) -> Result<T, WriterError> {
    within(writer, action, SHORT, call).await
}

async fn within<T>(
    writer: &str,
    action: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, WriterError>>,
) -> Result<T, WriterError> {
    let called = tokio::time::timeout(limit, guarded(writer, action, call)).await;
    called.unwrap_or_else(|_| Err(WriterError::timed_out(writer, action, limit)))
}

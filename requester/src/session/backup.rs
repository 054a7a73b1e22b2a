//! A backup from beginning to end: design §4, step by step. Start reading at [`backup()`]; then the phases: `prepare`,
//! `cut`, `store`, `complete`.
//!
//! Owns: the order of the phases, and that a session that fails in any of them leaves nothing.
//! Leaves to others: the hold itself (`super::barrier`), what is cut (`super::plan`), bytes
//! (`super::contents`), documents (`super::record`).

mod attempt;
mod complete;
mod cut;
mod prepare;
mod store;
mod target;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_writer_api::document::BackupSet;
use holdfast_writer_api::state::Phase;
use holdfast_writer_api::{BackupType, ComponentRef, WriterError, chain};
use uuid::Uuid;

use self::attempt::Attempt;
pub use self::complete::NotCompleted;
use self::cut::Taken;
use self::target::Targeted;
pub use self::target::{Maker, Target};
use super::events::{EventLog, What};
use super::holders::Holders;
use super::leftovers::{self, Leftover};
use super::lock::SessionLock;
use super::member::{HoldTimes, Member};
use super::plan::CutPlan;
use super::said;
use super::shadows::Shadows;
use crate::config::Config;
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::paths::Paths;
use crate::provider::Providers;
use crate::repository::ProgressFn;
use crate::writers::ConfiguredWriter;

/// How long a writer may take to give its part up.
const GIVE_UP: Duration = Duration::from_secs(2);

/// How long the removal of shadow copies may keep from a person that an application may be held.
const REMOVE_WHILE_HELD: Duration = Duration::from_secs(3);

/// What a session works with.
pub struct Environment<'e> {
    /// The configuration.
    pub config: &'e Config,
    /// Our folders.
    pub paths: &'e Paths,
    /// The providers of this program.
    pub providers: &'e Providers,
    /// The writers of the configuration.
    pub writers: &'e [ConfiguredWriter],
    /// Where the set goes.
    pub target: Target,
    /// Told of what goes on, one sentence at a time; never during a hold.
    pub note: &'e (dyn Fn(&str) + Sync),
    /// Told of bytes and files stored.
    pub progress: Option<ProgressFn>,
    /// Called at named points, for tests that stop or kill a session there.
    pub at: &'e (dyn Fn(&str) + Sync),
}

/// What the user wants.
#[derive(Debug, Clone, Default)]
pub struct BackupOptions {
    /// The kind.
    pub backup_type: BackupType,
    /// Only these writers; empty for all.
    pub writers: Vec<String>,
    /// Only these components, by writer id; empty for all.
    pub components: BTreeMap<String, Vec<ComponentRef>>,
    /// The longest hold.
    pub freeze_budget: Option<Duration>,
    /// Writers that may fail.
    pub allow_incomplete: Vec<String>,
    /// Tags of the set.
    pub tags: Vec<String>,
}

impl BackupOptions {
    /// Refuses a writer that is named and not configured, be it to take part or to be allowed to fail, and a backup of
    /// nobody. Touches nothing.
    ///
    /// # Errors
    /// [`Exit::Usage`].
    pub fn check(&self, configured: &[ConfiguredWriter]) -> Result<(), Failure> {
        if configured.is_empty() {
            return Err(Failure::refused(Exit::Usage, "no writer is configured")
                .help("`holdfast config generate` shows how a [[writer]] is written"));
        }
        let ids: Vec<_> = configured.iter().map(|writer| writer.entry.id.as_str()).collect();
        let named = self.writers.iter().map(|id| ("", id));
        let allowed = self.allow_incomplete.iter().map(|id| ("--allow-incomplete: ", id));
        match named.chain(allowed).find(|(_, id)| !ids.contains(&id.as_str())) {
            None => Ok(()),
            Some((option, unknown)) => {
                let what =
                    format!("{option}there is no writer `{unknown}`; configured are: {}", ids.join(", "));
                Err(Failure::refused(Exit::Usage, what))
            }
        }
    }
}

/// A set that was made, and what is only known while this machine runs.
#[derive(Debug, Clone)]
pub struct Made {
    /// The set, as it is stored.
    pub set: BackupSet,
    /// When each writer was asked, held and released, on the machine's monotonic clock.
    pub holds: BTreeMap<String, HoldTimes>,
    /// Writers that did not complete the backup after the set was stored.
    pub not_completed: Vec<NotCompleted>,
}

impl Made {
    /// What the command ends with: not 0 when anything is to be said of the set or of a writer.
    pub fn exit(&self) -> Exit {
        match self.not_completed.iter().find(|writer| !writer.allowed) {
            Some(writer) => writer.exit(),
            None if self.not_completed.is_empty() && self.set.exceptions.is_empty() => Exit::Ok,
            None => Exit::Incomplete,
        }
    }
}

/// Makes a set.
///
/// A writer that fails and may ([`BackupOptions::allow_incomplete`]) is left out and the session begun
/// again without it: the others are then cut at one instant all the same.
///
/// # Errors
/// [`Failure`], with exit 5 once anything was frozen. Everything is thawed, no set and no shadow copy is
/// left, unless the failure says otherwise.
pub async fn backup(env: &Environment<'_>, options: &BackupOptions) -> Result<Made, Failure> {
    options.check(env.writers)?;
    let _lock = SessionLock::take(&env.paths.runtime, "backup")?;
    let there = match &env.target {
        Target::Open(repository) => Some(repository),
        Target::New(_) => None,
    };
    let left = leftovers::clean(env.paths, env.providers, there).await;
    for leftover in &left.found {
        (env.note)(&format!("left by a dead session: {leftover}"));
    }
    if left.may_be_held {
        // Another hold on top of that one could only make things worse.
        let what = "an application may still be held by a dead session, so none was begun";
        return Err(Failure::new(Exit::ThawNotConfirmed, what, left.describe(), "as that session left it")
            .help("run `holdfast thaw --all`, which says what to do about each"));
    }
    let mut target = Targeted::begin(&env.target).await?;
    let mut left_out: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let set = Uuid::now_v7();
        let time = jiff::Timestamp::now();
        let log = begin_log(env, set, time, &left.found)?;
        let mut session = Session { env, options, set, time, log, target: &mut target, left_out: &left_out };
        let result = session.run().await;
        session.end(&result);
        match result {
            Ok(made) => return Ok(made),
            Err(Attempt { failure, writer: Some(writer) }) if session.may_leave_out(&failure, &writer) => {
                let why = std::iter::once(failure.what).chain(failure.cause.map(|c| c.to_string()));
                let why = why.collect::<Vec<_>>().join(": ");
                (env.note)(&format!("`{writer}` failed and may be left out: {why}; beginning again"));
                left_out.insert(writer, why);
            }
            Err(attempt) => return Err(attempt.failure),
        }
    }
}

/// The log of one attempt, with what was found before it.
fn begin_log(
    env: &Environment<'_>,
    set: Uuid,
    time: jiff::Timestamp,
    found: &[Leftover],
) -> Result<EventLog, Failure> {
    let path = env.paths.session_log(set);
    let mut log = EventLog::create(&path).map_err(|error| {
        Failure::new(Exit::Failed, "no session was begun", error, NOTHING_CHANGED)
            .help(format!("check {}", path.display()))
    })?;
    log.record(What::SessionStarted { set, pid: std::process::id(), time: time.to_string() });
    for Leftover { what, outcome } in found.iter().cloned() {
        log.record(What::Leftover { what, outcome });
    }
    Ok(log)
}

/// One attempt to make a set.
struct Session<'s> {
    env: &'s Environment<'s>,
    options: &'s BackupOptions,
    set: Uuid,
    time: jiff::Timestamp,
    log: EventLog,
    target: &'s mut Targeted,
    left_out: &'s BTreeMap<String, String>,
}

impl Session<'_> {
    async fn run(&mut self) -> Result<Made, Attempt> {
        let writers = self.chosen_writers();
        let described = self.identify(&writers).await?;
        let bystanders = self.bystanders(&writers).await;
        let plan = self.plan(&writers, &described, &bystanders)?;
        let mut members = Vec::with_capacity(writers.len());
        let mut shadows = Shadows::new(self.set, self.env.paths);
        // From here on writers have begun, and shadow copies may exist. Whatever happens, that is undone below.
        let mut result = match self.begin(&writers, &described, &plan, &mut members).await {
            Ok(()) => self.with_members(&mut members, &plan, &mut shadows).await,
            Err(attempt) => Err(attempt),
        };
        if result.is_err() {
            self.abort(&mut members).await;
        }
        let said_held = matches!(&result, Err(attempt) if attempt.failure.exit == Exit::ThawNotConfirmed);
        let all_free = !said_held && !members.iter().any(|member| member.state().may_be_held());
        let left = self.remove(shadows, all_free).await;
        if let Err(attempt) = &mut result {
            attempt.shadows_left(left);
        }
        let holds = members.iter().filter(|m| m.holds()).map(|m| (m.id.clone(), m.times)).collect();
        for member in members {
            member.end(&mut self.log);
        }
        // What was not confirmed stays on record: `thaw --all` works from it.
        if all_free {
            Holders::forget(&self.env.paths.runtime, self.set);
        }
        result.map(|(set, not_completed)| Made { set, holds, not_completed })
    }

    /// The log's last line.
    fn end(&mut self, result: &Result<Made, Attempt>) {
        let outcome = match result {
            Ok(made) if made.not_completed.is_empty() => "stored".to_owned(),
            Ok(made) => {
                let writers = made.not_completed.iter().map(|one| format!("`{}`", one.error.writer()));
                format!("stored; not completed by {}", writers.collect::<Vec<_>>().join(", "))
            }
            Err(attempt) => format!("failed: {}", chain(&attempt.failure)),
        };
        said::collect(self.env.writers, &mut self.log);
        // One that cannot be written never stops a session: what it is for goes into the set as well.
        if let Err(error) = self.log.end(outcome) {
            let path = self.env.paths.session_log(self.set);
            (self.env.note)(&format!("the event log {} is not complete: {error}", path.display()));
        }
    }

    async fn with_members(
        &mut self,
        members: &mut [Member],
        plan: &CutPlan,
        shadows: &mut Shadows,
    ) -> Result<(BackupSet, Vec<NotCompleted>), Attempt> {
        let sealed = self.prepare(members, plan).await?;
        self.prepare_shadows(members, plan, shadows).await?;
        // Nothing can refuse the session any more, and nothing is frozen yet.
        let repository = self.target.repository().await?;
        let (cuts, window) = self.cut(members, plan, shadows).await?;
        let stamps = self.post_snapshot(members, shadows).await?;
        let taken = Taken { cuts, window, stamps };
        let mut stored = self.store(repository, members, plan, &sealed, shadows, &taken).await?;
        let not_completed = self.complete(members, plan, &mut stored).await;
        Ok((stored.set, not_completed))
    }

    /// Has every writer give its part up, all at once. What they say to it is on record; what a person is told is why
    /// it was necessary.
    async fn abort(&mut self, members: &mut [Member]) {
        // One that did not confirm its thaw answers nothing any more.
        let free = members.iter_mut().filter(|member| !member.state().may_be_held());
        let given_up = free.map(async |member| {
            member.call(Phase::BackupShutdown, GIVE_UP, async |participant| participant.abort().await).await
        });
        let answers = join_all(given_up).await;
        let _ = self.all_of(answers);
    }

    /// Removes the shadow copies; whether any is left. They may lie on the very disk that a stuck holder waits for: unless
    /// `all_free`, they are waited for only so long.
    async fn remove(&mut self, shadows: Shadows, all_free: bool) -> bool {
        let removing = shadows.remove();
        let problems = if all_free {
            removing.await
        } else {
            let removed = tokio::time::timeout(REMOVE_WHILE_HELD, removing).await;
            removed.unwrap_or_else(|_| vec![format!("not within {} s", REMOVE_WHILE_HELD.as_secs())])
        };
        for outcome in &problems {
            (self.env.note)(&format!("a shadow copy could not be removed: {outcome}"));
            let what = "a shadow copy that could not be removed".to_owned();
            self.log.record(What::Leftover { what, outcome: outcome.clone() });
        }
        !problems.is_empty()
    }

    /// Whether the set may be made without `writer`, which failed: the user allowed that, and somebody is left.
    fn may_leave_out(&self, failure: &Failure, writer: &str) -> bool {
        // An application that may still be held is never passed over.
        failure.exit != Exit::ThawNotConfirmed
            && self.is_allowed_to_fail(writer)
            && self.chosen_writers().len() > 1
    }

    fn is_allowed_to_fail(&self, writer: &str) -> bool {
        self.options.allow_incomplete.iter().any(|id| id == writer)
            || self.env.config.backup.allow_incomplete.contains(writer)
    }

    fn phase(&mut self, name: &str) {
        said::collect(self.env.writers, &mut self.log);
        self.log.record(What::Phase { name: name.to_owned() });
        self.log.flush();
        (self.env.at)(name);
    }

    /// What all writers answered, or the first failure. Every failure is on record.
    fn all_of<T>(&mut self, answers: Vec<Result<T, WriterError>>) -> Result<Vec<T>, WriterError> {
        let failures = answers.iter().filter_map(|answer| answer.as_ref().err());
        failures.for_each(|error| self.log.record_failure(error));
        answers.into_iter().collect()
    }
}

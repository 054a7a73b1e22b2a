//! A backup from beginning to end: design §4, step by step. Start reading at [`backup()`].
//!
//! Owns: the order of the phases, and what becomes of a session that fails in any of them.
//! Leaves to others: the hold itself (`super::barrier`), what is cut (`super::plan`), bytes
//! (`super::contents`), documents (`super::record`).

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_writer_api::budget::freeze_budget;
use holdfast_writer_api::document::BackupSet;
use holdfast_writer_api::state::{Event, Phase};
use holdfast_writer_api::{
    BackupOutcome, BackupRequest, BackupType, ComponentRef, PhaseContext, SealedKey, ShadowContext,
    WriterError, WriterMetadata, chain,
};
use uuid::Uuid;

use super::barrier::{self, AbortCause, Aborted, Window};
use super::contents::Contents;
use super::events::{EventLog, What};
use super::holders::Holders;
use super::leftovers;
use super::lock::SessionLock;
use super::member::{HoldTimes, Member};
use super::plan::{self, CutPlan, Wanted};
use super::record;
use super::said;
use super::sealed;
use super::shadows::{Cut, Shadows};
use super::storing::{self, StoreError};
use crate::config::Config;
use crate::failure::{Exit, Failure, NOTHING_CHANGED, writer_exit};
use crate::paths::Paths;
use std::sync::Arc;

use crate::provider::{Provider, Providers};
use crate::repository::{Document, LockKind, ProgressFn, Repository, SetIdentity};
use crate::volume::VolumeMap;
use crate::writers::ConfiguredWriter;

/// How long `prepare_backup` and the sealing of keys may take.
const PREPARE: Duration = Duration::from_secs(600);

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
    /// The repository, open.
    pub repository: Repository,
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

/// A set that was made, and what is only known while this machine runs.
#[derive(Debug, Clone)]
pub struct Made {
    /// The set, as it is stored.
    pub set: BackupSet,
    /// When each writer was asked, held and released, on the machine's monotonic clock.
    pub holds: BTreeMap<String, HoldTimes>,
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
    let _lock = SessionLock::take(&env.paths.runtime, "backup")?;
    let left = leftovers::clean(env.paths, env.providers, Some(&env.repository)).await;
    for leftover in &left.found {
        (env.note)(&format!("left by a dead session: {leftover}"));
    }
    if left.still_held {
        // Another hold on top of that one could only make things worse.
        let what = "an application is still held by a dead session, so none was begun";
        return Err(Failure::new(
            Exit::ThawNotConfirmed,
            what,
            left.found.join("; "),
            "as that session left it",
        )
        .help(
            "run `holdfast thaw --all`; if it says `STILL HELD`, look at the disk that process waits for",
        ));
    }
    let repository = env.repository.clone();
    let locked = tokio::task::spawn_blocking(move || repository.lock(LockKind::Shared)).await;
    // Held to the end: nobody may prune between what is stored and the set that names it.
    let _shared = locked
        .map_err(|panic| Failure::new(Exit::Failed, "no session was begun", panic, NOTHING_CHANGED))??;
    let mut left_out: BTreeMap<String, String> = BTreeMap::new();
    loop {
        let set = Uuid::now_v7();
        let log_path = env.paths.sessions().join(format!("{set}.ndjson"));
        let log = EventLog::create(&log_path).map_err(|error| {
            Failure::new(Exit::Failed, "no session was begun", error, NOTHING_CHANGED)
                .help(format!("check {}", log_path.display()))
        })?;
        let mut session = Session { env, options, set, log, left_out: &left_out };
        let result = session.run().await;
        let outcome = match &result {
            Ok(_) => "stored".to_owned(),
            Err(attempt) => format!("failed: {}", attempt.failure.what),
        };
        said::collect(env.writers, &mut session.log);
        session.log.record(What::SessionEnded { outcome });
        session.log.flush();
        match result {
            Ok(made) => return Ok(made),
            Err(Attempt { failure, writer: Some(writer) })
                if may_be_left_out(env, options, &failure, &writer) =>
            {
                let why = std::iter::once(failure.what).chain(failure.cause.map(|c| c.to_string()));
                let why = why.collect::<Vec<_>>().join(": ");
                (env.note)(&format!("`{writer}` failed and may be left out: {why}; beginning again"));
                left_out.insert(writer, why);
            }
            Err(attempt) => return Err(attempt.failure),
        }
    }
}

fn may_be_left_out(env: &Environment<'_>, options: &BackupOptions, failure: &Failure, writer: &str) -> bool {
    // An application that may still be held is never passed over.
    failure.exit != Exit::ThawNotConfirmed
        && (options.allow_incomplete.iter().any(|id| id == writer)
            || env.config.backup.allow_incomplete.contains(writer))
}

/// A failed attempt, and the writer it failed by.
struct Attempt {
    failure: Failure,
    writer: Option<String>,
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self { failure, writer: None }
    }
}

impl Attempt {
    /// A writer failed while nothing was held.
    fn writer(what: &str, error: WriterError) -> Self {
        let writer = Some(error.writer().to_owned());
        let exit = writer_exit(&error);
        let failure = Failure::new(exit, what, error, "nothing is held; no set was made");
        Self { failure: with_hint(failure, writer.as_deref()), writer }
    }
}

fn with_hint(failure: Failure, writer: Option<&str>) -> Failure {
    match writer {
        Some(id) if failure.exit != Exit::Key => failure.help(format!(
            "see why with `holdfast list writers`; `--allow-incomplete {id}` stores a set without it (exit 3)"
        )),
        _ => failure,
    }
}

struct Session<'s> {
    env: &'s Environment<'s>,
    options: &'s BackupOptions,
    set: Uuid,
    log: EventLog,
    left_out: &'s BTreeMap<String, String>,
}

impl<'s> Session<'s> {
    async fn run(&mut self) -> Result<Made, Attempt> {
        let time = jiff::Timestamp::now();
        self.log.record(What::SessionStarted {
            set: self.set,
            pid: std::process::id(),
            time: time.to_string(),
        });
        let writers = self.chosen_writers()?;
        let described = self.identify(&writers).await?;
        let plan = self.plan(&writers, &described)?;
        let mut members = self.begin(&writers, &described, &plan).await?;
        let sealed = self.prepare(&mut members, &plan).await?;
        // From here on shadow copies may exist. Whatever happens, they are removed before we return.
        let mut shadows = Shadows::new(self.set, self.env.paths);
        let result = self.with_shadows(&mut members, &plan, &sealed, time, &mut shadows).await;
        if result.is_err() {
            for member in &mut members {
                let _ = member
                    .call(Phase::BackupShutdown, Duration::from_secs(2), async |p| p.abort().await)
                    .await;
            }
        }
        for problem in shadows.remove().await {
            (self.env.note)(&format!("a shadow copy could not be removed: {problem}"));
        }
        // What was not confirmed stays on record: `thaw --all` works from it.
        let all_free = !members.iter().any(|member| member.state().may_be_held());
        let holds = members.iter().filter(|m| m.holds()).map(|m| (m.id.clone(), m.times)).collect();
        for member in members {
            member.end(&mut self.log);
        }
        if all_free {
            Holders::forget(&self.env.paths.runtime);
        }
        result.map(|set| Made { set, holds })
    }

    fn phase(&mut self, name: &str) {
        said::collect(self.env.writers, &mut self.log);
        self.log.record(What::Phase { name: name.to_owned() });
        self.log.flush();
        (self.env.at)(name);
    }

    fn chosen_writers(&self) -> Result<Vec<&'s ConfiguredWriter>, Failure> {
        let env = self.env;
        let known = |id: &str| env.writers.iter().any(|w| w.entry.id == id);
        if let Some(unknown) = self.options.writers.iter().find(|id| !known(id)) {
            let ids: Vec<_> = env.writers.iter().map(|w| w.entry.id.as_str()).collect();
            let what = format!("there is no writer `{unknown}`; configured are: {}", ids.join(", "));
            return Err(Failure::refused(Exit::Usage, what));
        }
        let wanted = |w: &&ConfiguredWriter| {
            (self.options.writers.is_empty() || self.options.writers.contains(&w.entry.id))
                && !self.left_out.contains_key(&w.entry.id)
        };
        let chosen: Vec<_> = env.writers.iter().filter(wanted).collect();
        if chosen.is_empty() {
            let what = if self.left_out.is_empty() {
                "no writer is configured"
            } else {
                "every writer failed, and all of them were allowed to"
            };
            return Err(Failure::refused(Exit::Usage, what)
                .help("`holdfast config generate` shows how a [[writer]] is written"));
        }
        Ok(chosen)
    }

    /// An expected writer that does not answer is a failure, never an omission.
    async fn identify(&mut self, writers: &[&ConfiguredWriter]) -> Result<Vec<WriterMetadata>, Attempt> {
        self.phase("identify");
        let answers = join_all(writers.iter().map(|w| w.writer.identify())).await;
        let mut described = Vec::new();
        for answer in answers {
            match answer.and_then(|metadata| metadata.check().map(|()| metadata)) {
                Ok(metadata) => described.push(metadata),
                Err(error) => {
                    self.failed(&error);
                    return Err(Attempt::writer("an expected writer is absent", error));
                }
            }
        }
        Ok(described)
    }

    fn failed(&mut self, error: &WriterError) {
        let writer = error.writer().to_owned();
        self.log.record(What::WriterFailed { writer, error: chain(error) });
    }

    fn plan(
        &mut self,
        writers: &[&ConfiguredWriter],
        described: &[WriterMetadata],
    ) -> Result<CutPlan, Failure> {
        self.phase("preflight");
        let map = VolumeMap::read().map_err(|error| {
            Failure::new(Exit::Failed, "the mounts cannot be read", error, NOTHING_CHANGED)
        })?;
        let wanted: Vec<_> = writers
            .iter()
            .zip(described)
            .map(|(writer, metadata)| Wanted {
                metadata,
                chosen: self.options.components.get(&metadata.id).cloned().unwrap_or_default(),
                provider: writer.entry.common.provider.as_deref(),
            })
            .collect();
        let providers: Vec<Arc<dyn Provider>> =
            self.env.providers.build().into_iter().map(Arc::from).collect();
        let area = Shadows::area(&self.env.paths.state, self.env.config.backup.shadow_area.as_deref());
        plan::plan(&wanted, &map, &providers, &area).map_err(|refused| {
            Failure::new(Exit::Refused, "the backup is refused before it begins", refused, NOTHING_CHANGED)
                .help("`holdfast list writers` shows what each writer wants to have backed up")
        })
    }

    async fn begin(
        &mut self,
        writers: &[&ConfiguredWriter],
        described: &[WriterMetadata],
        plan: &CutPlan,
    ) -> Result<Vec<Member>, Attempt> {
        let millis = |ms: Option<u64>| ms.map(Duration::from_millis);
        let mut members = Vec::new();
        for (writer, metadata) in writers.iter().zip(described) {
            let user = [
                self.options.freeze_budget,
                writer.entry.common.freeze_budget,
                self.env.config.backup.freeze_budget,
            ];
            let user = user.into_iter().flatten().min();
            let budget =
                freeze_budget(user, millis(metadata.freeze_budget_ms), millis(metadata.busy_timeout_ms));
            let components = plan.components.iter().filter(|c| c.writer == metadata.id);
            let backup_type = reduced(self.options.backup_type, metadata);
            let request = BackupRequest {
                set: self.set,
                backup_type,
                components: components.map(|c| c.component.reference()).collect(),
                previous_stamps: BTreeMap::new(),
            };
            let begun = writer.for_run(metadata).begin_backup(request).await;
            let participant = begun.map_err(|error| {
                self.failed(&error);
                Attempt::writer("a writer could not begin", error)
            })?;
            members.push(Member::new(metadata.clone(), backup_type, budget, participant));
        }
        Ok(members)
    }

    /// The long work, and the keys: each writer's own, all writers at once.
    async fn prepare(
        &mut self,
        members: &mut [Member],
        plan: &CutPlan,
    ) -> Result<BTreeMap<String, Vec<SealedKey>>, Attempt> {
        self.phase("prepare-backup");
        let (set, recipients) = (self.set, &self.env.config.recovery.recipients);
        let has_keys =
            |id: &str| plan.components.iter().any(|c| c.writer == id && !c.component.keys.is_empty());
        if let Some(member) = members.iter().find(|m| has_keys(&m.id) && recipients.is_empty()) {
            let what = format!("writer `{}` declares keys, and there is no one to seal them to", member.id);
            return Err(Failure::refused(Exit::Key, what)
                .help(
                    "make an identity with `holdfast key identity`, keep it off this machine, and put its \
                     public half into `recipients` of [recovery]",
                )
                .into());
        }
        let prepared = join_all(members.iter_mut().map(async |member| {
            let ctx = PhaseContext { set, budget: PREPARE };
            let prepared = member
                .call(Phase::PrepareBackup, PREPARE, async move |p| p.prepare_backup(&ctx).await)
                .await?;
            let keys = if has_keys(&member.id) {
                let seal = async move |p: &mut dyn holdfast_writer_api::BackupParticipant| {
                    p.seal_keys(recipients).await
                };
                let keys = member.call(Phase::PrepareBackup, PREPARE, seal).await?;
                sealed::check(&member.id, plan.of(&member.id), &keys)?;
                keys
            } else {
                Vec::new()
            };
            member.done(Event::BackupPrepared);
            member.metadata.warnings.extend(prepared.warnings);
            Ok::<_, WriterError>((member.id.clone(), keys))
        }))
        .await;
        for member in members.iter_mut() {
            member.report(&mut self.log);
        }
        let mut sealed = BTreeMap::new();
        for result in prepared {
            let (id, keys) = result.map_err(|error| {
                self.failed(&error);
                Attempt::writer("a writer could not prepare", error)
            })?;
            sealed.insert(id, keys);
        }
        Ok(sealed)
    }

    async fn with_shadows(
        &mut self,
        members: &mut [Member],
        plan: &CutPlan,
        sealed: &BTreeMap<String, Vec<SealedKey>>,
        time: jiff::Timestamp,
        shadows: &mut Shadows,
    ) -> Result<BackupSet, Attempt> {
        let (cuts, window) = self.cut(members, plan, shadows).await?;
        let stamps = self.post_snapshot(members, shadows).await?;
        let mut stored = self.store(members, plan, sealed, time, shadows, &cuts, window, &stamps).await?;
        self.complete(members, plan, &mut stored).await;
        Ok(stored.set)
    }

    /// The barrier: from the first provider's preparation to the last thaw.
    async fn cut(
        &mut self,
        members: &mut [Member],
        plan: &CutPlan,
        shadows: &mut Shadows,
    ) -> Result<(Vec<Cut>, Window), Attempt> {
        let budget = members.iter().map(|m| m.budget).min().unwrap_or(holdfast_writer_api::budget::LONGEST);
        shadows.prepare(plan, budget, self.env.config.backup.shadow_area.as_deref()).await.map_err(
            |error| {
                Failure::new(error.exit(), "the shadow copies could not be prepared", error, NOTHING_CHANGED)
            },
        )?;
        self.phase("prepare-snapshot");
        let set = self.set;
        let holders = members.iter().filter_map(|m| m.holder().map(|pid| (m.id.clone(), pid)));
        Holders::new(set, holders).record(&self.env.paths.runtime).map_err(|error| {
            let what = "the holders could not be recorded, so nothing was frozen";
            Failure::new(Exit::Failed, what, error, NOTHING_CHANGED)
        })?;
        let readied = join_all(members.iter_mut().map(|member| member.prepare_snapshot(set))).await;
        if let Some(error) = readied.into_iter().find_map(Result::err) {
            self.failed(&error);
            return Err(self.aborted::<std::io::Error>(
                members,
                Aborted { cause: AbortCause::Writer(error), stuck: Vec::new(), thawed: 0 },
            ));
        }
        self.phase("freeze");
        let (at, volumes) = (self.env.at, plan.volumes.len());
        let mut commits = Vec::new();
        let result = barrier::cut(members, set, &mut self.log, async |deadline| {
            at("frozen");
            let cut = shadows.commit(deadline).await;
            at("committed");
            cut
        })
        .await;
        if let Ok((cuts, _)) = &result {
            // Timed where they happened, and told only now: nothing is recorded during the hold.
            if let Some(begun) = cuts.iter().map(|cut| cut.begun_ns).min() {
                self.log.record_at(begun, What::CommitStarted { volumes });
            }
            for cut in cuts {
                let done = What::CommitDone {
                    provider: cut.provider.clone(),
                    volume: cut.volume.clone(),
                    commit_ms: cut.commit_ms,
                };
                self.log.record_at(cut.begun_ns + (cut.commit_ms * 1e6) as u64, done);
            }
        }
        self.phase("thawed");
        match result {
            Ok((cuts, window)) => {
                commits.extend(cuts);
                Ok((commits, window))
            }
            Err(aborted) => {
                let writer = match &aborted.cause {
                    AbortCause::Writer(error) | AbortCause::Late(error) => {
                        self.failed(error);
                        Some(error.writer().to_owned())
                    }
                    AbortCause::Commit(error) => {
                        self.log.record(What::CommitFailed { error: chain(error) });
                        None
                    }
                };
                let mut attempt = self.aborted(members, aborted);
                attempt.writer = writer;
                Err(attempt)
            }
        }
    }

    fn aborted<E: std::error::Error + Send + Sync + 'static>(
        &self,
        members: &[Member],
        aborted: Aborted<E>,
    ) -> Attempt {
        let what = format!("snapshot set {} was not created", self.set);
        let writer = match &aborted.cause {
            AbortCause::Writer(error) | AbortCause::Late(error) => Some(error.writer().to_owned()),
            AbortCause::Commit(_) => None,
        };
        let (stuck, all, thawed) = (aborted.stuck.len(), members.len(), aborted.thawed);
        if stuck > 0 {
            let names: Vec<_> = aborted.stuck.iter().map(|e| format!("`{}`", e.writer())).collect();
            let state = format!("{} MAY STILL BE HELD; the others are free", names.join(", "));
            let failure = Failure::new(Exit::ThawNotConfirmed, what, aborted, state)
                .help("run `holdfast thaw --all` now; if it says `still held`, restart that application");
            return Attempt { failure, writer };
        }
        let state = match thawed {
            0 => "nothing was frozen; no application is held; no shadow copy is left".to_owned(),
            n => format!("{n} of {all} writers thawed; no application is held; no shadow copy is left"),
        };
        let help = match &aborted.cause {
            AbortCause::Writer(WriterError::TimedOut { .. } | WriterError::Busy { .. })
            | AbortCause::Late(_) => "try when it is quieter, or raise --freeze-budget",
            AbortCause::Writer(_) => "`holdfast list writers` shows the state of each",
            AbortCause::Commit(_) => {
                "try when it is quieter, or raise --freeze-budget; `holdfast list providers` shows what else can cut"
            }
        };
        let failure = Failure::new(Exit::FreezeAborted, what, aborted, state).help(help);
        Attempt { failure, writer }
    }

    async fn post_snapshot(
        &mut self,
        members: &mut [Member],
        shadows: &mut Shadows,
    ) -> Result<BTreeMap<(String, String), String>, Attempt> {
        shadows.finish().await.map_err(|error| {
            let state = "all writers are thawed; no set was made";
            Failure::new(Exit::Failed, "the shadow copies could not be finished", error, state)
        })?;
        self.phase("post-snapshot");
        let ctx = ShadowContext { set: self.set, roots: shadows.roots() };
        let finished = join_all(members.iter_mut().map(async |member| {
            let ctx = ctx.clone();
            let finished =
                member.call(Phase::PostSnapshot, PREPARE, async move |p| p.post_snapshot(&ctx).await).await?;
            member.done(Event::PostSnapshotDone);
            member.metadata.warnings.extend(finished.warnings);
            Ok::<_, WriterError>((member.id.clone(), finished.stamps))
        }))
        .await;
        for member in members.iter_mut() {
            member.report(&mut self.log);
        }
        let mut stamps = BTreeMap::new();
        for result in finished {
            let (id, of_writer) = result.map_err(|error| {
                self.failed(&error);
                Attempt::writer("a writer rejected the shadow copy", error)
            })?;
            stamps.extend(of_writer.into_iter().map(|(component, stamp)| ((id.clone(), component), stamp)));
        }
        Ok(stamps)
    }

    #[expect(clippy::too_many_arguments, reason = "all that a set is made of meets here, once")]
    async fn store(
        &mut self,
        members: &[Member],
        plan: &CutPlan,
        sealed: &BTreeMap<String, Vec<SealedKey>>,
        time: jiff::Timestamp,
        shadows: &Shadows,
        cuts: &[Cut],
        window: Window,
        stamps: &BTreeMap<(String, String), String>,
    ) -> Result<Stored, Attempt> {
        self.phase("store");
        let no_set = "all writers are thawed; no set was made; the next backup removes what was begun";
        let mut contents = Contents::new();
        let mut records = Vec::new();
        for component in &plan.components {
            let mut record = contents.add(component, shadows.copies()).map_err(|error| {
                let what = format!(
                    "component `{}` of writer `{}` cannot be stored",
                    component.component.reference(),
                    component.writer
                );
                Failure::new(Exit::Refused, what, error, no_set)
            })?;
            record.stamp = stamps.get(&(component.writer.clone(), record.reference.to_string())).cloned();
            record.level = record::level(component, plan);
            records.push((component.writer.clone(), record));
        }
        let set = record::set(record::Facts {
            set: self.set,
            time,
            backup_type: self.options.backup_type,
            members,
            records,
            sealed,
            plan,
            cuts,
            window,
            left_out: self.left_out,
        });
        let identity = SetIdentity {
            set: self.set,
            time,
            hostname: set.host.clone(),
            tags: self.options.tags.clone(),
            label: String::new(),
        };
        let documents = documents(&set, members, sealed, &self.log);
        let order = storing::Order {
            identity,
            entries: contents.into_entries(),
            documents,
            proof: (record::SET_DOCUMENT, holdfast_writer_api::schema::to_bytes(&set)),
            progress: self.env.progress.clone(),
        };
        let stored = storing::store(self.env.repository.clone(), order).await.map_err(|error| {
            let exit = error.exit();
            match error {
                // One layer less for a person to read.
                StoreError::Repository(error) => {
                    Failure::new(exit, "the set could not be stored", error, no_set)
                }
                StoreError::NotTakenBack { .. } => {
                    let state = "all writers are thawed; A SET WAS MADE THAT CANNOT BE TRUSTED";
                    Failure::new(exit, "the stored set does not read back", error, state)
                        .help("remove it with `holdfast forget`, then run `holdfast verify` on the others")
                }
                StoreError::NotReadBack { .. } | StoreError::GivenUp | StoreError::Panicked => {
                    Failure::new(exit, "the set could not be stored", error, no_set)
                }
            }
        })?;
        let files = set.writers.iter().flat_map(|w| &w.components).map(|c| c.files).sum();
        self.log.record(What::SetStored { set: self.set, bytes: set.bytes(), files });
        self.phase("stored");
        Ok(Stored { set, in_repository: stored })
    }

    /// Truncation and the last word. The set exists; nothing here can take it back.
    async fn complete(&mut self, members: &mut [Member], plan: &CutPlan, stored: &mut Stored) {
        self.phase("backup-complete");
        for member in members.iter_mut() {
            let components = plan.components.iter().filter(|c| c.writer == member.id);
            let outcome = BackupOutcome {
                set: self.set,
                backup_type: member.backup_type,
                succeeded: components.map(|c| c.component.reference()).collect(),
                stored_logs: Vec::new(),
            };
            let completed = member
                .call(Phase::BackupComplete, PREPARE, async move |p| p.backup_complete(&outcome).await)
                .await;
            match completed {
                Ok(truncated) => {
                    member.done(Event::BackupCompleted);
                    if member.backup_type == BackupType::Full {
                        // What a restore demanded (promise P6) is there now.
                        self.env.paths.full_is_made(&member.id);
                    }
                    if !truncated.logs.is_empty() {
                        let (writer, logs) = (member.id.clone(), truncated.logs);
                        self.log.record(What::Truncated { writer, logs });
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    (self.env.note)(&format!("the set is stored, but {}", chain(&error)));
                }
            }
            member.report(&mut self.log);
        }
        let events = Document { path: "events.ndjson".into(), bytes: self.log.document() };
        let (repository, old) = (self.env.repository.clone(), stored.in_repository.clone());
        let amended = tokio::task::spawn_blocking(move || repository.amend(&old, vec![events])).await;
        match amended {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                (self.env.note)(&format!("the set is stored, but its event log is not complete: {error}"));
            }
            Err(panic) => {
                (self.env.note)(&format!("the set is stored, but its event log is not complete: {panic}"));
            }
        }
    }
}

struct Stored {
    set: BackupSet,
    in_repository: crate::repository::StoredSet,
}

/// The kind of backup this writer makes: what it lacks is a full (or a copy, when that was asked).
fn reduced(wanted: BackupType, metadata: &WriterMetadata) -> BackupType {
    let types = metadata.backup_types;
    match wanted {
        BackupType::Incremental if !types.incremental => BackupType::Full,
        BackupType::Differential if !types.differential => BackupType::Full,
        BackupType::Log if !types.log => BackupType::Full,
        BackupType::Full
        | BackupType::Incremental
        | BackupType::Differential
        | BackupType::Log
        | BackupType::Copy => wanted,
    }
}

fn documents(
    set: &BackupSet,
    members: &[Member],
    sealed: &BTreeMap<String, Vec<SealedKey>>,
    log: &EventLog,
) -> Vec<Document> {
    use holdfast_writer_api::schema::to_bytes;
    let mut documents = vec![
        Document { path: record::SET_DOCUMENT.into(), bytes: to_bytes(set) },
        Document { path: "events.ndjson".into(), bytes: log.document() },
    ];
    for member in members {
        let path = format!("writers/{}.json", member.id).into();
        documents.push(Document { path, bytes: to_bytes(&member.metadata) });
        for (n, key) in sealed.get(&member.id).into_iter().flatten().enumerate() {
            let path = record::key_document(&member.id, n).into();
            documents.push(Document { path, bytes: key.sealed.clone() });
        }
    }
    documents
}

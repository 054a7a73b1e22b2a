//! What a restore would do, and whether it could: everything is decided and checked here, and nothing changed.
//!
//! Owns: the plan as people and scripts see it, and the order of its checks. Start reading at [`plan`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_writer_api::document::{KeysState, Level};
use holdfast_writer_api::{HookStep, RestoreMethod, RestoreParticipant, RestoreRequest};
use serde::Serialize;
use uuid::Uuid;

use super::choose::{self, Chosen, rank_name};
use super::down::Signs;
use super::fault::{blocking, chain, guarded};
use super::keys::{self, Decision, Key, KeySource};
use super::set::SetContents;
use super::units::{self, Unit, Units};
use super::{RestoreEnvironment, RestoreOptions, documents};
use crate::failure::{Exit, Failure};
use crate::repository::Repository;
use crate::restore::registration::Registry;
use crate::restore::space::{self, Margin, Need};
use crate::restore::{Plan, UnitSpec};

const PLAN_SCHEMA: &str = "holdfast.restore-plan/1";

/// What a restore would do. Made by [`plan`], done by [`execute`](super::execute).
#[derive(Serialize)]
pub struct RestorePlan {
    /// `holdfast.restore-plan/1`.
    pub schema: &'static str,
    /// The set.
    pub set: Uuid,
    /// When its cut was made.
    pub created: String,
    /// The machine it is of.
    pub host: String,
    /// The writers, in the order in which they come back.
    pub writers: Vec<PlannedWriter>,
    /// What would be done, in order, in sentences.
    pub steps: Vec<String>,
    /// Every check, with its result.
    pub checks: Vec<Check>,
    /// Why it would be refused; empty when it would not.
    pub refusals: Vec<Refusal>,
    /// What would be left to do by hand or by a writer.
    pub needs: Vec<String>,
    #[serde(skip)]
    pub(super) prepared: Prepared,
}

/// A check and its result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was checked.
    pub what: String,
    /// What came out.
    pub result: String,
    /// Whether the restore may go on.
    pub ok: bool,
}

/// A reason not to restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The reason, in a sentence.
    pub what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The exit code it would lead to.
    #[serde(serialize_with = "as_number")]
    pub exit: Exit,
}

/// One writer of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedWriter {
    /// Its id.
    pub id: String,
    /// Its registered name.
    pub writer_type: String,
    /// `boot files`, `services`, `directory`, `applications` or `registry`.
    pub rank: &'static str,
    /// Whether it is configured on this machine.
    pub configured: bool,
    /// Whether everything goes to where it came from.
    pub in_place: bool,
    /// Full names of its components.
    pub components: Vec<String>,
    /// What is replaced, as a whole each.
    pub units: Vec<PlannedUnit>,
    /// Its keys.
    pub keys: Vec<PlannedKey>,
    /// Whether the old data stay beside the new, and why.
    pub keep_old: Option<String>,
    /// What its writer does once the files are in place.
    pub steps: Vec<String>,
}

/// A path of a plan that is replaced as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedUnit {
    /// The component it belongs to.
    pub component: String,
    /// Where it was.
    pub from: PathBuf,
    /// Where it goes.
    pub to: PathBuf,
    /// A folder, replaced with all that is in it.
    pub folder: bool,
    /// Whether the set has all of it. A folder it has only parts of is replaced too; the old one is kept.
    pub whole: bool,
    /// Whether something is there now.
    pub replaces: bool,
    /// Bytes on disk.
    pub bytes: u64,
    /// Files and folders.
    pub entries: u64,
    /// Names beside it that go away with the old data.
    pub companions: Vec<String>,
    /// Files of today that match what the component takes in and are not in the set.
    pub removes: Vec<String>,
}

/// A key of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedKey {
    /// The component it belongs to.
    pub component: String,
    /// What it is for.
    pub purpose: String,
    /// Where it was.
    pub from: PathBuf,
    /// Where it goes.
    pub to: PathBuf,
    /// Its public identity.
    pub fingerprint: String,
    /// Where it comes from.
    pub source: KeySource,
}

/// What [`super::execute`] works from.
pub(super) struct Prepared {
    pub contents: Arc<SetContents>,
    pub options: RestoreOptions,
    pub writers: Vec<Arc<PreparedWriter>>,
    /// Where documents go, if they are wanted.
    pub documents: Option<PathBuf>,
}

/// One writer, decided.
pub(super) struct PreparedWriter {
    pub id: String,
    pub request: RestoreRequest,
    pub units: Vec<Unit>,
    pub keys: Vec<Key>,
    pub keep_old: Option<String>,
    pub signs: Signs,
    /// Something is at a target now.
    pub replaces: bool,
    /// What a writer would do for it, if there were one.
    pub wants_recovery: bool,
}

impl PreparedWriter {
    /// What the placement is asked for; keys that lie in a folder unit are part of it.
    pub fn specs(&self) -> Vec<UnitSpec> {
        let keys = self.keys.iter().filter_map(Key::spec);
        self.units.iter().map(Unit::spec).chain(keys).collect()
    }
}

impl RestorePlan {
    /// What [`execute`](super::execute) would answer, if it would refuse.
    pub fn refusal(&self) -> Option<Failure> {
        let first = self.refusals.first()?;
        // A missing key has a code of its own, and is what to mend first: nothing else needs somebody else's help.
        let first = self.refusals.iter().find(|refusal| refusal.exit == Exit::Key).unwrap_or(first);
        let more = match self.refusals.len() {
            1 => String::new(),
            n => format!(" (and {} more reasons, see `holdfast restore plan`)", n - 1),
        };
        let failure = Failure::refused(first.exit, format!("the restore is refused: {}{more}", first.what));
        Some(match &first.help {
            Some(help) => failure.help(help),
            None => failure,
        })
    }

    fn check(&mut self, what: impl Into<String>, result: impl Into<String>, ok: bool) {
        self.checks.push(Check { what: what.into(), result: result.into(), ok });
    }

    /// A check that failed, and the refusal that follows.
    fn refuse(&mut self, what: impl Into<String>, why: impl Into<String>, help: Option<&str>) {
        let (what, why) = (what.into(), why.into());
        let refusal =
            Refusal { what: format!("{what}: {why}"), help: help.map(Into::into), exit: Exit::Refused };
        self.refusals.push(refusal);
        self.check(what, why, false);
    }
}

/// Decides and checks everything, and changes nothing.
///
/// # Errors
/// The set or its documents cannot be read; what is asked for is not in it (exit 2); dependencies in a circle. Whatever
/// else speaks against the restore is in [`RestorePlan::refusals`].
pub async fn plan(
    env: &RestoreEnvironment<'_>,
    repository: &Repository,
    options: RestoreOptions,
) -> Result<RestorePlan, Failure> {
    let (repository, stored) = (repository.clone(), options.set.clone());
    let contents = Arc::new(blocking(move || SetContents::read(&repository, &stored)).await?);
    let chosen: Vec<_> = choose::choose(&contents, &options)?.into_iter().map(Arc::new).collect();
    let set = &contents.set;
    let prepared = Prepared { contents: contents.clone(), options, writers: Vec::new(), documents: None };
    let mut plan = RestorePlan {
        schema: PLAN_SCHEMA,
        set: set.set,
        created: set.created.clone(),
        host: set.host.clone(),
        writers: Vec::new(),
        steps: Vec::new(),
        checks: Vec::new(),
        refusals: Vec::new(),
        needs: Vec::new(),
        prepared,
    };
    about_the_set(&mut plan, &contents);
    let order = chosen.iter().map(|writer| writer.record.id.as_str()).collect::<Vec<_>>().join(", ");
    plan.check("order", order, true);
    for writer in &chosen {
        about_dependencies(&mut plan, writer, &chosen);
        one_writer(env, &mut plan, &contents, writer).await?;
    }
    about_map(&mut plan);
    about_overlaps(&mut plan);
    about_space(&mut plan).await;
    about_unfinished(env, &mut plan).await;
    let bare = plan.writers.iter().any(|writer| !writer.configured);
    plan.prepared.documents = documents::place(&plan.prepared.options.target).filter(|_| bare);
    say_steps(&mut plan);
    Ok(plan)
}

fn about_the_set(plan: &mut RestorePlan, contents: &SetContents) {
    let set = &contents.set;
    let what = format!("set {}", set.set);
    let instant = if set.one_instant { "one instant" } else { "not one instant" };
    plan.check(
        &what,
        format!("level {}, {instant}, of {} at {}", level(set.level), set.host, set.created),
        true,
    );
    for exception in &set.exceptions {
        plan.check(&what, format!("incomplete, as was allowed: {exception}"), true);
    }
}

const fn level(level: Level) -> &'static str {
    level.as_str()
}

fn about_dependencies(plan: &mut RestorePlan, writer: &Chosen, chosen: &[Arc<Chosen>]) {
    for dependency in writer.components.iter().flat_map(|component| &component.dependencies) {
        if !chosen.iter().any(|other| other.record.id == dependency.writer) {
            let what =
                format!("`{}` needs `{}/{}`", writer.record.id, dependency.writer, dependency.component);
            plan.check(what, "not part of this restore: it has to be there already", true);
        }
    }
}

async fn one_writer(
    env: &RestoreEnvironment<'_>,
    plan: &mut RestorePlan,
    contents: &Arc<SetContents>,
    writer: &Arc<Chosen>,
) -> Result<(), Failure> {
    let id = writer.record.id.clone();
    let configured = env.writer(&id);
    let is_bare = configured.is_none();
    for record in writer.record.components.iter().filter(|record| !record.succeeded) {
        if writer.has(&record.reference) {
            plan.refuse(format!("component `{id}/{}`", record.reference), "is not wholly in the set", None);
        }
    }
    let (contents_there, writer_there) = (contents.clone(), writer.clone());
    let options = plan.prepared.options.clone();
    let looked = blocking(move || look(&contents_there, &writer_there, &options, is_bare));
    let (Units { units, notes, problems }, keys) = looked.await?;
    for note in notes {
        plan.check(format!("files of `{id}`"), note, true);
    }
    for problem in problems {
        plan.refuse(format!("files of `{id}`"), problem, None);
    }
    let in_place = units.iter().all(|unit| unit.original == unit.target);
    about_key_state(plan, writer);
    let keys = about_keys(plan, &id, keys);
    let request = RestoreRequest {
        set: contents.set.set,
        metadata: writer.metadata.clone(),
        components: writer.components.iter().map(|component| component.reference()).collect(),
        in_place: in_place && keys.iter().all(|key| key.record.path == key.target),
    };
    let mut prepared = PreparedWriter {
        id: id.clone(),
        request,
        keep_old: keep_old(plan.prepared.options.keep_old, &units, &keys),
        units,
        keys,
        signs: Signs::default(),
        replaces: false,
        wants_recovery: writer.metadata.capabilities.recover,
    };
    about_targets(plan, writer, &mut prepared);
    let common = configured.map(|writer| &writer.entry.common);
    prepared.signs = Signs::new(common, std::mem::take(&mut prepared.signs.files));
    let mut participant = None;
    match configured {
        Some(configured) => {
            // As ourselves: the staging is closed to everybody else until it is published.
            match guarded(&id, "begin the restore", configured.writer.begin_restore(prepared.request.clone()))
                .await
            {
                Ok(begun) => {
                    plan.check(
                        format!("writer `{id}`"),
                        "is configured, and takes the set's description",
                        true,
                    );
                    participant = Some(begun);
                }
                Err(error) => plan.refuse(format!("writer `{id}`"), chain(&error), None),
            }
        }
        None => about_missing_writer(plan, &prepared),
    }
    about_application(
        plan,
        &prepared,
        participant.as_mut(),
        common.is_some_and(|common| !common.stop.is_empty()),
    )
    .await;
    let steps = steps_of(plan, writer, &id, participant.as_mut()).await;
    plan.writers.push(shown(writer, configured.is_some(), &prepared, steps));
    plan.prepared.writers.push(Arc::new(prepared));
    Ok(())
}

fn keep_old(asked: bool, units: &[Unit], keys: &[Key]) -> Option<String> {
    if asked {
        return Some("as asked".to_owned());
    }
    if let Some(unit) = units.iter().find(|unit| !unit.whole && unit.replaces()) {
        let folder = unit.target.display();
        return Some(format!("the set has not all of {folder}: what it left out is in the old folder only"));
    }
    let key = keys.iter().find(|key| key.replaces_other)?;
    Some(format!("another key than the set's stands at {}, and is never removed", key.target.display()))
}

/// The units, and what is decided about each key. Blocks.
fn look(
    contents: &SetContents,
    writer: &Chosen,
    options: &RestoreOptions,
    bare: bool,
) -> Result<(Units, Vec<Result<Decision, Check>>), Failure> {
    let units = units::units(contents, writer, &options.target)?;
    let may_lack = options.without_keys || (bare && documents::place(&options.target).is_some());
    let mut decisions = Vec::new();
    let records = match &writer.record.keys {
        KeysState::Sealed { keys } => keys.as_slice(),
        KeysState::NoneDeclared | KeysState::Inside | KeysState::Missing { .. } => &[],
    };
    for record in records.iter().filter(|record| writer.has(&record.component)) {
        if !super::set::is_plain(&record.path) || record.path.file_name().is_none() {
            let what =
                format!("the set contradicts itself: `{}` is no place of a key", record.path.display());
            return Err(Failure::refused(Exit::Failed, what));
        }
        decisions.push(match options.target.target(&record.path) {
            Ok(target) => {
                let mut folders = units.units.iter().filter(|unit| unit.folder && target != unit.target);
                let inside =
                    folders.find(|unit| target.starts_with(&unit.target)).map(|unit| unit.target.clone());
                Ok(keys::decide(contents, record, target, inside, options.identity.as_deref(), may_lack)?)
            }
            Err(error) => {
                let what = format!("key {}", record.path.display());
                Err(Check { what, result: error.to_string(), ok: false })
            }
        });
    }
    Ok((units, decisions))
}

fn about_key_state(plan: &mut RestorePlan, writer: &Chosen) {
    let what = format!("keys of `{}`", writer.record.id);
    match &writer.record.keys {
        KeysState::Inside => plan.check(what, "lie inside its data", true),
        KeysState::Missing { why } => {
            plan.check(what, format!("are not in the set, as was allowed: {why}"), true)
        }
        KeysState::NoneDeclared | KeysState::Sealed { .. } => {}
    }
}

fn about_keys(plan: &mut RestorePlan, id: &str, decisions: Vec<Result<Decision, Check>>) -> Vec<Key> {
    let mut found = Vec::new();
    for decision in decisions {
        let Decision { key, check, help } = match decision {
            Ok(decision) => decision,
            Err(check) => {
                plan.refuse(check.what, check.result, None);
                continue;
            }
        };
        if !check.ok {
            let what = format!("{}: {}", check.what, check.result);
            plan.refusals.push(Refusal { what, help, exit: Exit::Key });
        } else if key.source == KeySource::Sealed {
            plan.needs
                .push(format!("the {} of `{id}` stays sealed: it takes the recovery identity", check.what));
        }
        plan.checks.push(check);
        found.push(key);
    }
    found
}

/// Whether the targets can be replaced, and which files an application would have open there.
fn about_targets(plan: &mut RestorePlan, writer: &Chosen, prepared: &mut PreparedWriter) {
    let id = &prepared.id;
    let specs = prepared.specs();
    prepared.replaces = specs.iter().any(|spec| spec.live.symlink_metadata().is_ok());
    for unit in prepared.units.iter().filter(|unit| !unit.removes.is_empty()) {
        let what = format!("files of `{id}` beside {}", unit.target.display());
        plan.check(
            what,
            format!("not in the set, and go away with the old data: {}", unit.removes.join(", ")),
            true,
        );
    }
    match (writer.metadata.restore.method, prepared.request.in_place) {
        (RestoreMethod::IfNotThere, _) if prepared.replaces => {
            let why = "its writer restores only where nothing is, and there is something";
            plan.refuse(
                format!("targets of `{id}`"),
                why,
                Some("move it away, or restore elsewhere with --to"),
            );
        }
        (RestoreMethod::ToAlternateLocation, true) => {
            let why = "its writer restores to another place only";
            plan.refuse(format!("targets of `{id}`"), why, Some("restore elsewhere with --to or --map"));
        }
        (RestoreMethod::Custom, true) => {
            let why = "its application brings its data back by its own means";
            plan.refuse(
                format!("targets of `{id}`"),
                why,
                Some("restore elsewhere with --to, and see its writer's docs"),
            );
        }
        _ => {}
    }
    if specs.is_empty() {
        plan.check(format!("targets of `{id}`"), "nothing has to be put in place", true);
        return;
    }
    match Plan::new(&specs) {
        Ok(looked) => {
            let files = looked.live_paths().chain(looked.companion_paths());
            prepared.signs.files = files.map(Path::to_owned).collect();
            let new = if prepared.replaces { "can be replaced" } else { "are free" };
            plan.check(format!("targets of `{id}`"), format!("{} {new}", specs.len()), true);
        }
        Err(error) => plan.refuse(format!("targets of `{id}`"), chain(&error), None),
    }
}

fn about_missing_writer(plan: &mut RestorePlan, prepared: &PreparedWriter) {
    let id = &prepared.id;
    if prepared.request.in_place {
        let why = "is not configured here, and only it can check and recover what goes to the original place";
        plan.refuse(format!("writer `{id}`"), why, Some("configure it, or restore elsewhere with --to DIR"));
        return;
    }
    plan.check(
        format!("writer `{id}`"),
        "is not configured here: files, documents and sealed keys come back",
        true,
    );
    let kind = &prepared.request.metadata.writer_type;
    for component in prepared.request.components.iter().filter(|_| prepared.wants_recovery) {
        plan.needs.push(format!(
            "`{id}/{component}` is as it was cut: a writer of type `{kind}` has to check and recover it before use"
        ));
    }
}

async fn about_application(
    plan: &mut RestorePlan,
    prepared: &PreparedWriter,
    participant: Option<&mut Box<dyn RestoreParticipant>>,
    can_stop: bool,
) {
    let what = format!("application of `{}`", prepared.id);
    if !prepared.replaces {
        plan.check(what, "not asked: nothing of it is replaced", true);
        return;
    }
    // The writer speaks of the application in its original place.
    let participant = participant.filter(|_| prepared.request.in_place);
    let answer = prepared.signs.ask(&prepared.id, participant, plan.prepared.options.assume_stopped).await;
    if answer.may_move {
        plan.check(what, answer.result, true);
    } else if plan.prepared.options.stop && can_stop {
        plan.check(
            what,
            format!("{}; the stop commands are run first, and it is asked again", answer.result),
            true,
        );
    } else {
        let help = match (answer.running, can_stop) {
            (true, true) => "stop it, or pass --stop",
            (true, false) => "stop it; `stop = [[…]]` of its [[writer]] lets --stop do so",
            (false, _) => "stop it; if you know that it is down, say so with --assume-stopped",
        };
        plan.refuse(what, answer.result, Some(help));
    }
}

async fn steps_of(
    plan: &mut RestorePlan,
    writer: &Chosen,
    id: &str,
    participant: Option<&mut Box<dyn RestoreParticipant>>,
) -> Vec<String> {
    let Some(participant) = participant.filter(|_| writer.metadata.capabilities.post_restore) else {
        return Vec::new();
    };
    match guarded(id, "name its steps", participant.post_restore_steps()).await {
        Ok(steps) => steps.iter().map(|step: &HookStep| step.description.clone()).collect(),
        Err(error) => {
            plan.refuse(format!("steps of `{id}`"), chain(&error), None);
            Vec::new()
        }
    }
}

fn shown(writer: &Chosen, configured: bool, prepared: &PreparedWriter, steps: Vec<String>) -> PlannedWriter {
    let unit = |unit: &Unit| PlannedUnit {
        component: unit.component.clone(),
        from: unit.original.clone(),
        to: unit.target.clone(),
        folder: unit.folder,
        whole: unit.whole,
        replaces: unit.replaces(),
        bytes: unit.bytes,
        entries: unit.entries,
        companions: unit.companions.clone(),
        removes: unit.removes.clone(),
    };
    let key = |key: &Key| PlannedKey {
        component: key.record.component.to_string(),
        purpose: key.record.purpose.clone(),
        from: key.record.path.clone(),
        to: key.target.clone(),
        fingerprint: key.record.fingerprint.clone(),
        source: key.source,
    };
    PlannedWriter {
        id: prepared.id.clone(),
        writer_type: writer.record.writer_type.clone(),
        rank: rank_name(writer.metadata.restore.rank),
        configured,
        in_place: prepared.request.in_place,
        components: prepared.request.components.iter().map(ToString::to_string).collect(),
        units: prepared.units.iter().map(unit).collect(),
        keys: prepared.keys.iter().map(key).collect(),
        keep_old: prepared.keep_old.clone(),
        steps,
    }
}

/// A rule that sends nothing anywhere is a mistyped one; a rule inside a unit would be passed over.
fn about_map(plan: &mut RestorePlan) {
    let rules: Vec<PathBuf> = plan.prepared.options.target.rules().map(Path::to_owned).collect();
    for rule in rules {
        let writers = &plan.prepared.writers;
        let mut originals = writers.iter().flat_map(|writer| {
            let keys = writer.keys.iter().map(|key| key.record.path.as_path());
            writer.units.iter().map(|unit| unit.original.as_path()).chain(keys)
        });
        if originals.any(|original| original.starts_with(&rule)) {
            continue;
        }
        let around =
            writers.iter().flat_map(|writer| &writer.units).find(|unit| rule.starts_with(&unit.original));
        let why = match around {
            Some(unit) => format!("it lies in {}, which is restored as a whole", unit.original.display()),
            None => "nothing of this restore was there".to_owned(),
        };
        plan.refuse(format!("--map {}", rule.display()), why, None);
    }
}

/// One writer's data inside another's would go away with them, and two on one path are one too many.
fn about_overlaps(plan: &mut RestorePlan) {
    let mut paths: Vec<(PathBuf, String)> = Vec::new();
    for writer in &plan.prepared.writers {
        paths.extend(writer.specs().into_iter().map(|spec| (spec.live, writer.id.clone())));
    }
    let originals: Vec<PathBuf> = plan
        .prepared
        .writers
        .iter()
        .flat_map(|writer| writer.units.iter().map(|unit| unit.original.clone()))
        .collect();
    if let Err(error) = plan.prepared.options.target.targets(originals.iter().map(PathBuf::as_path)) {
        plan.refuse("targets", error.to_string(), Some("map them to different places"));
    }
    paths.sort();
    let mut collisions = Vec::new();
    for (index, (path, writer)) in paths.iter().enumerate() {
        let below = paths[index + 1..].iter().take_while(|(other, _)| other.starts_with(path));
        for (other, second) in below.filter(|(_, second)| second != writer) {
            collisions.push(format!(
                "{} of `{second}` lies in {} of `{writer}`, which is replaced as a whole",
                other.display(),
                path.display()
            ));
        }
    }
    for collision in collisions {
        plan.refuse("targets", collision, Some("restore one of them elsewhere, with --map"));
    }
}

async fn about_space(plan: &mut RestorePlan) {
    let needs: Vec<Need> = plan
        .prepared
        .writers
        .iter()
        .flat_map(|writer| &writer.units)
        .map(|unit| Need { target: unit.target.clone(), bytes: unit.bytes, entries: unit.entries })
        .collect();
    let bytes: u64 = needs.iter().map(|need| need.bytes).sum();
    let entries: u64 = needs.iter().map(|need| need.entries).sum();
    match blocking(move || space::check(&needs, Margin::default())).await {
        Ok(()) => plan.check(
            "space",
            format!("{bytes} bytes in {entries} files and folders fit beside the old"),
            true,
        ),
        Err(error) => plan.refuse("space", chain(&error), Some("free some, or restore elsewhere with --to")),
    }
}

/// A registered restore of the same writer has to be ended first.
async fn about_unfinished(env: &RestoreEnvironment<'_>, plan: &mut RestorePlan) {
    let state = env.paths.state.clone();
    let listed = blocking(move || {
        // No folder of markers, no marker.
        if !state.join("restores").is_dir() { Ok(Vec::new()) } else { Registry::open(&state)?.list() }
    })
    .await;
    let help = Some("finish it with `holdfast recover`, or give it up with `holdfast recover --roll-back`");
    match listed {
        Err(error) => plan.refuse("unfinished restores", chain(&error), None),
        Ok(markers) => {
            for marker in markers {
                match marker {
                    Err(error) => plan.refuse("unfinished restores", chain(&error), None),
                    Ok(marker)
                        if marker.phase.gates_start()
                            && plan.writers.iter().any(|w| w.id == marker.writer) =>
                    {
                        let why =
                            format!("restore {} of `{}` is {}", marker.restore, marker.writer, marker.phase);
                        plan.refuse("unfinished restores", why, help);
                    }
                    Ok(_) => {}
                }
            }
        }
    }
}

fn say_steps(plan: &mut RestorePlan) {
    let mut steps = Vec::new();
    if plan.prepared.options.stop {
        steps.push("run the configured stop commands, and look whether the applications are down".to_owned());
    }
    for writer in &plan.writers {
        let bytes: u64 = writer.units.iter().map(|unit| unit.bytes).sum();
        let count = writer.units.len();
        steps.push(format!(
            "stage {count} files and folders of `{}` ({bytes} bytes) beside their targets",
            writer.id
        ));
    }
    steps.push("let every writer check what was staged; until here nothing live is touched".to_owned());
    for writer in &plan.writers {
        let id = &writer.id;
        steps.push(format!("register the restore of `{id}`, and block its live paths"));
        if writer.configured {
            steps.push(format!("let `{id}` recover and verify the staged data"));
        }
        for unit in &writer.units {
            steps.push(format!("put {} in place", unit.to.display()));
        }
        for key in writer.keys.iter().filter(|key| key.source == KeySource::Opened) {
            steps.push(format!("put the key {} in place", key.to.display()));
        }
        steps.extend(writer.steps.iter().map(|step| format!("`{id}`: {step}")));
        steps.push(match &writer.keep_old {
            Some(why) => format!("keep the old data of `{id}` beside the new: {why}"),
            None => format!("remove the old data of `{id}`"),
        });
    }
    plan.steps = steps;
}

fn as_number<S: serde::Serializer>(exit: &Exit, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u8(*exit as u8)
}

//! What a restore would do, and whether it could: everything is decided and checked here, and nothing changed.
//!
//! Owns: the plan as people and scripts see it, and the order of its checks. Start reading at [`plan`].
//! Leaves to others: the single checks ([`super::checks`]).

use std::path::PathBuf;
use std::sync::Arc;

use holdfast_writer_api::RestoreRequest;
use holdfast_writer_api::document::KeysState;
use serde::Serialize;
use uuid::Uuid;

use super::checks::{
    about_application, about_dependencies, about_key_state, about_keys, about_map, about_missing_writer,
    about_overlaps, about_space, about_targets, about_the_set, about_unfinished, keep_old, say_steps,
    steps_of,
};
use super::choose::{self, Chosen, rank_name};
use super::down::Signs;
use super::fault::{blocking, chain, guarded};
use super::keys::{self, Decision, Key, KeySource};
use super::set::SetContents;
use super::units::{self, Unit, Units};
use super::{RestoreEnvironment, RestoreOptions, documents};
use crate::failure::{Exit, Failure};
use crate::repository::Repository;
use crate::restore::UnitSpec;

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

    pub(super) fn check(&mut self, what: impl Into<String>, result: impl Into<String>, ok: bool) {
        self.checks.push(Check { what: what.into(), result: result.into(), ok });
    }

    /// A check that failed, and the refusal that follows.
    pub(super) fn refuse(&mut self, what: impl Into<String>, why: impl Into<String>, help: Option<&str>) {
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

fn as_number<S: serde::Serializer>(exit: &Exit, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u8(*exit as u8)
}

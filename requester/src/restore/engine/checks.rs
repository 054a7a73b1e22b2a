//! The single checks of a plan: each writes its result into it, and a refusal where it fails. None changes anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_writer_api::document::KeysState;
use holdfast_writer_api::{HookStep, RestoreMethod, RestoreParticipant};

use super::RestoreEnvironment;
use super::choose::Chosen;
use super::fault::{blocking, chain, guarded};
use super::keys::{Decision, Key, KeySource};
use super::plan::{Check, PreparedWriter, Refusal, RestorePlan};
use super::set::SetContents;
use super::units::Unit;
use crate::failure::Exit;
use crate::restore::Plan;
use crate::restore::registration::Registry;
use crate::restore::space::{self, Margin, Need};

pub(super) fn about_the_set(plan: &mut RestorePlan, contents: &SetContents) {
    let set = &contents.set;
    let what = format!("set {}", set.set);
    let instant = if set.one_instant { "one instant" } else { "not one instant" };
    plan.check(
        &what,
        format!("level {}, {instant}, of {} at {}", set.level.as_str(), set.host, set.created),
        true,
    );
    for exception in &set.exceptions {
        plan.check(&what, format!("incomplete, as was allowed: {exception}"), true);
    }
}

pub(super) fn about_dependencies(plan: &mut RestorePlan, writer: &Chosen, chosen: &[Arc<Chosen>]) {
    for dependency in writer.components.iter().flat_map(|component| &component.dependencies) {
        if !chosen.iter().any(|other| other.record.id == dependency.writer) {
            let what =
                format!("`{}` needs `{}/{}`", writer.record.id, dependency.writer, dependency.component);
            plan.check(what, "not part of this restore: it has to be there already", true);
        }
    }
}

pub(super) fn keep_old(asked: bool, units: &[Unit], keys: &[Key]) -> Option<String> {
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

pub(super) fn about_key_state(plan: &mut RestorePlan, writer: &Chosen) {
    let what = format!("keys of `{}`", writer.record.id);
    match &writer.record.keys {
        KeysState::Inside => plan.check(what, "lie inside its data", true),
        KeysState::Missing { why } => {
            plan.check(what, format!("are not in the set, as was allowed: {why}"), true)
        }
        KeysState::NoneDeclared | KeysState::Sealed { .. } => {}
    }
}

pub(super) fn about_keys(
    plan: &mut RestorePlan,
    id: &str,
    decisions: Vec<Result<Decision, Check>>,
) -> Vec<Key> {
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
pub(super) fn about_targets(plan: &mut RestorePlan, writer: &Chosen, prepared: &mut PreparedWriter) {
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

pub(super) fn about_missing_writer(plan: &mut RestorePlan, prepared: &PreparedWriter) {
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

pub(super) async fn about_application(
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

pub(super) async fn steps_of(
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

/// A rule that sends nothing anywhere is a mistyped one; a rule inside a unit would be passed over.
pub(super) fn about_map(plan: &mut RestorePlan) {
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
pub(super) fn about_overlaps(plan: &mut RestorePlan) {
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

pub(super) async fn about_space(plan: &mut RestorePlan) {
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
pub(super) async fn about_unfinished(env: &RestoreEnvironment<'_>, plan: &mut RestorePlan) {
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

pub(super) fn say_steps(plan: &mut RestorePlan) {
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
        steps.push(format!("register the restore of `{}`", writer.id));
    }
    for writer in &plan.writers {
        steps.push(format!("block the live paths of `{}`", writer.id));
    }
    for writer in plan.writers.iter().filter(|writer| writer.configured) {
        steps.push(format!("let `{}` recover and verify the staged data", writer.id));
    }
    for writer in &plan.writers {
        for unit in &writer.units {
            steps.push(format!("put {} in place", unit.to.display()));
        }
        for key in writer.keys.iter().filter(|key| key.source == KeySource::Opened) {
            steps.push(format!("put the key {} in place", key.to.display()));
        }
    }
    for writer in &plan.writers {
        steps.extend(writer.steps.iter().map(|step| format!("`{}`: {step}", writer.id)));
    }
    for writer in &plan.writers {
        let id = &writer.id;
        steps.push(match &writer.keep_old {
            Some(why) => format!("keep the old data of `{id}` beside the new: {why}"),
            None => format!("remove the old data of `{id}`"),
        });
    }
    plan.steps = steps;
}

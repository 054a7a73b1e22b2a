//! R25 to R30: the order of a restore, and what it is made from.

use std::collections::BTreeSet;

use holdfast_writer_api::protocol::Call;
use holdfast_writer_api::protocol::message::Steps;
use holdfast_writer_api::{HookStep, OnFailure, OnlineState, RestoreRequest, WriterMetadata};

use super::Found;
use super::conversation::OF_A_RESTORE;
use super::story::{Conversation, Exchange, Outcome, Story};

/// In their order. To ask is possible at any time: `OnlineState`, `PostRestoreSteps`.
const PHASES: [&str; 7] =
    ["Check", "Register", "RegisterComplete", "Recover", "Verify", "RunStep", "Unregister"];

/// A phase, and what must have been done before: for this set, and by all of its writers.
const AFTER: [(&str, &str); 4] =
    [("Register", "Check"), ("RegisterComplete", "Register"), ("Recover", "Register"), ("RunStep", "Verify")];

/// Those that a writer need not have.
const MAY_LACK: [&str; 3] = ["Register", "RegisterComplete", "Unregister"];

fn calls<'c, 'j>(one: &'c Conversation<'j>) -> impl Iterator<Item = &'c Exchange<'j>> {
    one.exchanges.iter().filter(|exchange| OF_A_RESTORE.contains(&exchange.method))
}

fn place(method: &str) -> Option<usize> {
    PHASES.iter().position(|phase| *phase == method)
}

/// What the writer listed to be run afterwards.
fn listed(one: &Conversation<'_>) -> Vec<HookStep> {
    let lists = one.exchanges.iter().filter(|exchange| exchange.method == "PostRestoreSteps");
    lists.filter_map(Exchange::reply::<Steps>).next_back().map(|reply| reply.steps).unwrap_or_default()
}

pub fn in_order(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, ..) in story.restores() {
        let mut reached: Option<&str> = None;
        let names: Vec<_> = listed(one).into_iter().map(|step| step.name).collect();
        let mut steps = names.iter();
        for exchange in calls(one) {
            let Some(at) = place(exchange.method) else { continue };
            if let Some(before) = reached
                && let Some(reached) = place(before)
                && (at < reached || (at == reached && exchange.method != "RunStep"))
            {
                let why = format!("`{}` was called after `{before}`", exchange.method);
                found.push(one.found(exchange.line, why));
            }
            if let Some(Call::RunStep { name }) = &exchange.call
                && steps.next() != Some(name)
            {
                found.push(
                    one.found(exchange.line, format!("the step `{name}` is not the next of those listed")),
                );
            }
            reached = Some(exchange.method);
        }
    }
    found
}

pub fn not_after_failure(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, ..) in story.restores() {
        let steps = listed(one);
        let mut failed: Option<&Exchange<'_>> = None;
        for exchange in calls(one) {
            if let Some(failed) = failed
                && place(exchange.method).is_some()
                && exchange.method != "Unregister"
                && !(exchange.method == "RunStep" && lets_go_on(failed, &steps))
            {
                let why = format!("`{}` was called though `{}` had failed", exchange.method, failed.method);
                found.push(one.found(exchange.line, why));
            }
            let is_failure = match exchange.outcome {
                // One that cannot tell: the requester looks by itself.
                _ if exchange.method == "OnlineState" => false,
                Outcome::Failed(_) => true,
                Outcome::Lacking => !MAY_LACK.contains(&exchange.method),
                Outcome::Done | Outcome::Broke(_) | Outcome::HungUp | Outcome::Nothing => false,
            };
            if failed.is_none_or(|failed| lets_go_on(failed, &steps)) && is_failure {
                failed = Some(exchange);
            }
        }
    }
    found
}

/// Whether it is a step whose failure is only told of.
fn lets_go_on(failed: &Exchange<'_>, steps: &[HookStep]) -> bool {
    let Some(Call::RunStep { name }) = &failed.call else { return false };
    steps.iter().any(|step| step.name == *name && step.on_failure == OnFailure::Continue)
}

/// Whether it only tries out what a set holds, as a verification does: a copy that is not the application's.
fn is_trial(one: &Conversation<'_>, request: &RestoreRequest) -> bool {
    !request.in_place && one.first("Register").is_none()
}

pub fn only_after(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, _, request) in story.restores().filter(|(one, _, request)| !is_trial(one, request)) {
        for (phase, before) in AFTER {
            let Some(call) = one.first(phase) else { continue };
            let done = story.restores().any(|(other, _, theirs)| {
                other.writer == one.writer
                    && theirs.set == request.set
                    && other.exchanges.iter().any(|exchange| was_done(exchange, before, call.line))
            });
            if !done {
                found
                    .push(one.found(call.line, format!("`{phase}` was called, and `{before}` was not done")));
            }
        }
    }
    found
}

/// Whether it is `method`, done before `line`. What a writer lacks and need not have is done.
fn was_done(exchange: &Exchange<'_>, method: &str, line: usize) -> bool {
    let done = exchange.is_done() || (exchange.outcome == Outcome::Lacking && MAY_LACK.contains(&method));
    exchange.method == method && done && exchange.answered.is_some_and(|answered| answered < line)
}

pub fn not_while_running(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, ..) in story.restores() {
        let mut runs = false;
        for exchange in calls(one) {
            if exchange.method == "OnlineState" {
                let state = exchange.reply::<OnlineState>().filter(|_| exchange.is_done());
                runs = matches!(state, Some(OnlineState::Ready | OnlineState::Paused));
            } else if runs && place(exchange.method).is_some() && exchange.method != "Unregister" {
                let why = format!("`{}` was called, and the application runs", exchange.method);
                found.push(one.found(exchange.line, why));
            }
        }
    }
    found
}

pub fn as_stored(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, begin, request) in story.restores() {
        let stored = story.backups().find(|(other, begun, theirs)| {
            other.writer == one.writer && theirs.set == request.set && begun.line < begin.line
        });
        let Some((_, begun, of_backup)) = stored else {
            // Its backup is in another journal.
            continue;
        };
        let Some(said) = story.described(one.writer, begun.line) else { continue };
        if bare(&said) != bare(&request.metadata) {
            found.push(one.found(begin.line, "the description is not the one that the set stored"));
        }
        if let Some(why) = not_of(request, &of_backup.components) {
            found.push(one.found(begin.line, why));
        }
    }
    found
}

/// Warnings may be added while a backup runs.
fn bare(metadata: &WriterMetadata) -> WriterMetadata {
    WriterMetadata { warnings: Vec::new(), ..metadata.clone() }
}

fn not_of(request: &RestoreRequest, stored: &[holdfast_writer_api::ComponentRef]) -> Option<String> {
    let names: BTreeSet<_> = request.components.iter().map(ToString::to_string).collect();
    if names.is_empty() || names.len() != request.components.len() {
        return Some("no component is named, or one twice".into());
    }
    let unknown = request.components.iter().find(|reference| !stored.contains(reference))?;
    Some(format!("component `{unknown}` is not in the set"))
}

pub fn together(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let restores: Vec<_> = story.restores().filter(|(one, _, request)| !is_trial(one, request)).collect();
    for (one, _, request) in &restores {
        // Those that one process restores from one set, and that take part in more than a plan.
        let others: Vec<_> = restores
            .iter()
            .filter(|(other, _, theirs)| {
                other.writer != one.writer && other.requester == one.requester && theirs.set == request.set
            })
            .filter(|(other, ..)| other.first("Check").is_some())
            .collect();
        for (phase, before) in AFTER {
            let Some(call) = one.first(phase) else { continue };
            let late = others.iter().filter(|(other, ..)| {
                !other.exchanges.iter().any(|exchange| was_done(exchange, before, call.line))
            });
            found.extend(late.map(|(other, ..)| {
                one.found(
                    call.line,
                    format!("`{phase}` was called, and `{}` has not done `{before}`", other.writer),
                )
            }));
        }
    }
    found
}

//! R11 to R18: that what is said to a writer is exactly what it may be.

use std::collections::BTreeSet;
use std::time::Duration;

use holdfast_writer_api::budget::freeze_budget;
use holdfast_writer_api::protocol::Call;
use holdfast_writer_api::protocol::message::{Logs, Streams};
use holdfast_writer_api::{
    BackupType, Capabilities, ComponentRef, PostSnapshot, Prepared, WriterMetadata, selection,
};

use super::Found;
use super::story::{Conversation, Exchange, Story};
use crate::journal::Record;

pub fn budgets(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, begin, _) in story.backups() {
        let said = story.described(one.writer, begin.line);
        for exchange in &one.exchanges {
            let Some(ms) = exchange.budget_ms() else { continue };
            let longest = said.as_ref().filter(|_| exchange.method == "Freeze").map(longest_ms);
            if ms == 0 {
                found.push(one.found(exchange.line, format!("`{}` has a budget of 0 ms", exchange.method)));
            } else if let Some(longest) = longest.filter(|longest| ms > *longest) {
                let why = format!("the budget of `Freeze` is {ms} ms; the writer bears {longest} ms");
                found.push(one.found(exchange.line, why));
            }
        }
    }
    found
}

/// The longest hold that a writer bears.
fn longest_ms(said: &WriterMetadata) -> u64 {
    let millis = |ms: Option<u64>| ms.map(Duration::from_millis);
    let longest = freeze_budget(None, millis(said.freeze_budget_ms), millis(said.busy_timeout_ms));
    u64::try_from(longest.as_millis()).unwrap_or(u64::MAX)
}

pub fn one_set(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for one in &story.conversations {
        let sets: Vec<_> =
            one.exchanges.iter().filter_map(|exchange| Some((exchange, exchange.set()?))).collect();
        let Some((_, first)) = sets.first() else { continue };
        let other = sets.iter().filter(|(_, set)| set != first);
        found.extend(other.map(|(exchange, set)| {
            one.found(exchange.line, format!("`{}` is about set {set}, not {first}", exchange.method))
        }));
    }
    found
}

pub fn declared(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, begin, request) in story.backups() {
        let Some(said) = story.described(one.writer, begin.line) else {
            found.push(one.found(begin.line, "no description was taken from the writer before"));
            continue;
        };
        let types = said.backup_types;
        let is_declared = match request.backup_type {
            BackupType::Full | BackupType::Copy => true,
            BackupType::Incremental => types.incremental,
            BackupType::Differential => types.differential,
            BackupType::Log => types.log,
        };
        if !is_declared {
            let why = format!("a backup of kind {:?}, which was not declared", request.backup_type);
            found.push(one.found(begin.line, why));
        }
        if let Some(why) = not_selected(&said, &request.components) {
            found.push(one.found(begin.line, why));
        }
    }
    found
}

/// Why `asked` is no selection of what was declared.
fn not_selected(said: &WriterMetadata, asked: &[ComponentRef]) -> Option<String> {
    let names = |of: &[ComponentRef]| of.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let asked_for = names(asked);
    if asked_for.len() != asked.len() {
        return Some("a component is named twice".into());
    }
    if let Some(unknown) = asked.iter().find(|reference| said.component(reference).is_none()) {
        return Some(format!("component `{unknown}` was not declared"));
    }
    // Choosing all that may be chosen gives back exactly what was asked for, with all that comes along.
    let may_be =
        |one: &ComponentRef| selection::for_backup(&said.components, std::slice::from_ref(one)).is_ok();
    let chosen: Vec<_> = asked.iter().filter(|one| may_be(one)).cloned().collect();
    if chosen.is_empty() {
        return Some("no component was chosen".into());
    }
    let with_all = selection::for_backup(&said.components, &chosen).ok()?;
    let with_all: BTreeSet<_> =
        with_all.iter().map(|(component, _)| component.reference().to_string()).collect();
    let missing: Vec<_> = with_all.symmetric_difference(&asked_for).cloned().collect();
    (!missing.is_empty()).then(|| format!("not with what belongs together: {}", missing.join(", ")))
}

pub fn stamps(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, begin, request) in story.backups() {
        let earlier: Vec<_> = story
            .backups()
            .filter(|(other, ..)| other.writer == one.writer)
            .filter(|(other, ..)| other.first("BackupComplete").is_some_and(|end| end.line < begin.line))
            .filter_map(|(other, ..)| other.first("PostSnapshot")?.reply::<PostSnapshot>())
            .collect();
        for (component, stamp) in &request.previous_stamps {
            if !earlier.iter().any(|post| post.stamps.get(component) == Some(stamp)) {
                let why = format!("`{stamp}` is no stamp that was given for `{component}`");
                found.push(one.found(begin.line, why));
            }
        }
    }
    found
}

pub fn complete(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, _, request) in story.backups() {
        for exchange in &one.exchanges {
            let Some(Call::BackupComplete(outcome)) = &exchange.call else { continue };
            let mut wrong = |why: String| found.push(one.found(exchange.line, why));
            let names = |of: &[ComponentRef]| {
                let mut names: Vec<_> = of.iter().map(ToString::to_string).collect();
                names.sort_unstable();
                names
            };
            let (of_end, of_begin) = (names(&outcome.succeeded), names(&request.components));
            if of_end != of_begin {
                wrong(format!("completed were {}, begun {}", of_end.join(", "), of_begin.join(", ")));
            }
            let made = one.first("PrepareBackup").and_then(|prepared| prepared.reply::<Prepared>());
            let made = made.map_or(request.backup_type, |prepared| prepared.backup_type);
            if outcome.backup_type != made {
                wrong(format!("the kind is {:?}, the writer made {made:?}", outcome.backup_type));
            }
            let listed = one.first("ListLogs").and_then(|logs| logs.reply::<Logs>());
            let listed: BTreeSet<_> =
                listed.into_iter().flat_map(|listed| listed.logs).map(|log| log.name).collect();
            let unknown = outcome.stored_logs.iter().find(|name| !listed.contains(*name));
            if let Some(unknown) = unknown {
                wrong(format!("the log `{unknown}` was not listed"));
            } else if !outcome.stored_logs.is_empty() && !outcome.backup_type.may_truncate() {
                wrong(format!(
                    "logs are named, and a backup of kind {:?} truncates none",
                    outcome.backup_type
                ));
            }
        }
    }
    found
}

pub fn capabilities(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let backups = story.backups().map(|(one, begin, _)| (one, story.described(one.writer, begin.line)));
    let restores = story.restores().map(|(one, _, request)| (one, Some(request.metadata.clone())));
    for (one, said) in backups.chain(restores) {
        let Some(said) = said else { continue };
        for exchange in &one.exchanges {
            if let Some((name, false)) = capability(exchange.method, said.capabilities) {
                let why = format!("`{}` was called, and `{name}` is not declared", exchange.method);
                found.push(one.found(exchange.line, why));
            }
        }
    }
    found
}

/// What a method needs, and whether that is there.
fn capability(method: &str, has: Capabilities) -> Option<(&'static str, bool)> {
    Some(match method {
        "SealKeys" => ("keys", has.keys),
        "ListStreams" | "OpenStream" | "CloseStream" => ("stream", has.stream),
        "ListLogs" => ("logs", has.logs),
        "Recover" => ("recover", has.recover),
        "PostRestoreSteps" | "RunStep" => ("post_restore", has.post_restore),
        _ => return None,
    })
}

pub fn keys(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for (one, begin, request) in story.backups() {
        let Some(said) = story.described(one.writer, begin.line) else { continue };
        let mut taking_part = said.components.iter().filter(|c| request.components.iter().any(|r| c.is(r)));
        let has_keys = taking_part.any(|component| !component.keys.is_empty());
        let seal = one.first("SealKeys");
        if let (true, Some(freeze)) = (has_keys, one.first("Freeze"))
            && seal.is_none_or(|seal| seal.line > freeze.line)
        {
            found.push(one.found(freeze.line, "`Freeze` was called, and the keys are not sealed"));
        }
        if let Some(Exchange { call: Some(Call::SealKeys { recipients }), line, .. }) = seal
            && recipients.is_empty()
        {
            found.push(one.found(*line, "keys are to be sealed to nobody"));
        }
    }
    found
}

pub fn streams(story: &Story<'_>) -> Vec<Found> {
    story.backups().flat_map(|(one, ..)| streams_of(one)).collect()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only streams, and the end of their time, are of interest"
)]
fn streams_of(one: &Conversation<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    let mut listed: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<&str> = Vec::new();
    for exchange in &one.exchanges {
        let mut wrong = |why: String| found.push(one.found(exchange.line, why));
        match &exchange.call {
            Some(Call::ListStreams {}) => {
                let streams = exchange.reply::<Streams>().map(|reply| reply.streams).unwrap_or_default();
                listed.extend(streams.into_iter().map(|stream| stream.name));
            }
            Some(Call::OpenStream { name }) => {
                if !listed.contains(name) {
                    wrong(format!("the stream `{name}` was not listed"));
                }
                if exchange.is_done() {
                    open.push(name);
                }
            }
            Some(Call::CloseStream { name, bytes }) => {
                match open.iter().position(|one| one == name) {
                    Some(at) => drop(open.remove(at)),
                    None => wrong(format!("the stream `{name}` is not open")),
                }
                let sent = one.loose.iter().find_map(|(line, record)| match record {
                    Record::Streamed { name: of, bytes } if of == name && *line > exchange.line => {
                        Some(*bytes)
                    }
                    _ => None,
                });
                if let Some(sent) = sent.filter(|sent| sent != bytes) {
                    wrong(format!("the stream `{name}` had {sent} bytes, and was closed with {bytes}"));
                }
            }
            Some(Call::BackupComplete(_)) => {
                if let Some(name) = open.first() {
                    wrong(format!("`BackupComplete` was called, and the stream `{name}` is still open"));
                }
            }
            _ => {}
        }
    }
    found
}

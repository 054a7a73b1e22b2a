//! R6 to R10: the order of a backup, and that every hold ends.

use super::Found;
use super::story::{Conversation, Exchange, Outcome, Story};
use crate::journal::Record;

/// The phases that nobody may leave out, in their order.
const PHASES: [&str; 6] =
    ["PrepareBackup", "PrepareSnapshot", "Freeze", "Thaw", "PostSnapshot", "BackupComplete"];

/// Those that may come in any state, and any number of times.
const ANY_TIME: [&str; 2] = ["Thaw", "Abort"];

fn each(story: &Story<'_>, check: impl Fn(&Conversation<'_>) -> Vec<Found>) -> Vec<Found> {
    story.backups().flat_map(|(one, ..)| check(one)).collect()
}

/// The calls of the backup itself.
fn calls<'c, 'j>(one: &'c Conversation<'j>) -> impl Iterator<Item = &'c Exchange<'j>> {
    one.exchanges.iter().filter(|exchange| super::conversation::OF_A_BACKUP.contains(&exchange.method))
}

pub fn in_order(story: &Story<'_>) -> Vec<Found> {
    story
        .backups()
        .flat_map(|(one, begin, _)| {
            let holds = story.described(one.writer, begin.line).is_none_or(|said| said.capabilities.freeze);
            order(one, holds)
        })
        .collect()
}

/// `holds`: a writer that holds nothing need not be frozen.
fn order(one: &Conversation<'_>, holds: bool) -> Vec<Found> {
    let mut found = Vec::new();
    let mut called: Vec<&str> = Vec::new();
    for exchange in calls(one) {
        let method = exchange.method;
        let mut wrong = |why: String| found.push(one.found(exchange.line, why));
        if called.contains(&method) && !ANY_TIME.contains(&method) && !is_listing(method) {
            wrong(format!("`{method}` was called twice"));
        }
        let left_out = match PHASES.iter().position(|phase| *phase == method) {
            // Harmless where nothing is held.
            Some(_) if method == "Thaw" => None,
            Some(place) => PHASES[..place]
                .iter()
                .find(|before| !called.contains(before) && (holds || !matches!(**before, "Freeze" | "Thaw"))),
            None if method == "Abort" => None,
            None => Some(&PHASES[0]).filter(|first| !called.contains(first)),
        };
        if let Some(missing) = left_out {
            wrong(format!("`{method}` was called before `{missing}`"));
        }
        let ready = called.contains(&"PrepareSnapshot");
        if method == "SealKeys" && ready {
            wrong("`SealKeys` was called after `PrepareSnapshot`".into());
        }
        let later = PHASES.iter().skip_while(|phase| **phase != method).skip(1);
        let passed = later
            .filter(|_| !ANY_TIME.contains(&method))
            .find(|phase| called.contains(phase) && !ANY_TIME.contains(phase));
        if let (Some(passed), None) = (passed, left_out) {
            wrong(format!("`{method}` was called after `{passed}`"));
        }
        called.push(method);
    }
    found
}

/// Those of streams and logs may be repeated, between the preparation and the end.
fn is_listing(method: &str) -> bool {
    matches!(method, "ListStreams" | "OpenStream" | "CloseStream" | "ListLogs")
}

pub fn not_after_failure(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let mut failed: Option<&str> = None;
        let mut found = Vec::new();
        for exchange in calls(one) {
            match failed {
                Some(failed) if !ANY_TIME.contains(&exchange.method) => {
                    let why = format!("`{}` was called though `{failed}` had failed", exchange.method);
                    found.push(one.found(exchange.line, why));
                }
                Some(_) => {}
                None if exchange.failed() => failed = Some(exchange.method),
                None => {}
            }
        }
        found
    })
}

pub fn thawed(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let Some(freeze) = one.first("Freeze").filter(|freeze| freeze.is_done()) else { return Vec::new() };
        let held = freeze.answered.unwrap_or(freeze.line);
        let thaw = calls(one).find(|exchange| exchange.method == "Thaw" && exchange.line > held);
        let until = thaw.map_or(usize::MAX, |thaw| thaw.line);
        let overran = one
            .loose
            .iter()
            .find(|(line, record)| matches!(record, Record::Released {}) && (held..until).contains(line));
        if let Some((line, _)) = overran {
            return vec![one.found(*line, "the hold's time was over, and no `Thaw` had come")];
        }
        match (thaw, one.closed()) {
            (None, Some(closed)) if !one.is_broken() => {
                vec![one.found(closed, "the conversation ended without a `Thaw` of its hold")]
            }
            _ => Vec::new(),
        }
    })
}

pub fn given_up(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let ended = calls(one).any(|exchange| matches!(exchange.method, "BackupComplete" | "Abort"));
        // A hold that was not ended is worse, and another rule's.
        let held = one.first("Freeze").is_some_and(Exchange::is_done) && one.first("Thaw").is_none();
        // What does not thaw is ended, which releases for certain.
        let stuck = calls(one).any(|exchange| exchange.method == "Thaw" && exchange.failed());
        match one.closed() {
            Some(closed) if !ended && !held && !stuck && !one.is_broken() => {
                vec![one.found(closed, "the conversation ended without `BackupComplete` or `Abort`")]
            }
            _ => Vec::new(),
        }
    })
}

pub fn not_after_end(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let mut end: Option<&str> = None;
        let mut found = Vec::new();
        for exchange in calls(one) {
            let allowed: &[&str] = match end {
                Some("Abort") => &ANY_TIME,
                Some(_) => &["Thaw"],
                None => &[exchange.method],
            };
            if let (false, Some(end)) = (allowed.contains(&exchange.method), end) {
                found.push(
                    one.found(exchange.line, format!("`{}` was called after `{end}`", exchange.method)),
                );
            }
            let gave_up = exchange.method == "Abort" && exchange.outcome != Outcome::Nothing;
            if exchange.method == "BackupComplete" || gave_up {
                end = Some(exchange.method);
            }
        }
        found
    })
}

//! R1 to R5: what holds for every conversation, whatever it is about.

use super::Found;
use super::story::{Conversation, Exchange, Outcome, Story};
use crate::journal::Record;

/// The methods that are possible once a writer is known, and nothing was begun.
const OF_A_WRITER: [&str; 3] = ["Identify", "BeginBackup", "BeginRestore"];
/// Those of a backup …
pub const OF_A_BACKUP: [&str; 12] = [
    "PrepareBackup",
    "SealKeys",
    "PrepareSnapshot",
    "Freeze",
    "Thaw",
    "PostSnapshot",
    "BackupComplete",
    "Abort",
    "ListStreams",
    "OpenStream",
    "CloseStream",
    "ListLogs",
];
/// … and of a restore.
pub const OF_A_RESTORE: [&str; 9] = [
    "OnlineState",
    "Check",
    "Register",
    "RegisterComplete",
    "Recover",
    "Verify",
    "PostRestoreSteps",
    "RunStep",
    "Unregister",
];

/// Every conversation's violations.
fn each<'s>(story: &'s Story<'_>, check: impl FnMut(&'s Conversation<'s>) -> Vec<Found>) -> Vec<Found> {
    story.conversations.iter().flat_map(check).collect()
}

pub fn whole(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let nonsense = one.loose.iter().filter_map(|(line, record)| match record {
            Record::Nonsense { why } => Some(one.found(*line, format!("no message came: {why}"))),
            Record::Started { .. }
            | Record::Called { .. }
            | Record::Answered { .. }
            | Record::Misbehaved { .. }
            | Record::HungUp { .. }
            | Record::Early {}
            | Record::Released {}
            | Record::Streamed { .. }
            | Record::Ended { .. } => None,
        });
        let refused = one.exchanges.iter().filter_map(|exchange| {
            let refused = exchange.refused?;
            Some(one.found(exchange.line, format!("`{}` was refused with {refused}", exchange.method)))
        });
        nonsense.chain(refused).collect()
    })
}

pub fn in_turn(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let early = one.loose.iter().filter(|(_, record)| matches!(record, Record::Early {}));
        let why = "something came while a call was being answered";
        early.map(|(line, _)| one.found(*line, why)).collect()
    })
}

pub fn in_state(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let mut possible: &[&str] = &["Hello"];
        let mut found = Vec::new();
        for exchange in one.exchanges.iter().filter(|exchange| exchange.call.is_some()) {
            if !possible.contains(&exchange.method) {
                let why =
                    format!("`{}` is not possible here; possible: {}", exchange.method, possible.join(", "));
                found.push(one.found(exchange.line, why));
                continue;
            }
            possible = match (exchange.method, exchange.is_done()) {
                ("Hello", true) => &OF_A_WRITER,
                ("Hello", false) => &[],
                ("BeginBackup", true) => &OF_A_BACKUP,
                ("BeginRestore", true) => &OF_A_RESTORE,
                _ => possible,
            };
        }
        found
    })
}

pub fn not_after_nonsense(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let broken = |exchange: &&Exchange<'_>| matches!(exchange.outcome, Outcome::Broke(_));
        let Some(at) = one.exchanges.iter().position(|exchange| broken(&exchange)) else { return Vec::new() };
        let Outcome::Broke(how) = &one.exchanges[at].outcome else { return Vec::new() };
        let after = one.exchanges[at + 1..].iter();
        after.map(|next| one.found(next.line, format!("`{}` was called after {how}", next.method))).collect()
    })
}

pub fn not_after_deadline(story: &Story<'_>) -> Vec<Found> {
    each(story, |one| {
        let late = one.exchanges.iter().position(|exchange| {
            let over = exchange.budget_ms().map(|ms| exchange.called_ns + ms * 1_000_000);
            matches!((over, exchange.answered_ns), (Some(over), Some(answered)) if answered > over)
                && exchange.is_done()
        });
        let Some(at) = late else { return Vec::new() };
        let what = one.exchanges[at].method;
        let went_on = one.exchanges[at + 1..].iter().filter(|next| !matches!(next.method, "Thaw" | "Abort"));
        went_on
            .map(|next| one.found(next.line, format!("`{}` was called after a late {what}", next.method)))
            .collect()
    })
}

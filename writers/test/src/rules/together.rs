//! R22 to R24: writers among each other. They are seen where several keep one journal.

use std::collections::BTreeMap;

use holdfast_writer_api::FreezeLevel;
use uuid::Uuid;

use super::Found;
use super::story::{Conversation, Story};

/// A phase, and what all must have done before.
const BEFORE: [(&str, &str); 4] = [
    ("PrepareSnapshot", "PrepareBackup"),
    ("Freeze", "PrepareSnapshot"),
    ("PostSnapshot", "Thaw"),
    ("BackupComplete", "PostSnapshot"),
];

/// A writer in a backup.
struct Member<'s, 'j> {
    one: &'s Conversation<'j>,
    level: FreezeLevel,
    holds: bool,
}

/// The writers of each set.
fn sets<'s, 'j>(story: &'s Story<'j>) -> BTreeMap<Uuid, Vec<Member<'s, 'j>>> {
    let mut sets: BTreeMap<Uuid, Vec<Member<'s, 'j>>> = BTreeMap::new();
    for (one, begin, request) in story.backups() {
        let said = story.described(one.writer, begin.line);
        let level = said.as_ref().map(|said| said.freeze_level).unwrap_or_default();
        let holds = said.is_none_or(|said| said.capabilities.freeze);
        sets.entry(request.set).or_default().push(Member { one, level, holds });
    }
    sets
}

pub fn phase_by_phase(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for members in sets(story).values() {
        for (phase, before) in BEFORE {
            for Member { one, .. } in members {
                let Some(call) = one.first(phase) else { continue };
                let late = members.iter().filter(|other| other.one.process != one.process).filter(|other| {
                    // One that holds nothing need not be frozen.
                    let before = if before == "Thaw" && !other.holds { "PrepareSnapshot" } else { before };
                    other.one.done_at(before).is_none_or(|done| done > call.line)
                });
                found.extend(late.map(|other| {
                    let why =
                        format!("`{phase}` was called, and `{}` has not done `{before}`", other.one.writer);
                    one.found(call.line, why)
                }));
            }
        }
    }
    found
}

pub fn by_level(story: &Story<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    for members in sets(story).values() {
        for (a, b) in members.iter().flat_map(|a| members.iter().map(move |b| (a, b))) {
            let (Some(freeze_a), Some(freeze_b)) = (a.one.first("Freeze"), b.one.first("Freeze")) else {
                continue;
            };
            let thaw = |member: &Member<'_, '_>, after: usize| {
                member.one.exchanges.iter().find(|e| e.method == "Thaw" && e.line > after).map(|e| e.line)
            };
            let (thaw_a, thaw_b) = (thaw(a, freeze_a.line), thaw(b, freeze_b.line));
            let (above, below) = (a.one.writer, b.one.writer);
            if a.level < b.level && freeze_a.answered.is_none_or(|answered| answered > freeze_b.line) {
                let why = format!("`{below}` was frozen before `{above}` was, which stands before it");
                found.push(b.one.found(freeze_b.line, why));
            }
            if let (true, Some(thaw_a)) = (a.level < b.level, thaw_a)
                && thaw_b.is_none_or(|thaw_b| thaw_b > thaw_a)
                && b.one.closed().is_some()
                && !b.one.is_broken()
            {
                let why = format!("`{above}` was thawed before `{below}`, which stands behind it");
                found.push(a.one.found(thaw_a, why));
            }
            if let Some(thaw_a) = thaw_a.filter(|thaw| *thaw < freeze_b.line) {
                found.push(a.one.found(thaw_a, format!("`{above}` was thawed before `{below}` was frozen")));
            }
        }
    }
    found
}

pub fn one_at_a_time(story: &Story<'_>) -> Vec<Found> {
    let backups = story.backups().map(|(one, begin, _)| (one, begin.line));
    let restores = story.restores().filter_map(|(one, ..)| Some((one, one.first("Register")?.line)));
    let spans: Vec<_> = backups.chain(restores).collect();
    let mut found = Vec::new();
    for (one, from) in &spans {
        let other = spans.iter().find(|(other, begun)| {
            other.process != one.process && other.writer == one.writer && begun < from && other.last > *from
        });
        if let Some((_, begun)) = other {
            let why = format!("it was begun while what began at line {begun} was not over");
            found.push(one.found(*from, why));
        }
    }
    found
}

//! What a set says of itself (promise P4): computed from what was measured, never rounded up.

use std::collections::BTreeMap;

use holdfast_writer_api::document::{
    BackupSet, ComponentRecord, KeyRecord, KeysState, Level, SET_SCHEMA, ShadowRecord, WriterRecord,
};
use holdfast_writer_api::{BackupType, ComponentKind, SealedKey};
use uuid::Uuid;

use super::barrier::Window;
use super::member::Member;
use super::plan::{CutPlan, PlannedComponent};
use super::shadows::Cut;

/// Where the set's own document lies among its documents.
pub const SET_DOCUMENT: &str = "set.json";

/// Where a sealed key lies among the documents.
pub fn key_document(writer: &str, n: usize) -> String {
    format!("keys/{writer}/{n}.age")
}

/// All that a set's document is computed from.
pub struct Facts<'f> {
    /// The set.
    pub set: Uuid,
    /// When it was begun.
    pub time: jiff::Timestamp,
    /// Its kind.
    pub backup_type: BackupType,
    /// The writers, thawed.
    pub members: &'f [Member],
    /// Component records with their writer's id.
    pub records: Vec<(String, ComponentRecord)>,
    /// Sealed keys by writer.
    pub sealed: &'f BTreeMap<String, Vec<SealedKey>>,
    /// What was planned.
    pub plan: &'f CutPlan,
    /// What was cut.
    pub cuts: &'f [Cut],
    /// The window.
    pub window: Window,
    /// Who was left out, and why.
    pub left_out: &'f BTreeMap<String, String>,
}

/// How consistent a component is. Keys are proved, not cut.
pub fn level(component: &PlannedComponent) -> Option<Level> {
    match (component.component.kind, component.held) {
        (ComponentKind::Keys, _) => None,
        (ComponentKind::Database | ComponentKind::FileGroup, true) => Some(Level::Application),
        // Cut by one atomic shadow copy, or copied and proved unchanged meanwhile, which is the same.
        (ComponentKind::Database | ComponentKind::FileGroup, false) => Some(Level::Crash),
    }
}

/// The set's document.
pub fn set(facts: Facts<'_>) -> BackupSet {
    let Facts { set, time, backup_type, members, records, sealed, plan, cuts, window, left_out } = facts;
    let mut order: Vec<_> =
        members.iter().filter(|m| m.holds()).filter_map(|m| m.times.taken.map(|at| (at, &m.id))).collect();
    order.sort();
    // What every writer had to reduce is not what the set is.
    let backup_type = match members.first() {
        Some(first) if members.iter().all(|m| m.backup_type == first.backup_type) => first.backup_type,
        _ => backup_type,
    };
    let lowest = records.iter().filter_map(|(_, record)| record.level).min();
    let mut warnings = Vec::new();
    let writers: Vec<_> = members
        .iter()
        .map(|member| {
            let components: Vec<_> =
                records.iter().filter(|(id, _)| *id == member.id).map(|(_, r)| r.clone()).collect();
            let keys = keys(member, sealed.get(&member.id).map_or(&[], Vec::as_slice));
            if let KeysState::Missing { why } = &keys {
                warnings.push(format!("`{}`: {why}; a restore needs them from another set", member.id));
            }
            for warning in &member.metadata.warnings {
                warnings.push(format!("`{}`: {warning}", member.id));
            }
            writer(member, components, keys)
        })
        .collect();
    BackupSet {
        schema: SET_SCHEMA.into(),
        set,
        created: time.to_string(),
        host: hostname(),
        version: env!("CARGO_PKG_VERSION").into(),
        backup_type,
        base: None,
        level: lowest.unwrap_or(Level::Crash),
        one_instant: plan.one_instant(),
        window_ms: window.window_ms,
        skew_ms: window.skew_ms,
        order: order.into_iter().map(|(_, id)| id.clone()).collect(),
        writers,
        shadows: cuts
            .iter()
            .map(|cut| ShadowRecord {
                provider: cut.provider.clone(),
                volume: cut.volume.clone(),
                atomicity: cut.atomicity.clone(),
                commit_ms: cut.commit_ms,
            })
            .collect(),
        exceptions: left_out.iter().map(|(id, why)| format!("`{id}` was left out: {why}")).collect(),
        warnings,
    }
}

fn writer(member: &Member, components: Vec<ComponentRecord>, keys: KeysState) -> WriterRecord {
    let held_ms = match (member.times.called, member.times.released) {
        (Some(called), Some(released)) if member.holds() => {
            Some(released.saturating_sub(called) as f64 / 1e6)
        }
        _ => None,
    };
    WriterRecord {
        id: member.id.clone(),
        writer_type: member.metadata.writer_type.clone(),
        backup_type: member.backup_type,
        mark: member.mark.clone().filter(|_| member.holds()),
        held_ms,
        components,
        keys,
        warnings: member.metadata.warnings.clone(),
    }
}

fn keys(member: &Member, sealed: &[SealedKey]) -> KeysState {
    if sealed.is_empty() {
        let declared = member.metadata.components.iter().any(|component| !component.keys.is_empty());
        return if declared {
            KeysState::Missing { why: "its keys were not chosen for this set".into() }
        } else {
            KeysState::NoneDeclared
        };
    }
    let record = |(n, key): (usize, &SealedKey)| KeyRecord {
        component: key.component.clone(),
        path: key.path.clone(),
        purpose: key.purpose.clone(),
        fingerprint: key.fingerprint.clone(),
        proof: key.proof.clone(),
        stored: format!("/holdfast/{}", key_document(&member.id, n)),
        mode: key.mode,
        uid: key.uid,
        gid: key.gid,
    };
    KeysState::Sealed { keys: sealed.iter().enumerate().map(record).collect() }
}

/// This machine's name.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

//! Everything before the first hold: who takes part, what will be cut, the long work and the keys.
//!
//! Owns: that whoever is expected and absent, whatever cannot be cut, and a key that cannot be sealed end the
//! session here, while nothing is held.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_writer_api::budget::freeze_budget;
use holdfast_writer_api::state::{Event, Phase};
use holdfast_writer_api::{
    BackupRequest, BackupType, PhaseContext, SealedKey, WriterError, WriterMetadata, chain,
};

use super::Session;
use super::attempt::Attempt;
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::provider::Provider;
use crate::session::member::Member;
use crate::session::plan::{self, CutPlan, Wanted};
use crate::session::sealed;
use crate::session::shadows::Shadows;
use crate::volume::VolumeMap;
use crate::writers::ConfiguredWriter;

impl<'s> Session<'s> {
    /// Those that take part, in the order of the configuration.
    pub(super) fn chosen_writers(&self) -> Vec<&'s ConfiguredWriter> {
        let chosen = |id: &String| {
            (self.options.writers.is_empty() || self.options.writers.contains(id))
                && !self.left_out.contains_key(id)
        };
        self.env.writers.iter().filter(|writer| chosen(&writer.entry.id)).collect()
    }

    /// An expected writer that does not answer is a failure, never an omission.
    pub(super) async fn identify(
        &mut self,
        writers: &[&ConfiguredWriter],
    ) -> Result<Vec<WriterMetadata>, Attempt> {
        self.phase("identify");
        let answers = join_all(writers.iter().map(|w| w.writer.identify())).await;
        let checked = answers
            .into_iter()
            .map(|answer| answer.and_then(|metadata| metadata.check().map(|()| metadata)))
            .collect();
        self.all_of(checked).map_err(|error| Attempt::writer("an expected writer is absent", error))
    }

    /// What the writers that take no part say of themselves: their keys must not be stored among others' files
    /// (promise P9). One that does not answer is told of and is no reason to leave the others without a backup.
    pub(super) async fn bystanders(&mut self, taking_part: &[&ConfiguredWriter]) -> Vec<WriterMetadata> {
        let takes_part = |id: &str| taking_part.iter().any(|writer| writer.entry.id == id);
        let others = self.env.writers.iter().filter(|writer| !takes_part(&writer.entry.id));
        let answers = join_all(others.map(|writer| writer.writer.identify())).await;
        let mut described = Vec::new();
        for answer in answers {
            match answer {
                Ok(metadata) => described.push(metadata),
                Err(error) => {
                    self.log.record_failure(&error);
                    (self.env.note)(&format!(
                        "`{}` takes no part and does not answer, so its keys are known to nobody here: {}",
                        error.writer(),
                        chain(&error)
                    ));
                }
            }
        }
        described
    }

    /// Preflight: all that can be refused before anybody is asked to prepare.
    pub(super) fn plan(
        &mut self,
        writers: &[&ConfiguredWriter],
        described: &[WriterMetadata],
        bystanders: &[WriterMetadata],
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
        plan::plan(&wanted, bystanders, &map, &providers, &area).map_err(|refused| {
            Failure::new(Exit::Refused, "the backup is refused before it begins", refused, NOTHING_CHANGED)
                .help("`holdfast list writers` shows what each writer wants to have backed up")
        })
    }

    /// Each writer's participant, with its budget and the kind of backup that it makes. Those that have begun are in
    /// `members`, also when one after them has not.
    pub(super) async fn begin(
        &mut self,
        writers: &[&ConfiguredWriter],
        described: &[WriterMetadata],
        plan: &CutPlan,
        members: &mut Vec<Member>,
    ) -> Result<(), Attempt> {
        let millis = |ms: Option<u64>| ms.map(Duration::from_millis);
        for (writer, metadata) in writers.iter().zip(described) {
            let user = [
                self.options.freeze_budget,
                writer.entry.common.freeze_budget,
                self.env.config.backup.freeze_budget,
            ];
            let user = user.into_iter().flatten().min();
            let budget =
                freeze_budget(user, millis(metadata.freeze_budget_ms), millis(metadata.busy_timeout_ms));
            if budget.is_zero() && metadata.capabilities.freeze {
                let error =
                    WriterError::rejected(&metadata.id, "it bears no hold: its freeze budget is 0 ms");
                self.log.record_failure(&error);
                return Err(Attempt::writer("a writer could not begin", error));
            }
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
                self.log.record_failure(&error);
                Attempt::writer("a writer could not begin", error)
            })?;
            let mut member = Member::new(metadata.clone(), backup_type, budget, participant);
            member.patience = writer.entry.common.patience.unwrap_or(member.patience);
            members.push(member);
        }
        Ok(())
    }

    /// The long work, and the keys: each writer's own, all writers at once.
    pub(super) async fn prepare(
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
            let patience = member.patience;
            let ctx = PhaseContext { set, budget: patience };
            let prepared = member
                .call(Phase::PrepareBackup, patience, async move |p| p.prepare_backup(&ctx).await)
                .await?;
            let keys = if has_keys(&member.id) {
                let seal = async move |p: &mut dyn holdfast_writer_api::BackupParticipant| {
                    p.seal_keys(recipients).await
                };
                let keys = member.call(Phase::PrepareBackup, patience, seal).await?;
                sealed::check(&member.id, plan.of(&member.id), &keys)?;
                keys
            } else {
                Vec::new()
            };
            member.done(Event::BackupPrepared);
            member.backup_type = chosen(member.backup_type, prepared.backup_type);
            member.metadata.warnings.extend(prepared.warnings);
            Ok::<_, WriterError>((member.id.clone(), keys))
        }))
        .await;
        for member in members.iter_mut() {
            member.report(&mut self.log);
        }
        let sealed = self.all_of(prepared);
        let sealed = sealed.map_err(|error| Attempt::writer("a writer could not prepare", error))?;
        Ok(sealed.into_iter().collect())
    }
}

/// The kind of backup it will be once the writer has looked: it may choose a full in place of an increment. A full or a
/// copy it makes as it was asked to: logs are truncated after the one and not after the other.
fn chosen(wanted: BackupType, prepared: BackupType) -> BackupType {
    match (wanted, prepared) {
        (BackupType::Incremental | BackupType::Differential | BackupType::Log, BackupType::Full) => {
            BackupType::Full
        }
        _ => wanted,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_may_choose_a_full_in_place_of_an_increment_and_nothing_else() {
        use BackupType::{Copy, Differential, Full, Incremental, Log};
        for increment in [Incremental, Differential, Log] {
            assert_eq!(chosen(increment, Full), Full);
            assert_eq!(chosen(increment, increment), increment);
        }
        assert_eq!(chosen(Copy, Full), Copy, "a copy truncates nothing, whatever the writer says");
        assert_eq!(chosen(Full, Incremental), Full);
    }
}

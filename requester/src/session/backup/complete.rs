//! After the set exists: writers learn of it and truncate (promise P5), and the set gets the session's last word.
//!
//! Owns: that nothing here can take the set back, and that a writer which does not complete is told of.

use holdfast_writer_api::schema::to_bytes;
use holdfast_writer_api::state::{Event, Phase};
use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, BackupType, Cause, Truncated, WriterError, chain,
};
use uuid::Uuid;

use super::Session;
use super::store::Stored;
use crate::failure::{Exit, Failure};
use crate::repository::Document;
use crate::session::events::What;
use crate::session::member::Member;
use crate::session::plan::CutPlan;
use crate::session::record;

/// A writer that did not complete the backup of a set that is stored. Its logs were not truncated, or not all of
/// them; whatever was truncated is in the set.
#[derive(Debug, Clone)]
pub struct NotCompleted {
    /// Why; names the writer.
    pub error: WriterError,
    /// The user allowed that writer to fail, by name.
    pub allowed: bool,
}

impl NotCompleted {
    /// The exit code it ends the command with.
    pub fn exit(&self) -> Exit {
        if self.allowed { Exit::Incomplete } else { Exit::Failed }
    }

    /// As a person is told of it. The set is there all the same.
    pub fn failure(&self, set: Uuid) -> Failure {
        let writer = self.error.writer();
        let what = format!("set {set} is stored, but writer `{writer}` did not complete the backup");
        let state = format!(
            "the set can be restored; no application is held; the logs of `{writer}` were not truncated, or not all of them"
        );
        let mut help =
            "see why with `holdfast list writers`; the next backup that it completes truncates them"
                .to_owned();
        if !self.allowed {
            help += &format!("; `--allow-incomplete {writer}` makes of this exit 3");
        }
        Failure::new(self.exit(), what, self.error.clone(), state).help(help)
    }

    /// As the set's own document says it.
    fn sentence(&self) -> String {
        let writer = self.error.writer();
        let why = chain(&self.error);
        format!(
            "`{writer}` did not complete the backup, and its logs were not truncated, or not all of them: {why}"
        )
    }
}

/// What was truncated, if it is in the set. A writer that truncates by itself has lost what was not.
fn exactly(writer: &str, truncated: Truncated, outcome: &BackupOutcome) -> Result<Truncated, WriterError> {
    let lost = truncated.logs.iter().find(|log| !outcome.stored_logs.contains(log));
    let Some(lost) = lost else { return Ok(truncated) };
    let why = format!("it truncated `{lost}`, which this set does not have: begin anew with a full backup");
    Err(WriterError::ChainBroken { writer: writer.to_owned(), cause: Cause::new(why) })
}

impl Session<'_> {
    /// Truncation and the last word. The set exists; nothing here can take it back.
    pub(super) async fn complete(
        &mut self,
        members: &mut [Member],
        plan: &CutPlan,
        stored: &mut Stored,
    ) -> Vec<NotCompleted> {
        self.phase("backup-complete");
        let mut not_completed = Vec::new();
        for member in members.iter_mut() {
            let components = plan.components.iter().filter(|c| c.writer == member.id);
            let outcome = BackupOutcome {
                set: self.set,
                backup_type: member.backup_type,
                succeeded: components.map(|c| c.component.reference()).collect(),
                stored_logs: Vec::new(),
            };
            let id = member.id.clone();
            let complete = async move |p: &mut dyn BackupParticipant| {
                let truncated = p.backup_complete(&outcome).await?;
                exactly(&id, truncated, &outcome)
            };
            let completed = member.call(Phase::BackupComplete, member.patience, complete).await;
            match completed {
                Ok(truncated) => {
                    member.done(Event::BackupCompleted);
                    if member.backup_type == BackupType::Full {
                        // What a restore demanded (promise P6) is there now.
                        self.env.paths.full_is_made(&member.id);
                    }
                    if !truncated.logs.is_empty() {
                        let (writer, logs) = (member.id.clone(), truncated.logs);
                        self.log.record(What::Truncated { writer, logs });
                    }
                }
                Err(error) => {
                    self.log.record_failure(&error);
                    let allowed = self.is_allowed_to_fail(&member.id);
                    not_completed.push(NotCompleted { error, allowed });
                }
            }
            member.report(&mut self.log);
        }
        for one in &not_completed {
            let of_writer = stored.set.writers.iter_mut().filter(|writer| writer.id == one.error.writer());
            of_writer.for_each(|writer| writer.warnings.push(one.sentence()));
            stored.set.warnings.push(one.sentence());
        }
        if let Err(why) = self.amend(stored, !not_completed.is_empty()).await {
            let lost = format!("what came after the set was stored could not be added to it: {why}");
            stored.set.warnings.push(lost);
        }
        not_completed
    }

    /// Adds to the set what happened since it was stored: the end of the event log and, if it `says_more` now, its
    /// own document.
    async fn amend(&self, stored: &Stored, says_more: bool) -> Result<(), String> {
        let mut documents = vec![Document { path: "events.ndjson".into(), bytes: self.log.document() }];
        if says_more {
            documents.push(Document { path: record::SET_DOCUMENT.into(), bytes: to_bytes(&stored.set) });
        }
        let (repository, old) = (stored.repository.clone(), stored.in_repository.clone());
        match tokio::task::spawn_blocking(move || repository.amend(&old, documents)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(chain(&error)),
            Err(panic) => Err(panic.to_string()),
        }
    }
}

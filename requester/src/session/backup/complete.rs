//! After the set exists: writers learn of it and truncate (promise P5), and the set gets the session's last word.
//!
//! Owns: that nothing here can take the set back.

use holdfast_writer_api::state::{Event, Phase};
use holdfast_writer_api::{BackupOutcome, BackupType, chain};

use super::store::Stored;
use super::{PREPARE, Session};
use crate::repository::Document;
use crate::session::events::What;
use crate::session::member::Member;
use crate::session::plan::CutPlan;

impl Session<'_> {
    /// Truncation and the last word. The set exists; nothing here can take it back.
    pub(super) async fn complete(&mut self, members: &mut [Member], plan: &CutPlan, stored: &mut Stored) {
        self.phase("backup-complete");
        for member in members.iter_mut() {
            let components = plan.components.iter().filter(|c| c.writer == member.id);
            let outcome = BackupOutcome {
                set: self.set,
                backup_type: member.backup_type,
                succeeded: components.map(|c| c.component.reference()).collect(),
                stored_logs: Vec::new(),
            };
            let completed = member
                .call(Phase::BackupComplete, PREPARE, async move |p| p.backup_complete(&outcome).await)
                .await;
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
                    self.failed(&error);
                    (self.env.note)(&format!("the set is stored, but {}", chain(&error)));
                }
            }
            member.report(&mut self.log);
        }
        let events = Document { path: "events.ndjson".into(), bytes: self.log.document() };
        let (repository, old) = (stored.repository.clone(), stored.in_repository.clone());
        let amended = tokio::task::spawn_blocking(move || repository.amend(&old, vec![events])).await;
        match amended {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                (self.env.note)(&format!("the set is stored, but its event log is not complete: {error}"));
            }
            Err(panic) => {
                (self.env.note)(&format!("the set is stored, but its event log is not complete: {panic}"));
            }
        }
    }
}

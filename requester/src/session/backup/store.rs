//! From shadow copies to a set in the repository: what is stored, what the set says of itself, its documents.
//!
//! Leaves to others: that the set is all there or not at all (`session::storing`).

use std::collections::BTreeMap;

use holdfast_writer_api::SealedKey;
use holdfast_writer_api::document::BackupSet;
use holdfast_writer_api::schema::to_bytes;

use super::Session;
use super::attempt::Attempt;
use super::cut::Taken;
use crate::failure::{Exit, Failure};
use crate::repository::{Document, Repository, SetIdentity, StoredSet};
use crate::session::contents::Contents;
use crate::session::events::{EventLog, What};
use crate::session::member::Member;
use crate::session::plan::CutPlan;
use crate::session::record;
use crate::session::shadows::Shadows;
use crate::session::storing::{self, StoreError};

/// A set that exists.
pub(super) struct Stored {
    pub set: BackupSet,
    pub in_repository: StoredSet,
    pub repository: Repository,
}

impl Session<'_> {
    /// Stores the set, and reads it again.
    pub(super) async fn store(
        &mut self,
        repository: Repository,
        members: &[Member],
        plan: &CutPlan,
        sealed: &BTreeMap<String, Vec<SealedKey>>,
        shadows: &Shadows,
        taken: &Taken,
    ) -> Result<Stored, Attempt> {
        self.phase("store");
        let no_set = "all writers are thawed; no set was made; the next backup removes what was begun";
        let mut contents = Contents::new();
        let mut records = Vec::new();
        for component in &plan.components {
            let mut record = contents.add(component, shadows.copies()).map_err(|error| {
                let what = format!(
                    "component `{}` of writer `{}` cannot be stored",
                    component.component.reference(),
                    component.writer
                );
                Failure::new(Exit::Refused, what, error, no_set)
            })?;
            record.stamp =
                taken.stamps.get(&(component.writer.clone(), record.reference.to_string())).cloned();
            record.level = record::level(component);
            records.push((component.writer.clone(), record));
        }
        let set = record::set(record::Facts {
            set: self.set,
            time: self.time,
            backup_type: self.options.backup_type,
            members,
            records,
            sealed,
            plan,
            cuts: &taken.cuts,
            window: taken.window,
            left_out: self.left_out,
        });
        let identity = SetIdentity {
            set: self.set,
            time: self.time,
            hostname: set.host.clone(),
            tags: self.options.tags.clone(),
            label: String::new(),
        };
        let documents = documents(&set, members, sealed, &self.log);
        let order = storing::Order {
            identity,
            entries: contents.into_entries(),
            documents,
            proof: (record::SET_DOCUMENT, to_bytes(&set)),
            progress: self.env.progress.clone(),
        };
        let stored = storing::store(repository.clone(), order).await.map_err(|error| {
            let exit = error.exit();
            match error {
                // One layer less for a person to read.
                StoreError::Repository(error) => {
                    Failure::new(exit, "the set could not be stored", error, no_set)
                }
                StoreError::NotTakenBack { .. } => {
                    let state = "all writers are thawed; A SET WAS MADE THAT CANNOT BE TRUSTED";
                    Failure::new(exit, "the stored set does not read back", error, state)
                        .help("remove it with `holdfast forget`, then run `holdfast verify` on the others")
                }
                StoreError::NotReadBack { .. } | StoreError::GivenUp | StoreError::Panicked => {
                    Failure::new(exit, "the set could not be stored", error, no_set)
                }
            }
        })?;
        let files = set.writers.iter().flat_map(|w| &w.components).map(|c| c.files).sum();
        self.log.record(What::SetStored { set: self.set, bytes: set.bytes(), files });
        self.phase("stored");
        Ok(Stored { set, in_repository: stored, repository })
    }
}

fn documents(
    set: &BackupSet,
    members: &[Member],
    sealed: &BTreeMap<String, Vec<SealedKey>>,
    log: &EventLog,
) -> Vec<Document> {
    let mut documents = vec![
        Document { path: record::SET_DOCUMENT.into(), bytes: to_bytes(set) },
        Document { path: "events.ndjson".into(), bytes: log.document() },
    ];
    for member in members {
        let path = format!("writers/{}.json", member.id).into();
        documents.push(Document { path, bytes: to_bytes(&member.metadata) });
        for (n, key) in sealed.get(&member.id).into_iter().flatten().enumerate() {
            let path = record::key_document(&member.id, n).into();
            documents.push(Document { path, bytes: key.sealed.clone() });
        }
    }
    documents
}

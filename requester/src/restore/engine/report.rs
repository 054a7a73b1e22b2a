//! What a restore did, for people and scripts.

use std::path::PathBuf;

use holdfast_writer_api::{Finding, HookOutcome};
use serde::Serialize;
use uuid::Uuid;

use super::keys::KeySource;
use super::stop::StopReport;

/// The schema of [`RestoreReport`].
pub(super) const REPORT_SCHEMA: &str = "holdfast.restore/1";

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RestoreReport {
    /// `holdfast.restore/1`.
    pub schema: &'static str,
    /// The set.
    pub set: Uuid,
    /// The stop commands that were run, in order.
    pub stopped: Vec<StopReport>,
    /// The writers, in the order in which they came back.
    pub writers: Vec<WriterReport>,
    /// Where the set's documents and sealed keys were laid, on a bare machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub documents: Option<PathBuf>,
    /// What is still to be done by hand or by a writer; empty when nothing is.
    pub needs: Vec<String>,
}

/// What became of one writer's data.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct WriterReport {
    /// Its id.
    pub writer: String,
    /// This restore, as its marker names it; absent where nothing had to be put in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<Uuid>,
    /// Full names of the components.
    pub components: Vec<String>,
    /// What was put in place.
    pub targets: Vec<PathBuf>,
    /// What the writer's checks found, before and after recovery.
    pub findings: Vec<Finding>,
    /// What recovery did.
    pub recovered: Vec<String>,
    /// The keys, by where they belong.
    pub keys: Vec<(PathBuf, KeySource)>,
    /// The steps after the files were in place.
    pub steps: Vec<StepReport>,
    /// Where the old data lie, if they were kept.
    pub old_data: Vec<PathBuf>,
    /// Attributes that could not be set.
    pub lost: Vec<String>,
    /// Whether the next backup has to be a full one (promise P6).
    pub full_required: bool,
    /// Plain sentences for the administrator.
    pub warnings: Vec<String>,
}

/// One step after a restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// Its name.
    pub name: String,
    /// What came of it; absent when it failed and was allowed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<HookOutcome>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

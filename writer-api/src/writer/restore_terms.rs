//! What a restore asks of a writer, and what it answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Mark, locate};
use crate::{ComponentRef, WriterMetadata, duration::as_millis};

/// What a restore asks of a writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreRequest {
    /// The set it comes from.
    pub set: Uuid,
    /// The stored metadata of that set: what the files were then.
    pub metadata: WriterMetadata,
    /// The components that come back.
    pub components: Vec<ComponentRef>,
    /// Whether they go to the place they came from.
    pub in_place: bool,
}

/// Whether the application runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum OnlineState {
    /// It is down.
    Down,
    /// It runs, but serves nothing.
    Paused,
    /// It runs and serves.
    Ready,
    /// The writer cannot tell; the requester looks by itself.
    Unknown,
}

/// Where each file of the restore lies now.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StagedFiles {
    /// Original file or folder → where it lies now; the longest prefix counts.
    pub roots: Vec<(PathBuf, PathBuf)>,
    /// Original path of a key → where its *plain* form lies now, if the restore has it.
    #[serde(default)]
    pub keys: Vec<(PathBuf, PathBuf)>,
}

impl StagedFiles {
    /// Where the file that was at `original` lies now, if it is part of the restore.
    pub fn locate(&self, original: &Path) -> Option<PathBuf> {
        locate(&self.roots, original)
    }
}

/// What a check found. Findings that forbid going on are errors, not findings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// In the order they were made.
    pub findings: Vec<Finding>,
}

/// One check with its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What was checked: `integrity_check of ca.db`.
    pub check: String,
    /// What came out: `ok`, `1204 rows`.
    pub result: String,
    /// Whether the administrator should look at it.
    #[serde(default)]
    pub warning: bool,
}

/// What a registration says (`CertSrvRestoreRegister`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registration {
    /// Original path → path it goes to.
    pub map: Vec<(PathBuf, PathBuf)>,
    /// The requester's durable marker.
    pub marker: PathBuf,
}

/// How far a recovery goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RecoverContext {
    /// Low and high log generation, if there are logs to replay.
    #[serde(default)]
    pub generations: Option<(u64, u64)>,
    /// Where they lie.
    #[serde(default)]
    pub logs: Option<PathBuf>,
    /// Stop at this point, in the engine's own words.
    #[serde(default)]
    pub until: Option<String>,
}

/// What a recovery did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Recovered {
    /// Sentences: `812 WAL frames folded in`.
    pub done: Vec<String>,
    /// The application's position afterwards.
    #[serde(default)]
    pub mark: Mark,
}

/// A step after a restore: repoint, restart, resume.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HookStep {
    /// Unique in the writer.
    pub name: String,
    /// What it does, for `restore plan`.
    pub description: String,
    /// Where it runs; empty: here.
    #[serde(default)]
    pub host: String,
    /// How long it may take.
    #[serde(rename = "timeout_ms", with = "as_millis")]
    pub timeout: Duration,
    /// What a failure means.
    pub on_failure: OnFailure,
}

/// What a failed step means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Stop here; `holdfast recover` goes on with it.
    Stop,
    /// Say so and go on.
    Continue,
}

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookOutcome {
    /// Done now.
    Done,
    /// Had been done before.
    AlreadyDone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_root_locates_a_file_and_a_file_root_stays_a_file() {
        let staged = StagedFiles {
            roots: vec![
                ("/srv".into(), "/s/1".into()),
                ("/srv/ca".into(), "/s/2".into()),
                ("/srv/ca/ca.db".into(), "/s/3/ca.db".into()),
            ],
            keys: vec![],
        };
        assert_eq!(staged.locate(Path::new("/srv/ca/x")), Some("/s/2/x".into()));
        assert_eq!(staged.locate(Path::new("/srv/ca/ca.db")).unwrap().as_os_str(), "/s/3/ca.db");
        assert_eq!(staged.locate(Path::new("/srvx")), None);
    }
}

//! What the phases of a backup ask of a writer, and what it answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::locate;
use crate::{ComponentRef, duration::as_millis};

/// The kind of backup (`VSS_BACKUP_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackupType {
    /// Everything; a base for later ones; may truncate logs.
    #[default]
    Full,
    /// Since the last full or incremental; may truncate logs.
    Incremental,
    /// Since the last full.
    Differential,
    /// Log files only.
    Log,
    /// Everything, without a trace: no base, no truncation.
    Copy,
}

impl BackupType {
    /// Whether logs may be truncated after it (promise P5).
    pub const fn may_truncate(self) -> bool {
        match self {
            Self::Full | Self::Incremental => true,
            Self::Differential | Self::Log | Self::Copy => false,
        }
    }
}

/// What a backup asks of a writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupRequest {
    /// The set.
    pub set: Uuid,
    /// Its kind, already reduced to one the writer declared.
    pub backup_type: BackupType,
    /// The components that take part, explicit and implicit.
    pub components: Vec<ComponentRef>,
    /// Stamps of the base set, by full component name.
    #[serde(default)]
    pub previous_stamps: BTreeMap<String, String>,
}

/// What every phase is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseContext {
    /// The set.
    pub set: Uuid,
    /// How long the phase may take, from the call.
    #[serde(rename = "budget_ms", with = "as_millis")]
    pub budget: Duration,
}

/// What a freeze is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FreezeContext {
    /// The set.
    pub set: Uuid,
    /// How long the application may be held, counted from the call of `freeze`: taking the hold,
    /// the cut, and the thaw have to fit.
    #[serde(rename = "budget_ms", with = "as_millis")]
    pub budget: Duration,
}

/// What came of `prepare_backup`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// The kind this writer will really make.
    pub backup_type: BackupType,
    /// Sentences for the administrator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// The application's log position at the cut, in its own words.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mark {
    /// What a person would compare: `wal frame 812`, `contextCSN …`.
    pub position: String,
    /// Engine facts by name.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
    /// How the hold was proven: `pid 12 holds WAL_WRITE_LOCK`. Empty where nothing is held.
    #[serde(default)]
    pub proof: String,
}

/// What came of a thaw. A repeat is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Thawed {
    /// Was held, is free.
    Released,
    /// Held nothing.
    WasNotHeld,
}

/// Where the shadow copy lies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowContext {
    /// The set.
    pub set: Uuid,
    /// Original folder → folder in the shadow copy; the longest prefix counts.
    pub roots: Vec<(PathBuf, PathBuf)>,
}

impl ShadowContext {
    /// Where the file that is at `original` lies in the shadow copy.
    pub fn locate(&self, original: &Path) -> Option<PathBuf> {
        locate(&self.roots, original)
    }
}

/// What came of `post_snapshot`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PostSnapshot {
    /// Opaque stamps by full component name, handed back with the next backup.
    #[serde(default)]
    pub stamps: BTreeMap<String, String>,
    /// Sentences for the administrator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How the backup ended, for `backup_complete`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupOutcome {
    /// The set; it exists.
    pub set: Uuid,
    /// Its kind.
    pub backup_type: BackupType,
    /// Components that are wholly in the repository.
    pub succeeded: Vec<ComponentRef>,
    /// The exact files that may be truncated; empty unless the type may.
    #[serde(default)]
    pub stored_logs: Vec<String>,
}

/// What was truncated.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Truncated {
    /// By name.
    #[serde(default)]
    pub logs: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_and_incremental_truncate() {
        use BackupType::*;
        let truncating: Vec<_> =
            [Full, Incremental, Differential, Log, Copy].into_iter().filter(|t| t.may_truncate()).collect();
        assert_eq!(truncating, [Full, Incremental]);
    }
}

//! The backup document: what a set is, written once it is known and stored inside the set.
//!
//! It is never rounded up (promise P4): each component carries the level it really reached.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::schema::{self, DocumentError};
use crate::{BackupType, ComponentKind, ComponentRef, KeySeal, Mark};

/// The schema of [`BackupSet`].
pub const SET_SCHEMA: &str = "holdfast.set/1";

/// How consistent a component is, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// One cut without a hold, as after a power failure.
    Crash,
    /// Streamed; consistent after its logs are replayed.
    Recovered,
    /// One engine's own read transaction.
    ReadView,
    /// Held while it was cut.
    Application,
}

impl Level {
    /// As the documents and `--json` write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Recovered => "recovered",
            Self::ReadView => "read-view",
            Self::Application => "application",
        }
    }
}

/// A snapshot set as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BackupSet {
    /// [`SET_SCHEMA`].
    pub schema: String,
    /// The set.
    pub set: Uuid,
    /// When its cut was made, RFC 3339.
    pub created: String,
    /// The machine.
    pub host: String,
    /// The version of Holdfast that wrote it.
    pub version: String,
    /// Its kind.
    pub backup_type: BackupType,
    /// The set it builds on, unless it stands alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Uuid>,
    /// The lowest level of its components.
    pub level: Level,
    /// Whether all components share one instant: one atomic cut, or all held at one moment.
    pub one_instant: bool,
    /// From the first freeze's call to the last thaw's return, in milliseconds.
    pub window_ms: f64,
    /// From the first hold taken to the last: how far apart the applications were stopped.
    pub skew_ms: f64,
    /// The order of holds taken, by writer id.
    pub order: Vec<String>,
    /// The writers.
    pub writers: Vec<WriterRecord>,
    /// The shadow copies it was read from.
    pub shadows: Vec<ShadowRecord>,
    /// What the user allowed to be missing and is: plain sentences. Empty for a complete set.
    #[serde(default)]
    pub exceptions: Vec<String>,
    /// Plain sentences for the administrator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl BackupSet {
    /// Reads a stored set.
    ///
    /// # Errors
    /// [`DocumentError`], also for a set that a newer Holdfast wrote.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        schema::parse(bytes, SET_SCHEMA)
    }

    /// The part of the writer with that id.
    pub fn writer(&self, id: &str) -> Option<&WriterRecord> {
        self.writers.iter().find(|writer| writer.id == id)
    }

    /// Bytes of all components.
    pub fn bytes(&self) -> u64 {
        self.writers.iter().flat_map(|w| &w.components).map(|c| c.bytes).sum()
    }
}

/// One writer in a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriterRecord {
    /// Its id.
    pub id: String,
    /// Its registered name.
    pub writer_type: String,
    /// The kind of backup it made.
    pub backup_type: BackupType,
    /// Where its application was at the cut; absent where nothing was held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// How long it was held, from the call of freeze to the return of thaw, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<f64>,
    /// Its components, explicit and implicit.
    pub components: Vec<ComponentRecord>,
    /// What is known of its keys.
    pub keys: KeysState,
    /// Plain sentences for the administrator.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What a set knows of a writer's keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum KeysState {
    /// The writer declares none.
    NoneDeclared,
    /// The key lies inside the data.
    Inside,
    /// All sealed, and in the set.
    Sealed {
        /// The keys.
        keys: Vec<KeyRecord>,
    },
    /// Declared, but not in this set: the user chose components without them, or allowed it by name.
    Missing {
        /// Why.
        why: String,
    },
}

/// A sealed key in a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// The component it belongs to.
    pub component: ComponentRef,
    /// Where the application keeps it.
    pub path: std::path::PathBuf,
    /// What it is for.
    pub purpose: String,
    /// Its public identity.
    pub fingerprint: String,
    /// What was proved.
    pub proof: KeySeal,
    /// Where the sealed file lies in the set.
    pub stored: String,
    /// Mode of the plain file.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// One component in a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComponentRecord {
    /// Its name.
    #[serde(flatten)]
    pub reference: ComponentRef,
    /// What it is.
    pub kind: ComponentKind,
    /// Whether it was named itself, or came with another.
    pub explicit: bool,
    /// How consistent it is; absent for keys, which are proved and not cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Whether all of it is in the repository.
    pub succeeded: bool,
    /// Bytes of its files.
    pub bytes: u64,
    /// Number of its files and folders.
    pub files: u64,
    /// Where the files lie in the set, each with its original path.
    #[serde(default)]
    pub roots: Vec<StoredRoot>,
    /// The writer's stamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stamp: Option<String>,
}

/// A file or folder of a component, and where it lies in the set: what a restore replaces as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredRoot {
    /// Where the application has it.
    pub original: std::path::PathBuf,
    /// Where it lies in the set.
    pub stored: String,
    /// Whether it is a folder.
    pub folder: bool,
    /// Whether all of the folder is there: nothing was excluded.
    #[serde(default)]
    pub whole: bool,
    /// Names beside it that belong to it, such as `ca.db-wal`: gone with the old file, back with the new.
    #[serde(default)]
    pub companions: Vec<String>,
}

/// A shadow copy a set was read from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowRecord {
    /// The provider.
    pub provider: String,
    /// What it cut: mount point or subvolume.
    pub volume: std::path::PathBuf,
    /// `volume`, `file` or `none`: what is one instant.
    pub atomicity: String,
    /// How long its commit took, in milliseconds.
    pub commit_ms: f64,
}

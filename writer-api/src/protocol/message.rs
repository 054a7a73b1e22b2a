//! The methods of `io.holdfast.Writer` as types. `Call`, the replies, the traits and the interface file change
//! together.

use serde::{Deserialize, Serialize};

use crate::{
    BackupOutcome, BackupRequest, FreezeContext, HookOutcome, HookStep, LogFile, Mark, PhaseContext,
    RecoverContext, Registration, RestoreRequest, SealedKey, ShadowContext, StagedFiles, StreamFile, Thawed,
    WriterMetadata,
};

/// The feature of passing file descriptors beside an answer: `OpenStream`.
pub const DESCRIPTORS: &str = "descriptors";

/// The first call: who asks, and the writer's settings. Never secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The requester's version of the protocol.
    pub protocol: String,
    /// The requester, for people: `holdfast 0.1.0`.
    #[serde(default)]
    pub requester: String,
    /// What it can beyond the first form of the protocol.
    #[serde(default)]
    pub features: Vec<String>,
    /// The writer's id.
    pub id: String,
    /// The registered name, or the program's.
    pub writer_type: String,
    /// The writer's own settings.
    pub settings: serde_json::Value,
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The writer's version of the protocol.
    pub protocol: String,
    /// The program, for people.
    #[serde(default)]
    pub program: String,
    /// Its version.
    #[serde(default)]
    pub version: String,
    /// What it can beyond the first form of the protocol.
    #[serde(default)]
    pub features: Vec<String>,
    /// A process that releases whatever the writer held once the writer is gone, and then ends. The requester says
    /// "released" only after its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardian: Option<u32>,
}

/// A call. Methods of a participant need a `BeginBackup` or `BeginRestore` before them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
#[allow(missing_docs, reason = "each is the trait method of its name")]
pub enum Call {
    Hello(Hello),
    Identify {},
    BeginBackup(BackupRequest),
    PrepareBackup(PhaseContext),
    SealKeys { recipients: Vec<String> },
    PrepareSnapshot(PhaseContext),
    Freeze(FreezeContext),
    Thaw {},
    PostSnapshot(ShadowContext),
    BackupComplete(BackupOutcome),
    Abort {},
    ListStreams {},
    OpenStream { name: String },
    CloseStream { name: String, bytes: u64 },
    ListLogs {},
    BeginRestore(Box<RestoreRequest>),
    OnlineState {},
    Check(StagedFiles),
    Register(Registration),
    RegisterComplete {},
    Recover { staged: StagedFiles, context: RecoverContext },
    Verify(StagedFiles),
    PostRestoreSteps {},
    RunStep { name: String },
    Unregister {},
}

/// The answer to `Identify`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identified {
    /// The writer's description of its application.
    pub metadata: WriterMetadata,
}

/// The answer to `SealKeys`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sealed {
    /// The keys.
    pub keys: Vec<SealedKey>,
}

/// The answer to `Freeze`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frozen {
    /// The application's log position.
    pub mark: Mark,
}

/// The answer to `Thaw`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Released {
    /// What came of it.
    pub thawed: Thawed,
}

/// The answer to `ListStreams`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Streams {
    /// The files.
    pub streams: Vec<StreamFile>,
}

/// The answer to `OpenStream`; the descriptor itself is passed beside it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Its place among those passed: 0.
    pub descriptor: u32,
}

/// The answer to `ListLogs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logs {
    /// The files.
    pub logs: Vec<LogFile>,
}

/// The answer to `PostRestoreSteps`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    /// In order.
    pub steps: Vec<HookStep>,
}

/// The answer to `RunStep`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepDone {
    /// What came of it.
    pub outcome: HookOutcome,
}

/// Nothing to say but done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {}

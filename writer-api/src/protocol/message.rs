//! The methods of `io.holdfast.Writer` as types. `Call` and the traits change together.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    BackupOutcome, BackupRequest, FreezeContext, PhaseContext, RecoverContext, Registration, RestoreRequest,
    ShadowContext, StagedFiles, WriterError,
};

/// `major.minor`; a minor only adds.
pub const PROTOCOL_VERSION: &str = "1.0";

/// The error of a call that reached the writer.
pub const WRITER_ERROR: &str = "io.holdfast.Writer.Failed";
/// The error of a call that no writer code saw: unknown method, wrong order, bad parameters.
pub const PROTOCOL_ERROR: &str = "io.holdfast.Writer.Protocol";

/// The first call: who asks, and the writer's settings. Never secrets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The requester's version of the protocol.
    pub protocol: String,
    /// The writer's id.
    pub id: String,
    /// The registered name.
    pub writer_type: String,
    /// The writer's own settings.
    pub settings: serde_json::Value,
}

/// The answer to [`Hello`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The writer's version of the protocol.
    pub protocol: String,
    /// Its process, as the kernel numbers it.
    pub pid: u32,
}

/// A call. Methods of a participant need a `BeginBackup` or `BeginRestore` before them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
#[allow(missing_docs, reason = "each is the trait method of its name")]
pub enum Call {
    #[serde(rename = "io.holdfast.Writer.Hello")]
    Hello(Hello),
    #[serde(rename = "io.holdfast.Writer.Identify")]
    Identify {},
    #[serde(rename = "io.holdfast.Writer.BeginBackup")]
    BeginBackup(BackupRequest),
    #[serde(rename = "io.holdfast.Writer.PrepareBackup")]
    PrepareBackup(PhaseContext),
    #[serde(rename = "io.holdfast.Writer.SealKeys")]
    SealKeys { recipients: Vec<String> },
    #[serde(rename = "io.holdfast.Writer.PrepareSnapshot")]
    PrepareSnapshot(PhaseContext),
    #[serde(rename = "io.holdfast.Writer.Freeze")]
    Freeze(FreezeContext),
    #[serde(rename = "io.holdfast.Writer.Thaw")]
    Thaw {},
    #[serde(rename = "io.holdfast.Writer.PostSnapshot")]
    PostSnapshot(ShadowContext),
    #[serde(rename = "io.holdfast.Writer.BackupComplete")]
    BackupComplete(BackupOutcome),
    #[serde(rename = "io.holdfast.Writer.Abort")]
    Abort {},
    #[serde(rename = "io.holdfast.Writer.ListStreams")]
    ListStreams {},
    #[serde(rename = "io.holdfast.Writer.CloseStream")]
    CloseStream { name: String, bytes: u64 },
    #[serde(rename = "io.holdfast.Writer.ListLogs")]
    ListLogs {},
    #[serde(rename = "io.holdfast.Writer.BeginRestore")]
    BeginRestore(Box<RestoreRequest>),
    #[serde(rename = "io.holdfast.Writer.OnlineState")]
    OnlineState {},
    #[serde(rename = "io.holdfast.Writer.Check")]
    Check(StagedFiles),
    #[serde(rename = "io.holdfast.Writer.Register")]
    Register(Registration),
    #[serde(rename = "io.holdfast.Writer.RegisterComplete")]
    RegisterComplete {},
    #[serde(rename = "io.holdfast.Writer.Recover")]
    Recover { staged: StagedFiles, context: RecoverContext },
    #[serde(rename = "io.holdfast.Writer.Verify")]
    Verify(StagedFiles),
    #[serde(rename = "io.holdfast.Writer.PostRestoreSteps")]
    PostRestoreSteps {},
    #[serde(rename = "io.holdfast.Writer.RunStep")]
    RunStep { name: String },
    #[serde(rename = "io.holdfast.Writer.Unregister")]
    Unregister {},
}

/// A list as a reply: Varlink answers are objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct List<T> {
    /// The list.
    pub items: Vec<T>,
}

/// A single value as a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Value<T> {
    /// The value.
    pub value: T,
}

/// Nothing to say but done. Unknown fields are ignored, as everywhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {}

/// An answer as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The error's name; absent on success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The reply, or the error's parameters.
    #[serde(default = "no_parameters")]
    pub parameters: serde_json::Value,
}

fn no_parameters() -> serde_json::Value {
    serde_json::Value::Object(serde_json::Map::new())
}

impl Answer {
    /// Success, or the writer's error.
    pub fn from_result<T: Serialize>(result: Result<T, WriterError>) -> Self {
        match result.map(serde_json::to_value) {
            Ok(Ok(parameters)) => Self { error: None, parameters },
            Ok(Err(error)) => Self::protocol(error.to_string()),
            Err(error) => Self {
                error: Some(WRITER_ERROR.into()),
                parameters: serde_json::to_value(&error).unwrap_or_default(),
            },
        }
    }

    /// A call that no writer code saw.
    pub fn protocol(reason: impl Into<String>) -> Self {
        let parameters = BTreeMap::from([("reason", reason.into())]);
        Self {
            error: Some(PROTOCOL_ERROR.into()),
            parameters: serde_json::to_value(parameters).unwrap_or_default(),
        }
    }
}

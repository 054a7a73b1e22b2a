//! Fully populated samples: struct literals without `..`, matches without `_`, so that whatever is added to a type or
//! an enum has to be added here, too, and is then checked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::protocol::message::*;
use crate::protocol::wire::{Answer, INTERFACE, Refusal, Request, Understood};
use crate::*;

/// A sample as JSON, and the reader that has to understand it.
pub struct Sample {
    pub name: String,
    pub json: Value,
    pub reads: Reads,
}

/// Whether a reader understands a sample, or what is left of it.
pub type Reads = Box<dyn Fn(&Value) -> Result<(), String>>;

/// Every call.
pub fn calls() -> Vec<Sample> {
    let mut calls = Vec::new();
    let mut next = Some(first());
    while let Some(call) = next {
        let request = Request::new(&call);
        let method = request.method.clone();
        let reads = move |json: &Value| {
            let request = Request { parameters: json.clone(), ..Request::new(&Call::Thaw {}) };
            match (Request { method: method.clone(), ..request }).understand() {
                Ok(Understood::Writer(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        };
        let name = request.method.strip_prefix(INTERFACE).unwrap()[1..].to_owned();
        calls.push(Sample { name, json: request.parameters, reads: Box::new(reads) });
        next = after(&call);
    }
    calls
}

/// Every reply.
pub fn replies() -> Vec<Sample> {
    let mut replies = Vec::new();
    let mut next = Some(first());
    while let Some(call) = next {
        replies.extend(replies_to(&call));
        next = after(&call);
    }
    replies
}

fn reply<T: Serialize + DeserializeOwned>(to: &str, value: T) -> Sample {
    let reads = |json: &Value| {
        let answer = Answer { error: None, parameters: json.clone(), continues: false };
        answer.understand::<T>("ca").map(drop).map_err(|refusal| format!("{refusal:?}"))
    };
    let json = Answer::reply(&value).parameters;
    Sample { name: to.to_owned(), json, reads: Box::new(reads) }
}

/// Every error: the writer's, and those of the conversation.
pub fn errors() -> Vec<Sample> {
    let mut errors = Vec::new();
    let mut next = Some(WriterError::InconsistentSnapshot { writer: "ca".into(), cause: cause() });
    while let Some(error) = next {
        errors.push(error_sample(Answer::failure(&error), Some(error.clone())));
        next = error_after(&error);
    }
    errors.push(error_sample(Answer::version_mismatch(), None));
    errors.push(error_sample(Answer::out_of_order("io.holdfast.Writer.Thaw", "nothing"), None));
    errors
}

fn error_sample(answer: Answer, back: Option<WriterError>) -> Sample {
    let name = answer.error.clone().unwrap();
    let short = name.strip_prefix(INTERFACE).unwrap()[1..].to_owned();
    let whole = answer.parameters.clone();
    let reads = move |json: &Value| {
        let answer = Answer { error: Some(name.clone()), parameters: json.clone(), continues: false };
        match (answer.understand::<Done>("ca"), &back) {
            (Err(Refusal::Writer(error)), Some(back)) if *json == whole && error != *back => {
                Err(format!("{error:?} came back"))
            }
            (Err(Refusal::Writer(_)), Some(_)) => Ok(()),
            // Errors of the conversation are told, not read: what they lack shows as `?`.
            (Err(refusal), None) if !format!("{refusal:?}").contains('?') => Ok(()),
            (other, _) => Err(format!("{other:?}")),
        }
    };
    Sample { name: short, json: answer.parameters, reads: Box::new(reads) }
}

/// The values of every enum.
pub fn enums() -> BTreeMap<&'static str, BTreeSet<String>> {
    macro_rules! values {
        ($type:ident: $($value:ident),*) => { values!($type as $type: $($value),*) };
        ($type:ident as $name:ident: $($value:ident),*) => {{
            // A value that is added does not compile until it is added here.
            let _ = |value: $type| match value { $($type::$value => ()),* };
            let values = [$(serde_json::to_value($type::$value).unwrap()),*];
            let text = |value: &Value| value.as_str().or(value["state"].as_str()).unwrap().to_owned();
            (stringify!($name), values.iter().map(text).collect())
        }};
    }
    BTreeMap::from([
        values!(BackupType: Full, Incremental, Differential, Log, Copy),
        values!(Thawed: Released, WasNotHeld),
        values!(OnlineState as ApplicationState: Down, Paused, Ready, Unknown),
        values!(OnFailure: Stop, Continue),
        values!(HookOutcome: Done, AlreadyDone),
        values!(Usage: BootableSystemState, SystemService, UserData, Other),
        values!(DataSource: TransactedDb, NonTransactedDb, Other),
        values!(FreezeLevel: FrontEnd, BackEnd, System),
        values!(RestoreMethod: IfNotThere, IfCanReplace, StopRestoreStart, ToAlternateLocation, Custom),
        values!(RestoreRank: BootFiles, Services, Directory, Applications, Registry),
        values!(ComponentKind: Database, FileGroup, Keys),
        values!(FileRole: Database, Log, Data),
        ("KeySealState", seals().iter().map(key_seal_state).collect()),
    ])
}

fn key_seal_state(seal: &KeySeal) -> String {
    serde_json::to_value(seal).unwrap()["state"].as_str().unwrap().to_owned()
}

fn seals() -> [KeySeal; 2] {
    let _ = |seal: &KeySeal| match seal {
        KeySeal::Proved { algorithm: _ } | KeySeal::NotProved { why: _ } => (),
    };
    [KeySeal::Proved { algorithm: "ECDSA P-256".into() }, KeySeal::NotProved { why: "no certificate".into() }]
}

fn first() -> Call {
    Call::Hello(Hello {
        protocol: "1.0".into(),
        requester: "holdfast 0.1.0".into(),
        features: vec![DESCRIPTORS.into()],
        id: "ca".into(),
        writer_type: "certificate-authority".into(),
        settings: json!({"database": "/srv/ca/ca.db"}),
    })
}

/// The call after this one; every one has its turn.
fn after(call: &Call) -> Option<Call> {
    let (set, budget) = (Uuid::nil(), Duration::from_millis(900));
    let phase = || PhaseContext { set, budget };
    Some(match call {
        Call::Hello(_) => Call::Identify {},
        Call::Identify {} => Call::BeginBackup(BackupRequest {
            set,
            backup_type: BackupType::Full,
            components: vec![reference()],
            previous_stamps: map("databases/main", "7"),
        }),
        Call::BeginBackup(_) => Call::PrepareBackup(phase()),
        Call::PrepareBackup(_) => Call::SealKeys { recipients: vec!["age1".into()] },
        Call::SealKeys { .. } => Call::PrepareSnapshot(phase()),
        Call::PrepareSnapshot(_) => Call::Freeze(FreezeContext { set, budget }),
        Call::Freeze(_) => Call::Thaw {},
        Call::Thaw {} => Call::PostSnapshot(ShadowContext { set, roots: pairs() }),
        Call::PostSnapshot(_) => Call::BackupComplete(BackupOutcome {
            set,
            backup_type: BackupType::Incremental,
            succeeded: vec![reference()],
            stored_logs: vec!["log.1".into()],
        }),
        Call::BackupComplete(_) => Call::Abort {},
        Call::Abort {} => Call::ListStreams {},
        Call::ListStreams {} => Call::OpenStream { name: "main".into() },
        Call::OpenStream { .. } => Call::CloseStream { name: "main".into(), bytes: 7 },
        Call::CloseStream { .. } => Call::ListLogs {},
        Call::ListLogs {} => Call::BeginRestore(Box::new(RestoreRequest {
            set,
            metadata: metadata(),
            components: vec![reference()],
            in_place: true,
        })),
        Call::BeginRestore(_) => Call::OnlineState {},
        Call::OnlineState {} => Call::Check(staged()),
        Call::Check(_) => Call::Register(Registration { map: pairs(), marker: "/var/lib/marker".into() }),
        Call::Register(_) => Call::RegisterComplete {},
        Call::RegisterComplete {} => Call::Recover {
            staged: staged(),
            context: RecoverContext {
                generations: Some((1, 9)),
                logs: Some("/staged/logs".into()),
                until: Some("transaction 12".into()),
            },
        },
        Call::Recover { .. } => Call::Verify(staged()),
        Call::Verify(_) => Call::PostRestoreSteps {},
        Call::PostRestoreSteps {} => Call::RunStep { name: "restart".into() },
        Call::RunStep { .. } => Call::Unregister {},
        Call::Unregister {} => return None,
    })
}

fn replies_to(call: &Call) -> Vec<Sample> {
    let texts = || vec!["a sentence".to_owned()];
    vec![match call {
        Call::Hello(_) => reply(
            "Hello",
            HelloReply {
                protocol: "1.0".into(),
                program: "holdfast".into(),
                version: "0.1.0".into(),
                features: vec![DESCRIPTORS.into()],
                guardian: Some(4711),
            },
        ),
        Call::Identify {} => reply("Identify", Identified { metadata: metadata() }),
        Call::BeginBackup(_) => reply("BeginBackup", Done {}),
        Call::PrepareBackup(_) => {
            reply("PrepareBackup", Prepared { backup_type: BackupType::Full, warnings: texts() })
        }
        Call::SealKeys { .. } => {
            let seal = |proof| SealedKey {
                component: reference(),
                path: "/srv/ca/key.pem".into(),
                purpose: "CA key".into(),
                fingerprint: "SHA256:x".into(),
                proof,
                mode: 0o600,
                uid: 7,
                gid: 8,
                sealed: vec![0, 255],
            };
            reply("SealKeys", Sealed { keys: seals().map(seal).to_vec() })
        }
        Call::PrepareSnapshot(_) => reply("PrepareSnapshot", Done {}),
        Call::Freeze(_) => reply("Freeze", Frozen { mark: mark() }),
        Call::Thaw {} => reply("Thaw", Released { thawed: Thawed::Released }),
        Call::PostSnapshot(_) => {
            reply("PostSnapshot", PostSnapshot { stamps: map("databases/main", "8"), warnings: texts() })
        }
        Call::BackupComplete(_) => reply("BackupComplete", Truncated { logs: vec!["log.1".into()] }),
        Call::Abort {} => reply("Abort", Done {}),
        Call::ListStreams {} => {
            let (name, path) = ("main".to_owned(), "/srv/ca/ca.db".into());
            let streams = vec![StreamFile { name, component: reference(), path, size_hint: 4096 }];
            reply("ListStreams", Streams { streams })
        }
        Call::OpenStream { .. } => reply("OpenStream", Opened { descriptor: 0 }),
        Call::CloseStream { .. } => reply("CloseStream", Done {}),
        Call::ListLogs {} => {
            let logs = vec![LogFile { name: "log.1".into(), generation: 1, path: "/srv/ca/log.1".into() }];
            reply("ListLogs", Logs { logs })
        }
        Call::BeginRestore(_) => reply("BeginRestore", Done {}),
        Call::OnlineState {} => reply("OnlineState", OnlineState::Down),
        Call::Check(_) => reply("Check", report()),
        Call::Register(_) => reply("Register", Done {}),
        Call::RegisterComplete {} => reply("RegisterComplete", Done {}),
        Call::Recover { .. } => reply("Recover", Recovered { done: texts(), mark: mark() }),
        Call::Verify(_) => reply("Verify", report()),
        Call::PostRestoreSteps {} => {
            let step = HookStep {
                name: "restart".into(),
                description: "start it again".into(),
                host: "elsewhere".into(),
                timeout: Duration::from_secs(3),
                on_failure: OnFailure::Stop,
            };
            reply("PostRestoreSteps", Steps { steps: vec![step] })
        }
        Call::RunStep { .. } => reply("RunStep", StepDone { outcome: HookOutcome::AlreadyDone }),
        Call::Unregister {} => reply("Unregister", Done {}),
    }]
}

/// The error after this one; every one has its turn.
fn error_after(error: &WriterError) -> Option<WriterError> {
    let (writer, cause) = ("ca".to_owned(), cause());
    Some(match error {
        WriterError::InconsistentSnapshot { .. } => WriterError::OutOfResources { writer, cause },
        WriterError::OutOfResources { .. } => {
            WriterError::TimedOut { writer, action: "freeze".into(), budget_ms: 900 }
        }
        WriterError::TimedOut { .. } => WriterError::Busy { writer, cause },
        WriterError::Busy { .. } => WriterError::Rejected { writer, cause },
        WriterError::Rejected { .. } => WriterError::InvalidSetting {
            writer,
            key: Some("database".into()),
            problem: "there is none".into(),
        },
        WriterError::InvalidSetting { .. } => WriterError::Denied { writer, cause },
        WriterError::Denied { .. } => {
            WriterError::WrongState { writer, is: "running".into(), must: "down".into() }
        }
        WriterError::WrongState { .. } => WriterError::RecoveryFailed { writer, cause },
        WriterError::RecoveryFailed { .. } => WriterError::PartialFailure {
            writer,
            components: BTreeMap::from([("databases/main".into(), cause)]),
        },
        WriterError::PartialFailure { .. } => WriterError::Key { writer, cause },
        WriterError::Key { .. } => WriterError::ChainBroken { writer, cause },
        WriterError::ChainBroken { .. } => WriterError::Unsupported { writer, what: "logs".into() },
        WriterError::Unsupported { .. } => WriterError::NotResponding { writer, cause },
        WriterError::NotResponding { .. } => WriterError::Skipped { writer, cause },
        WriterError::Skipped { .. } => WriterError::StuckFrozen { writer, cause },
        WriterError::StuckFrozen { .. } => return None,
    })
}

fn cause() -> Cause {
    serde_json::from_value(json!({"message": "outer", "source": {"message": "inner"}})).unwrap()
}

fn map(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

fn pairs() -> Vec<(std::path::PathBuf, std::path::PathBuf)> {
    vec![("/srv/ca".into(), "/shadow/ca".into())]
}

fn staged() -> StagedFiles {
    StagedFiles { roots: pairs(), keys: pairs() }
}

fn reference() -> ComponentRef {
    ComponentRef { path: "databases".into(), name: "main".into() }
}

fn mark() -> Mark {
    Mark { position: "frame 7".into(), details: map("salt", "1"), proof: "pid 1 holds it".into() }
}

fn report() -> CheckReport {
    let finding = Finding { check: "integrity".into(), result: "ok".into(), warning: true };
    CheckReport { findings: vec![finding] }
}

fn metadata() -> WriterMetadata {
    let file = FileSet {
        path: "/srv/ca".into(),
        pattern: "ca.db".into(),
        recursive: true,
        optional: true,
        role: FileRole::Database,
    };
    let key = KeyFile {
        path: "/srv/ca/key.pem".into(),
        purpose: "CA key".into(),
        certificate: Some("/srv/ca/ca.pem".into()),
    };
    let component = Component {
        kind: ComponentKind::Database,
        path: "databases".into(),
        name: "main".into(),
        caption: "The database".into(),
        selectable: true,
        selectable_for_restore: true,
        held: true,
        dependencies: vec![Dependency { writer: "other".into(), component: reference() }],
        files: vec![file],
        exclude: vec!["*.tmp".into()],
        keys: vec![key],
    };
    WriterMetadata {
        schema: METADATA_SCHEMA.into(),
        writer_type: "certificate-authority".into(),
        id: "ca".into(),
        name: "The CA".into(),
        version: "1".into(),
        usage: Usage::SystemService,
        source: DataSource::TransactedDb,
        restore: RestorePolicy {
            method: RestoreMethod::StopRestoreStart,
            rank: RestoreRank::Services,
            service: Some("ca.service".into()),
        },
        freeze_level: FreezeLevel::BackEnd,
        freeze_budget_ms: Some(1000),
        busy_timeout_ms: Some(5000),
        backup_types: BackupTypes { incremental: true, differential: true, log: true, exclusive: true },
        capabilities: Capabilities {
            freeze: true,
            stream: true,
            logs: true,
            keys: true,
            recover: true,
            post_restore: true,
        },
        components: vec![component],
        warnings: vec!["a sentence".into()],
    }
}

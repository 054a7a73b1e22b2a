//! The application that the writer speaks for: a file that is locked while it is held, and what the script says of it.
//!
//! Owns: the right answer to every call. Leaves to others: the hold (`hold`), the journal, the socket.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_store_keys::{Recipient, fingerprint_sealed, read_key_file, seal};
use holdfast_writer_api::protocol::message::{
    Done, Frozen, Hello, HelloReply, Logs, Opened, Released, Sealed, StepDone, Steps, Streams,
};
use holdfast_writer_api::protocol::wire::Answer;
use holdfast_writer_api::protocol::{Call, DESCRIPTORS, Version};
use holdfast_writer_api::{
    BackupRequest, Capabilities, Cause, CheckReport, HookOutcome, KeyFile, KeySeal, Mark, PostSnapshot,
    Prepared, Recovered, SealedKey, StreamFile, Truncated, WriterError, WriterMetadata,
};
use serde_json::{Map, Value, json};

use crate::hold::Hold;
use crate::script::Script;

/// What has been begun.
#[derive(Debug, Clone, PartialEq)]
enum Begun {
    Nothing,
    Writer,
    Backup(BackupRequest),
    Restore,
}

/// The application, and what was begun with it.
pub struct Application {
    id: String,
    writer_type: String,
    script: Script,
    begun: Begun,
    pub hold: Hold,
    streams: Vec<Streaming>,
}

/// A stream that was opened.
struct Streaming {
    name: String,
    sent: Arc<AtomicU64>,
}

/// An answer, and the descriptor beside it.
pub struct Reply {
    pub answer: Answer,
    pub descriptor: Option<OwnedFd>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, descriptor: None }
    }
}

impl Application {
    pub fn new(hello: &Hello, script: Script) -> Self {
        Self {
            id: hello.id.clone(),
            writer_type: hello.writer_type.clone(),
            hold: Hold::new(&hello.id, script.hold.clone()),
            script,
            begun: Begun::Nothing,
            streams: Vec::new(),
        }
    }

    pub fn script(&self) -> &Script {
        &self.script
    }

    /// Its description, as the script has it; it need not be one that anybody may take.
    pub fn metadata(&self) -> Value {
        let mut description = json!({
            "schema": holdfast_writer_api::METADATA_SCHEMA,
            "writer_type": self.writer_type,
            "id": self.id,
            "name": "a scripted writer",
            "version": env!("CARGO_PKG_VERSION"),
            "usage": "other",
            "source": "other",
            "restore": {"method": "if_can_replace", "rank": "applications"},
            "freeze_level": "front_end",
            "backup_types": {},
            "capabilities": {},
            "components": [],
        });
        lay_over(&mut description, &self.script.metadata);
        description
    }

    /// The same, where it is one.
    pub fn understood(&self) -> Option<WriterMetadata> {
        serde_json::from_value(self.metadata()).ok()
    }

    fn capabilities(&self) -> Capabilities {
        serde_json::from_value(self.metadata()["capabilities"].clone()).unwrap_or_default()
    }

    /// Bytes that went into each stream that was read to its end since the last call.
    pub fn streamed(&mut self, name: &str) -> Option<u64> {
        let at = self.streams.iter().position(|stream| stream.name == name)?;
        Some(self.streams.remove(at).sent.load(Ordering::SeqCst))
    }

    /// The right answer. Does what it says.
    pub fn answer(&mut self, method: &str, call: &Call) -> Reply {
        match self.right(call) {
            Some(Ok(reply)) => reply,
            Some(Err(error)) => Answer::failure(&error).into(),
            None => Answer::out_of_order(&format!("io.holdfast.Writer.{method}"), self.state()).into(),
        }
    }

    /// As the interface has it.
    fn state(&self) -> &'static str {
        match self.begun {
            Begun::Nothing => "nothing",
            Begun::Writer => "writer",
            Begun::Backup(_) => "backup",
            Begun::Restore => "restore",
        }
    }

    fn right(&mut self, call: &Call) -> Option<Result<Reply, WriterError>> {
        let reply = |value: Value| Some(Ok(Reply::from(Answer::reply(&value))));
        match (call, self.begun.clone()) {
            (Call::Hello(hello), Begun::Nothing) => Some(Ok(self.hello(hello).into())),
            (Call::Identify {}, Begun::Writer) => reply(json!({ "metadata": self.metadata() })),
            (Call::BeginBackup(request), Begun::Writer) => {
                self.begun = Begun::Backup(request.clone());
                reply(json!({}))
            }
            (Call::BeginRestore(_), Begun::Writer) => {
                self.begun = Begun::Restore;
                reply(json!({}))
            }
            (call, Begun::Backup(request)) => self.backup(call, &request),
            (call, Begun::Restore) => self.restore(call).map(|done| done.map(Reply::from)),
            (_, Begun::Nothing | Begun::Writer) => None,
        }
    }

    fn hello(&mut self, hello: &Hello) -> Answer {
        let Ok(theirs) = hello.protocol.parse::<Version>() else {
            return Answer::invalid_parameter("protocol");
        };
        if Version::OURS.agreed(theirs).is_none() {
            return Answer::version_mismatch();
        }
        self.begun = Begun::Writer;
        Answer::reply(&HelloReply {
            guardian: None,
            protocol: Version::OURS.to_string(),
            program: env!("CARGO_PKG_NAME").into(),
            version: env!("CARGO_PKG_VERSION").into(),
            features: vec![DESCRIPTORS.into()],
        })
    }

    fn backup(&mut self, call: &Call, request: &BackupRequest) -> Option<Result<Reply, WriterError>> {
        let has = self.capabilities();
        let answer = match call {
            Call::PrepareBackup(_) => {
                Answer::reply(&Prepared { backup_type: request.backup_type, warnings: Vec::new() })
            }
            Call::SealKeys { recipients } if has.keys => match self.seal(request, recipients) {
                Ok(keys) => Answer::reply(&Sealed { keys }),
                Err(error) => return Some(Err(error)),
            },
            Call::PrepareSnapshot(_) => Answer::reply(&Done {}),
            // The hold was taken before.
            Call::Freeze(_) => Answer::reply(&Frozen { mark: self.mark() }),
            Call::Thaw {} => Answer::from_result(self.hold.thaw().map(|thawed| Released { thawed })),
            Call::PostSnapshot(_) => {
                let stamp = |component: &holdfast_writer_api::ComponentRef| {
                    (component.full_name(), format!("{}", request.set))
                };
                let stamps: BTreeMap<_, _> = request.components.iter().map(stamp).collect();
                Answer::reply(&PostSnapshot { stamps, warnings: Vec::new() })
            }
            Call::BackupComplete(outcome) => Answer::reply(&Truncated { logs: outcome.stored_logs.clone() }),
            Call::Abort {} => {
                self.hold.release();
                Answer::reply(&Done {})
            }
            Call::ListStreams {} if has.stream => Answer::reply(&Streams { streams: self.streams() }),
            Call::OpenStream { name } if has.stream => {
                return Some(self.open(name).map(|descriptor| Reply {
                    answer: Answer::reply(&Opened { descriptor: 0 }),
                    descriptor: Some(descriptor),
                }));
            }
            Call::CloseStream { .. } if has.stream => Answer::reply(&Done {}),
            Call::ListLogs {} if has.logs => Answer::reply(&Logs { logs: self.script.logs.clone() }),
            Call::SealKeys { .. } => return self.lacks("keys"),
            Call::ListStreams {} | Call::OpenStream { .. } | Call::CloseStream { .. } => {
                return self.lacks("stream");
            }
            Call::ListLogs {} => return self.lacks("logs"),
            Call::Hello(_)
            | Call::Identify {}
            | Call::BeginBackup(_)
            | Call::BeginRestore(_)
            | Call::OnlineState {}
            | Call::Check(_)
            | Call::Register(_)
            | Call::RegisterComplete {}
            | Call::Recover { .. }
            | Call::Verify(_)
            | Call::PostRestoreSteps {}
            | Call::RunStep { .. }
            | Call::Unregister {} => return None,
        };
        Some(Ok(answer.into()))
    }

    fn restore(&mut self, call: &Call) -> Option<Result<Answer, WriterError>> {
        let has = self.capabilities();
        let lacks = |what: &str| Some(Err(WriterError::unsupported(&self.id, what)));
        Some(Ok(match call {
            Call::OnlineState {} => Answer::reply(&self.script.online),
            Call::Check(_) | Call::Verify(_) => Answer::reply(&CheckReport::default()),
            Call::Register(_) | Call::RegisterComplete {} | Call::Unregister {} => Answer::reply(&Done {}),
            Call::Recover { .. } if has.recover => {
                Answer::reply(&Recovered { done: vec!["as the script says".into()], mark: Mark::default() })
            }
            Call::PostRestoreSteps {} if has.post_restore => {
                Answer::reply(&Steps { steps: self.script.steps.clone() })
            }
            Call::RunStep { .. } if has.post_restore => {
                Answer::reply(&StepDone { outcome: HookOutcome::Done })
            }
            Call::Recover { .. } => return lacks("recover"),
            Call::PostRestoreSteps {} | Call::RunStep { .. } => return lacks("post_restore"),
            Call::Hello(_)
            | Call::Identify {}
            | Call::BeginBackup(_)
            | Call::PrepareBackup(_)
            | Call::SealKeys { .. }
            | Call::PrepareSnapshot(_)
            | Call::Freeze(_)
            | Call::Thaw {}
            | Call::PostSnapshot(_)
            | Call::BackupComplete(_)
            | Call::Abort {}
            | Call::ListStreams {}
            | Call::OpenStream { .. }
            | Call::CloseStream { .. }
            | Call::ListLogs {}
            | Call::BeginRestore(_) => return None,
        }))
    }

    fn lacks(&self, what: &str) -> Option<Result<Reply, WriterError>> {
        Some(Err(WriterError::unsupported(&self.id, what)))
    }

    fn mark(&self) -> Mark {
        Mark { position: "as the script says".into(), proof: self.hold.proof(), ..Mark::default() }
    }

    /// Seals the keys of the components that take part, really: a set made of them can be opened.
    fn seal(&self, request: &BackupRequest, recipients: &[String]) -> Result<Vec<SealedKey>, WriterError> {
        let failed = |error: &(dyn std::error::Error + 'static)| WriterError::Key {
            writer: self.id.clone(),
            cause: Cause::from_error(error),
        };
        let recipients: Result<Vec<_>, _> = recipients.iter().map(|text| Recipient::parse(text)).collect();
        let recipients = recipients.map_err(|error| failed(&error))?;
        let mut keys = Vec::new();
        for component in self.understood().into_iter().flat_map(|metadata| metadata.components) {
            if !request.components.iter().any(|reference| component.is(reference)) {
                continue;
            }
            for KeyFile { path, purpose, .. } in &component.keys {
                let file = read_key_file(path).map_err(|error| failed(&error))?;
                let sealed = seal(&file.content, &recipients).map_err(|error| failed(&error))?;
                keys.push(SealedKey {
                    component: component.reference(),
                    path: path.clone(),
                    purpose: purpose.clone(),
                    fingerprint: fingerprint_sealed(&sealed),
                    proof: KeySeal::NotProved { why: "a scripted writer proves nothing".into() },
                    mode: file.mode,
                    uid: file.uid,
                    gid: file.gid,
                    sealed,
                });
            }
        }
        Ok(keys)
    }

    fn streams(&self) -> Vec<StreamFile> {
        let of = |stream: &crate::script::StreamScript| StreamFile {
            name: stream.name.clone(),
            component: stream.component(),
            path: stream.path.clone(),
            size_hint: std::fs::metadata(&stream.path).map_or(0, |meta| meta.len()),
        };
        self.script.streams.iter().map(of).collect()
    }

    /// The read end of a pipe, which a thread fills with the file.
    fn open(&mut self, name: &str) -> Result<OwnedFd, WriterError> {
        let known = self.script.streams.iter().find(|stream| stream.name == name);
        let Some(stream) = known else {
            return Err(WriterError::rejected(&self.id, format!("there is no stream `{name}`")));
        };
        let failed = |error: io::Error| {
            let cause = Cause::new(format!("cannot stream {}: {error}", stream.path.display()));
            WriterError::OutOfResources { writer: self.id.clone(), cause }
        };
        let file = File::open(&stream.path).map_err(failed)?;
        let (read, write) = io::pipe().map_err(failed)?;
        let sent = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&sent);
        std::thread::spawn(move || pour(file, write, &count));
        self.streams.push(Streaming { name: name.to_owned(), sent });
        Ok(read.into())
    }
}

/// Copies until the file ends or nobody reads any more.
fn pour(mut from: File, mut to: impl io::Write, count: &AtomicU64) {
    let mut chunk = [0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut chunk) {
        if to.write_all(&chunk[..n]).is_err() {
            break;
        }
        count.fetch_add(n as u64, Ordering::SeqCst);
    }
}

/// Lays `top` over `bottom`: objects are merged, everything else is replaced.
pub fn lay_over(bottom: &mut Value, top: &Map<String, Value>) {
    let Some(bottom) = bottom.as_object_mut() else { return };
    for (key, value) in top {
        match (bottom.get_mut(key), value) {
            (Some(below @ Value::Object(_)), Value::Object(above)) => lay_over(below, above),
            _ => {
                bottom.insert(key.clone(), value.clone());
            }
        }
    }
}

//! A conversation with the writer's process, step by step: a rule sees what the writer itself answers, where a requester
//! would already have ended its process.

use std::io::Read;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::bench::Limits;
use super::outcome::{Stop, answered};
use super::steps::Steps;
use crate::protocol::Process;
use crate::protocol::message::{
    Call, Done, Frozen, Logs, Released, Sealed, StepDone, Steps as StepList, Streams,
};
use crate::{
    BackupOutcome, BackupRequest, BackupType, ComponentRef, FreezeContext, HookOutcome, HookStep, LogFile,
    Mark, OnlineState, PhaseContext, PostSnapshot, Prepared, SealedKey, ShadowContext, StreamFile, Thawed,
    Truncated, WriterError, chain,
};

/// Most bytes that are read from one stream: it is a sample application's.
const MAX_STREAM: u64 = 256 << 20;

/// One process, after `Hello`. Dropping it ends it, and its whole group.
pub struct Talk {
    process: Process,
    steps: Steps,
    limits: Limits,
    set: Uuid,
}

impl Talk {
    pub fn new(process: Process, steps: Steps, limits: Limits) -> Self {
        Self { process, steps, limits, set: Uuid::new_v4() }
    }

    /// A call and its answer.
    pub async fn ask<T: DeserializeOwned + Serialize>(
        &mut self,
        call: &Call,
        limit: Duration,
    ) -> Result<T, WriterError> {
        let (name, what) = describe(call);
        let answer: Result<T, WriterError> =
            self.process.call(call, limit, &format!("answer `{name}`")).await;
        match &answer {
            Ok(reply) => {
                self.steps.did(format!("{what}: answered"));
                self.steps.heard(serde_json::to_string(reply).unwrap_or_default());
            }
            Err(error) => {
                self.steps.did(format!("{what}: {}", chain(error)));
                self.steps.heard(format!("{} {error:?}", chain(error)));
            }
        }
        answer
    }

    async fn quick<T: DeserializeOwned + Serialize>(&mut self, call: Call) -> Result<T, WriterError> {
        let limit = self.limits.call;
        self.ask(&call, limit).await
    }

    fn phase(&self) -> PhaseContext {
        PhaseContext { set: self.set, budget: self.limits.call }
    }

    pub async fn begin_backup(&mut self, mut request: BackupRequest) -> Result<(), WriterError> {
        request.set = self.set;
        self.quick::<Done>(Call::BeginBackup(request)).await.map(drop)
    }

    pub async fn prepare_backup(&mut self) -> Result<Prepared, WriterError> {
        self.quick(Call::PrepareBackup(self.phase())).await
    }

    pub async fn prepare_snapshot(&mut self) -> Result<(), WriterError> {
        self.quick::<Done>(Call::PrepareSnapshot(self.phase())).await.map(drop)
    }

    pub async fn freeze(&mut self, budget: Duration) -> Result<Mark, WriterError> {
        let call = Call::Freeze(FreezeContext { set: self.set, budget });
        // As long as the requester would wait, and no longer.
        self.ask::<Frozen>(&call, budget).await.map(|reply| reply.mark)
    }

    pub async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        let limit = self.limits.thaw;
        self.ask::<Released>(&Call::Thaw {}, limit).await.map(|reply| reply.thawed)
    }

    pub async fn abort(&mut self) -> Result<(), WriterError> {
        let limit = self.limits.thaw;
        self.ask::<Done>(&Call::Abort {}, limit).await.map(drop)
    }

    pub async fn post_snapshot(
        &mut self,
        roots: Vec<(std::path::PathBuf, std::path::PathBuf)>,
    ) -> Result<PostSnapshot, WriterError> {
        self.quick(Call::PostSnapshot(ShadowContext { set: self.set, roots })).await
    }

    pub async fn backup_complete(
        &mut self,
        backup_type: BackupType,
        succeeded: Vec<ComponentRef>,
        stored_logs: Vec<String>,
    ) -> Result<Truncated, WriterError> {
        let outcome = BackupOutcome { set: self.set, backup_type, succeeded, stored_logs };
        self.quick(Call::BackupComplete(outcome)).await
    }

    pub async fn seal_keys(&mut self, recipients: &[String]) -> Result<Vec<SealedKey>, WriterError> {
        let call = Call::SealKeys { recipients: recipients.to_vec() };
        self.quick::<Sealed>(call).await.map(|reply| reply.keys)
    }

    pub async fn list_streams(&mut self) -> Result<Vec<StreamFile>, WriterError> {
        self.quick::<Streams>(Call::ListStreams {}).await.map(|reply| reply.streams)
    }

    pub async fn list_logs(&mut self) -> Result<Vec<LogFile>, WriterError> {
        self.quick::<Logs>(Call::ListLogs {}).await.map(|reply| reply.logs)
    }

    pub async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        self.quick(Call::OnlineState {}).await
    }

    pub async fn post_restore_steps(&mut self) -> Result<Vec<HookStep>, WriterError> {
        self.quick::<StepList>(Call::PostRestoreSteps {}).await.map(|reply| reply.steps)
    }

    pub async fn run_step(&mut self, step: &HookStep) -> Result<HookOutcome, WriterError> {
        let call = Call::RunStep { name: step.name.clone() };
        self.ask::<StepDone>(&call, step.timeout).await.map(|reply| reply.outcome)
    }

    /// A call whose answer says nothing but that it is done.
    pub async fn done(&mut self, call: Call) -> Result<(), WriterError> {
        self.quick::<Done>(call).await.map(drop)
    }

    /// Opens a stream and reads at most `most` bytes of it, which ends at the end of the stream or when the writer makes
    /// no progress any more.
    ///
    /// # Errors
    /// The writer's; or it stopped in the middle.
    pub async fn read_stream(&mut self, name: &str, most: Option<u64>) -> Result<Vec<u8>, WriterError> {
        let what = format!("OpenStream `{name}`");
        let call = Call::OpenStream { name: name.to_owned() };
        let stream = match self.process.open(&call, self.limits.call).await {
            Ok(stream) => stream,
            Err(error) => {
                self.steps.did(format!("{what}: {}", chain(&error)));
                return Err(error);
            }
        };
        let limit = self.limits.call;
        // A thread that waits for a writer that sends nothing is left behind; the writer's end ends it.
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            std::fs::File::from(stream)
                .take(most.unwrap_or(MAX_STREAM))
                .read_to_end(&mut bytes)
                .map(|_| bytes)
        });
        let failed = |why: String| WriterError::not_responding(self.process.writer(), why);
        let bytes = match tokio::time::timeout(limit, read).await {
            Ok(Ok(Ok(bytes))) => Ok(bytes),
            Ok(Ok(Err(error))) => Err(failed(format!("the stream `{name}` cannot be read: {error}"))),
            Ok(Err(error)) => Err(failed(format!("the stream `{name}` cannot be read: {error}"))),
            Err(_) => Err(failed(format!("the stream `{name}` did not end within {} ms", limit.as_millis()))),
        };
        match &bytes {
            Ok(bytes) => self.steps.did(format!("{what}: read {} bytes", bytes.len())),
            Err(error) => self.steps.did(format!("{what}: {}", chain(error))),
        }
        bytes
    }

    pub async fn close_stream(&mut self, name: &str, bytes: u64) -> Result<(), WriterError> {
        self.done(Call::CloseStream { name: name.to_owned(), bytes }).await
    }

    /// Kills the writer's first process, and nobody else: as the kernel does when memory runs out. The socket stays open.
    pub fn kill(&mut self) -> Result<(), Stop> {
        let pid = i32::try_from(self.process.pid()).ok().and_then(Pid::from_raw);
        let killed = pid.ok_or(rustix::io::Errno::SRCH).and_then(|pid| kill_process(pid, Signal::KILL));
        self.steps.did("sent SIGKILL to the writer's process");
        killed.map_err(|error| Stop::Fixture(format!("the writer's process cannot be killed: {error}")))
    }

    /// Closes the socket, as the end of a requester does. The process is left alone.
    pub fn hang_up(&mut self) {
        self.process.hang_up();
        self.steps.did("closed the socket");
    }

    /// Whether the writer's first process has ended.
    pub fn has_ended(&self) -> bool {
        self.process.has_ended()
    }

    /// Ends the process as a requester does that gave a call up, and waits until nobody is left of it.
    pub async fn end(&mut self) -> Result<(), Stop> {
        let ended = self.process.end().await;
        self.steps.did("ended the writer's process");
        ended.map_err(|error| Stop::broken(format!("its process could not be ended: {}", chain(&error))))
    }

    /// Drops it, as a requester that panics or is cancelled would; how long that took.
    pub fn drop_it(self) -> Duration {
        let (steps, before) = (self.steps.clone(), Instant::now());
        drop(self);
        let took = before.elapsed();
        steps.did(format!("dropped the participant, which took {} ms", took.as_millis()));
        took
    }
}

/// The name of a call's method, and the call in words.
fn describe(call: &Call) -> (String, String) {
    let value = serde_json::to_value(call).unwrap_or_default();
    let (name, parameters) = (value["method"].as_str().unwrap_or_default().to_owned(), &value["parameters"]);
    let text = |key: &str| parameters[key].as_str().unwrap_or_default();
    let count = |key: &str| parameters[key].as_array().map_or(0, Vec::len);
    let what = match name.as_str() {
        "Freeze" => format!("Freeze with a budget of {} ms", parameters["budget_ms"]),
        "BeginBackup" => format!("BeginBackup ({}, {} components)", text("backup_type"), count("components")),
        "BackupComplete" => {
            format!("BackupComplete with {} components and {} logs", count("succeeded"), count("stored_logs"))
        }
        "SealKeys" => format!("SealKeys to {} recipients", count("recipients")),
        "RunStep" => format!("RunStep `{}`", text("name")),
        "CloseStream" => format!("CloseStream `{}` after {} bytes", text("name"), parameters["bytes"]),
        other => other.to_owned(),
    };
    (name, what)
}

/// The answer that another rule is about.
pub trait OrElsewhere<T> {
    /// An error is the matter of `rule`.
    fn or_see(self, rule: &'static str, method: &str) -> Result<T, Stop>;
    /// An error breaks the rule at hand.
    fn or_broken(self, method: &str) -> Result<T, Stop>;
}

impl<T> OrElsewhere<T> for Result<T, WriterError> {
    fn or_see(self, rule: &'static str, method: &str) -> Result<T, Stop> {
        self.map_err(|error| Stop::elsewhere(rule, answered(method, &error)))
    }

    fn or_broken(self, method: &str) -> Result<T, Stop> {
        self.map_err(|error| Stop::Broken(answered(method, &error)))
    }
}

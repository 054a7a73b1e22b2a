//! The requester's side of the protocol: a writer in a child process, behind the ordinary traits.

use std::time::Duration;

use async_trait::async_trait;

use super::launcher::Launcher;
use super::message::{
    Call, DESCRIPTORS, Done, Frozen, Hello, HelloReply, Identified, Logs, Released, Sealed, StepDone, Steps,
    Streams,
};
use super::process::Process;
use super::said::Said;
use super::text::shown;
use super::version::Version;
use crate::{
    BackupOutcome, BackupParticipant, BackupRequest, CheckReport, FreezeContext, HookOutcome, HookStep,
    LogFile, Mark, OnlineState, PhaseContext, PostSnapshot, Prepared, RecoverContext, Recovered,
    Registration, RestoreParticipant, RestoreRequest, SealedKey, ShadowContext, StagedFiles, Stream,
    StreamFile, Thawed, Truncated, Writer, WriterError, WriterMetadata,
};

/// How long a writer may take for the calls that hold nothing and do nothing long …
const QUICK: Duration = Duration::from_secs(30);
/// … and for those that are as long as their work is.
const LONG: Duration = Duration::from_secs(24 * 3600);
/// A thaw that is not confirmed by then is forced by ending the process.
const THAW: Duration = Duration::from_millis(1000);

/// A writer that runs in processes of its own: one for each `identify`, one for each participant.
#[derive(Debug, Clone)]
pub struct RemoteWriter {
    launcher: Launcher,
    hello: Hello,
    patience: Patience,
}

/// How long calls may take while nothing is held.
#[derive(Debug, Clone, Copy)]
struct Patience {
    quick: Duration,
    long: Duration,
}

impl RemoteWriter {
    /// The writer `id` of type `writer_type`, started by `launcher`.
    pub fn new(
        launcher: Launcher,
        id: impl Into<String>,
        writer_type: impl Into<String>,
        settings: serde_json::Value,
    ) -> Self {
        let hello = Hello {
            protocol: Version::OURS.to_string(),
            requester: concat!("holdfast ", env!("CARGO_PKG_VERSION")).into(),
            features: vec![DESCRIPTORS.into()],
            id: id.into(),
            writer_type: writer_type.into(),
            settings,
        };
        Self { launcher, hello, patience: Patience { quick: QUICK, long: LONG } }
    }

    /// Names the requester to the writer, for people: `holdfast 0.1.0` if this is not called.
    #[must_use]
    pub fn requester(mut self, name_and_version: impl Into<String>) -> Self {
        self.hello.requester = name_and_version.into();
        self
    }

    /// Sets how long one call may take while nothing is held. Without it a call that may do long work has a day, each
    /// other 30 s; those have less when this is less.
    #[must_use]
    pub fn patience(mut self, limit: Option<Duration>) -> Self {
        if let Some(limit) = limit {
            self.patience = Patience { quick: QUICK.min(limit), long: limit };
        }
        self
    }

    /// The id and the type that it is asked as.
    #[cfg(feature = "testkit")]
    pub(crate) fn asked(&self) -> (&str, &str) {
        (&self.hello.id, &self.hello.writer_type)
    }

    /// What its processes said on standard error.
    pub fn said(&self) -> &Said {
        &self.launcher.said
    }

    pub(crate) async fn connect(&self) -> Result<(Process, Features), WriterError> {
        let id = &self.hello.id;
        let quick = self.patience.quick;
        let mut process = Process::start(&self.launcher, id)?;
        let reply: HelloReply = process.call(&Call::Hello(self.hello.clone()), quick, "say hello").await?;
        let theirs: Version = reply.protocol.parse().map_err(|error: super::version::NoVersion| {
            WriterError::not_responding(id, shown(&error.to_string()))
        })?;
        if Version::OURS.agreed(theirs).is_none() {
            let why = format!("it speaks protocol {theirs}, we speak {}", Version::OURS);
            return Err(WriterError::rejected(id, why));
        }
        if let Some(guardian) = reply.guardian {
            process.guarded_by(guardian)?;
        }
        Ok((process, Features { descriptors: reply.features.iter().any(|name| name == DESCRIPTORS) }))
    }
}

/// What the writer said it can beyond the first form of the protocol.
pub(crate) struct Features {
    descriptors: bool,
}

#[async_trait]
impl Writer for RemoteWriter {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        let (mut process, _) = self.connect().await?;
        let Identified { metadata } =
            process.call(&Call::Identify {}, self.patience.quick, "identify itself").await?;
        if metadata.id != self.hello.id || metadata.writer_type != self.hello.writer_type {
            let why = format!(
                "it was asked as `{}` of type `{}`, and answered as `{}` of type `{}`",
                self.hello.id,
                self.hello.writer_type,
                shown(&metadata.id),
                shown(&metadata.writer_type)
            );
            return Err(WriterError::rejected(&self.hello.id, why));
        }
        metadata.check()?;
        Ok(metadata)
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        let (mut process, features) = self.connect().await?;
        process.call::<Done>(&Call::BeginBackup(request), self.patience.quick, "begin a backup").await?;
        Ok(Box::new(RemoteParticipant { process, features, patience: self.patience }))
    }

    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        let (mut process, features) = self.connect().await?;
        process
            .call::<Done>(&Call::BeginRestore(Box::new(request)), self.patience.quick, "begin a restore")
            .await?;
        Ok(Box::new(RemoteParticipant { process, features, patience: self.patience }))
    }
}

/// What a writer need not have, and has not, is done.
fn or_nothing<T: Default>(result: Result<T, WriterError>) -> Result<T, WriterError> {
    match result {
        Err(WriterError::Unsupported { .. }) => Ok(T::default()),
        other => other,
    }
}

struct RemoteParticipant {
    process: Process,
    features: Features,
    patience: Patience,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl BackupParticipant for RemoteParticipant {
    async fn prepare_backup(&mut self, ctx: &PhaseContext) -> Result<Prepared, WriterError> {
        self.process.call(&Call::PrepareBackup(ctx.clone()), ctx.budget, "prepare").await
    }

    async fn prepare_snapshot(&mut self, ctx: &PhaseContext) -> Result<(), WriterError> {
        let call = Call::PrepareSnapshot(ctx.clone());
        self.process.call::<Done>(&call, ctx.budget, "prepare for the snapshot").await.map(drop)
    }

    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        let call = Call::Freeze(ctx.clone());
        self.process.call::<Frozen>(&call, ctx.budget, "freeze").await.map(|reply| reply.mark)
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        if self.process.is_broken() {
            return self.process.end().await.map(|()| Thawed::Released);
        }
        match self.process.call(&Call::Thaw {}, THAW, "thaw").await {
            Ok(Released { thawed }) => Ok(thawed),
            // Whatever went wrong, its end releases; that it was necessary is the backup's failure.
            Err(error) => {
                self.process.end().await?;
                if let WriterError::StuckFrozen { writer, cause } = error {
                    // It has ended since, and its guardian has thawed, if it had one: now nothing is held.
                    return Err(WriterError::NotResponding { writer, cause });
                }
                Err(error)
            }
        }
    }

    async fn post_snapshot(&mut self, ctx: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        self.process
            .call(&Call::PostSnapshot(ctx.clone()), self.patience.long, "finish the shadow copy")
            .await
    }

    async fn backup_complete(&mut self, outcome: &BackupOutcome) -> Result<Truncated, WriterError> {
        self.process.call(&Call::BackupComplete(outcome.clone()), self.patience.long, "complete").await
    }

    async fn abort(&mut self) -> Result<(), WriterError> {
        if self.process.is_broken() {
            return self.process.end().await;
        }
        let aborted = self.process.call::<Done>(&Call::Abort {}, THAW, "abort").await;
        self.process.end().await?;
        aborted.map(drop)
    }

    fn holder(&self) -> Option<u32> {
        Some(self.process.pid())
    }

    fn guardian(&self) -> Option<u32> {
        self.process.guardian()
    }

    async fn seal_keys(&mut self, recipients: &[String]) -> Result<Vec<SealedKey>, WriterError> {
        let call = Call::SealKeys { recipients: recipients.to_vec() };
        self.process.call::<Sealed>(&call, self.patience.long, "seal its keys").await.map(|reply| reply.keys)
    }

    async fn list_streams(&mut self) -> Result<Vec<StreamFile>, WriterError> {
        let call = Call::ListStreams {};
        self.process
            .call::<Streams>(&call, self.patience.quick, "list its streams")
            .await
            .map(|reply| reply.streams)
    }

    async fn open_stream(&mut self, name: &str) -> Result<Stream, WriterError> {
        if !self.features.descriptors {
            let what = format!("the stream `{name}`: it passes no file descriptors");
            return Err(WriterError::unsupported(self.process.writer(), what));
        }
        self.process
            .open(&Call::OpenStream { name: name.to_owned() }, self.patience.quick)
            .await
            .map(|fd| Stream { fd })
    }

    async fn close_stream(&mut self, name: &str, bytes: u64) -> Result<(), WriterError> {
        let call = Call::CloseStream { name: name.to_owned(), bytes };
        self.process.call::<Done>(&call, self.patience.quick, "close a stream").await.map(drop)
    }

    async fn list_logs(&mut self) -> Result<Vec<LogFile>, WriterError> {
        self.process
            .call::<Logs>(&Call::ListLogs {}, self.patience.quick, "list its logs")
            .await
            .map(|reply| reply.logs)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RestoreParticipant for RemoteParticipant {
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        self.process.call(&Call::OnlineState {}, self.patience.quick, "tell its state").await
    }

    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.process.call(&Call::Check(staged.clone()), self.patience.long, "check").await
    }

    async fn register(&mut self, registration: &Registration) -> Result<(), WriterError> {
        let call = Call::Register(registration.clone());
        or_nothing(self.process.call::<Done>(&call, self.patience.quick, "register").await).map(drop)
    }

    async fn register_complete(&mut self) -> Result<(), WriterError> {
        let call = Call::RegisterComplete {};
        or_nothing(self.process.call::<Done>(&call, self.patience.quick, "complete its registration").await)
            .map(drop)
    }

    async fn recover(
        &mut self,
        staged: &StagedFiles,
        ctx: &RecoverContext,
    ) -> Result<Recovered, WriterError> {
        let call = Call::Recover { staged: staged.clone(), context: ctx.clone() };
        self.process.call(&call, self.patience.long, "recover").await
    }

    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.process.call(&Call::Verify(staged.clone()), self.patience.long, "verify").await
    }

    async fn post_restore_steps(&mut self) -> Result<Vec<HookStep>, WriterError> {
        let call = Call::PostRestoreSteps {};
        self.process
            .call::<Steps>(&call, self.patience.quick, "list its steps")
            .await
            .map(|reply| reply.steps)
    }

    async fn run_step(&mut self, name: &str) -> Result<HookOutcome, WriterError> {
        let call = Call::RunStep { name: name.to_owned() };
        self.process
            .call::<StepDone>(&call, self.patience.long, "run a step")
            .await
            .map(|reply| reply.outcome)
    }

    async fn unregister(&mut self) -> Result<(), WriterError> {
        or_nothing(self.process.call::<Done>(&Call::Unregister {}, self.patience.quick, "unregister").await)
            .map(drop)
    }
}

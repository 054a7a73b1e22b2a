//! The requester's side of the protocol: a writer in a child process, behind the ordinary traits.
//!
//! Owns: that a dropped or silent writer is *ended*. The child has a process group of its own; SIGKILL
//! to it and the `wait` that follows are what make "released" a fact and not a hope (promise P1).

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::codec::{self, Decoder, FrameError};
use super::message::{Answer, Call, Done, Hello, HelloReply, List, PROTOCOL_VERSION, Value, WRITER_ERROR};
use crate::{
    BackupOutcome, BackupParticipant, BackupRequest, Cause, CheckReport, FreezeContext, HookOutcome,
    HookStep, LogFile, Mark, OnlineState, PhaseContext, PostSnapshot, Prepared, RecoverContext, Recovered,
    Registration, RestoreParticipant, RestoreRequest, SealedKey, ShadowContext, StagedFiles, Stream,
    StreamFile, Thawed, Truncated, Writer, WriterError, WriterMetadata,
};

/// How long a writer may take for the calls that hold nothing. `prepare_backup` and the calls of a
/// restore are as long as their work is.
const QUICK: Duration = Duration::from_secs(30);
const LONG: Duration = Duration::from_secs(24 * 3600);
/// A thaw that is not confirmed by then is forced by ending the process.
const THAW: Duration = Duration::from_millis(1000);
/// How long a killed process may take to be gone. One that is not, waits in the kernel.
const REAP: Duration = Duration::from_secs(5);
/// The same where nobody can wait for long: a dropped session has others to release.
const REAP_IN_DROP: Duration = Duration::from_millis(500);

/// How to start a writer's process.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program; it finds the socket as its standard input.
    pub program: PathBuf,
    /// Its arguments. Never secrets: anyone can read them.
    pub arguments: Vec<String>,
    /// Run it as this user and group, if we are root.
    pub run_as: Option<(u32, u32)>,
}

impl Launcher {
    fn start(&self, writer: &str) -> Result<(Child, StdStream), WriterError> {
        let failed = |error: std::io::Error| WriterError::NotResponding {
            writer: writer.to_owned(),
            cause: Cause::new(format!("cannot start {}: {error}", self.program.display())),
        };
        let (ours, theirs) = StdStream::pair().map_err(failed)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            // Nothing of our surroundings, secrets least of all, but what a program needs to run.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| KEPT.iter().any(|kept| name == kept)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .process_group(0);
        if let Some((uid, gid)) = self.run_as {
            command.uid(uid).gid(gid);
        }
        let parent = std::process::id();
        // SAFETY: only async-signal-safe calls; nothing is allocated.
        unsafe {
            command.pre_exec(move || {
                // The socket's end tells the child too; this also catches one that does not look.
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                if libc::getppid() as u32 != parent {
                    libc::_exit(libc::EXIT_FAILURE);
                }
                Ok(())
            });
        }
        command.spawn().map(|child| (child, ours)).map_err(failed)
    }
}

/// What a child keeps of our environment.
const KEPT: [&str; 7] = ["PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "TZ", "RUST_BACKTRACE"];

/// A writer that runs in processes of its own: one for each `identify`, one for each participant.
#[derive(Debug, Clone)]
pub struct RemoteWriter {
    launcher: Launcher,
    hello: Hello,
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
            protocol: PROTOCOL_VERSION.into(),
            id: id.into(),
            writer_type: writer_type.into(),
            settings,
        };
        Self { launcher, hello }
    }

    async fn connect(&self) -> Result<Process, WriterError> {
        let mut process = Process::start(&self.launcher, &self.hello.id)?;
        let reply: HelloReply = process.call(&Call::Hello(self.hello.clone()), QUICK, "answer").await?;
        let major = |version: &str| version.split('.').next().map(str::to_owned);
        if major(&reply.protocol) != major(PROTOCOL_VERSION) {
            let why = format!("it speaks protocol {}, we speak {PROTOCOL_VERSION}", reply.protocol);
            return Err(WriterError::rejected(&self.hello.id, why));
        }
        Ok(process)
    }
}

#[async_trait]
impl Writer for RemoteWriter {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        let mut process = self.connect().await?;
        let metadata: WriterMetadata = process.call(&Call::Identify {}, QUICK, "identify itself").await?;
        if metadata.id != self.hello.id || metadata.writer_type != self.hello.writer_type {
            return Err(WriterError::rejected(&self.hello.id, "it answered as another writer"));
        }
        metadata.check()?;
        Ok(metadata)
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        let mut process = self.connect().await?;
        process.call::<Done>(&Call::BeginBackup(request), QUICK, "begin").await?;
        Ok(Box::new(RemoteParticipant { process }))
    }

    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        let mut process = self.connect().await?;
        process.call::<Done>(&Call::BeginRestore(Box::new(request)), QUICK, "begin").await?;
        Ok(Box::new(RemoteParticipant { process }))
    }
}

/// A child and its socket. Dropping it kills the child and waits for its end.
struct Process {
    writer: String,
    child: Child,
    socket: UnixStream,
    decoder: Decoder,
    /// A call was begun and not answered: the conversation is out of step for good.
    broken: bool,
    reaped: bool,
}

impl Process {
    fn start(launcher: &Launcher, writer: &str) -> Result<Self, WriterError> {
        let (child, socket) = launcher.start(writer)?;
        let socket = socket.set_nonblocking(true).and_then(|()| UnixStream::from_std(socket));
        let mut child = child;
        let socket = socket.map_err(|error| {
            let _ = child.kill();
            let _ = child.wait();
            WriterError::not_responding(writer, error.to_string())
        })?;
        let writer = writer.to_owned();
        Ok(Self { writer, child, socket, decoder: Decoder::default(), broken: false, reaped: false })
    }

    /// One call and its answer within `limit`. After any failure but the writer's own error, the
    /// conversation is broken, and only the child's end is left.
    async fn call<T: DeserializeOwned>(
        &mut self,
        call: &Call,
        limit: Duration,
        action: &str,
    ) -> Result<T, WriterError> {
        if self.broken {
            return Err(WriterError::not_responding(&self.writer, "an earlier call was not answered"));
        }
        // Stays set when this future is dropped half-way.
        self.broken = true;
        let exchanged = tokio::time::timeout(limit, self.exchange(call)).await;
        let answer = match exchanged {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(self.broke_off(&error)),
            Err(_) => return Err(WriterError::timed_out(&self.writer, action, limit)),
        };
        self.broken = false;
        let nonsense = |error: serde_json::Error| {
            WriterError::not_responding(&self.writer, format!("its answer is not understood: {error}"))
        };
        match answer.error.as_deref() {
            None => serde_json::from_value(answer.parameters).map_err(nonsense),
            Some(WRITER_ERROR) => Err(serde_json::from_value(answer.parameters).unwrap_or_else(nonsense)),
            Some(name) => Err(WriterError::not_responding(
                &self.writer,
                format!("it answered {name} {}", answer.parameters),
            )),
        }
    }

    async fn exchange(&mut self, call: &Call) -> Result<Answer, FrameError> {
        self.socket.write_all(&codec::encode(call)?).await.map_err(FrameError::Io)?;
        let mut chunk = vec![0; 16 << 10];
        loop {
            if let Some(answer) = self.decoder.next()? {
                return Ok(answer);
            }
            match self.socket.read(&mut chunk).await.map_err(FrameError::Io)? {
                0 => return Err(self.decoder.end()),
                n => self.decoder.push(&chunk[..n])?,
            }
        }
    }

    fn broke_off(&mut self, error: &FrameError) -> WriterError {
        // Its exit status says more than a closed socket does.
        std::thread::sleep(Duration::from_millis(1));
        let ended = match self.child.try_wait() {
            Ok(Some(status)) => {
                self.reaped = true;
                format!("; its process ended: {status}")
            }
            Ok(None) | Err(_) => String::new(),
        };
        let mut cause = error.to_string();
        if let Some(inner) = std::error::Error::source(error) {
            cause = format!("{cause}: {inner}");
        }
        WriterError::not_responding(&self.writer, format!("{cause}{ended}"))
    }

    /// Kills the process group and waits until the child is gone: then, and only then, everything it
    /// held is released. Others are thawed meanwhile.
    async fn end_async(&mut self) -> Result<(), WriterError> {
        self.kill();
        let until = Instant::now() + REAP;
        let mut pause = Duration::from_micros(50);
        while !self.is_gone()? {
            if Instant::now() >= until {
                return Err(self.still_there(REAP));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        Ok(())
    }

    /// As [`Self::end_async`], where nothing can be awaited.
    fn end(&mut self) -> Result<(), WriterError> {
        self.kill();
        let until = Instant::now() + REAP_IN_DROP;
        let mut pause = Duration::from_micros(50);
        while !self.is_gone()? {
            if Instant::now() >= until {
                return Err(self.still_there(REAP_IN_DROP));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
        Ok(())
    }

    fn kill(&self) {
        if !self.reaped {
            let pid = rustix::process::Pid::from_child(&self.child);
            // ESRCH: gone already; whoever waits for it is told.
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }

    fn is_gone(&mut self) -> Result<bool, WriterError> {
        if !self.reaped {
            let waited = self.child.try_wait().map_err(|error| WriterError::StuckFrozen {
                writer: self.writer.clone(),
                cause: Cause::from_error(&error),
            })?;
            self.reaped = waited.is_some();
        }
        Ok(self.reaped)
    }

    fn still_there(&self, after: Duration) -> WriterError {
        let cause = Cause::new(format!(
            "process {} was killed and is still there after {} ms",
            self.child.id(),
            after.as_millis()
        ));
        WriterError::StuckFrozen { writer: self.writer.clone(), cause }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell; the session asked `thaw` before, where a failure counts.
        let _ = self.end();
    }
}

struct RemoteParticipant {
    process: Process,
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
        self.process.call(&Call::Freeze(ctx.clone()), ctx.budget, "freeze").await
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        if self.process.broken {
            return self.process.end_async().await.map(|()| Thawed::Released);
        }
        match self.process.call(&Call::Thaw {}, THAW, "thaw").await {
            Ok(Value { value }) => Ok(value),
            // Whatever went wrong, its end releases; that it was necessary is the backup's failure.
            Err(error) => {
                self.process.broken = true;
                self.process.end_async().await?;
                // One that said it may still hold has ended since: it does not.
                if let WriterError::StuckFrozen { writer, cause } = error {
                    return Err(WriterError::NotResponding { writer, cause });
                }
                Err(error)
            }
        }
    }

    async fn post_snapshot(&mut self, ctx: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        self.process.call(&Call::PostSnapshot(ctx.clone()), LONG, "finish the shadow copy").await
    }

    async fn backup_complete(&mut self, outcome: &BackupOutcome) -> Result<Truncated, WriterError> {
        self.process.call(&Call::BackupComplete(outcome.clone()), LONG, "complete").await
    }

    async fn abort(&mut self) -> Result<(), WriterError> {
        if self.process.broken {
            return self.process.end_async().await;
        }
        let aborted = self.process.call::<Done>(&Call::Abort {}, THAW, "abort").await;
        self.process.broken = true;
        self.process.end_async().await?;
        aborted.map(drop)
    }

    fn holder(&self) -> Option<u32> {
        Some(self.process.child.id())
    }

    async fn seal_keys(&mut self, recipients: &[String]) -> Result<Vec<SealedKey>, WriterError> {
        let call = Call::SealKeys { recipients: recipients.to_vec() };
        self.process.call::<List<_>>(&call, LONG, "seal its keys").await.map(|list| list.items)
    }

    async fn list_streams(&mut self) -> Result<Vec<StreamFile>, WriterError> {
        self.process.call::<List<_>>(&Call::ListStreams {}, QUICK, "list streams").await.map(|l| l.items)
    }

    async fn open_stream(&mut self, name: &str) -> Result<Stream, WriterError> {
        // Descriptors are not passed beside the socket in protocol 1.0.
        Err(WriterError::unsupported(&self.process.writer, format!("the stream `{name}` over the protocol")))
    }

    async fn close_stream(&mut self, name: &str, bytes: u64) -> Result<(), WriterError> {
        let call = Call::CloseStream { name: name.to_owned(), bytes };
        self.process.call::<Done>(&call, QUICK, "close a stream").await.map(drop)
    }

    async fn list_logs(&mut self) -> Result<Vec<LogFile>, WriterError> {
        self.process.call::<List<_>>(&Call::ListLogs {}, QUICK, "list logs").await.map(|list| list.items)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl RestoreParticipant for RemoteParticipant {
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        let call = Call::OnlineState {};
        self.process.call::<Value<_>>(&call, QUICK, "tell its state").await.map(|reply| reply.value)
    }

    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.process.call(&Call::Check(staged.clone()), LONG, "check").await
    }

    async fn register(&mut self, registration: &Registration) -> Result<(), WriterError> {
        let call = Call::Register(registration.clone());
        self.process.call::<Done>(&call, QUICK, "register").await.map(drop)
    }

    async fn register_complete(&mut self) -> Result<(), WriterError> {
        let call = Call::RegisterComplete {};
        self.process.call::<Done>(&call, QUICK, "complete its registration").await.map(drop)
    }

    async fn recover(
        &mut self,
        staged: &StagedFiles,
        ctx: &RecoverContext,
    ) -> Result<Recovered, WriterError> {
        let call = Call::Recover { staged: staged.clone(), context: ctx.clone() };
        self.process.call(&call, LONG, "recover").await
    }

    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.process.call(&Call::Verify(staged.clone()), LONG, "verify").await
    }

    async fn post_restore_steps(&mut self) -> Result<Vec<HookStep>, WriterError> {
        let call = Call::PostRestoreSteps {};
        self.process.call::<List<_>>(&call, QUICK, "list its steps").await.map(|list| list.items)
    }

    async fn run_step(&mut self, name: &str) -> Result<HookOutcome, WriterError> {
        let call = Call::RunStep { name: name.to_owned() };
        self.process.call::<Value<_>>(&call, LONG, "run a step").await.map(|reply| reply.value)
    }

    async fn unregister(&mut self) -> Result<(), WriterError> {
        self.process.call::<Done>(&Call::Unregister {}, QUICK, "unregister").await.map(drop)
    }
}

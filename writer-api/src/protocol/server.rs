//! The writer's side of the protocol: serves one requester on one socket, then ends.
//!
//! Owns: that a hold ends (promise P1). Three things end it besides `Thaw`, whatever the writer's code is
//! doing at the time: the deadline of its own timer thread, the socket's end, and SIGKILL.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::mpsc as channel;

use super::codec::{self, Decoder, FrameError};
use super::message::{Answer, Call, Done, Hello, HelloReply, List, PROTOCOL_VERSION, Value};
use crate::{BackupParticipant, Registry, RestoreParticipant, Writer, WriterConfig, WriterError};

/// What a process that ended itself to release a hold exits with: at its deadline …
const EXIT_DEADLINE: i32 = 70;
/// … and when its requester was gone.
const EXIT_ORPHANED: i32 = 71;

/// How long the writer's code gets to release by itself once the requester is gone. Then the process
/// ends, and the kernel releases.
const GRACE: Duration = Duration::from_millis(50);

/// Why serving ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// No writer of that type is linked.
    #[error("no writer of type `{name}` is linked into this program")]
    UnknownType {
        /// The type.
        name: String,
    },
    /// The descriptor is no socket, or cannot be used as one.
    #[error("standard input is not a socket of a requester")]
    NoSocket(#[source] std::io::Error),
    /// The requester spoke nonsense.
    #[error("the conversation with the requester broke off")]
    Frame(#[source] FrameError),
}

/// Serves the writer of type `name` to the requester on `socket`, until it closes.
///
/// Blocks. Runs the writer on a runtime of its own, so call it from a plain thread.
///
/// # Errors
/// [`ServeError`]; whatever was held is released by then.
pub fn serve(registry: &Registry, name: &str, socket: OwnedFd) -> Result<(), ServeError> {
    let descriptor = registry.get(name).ok_or_else(|| ServeError::UnknownType { name: name.to_owned() })?;
    let reader = UnixStream::from(socket);
    let mut answers = reader.try_clone().map_err(ServeError::NoSocket)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::NoSocket)?;
    let mut calls = read_calls(reader);
    let watchdog = Watchdog::start();
    let mut session = Session { build: descriptor.build, state: Serving::Nothing, watchdog };
    runtime.block_on(async {
        // The call in progress is dropped when the requester goes, and with it the half-taken hold.
        while let Some(call) = calls.recv().await {
            let answer = match call {
                Ok(call) => {
                    let handling = AssertUnwindSafe(session.handle(call)).catch_unwind();
                    tokio::select! {
                        biased;
                        answer = handling => answer.unwrap_or_else(|panic| {
                            Answer::from_result::<Done>(Err(WriterError::not_responding(
                                name,
                                format!("it panicked: {}", panic_text(&*panic)),
                            )))
                        }),
                        // Nobody sends a second call before the first is answered: this is the end.
                        _ = calls.recv() => return Ok(()),
                    }
                }
                Err(error @ (FrameError::Malformed(_) | FrameError::TooLong)) => {
                    Answer::protocol(crate::chain(&error))
                }
                Err(FrameError::Closed) => return Ok(()),
                Err(error) => return Err(ServeError::Frame(error)),
            };
            codec::write(&mut answers, &answer).map_err(ServeError::Frame)?;
        }
        Ok(())
    })
}

/// Reads in a thread of its own, so that the socket's end is seen whatever the writer's code does.
fn read_calls(mut socket: UnixStream) -> channel::UnboundedReceiver<Result<Call, FrameError>> {
    let (send, receive) = channel::unbounded_channel();
    std::thread::spawn(move || {
        let mut decoder = Decoder::default();
        loop {
            let call = codec::read(&mut socket, &mut decoder);
            if matches!(call, Err(FrameError::Closed | FrameError::Truncated | FrameError::Io(_))) {
                break;
            }
            // What follows an endless message cannot be told from it: say so, and end.
            let too_long = matches!(call, Err(FrameError::TooLong));
            if send.send(call).is_err() || too_long {
                break;
            }
        }
        drop(send);
        std::thread::sleep(GRACE);
        // SAFETY: ends the process without running anything: that is what is wanted of it here.
        unsafe { libc::_exit(EXIT_ORPHANED) }
    });
    receive
}

/// Ends the process at the hold's deadline, from a thread that nothing else can block.
struct Watchdog {
    send: mpsc::Sender<Option<Instant>>,
}

impl Watchdog {
    fn start() -> Self {
        let (send, receive) = mpsc::channel::<Option<Instant>>();
        std::thread::spawn(move || {
            let mut armed: Option<Instant> = None;
            loop {
                let news = match armed {
                    None => receive.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                    Some(at) => receive.recv_timeout(at.saturating_duration_since(Instant::now())),
                };
                match news {
                    Ok(next) => armed = next,
                    Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    // SAFETY: as in `read_calls`; the kernel releases what was held.
                    Err(mpsc::RecvTimeoutError::Timeout) => unsafe { libc::_exit(EXIT_DEADLINE) },
                }
            }
        });
        Self { send }
    }

    fn arm(&self, at: Option<Instant>) {
        // The thread lives as long as `self.send`.
        let _ = self.send.send(at);
    }
}

enum Serving {
    Nothing,
    Writer(Box<dyn Writer>),
    Backup(Box<dyn BackupParticipant>),
    Restore(Box<dyn RestoreParticipant>),
}

struct Session {
    build: fn(WriterConfig) -> Result<Box<dyn Writer>, crate::SettingsError>,
    state: Serving,
    watchdog: Watchdog,
}

impl Session {
    async fn handle(&mut self, call: Call) -> Answer {
        match (call, &mut self.state) {
            (Call::Hello(hello), Serving::Nothing) => self.hello(hello),
            (Call::Identify {}, Serving::Writer(writer)) => Answer::from_result(writer.identify().await),
            (Call::BeginBackup(request), Serving::Writer(writer)) => {
                let begun = writer.begin_backup(request).await;
                Answer::from_result(begun.map(|participant| {
                    self.state = Serving::Backup(participant);
                    Done {}
                }))
            }
            (Call::BeginRestore(request), Serving::Writer(writer)) => {
                let begun = writer.begin_restore(*request).await;
                Answer::from_result(begun.map(|participant| {
                    self.state = Serving::Restore(participant);
                    Done {}
                }))
            }
            (call, Serving::Backup(participant)) => {
                handle_backup(call, &mut **participant, &self.watchdog).await
            }
            (call, Serving::Restore(participant)) => handle_restore(call, &mut **participant).await,
            (_, Serving::Nothing | Serving::Writer(_)) => out_of_order(),
        }
    }

    fn hello(&mut self, hello: Hello) -> Answer {
        let major = |version: &str| version.split('.').next().map(str::to_owned);
        if major(&hello.protocol) != major(PROTOCOL_VERSION) {
            return Answer::protocol(format!(
                "the requester speaks protocol {}, this writer {PROTOCOL_VERSION}",
                hello.protocol
            ));
        }
        let id = hello.id.clone();
        match (self.build)(WriterConfig { id: hello.id, settings: hello.settings }) {
            Ok(writer) => {
                self.state = Serving::Writer(writer);
                let reply = HelloReply { protocol: PROTOCOL_VERSION.into(), pid: std::process::id() };
                Answer::from_result(Ok(reply))
            }
            Err(error) => Answer::from_result::<Done>(Err(WriterError::rejected(id, error.to_string()))),
        }
    }
}

fn out_of_order() -> Answer {
    Answer::protocol("this method is not possible now: Hello, then Begin…, then the participant's methods")
}

async fn handle_backup(call: Call, participant: &mut dyn BackupParticipant, watchdog: &Watchdog) -> Answer {
    let done = |result: Result<(), WriterError>| Answer::from_result(result.map(|()| Done {}));
    match call {
        Call::PrepareBackup(ctx) => Answer::from_result(participant.prepare_backup(&ctx).await),
        Call::SealKeys { recipients } => {
            Answer::from_result(participant.seal_keys(&recipients).await.map(|items| List { items }))
        }
        Call::PrepareSnapshot(ctx) => done(participant.prepare_snapshot(&ctx).await),
        Call::Freeze(ctx) => {
            // Counted from the call, and armed before the hold exists.
            watchdog.arm(Some(Instant::now() + ctx.budget));
            let frozen = participant.freeze(&ctx).await;
            if frozen.is_err() {
                // It failed, so nothing may stay held even if nobody calls thaw.
                if participant.thaw().await.is_ok() {
                    watchdog.arm(None);
                }
            }
            Answer::from_result(frozen)
        }
        Call::Thaw {} => {
            let thawed = participant.thaw().await;
            if thawed.is_ok() {
                watchdog.arm(None);
            }
            Answer::from_result(thawed.map(|value| Value { value }))
        }
        Call::PostSnapshot(ctx) => Answer::from_result(participant.post_snapshot(&ctx).await),
        Call::BackupComplete(outcome) => Answer::from_result(participant.backup_complete(&outcome).await),
        Call::Abort {} => {
            let aborted = participant.abort().await;
            if aborted.is_ok() {
                watchdog.arm(None);
            }
            done(aborted)
        }
        Call::ListStreams {} => {
            Answer::from_result(participant.list_streams().await.map(|items| List { items }))
        }
        Call::CloseStream { name, bytes } => done(participant.close_stream(&name, bytes).await),
        Call::ListLogs {} => Answer::from_result(participant.list_logs().await.map(|items| List { items })),
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
        | Call::Unregister {} => out_of_order(),
    }
}

async fn handle_restore(call: Call, participant: &mut dyn RestoreParticipant) -> Answer {
    let done = |result: Result<(), WriterError>| Answer::from_result(result.map(|()| Done {}));
    match call {
        Call::OnlineState {} => {
            Answer::from_result(participant.online_state().await.map(|value| Value { value }))
        }
        Call::Check(staged) => Answer::from_result(participant.check(&staged).await),
        Call::Register(registration) => done(participant.register(&registration).await),
        Call::RegisterComplete {} => done(participant.register_complete().await),
        Call::Recover { staged, context } => {
            Answer::from_result(participant.recover(&staged, &context).await)
        }
        Call::Verify(staged) => Answer::from_result(participant.verify(&staged).await),
        Call::PostRestoreSteps {} => {
            Answer::from_result(participant.post_restore_steps().await.map(|items| List { items }))
        }
        Call::RunStep { name } => {
            Answer::from_result(participant.run_step(&name).await.map(|value| Value { value }))
        }
        Call::Unregister {} => done(participant.unregister().await),
        Call::Hello(_)
        | Call::Identify {}
        | Call::BeginBackup(_)
        | Call::BeginRestore(_)
        | Call::PrepareBackup(_)
        | Call::SealKeys { .. }
        | Call::PrepareSnapshot(_)
        | Call::Freeze(_)
        | Call::Thaw {}
        | Call::PostSnapshot(_)
        | Call::BackupComplete(_)
        | Call::Abort {}
        | Call::ListStreams {}
        | Call::CloseStream { .. }
        | Call::ListLogs {} => out_of_order(),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into())
}

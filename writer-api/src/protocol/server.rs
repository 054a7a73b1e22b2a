//! The writer's side of the protocol: serves one requester on one socket, then ends.
//!
//! Owns: that a hold ends (promise P1). Three things end it besides `Thaw`, whatever the writer's code is
//! doing at the time: the deadline of its own timer thread, the socket's end, and SIGKILL.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;

use super::codec::FrameError;
use super::descriptors;
use super::dispatch::{self, Reply};
use super::guard::{Watchdog, read_calls};
use super::message::{Call, DESCRIPTORS, Done, Hello, HelloReply, Identified};
use super::version::Version;
use super::wire::{Answer, INTERFACE, INTERFACE_TEXT, Request, SERVICE, SERVICE_TEXT, Understood};
use crate::{BackupParticipant, Registry, RestoreParticipant, Writer, WriterConfig, WriterError};

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

/// What a program says of itself to whoever asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The process that releases what its writer holds once it is gone; see [`HelloReply::guardian`].
    pub guardian: Option<u32>,
}

impl Program {
    /// A program's name and version; `env!("CARGO_PKG_NAME")` and `env!("CARGO_PKG_VERSION")` have them.
    pub fn new(name: impl Into<String>, version: impl Into<String>) -> Self {
        Self { name: name.into(), version: version.into(), guardian: None }
    }

    /// Names the process that thaws whatever becomes of this one.
    #[must_use]
    pub fn guarded_by(mut self, guardian: u32) -> Self {
        self.guardian = Some(guardian);
        self
    }
}

/// The requester's socket, taken from standard input. That becomes empty, so that whatever the writer starts does not
/// inherit the socket and keep it open.
///
/// # Errors
/// [`ServeError::NoSocket`].
pub fn socket_on_stdin() -> Result<OwnedFd, ServeError> {
    let taken = std::io::stdin().as_fd().try_clone_to_owned().and_then(|socket| {
        let nothing = std::fs::File::open("/dev/null")?;
        // SAFETY: both descriptors are open; nobody reads standard input yet.
        if unsafe { libc::dup2(nothing.as_raw_fd(), libc::STDIN_FILENO) } < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(socket)
    });
    taken.map_err(ServeError::NoSocket)
}

/// Serves the writer of type `name` to the requester on `socket`, until it closes.
///
/// Blocks. Runs the writer on a runtime of its own, so call it from a plain thread. The process ends soon after
/// the socket does, whatever else runs in it.
///
/// # Errors
/// [`ServeError`]; whatever was held is released by then.
pub fn serve(registry: &Registry, program: Program, name: &str, socket: OwnedFd) -> Result<(), ServeError> {
    let descriptor = registry.get(name).ok_or_else(|| ServeError::UnknownType { name: name.to_owned() })?;
    serve_with(program, socket, |hello| {
        let Hello { id, writer_type, settings, .. } = hello;
        if writer_type != descriptor.name {
            let why = format!("this program serves `{}`, not `{writer_type}`", descriptor.name);
            return Err(WriterError::rejected(id, why));
        }
        (descriptor.build)(WriterConfig { id: id.clone(), settings }).map_err(|error| {
            WriterError::InvalidSetting { writer: id, key: error.key, problem: error.problem }
        })
    })
}

/// As [`serve`], for a program that is the writer of whatever type it is asked for: `build` makes the writer.
///
/// # Errors
/// As [`serve`].
pub fn serve_with(
    program: Program,
    socket: OwnedFd,
    build: impl Fn(Hello) -> Result<Box<dyn Writer>, WriterError>,
) -> Result<(), ServeError> {
    let answers = UnixStream::from(socket);
    // Anything else, a terminal or a file, fails here.
    answers.peer_addr().map_err(ServeError::NoSocket)?;
    let reader = answers.try_clone().map_err(ServeError::NoSocket)?;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::NoSocket)?;
    let mut calls = read_calls(reader);
    let name = program.name.clone();
    let mut session = Session {
        build,
        program,
        state: Serving::Nothing,
        passes_descriptors: false,
        watchdog: Watchdog::start(),
    };
    runtime.block_on(async {
        // The call in progress is dropped when the requester goes, and with it the half-taken hold.
        while let Some(call) = calls.recv().await {
            let request = call.map_err(ServeError::Frame)?;
            if request.oneway || request.upgrade {
                return Err(ServeError::Frame(FrameError::OneWay));
            }
            let handling = AssertUnwindSafe(session.handle(request)).catch_unwind();
            let reply = tokio::select! {
                biased;
                reply = handling => reply.unwrap_or_else(|panic| panicked(&name, &*panic)),
                early = calls.recv() => return match early {
                    None => Ok(()),
                    Some(Ok(_)) => Err(ServeError::Frame(FrameError::OutOfTurn)),
                    Some(Err(error)) => Err(ServeError::Frame(error)),
                },
            };
            descriptors::send(&answers, &reply.answer, reply.descriptor.as_ref())
                .map_err(ServeError::Frame)?;
        }
        Ok(())
    })
}

fn panicked(name: &str, panic: &(dyn std::any::Any + Send)) -> Reply {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".into());
    Answer::failure(&WriterError::not_responding(name, format!("it panicked: {text}"))).into()
}

enum Serving {
    Nothing,
    Writer(Box<dyn Writer>),
    Backup(Box<dyn BackupParticipant>),
    Restore(Box<dyn RestoreParticipant>),
}

impl Serving {
    /// As the interface file has it.
    fn name(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Writer(_) => "writer",
            Self::Backup(_) => "backup",
            Self::Restore(_) => "restore",
        }
    }
}

struct Session<B> {
    build: B,
    program: Program,
    state: Serving,
    /// Whether the requester takes descriptors.
    passes_descriptors: bool,
    watchdog: Watchdog,
}

impl<B: Fn(Hello) -> Result<Box<dyn Writer>, WriterError>> Session<B> {
    async fn handle(&mut self, request: Request) -> Reply {
        let method = request.method.clone();
        match request.understand() {
            Ok(Understood::Writer(call)) => match self.call(call).await {
                Some(reply) => reply,
                None => Answer::out_of_order(&method, self.state.name()).into(),
            },
            Ok(Understood::Info) => self.info().into(),
            Ok(Understood::Description(interface)) => description(&interface).into(),
            Err(refusal) => refusal.into(),
        }
    }

    /// The answer; `None` if the method is not possible now.
    async fn call(&mut self, call: Call) -> Option<Reply> {
        let answer = match (call, &mut self.state) {
            (Call::Hello(hello), Serving::Nothing) => self.hello(hello),
            (Call::Identify {}, Serving::Writer(writer)) => {
                Answer::from_result(writer.identify().await.map(|metadata| Identified { metadata }))
            }
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
            (Call::OpenStream { .. }, Serving::Backup(_)) if !self.passes_descriptors => Answer::failure(
                &WriterError::unsupported("", "streams to a requester that takes no descriptors"),
            ),
            (call, Serving::Backup(participant)) => {
                return dispatch::backup(call, &mut **participant, &self.watchdog).await;
            }
            (call, Serving::Restore(participant)) => {
                return dispatch::restore(call, &mut **participant).await;
            }
            (_, Serving::Nothing | Serving::Writer(_)) => return None,
        };
        Some(answer.into())
    }

    fn hello(&mut self, hello: Hello) -> Answer {
        let theirs = match hello.protocol.parse::<Version>() {
            Ok(version) => version,
            Err(_) => return Answer::invalid_parameter("protocol"),
        };
        if Version::OURS.agreed(theirs).is_none() {
            return Answer::version_mismatch();
        }
        self.passes_descriptors = hello.features.iter().any(|feature| feature == DESCRIPTORS);
        match (self.build)(hello) {
            Ok(writer) => {
                self.state = Serving::Writer(writer);
                Answer::reply(&HelloReply {
                    protocol: Version::OURS.to_string(),
                    program: self.program.name.clone(),
                    version: self.program.version.clone(),
                    features: vec![DESCRIPTORS.to_owned()],
                    guardian: self.program.guardian,
                })
            }
            Err(error) => Answer::failure(&error),
        }
    }

    fn info(&self) -> Answer {
        Answer::reply(&serde_json::json!({
            "vendor": "",
            "product": self.program.name,
            "version": self.program.version,
            "url": "",
            "interfaces": [SERVICE, INTERFACE],
        }))
    }
}

fn description(interface: &str) -> Answer {
    let text = match interface {
        SERVICE => SERVICE_TEXT,
        INTERFACE => INTERFACE_TEXT,
        other => return Answer::interface_not_found(other),
    };
    Answer::reply(&serde_json::json!({ "description": text }))
}

//! Plays the script to the requester on the socket. Start reading at [`serve`].
//!
//! Owns: that every call is in the journal before its answer goes out, and that the writer keeps the contract wherever
//! the script does not say otherwise. One thread: whatever is not waited for here is not there.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_writer_api::protocol::wire::{
    Answer, INTERFACE, INTERFACE_TEXT, Request, SERVICE, SERVICE_TEXT, Understood,
};
use holdfast_writer_api::protocol::{Call, FrameError, Hello};
use holdfast_writer_api::{ComponentRef, WriterError, WriterMetadata, chain};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::application::{Application, Reply};
use crate::journal::{self, Journal, JournalError, Record};
use crate::script::Script;
use crate::seen;
use crate::wire::{Came, Wire};

/// Why serving ended with an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The descriptor is no socket.
    #[error("standard input is not a socket of a requester")]
    NoSocket(#[source] std::io::Error),
    /// The requester spoke nonsense.
    #[error("the conversation with the requester broke off")]
    Frame(#[source] FrameError),
    /// What cannot be kept must not be answered.
    #[error("the journal cannot be kept")]
    Journal(#[from] JournalError),
}

/// Serves the requester on `socket` until one of the two ends the conversation.
///
/// # Errors
/// [`ServeError`]; what was held is released when the process ends, at the latest.
pub fn serve(socket: OwnedFd) -> Result<(), ServeError> {
    let wire = Wire::new(socket).map_err(ServeError::NoSocket)?;
    let requester = journal::Process::of(parent());
    let mut session = Session { wire, requester, journal: None, before: Vec::new(), played: None };
    session.note(Record::Started { requester: requester.pid })?;
    loop {
        let until = session.played.as_ref().and_then(|played| played.application.hold.until());
        let came = session.wire.next(until);
        session.keep_deadline()?;
        match came {
            Came::Request(request) => {
                if session.handle(request)? == Next::End {
                    return Ok(());
                }
            }
            Came::Nothing => {}
            Came::End => {
                return session.ended();
            }
            Came::Nonsense(error) => {
                session.note(Record::Nonsense { why: chain(&error) })?;
                return Err(ServeError::Frame(error));
            }
        }
    }
}

fn parent() -> u32 {
    rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid().unsigned_abs())
}

/// Whether there is anything left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Call,
    End,
}

/// The writer's own table of the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    script: PathBuf,
    journal: PathBuf,
}

/// A writer that was greeted: it knows its script.
pub struct Played {
    pub application: Application,
    /// The components that take part, and what was said of them.
    components: Vec<ComponentRef>,
    metadata: Option<WriterMetadata>,
    /// The set of the backup or restore.
    set: String,
    /// How often each method was called, in all of the journal.
    counts: BTreeMap<String, u64>,
}

/// The process.
pub struct Session {
    pub wire: Wire,
    requester: journal::Process,
    journal: Option<Journal>,
    /// What happened before the journal's place was known.
    before: Vec<Record>,
    pub played: Option<Played>,
}

impl Session {
    /// Adds to the journal.
    pub fn note(&mut self, record: Record) -> Result<(), ServeError> {
        match &mut self.journal {
            Some(journal) => journal.add(record)?,
            None => self.before.push(record),
        }
        Ok(())
    }

    /// Adds a line of a child to the journal.
    pub fn note_of(&mut self, process: journal::Process, record: Record) -> Result<(), ServeError> {
        if let Some(journal) = &mut self.journal {
            journal.add_of(process, record)?;
        }
        Ok(())
    }

    /// The requester has closed the socket, or nobody reads it.
    pub fn ended(&mut self) -> Result<(), ServeError> {
        self.note(Record::Ended { requester_gone: !self.requester.is_well() })
    }

    fn keep_deadline(&mut self) -> Result<(), ServeError> {
        if !self.played.as_mut().is_some_and(|played| played.application.hold.keep_deadline()) {
            return Ok(());
        }
        self.note(Record::Released {})
    }

    /// Lets time pass, and keeps the deadline of a hold meanwhile.
    pub fn pause(&mut self, time: Duration) -> Result<(), ServeError> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let held_until = self.played.as_ref().and_then(|played| played.application.hold.until());
            let next = held_until.map_or(end, |until| until.min(end));
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            self.keep_deadline()?;
        }
        Ok(())
    }

    fn handle(&mut self, request: Request) -> Result<Next, ServeError> {
        let method =
            request.method.strip_prefix(&format!("{INTERFACE}.")).unwrap_or(&request.method).to_owned();
        let parameters = request.parameters.clone();
        let plain = |refused| Record::Called {
            method: method.clone(),
            parameters: parameters.clone(),
            refused,
            seen: Vec::new(),
            looked: Vec::new(),
        };
        let (call, answer) = match request.understand() {
            Ok(Understood::Writer(call)) => (Some(call), None),
            Ok(Understood::Info) => (None, Some(info())),
            Ok(Understood::Description(interface)) => (None, Some(description(&interface))),
            Err(refusal) => {
                self.note(plain(refusal.error.clone()))?;
                return self.answer(&method, refusal.into());
            }
        };
        let (Some(call), None) = (call, &answer) else {
            self.note(plain(None))?;
            return self.answer(&method, answer.unwrap_or_else(info).into());
        };
        if let (Call::Hello(hello), None) = (&call, &self.played)
            && let Err(error) = self.begin(hello)
        {
            // There is no journal to write to.
            return self.send(&Answer::failure(&error), &[]);
        }
        let Some(played) = &mut self.played else {
            self.note(plain(None))?;
            let answer = Answer::out_of_order(&format!("{INTERFACE}.{method}"), "nothing");
            return self.answer(&method, answer.into());
        };
        played.takes_part(&call);
        let (seen, looked) = played.look(&method, &call);
        self.note(Record::Called { method: method.clone(), parameters, refused: None, seen, looked })?;
        self.play(&method, &call)
    }

    /// Reads the script and opens the journal.
    fn begin(&mut self, hello: &Hello) -> Result<(), WriterError> {
        let invalid = |key: Option<&str>, problem: String| WriterError::InvalidSetting {
            writer: hello.id.clone(),
            key: key.map(str::to_owned),
            problem,
        };
        let settings: Settings = serde_json::from_value(hello.settings.clone()).map_err(|error| {
            let text = error.to_string();
            invalid(text.split('`').nth(1), text.clone())
        })?;
        let script = Script::read(&settings.script)
            .map_err(|error| invalid(Some("script"), format!("`script`: {}", chain(&error))))?;
        let kept = journal::read(&settings.journal).and_then(|lines| {
            let journal = Journal::open(&settings.journal, &hello.id)?;
            Ok((lines, journal))
        });
        let (lines, mut journal) =
            kept.map_err(|error| invalid(Some("journal"), format!("`journal`: {}", chain(&error))))?;
        let mut counts = BTreeMap::new();
        for line in lines.into_iter().filter(|line| line.writer == hello.id) {
            if let Record::Called { method, refused: None, .. } = line.record {
                *counts.entry(method).or_insert(0) += 1;
            }
        }
        for record in std::mem::take(&mut self.before) {
            let added = journal.add(record);
            added.map_err(|error| invalid(Some("journal"), format!("`journal`: {}", chain(&error))))?;
        }
        self.journal = Some(journal);
        self.played = Some(Played {
            application: Application::new(hello, script),
            components: Vec::new(),
            metadata: None,
            set: String::new(),
            counts,
        });
        Ok(())
    }

    /// Notes the answer, and sends it.
    pub fn answer(&mut self, method: &str, reply: Reply) -> Result<Next, ServeError> {
        if self.wire.is_ahead() {
            self.note(Record::Early {})?;
        }
        if self.wire.is_hung_up() {
            self.note(Record::HungUp { method: method.to_owned() })?;
        }
        self.note(Record::Answered {
            method: method.to_owned(),
            error: reply.answer.error.clone(),
            parameters: reply.answer.parameters.clone(),
        })?;
        let beside: Vec<_> = reply.descriptor.iter().map(std::os::fd::AsFd::as_fd).collect();
        self.send(&reply.answer, &beside)
    }

    fn send(&mut self, answer: &Answer, beside: &[std::os::fd::BorrowedFd<'_>]) -> Result<Next, ServeError> {
        match self.wire.answer(answer, beside) {
            Ok(()) => Ok(Next::Call),
            Err(_) => self.ended().map(|()| Next::End),
        }
    }
}

impl Played {
    /// Which call of `method` this is, from 1, in all of the journal.
    pub fn count(&mut self, method: &str) -> u64 {
        let count = self.counts.entry(method.to_owned()).or_insert(0);
        *count += 1;
        *count
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others say nothing of it")]
    fn takes_part(&mut self, call: &Call) {
        match call {
            Call::BeginBackup(request) => {
                self.set = request.set.to_string();
                self.components = request.components.clone();
                self.metadata = self.application.understood();
            }
            Call::BeginRestore(request) => {
                self.set = request.set.to_string();
                self.components = request.components.clone();
                self.metadata = Some(request.metadata.clone());
            }
            _ => {}
        }
    }

    fn look(&self, method: &str, call: &Call) -> (Vec<journal::Seen>, Vec<journal::Looked>) {
        let seen = seen::seen(call, self.metadata.as_ref(), &self.components);
        (seen, seen::looked(&self.application.script().look, method, &self.set))
    }
}

fn info() -> Answer {
    Answer::reply(&json!({
        "vendor": "",
        "product": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "url": "",
        "interfaces": [SERVICE, INTERFACE],
    }))
}

fn description(interface: &str) -> Answer {
    let text: Value = match interface {
        SERVICE => SERVICE_TEXT.into(),
        INTERFACE => INTERFACE_TEXT.into(),
        other => return Answer::interface_not_found(other),
    };
    Answer::reply(&json!({ "description": text }))
}

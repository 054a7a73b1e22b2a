//! A journal, told by conversations: what was asked, and what came of it.

use holdfast_writer_api::protocol::Call;
use holdfast_writer_api::protocol::message::Identified;
use holdfast_writer_api::protocol::wire::{Answer, INTERFACE, Request, Understood};
use holdfast_writer_api::{BackupRequest, RestoreRequest, WriterMetadata};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::Found;
use crate::journal::{Line, Looked, Process, Record, Seen};
use crate::sound::{Sound, sound};

/// A whole journal.
pub struct Story<'j> {
    pub conversations: Vec<Conversation<'j>>,
}

/// One process of a writer.
pub struct Conversation<'j> {
    pub writer: &'j str,
    pub process: Process,
    /// Who started it.
    pub requester: u32,
    /// The last line of it.
    pub last: usize,
    pub exchanges: Vec<Exchange<'j>>,
    /// Lines that belong to no call, with their numbers.
    pub loose: Vec<(usize, &'j Record)>,
    /// It is still there.
    pub is_alive: bool,
}

/// A call, and what came of it.
pub struct Exchange<'j> {
    /// The line of the call.
    pub line: usize,
    pub called_ns: u64,
    pub method: &'j str,
    /// `None` for one of another interface, or one that was not understood.
    pub call: Option<Call>,
    pub refused: Option<&'j str>,
    pub seen: &'j [Seen],
    pub looked: &'j [Looked],
    pub outcome: Outcome,
    /// The line of the answer, or of what came instead.
    pub answered: Option<usize>,
    pub answered_ns: Option<u64>,
    answer: Option<&'j Value>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Answered, as it should be.
    Done,
    /// Answered with an error, or with what no requester may accept.
    Failed(String),
    /// The writer does not have the method.
    Lacking,
    /// The writer broke the protocol; how.
    Broke(String),
    /// The requester waited no longer.
    HungUp,
    /// Nothing, as far as the journal goes.
    Nothing,
}

impl<'j> Story<'j> {
    pub fn of(lines: &'j [Line], is_alive: impl Fn(Process) -> bool) -> Self {
        let mut conversations: Vec<Conversation<'j>> = Vec::new();
        for (n, line) in lines.iter().enumerate() {
            let number = n + 1;
            let known = conversations.iter().position(|one| one.process == line.process);
            let at = known.unwrap_or_else(|| {
                conversations.push(Conversation {
                    writer: &line.writer,
                    process: line.process,
                    requester: 0,
                    last: number,
                    exchanges: Vec::new(),
                    loose: Vec::new(),
                    is_alive: is_alive(line.process),
                });
                conversations.len() - 1
            });
            conversations[at].add(number, line);
        }
        Self { conversations }
    }

    /// Those that began a backup, with what was asked of them.
    pub fn backups(&self) -> impl Iterator<Item = (&Conversation<'j>, &Exchange<'j>, &BackupRequest)> {
        self.conversations.iter().filter_map(|one| one.backup().map(|(begin, request)| (one, begin, request)))
    }

    /// Those that began a restore, with what was asked of them.
    pub fn restores(&self) -> impl Iterator<Item = (&Conversation<'j>, &Exchange<'j>, &RestoreRequest)> {
        self.conversations
            .iter()
            .filter_map(|one| one.restore().map(|(begin, request)| (one, begin, request)))
    }

    /// What `writer` last said of itself before `line`, if that was fit to be used.
    pub fn described(&self, writer: &str, line: usize) -> Option<WriterMetadata> {
        let of_writer = self.conversations.iter().filter(|one| one.writer == writer);
        let answers =
            of_writer.flat_map(|one| &one.exchanges).filter(|exchange| exchange.method == "Identify");
        let last = answers.filter(|exchange| exchange.answered.is_some_and(|answered| answered < line));
        let last = last.max_by_key(|exchange| exchange.line)?;
        last.is_done().then(|| last.reply::<Identified>().map(|reply| reply.metadata))?
    }
}

impl<'j> Conversation<'j> {
    fn add(&mut self, number: usize, line: &'j Line) {
        self.last = number;
        match &line.record {
            Record::Started { requester } => self.requester = *requester,
            Record::Called { method, parameters, refused, seen, looked } => self.exchanges.push(Exchange {
                line: number,
                called_ns: line.at_ns,
                method,
                call: understood(method, parameters),
                refused: refused.as_deref(),
                seen,
                looked,
                outcome: Outcome::Nothing,
                answered: None,
                answered_ns: None,
                answer: None,
            }),
            Record::Answered { method, error, parameters } => {
                let (writer, writer_type) = (self.writer, self.writer_type());
                let Some(exchange) = self.exchanges.last_mut().filter(|last| last.method == method) else {
                    return;
                };
                if exchange.outcome == Outcome::HungUp {
                    return;
                }
                exchange.answered = Some(number);
                exchange.answered_ns = Some(line.at_ns);
                exchange.answer = Some(parameters);
                let answer =
                    Answer { error: error.clone(), parameters: parameters.clone(), continues: false };
                exchange.outcome = match &exchange.call {
                    Some(call) => match sound(call, answer, writer, &writer_type) {
                        Sound::Done => Outcome::Done,
                        Sound::Failed(why) => Outcome::Failed(why),
                        Sound::Lacking => Outcome::Lacking,
                        Sound::Nonsense(why) => Outcome::Broke(why),
                    },
                    None => Outcome::Done,
                };
            }
            Record::Misbehaved { method, how } => {
                let Some(exchange) = self.exchanges.last_mut().filter(|last| last.method == method) else {
                    return;
                };
                exchange.answered = Some(number);
                exchange.outcome = Outcome::Broke(format!("`{how}` in {method}"));
            }
            Record::HungUp { method } => {
                let Some(exchange) = self.exchanges.last_mut().filter(|last| last.method == method) else {
                    return;
                };
                exchange.outcome = Outcome::HungUp;
            }
            Record::Nonsense { .. }
            | Record::Early {}
            | Record::Released {}
            | Record::Streamed { .. }
            | Record::Ended { .. } => self.loose.push((number, &line.record)),
        }
    }

    /// The type it was greeted as.
    fn writer_type(&self) -> String {
        let hello = self.exchanges.iter().find_map(|exchange| match &exchange.call {
            Some(Call::Hello(hello)) => Some(hello.writer_type.clone()),
            _ => None,
        });
        hello.unwrap_or_default()
    }

    /// The first call of `method`.
    pub fn first(&self, method: &str) -> Option<&Exchange<'j>> {
        self.exchanges.iter().find(|exchange| exchange.method == method)
    }

    /// The line at which `method` was done, the first time.
    pub fn done_at(&self, method: &str) -> Option<usize> {
        let mut done =
            self.exchanges.iter().filter(|exchange| exchange.method == method && exchange.is_done());
        done.find_map(|exchange| exchange.answered)
    }

    /// The backup that was begun.
    pub fn backup(&self) -> Option<(&Exchange<'j>, &BackupRequest)> {
        self.exchanges.iter().find_map(|exchange| match &exchange.call {
            Some(Call::BeginBackup(request)) if exchange.is_done() => Some((exchange, request)),
            _ => None,
        })
    }

    /// The restore that was begun.
    pub fn restore(&self) -> Option<(&Exchange<'j>, &RestoreRequest)> {
        self.exchanges.iter().find_map(|exchange| match &exchange.call {
            Some(Call::BeginRestore(request)) if exchange.is_done() => Some((exchange, &**request)),
            _ => None,
        })
    }

    /// Whether the conversation broke off, by the writer or by the requester: nothing can be said any more.
    pub fn is_broken(&self) -> bool {
        self.exchanges.iter().any(|exchange| matches!(exchange.outcome, Outcome::Broke(_) | Outcome::HungUp))
    }

    /// The line with which the requester, itself alive, ended the conversation.
    pub fn closed(&self) -> Option<usize> {
        let closed = |(line, record): &(usize, &Record)| {
            matches!(record, Record::Ended { requester_gone: false }).then_some(*line)
        };
        self.loose.iter().find_map(closed)
    }

    /// A violation seen at `line`.
    pub fn found(&self, line: usize, seen: impl Into<String>) -> Found {
        Found { writer: self.writer.to_owned(), line, seen: seen.into() }
    }
}

impl Exchange<'_> {
    pub fn is_done(&self) -> bool {
        self.outcome == Outcome::Done
    }

    /// Whether its answer may be used.
    pub fn failed(&self) -> bool {
        matches!(self.outcome, Outcome::Failed(_) | Outcome::Lacking)
    }

    /// Its answer, where it was no error.
    pub fn reply<T: DeserializeOwned>(&self) -> Option<T> {
        let answer = Answer { error: None, parameters: self.answer?.clone(), continues: false };
        answer.understand("").ok()
    }

    /// The set it is about, if it says.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have none")]
    pub fn set(&self) -> Option<Uuid> {
        match self.call.as_ref()? {
            Call::BeginBackup(request) => Some(request.set),
            Call::PrepareBackup(phase) | Call::PrepareSnapshot(phase) => Some(phase.set),
            Call::Freeze(freeze) => Some(freeze.set),
            Call::PostSnapshot(shadow) => Some(shadow.set),
            Call::BackupComplete(outcome) => Some(outcome.set),
            Call::BeginRestore(request) => Some(request.set),
            _ => None,
        }
    }

    /// Its budget in milliseconds, if it has one.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the others have none")]
    pub fn budget_ms(&self) -> Option<u64> {
        let budget = match self.call.as_ref()? {
            Call::PrepareBackup(phase) | Call::PrepareSnapshot(phase) => phase.budget,
            Call::Freeze(freeze) => freeze.budget,
            _ => return None,
        };
        u64::try_from(budget.as_millis()).ok()
    }
}

/// The call that `parameters` make of `method`.
fn understood(method: &str, parameters: &Value) -> Option<Call> {
    let method = format!("{INTERFACE}.{method}");
    let request = Request { method, parameters: parameters.clone(), oneway: false, upgrade: false };
    match request.understand() {
        Ok(Understood::Writer(call)) => Some(call),
        Ok(Understood::Info | Understood::Description(_)) | Err(_) => None,
    }
}

//! A writer's process while it is spoken to: calls with deadlines, and an end that is certain.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use tokio::io::unix::AsyncFd;

use super::codec::FrameError;
use super::conversation::Conversation;
use super::descriptors;
use super::group::{Group, Step};
use super::guardian::{Fate, Guardian};
use super::launcher::{Launcher, Started};
use super::message::{Call, Opened};
use super::said::Ear;
use super::wire::{Answer, Refusal};
use crate::{Cause, WriterError};

/// How long a killed process may take to be gone. One that is not, waits in the kernel.
const REAP: Duration = Duration::from_secs(5);
/// The same where nobody can wait for long: a dropped session has others to release.
const REAP_IN_DROP: Duration = Duration::from_millis(500);
/// How long a process whose socket closed may take to show how it ended, which says more.
const LAST_BREATH: Duration = Duration::from_millis(20);

/// How often a guardian at work is looked at.
const GUARDIAN_POLL: Duration = Duration::from_millis(2);

/// A child and its socket. Dropping it ends the child and waits until nobody is left.
pub struct Process {
    writer: String,
    conversation: Conversation,
    group: Group,
    /// Who has to be gone as well before anything is released.
    guardian: Option<Guardian>,
    /// Readable once the child has ended, so that this is seen in the middle of a call too.
    exit: AsyncFd<OwnedFd>,
    ear: Ear,
    /// A call was begun and not answered as it should be: the conversation is over for good.
    broken: bool,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// As [`Launcher`] says.
    pub fn start(launcher: &Launcher, writer: &str) -> Result<Self, WriterError> {
        let Started { child, socket, their_inode, ear } = launcher.start(writer)?;
        let mut group = Group::new(child, their_inode);
        let watched = group.watch().and_then(descriptors::watched);
        let parts = watched.and_then(|exit| Ok((exit, Conversation::new(socket)?)));
        match parts {
            Ok((exit, conversation)) => {
                let writer = writer.to_owned();
                Ok(Self { writer, conversation, group, guardian: None, exit, ear, broken: false })
            }
            Err(error) => {
                group.kill();
                Err(WriterError::not_responding(writer, format!("it cannot be watched: {error}")))
            }
        }
    }

    /// The writer's id.
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// Takes note of the process that thaws what this one holds.
    ///
    /// # Errors
    /// [`WriterError::NotResponding`]: there is no such process.
    pub fn guarded_by(&mut self, guardian: u32) -> Result<(), WriterError> {
        self.guardian = Some(Guardian::of(guardian).map_err(|error| {
            self.broke_off(format!(
                "it names process {guardian} as its guardian, which cannot be watched: {error}"
            ))
        })?);
        Ok(())
    }

    /// The process that thaws what this one holds, if there is one.
    pub fn guardian(&self) -> Option<u32> {
        self.guardian.as_ref().map(Guardian::pid)
    }

    /// Whether only its end is left.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// One call and its answer within `limit`.
    ///
    /// # Errors
    /// The writer's own error; the deadline; [`WriterError::Unsupported`] for a method it does not have;
    /// [`WriterError::NotResponding`] for everything else, after which only its end is left.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        call: &Call,
        limit: Duration,
        action: &str,
    ) -> Result<T, WriterError> {
        let (answer, _) = self.answer(call, 0, limit, action).await?;
        self.understand(answer, action)
    }

    /// [`Call::OpenStream`], and the descriptor beside its answer.
    ///
    /// # Errors
    /// As [`Process::call`]; none, more than one, or one of the wrong kind is [`WriterError::NotResponding`].
    pub async fn open(&mut self, call: &Call, limit: Duration) -> Result<OwnedFd, WriterError> {
        const ACTION: &str = "open a stream";
        let (answer, descriptors) = self.answer(call, 1, limit, ACTION).await?;
        let came = !descriptors.is_empty();
        let opened: Result<Opened, _> = self.understand(answer, ACTION);
        let stream = match opened {
            // Its place is the only one there is.
            Ok(Opened { descriptor: 0 }) => descriptors::stream(descriptors),
            Ok(_) => Err(FrameError::Descriptors("it names a file descriptor that it did not pass")),
            Err(_) if came => Err(FrameError::Descriptors("it passed a file descriptor beside an error")),
            Err(error) => return Err(error),
        };
        stream.map_err(|error| self.broke_off(crate::chain(&error)))
    }

    async fn answer(
        &mut self,
        call: &Call,
        descriptors: usize,
        limit: Duration,
        action: &str,
    ) -> Result<(Answer, Vec<OwnedFd>), WriterError> {
        if self.broken {
            return Err(WriterError::not_responding(&self.writer, "an earlier call was not answered"));
        }
        // Stays set when this future is dropped half-way.
        self.broken = true;
        let exchanged = tokio::time::timeout(limit, async {
            tokio::select! {
                biased;
                exchanged = self.conversation.exchange(call, descriptors) => exchanged.map_err(Some),
                _ = self.exit.readable() => Err(None),
            }
        })
        .await;
        match exchanged {
            Ok(Ok(answer)) => {
                self.broken = false;
                Ok(answer)
            }
            Ok(Err(error)) => {
                if matches!(error, Some(FrameError::Closed | FrameError::Truncated | FrameError::Io(_))) {
                    let _ = tokio::time::timeout(LAST_BREATH, self.exit.readable()).await;
                }
                let ended = self.group.ended().map(|how| format!("its process ended: {how}"));
                let why = match (error, ended) {
                    (Some(error), Some(ended)) => format!("{}; {ended}", crate::chain(&error)),
                    (Some(error), None) => crate::chain(&error),
                    (None, ended) => ended.unwrap_or_else(|| "its process ended".into()),
                };
                Err(self.broke_off(format!("asked to {action}: {why}")))
            }
            Err(_) => {
                self.conversation.hang_up();
                let budget_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                let (writer, action) = (self.writer.clone(), action.to_owned());
                Err(WriterError::TimedOut { writer, action, budget_ms })
            }
        }
    }

    fn understand<T: DeserializeOwned>(&mut self, answer: Answer, action: &str) -> Result<T, WriterError> {
        answer.understand(&self.writer).map_err(|refusal| match refusal {
            Refusal::Writer(error) => error,
            Refusal::NoSuchMethod => {
                WriterError::unsupported(&self.writer, format!("being asked to {action}"))
            }
            Refusal::Nonsense(why) => self.broke_off(format!("asked to {action}: {why}")),
        })
    }

    /// Whatever it holds, it hears that nobody listens any more.
    fn broke_off(&mut self, why: String) -> WriterError {
        self.broken = true;
        self.conversation.hang_up();
        WriterError::not_responding(&self.writer, why)
    }

    /// Ends it and waits until nobody is left: then, and only then, everything it held is released. Others are
    /// thawed meanwhile.
    ///
    /// # Errors
    /// [`WriterError::StuckFrozen`]: somebody is still there.
    pub async fn end(&mut self) -> Result<(), WriterError> {
        self.broken = true;
        let until = Instant::now() + REAP;
        while let Some(pause) = self.step(until, REAP)? {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// How long to wait before the next step, or `None` when nobody is left.
    fn step(&mut self, until: Instant, limit: Duration) -> Result<Option<Duration>, WriterError> {
        let stuck =
            |why: String| WriterError::StuckFrozen { writer: self.writer.clone(), cause: Cause::new(why) };
        match self.group.step(&self.conversation).map_err(stuck)? {
            Step::Gone => match self.guardian.as_mut().map(|guardian| (guardian.pid(), guardian.fate())) {
                None | Some((_, Fate::Done)) => {
                    self.ear.finish();
                    Ok(None)
                }
                // It has heard of that end, and works on it.
                Some((_, Fate::AtWork)) if Instant::now() < until => Ok(Some(GUARDIAN_POLL)),
                Some((pid, Fate::AtWork)) => {
                    Err(stuck(format!("its guardian, process {pid}, still tries to thaw")))
                }
                Some((pid, Fate::Killed(how))) => Err(stuck(format!(
                    "it is gone, and its guardian, process {pid}, {how} before it had thawed"
                ))),
            },
            Step::Wait(_) if Instant::now() >= until => Err(stuck(format!(
                "process {} was killed, and after {} ms not all of its group is gone",
                self.group.pid(),
                limit.as_millis()
            ))),
            Step::Wait(pause) => Ok(Some(pause)),
        }
    }
}

/// What the conformance kit does, and a requester does not.
#[cfg(feature = "testkit")]
impl Process {
    /// Closes the conversation and leaves the process alone: it has to release and end by itself.
    pub fn hang_up(&mut self) {
        self.broken = true;
        self.conversation.hang_up();
    }

    /// Whether its first process has ended.
    pub fn has_ended(&self) -> bool {
        self.group.ended().is_some()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let until = Instant::now() + REAP_IN_DROP;
        // Nobody is left to tell; the session asked `thaw` before, where a failure counts.
        while let Ok(Some(pause)) = self.step(until, REAP_IN_DROP) {
            std::thread::sleep(pause);
        }
    }
}

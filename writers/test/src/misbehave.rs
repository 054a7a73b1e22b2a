//! What the script wants done instead of the right thing.
//!
//! Owns: the order of things at each call. A hold is taken before anything goes wrong with a freeze, and is released
//! only by a `Thaw` or `Abort` that is done: the half-held application is the one that matters.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_writer_api::protocol::wire::{Answer, INTERFACE};
use holdfast_writer_api::protocol::{Call, encode};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::json;

use crate::application::{Reply, lay_over};
use crate::journal::{Process, Record};
use crate::script::{Action, Nonsense, Of, Silence};
use crate::serve::{Next, ServeError, Session};

/// A writer that hangs does so for this long: nothing is left for ever by a requester that does not end it.
const LONGEST: Duration = Duration::from_secs(600);

/// What a message that does not end is made of.
const CHUNK: usize = 1 << 20;

/// Half an answer.
const HALF: &[u8] = b"{\"parameters\": {\"half";

impl Session {
    /// Answers the call as the script wants it.
    pub fn play(&mut self, method: &str, call: &Call) -> Result<Next, ServeError> {
        let Some(played) = &mut self.played else { return Ok(Next::End) };
        let nth = played.count(method);
        if let Call::Freeze(freeze) = call
            && let Err(error) = played.application.hold.take(freeze.budget)
        {
            return self.answer(method, Answer::failure(&error).into());
        }
        if let Call::CloseStream { name, .. } = call
            && let Some(bytes) = played.application.streamed(name)
        {
            let name = name.clone();
            self.note(Record::Streamed { name, bytes })?;
        }
        let action = self.played.as_ref().and_then(|played| played.application.script().step(method, nth));
        match action.cloned() {
            Some(action) => self.act(method, call, &action),
            None => self.do_right(method, call),
        }
    }

    fn right(&mut self, method: &str, call: &Call) -> Reply {
        match &mut self.played {
            Some(played) => played.application.answer(method, call),
            None => Answer::out_of_order(method, "nothing").into(),
        }
    }

    fn do_right(&mut self, method: &str, call: &Call) -> Result<Next, ServeError> {
        let reply = self.right(method, call);
        self.answer(method, reply)
    }

    fn act(&mut self, method: &str, call: &Call, action: &Action) -> Result<Next, ServeError> {
        match action {
            Action::Fail { class, message, json } => {
                let parameters = json.clone().unwrap_or_else(|| json!({ "cause": { "message": message } }));
                let answer = Answer { error: Some(error_name(class)), parameters, continues: false };
                self.answer(method, answer.into())
            }
            Action::Delay { ms } => {
                self.pause(Duration::from_millis(*ms))?;
                self.do_right(method, call)
            }
            Action::Late { ms } => {
                self.pause(time_of(call) + Duration::from_millis(*ms))?;
                self.do_right(method, call)
            }
            Action::Answer { json, merge } => {
                let mut reply = self.right(method, call);
                if let Some(json) = json {
                    reply = Answer { error: None, parameters: json.clone(), continues: false }.into();
                }
                if let Some(merge) = merge {
                    lay_over(&mut reply.answer.parameters, merge);
                }
                self.answer(method, reply)
            }
            Action::Stderr { text, lines } => {
                talk(text, *lines);
                self.do_right(method, call)
            }
            Action::Nonsense(nonsense) => {
                if let Nonsense::Descriptors { count, of } = nonsense
                    && is_right(call, *count, *of)
                {
                    return self.do_right(method, call);
                }
                self.misbehaves(method, action)?;
                self.talk_nonsense(method, call, nonsense)
            }
            Action::Silence(silence) => {
                self.misbehaves(method, action)?;
                self.fall_silent(*silence)
            }
        }
    }

    fn misbehaves(&mut self, method: &str, action: &Action) -> Result<(), ServeError> {
        self.note(Record::Misbehaved { method: method.to_owned(), how: action.name().to_owned() })
    }

    /// Breaks the protocol on the socket.
    fn talk_nonsense(&mut self, method: &str, call: &Call, nonsense: &Nonsense) -> Result<Next, ServeError> {
        let sent = match nonsense {
            Nonsense::Garbage { text } => self.wire.bytes(&[text.as_slice(), b"\0"].concat(), &[]),
            Nonsense::Half => self.wire.bytes(HALF, &[]),
            Nonsense::Cut => {
                // Nobody may be there any more to read it.
                let _ = self.wire.bytes(HALF, &[]);
                return Ok(Next::End);
            }
            Nonsense::Twice => {
                let Reply { answer, descriptor } = self.right(method, call);
                let twice = encode(&answer).map(|bytes| bytes.repeat(2)).unwrap_or_default();
                let beside: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
                self.wire.bytes(&twice, &beside)
            }
            Nonsense::Continues => {
                let mut answer = self.right(method, call).answer;
                answer.continues = true;
                self.wire.answer(&answer, &[])
            }
            Nonsense::Endless { bytes } => self.send_endless(*bytes),
            Nonsense::Descriptors { count, of } => {
                let answer = self.right(method, call).answer;
                descriptors(*count, *of).and_then(|beside| {
                    let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
                    self.wire.answer(&answer, &beside)
                })
            }
        };
        match sent {
            Ok(()) => Ok(Next::Call),
            Err(_) => self.ended().map(|()| Next::End),
        }
    }

    fn send_endless(&mut self, bytes: u64) -> std::io::Result<()> {
        self.wire.bytes(b"{\"parameters\": {\"endless\": \"", &[])?;
        let chunk = vec![b'x'; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            self.wire.bytes(&chunk[..now], &[])?;
            left -= now as u64;
        }
        Ok(())
    }

    /// Does not answer.
    fn fall_silent(&mut self, silence: Silence) -> Result<Next, ServeError> {
        match silence {
            Silence::Hang => sleep_and_end(),
            Silence::Silent => {}
            Silence::Stop => drop(kill_process(getpid(), Signal::STOP)),
            Silence::CloseStdin => {
                let _ = rustix::net::shutdown(self.wire.socket(), rustix::net::Shutdown::Both);
                sleep_and_end()
            }
            Silence::Exit { code } => std::process::exit(code),
            Silence::Kill => drop(kill_process(getpid(), Signal::KILL)),
            Silence::Panic => panic!("as the script says"),
            Silence::Fork => {
                let child = self.leave();
                self.note_of(Process::of(child), Record::Started { requester: std::process::id() })?;
                std::process::exit(0);
            }
        }
        Ok(Next::Call)
    }

    /// Leaves a process, in a group of its own, that has the socket and the hold; gives its number.
    fn leave(&self) -> u32 {
        let socket = self.wire.socket().try_clone_to_owned();
        let lock = self.played.as_ref().and_then(|played| played.application.hold.lock());
        let lock = lock.map(|lock| lock.try_clone_to_owned());
        let (Ok(socket), Ok(lock)) = (socket, lock.transpose()) else { std::process::exit(1) };
        let mut keep = Command::new("/proc/self/exe");
        keep.arg("keep")
            .stdin(socket)
            .stdout(lock.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::null());
        match keep.process_group(0).spawn() {
            Ok(child) => child.id(),
            Err(_) => std::process::exit(1),
        }
    }
}

/// The process that [`Silence::Fork`] leaves: it has what it was given, and does nothing.
pub fn keep() -> ! {
    sleep_and_end()
}

fn sleep_and_end() -> ! {
    std::thread::sleep(LONGEST);
    std::process::exit(0)
}

/// How long a call may take, where it says.
#[expect(clippy::wildcard_enum_match_arm, reason = "the others say nothing")]
fn time_of(call: &Call) -> Duration {
    match call {
        Call::PrepareBackup(phase) | Call::PrepareSnapshot(phase) => phase.budget,
        Call::Freeze(freeze) => freeze.budget,
        _ => Duration::ZERO,
    }
}

/// Whether as many descriptors of that kind are what the call is answered with.
fn is_right(call: &Call, count: usize, of: Of) -> bool {
    let is_stream = matches!(call, Call::OpenStream { .. });
    if is_stream { (count, of) == (1, Of::Pipe) } else { count == 0 }
}

/// `busy` → `io.holdfast.Writer.Busy`; what has a dot stays.
fn error_name(class: &str) -> String {
    if class.contains('.') {
        return class.to_owned();
    }
    let upper = |word: &str| {
        let mut letters = word.chars();
        letters
            .next()
            .map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + letters.as_str())
    };
    format!("{INTERFACE}.{}", class.split('-').map(upper).collect::<String>())
}

fn talk(text: &str, lines: u64) {
    let mut out = std::io::stderr().lock();
    for _ in 0..lines {
        // Whoever does not listen misses it.
        if writeln!(out, "{text}").is_err() {
            break;
        }
    }
}

fn descriptors(count: usize, of: Of) -> std::io::Result<Vec<OwnedFd>> {
    let one = |_| match of {
        Of::Pipe => std::io::pipe().map(|(read, _)| OwnedFd::from(read)),
        Of::WriteEnd => std::io::pipe().map(|(_, write)| OwnedFd::from(write)),
        Of::Folder => std::fs::File::open("/").map(OwnedFd::from),
    };
    (0..count).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_written_as_the_contract_or_the_interface_has_them() {
        assert_eq!(error_name("busy"), "io.holdfast.Writer.Busy");
        assert_eq!(error_name("timed-out"), "io.holdfast.Writer.TimedOut");
        assert_eq!(error_name("TimedOut"), "io.holdfast.Writer.TimedOut");
        assert_eq!(error_name("org.varlink.service.MethodNotFound"), "org.varlink.service.MethodNotFound");
        assert_eq!(error_name(""), "io.holdfast.Writer.");
    }
}

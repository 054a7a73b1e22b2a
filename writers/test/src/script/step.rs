//! One step of a script: at which call, and what is done there instead of the right thing.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::method;

/// At which call what is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The method, as the interface has it.
    pub method: String,
    /// At the nth call of it that the journal knows of, from 1; at every one without.
    pub nth: Option<u64>,
    /// What is done.
    pub action: Action,
}

/// What is done instead of the right thing, or beside it.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    // --- answers: the conversation goes on ---
    /// Answers with an error.
    Fail {
        /// The error's name, `busy` or `Busy`; one with a dot is sent as it is.
        class: String,
        /// Its reason.
        message: String,
        /// Its parameters, in place of a reason.
        json: Option<Value>,
    },
    /// Does the right thing after a while.
    Delay {
        /// How long, in milliseconds.
        ms: u64,
    },
    /// Does the right thing when the time of the call is over.
    Late {
        /// By how much, in milliseconds; a call without a budget has no time, and this is all of it.
        ms: u64,
    },
    /// Does the right thing, and answers something else.
    Answer {
        /// In place of the right parameters …
        json: Option<Value>,
        /// … or laid over them.
        merge: Option<Map<String, Value>>,
    },
    /// Talks on standard error, then does the right thing.
    Stderr {
        /// The line.
        text: String,
        /// How often.
        lines: u64,
    },
    // --- no answer: the conversation is over ---
    /// Breaks the protocol.
    Nonsense(Nonsense),
    /// Says nothing.
    Silence(Silence),
}

/// What breaks the protocol.
#[derive(Debug, Clone, PartialEq)]
pub enum Nonsense {
    /// Bytes that are no message.
    Garbage {
        /// The bytes before the NUL.
        text: Vec<u8>,
    },
    /// Half an answer, and then nothing.
    Half,
    /// Half an answer, and then the end.
    Cut,
    /// The right answer, twice.
    Twice,
    /// The right answer, with the promise of more.
    Continues,
    /// A message that does not end.
    Endless {
        /// How much of it is sent, at most.
        bytes: u64,
    },
    /// The right answer, with another number of descriptors beside it, or of another kind.
    Descriptors {
        /// How many.
        count: usize,
        /// Of what.
        of: Of,
    },
}

/// What is said to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// Never answers, and looks at nothing any more.
    Hang,
    /// Never answers, but ends when the socket is closed.
    Silent,
    /// Stops itself, as SIGSTOP does.
    Stop,
    /// Closes its end of the socket, and lives on.
    CloseStdin,
    /// Ends without an answer.
    Exit {
        /// With which status.
        code: i32,
    },
    /// Ends by SIGKILL.
    Kill,
    /// Panics.
    Panic,
    /// Ends, and leaves a process, in a group of its own, that keeps the socket and the hold.
    Fork,
}

/// What a descriptor leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Of {
    /// The read end of an empty pipe.
    #[default]
    Pipe,
    /// The write end of one.
    WriteEnd,
    /// A folder.
    Folder,
}

impl Action {
    /// Its name in a script.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Fail { .. } => "fail",
            Self::Delay { .. } => "delay",
            Self::Late { .. } => "late",
            Self::Answer { .. } => "answer",
            Self::Stderr { .. } => "stderr",
            Self::Nonsense(Nonsense::Garbage { .. }) => "garbage",
            Self::Nonsense(Nonsense::Half) => "half",
            Self::Nonsense(Nonsense::Cut) => "cut",
            Self::Nonsense(Nonsense::Twice) => "twice",
            Self::Nonsense(Nonsense::Continues) => "continues",
            Self::Nonsense(Nonsense::Endless { .. }) => "endless",
            Self::Nonsense(Nonsense::Descriptors { .. }) => "descriptors",
            Self::Silence(Silence::Hang) => "hang",
            Self::Silence(Silence::Silent) => "silent",
            Self::Silence(Silence::Stop) => "stop",
            Self::Silence(Silence::CloseStdin) => "close-stdin",
            Self::Silence(Silence::Exit { .. }) => "exit",
            Self::Silence(Silence::Kill) => "kill",
            Self::Silence(Silence::Panic) => "panic",
            Self::Silence(Silence::Fork) => "fork",
        }
    }
}

/// All names of actions, in the order of the manual.
pub const ACTIONS: [&str; 20] = [
    "fail",
    "delay",
    "late",
    "answer",
    "stderr",
    "garbage",
    "half",
    "cut",
    "twice",
    "continues",
    "endless",
    "descriptors",
    "hang",
    "silent",
    "stop",
    "close-stdin",
    "exit",
    "kill",
    "panic",
    "fork",
];

/// A step as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    phase: String,
    r#do: String,
    nth: Option<u64>,
    class: Option<String>,
    message: Option<String>,
    ms: Option<u64>,
    json: Option<String>,
    merge: Option<Map<String, Value>>,
    text: Option<String>,
    lines: Option<u64>,
    bytes: Option<u64>,
    count: Option<usize>,
    of: Option<Of>,
    code: Option<i32>,
}

impl TryFrom<Raw> for Step {
    type Error = String;

    fn try_from(mut raw: Raw) -> Result<Self, String> {
        let method = method(&raw.phase)?;
        if raw.nth == Some(0) {
            return Err("`nth` counts from 1".into());
        }
        let nth = raw.nth.take();
        let action = raw.action()?;
        raw.must_be_used_up()?;
        Ok(Self { method, nth, action })
    }
}

impl Raw {
    fn action(&mut self) -> Result<Action, String> {
        let name = self.r#do.clone();
        Ok(match name.as_str() {
            "fail" => Action::Fail {
                class: self.class.take().unwrap_or_else(|| "rejected".into()),
                message: self.message.take().unwrap_or_else(|| "as the script says".into()),
                json: self.json()?,
            },
            "delay" => Action::Delay { ms: self.ms.take().ok_or("`delay` needs `ms`")? },
            "late" => Action::Late { ms: self.ms.take().unwrap_or(50) },
            "answer" => {
                let (json, merge) = (self.json()?, self.merge.take());
                if json.is_some() == merge.is_some() {
                    return Err("`answer` needs `json` or `merge`, and not both".into());
                }
                Action::Answer { json, merge }
            }
            "stderr" => Action::Stderr {
                text: self.text.take().unwrap_or_else(|| "as the script says".into()),
                lines: self.lines.take().unwrap_or(1),
            },
            "garbage" => {
                let text = self.text.take().map(String::into_bytes);
                let text = text.unwrap_or_else(|| b"\xff\xfe{]\n\x1b[2Jno message".to_vec());
                Action::Nonsense(Nonsense::Garbage { text })
            }
            "half" => Action::Nonsense(Nonsense::Half),
            "cut" => Action::Nonsense(Nonsense::Cut),
            "twice" => Action::Nonsense(Nonsense::Twice),
            "continues" => Action::Nonsense(Nonsense::Continues),
            "endless" => Action::Nonsense(Nonsense::Endless { bytes: self.bytes.take().unwrap_or(1 << 30) }),
            "descriptors" => Action::Nonsense(Nonsense::Descriptors {
                count: match self.count.take() {
                    Some(count) if count <= MAX_DESCRIPTORS => count,
                    Some(_) => return Err(format!("`count` is at most {MAX_DESCRIPTORS}")),
                    None => return Err("`descriptors` needs `count`".into()),
                },
                of: self.of.take().unwrap_or_default(),
            }),
            "hang" => Action::Silence(Silence::Hang),
            "silent" => Action::Silence(Silence::Silent),
            "stop" => Action::Silence(Silence::Stop),
            "close-stdin" => Action::Silence(Silence::CloseStdin),
            "exit" => Action::Silence(Silence::Exit { code: self.code.take().unwrap_or(0) }),
            "kill" => Action::Silence(Silence::Kill),
            "panic" => Action::Silence(Silence::Panic),
            "fork" => Action::Silence(Silence::Fork),
            other => {
                return Err(format!(
                    "there is no `do = \"{other}\"`; expected one of {}",
                    ACTIONS.join(", ")
                ));
            }
        })
    }

    fn json(&mut self) -> Result<Option<Value>, String> {
        let Some(text) = self.json.take() else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| format!("`json` is none: {error}"))
    }

    fn must_be_used_up(&self) -> Result<(), String> {
        let left = [
            ("class", self.class.is_some()),
            ("message", self.message.is_some()),
            ("ms", self.ms.is_some()),
            ("json", self.json.is_some()),
            ("merge", self.merge.is_some()),
            ("text", self.text.is_some()),
            ("lines", self.lines.is_some()),
            ("bytes", self.bytes.is_some()),
            ("count", self.count.is_some()),
            ("of", self.of.is_some()),
            ("code", self.code.is_some()),
        ];
        match left.iter().find(|(_, is_left)| *is_left) {
            Some((key, _)) => Err(format!("`{key}` means nothing to `do = \"{}\"`", self.r#do)),
            None => Ok(()),
        }
    }
}

/// Most descriptors that go beside an answer.
pub(crate) const MAX_DESCRIPTORS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_the_name_it_is_written_with() {
        for name in ACTIONS {
            let mut raw = Raw { r#do: name.into(), phase: "freeze".into(), ..Raw::default() };
            match name {
                "delay" => raw.ms = Some(1),
                "answer" => raw.json = Some("{}".into()),
                "descriptors" => raw.count = Some(2),
                _ => {}
            }
            assert_eq!(Step::try_from(raw).unwrap().action.name(), name);
        }
    }
}

//! Why a fixture could not do what a test asked of it.

use std::{io, time::Duration};

/// Why a fixture could not do what a test asked of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FixtureError {
    /// A call to the operating system failed.
    #[error("cannot {what}")]
    Io {
        /// What was attempted, with the path or address.
        what: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A program ended with a failure.
    #[error("`{command}` failed ({status}):\n{output}")]
    Command {
        /// The command line.
        command: String,
        /// Exit code or signal, in words.
        status: String,
        /// Its standard error and standard output.
        output: String,
    },
    /// Something did not happen in time; what was running has been ended.
    #[error("{what}: not within {after:?}")]
    Deadline {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// A server answered, but with a refusal or with something that cannot be understood.
    #[error("{server}: {answer}")]
    Answer {
        /// Which server or program.
        server: String,
        /// What it said.
        answer: String,
    },
}

impl FixtureError {
    /// For `map_err` behind an operating system call.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// A refusal or nonsense from a server or program.
    pub(crate) fn answer(server: impl Into<String>, answer: impl Into<String>) -> Self {
        Self::Answer { server: server.into(), answer: answer.into() }
    }
}

//! Why a writer could not do its part, and what the requester does about it.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::duration::millis;

/// A chain of reasons that survives the trip between processes: outermost first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<Box<Cause>>,
}

impl Cause {
    /// A reason without further reasons.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// The whole chain of `error`, at most 16 deep.
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        fn take(error: &(dyn std::error::Error + 'static), left: u8) -> Cause {
            let source =
                if left == 0 { None } else { error.source().map(|inner| Box::new(take(inner, left - 1))) };
            Cause { message: error.to_string(), source }
        }
        take(error, 16)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|cause| cause as _)
    }
}

/// An error with all its reasons in one line: `this: since that: since …`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(inner) = next {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        next = inner.source();
    }
    text
}

/// Why a writer could not do its part. `Display` states this layer only; print the whole chain.
///
/// The classes are VSS's (`VSS_E_WRITERERROR_*`) and those that keys, restores and processes add.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "class", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WriterError {
    /// The shadow copy does not contain all that belongs together.
    #[error("`{writer}`: the shadow copy is not consistent")]
    InconsistentSnapshot {
        /// The writer's id.
        writer: String,
        /// What is missing.
        #[source]
        cause: Cause,
    },
    /// Memory, disk or descriptors ran out.
    #[error("`{writer}` ran out of resources")]
    OutOfResources {
        /// The writer's id.
        writer: String,
        /// Which.
        #[source]
        cause: Cause,
    },
    /// Not done within its budget. Whatever was begun has been given up.
    #[error("`{writer}` did not {action} within {budget_ms} ms")]
    TimedOut {
        /// The writer's id.
        writer: String,
        /// What it was to do, as a verb: `freeze`.
        action: String,
        /// The budget.
        budget_ms: u64,
    },
    /// Up, but will not quiesce now, for example during a checkpoint.
    #[error("`{writer}` is busy")]
    Busy {
        /// The writer's id.
        writer: String,
        /// With what.
        #[source]
        cause: Cause,
    },
    /// Cannot be done as things are configured or as the application is.
    #[error("`{writer}` refused")]
    Rejected {
        /// The writer's id.
        writer: String,
        /// Why, and what would have to change.
        #[source]
        cause: Cause,
    },
    /// A setting of the writer cannot be used.
    #[error("`{writer}` does not take its settings: {}", with_key(key.as_deref(), problem))]
    InvalidSetting {
        /// The writer's id.
        writer: String,
        /// The key in the writer's table of the configuration, if it is about one.
        key: Option<String>,
        /// What is wrong, and what was expected.
        problem: String,
    },
    /// A privilege is missing.
    #[error("`{writer}` lacks a privilege")]
    Denied {
        /// The writer's id.
        writer: String,
        /// Which, and on what.
        #[source]
        cause: Cause,
    },
    /// The application must run for this and does not, or must not run and does.
    #[error("`{writer}`: the application is {is}, and must be {must}")]
    WrongState {
        /// The writer's id.
        writer: String,
        /// What it is: `running`, `down`, `unknown`.
        is: String,
        /// What it has to be.
        must: String,
    },
    /// Recovery of a copy failed: this copy is unusable.
    #[error("`{writer}`: recovery failed")]
    RecoveryFailed {
        /// The writer's id.
        writer: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// Some components failed, the others are good.
    #[error("`{writer}`: {} components failed", components.len())]
    PartialFailure {
        /// The writer's id.
        writer: String,
        /// Full names of those that failed, with the reason of each.
        components: BTreeMap<String, Cause>,
    },
    /// A key is missing, does not fit, or could not be sealed (promise P9).
    #[error("`{writer}`: a key is missing, does not fit, or cannot be sealed")]
    Key {
        /// The writer's id.
        writer: String,
        /// Which key, and why. Never any part of it.
        #[source]
        cause: Cause,
    },
    /// A log chain has a gap or belongs to another history.
    #[error("`{writer}`: the log chain is broken")]
    ChainBroken {
        /// The writer's id.
        writer: String,
        /// Where.
        #[source]
        cause: Cause,
    },
    /// An optional part of the contract that this writer does not have.
    #[error("`{writer}` does not support {what}")]
    Unsupported {
        /// The writer's id.
        writer: String,
        /// The part.
        what: String,
    },
    /// The writer's process ended, spoke nonsense, or panicked. Whatever it held is released.
    #[error("`{writer}` stopped responding")]
    NotResponding {
        /// The writer's id.
        writer: String,
        /// How that showed.
        #[source]
        cause: Cause,
    },
    /// It takes no part this time, as it says itself: the application is not there, or has nothing to hold. A writer that
    /// is expected and absent is a failure, unless the user allowed that by name.
    #[error("`{writer}` takes no part")]
    Skipped {
        /// The writer's id.
        writer: String,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// Thaw could not be confirmed: the application may still be held. Someone must look.
    #[error("`{writer}` may still be frozen")]
    StuckFrozen {
        /// The writer's id.
        writer: String,
        /// What was tried.
        #[source]
        cause: Cause,
    },
}

/// A complaint that names its key once.
fn with_key(key: Option<&str>, problem: &str) -> String {
    match key {
        Some(key) if !problem.contains(&format!("`{key}`")) => format!("`{key}`: {problem}"),
        Some(_) | None => problem.to_owned(),
    }
}

/// Whether trying again helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// As it is, soon.
    AsIs,
    /// With less load.
    WhenQuieter,
    /// After a change that the error names.
    AfterChange,
    /// Not at all.
    Never,
}

/// What the requester does with a set in which this happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reaction {
    /// Thaw everybody, remove every partial shadow copy, no set (promise P2), unless the user allowed
    /// this writer to fail by name.
    AbortSet,
    /// Never covered by a permission: stop, and tell a person that something may still be held.
    Page,
}

impl WriterError {
    /// A refusal with its reason.
    pub fn rejected(writer: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Rejected { writer: writer.into(), cause: Cause::new(why) }
    }

    /// The answer of a part of the contract that the writer does not have.
    pub fn unsupported(writer: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Unsupported { writer: writer.into(), what: what.into() }
    }

    /// `action`, a verb such as `freeze`, took longer than `budget`.
    pub fn timed_out(writer: impl Into<String>, action: impl Into<String>, budget: Duration) -> Self {
        Self::TimedOut { writer: writer.into(), action: action.into(), budget_ms: millis(budget) }
    }

    /// The writer's process, or its code, is gone.
    pub fn not_responding(writer: impl Into<String>, how: impl Into<String>) -> Self {
        Self::NotResponding { writer: writer.into(), cause: Cause::new(how) }
    }

    /// Whether trying again helps. No `_` arm: a new variant must answer.
    pub const fn retry(&self) -> Retry {
        match self {
            Self::Busy { .. } => Retry::AsIs,
            Self::TimedOut { .. } | Self::OutOfResources { .. } => Retry::WhenQuieter,
            Self::InconsistentSnapshot { .. }
            | Self::Rejected { .. }
            | Self::InvalidSetting { .. }
            | Self::Denied { .. }
            | Self::WrongState { .. }
            | Self::Key { .. }
            | Self::Skipped { .. }
            | Self::ChainBroken { .. } => Retry::AfterChange,
            Self::RecoveryFailed { .. }
            | Self::PartialFailure { .. }
            | Self::Unsupported { .. }
            | Self::NotResponding { .. }
            | Self::StuckFrozen { .. } => Retry::Never,
        }
    }

    /// What the requester does about it.
    pub const fn reaction(&self) -> Reaction {
        match self {
            Self::StuckFrozen { .. } => Reaction::Page,
            Self::Busy { .. }
            | Self::TimedOut { .. }
            | Self::OutOfResources { .. }
            | Self::InconsistentSnapshot { .. }
            | Self::Rejected { .. }
            | Self::InvalidSetting { .. }
            | Self::Denied { .. }
            | Self::WrongState { .. }
            | Self::Key { .. }
            | Self::ChainBroken { .. }
            | Self::RecoveryFailed { .. }
            | Self::PartialFailure { .. }
            | Self::Unsupported { .. }
            | Self::Skipped { .. }
            | Self::NotResponding { .. } => Reaction::AbortSet,
        }
    }

    /// The id of the writer it is about.
    pub fn writer(&self) -> &str {
        match self {
            Self::InconsistentSnapshot { writer, .. }
            | Self::OutOfResources { writer, .. }
            | Self::TimedOut { writer, .. }
            | Self::Busy { writer, .. }
            | Self::Rejected { writer, .. }
            | Self::InvalidSetting { writer, .. }
            | Self::Denied { writer, .. }
            | Self::WrongState { writer, .. }
            | Self::RecoveryFailed { writer, .. }
            | Self::PartialFailure { writer, .. }
            | Self::Key { writer, .. }
            | Self::ChainBroken { writer, .. }
            | Self::Unsupported { writer, .. }
            | Self::NotResponding { writer, .. }
            | Self::Skipped { writer, .. }
            | Self::StuckFrozen { writer, .. } => writer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_crosses_a_process_boundary_with_its_whole_chain() {
        let io = std::io::Error::new(std::io::ErrorKind::PermissionDenied, Cause::new("inner"));
        let error = WriterError::Denied { writer: "ca".into(), cause: Cause::from_error(&io) };
        let text = serde_json::to_string(&error).unwrap();
        assert_eq!(serde_json::from_str::<WriterError>(&text).unwrap(), error);
        assert!(text.contains(r#""class":"denied""#), "{text}");
    }

    #[test]
    fn only_a_stuck_freeze_pages_someone() {
        let cause = Cause::new("x");
        let stuck = WriterError::StuckFrozen { writer: "w".into(), cause: cause.clone() };
        assert_eq!((stuck.reaction(), stuck.retry()), (Reaction::Page, Retry::Never));
        let busy = WriterError::Busy { writer: "w".into(), cause };
        assert_eq!((busy.reaction(), busy.retry()), (Reaction::AbortSet, Retry::AsIs));
    }
}

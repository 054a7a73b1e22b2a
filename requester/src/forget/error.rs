//! Why nothing was forgotten, in words that name every set it is about.

use std::fmt;

use uuid::Uuid;

use super::facts::{Name, Unreadable};
use crate::repository::RepositoryError;
use crate::repository::keep::KeepError;

/// Why nothing was forgotten. But for [`ForgetError::Removing`] nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForgetError {
    /// The repository is locked, damaged as a whole, or does not answer.
    #[error("the repository cannot be used")]
    Repository {
        /// Its answer.
        #[from]
        source: RepositoryError,
    },
    /// The rules cannot be used.
    #[error("the rules cannot be used")]
    Policy {
        /// Why.
        #[from]
        source: KeepError,
    },
    /// Sets that cannot be read: nobody knows what they build on, nor what they have the last copy of.
    #[error("{}", lines(sets.iter().map(|set| format!("{set}: {}", causes(&set.why)))))]
    Unreadable {
        /// All of them, at least one.
        sets: Vec<Unreadable>,
    },
    /// No set is called so.
    #[error("there is no set `{text}`")]
    NoSuchSet {
        /// As given.
        text: String,
    },
    /// Several sets are called so.
    #[error("more than one set begins with `{text}`")]
    SeveralSets {
        /// As given.
        text: String,
    },
    /// What was named is needed.
    #[error("{}", lines(needed.iter().map(ToString::to_string)))]
    Needed {
        /// All reasons, at least one.
        needed: Vec<Needed>,
    },
    /// Removing failed half-way: some sets may be gone.
    #[error("removing them failed")]
    Removing {
        /// The repository's answer.
        #[source]
        source: RepositoryError,
    },
}

/// Why a named set does not go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Needed {
    /// A set that stays cannot be restored without it.
    #[error("set {by} builds on set {set}")]
    Base {
        /// What was named.
        set: Uuid,
        /// What stays.
        by: Uuid,
    },
    /// A set that stays may build on it.
    #[error("{by} cannot be read, and may build on what was named")]
    PerhapsBase {
        /// What stays.
        by: Name,
    },
    /// What it has may be nowhere else.
    #[error("{name} {loss}")]
    LastCopy {
        /// What was named.
        name: Name,
        /// What would be lost with it.
        loss: Loss,
    },
}

impl Needed {
    /// Whether the user may insist. What stays must remain restorable, whoever insists.
    pub const fn may_be_insisted_on(&self) -> bool {
        match self {
            Self::Base { .. } | Self::PerhapsBase { .. } => false,
            Self::LastCopy { .. } => true,
        }
    }
}

/// What goes for good with a set, said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// A key or component that no set has which stays.
    Last(String),
    /// The set cannot be read.
    Unknown,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Last(what) => write!(f, "is the last with {what}"),
            Self::Unknown => {
                f.write_str("cannot be read: nobody knows whether it has the last copy of something")
            }
        }
    }
}

fn lines(texts: impl Iterator<Item = String>) -> String {
    texts.collect::<Vec<_>>().join("\n       ")
}

/// An error and what is below it, on one line: a list of several has no chain of its own.
fn causes(error: &dyn std::error::Error) -> String {
    let chain = std::iter::successors(Some(error), |error| error.source());
    chain.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

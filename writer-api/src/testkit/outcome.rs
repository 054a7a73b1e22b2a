//! How a check ends.

use serde::{Deserialize, Serialize};

use super::fixture::FixtureError;
use crate::{WriterError, chain};

/// What came of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// It is kept.
    Ok {
        /// What a person should know besides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// It is broken.
    Failed {
        /// What was seen.
        saw: String,
    },
    /// It says nothing about this writer.
    NotApplicable {
        /// Why.
        why: String,
    },
    /// It concerns this writer, and the fixture cannot show it.
    NotChecked {
        /// What the fixture cannot do.
        why: String,
    },
    /// What has to work first did not: another rule's matter, or the fixture's.
    Blocked {
        /// What did not work.
        why: String,
        /// The rule that is about it, if one is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        see: Option<String>,
    },
}

impl Outcome {
    /// Whether a writer with this outcome is not to be trusted.
    pub const fn is_bad(&self) -> bool {
        match self {
            Self::Failed { .. } | Self::Blocked { .. } => true,
            Self::Ok { .. } | Self::NotApplicable { .. } | Self::NotChecked { .. } => false,
        }
    }
}

/// What a check returns: a note if there is something to say, or why it stopped.
pub type Verdict = Result<Option<String>, Stop>;

/// Why a check stopped.
#[derive(Debug)]
pub enum Stop {
    /// The rule is broken: what was seen.
    Broken(String),
    /// What that rule is about did not work. If it is the rule itself, it is broken.
    Elsewhere { rule: &'static str, what: String },
    /// The fixture failed.
    Fixture(String),
    /// The fixture cannot do what the check needs.
    Unable(String),
    /// The rule says nothing about this writer.
    NotApplicable(String),
}

impl Stop {
    pub fn broken(saw: impl Into<String>) -> Self {
        Self::Broken(saw.into())
    }

    pub fn elsewhere(rule: &'static str, what: impl Into<String>) -> Self {
        Self::Elsewhere { rule, what: what.into() }
    }

    /// What that means for the rule `id`.
    pub fn outcome(self, id: &str) -> Outcome {
        match self {
            Self::Broken(saw) => Outcome::Failed { saw },
            Self::Elsewhere { rule, what } if rule == id => Outcome::Failed { saw: what },
            Self::Elsewhere { rule, what } => Outcome::Blocked { why: what, see: Some(rule.into()) },
            Self::Fixture(why) => Outcome::Blocked { why: format!("the fixture failed: {why}"), see: None },
            Self::Unable(why) => Outcome::NotChecked { why },
            Self::NotApplicable(why) => Outcome::NotApplicable { why },
        }
    }
}

impl From<FixtureError> for Stop {
    fn from(error: FixtureError) -> Self {
        match error {
            FixtureError::Unable { .. } => Self::Unable(error.to_string()),
            FixtureError::Failed { .. } | FixtureError::Missing { .. } => Self::Fixture(chain(&error)),
        }
    }
}

/// The writer's answer as what was seen: `` `Thaw` was answered with: … ``.
pub fn answered(method: &str, error: &WriterError) -> String {
    format!("`{method}` was answered with: {}", chain(error))
}

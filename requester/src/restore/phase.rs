//! The phases of a restore and the one table of legal moves between them.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::Problem;

/// How far a restore has come. Stored in the marker; an interrupted restore goes on from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Data are being laid beside the target. The live paths are untouched.
    Staging,
    /// Everything was checked; the live paths are about to be blocked, or some are.
    Registered,
    /// Every live path is blocked. Recovery works on the staged data.
    Blocked,
    /// Recovery is finished; the staged data are what the application shall get.
    Recovered,
    /// The live paths are being exchanged for the staged data, one after the other.
    Publishing,
    /// Every live path is the new data. The old lie aside until [`Settling`](Self::Settling).
    Published,
    /// Finished, but the old data are kept and the restore can still be undone.
    Settled,
    /// The old data are being removed. No way back.
    Settling,
    /// The old data are being put back. No other way out.
    RollingBack,
}

impl Phase {
    /// Whether an application's start gate must hold: anything between "untouched" and "complete new".
    pub const fn gates_start(self) -> bool {
        match self {
            Self::Registered | Self::Blocked | Self::Recovered | Self::Publishing | Self::RollingBack => true,
            Self::Staging | Self::Published | Self::Settled | Self::Settling => false,
        }
    }

    /// Whether going on from here moves live data, so that the application must be seen to be down first.
    pub const fn needs_offline(self) -> bool {
        match self {
            Self::Registered | Self::Publishing | Self::RollingBack => true,
            Self::Staging
            | Self::Blocked
            | Self::Recovered
            | Self::Published
            | Self::Settled
            | Self::Settling => false,
        }
    }

    /// The phase after `event`.
    ///
    /// # Errors
    /// [`Problem::IllegalMove`] for everything the table does not name.
    pub fn after(self, event: Event) -> Result<Self, Problem> {
        use {Event as E, Phase as P};
        match (self, event) {
            (P::Staging, E::Register) => Ok(P::Registered),
            (P::Registered, E::BlockDone) => Ok(P::Blocked),
            (P::Blocked, E::RecoveryDone) => Ok(P::Recovered),
            (P::Recovered, E::PublishStarted) => Ok(P::Publishing),
            (P::Publishing, E::PublishDone) => Ok(P::Published),
            (P::Published, E::OldKept) => Ok(P::Settled),
            (P::Published | P::Settled, E::SettleStarted) => Ok(P::Settling),
            // From Settling there is no way back: part of the old data may be gone already.
            (
                P::Staging
                | P::Registered
                | P::Blocked
                | P::Recovered
                | P::Publishing
                | P::Published
                | P::Settled,
                E::RollbackStarted,
            ) => Ok(P::RollingBack),
            (phase, event) => Err(Problem::IllegalMove { phase, event }),
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Staging => "staging",
            Self::Registered => "registered",
            Self::Blocked => "blocked",
            Self::Recovered => "recovered",
            Self::Publishing => "publishing",
            Self::Published => "published",
            Self::Settled => "settled",
            Self::Settling => "settling",
            Self::RollingBack => "rolling-back",
        })
    }
}

/// What moves a restore from phase to phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// All checks passed on what was staged.
    Register,
    /// Every live path is blocked.
    BlockDone,
    /// The recovery engine finished on the staged data.
    RecoveryDone,
    /// The staged data are final and durable.
    PublishStarted,
    /// Every live path is the new data.
    PublishDone,
    /// Finished, old data kept.
    OldKept,
    /// The old data are to be removed.
    SettleStarted,
    /// The old data are to be put back.
    RollbackStarted,
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [Phase; 9] = [
        Phase::Staging,
        Phase::Registered,
        Phase::Blocked,
        Phase::Recovered,
        Phase::Publishing,
        Phase::Published,
        Phase::Settled,
        Phase::Settling,
        Phase::RollingBack,
    ];

    #[test]
    fn nothing_leaves_a_rollback_or_the_removal_of_old_data() {
        for event in [
            Event::Register,
            Event::BlockDone,
            Event::RecoveryDone,
            Event::PublishStarted,
            Event::PublishDone,
            Event::OldKept,
            Event::SettleStarted,
            Event::RollbackStarted,
        ] {
            assert!(Phase::RollingBack.after(event).is_err(), "{event:?}");
            assert!(Phase::Settling.after(event).is_err(), "{event:?}");
        }
    }

    #[test]
    fn publishing_needs_a_finished_recovery() {
        for phase in PHASES {
            assert_eq!(phase.after(Event::PublishStarted).is_ok(), phase == Phase::Recovered, "{phase}");
        }
    }

    #[test]
    fn a_phase_is_written_as_it_is_shown() {
        for phase in PHASES {
            assert_eq!(serde_json::to_string(&phase).unwrap(), format!("\"{phase}\""));
        }
    }
}

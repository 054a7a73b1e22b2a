//! The states of a writer in a session, and the one table of legal moves between them.
//!
//! The same function serves live runs and the replay of an event log after a crash. The states are
//! VSS's (`VSS_WRITER_STATE`); *freezing*, *thawing* and *stuck* are ours, since the moments in which
//! an application may be half held are the ones that matter at 3 am.

use serde::{Deserialize, Serialize};

/// The phases of a session that reach writers, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// `identify`.
    Identify,
    /// `prepare_backup`, keys included.
    PrepareBackup,
    /// `prepare_snapshot`.
    PrepareSnapshot,
    /// `freeze`.
    Freeze,
    /// `thaw`.
    Thaw,
    /// `post_snapshot`.
    PostSnapshot,
    /// `backup_complete`.
    BackupComplete,
    /// The end of the session.
    BackupShutdown,
}

/// What a writer is doing, or waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", content = "at", rename_all = "kebab-case")]
pub enum State {
    /// Idle.
    Stable,
    /// Identified and prepared: nothing is held.
    Prepared,
    /// `prepare_snapshot` is done.
    WaitingForFreeze,
    /// `freeze` was called: may be held.
    Freezing,
    /// Held.
    WaitingForThaw,
    /// `thaw` was called: may be held.
    Thawing,
    /// Free.
    WaitingForPostSnapshot,
    /// Waits for the set to be stored.
    WaitingForBackupComplete,
    /// Failed in that phase, and holds nothing.
    FailedAt(Phase),
    /// A thaw could not be confirmed: may still be held. Only a person ends this.
    Stuck,
}

impl State {
    /// Whether the application may be held in this state.
    pub const fn may_be_held(self) -> bool {
        match self {
            Self::Freezing | Self::WaitingForThaw | Self::Thawing | Self::Stuck => true,
            Self::Stable
            | Self::Prepared
            | Self::WaitingForFreeze
            | Self::WaitingForPostSnapshot
            | Self::WaitingForBackupComplete
            | Self::FailedAt(_) => false,
        }
    }
}

/// What happens to a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "event", content = "phase", rename_all = "kebab-case")]
pub enum Event {
    /// `prepare_backup` returned `Ok`.
    BackupPrepared,
    /// `prepare_snapshot` returned `Ok`.
    SnapshotPrepared,
    /// `freeze` was called.
    FreezeStarted,
    /// `freeze` returned `Ok`.
    FreezeDone,
    /// `thaw` was called.
    ThawStarted,
    /// `thaw` returned `Ok`.
    ThawDone,
    /// `thaw` did not confirm.
    ThawFailed,
    /// `post_snapshot` returned `Ok`.
    PostSnapshotDone,
    /// `backup_complete` returned `Ok`.
    BackupCompleted,
    /// The phase failed; nothing is held.
    Failed(Phase),
    /// The session ended or gave up.
    Ended,
}

/// A move that the table does not have: a fault in the requester, never in a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{event:?} is not possible in state {state:?}")]
pub struct IllegalMove {
    /// Where the writer was.
    pub state: State,
    /// What was to happen.
    pub event: Event,
}

impl State {
    /// The table of legal moves.
    ///
    /// # Errors
    /// [`IllegalMove`] for all that is not in it.
    pub const fn next(self, event: Event) -> Result<Self, IllegalMove> {
        use Event as E;
        use State as S;
        match (self, event) {
            (S::Stable, E::BackupPrepared) => Ok(S::Prepared),
            (S::Prepared, E::SnapshotPrepared) => Ok(S::WaitingForFreeze),
            (S::WaitingForFreeze, E::FreezeStarted) => Ok(S::Freezing),
            (S::Freezing, E::FreezeDone) => Ok(S::WaitingForThaw),
            // A freeze that failed or was cut off may hold the application: always thaw.
            (S::Freezing | S::WaitingForThaw | S::Thawing, E::ThawStarted) => Ok(S::Thawing),
            (S::Thawing, E::ThawDone) => Ok(S::WaitingForPostSnapshot),
            (S::Thawing, E::ThawFailed) => Ok(S::Stuck),
            (S::WaitingForPostSnapshot, E::PostSnapshotDone) => Ok(S::WaitingForBackupComplete),
            (S::WaitingForBackupComplete, E::BackupCompleted) => Ok(S::Stable),
            // A failure is only final once nothing is held: from the held states it goes through thaw.
            (
                S::Stable
                | S::Prepared
                | S::WaitingForFreeze
                | S::WaitingForPostSnapshot
                | S::WaitingForBackupComplete
                | S::FailedAt(_),
                E::Failed(phase),
            ) => Ok(S::FailedAt(phase)),
            (
                S::Stable
                | S::Prepared
                | S::WaitingForFreeze
                | S::WaitingForPostSnapshot
                | S::WaitingForBackupComplete
                | S::FailedAt(_),
                E::Ended,
            ) => Ok(S::Stable),
            (state, event) => Err(IllegalMove { state, event }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 10] = [
        State::Stable,
        State::Prepared,
        State::WaitingForFreeze,
        State::Freezing,
        State::WaitingForThaw,
        State::Thawing,
        State::WaitingForPostSnapshot,
        State::WaitingForBackupComplete,
        State::FailedAt(Phase::Freeze),
        State::Stuck,
    ];
    const EVENTS: [Event; 11] = [
        Event::BackupPrepared,
        Event::SnapshotPrepared,
        Event::FreezeStarted,
        Event::FreezeDone,
        Event::ThawStarted,
        Event::ThawDone,
        Event::ThawFailed,
        Event::PostSnapshotDone,
        Event::BackupCompleted,
        Event::Failed(Phase::Freeze),
        Event::Ended,
    ];

    #[test]
    fn no_move_leads_out_of_a_hold_but_through_a_thaw() {
        for state in STATES.into_iter().filter(|s| s.may_be_held()) {
            for event in EVENTS {
                if let Ok(next) = state.next(event) {
                    assert!(next.may_be_held() || event == Event::ThawDone, "{state:?} {event:?} {next:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_leads_out_of_stuck() {
        assert!(EVENTS.into_iter().all(|event| State::Stuck.next(event).is_err()));
    }

    #[test]
    fn a_whole_run_ends_where_it_began() {
        use Event as E;
        let run = [
            E::BackupPrepared,
            E::SnapshotPrepared,
            E::FreezeStarted,
            E::FreezeDone,
            E::ThawStarted,
            E::ThawDone,
            E::PostSnapshotDone,
            E::BackupCompleted,
        ];
        let end = run.into_iter().try_fold(State::Stable, State::next);
        assert_eq!(end, Ok(State::Stable));
    }

    #[test]
    fn every_state_that_holds_nothing_can_end() {
        for state in STATES.into_iter().filter(|s| !s.may_be_held()) {
            assert_eq!(state.next(Event::Ended), Ok(State::Stable));
        }
    }
}

//! What can go wrong while names are swapped, and in what state that leaves the live paths.
//! Leaves to others: exit codes and wording of advice beyond one command.

use std::{fmt, io, path::PathBuf};

use super::phase::{Event, Phase};

/// A failed step of a restore: what went wrong, and how the live paths stand now.
#[derive(Debug, thiserror::Error)]
#[error("{problem}")]
pub struct RestoreError {
    /// What went wrong. Its own source is this error's source.
    pub problem: Problem,
    /// How the live paths stand now.
    pub state: LiveState,
}

impl RestoreError {
    /// True when the live paths are as they were: a refusal, not a failure.
    pub const fn nothing_changed(&self) -> bool {
        matches!(self.state, LiveState::Unchanged)
    }
}

/// How the live paths stand after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveState {
    /// No live path was touched and the start gate does not hold.
    Unchanged,
    /// The restore is registered: the start gate holds, and some or all live paths are blocked.
    Blocked,
    /// Some live paths are the new data, the rest are blocked.
    PartlyPublished,
    /// All live paths are the new data; only clearing up is unfinished.
    Published,
    /// The old data are on their way back; some live paths are blocked.
    RollingBack,
}

impl LiveState {
    /// The state a restore in `phase` leaves the live paths in.
    pub const fn of(phase: Phase) -> Self {
        match phase {
            Phase::Staging => Self::Unchanged,
            Phase::Registered | Phase::Blocked | Phase::Recovered => Self::Blocked,
            Phase::Publishing => Self::PartlyPublished,
            Phase::Published | Phase::Settled | Phase::Settling => Self::Published,
            Phase::RollingBack => Self::RollingBack,
        }
    }
}

impl fmt::Display for LiveState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchanged => "nothing was changed",
            Self::Blocked => {
                "the restore is registered and its live paths are blocked; run `holdfast recover`"
            }
            Self::PartlyPublished => {
                "some live paths are restored, the others are blocked; run `holdfast recover`"
            }
            Self::Published => {
                "the live paths are the restored data; clearing up is unfinished, run `holdfast recover`"
            }
            Self::RollingBack => {
                "the old data are being put back, live paths may be blocked; run `holdfast recover`"
            }
        })
    }
}

/// One thing that went wrong. `Display` states this layer only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A system call failed.
    #[error("cannot {what} `{path}`")]
    Io {
        /// The verb, for example "create".
        what: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The path cannot name a unit.
    #[error("`{path}` cannot be a restore target: {why}")]
    BadPath {
        /// The path as given.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A folder on the way is a link that somebody else could have planted.
    #[error("`{path}` passes through the link `{link}`, which others can change")]
    LinkInPath {
        /// The path as given.
        path: PathBuf,
        /// The link.
        link: PathBuf,
    },
    /// The folder that holds the target is itself a link.
    #[error("the folder of the target, `{path}`, is a link; name the folder it points to")]
    ParentIsLink {
        /// The link.
        path: PathBuf,
    },
    /// Everyone may rename entries in the target's folder.
    #[error("`{path}` is writable by everyone and not sticky")]
    ParentOpenToAll {
        /// The folder.
        path: PathBuf,
    },
    /// The target's folder is not the one that was planned for.
    #[error("`{path}` is no longer the folder it was")]
    ParentChanged {
        /// The folder.
        path: PathBuf,
    },
    /// The live path is a link or a device, socket or pipe.
    #[error("`{path}` is a link or special file, not a file or folder of its own")]
    LiveNotPlain {
        /// The live path.
        path: PathBuf,
    },
    /// The live path is not what it was when the restore was planned or registered.
    #[error("`{path}` was changed by somebody else since the restore was planned")]
    LiveChanged {
        /// The live path.
        path: PathBuf,
    },
    /// The live path is a mount point and cannot be replaced as a whole.
    #[error("`{path}` is a mount point and cannot be exchanged")]
    MountPoint {
        /// The live path.
        path: PathBuf,
    },
    /// Without privileges a folder must be writable by its owner to be moved.
    #[error("`{path}` cannot be moved without root: the folder is not writable by its owner")]
    NotMovable {
        /// The folder.
        path: PathBuf,
    },
    /// Two targets of one restore cover each other.
    #[error("`{first}` and `{second}` overlap")]
    Overlap {
        /// One target.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// The filesystem cannot exchange two names atomically.
    #[error("the filesystem of `{path}` cannot exchange two names at once (RENAME_EXCHANGE)")]
    NoExchange {
        /// The target's folder.
        path: PathBuf,
    },
    /// Another restore has this path.
    #[error("`{path}` belongs to the unfinished restore {restore}")]
    Busy {
        /// The live path.
        path: PathBuf,
        /// The other restore.
        restore: uuid::Uuid,
    },
    /// Nothing was staged for a unit.
    #[error("nothing is staged at `{path}`")]
    StagedMissing {
        /// Where it should lie.
        path: PathBuf,
    },
    /// What is staged is not of the unit's kind.
    #[error("`{path}` is not a {expected}")]
    StagedWrongKind {
        /// The staged path.
        path: PathBuf,
        /// "file" or "folder".
        expected: &'static str,
    },
    /// The staging folder has gone, or is not the one this restore made.
    #[error("`{path}` is not the staging folder this restore made")]
    StagingNotOurs {
        /// The staging folder.
        path: PathBuf,
    },
    /// A side file stands where none may be: an application ran while the path was blocked.
    #[error("`{path}` appeared while its main file was blocked; stop what made it, then move it away")]
    StrayCompanion {
        /// The side file.
        path: PathBuf,
    },
    /// The blocker was taken away and something else stands in its place.
    #[error("the blocker at `{path}` was replaced by something else; move that away")]
    BlockerReplaced {
        /// The live path.
        path: PathBuf,
    },
    /// Data that nobody accounted for lie beside the old data, which are never deleted unseen.
    #[error("`{path}` still holds data that belong nowhere; look at them, then remove them")]
    OldDataLeft {
        /// The folder of the old data.
        path: PathBuf,
    },
    /// A rollback after publishing has to be asked for by name.
    #[error("`{path}` is already the restored data; putting the old back has to be asked for")]
    AlreadyPublished {
        /// A live path that is new already.
        path: PathBuf,
    },
    /// The step does not follow from the restore's phase.
    #[error("a restore in phase `{phase}` cannot do `{event:?}`")]
    IllegalMove {
        /// The phase.
        phase: Phase,
        /// What was asked.
        event: Event,
    },
    /// A path of this restore is not one of its units.
    #[error("`{path}` is not a target of this restore")]
    NoSuchUnit {
        /// The path.
        path: PathBuf,
    },
    /// No marker of that name.
    #[error("no restore {restore} is registered")]
    NoSuchRestore {
        /// The restore asked for.
        restore: uuid::Uuid,
    },
    /// The folder of the markers could be changed by others.
    #[error("`{path}` does not belong to this user alone")]
    StateNotOurs {
        /// The folder or file.
        path: PathBuf,
    },
    /// The marker is not readable as one.
    #[error("the marker `{path}` cannot be read")]
    MarkerUnreadable {
        /// The marker.
        path: PathBuf,
        /// What the parser said.
        #[source]
        source: serde_json::Error,
    },
    /// The marker was written by a newer Holdfast.
    #[error("the marker `{path}` has schema `{schema}`, which this version does not know")]
    MarkerNewer {
        /// The marker.
        path: PathBuf,
        /// The schema it names.
        schema: String,
    },
    /// The marker contradicts itself.
    #[error("the marker `{path}` is damaged: {why}")]
    MarkerDamaged {
        /// The marker.
        path: PathBuf,
        /// The contradiction.
        why: &'static str,
    },
    /// The caller's [`Steps`](super::Steps) asked to stop here.
    #[error("stopped at `{step}`")]
    Stopped {
        /// The step that had just been done.
        step: &'static str,
    },
}

impl Problem {
    pub(super) fn io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let path = path.into();
        move |errno| Self::Io { what, path, source: errno.into() }
    }

    pub(super) fn std_io(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { what, path, source }
    }
}

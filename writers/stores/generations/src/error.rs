//! Why a log generation, a range of them or a recovery was refused.
//! Owns: one variant for each of JET's errors that can have a cause here, its number, and what to do about it.
//! Leaves to others: exit codes.
//!
//! Those of `JetExternalRestore` that cannot have a cause here are listed, with the reason, in
//! `docs/format-generations.md`.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::format::Fault;

/// Whose a folder of generations is: it decides what damage in one means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Restored from backup sets: all of it is needed (phases I and IIa).
    Backup,
    /// Where the application's own generations still are: may be absent entirely (phase IIb).
    Live,
}

/// Why a generation, a range or a recovery was refused. Each variant has the name of the error of
/// `JetExternalRestore` whose meaning it has, and its [number](Self::jet). `Display` states this layer only; print the
/// whole chain, and [`help`](Self::help) beside it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// An argument makes no sense, or not with another one.
    #[error("{what}")]
    InvalidParameter {
        /// Which, and why.
        what: &'static str,
    },
    /// A folder is not there or is none, or a file is no regular file.
    #[error("`{}` {why}", path.display())]
    InvalidPath {
        /// The path.
        path: PathBuf,
        /// What it is instead.
        why: &'static str,
    },
    /// A generation inside the range that was asked for, or a base copy, is not there.
    #[error("`{}` is needed and missing", path.display())]
    FileNotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file that is about to be written exists. It is left as it is.
    #[error("`{}` exists already", path.display())]
    FileAlreadyExists {
        /// The file.
        path: PathBuf,
    },
    /// The file system has no room left.
    #[error("no room is left to write `{}`", path.display())]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The file system refused for another reason.
    #[error("cannot {action} `{}`", path.display())]
    DiskIo {
        /// The file or folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// All generation numbers are used.
    #[error("generation {last:X} is the last a chain can have", last = u32::MAX)]
    LogSequenceEnd,
    /// A generation of a format this version does not know.
    #[error("`{}` is of format version {found}; this program reads version 1", path.display())]
    BadLogVersion {
        /// The file.
        path: PathBuf,
        /// The version it names.
        found: u32,
    },
    /// A file's name is another generation's.
    #[error("`{}` is generation {number:05X} by its header", path.display())]
    LogGenerationMismatch {
        /// The file.
        path: PathBuf,
        /// What its header says.
        number: u32,
    },
    /// A generation from a backup set is of another chain.
    #[error("`{}` belongs to the log set {found}, not to {expected}", path.display())]
    GivenLogFileHasBadSignature {
        /// The file.
        path: PathBuf,
        /// Its chain.
        found: Uuid,
        /// The chain of the others.
        expected: Uuid,
    },
    /// A generation from a backup set is of the chain, but does not follow the one before it.
    #[error("`{}` does not follow generation {before:05X}: {why}", path.display())]
    GivenLogFileIsNotContiguous {
        /// The file.
        path: PathBuf,
        /// The generation it should follow.
        before: u32,
        /// What does not fit.
        why: &'static str,
    },
    /// A generation in the live folder is of another chain.
    #[error("`{}` belongs to the log set {found}, not to {expected}", path.display())]
    ExistingLogFileHasBadSignature {
        /// The file.
        path: PathBuf,
        /// Its chain.
        found: Uuid,
        /// The chain that is recovered.
        expected: Uuid,
    },
    /// A generation in the live folder is of the chain, but does not follow the one before it.
    #[error("`{}` does not follow generation {before:05X}: {why}", path.display())]
    ExistingLogFileIsNotContiguous {
        /// The file.
        path: PathBuf,
        /// The generation it should follow.
        before: u32,
        /// What does not fit.
        why: &'static str,
    },
    /// The live folder has later generations, but not the one that comes next.
    #[error("`{}` is missing, though later ones are there", path.display())]
    MissingCurrentLogFiles {
        /// Where the missing one was looked for.
        path: PathBuf,
    },
    /// A generation from a backup set ends too early, or with zeros.
    #[error("`{}` is torn at byte {at}: {why}", path.display())]
    LogTornWriteDuringHardRestore {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from its start.
        at: u64,
        /// What was missing.
        why: &'static str,
    },
    /// A generation from a backup set is damaged.
    #[error("`{}` is damaged at byte {at}: {why}", path.display())]
    LogCorruptDuringHardRestore {
        /// The file.
        path: PathBuf,
        /// How far it had been read, in bytes from its start.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A generation in the live folder ends too early, or with zeros.
    #[error("`{}` is torn at byte {at}: {why}", path.display())]
    LogTornWriteDuringHardRecovery {
        /// The file.
        path: PathBuf,
        /// Where, in bytes from its start.
        at: u64,
        /// What was missing.
        why: &'static str,
    },
    /// A generation in the live folder is damaged.
    #[error("`{}` is damaged at byte {at}: {why}", path.display())]
    LogCorruptDuringHardRecovery {
        /// The file.
        path: PathBuf,
        /// How far it had been read, in bytes from its start.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The range begins after the first generation a base copy needs.
    #[error("`{}` needs generations from {required:05X} on, the range begins with {low:05X}", database.display())]
    StartingRestoreLogTooHigh {
        /// The database, by its path at backup.
        database: PathBuf,
        /// The first generation its base copy needs.
        required: u32,
        /// Where the range begins.
        low: u32,
    },
    /// The range, or the point in time asked for, ends before the base copy is consistent.
    #[error("`{}` needs generations up to {required:05X} whole, and the range or the time asked for ends in {high:05X}",
        database.display())]
    EndingRestoreLogTooLow {
        /// The database, by its path at backup.
        database: PathBuf,
        /// The last generation its base copy needs.
        required: u32,
        /// Where the range ends.
        high: u32,
    },
    /// A database and the generations are not of one log set.
    #[error("`{}` belongs to the log set {database_chain}, the generations to {chain}", database.display())]
    DatabaseLogSetMismatch {
        /// The database, by its path at backup.
        database: PathBuf,
        /// The chain its base copy names.
        database_chain: Uuid,
        /// The chain of the generations.
        chain: Uuid,
    },
    /// The table of databases is not that of the others of its chain, or has not the database asked for.
    #[error("`{}` {why}", path.display())]
    AttachedDatabaseMismatch {
        /// The generation, or the database by its path at backup.
        path: PathBuf,
        /// What differs.
        why: &'static str,
    },
    /// A base copy that no external backup made: it names no generations.
    #[error("`{}` was not made by an external backup: it names no generations", database.display())]
    RestoreOfNonBackupDatabase {
        /// The database, by its path at backup.
        database: PathBuf,
    },
    /// A base copy is not what its stamp says.
    #[error("`{}` is no base copy of this database: {why}", path.display())]
    DatabaseCorrupted {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// A recovery's checkpoint cannot be read.
    #[error("the checkpoint `{}` is damaged", path.display())]
    CheckpointCorrupt {
        /// The file.
        path: PathBuf,
    },
    /// A checkpoint is another recovery's.
    #[error("the checkpoint `{}` belongs to another recovery: its {what} differs", path.display())]
    BadCheckpointSignature {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The caller's progress callback asked to stop.
    #[error("the recovery of `{}` was stopped", path.display())]
    TermInProgress {
        /// The target.
        path: PathBuf,
    },
}

impl LogError {
    /// The number of JET's error of this name.
    #[must_use]
    pub const fn jet(&self) -> i32 {
        match self {
            Self::InvalidParameter { .. } => -1003,
            Self::InvalidPath { .. } => -1023,
            Self::FileNotFound { .. } => -1811,
            Self::FileAlreadyExists { .. } => -1814,
            Self::DiskFull { .. } => -1808,
            Self::DiskIo { .. } => -1022,
            Self::LogSequenceEnd => -519,
            Self::BadLogVersion { .. } => -514,
            Self::LogGenerationMismatch { .. } => -513,
            Self::GivenLogFileHasBadSignature { .. } => -555,
            Self::GivenLogFileIsNotContiguous { .. } => -556,
            Self::ExistingLogFileHasBadSignature { .. } => -610,
            Self::ExistingLogFileIsNotContiguous { .. } => -611,
            Self::MissingCurrentLogFiles { .. } => -565,
            Self::LogTornWriteDuringHardRestore { .. } => -570,
            Self::LogTornWriteDuringHardRecovery { .. } => -571,
            Self::LogCorruptDuringHardRestore { .. } => -573,
            Self::LogCorruptDuringHardRecovery { .. } => -574,
            Self::StartingRestoreLogTooHigh { .. } => -554,
            Self::EndingRestoreLogTooLow { .. } => -553,
            Self::DatabaseLogSetMismatch { .. } => -539,
            Self::AttachedDatabaseMismatch { .. } => -1216,
            Self::RestoreOfNonBackupDatabase { .. } => -615,
            Self::DatabaseCorrupted { .. } => -1206,
            Self::CheckpointCorrupt { .. } => -533,
            Self::BadCheckpointSignature { .. } => -532,
            Self::TermInProgress { .. } => -1000,
        }
    }

    /// What to do about it, as one sentence.
    #[must_use]
    pub const fn help(&self) -> &'static str {
        match self {
            Self::InvalidParameter { .. } => "correct the argument; nothing was changed",
            Self::InvalidPath { .. } => "name the folder that has the generations, and only files in it",
            Self::FileNotFound { .. } => {
                "restore it from the backup set that has it; without it nothing after it can be used"
            }
            Self::FileAlreadyExists { .. } => {
                "look at what it is and move it away; it may be the only copy of something"
            }
            Self::DiskFull { .. } => "make room and start again; what was finished is not done twice",
            Self::DiskIo { .. } => "see the cause; nothing that was there before has been changed",
            Self::LogSequenceEnd => "make a full backup, which begins a new chain",
            Self::BadLogVersion { .. } => "use the version of this program that wrote it, or a later one",
            Self::LogGenerationMismatch { .. } => {
                "give the file its own name back, if the folder does not have that one already"
            }
            Self::GivenLogFileHasBadSignature { .. } => {
                "restore each log set into a folder of its own; generations of two chains never mix"
            }
            Self::GivenLogFileIsNotContiguous { .. } => {
                "restore both generations again from their backup sets; if it stays so, recover up to the one before"
            }
            Self::ExistingLogFileHasBadSignature { .. } => {
                "move the live folder's generations away: they are of another history than the backup"
            }
            Self::ExistingLogFileIsNotContiguous { .. } => {
                "recover without the live folder, or up to the generation before; what follows is of another history"
            }
            Self::MissingCurrentLogFiles { .. } => {
                "put the missing generation back, or recover without the live folder and lose what came after the backup"
            }
            Self::LogTornWriteDuringHardRestore { .. } | Self::LogCorruptDuringHardRestore { .. } => {
                "restore this generation again, from another copy of the backup set if need be"
            }
            Self::LogTornWriteDuringHardRecovery { .. } | Self::LogCorruptDuringHardRecovery { .. } => {
                "recover up to the generation before it; what is in it and after it is lost unless another copy exists"
            }
            Self::StartingRestoreLogTooHigh { .. } => "begin the range at the generation the base copy needs",
            Self::EndingRestoreLogTooLow { .. } => {
                "end the range, or the time asked for, after what the base copy needs; an earlier state needs an older backup"
            }
            Self::DatabaseLogSetMismatch { .. } => {
                "use the generations of the base copy's own log set; after a recovery that is a new one"
            }
            Self::AttachedDatabaseMismatch { .. } => {
                "use generations and base copies of the same log set; a database is added by a full backup"
            }
            Self::RestoreOfNonBackupDatabase { .. } => {
                "restore this database as it is; there is nothing to replay into it"
            }
            Self::DatabaseCorrupted { .. } => "restore the base copy again from its backup set",
            Self::CheckpointCorrupt { .. } => {
                "remove the checkpoint and the unfinished file beside the target, and start again"
            }
            Self::BadCheckpointSignature { .. } => {
                "finish that recovery, or remove its checkpoint and unfinished file, and start again"
            }
            Self::TermInProgress { .. } => "start it again: it goes on where it was; the target is unchanged",
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str, source: impl Into<io::Error>) -> Self {
        let (path, source) = (path.to_owned(), source.into());
        let kind = source.kind();
        if matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            Self::DiskFull { path, source }
        } else if kind == ErrorKind::NotFound {
            Self::FileNotFound { path }
        } else if kind == ErrorKind::AlreadyExists {
            Self::FileAlreadyExists { path }
        } else {
            Self::DiskIo { path, action, source }
        }
    }

    /// What is wrong with a file of that place, found `at` so many bytes.
    pub(crate) fn fault(path: &Path, place: Place, at: u64, fault: Fault) -> Self {
        let path = path.to_owned();
        match (fault, place) {
            (Fault::Version(found), _) => Self::BadLogVersion { path, found },
            (Fault::Torn(why), Place::Backup) => Self::LogTornWriteDuringHardRestore { path, at, why },
            (Fault::Torn(why), Place::Live) => Self::LogTornWriteDuringHardRecovery { path, at, why },
            (Fault::Corrupt(why), Place::Backup) => Self::LogCorruptDuringHardRestore { path, at, why },
            (Fault::Corrupt(why), Place::Live) => Self::LogCorruptDuringHardRecovery { path, at, why },
        }
    }

    pub(crate) fn bad_signature(path: &Path, place: Place, found: Uuid, expected: Uuid) -> Self {
        let path = path.to_owned();
        match place {
            Place::Backup => Self::GivenLogFileHasBadSignature { path, found, expected },
            Place::Live => Self::ExistingLogFileHasBadSignature { path, found, expected },
        }
    }

    pub(crate) fn not_contiguous(path: &Path, place: Place, before: u32, why: &'static str) -> Self {
        let path = path.to_owned();
        match place {
            Place::Backup => Self::GivenLogFileIsNotContiguous { path, before, why },
            Place::Live => Self::ExistingLogFileIsNotContiguous { path, before, why },
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_the_system_answers_is_told_by_name_and_number() {
        for (errno, number) in [
            (Errno::NOSPC, -1808),
            (Errno::DQUOT, -1808),
            (Errno::NOENT, -1811),
            (Errno::EXIST, -1814),
            (Errno::IO, -1022),
        ] {
            assert_eq!(LogError::io(Path::new("/x"), "write", errno).jet(), number);
        }
    }
}

//! What can go wrong between a path and the file that is meant by it.

use std::io;
use std::path::PathBuf;

use super::BadPattern;
use super::meta::Kind;

/// Why a path could not be taken for what it was declared to be. `Display` states this layer only.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// A path that is not absolute, or has `.`, `..` or a NUL in it.
    #[error("{} is not a plain path", path.display())]
    NotPlain {
        /// The path as given.
        path: PathBuf,
    },
    /// Nothing is there.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The path.
        path: PathBuf,
    },
    /// A symbolic link where a file or folder was declared, or on the way to it.
    #[error("{} is a symbolic link, which is not followed", path.display())]
    SymlinkRefused {
        /// The link, or the path that leads through one.
        path: PathBuf,
    },
    /// Another filesystem is mounted there.
    #[error("{} lies on another mount", path.display())]
    MountPoint {
        /// The mount point, or the path that leads through one.
        path: PathBuf,
    },
    /// Another btrfs subvolume begins there.
    #[error("{} is a btrfs subvolume of its own", path.display())]
    Subvolume {
        /// Its root.
        path: PathBuf,
    },
    /// A regular file was declared and something else is there.
    #[error("{} is {found}, not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: Kind,
    },
    /// A folder was declared and something else is there.
    #[error("{} is {found}, not a folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
        /// What it is.
        found: Kind,
    },
    /// The name stands for another file than a moment ago.
    #[error("{} was exchanged while it was being opened", path.display())]
    Exchanged {
        /// The path.
        path: PathBuf,
    },
    /// A hard link to a file of someone else, put into a folder by the folder's owner.
    #[error(
        "{} is a hard link to a file of user {owner}, in a folder of user {folder_owner}",
        path.display()
    )]
    ForeignHardLink {
        /// The path.
        path: PathBuf,
        /// Whose file it is.
        owner: u32,
        /// Whose folder it lies in.
        folder_owner: u32,
    },
    /// A pattern or an exclusion that can match nothing.
    #[error(transparent)]
    BadPattern(#[from] BadPattern),
    /// More folders inside each other than are walked.
    #[error("{} lies more than {limit} folders deep", path.display())]
    TooDeep {
        /// The folder.
        path: PathBuf,
        /// Folders.
        limit: usize,
    },
    /// More entries, links or bytes than are taken.
    #[error("{} has more than {limit} {what}", path.display())]
    TooMany {
        /// Where.
        path: PathBuf,
        /// Of what: `entries`, `links on the way`, `bytes of attributes`.
        what: &'static str,
        /// How many are taken.
        limit: usize,
    },
    /// The kernel's table of mounts could not be understood.
    #[error("line {line} of the mount table cannot be read: {problem}")]
    MountTable {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A path stands on a mount that the table does not list.
    #[error("no mount is listed for {}", path.display())]
    NoMount {
        /// The path.
        path: PathBuf,
    },
    /// A call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl VolumeError {
    /// Names a failed call, giving the refusals that the kernel expresses as error numbers their own names.
    pub(crate) fn from_errno(
        action: &'static str,
        path: impl Into<PathBuf>,
        errno: rustix::io::Errno,
    ) -> Self {
        use rustix::io::Errno;
        let path = path.into();
        match errno {
            Errno::NOENT => Self::Missing { path },
            Errno::LOOP => Self::SymlinkRefused { path },
            Errno::XDEV => Self::MountPoint { path },
            _ => Self::Io { action, path, source: errno.into() },
        }
    }

    /// The call's own error, where one is behind this.
    pub fn io(&self) -> Option<&io::Error> {
        if let Self::Io { source, .. } = self { Some(source) } else { None }
    }
}

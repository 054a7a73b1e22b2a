//! Finds the parts of an installation from its own configuration, one file per product.

pub(crate) mod cfssl;
pub(crate) mod child;
pub(crate) mod django_ca;
pub(crate) mod unit;

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Largest configuration file that is read, in bytes.
const MAX_CONFIGURATION: u64 = 1024 * 1024;

/// Why an installation could not be discovered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoverError {
    /// A file of the installation could not be read.
    #[error("`{path}` cannot be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file does not say what it should.
    #[error("`{path}`: {problem}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// Somebody else could change what would be run or believed (promise P10).
    #[error("`{path}` {problem}")]
    Untrusted {
        /// The file or folder.
        path: PathBuf,
        /// Who could.
        problem: String,
    },
    /// The program that was asked could not be run, or did not answer.
    #[error("`{program}` {problem}")]
    Program {
        /// The program.
        program: PathBuf,
        /// How it failed, and the end of what it said.
        problem: String,
    },
}

impl DiscoverError {
    fn content(path: &Path, problem: impl Into<String>) -> Self {
        Self::Content { path: path.to_owned(), problem: problem.into() }
    }

    /// Whether a privilege is what is missing.
    pub(crate) fn is_denied(&self) -> bool {
        match self {
            Self::Read { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            Self::Untrusted { .. } => true,
            Self::Content { .. } | Self::Program { .. } => false,
        }
    }
}

/// A configuration file as text: regular, bounded, not through a link.
fn read_configuration(path: &Path) -> Result<String, DiscoverError> {
    let failed = |source| DiscoverError::Read { path: path.to_owned(), source };
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(DiscoverError::content(path, "is not a regular file"));
    }
    let mut text = String::new();
    file.take(MAX_CONFIGURATION + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > MAX_CONFIGURATION {
        return Err(DiscoverError::content(path, "has more than 1 MiB: no configuration file"));
    }
    Ok(text)
}

/// Refuses what somebody other than root and `owner` could change.
fn trusted(path: &Path, owner: u32) -> Result<(), DiscoverError> {
    let found =
        std::fs::metadata(path).map_err(|source| DiscoverError::Read { path: path.to_owned(), source })?;
    let problem = if found.uid() != 0 && found.uid() != owner {
        format!("belongs to user {}, not to root or user {owner}", found.uid())
    } else if found.mode() & 0o022 != 0 && !(found.is_dir() && found.mode() & 0o1000 != 0) {
        format!("can be changed by others (mode {:04o})", found.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(DiscoverError::Untrusted { path: path.to_owned(), problem })
}

//! What a person is told when something failed: what, why, what state things are in, what to do next.
//!
//! Owns: exit codes, and the one place where the requester's errors are mapped to them.

use std::error::Error;

use holdfast_writer_api::schema::DocumentError;
use holdfast_writer_api::{RegistryError, WriterError};

use crate::config::ConfigError;
use crate::forget::{ForgetError, Needed, Why};
use crate::repository::RepositoryError;
use crate::session::lock::LockError;

/// The documented exit codes. 4, 8, 9, 10, 11 and 12 all mean: nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Failed; the message says in what state.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// A set was stored, with exceptions that were allowed by name.
    Incomplete = 3,
    /// Refused for a reason without a code of its own.
    Refused = 4,
    /// The freeze was given up; all are thawed; no set.
    FreezeAborted = 5,
    /// A thaw was not confirmed: someone must look.
    ThawNotConfirmed = 6,
    /// Verification or a drill failed.
    VerifyFailed = 7,
    /// A key is missing, cannot be sealed, or does not decrypt.
    Key = 8,
    /// A log chain is broken.
    ChainBroken = 9,
    /// There is no repository.
    NoRepository = 10,
    /// The repository, or this machine's session lock, is taken.
    Locked = 11,
    /// The password is wrong.
    WrongPassword = 12,
    /// Interrupted; all are thawed.
    Interrupted = 130,
}

/// A failed command, ready to be told.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What failed, in a sentence.
    pub what: String,
    /// Why: the whole chain is printed.
    #[source]
    pub cause: Option<Box<dyn Error + Send + Sync>>,
    /// What state things are in now.
    pub state: String,
    /// What to do next.
    pub help: Option<String>,
    /// The exit code.
    pub exit: Exit,
}

/// Said of every failure before anything was begun.
pub const NOTHING_CHANGED: &str = "nothing was changed";

impl Failure {
    /// A failure with its cause.
    pub fn new(
        exit: Exit,
        what: impl Into<String>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
        state: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), cause: Some(cause.into()), state: state.into(), help: None, exit }
    }

    /// A refusal that says all in its first sentence; nothing was changed.
    pub fn refused(exit: Exit, what: impl Into<String>) -> Self {
        Self { what: what.into(), cause: None, state: NOTHING_CHANGED.into(), help: None, exit }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The reasons below the first sentence, outermost first.
    pub fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut next = self.source();
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        causes
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let help = match &error {
            ConfigError::Missing { .. } => "`holdfast config generate` prints one to begin with",
            ConfigError::Unreadable { .. } => "check that you may read it, or name another with --config",
            ConfigError::Untrusted(_) => {
                "a configuration names commands that are run; only its owner may write it"
            }
            ConfigError::UntrustedProgram { .. } => {
                "a writer's program runs with your privileges; only you or root may be able to change it"
            }
            ConfigError::Invalid { .. } => "`holdfast config check` tries it again without doing anything",
        };
        Self::new(Exit::Usage, "the configuration cannot be used", error, NOTHING_CHANGED).help(help)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::new(Exit::Usage, "this program is put together wrongly", error, NOTHING_CHANGED)
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        let exit = match &error {
            LockError::Taken { .. } => Exit::Locked,
            LockError::Io { .. } => Exit::Failed,
        };
        Self::new(exit, "no session was begun", error, NOTHING_CHANGED)
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most exit codes need no advice of their own")]
impl From<RepositoryError> for Failure {
    fn from(error: RepositoryError) -> Self {
        let exit = repository_exit(&error);
        let help = match exit {
            _ if matches!(error, RepositoryError::NoBucket { .. }) => Some(
                "check --repo; make the bucket first, the first `holdfast backup` then makes a repository",
            ),
            _ if matches!(error, RepositoryError::Denied { .. }) => {
                Some("check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the folder's owner and mode")
            }
            Exit::NoRepository => Some("check --repo; the first `holdfast backup` makes a new repository"),
            Exit::Locked => Some("wait for it; if its process is gone, `restic unlock` removes the lock"),
            Exit::WrongPassword => Some("check the password file; its first line counts"),
            Exit::Usage => Some("check `location` in [repository], or --repo"),
            _ => None,
        };
        let failure = Self::new(exit, "the repository cannot be used", error, "no set was changed");
        match help {
            Some(help) => failure.help(help),
            None => failure,
        }
    }
}

impl From<DocumentError> for Failure {
    fn from(error: DocumentError) -> Self {
        let exit = match &error {
            DocumentError::Newer { .. } => Exit::Refused,
            DocumentError::Foreign { .. }
            | DocumentError::Malformed { .. }
            | DocumentError::TooLong { .. } => Exit::Failed,
            // The contract may add reasons; each is a document that was not understood.
            _ => Exit::Failed,
        };
        Self::new(exit, "a stored document cannot be read", error, NOTHING_CHANGED)
    }
}

impl From<ForgetError> for Failure {
    fn from(error: ForgetError) -> Self {
        let nothing = "nothing was forgotten";
        match error {
            ForgetError::Repository { source } => source.into(),
            ForgetError::Policy { source } => Self::new(Exit::Usage, nothing, source, NOTHING_CHANGED)
                .help("pass --keep-last, --keep-daily, … or set them in [keep]"),
            ForgetError::Unreadable { ref sets } => {
                let exit = sets.first().map_or(Exit::Failed, |set| unreadable_exit(&set.why));
                let ids: Vec<_> = sets.iter().map(|set| set.name.id()).collect();
                let help = format!(
                    "what cannot be read may build on any other set, or have the last copy of something; let the \
                     Holdfast that can read it forget it, or give it up: `holdfast forget {} --even-last-copy`",
                    ids.join(" ")
                );
                let what = match sets.len() {
                    1 => "nothing was forgotten: a set cannot be read".to_owned(),
                    n => format!("nothing was forgotten: {n} sets cannot be read"),
                };
                Self::new(exit, what, error, NOTHING_CHANGED).help(help)
            }
            ForgetError::NoSuchSet { .. } | ForgetError::SeveralSets { .. } => {
                Self::refused(Exit::Refused, error.to_string())
                    .help("`holdfast list backups` shows them; name one by its id, or the beginning of it")
            }
            ForgetError::Needed { ref needed } => {
                let help = if needed.iter().all(Needed::may_be_insisted_on) {
                    "--even-last-copy removes it all the same"
                } else {
                    "name those too, or keep what they need"
                };
                Self::new(Exit::Refused, nothing, error, NOTHING_CHANGED).help(help)
            }
            ForgetError::Removing { source } => {
                let state = "some of them may be gone; `holdfast list backups` shows what is left";
                Self::new(repository_exit(&source), "the sets could not all be removed", source, state)
            }
        }
    }
}

fn unreadable_exit(why: &Why) -> Exit {
    match why {
        Why::Repository(error) => repository_exit(error),
        Why::Document(DocumentError::Newer { .. }) => Exit::Refused,
        Why::Document(_) | Why::OfAnother { .. } => Exit::Failed,
    }
}

/// The exit code of a repository's failure.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever has no code of its own is a plain failure")]
pub fn repository_exit(error: &RepositoryError) -> Exit {
    match error {
        RepositoryError::NoRepository { .. } | RepositoryError::NoBucket { .. } => Exit::NoRepository,
        RepositoryError::WrongPassword { .. } => Exit::WrongPassword,
        RepositoryError::Locked { .. } => Exit::Locked,
        RepositoryError::UnknownScheme { .. } | RepositoryError::InvalidLocation { .. } => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// The exit code of a writer's failure while nothing was held.
#[expect(clippy::wildcard_enum_match_arm, reason = "whatever has no code of its own is a plain failure")]
pub fn writer_exit(error: &WriterError) -> Exit {
    match error {
        WriterError::Key { .. } => Exit::Key,
        WriterError::InvalidSetting { .. } => Exit::Usage,
        WriterError::ChainBroken { .. } => Exit::ChainBroken,
        WriterError::StuckFrozen { .. } => Exit::ThawNotConfirmed,
        WriterError::Rejected { .. }
        | WriterError::Denied { .. }
        | WriterError::WrongState { .. }
        | WriterError::Skipped { .. }
        | WriterError::Unsupported { .. } => Exit::Refused,
        _ => Exit::Failed,
    }
}

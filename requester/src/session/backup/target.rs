//! Where a session stores: a repository that is there, or one that the first backup makes.
//!
//! Owns: that a refused session leaves no repository behind, and that one that is there is locked to the session's end.

use std::fmt;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::repository::{LockGuard, LockKind, Repository};

/// Makes a repository, or says why not. May block.
pub type Maker = Arc<dyn Fn() -> Result<Repository, Failure> + Send + Sync>;

/// Where a session stores its set.
#[derive(Clone)]
pub enum Target {
    /// A repository, open.
    Open(Repository),
    /// There is none yet. It is made once nothing can refuse the session any more, and before anything is frozen.
    New(Maker),
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(repository) => f.debug_tuple("Open").field(repository).finish(),
            Self::New(_) => f.write_str("New(…)"),
        }
    }
}

/// The target of a session under way.
pub(super) enum Targeted {
    NotYet(Maker),
    /// With the lock that keeps others from pruning between what is stored and the set that names it.
    There(Repository, #[expect(dead_code, reason = "held, not used")] LockGuard),
}

impl Targeted {
    /// Locks the repository, if there is one.
    pub async fn begin(target: &Target) -> Result<Self, Failure> {
        match target.clone() {
            Target::Open(repository) => {
                let (repository, guard) = blocking(move || locked(repository)).await?;
                Ok(Self::There(repository, guard))
            }
            Target::New(maker) => Ok(Self::NotYet(maker)),
        }
    }

    /// The repository, made now if it is not there.
    pub async fn repository(&mut self) -> Result<Repository, Failure> {
        let maker = match self {
            Self::There(repository, _) => return Ok(repository.clone()),
            Self::NotYet(maker) => Arc::clone(maker),
        };
        let (repository, guard) = blocking(move || locked(maker()?)).await?;
        *self = Self::There(repository.clone(), guard);
        Ok(repository)
    }
}

fn locked(repository: Repository) -> Result<(Repository, LockGuard), Failure> {
    let guard = repository.lock(LockKind::Shared)?;
    Ok((repository, guard))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let panicked = |panic| Failure::new(Exit::Failed, "no session was begun", panic, NOTHING_CHANGED);
    spawn_blocking(work).await.map_err(panicked)?
}

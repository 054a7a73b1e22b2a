//! Storing a set beside the session: all of it or nothing, also when the session is given up meanwhile.
//!
//! Owns: that a session which was dropped finds no set made behind its back. The repository library cannot be
//! interrupted; what it archives after that is a part without a set, and a commit under way is taken back. Taking back
//! works beside the shared lock that a session holds from its start to its end.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_writer_api::chain;

use crate::failure::{Exit, repository_exit};
use crate::repository::{
    Document, ProgressFn, Repository, RepositoryError, SetIdentity, SourceEntry, StoredSet,
};

/// How long a session that is given up waits for a commit under way: it is a few small files.
const COMMIT: Duration = Duration::from_secs(30);

/// What is to be stored.
pub(super) struct Order {
    pub identity: SetIdentity,
    pub entries: Vec<SourceEntry>,
    pub documents: Vec<Document>,
    /// A document, and where it is read again once the set is there.
    pub proof: (&'static str, Vec<u8>),
    pub progress: Option<ProgressFn>,
}

/// Why there is no set.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("the repository failed")]
    Repository(#[from] RepositoryError),
    #[error("`{document}` does not read back as it was written; the set was taken back")]
    NotReadBack {
        document: &'static str,
        #[source]
        source: Option<RepositoryError>,
    },
    #[error("`{document}` does not read back as it was written, and the set could not be taken back")]
    NotTakenBack {
        document: &'static str,
        #[source]
        source: RepositoryError,
    },
    #[error("the session was given up")]
    GivenUp,
    #[error("a part of the program that stores ended abnormally")]
    Panicked,
}

impl StoreError {
    pub(super) fn exit(&self) -> Exit {
        match self {
            Self::Repository(error) => repository_exit(error),
            Self::GivenUp => Exit::Interrupted,
            Self::NotReadBack { .. } | Self::NotTakenBack { .. } | Self::Panicked => Exit::Failed,
        }
    }
}

/// Stores. Dropping the future gives it up: when the drop returns there is no set, and none will be.
pub(super) async fn store(repository: Repository, order: Order) -> Result<StoredSet, StoreError> {
    let gate = Gate::default();
    let _given_up_on_drop = GiveUp(gate.clone());
    let stored = tokio::task::spawn_blocking(move || work(&repository, order, &gate));
    stored.await.unwrap_or(Err(StoreError::Panicked))
}

fn work(repository: &Repository, order: Order, gate: &Gate) -> Result<StoredSet, StoreError> {
    let Order { identity, entries, documents, proof, progress } = order;
    let partial = repository.archive(&identity, entries, progress)?;
    if !gate.begin() {
        repository.remove_partials(Some(identity.set))?;
        return Err(StoreError::GivenUp);
    }
    let _ended_on_drop = End(gate.clone());
    let stored = repository.commit(&identity, &[partial], documents).inspect_err(|_| {
        // Only the removal of the parts may have failed: then there is a set, of which nobody will be told.
        if let Err(error) = repository.take_back(identity.set) {
            tracing::warn!(set = %identity.set, %error, "what a failed commit left could not be removed");
        }
    })?;
    // The set exists once it has been read again, as whoever restores it will.
    let (document, written) = proof;
    let again = repository.set(identity.set);
    let read = again.and_then(|set| repository.read_document(&set, document.as_ref(), written.len() as u64));
    if gate.given_up() {
        // The session that could be told is gone.
        repository.take_back(identity.set).inspect_err(|error| {
            tracing::error!(set = %identity.set, error = chain(error), "the set of an interrupted session was NOT taken back");
        })?;
        return Err(StoreError::GivenUp);
    }
    let wrong = match read {
        Ok(bytes) if bytes == written => return Ok(stored),
        Ok(_) => None,
        Err(error) => Some(error),
    };
    match repository.take_back(identity.set) {
        Ok(()) => Err(StoreError::NotReadBack { document, source: wrong }),
        Err(source) => Err(StoreError::NotTakenBack { document, source }),
    }
}

#[derive(Debug, Default)]
struct Progressed {
    committing: bool,
    ended: bool,
    given_up: bool,
}

/// Between the session and its commit: only one of them goes first.
#[derive(Debug, Clone, Default)]
struct Gate(Arc<(Mutex<Progressed>, Condvar)>);

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Progressed> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the commit may begin.
    fn begin(&self) -> bool {
        let mut state = self.lock();
        state.committing = !state.given_up;
        state.committing
    }

    fn given_up(&self) -> bool {
        self.lock().given_up
    }

    /// Nothing is committed from here on; waits for what is being committed.
    fn give_up(&self) {
        let mut state = self.lock();
        state.given_up = true;
        let under_way = |state: &mut Progressed| state.committing && !state.ended;
        let waited = self.0.1.wait_timeout_while(state, COMMIT, under_way);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.committing && !state.ended {
            tracing::error!(
                "the repository does not answer: a set may be made after its session was interrupted"
            );
        }
    }
}

struct GiveUp(Gate);

impl Drop for GiveUp {
    fn drop(&mut self) {
        // After a commit that was waited for, this finds it ended.
        self.0.give_up();
    }
}

struct End(Gate);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.0.1.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::{LockKind, Options, Password};

    fn order(proof: &[u8]) -> Order {
        let document = Document { path: "set.json".into(), bytes: b"{}".to_vec() };
        Order {
            identity: SetIdentity {
                set: uuid::Uuid::now_v7(),
                time: jiff::Timestamp::now(),
                hostname: "here".into(),
                tags: vec![],
                label: String::new(),
            },
            entries: super::super::contents::Contents::new().into_entries(),
            documents: vec![document],
            proof: ("set.json", proof.to_vec()),
            progress: None,
        }
    }

    fn scratch() -> (tempfile::TempDir, Repository) {
        let place = tempfile::tempdir().unwrap();
        let location = place.path().join("repository");
        let made = Repository::init(location.to_str().unwrap(), &Password::new("x"), &Options::default());
        (place, made.unwrap())
    }

    /// As every session does, from its start to its end: nothing here may need the repository alone.
    fn held(repository: &Repository) -> crate::repository::LockGuard {
        repository.lock(LockKind::Shared).unwrap()
    }

    #[tokio::test]
    async fn what_does_not_read_back_is_no_set() {
        let (_place, repository) = scratch();
        let _shared = held(&repository);
        let refused = store(repository.clone(), order(b"other")).await.unwrap_err();
        assert!(matches!(refused, StoreError::NotReadBack { source: None, .. }), "{refused:?}");
        let refused = store(repository.clone(), order(b"[")).await.unwrap_err();
        assert!(matches!(refused, StoreError::NotReadBack { source: Some(_), .. }), "{refused:?}");
        assert_eq!(repository.sets().unwrap(), [], "both were taken back");
        store(repository.clone(), order(b"{}")).await.unwrap();
        assert_eq!(repository.sets().unwrap().len(), 1);
    }

    /// Goal: a session given up at any moment of its storing leaves no set, and none appears later.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_session_that_is_given_up_finds_no_set_made_behind_its_back() {
        let (_place, repository) = scratch();
        let _shared = held(&repository);
        for after_ms in [0, 5, 20, 40, 60, 80, 120] {
            let storing = store(repository.clone(), order(b"{}"));
            let given_up = tokio::time::timeout(Duration::from_millis(after_ms), storing).await.is_err();
            let sets = repository.sets().unwrap();
            if given_up {
                assert!(sets.is_empty(), "given up after {after_ms} ms: {sets:?}");
            }
            for set in sets {
                repository.take_back(set.set).unwrap();
            }
        }
    }

    #[test]
    fn a_commit_during_which_the_session_is_given_up_is_taken_back() {
        let (_place, repository) = scratch();
        let _shared = held(&repository);
        let gate = Gate::default();
        let session = {
            let gate = gate.clone();
            std::thread::spawn(move || {
                while !gate.lock().committing {
                    std::thread::yield_now();
                }
                gate.give_up();
            })
        };
        let refused = work(&repository, order(b"{}"), &gate).unwrap_err();
        assert!(matches!(refused, StoreError::GivenUp), "{refused:?}");
        session.join().unwrap();
        assert_eq!(repository.sets().unwrap(), []);
        assert_eq!(repository.partials().unwrap(), []);
    }
}

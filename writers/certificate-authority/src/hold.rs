//! Holds the database in a thread of its own, which lets go by itself (promise P1).
//!
//! SQLite's hold polls and blocks, so it may not run on the runtime. The thread owns the hold from beginning to end and
//! releases it at whichever comes first: the request, the deadline, or its owner being gone. Whoever gives up a freeze
//! sets a flag that the thread looks at with the lock in hand, and waits for the thread's end: nothing can take the
//! hold afterwards.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Instant;

use holdfast_store_sqlite::{Database, Mark, Proof, SqliteError};
use tokio::sync::oneshot;

use crate::walk::{self, Signature, WalkError};

/// What is held and watched.
pub(crate) struct Wanted {
    /// `None`: nothing is held, files are only watched.
    pub(crate) database: Option<Database>,
    /// Files that must not change while the hold stands.
    pub(crate) watched: Vec<PathBuf>,
    pub(crate) reserved: Vec<PathBuf>,
    /// Until when the hold must be taken, and until when it may stand.
    pub(crate) take_by: Instant,
    pub(crate) deadline: Instant,
}

/// What was true once the hold stood.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) mark: Option<(Mark, Proof)>,
    pub(crate) signature: Signature,
}

/// How a hold ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// By itself, at the deadline.
    pub(crate) late: bool,
    /// Whether it still stood when it was released.
    pub(crate) proven: Result<(), SqliteError>,
    /// What the watched files were right afterwards.
    pub(crate) signature: Result<Signature, WalkError>,
}

/// Why a hold was not taken. Nothing is held.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TakeError {
    #[error(transparent)]
    Sqlite(#[from] SqliteError),
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error("the thread that holds the database is gone")]
    Gone,
}

/// A hold that is being taken, stands, or has ended; dropped, it ends at once.
#[derive(Debug)]
pub(crate) struct Holder {
    give_up: Arc<AtomicBool>,
    // Both `None` once they were used.
    release: Option<mpsc::Sender<()>>,
    ended: Option<oneshot::Receiver<Ended>>,
    thread: Option<JoinHandle<()>>,
}

impl Holder {
    /// Begins to take the hold. The answer comes once it stands or cannot be taken.
    pub(crate) fn start(wanted: Wanted) -> (Self, oneshot::Receiver<Result<Taken, TakeError>>) {
        let give_up = Arc::new(AtomicBool::new(false));
        let (release, released) = mpsc::channel();
        let (taken, answer) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let flag = Arc::clone(&give_up);
        let thread = std::thread::spawn(move || run(wanted, &flag, taken, &released, end));
        (Self { give_up, release: Some(release), ended: Some(ended), thread: Some(thread) }, answer)
    }

    /// Ends the hold and says how it ended; `None` if it had never stood or was ended before.
    pub(crate) async fn release(&mut self) -> Option<Ended> {
        self.give_up.store(true, Ordering::SeqCst);
        drop(self.release.take());
        let ended = self.ended.take()?.await.ok();
        self.join();
        ended
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic in there ended the hold as well: the thread owned it.
            let _ = thread.join();
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.give_up.store(true, Ordering::SeqCst);
        drop(self.release.take());
        self.join();
    }
}

fn run(
    wanted: Wanted,
    give_up: &AtomicBool,
    taken: oneshot::Sender<Result<Taken, TakeError>>,
    released: &mpsc::Receiver<()>,
    end: oneshot::Sender<Ended>,
) {
    let Wanted { database, watched, reserved, take_by, deadline } = wanted;
    let held = match database.map(|database| database.hold(take_by, give_up)).transpose() {
        Ok(held) => held,
        Err(error) => {
            // Nobody listens any more when the freeze was given up.
            let _ = taken.send(Err(error.into()));
            return;
        }
    };
    let state = held
        .as_ref()
        .map(|held| Ok((held.mark()?, held.prove()?)))
        .transpose()
        .and_then(|mark| Ok(Taken { mark, signature: walk::signature(&watched, &reserved)? }));
    let stands = state.is_ok();
    // On every way out `held` is dropped, which releases.
    if taken.send(state).is_err() || !stands {
        return;
    }
    let late = loop {
        match released.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(()) => {}
            Err(RecvTimeoutError::Disconnected) => break false,
            Err(RecvTimeoutError::Timeout) => break true,
        }
    };
    let proven = held.map_or(Ok(()), |held| {
        let proven = held.prove().map(|_| ());
        // Also when it fails nothing is held: the connection was closed then.
        held.release().and(proven)
    });
    let _ = end.send(Ended { late, proven, signature: walk::signature(&watched, &reserved) });
}

//! What the engine's failures mean to a person: exit code, state, and what to do next.

use std::error::Error;
use std::sync::Arc;

use futures_util::FutureExt;
use holdfast_writer_api::WriterError;
pub(super) use holdfast_writer_api::chain;

use crate::failure::{Exit, Failure, NOTHING_CHANGED, repository_exit};
use crate::repository::RepositoryError;
use crate::restore::error::{LiveState, Problem, RestoreError};
use crate::session::lock::SessionLock;

/// A refusal for a reason that the first sentence does not hold whole.
pub(super) fn refused(what: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
    Failure::new(Exit::Refused, what, cause, NOTHING_CHANGED)
}

/// The repository failed while nothing live was touched.
pub(super) fn repository(what: &str, error: RepositoryError) -> Failure {
    let exit = repository_exit(&error);
    let help = if matches!(error, RepositoryError::NoSpace { .. }) {
        Some("free some space there, or restore elsewhere with --to")
    } else if matches!(error, RepositoryError::Damaged { .. }) {
        Some("`restic check --read-data` shows how much is damaged")
    } else {
        None
    };
    let failure = Failure::new(exit, what, error, NOTHING_CHANGED);
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

/// A writer refused while nothing live was touched: by the contract every error of its check is a refusal.
pub(super) fn writer_refused(what: impl Into<String>, error: WriterError) -> Failure {
    let exit = if matches!(error, WriterError::Key { .. }) {
        Exit::Key
    } else if matches!(error, WriterError::ChainBroken { .. }) {
        Exit::ChainBroken
    } else {
        Exit::Refused
    };
    Failure::new(exit, what, error, NOTHING_CHANGED)
}

/// A step of a placement failed. `writer` names whose.
pub(super) fn placement(writer: &str, what: impl Into<String>, error: RestoreError) -> Failure {
    let exit = match (&error.problem, error.state) {
        (Problem::Io { .. } | Problem::Stopped { .. }, _) => Exit::Failed,
        (_, LiveState::Unchanged) => Exit::Refused,
        _ => Exit::Failed,
    };
    let state = state(writer, error.state);
    let unchanged = error.nothing_changed();
    let busy = matches!(error.problem, Problem::Busy { .. });
    let failure = Failure::new(exit, what, error, state);
    match (unchanged, busy) {
        (true, true) => {
            failure.help("finish that restore with `holdfast recover`, or give it up with `--roll-back`")
        }
        (true, false) => failure,
        (false, _) => failure.help(go_on(writer)),
    }
}

/// Something failed after the registration: the start gate holds, and says so.
pub(super) fn unfinished(
    writer: &str,
    what: impl Into<String>,
    cause: impl Into<Box<dyn Error + Send + Sync>>,
    live: LiveState,
) -> Failure {
    Failure::new(Exit::Failed, what, cause, state(writer, live)).help(go_on(writer))
}

/// How the live path of `writer` stands, in a sentence.
pub(super) fn state(writer: &str, live: LiveState) -> String {
    match live {
        LiveState::Unchanged => NOTHING_CHANGED.to_owned(),
        LiveState::Blocked => format!(
            "the live path of `{writer}` is blocked: its application cannot start; the old data lie beside it"
        ),
        LiveState::PartlyPublished => {
            format!("the live path of `{writer}` is blocked in part: its application must not start")
        }
        LiveState::Published => format!("the data of `{writer}` are restored; what follows is unfinished"),
        LiveState::RollingBack => {
            format!("the old data of `{writer}` are being put back, and are not all there")
        }
    }
}

pub(super) fn go_on(writer: &str) -> String {
    format!(
        "run `holdfast recover --writer {writer}`; with --roll-back it puts the old data back, where they still are"
    )
}

/// A call of a writer in which a panic is that writer's error.
pub(super) async fn guarded<T>(
    writer: &str,
    action: &str,
    call: impl Future<Output = Result<T, WriterError>>,
) -> Result<T, WriterError> {
    let caught = std::panic::AssertUnwindSafe(call).catch_unwind().await;
    caught.unwrap_or_else(|_| Err(WriterError::not_responding(writer, format!("it panicked in {action}"))))
}

/// Runs blocking work that changes something. It goes on to its end when nobody waits for it any more, as after an
/// interrupt, and keeps the session lock until then: no `recover` may work on the same files beside it.
pub(super) async fn locked<T: Send + 'static>(
    lock: &Arc<SessionLock>,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let lock = Arc::clone(lock);
    blocking(move || {
        let done = work();
        drop(lock);
        done
    })
    .await
}

/// Runs blocking work off the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Never aborted by us; the runtime itself is going down, and nothing can be answered any more.
            Err(_) => panic!("the runtime was shut down during a restore"),
        },
    }
}

//! What becomes of a session that fails: what a person is told, and which writer it failed by.

use std::error::Error;

use holdfast_writer_api::{WriterError, chain};
use uuid::Uuid;

use crate::failure::{Exit, Failure, writer_exit};
use crate::session::barrier::{AbortCause, Aborted};

const THAW_ALL: &str = "run `holdfast thaw --all` now, which says what to do about each";

/// A failed attempt, and the writer it failed by.
pub(super) struct Attempt {
    pub failure: Failure,
    /// `None` when it was no writer's fault.
    pub writer: Option<String>,
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self { failure, writer: None }
    }
}

impl Attempt {
    /// A writer failed while nothing was held, or so it should be: one that says it may hold is believed.
    pub fn writer(what: &str, error: WriterError) -> Self {
        let writer = Some(error.writer().to_owned());
        let exit = writer_exit(&error);
        if exit == Exit::ThawNotConfirmed {
            let state = format!("{}; no set was made", may_be_held(std::slice::from_ref(&error)));
            return Self { failure: Failure::new(exit, what, error, state).help(THAW_ALL), writer };
        }
        let failure = Failure::new(exit, what, error, "nothing is held; no set was made");
        Self { failure: with_hint(failure, writer.as_deref()), writer }
    }

    /// The freeze of `set` was given up; `of` writers took part.
    pub fn aborted<E: std::error::Error + Send + Sync + 'static>(
        set: Uuid,
        of: usize,
        aborted: Aborted<E>,
    ) -> Self {
        let what = format!("snapshot set {set} was not created");
        let writer = aborted.cause.writer().map(str::to_owned);
        if !aborted.stuck.is_empty() {
            let state = format!("{}; the others are free", may_be_held(&aborted.stuck));
            let failure = Failure::new(Exit::ThawNotConfirmed, what, aborted, state).help(THAW_ALL);
            return Self { failure, writer };
        }
        let state = match aborted.thawed {
            0 => "nothing was frozen; no application is held".to_owned(),
            n => format!("{n} of {of} writers thawed; no application is held"),
        };
        let help = match &aborted.cause {
            AbortCause::Writer(WriterError::TimedOut { .. } | WriterError::Busy { .. })
            | AbortCause::Late(_)
            | AbortCause::NotThawed(_) => "try when it is quieter, or raise --freeze-budget",
            AbortCause::Writer(_) => "`holdfast list writers` shows the state of each",
            AbortCause::Commit(_) => {
                "try when it is quieter, or raise --freeze-budget; `holdfast list providers` shows what else can cut"
            }
        };
        let failure = Failure::new(Exit::FreezeAborted, what, aborted, state).help(help);
        Self { failure, writer }
    }

    /// Completes what a person is told of the state, once the shadow copies were removed, or some could not be.
    pub fn shadows_left(&mut self, left: bool) {
        let state = &mut self.failure.state;
        match (left, self.failure.exit) {
            (true, _) => state.push_str("; a shadow copy is left: `holdfast gc` removes it"),
            (false, Exit::FreezeAborted) => state.push_str("; no shadow copy is left"),
            // Its state says nothing of shadow copies, or that nothing was changed.
            (false, _) => {}
        }
    }
}

/// Who may be held, and what was tried.
pub(super) fn may_be_held(stuck: &[WriterError]) -> String {
    let why =
        |error: &WriterError| error.source().map_or_else(String::new, |why| format!(" ({})", chain(why)));
    let names: Vec<_> = stuck.iter().map(|error| format!("`{}`{}", error.writer(), why(error))).collect();
    format!("{} MAY STILL BE HELD", names.join(", "))
}

fn with_hint(failure: Failure, writer: Option<&str>) -> Failure {
    match writer {
        Some(id) if failure.exit != Exit::Key => failure.help(format!(
            "see why with `holdfast list writers`; `--allow-incomplete {id}` stores a set without it (exit 3)"
        )),
        _ => failure,
    }
}

//! Why a measurement could not be made.

use std::io;

use holdfast::repository::RepositoryError;
use holdfast_tests::FixtureError;
use holdfast_writer_api::WriterError;

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The command line.
    #[error("`{argument}` is not known; expected --write FILE, window, throughput or barrier")]
    Usage {
        /// What was not understood.
        argument: String,
    },
    /// A fixture.
    #[error("a fixture failed")]
    Fixture(#[from] FixtureError),
    /// The operating system.
    #[error("cannot {what}")]
    Io {
        /// What was attempted.
        what: String,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// A program that was measured failed.
    #[error("`{program}` ended with {status}")]
    Program {
        /// Which.
        program: String,
        /// How.
        status: String,
    },
    /// A writer.
    #[error("a writer failed")]
    Writer(#[from] WriterError),
    /// The barrier gave up.
    #[error("the barrier gave up: {cause}")]
    Barrier {
        /// Why, with all reasons.
        cause: String,
    },
    /// The repository.
    #[error("the repository failed")]
    Repository(#[from] RepositoryError),
    /// An answer without what it should contain.
    #[error("no {what} in {answer}")]
    Answer {
        /// What was looked for.
        what: &'static str,
        /// Where.
        answer: String,
    },
}

impl BenchError {
    /// For `map_err` behind a call to the operating system.
    pub fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source: source.into() }
    }
}

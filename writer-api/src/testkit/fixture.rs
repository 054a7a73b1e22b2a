//! What a rule needs of an application: to be the one that is held, and to tell what it has.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use crate::protocol::{Launcher, RemoteWriter};
use crate::{Cause, StreamFile, WriterDescriptor};

/// A sample application that runs, with some data in it, and the way to its writer.
///
/// Each rule gets one of its own. Rules believe this, never the writer. A method that an application has no counterpart
/// for stays as it is here: what needs it is then *not checked*, and the report says so.
///
/// # Contract
/// - Dropping it ends the application and removes what it left.
/// - It does not block the thread for long: what waits, waits with `await`, so that a deadline can cut it off.
/// - The application runs in a process of its own where its locks or its state belong to a process, as SQLite's do: the
///   kit reads and copies the application's files in this process.
#[async_trait]
pub trait Fixture: Send {
    /// Its writer.
    fn writer(&self) -> Subject;

    /// One write past the writer, as any user of the application would make it. The application gets `patience` to
    /// acknowledge it.
    ///
    /// # Contract
    /// - [`Poke::Written`] is said only once the application has acknowledged the write.
    /// - After [`Poke::Held`] the write was given up. If the application makes it later nevertheless, that does no harm:
    ///   nobody was told of it.
    /// # Errors
    /// [`FixtureError::Failed`]: neither of the two, such as an application that is gone.
    async fn poke(&mut self, patience: Duration) -> Result<Poke, FixtureError>;

    /// What [`poke`](Self::poke) has written and the application has now, by id; in any order.
    async fn contents(&mut self) -> Result<Vec<String>, FixtureError>;

    /// The same of a copy: the application's own program opens the files below `root`, where each lies at its original
    /// path ([`below`] joins the two). Nothing else of the application may be used. The copy may be changed by it.
    ///
    /// # Errors
    /// [`FixtureError::Failed`]: the application does not open it, and why.
    async fn contents_of(&mut self, root: &Path) -> Result<Vec<String>, FixtureError> {
        let _ = root;
        Err(FixtureError::unable("open a restored copy"))
    }

    /// Stops the application, as an administrator would, and waits until it is down.
    async fn stop(&mut self) -> Result<(), FixtureError> {
        Err(FixtureError::unable("stop its application"))
    }

    /// Starts it again, and waits until it is up; `false` if it refuses to come up.
    async fn start(&mut self) -> Result<bool, FixtureError> {
        Err(FixtureError::unable("start its application again"))
    }

    /// The names of the log files that the application has now, of those that its writer lists.
    async fn logs(&mut self) -> Result<Vec<String>, FixtureError> {
        Err(FixtureError::unable("list its application's logs"))
    }

    /// Whether the application itself refuses to start while a restore is registered with it.
    fn registers(&self) -> bool {
        false
    }

    /// The bytes of the application's key at `path`.
    async fn key(&mut self, path: &Path) -> Result<Vec<u8>, FixtureError> {
        std::fs::read(path)
            .map_err(|error| FixtureError::failed(format!("read the key {}", path.display()), &error))
    }

    /// What that stream has to be, if it can be known; `None` where the engine makes it anew each time. As it stands it is
    /// the file of that path.
    async fn streamed(&mut self, stream: &StreamFile) -> Result<Option<Vec<u8>>, FixtureError> {
        let read = std::fs::read(&stream.path);
        read.map(Some)
            .map_err(|error| FixtureError::failed(format!("read the file {}", stream.path.display()), &error))
    }
}

/// What came of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Poke {
    /// Acknowledged by the application, under this id.
    Written(String),
    /// Not acknowledged in time: the application's writes are held.
    Held,
}

/// Why a fixture did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// It has no counterpart for that.
    #[error("the fixture cannot {what}")]
    Unable {
        /// As a verb: `stop its application`.
        what: String,
    },
    /// A program or server that it needs is not installed.
    #[error("{what} is not installed")]
    Missing {
        /// Which.
        what: String,
    },
    /// It failed.
    #[error("cannot {what}")]
    Failed {
        /// As a verb.
        what: String,
        /// Why.
        #[source]
        cause: Cause,
    },
}

impl FixtureError {
    /// It has no counterpart for `what`, a verb.
    pub fn unable(what: impl Into<String>) -> Self {
        Self::Unable { what: what.into() }
    }

    /// `what`, a verb, failed.
    pub fn failed(what: impl Into<String>, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Failed { what: what.into(), cause: Cause::from_error(error) }
    }

    /// The same, with a reason that is no error of its own.
    pub fn because(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Failed { what: what.into(), cause: Cause::new(why) }
    }
}

/// Where the file that was at `path` lies in a copy below `root`.
pub fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// A writer as it is tested: always in a process of its own.
#[derive(Debug, Clone)]
pub struct Subject {
    pub(super) start: Start,
    pub(super) id: String,
    pub(super) writer_type: String,
    pub(super) settings: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Start {
    /// A program.
    Program(Launcher),
    /// A writer linked into this test executable, which serves it in a child process.
    Linked,
}

impl Subject {
    /// A writer that is a program.
    pub fn program(launcher: Launcher, writer_type: impl Into<String>, settings: Value) -> Self {
        let (id, writer_type) = ("test".to_owned(), writer_type.into());
        Self { start: Start::Program(launcher), id, writer_type, settings }
    }

    /// A writer of this test executable, where it was submitted to [`inventory`]. Only for [`crate::conformance!`], which
    /// adds the test that serves it.
    pub fn linked(descriptor: &WriterDescriptor, settings: Value) -> Self {
        let (id, writer_type) = ("test".to_owned(), descriptor.name.to_owned());
        Self { start: Start::Linked, id, writer_type, settings }
    }

    /// The same under another id than `test`.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = id.into();
        self
    }

    /// The writer, started by `host` if it is a linked one.
    pub(super) fn remote(self, host: Option<&Launcher>) -> Result<RemoteWriter, FixtureError> {
        let launcher = match (self.start, host) {
            (Start::Program(launcher), _) => launcher,
            (Start::Linked, Some(host)) => {
                let mut launcher = Launcher { said: Default::default(), ..host.clone() };
                launcher.arguments.push(format!("{SERVE}{}", self.writer_type));
                launcher
            }
            (Start::Linked, None) => {
                return Err(FixtureError::unable("serve a linked writer outside of `conformance!`"));
            }
        };
        Ok(RemoteWriter::new(launcher, self.id, self.writer_type, self.settings)
            .requester("holdfast writer test"))
    }
}

/// How the process that serves a linked writer is told which: an argument that names no test.
pub(super) const SERVE: &str = "writer:";

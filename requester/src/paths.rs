//! Where Holdfast keeps things of its own.

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

/// The folders of one installation. Everything can be moved, so everything runs unprivileged in a
/// scratch folder.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Survives a restart: event logs, shadow records, registered restores.
    pub state: PathBuf,
    /// Does not: the session lock and the recorded holders.
    pub runtime: PathBuf,
}

impl Paths {
    /// Event logs of sessions.
    pub fn sessions(&self) -> PathBuf {
        self.state.join("sessions")
    }

    /// The event log of one session.
    pub fn session_log(&self, set: uuid::Uuid) -> PathBuf {
        self.sessions().join(format!("{set}.ndjson"))
    }

    /// Registered restores: the start gate's markers.
    pub fn restores(&self) -> PathBuf {
        self.state.join("restores")
    }

    /// Notes that a writer's next backup has to be a full one (promise P6), one file a writer.
    pub fn full_required(&self) -> PathBuf {
        self.state.join("full-required")
    }

    /// Removes that note: a full backup of this writer exists. One that stays only asks for another full.
    pub fn full_is_made(&self, writer: &str) {
        let _ = std::fs::remove_file(self.full_required().join(format!("{writer}.json")));
    }

    /// Makes the folders, for nobody but us.
    ///
    /// # Errors
    /// One cannot be made.
    pub fn create(&self) -> io::Result<()> {
        for dir in [&self.state, &self.runtime, &self.sessions(), &self.restores()] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        }
        Ok(())
    }
}

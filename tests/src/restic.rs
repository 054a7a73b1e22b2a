//! Stock restic on a repository: the stranger who must be able to read what Holdfast wrote.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    error::FixtureError,
    process::{Output, capture, command, run},
};

const LIMIT: Duration = Duration::from_secs(300);

/// restic with one repository and the file that holds its password.
#[derive(Debug, Clone)]
pub struct Restic {
    repository: OsString,
    password_file: PathBuf,
    environment: Vec<(String, String)>,
}

impl Restic {
    /// For a local path or any location restic understands. Nothing is read yet.
    #[must_use]
    pub fn new(repository: impl AsRef<OsStr>, password_file: &Path) -> Self {
        Self {
            repository: repository.as_ref().to_owned(),
            password_file: password_file.to_path_buf(),
            environment: Vec::new(),
        }
    }

    /// With environment variables, e.g. an object store's credentials.
    #[must_use]
    pub fn with_environment<'a>(mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        self.environment
            .extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    /// Runs restic with these arguments to its end, whatever the exit code.
    ///
    /// # Errors
    /// [`FixtureError::Io`] without restic, [`FixtureError::Deadline`] after 5 minutes.
    pub fn capture(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Output, FixtureError> {
        capture(self.command().args(arguments), LIMIT)
    }

    /// Runs restic with these arguments; a failure is an error.
    ///
    /// # Errors
    /// As [`capture`](Self::capture), and [`FixtureError::Command`] for any exit code but 0.
    pub fn run(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Output, FixtureError> {
        run(self.command().args(arguments), LIMIT)
    }

    /// Its own version line.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn version(&self) -> Result<String, FixtureError> {
        self.run(["version"]).map(|output| output.text().trim().to_owned())
    }

    /// Makes the repository.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn init(&self) -> Result<(), FixtureError> {
        self.run(["init"]).map(drop)
    }

    /// Backs up a path, as restic itself does it.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn backup(&self, path: &Path) -> Result<(), FixtureError> {
        self.run([OsStr::new("backup"), path.as_os_str()]).map(drop)
    }

    /// `restic check --read-data`: every byte of every pack.
    ///
    /// # Errors
    /// [`FixtureError::Command`] with its words if anything is wrong.
    pub fn check_read_data(&self) -> Result<(), FixtureError> {
        self.run(["check", "--read-data"]).map(drop)
    }

    /// All snapshots, as restic's JSON: `id`, `short_id`, `time`, `tags`, `paths`, `hostname`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn snapshots(&self) -> Result<Vec<Value>, FixtureError> {
        let output = self.run(["snapshots", "--json"])?;
        serde_json::from_slice(&output.stdout)
            .map_err(|error| FixtureError::answer("restic snapshots", error.to_string()))
    }

    /// Every entry of a snapshot (`latest` works too), as restic's JSON: `path`, `type`, `mode`, `size`, `uid`, `gid`.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn ls(&self, snapshot: &str) -> Result<Vec<Value>, FixtureError> {
        let output = self.run(["ls", "--json", snapshot])?;
        let lines = output.text();
        let entries = lines.lines().map(serde_json::from_str::<Value>).collect::<Result<Vec<_>, _>>();
        let entries = entries.map_err(|error| FixtureError::answer("restic ls", error.to_string()))?;
        Ok(entries.into_iter().filter(|entry| entry["struct_type"] == "node").collect())
    }

    /// The bytes of one file of a snapshot.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn dump(&self, snapshot: &str, path: &str) -> Result<Vec<u8>, FixtureError> {
        self.run(["dump", snapshot, path]).map(|output| output.stdout)
    }

    /// Restores a snapshot into a folder.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn restore(&self, snapshot: &str, target: &Path) -> Result<(), FixtureError> {
        let arguments = [OsStr::new("restore"), snapshot.as_ref(), "--target".as_ref(), target.as_os_str()];
        self.run(arguments).map(drop)
    }

    fn command(&self) -> std::process::Command {
        let mut restic = command("restic");
        // No cache: what is asked here must come from the repository.
        restic.arg("--no-cache").arg("--repo").arg(&self.repository);
        restic.env_remove("RESTIC_PASSWORD").env_remove("RESTIC_PASSWORD_COMMAND");
        restic.env("RESTIC_PASSWORD_FILE", &self.password_file);
        restic.envs(self.environment.iter().map(|(name, value)| (name, value)));
        restic
    }
}

//! The `holdfast` command in a scratch world of its own: configuration, state, runtime folder, repository, password.
//! Owns: finding the binary, writing `holdfast.toml`, running under a deadline. Asserts nothing but what is asked.

use std::{
    env,
    ffi::OsStr,
    fmt::Write as _,
    io::{BufRead, BufReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{OnceLock, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    error::FixtureError,
    process::{self, capture, command, kill_group, wait_until},
};

/// Long enough for a backup of a test's size on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// The path of the command under test: `$HOLDFAST_BIN`, else what cargo builds (once per process) beside this test.
///
/// # Panics
/// If it cannot be built: no test of it can mean anything then.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("HOLDFAST_BIN") {
        Some(path) => PathBuf::from(path),
        None => build("holdfast", "holdfast").unwrap_or_else(|error| panic!("{error}")),
    })
}

/// The path of the scripted writer: beside `$HOLDFAST_BIN`, else what cargo builds (once per process) beside this test.
///
/// # Panics
/// If it cannot be built.
pub fn test_writer() -> &'static Path {
    const NAME: &str = "holdfast-test-writer";
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match env::var_os("HOLDFAST_BIN") {
        Some(path) => PathBuf::from(path).with_file_name(NAME),
        None => build("holdfast-writer-test", NAME).unwrap_or_else(|error| panic!("{error}")),
    })
}

/// Cargo itself knows best whether the binary is older than its sources.
fn build(package: &str, name: &str) -> Result<PathBuf, FixtureError> {
    let test = env::current_exe().map_err(FixtureError::io("find this test's own binary"))?;
    // TARGET/PROFILE/deps/TEST
    let profile = test.ancestors().nth(2).unwrap_or(Path::new("target/debug"));
    let target = profile.parent().unwrap_or(Path::new("target"));
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = command(cargo);
    cargo.args(["build", "--quiet", "--all-features", "--package", package, "--bin", name]);
    cargo.arg("--manifest-path");
    cargo.arg(crate::require::workspace_root().join("Cargo.toml")).arg("--target-dir").arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    process::run(&mut cargo, Duration::from_secs(1200))?;
    Ok(profile.join(name))
}

/// A scratch world for the command; gone when dropped.
#[derive(Debug)]
pub struct Holdfast {
    root: tempfile::TempDir,
    config: Config,
    environment: Vec<(String, String)>,
}

impl Holdfast {
    /// A world with an empty configuration and a password file; its repository is a local folder that does not exist
    /// yet. Change the configuration with [`config`](Self::config).
    ///
    /// # Errors
    /// [`FixtureError::Io`].
    pub fn new() -> Result<Self, FixtureError> {
        Self::new_in(&env::temp_dir())
    }

    /// The same in memory, where the machine has such a place: for tests that watch times, and not what lasts.
    ///
    /// # Errors
    /// [`FixtureError::Io`].
    pub fn in_memory() -> Result<Self, FixtureError> {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::new_in(memory) } else { Self::new() }
    }

    fn new_in(folder: &Path) -> Result<Self, FixtureError> {
        let root = tempfile::Builder::new()
            .prefix("holdfast-world-")
            .tempdir_in(folder)
            .map_err(FixtureError::io("make a scratch folder"))?;
        for folder in ["state", "run"] {
            process::create_dir(&root.path().join(folder))?;
            process::chmod(&root.path().join(folder), 0o700)?;
        }
        let password = root.path().join("repository.key");
        process::write_file(&password, format!("{}\n", uuid::Uuid::new_v4()))?;
        process::chmod(&password, 0o600)?;
        let mut config = Config::default();
        config.repository(root.path().join("repository").to_string_lossy(), &password);
        Ok(Self { root, config, environment: Vec::new() })
    }

    /// The configuration; written out before every run.
    pub fn config(&mut self) -> &mut Config {
        &mut self.config
    }

    /// Adds an environment variable to every run.
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// The world's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// `holdfast.toml`.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.root().join("holdfast.toml")
    }

    /// The state folder (`--state-dir`).
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.root().join("state")
    }

    /// The runtime folder (`HOLDFAST_RUNTIME_DIR`).
    #[must_use]
    pub fn runtime_dir(&self) -> PathBuf {
        self.root().join("run")
    }

    /// The local repository's folder.
    #[must_use]
    pub fn repository(&self) -> PathBuf {
        self.root().join("repository")
    }

    /// The file that holds the repository's password.
    #[must_use]
    pub fn password_file(&self) -> PathBuf {
        self.root().join("repository.key")
    }

    /// Stock restic on the local repository.
    #[must_use]
    pub fn restic(&self) -> crate::restic::Restic {
        crate::restic::Restic::new(self.repository(), &self.password_file())
    }

    /// A command for the binary in this world, with the configuration written out: for runs of a special kind.
    ///
    /// # Errors
    /// [`FixtureError::Io`] if the configuration cannot be written.
    pub fn command(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Command, FixtureError> {
        self.command_of(binary(), arguments)
    }

    /// As [`command`](Self::command), run by another user: a copy of the binary that everybody can reach. What it is to
    /// read or write is the caller's to give to that user.
    ///
    /// # Errors
    /// As [`command`](Self::command), and if the binary cannot be copied.
    pub fn command_as(
        &self,
        user: u32,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Command, FixtureError> {
        process::chmod(self.root(), 0o755)?;
        let program = self.root().join("holdfast");
        if !program.exists() {
            let copied = std::fs::copy(binary(), &program).map(drop);
            copied.map_err(FixtureError::io(format!("copy the program to {}", program.display())))?;
            process::chmod(&program, 0o755)?;
        }
        let mut holdfast = self.command_of(&program, arguments)?;
        holdfast.uid(user).gid(user);
        Ok(holdfast)
    }

    /// As [`command`](Self::command), of another requester with the same command line.
    ///
    /// # Errors
    /// As [`command`](Self::command).
    pub fn command_of(
        &self,
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Command, FixtureError> {
        self.config.write(&self.config_file())?;
        let mut holdfast = command(program);
        for (name, _) in env::vars_os() {
            // What the developer has set for himself must not leak into a test.
            if name.to_str().is_some_and(|name| name.starts_with("HOLDFAST_") || name.starts_with("RESTIC_"))
            {
                holdfast.env_remove(name);
            }
        }
        holdfast
            .env("HOLDFAST_CONFIG", self.config_file())
            .env("HOLDFAST_STATE_DIR", self.state_dir())
            .env("HOLDFAST_RUNTIME_DIR", self.runtime_dir())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.root())
            .args(arguments);
        Ok(holdfast)
    }

    /// Runs it to its end, under a deadline of three minutes, whatever the exit code.
    ///
    /// # Errors
    /// [`FixtureError::Deadline`] if it hangs; it has been killed then.
    pub fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Run, FixtureError> {
        self.run_within(LIMIT, arguments)
    }

    /// Runs a [`command`](Self::command) of one's own to its end.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_command(mut command: Command) -> Result<Run, FixtureError> {
        Run::of(&mut command, LIMIT)
    }

    /// Like [`run`](Self::run), with a deadline of one's own.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_within(
        &self,
        limit: Duration,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Run, FixtureError> {
        Run::of(&mut self.command(arguments)?, limit)
    }

    /// Runs it with `--json` before the arguments; it must exit 0 and print one document.
    ///
    /// # Errors
    /// As [`run`](Self::run), [`FixtureError::Command`] for any exit code but 0, and [`FixtureError::Answer`] for
    /// anything that is not one JSON document.
    pub fn json<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Value, FixtureError> {
        self.run(std::iter::once("--json").chain(arguments))?.success()?.json()
    }

    /// Starts it beside the test, e.g. to kill it in a certain phase. Its event lines can be waited for.
    ///
    /// # Errors
    /// [`FixtureError::Io`] if it cannot be started.
    pub fn spawn(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Running, FixtureError> {
        Self::spawn_command(self.command(arguments)?)
    }

    /// Starts a [`command`](Self::command) of one's own beside the test.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn).
    pub fn spawn_command(mut command: Command) -> Result<Running, FixtureError> {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(FixtureError::io(format!("start {}", binary().display())))?;
        let (stdout, stderr) = (lines(child.stdout.take()), lines(child.stderr.take()));
        Ok(Running { child, stdout, stderr, begun: Instant::now() })
    }
}

/// What one run of the command left.
#[derive(Debug, Clone)]
pub struct Run {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said besides.
    pub stderr: String,
    /// Wall clock from start to end.
    pub took: Duration,
}

impl Run {
    fn of(command: &mut Command, limit: Duration) -> Result<Self, FixtureError> {
        let output = capture(command, limit)?;
        Ok(Self {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: output.text(),
            stderr: output.stderr,
            took: output.took,
        })
    }

    /// The run itself if it exited 0.
    ///
    /// # Errors
    /// [`FixtureError::Command`] with all it said.
    pub fn success(self) -> Result<Self, FixtureError> {
        if self.code == Some(0) {
            return Ok(self);
        }
        let status = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or(0)),
        };
        let output = format!("{}{}", self.stderr, self.stdout);
        Err(FixtureError::Command { command: "holdfast".to_owned(), status, output })
    }

    /// Asserts how it failed: the exit code, and words that its standard error must hold.
    ///
    /// # Panics
    /// If it did not, with all it said.
    #[track_caller]
    pub fn assert_failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stderr, self.stdout);
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not in:\n{}", self.stderr);
        }
    }

    /// Standard output as one JSON document.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] if it is not exactly that.
    pub fn json(&self) -> Result<Value, FixtureError> {
        serde_json::from_str(&self.stdout)
            .map_err(|error| FixtureError::answer("holdfast --json", format!("{error}:\n{}", self.stdout)))
    }
}

/// The command while it runs beside the test; killed with its process group when dropped.
///
/// [`kill`](Self::kill) ends only the requester itself: children that it leaves behind are what such a test looks at.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
    begun: Instant,
}

impl Running {
    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for a line on standard output that contains `text`; lines before it are consumed.
    ///
    /// # Errors
    /// [`FixtureError::Deadline`] after `limit`; [`FixtureError::Answer`] if the output ends before.
    pub fn wait_for_line(&mut self, text: &str, limit: Duration) -> Result<String, FixtureError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.stdout.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(text) => return Ok(line),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    let what = format!("a line of holdfast with `{text}`");
                    return Err(FixtureError::Deadline { what, after: limit });
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    return Err(FixtureError::answer(
                        "holdfast",
                        format!("ended without a line with `{text}`"),
                    ));
                }
            }
        }
    }

    /// A signal to the requester alone.
    pub fn signal(&self, signal: Signal) {
        process::send(self.pid(), signal);
    }

    /// kill -9 of the requester alone, and reaps it.
    pub fn kill(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended by itself. `stdout` holds the lines that were not consumed.
    ///
    /// # Errors
    /// [`FixtureError::Deadline`] after `limit`; it has been killed then.
    pub fn wait(mut self, limit: Duration) -> Result<Run, FixtureError> {
        let Some(status) = wait_until(&mut self.child, Instant::now() + limit) else {
            return Err(FixtureError::Deadline { what: "holdfast to end".to_owned(), after: limit });
        };
        let rest = |lines: &mpsc::Receiver<String>| {
            let mut text = String::new();
            // Ends with the pipe; a grandchild that keeps it open must not keep us.
            while let Ok(line) = lines.recv_timeout(Duration::from_secs(2)) {
                text.push_str(&line);
                text.push('\n');
            }
            text
        };
        Ok(Run {
            code: status.code(),
            signal: status.signal(),
            stdout: rest(&self.stdout),
            stderr: rest(&self.stderr),
            took: self.begun.elapsed(),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// `holdfast.toml` in the making.
#[derive(Debug, Clone, Default)]
pub struct Config {
    repository: Table,
    recovery: Table,
    writers: Vec<Table>,
    extra: String,
}

impl Config {
    /// Sets `[repository]` location and password file.
    pub fn repository(&mut self, location: impl AsRef<str>, password_file: &Path) -> &mut Self {
        self.repository = Table::default();
        self.repository.set("location", location.as_ref()).set("password-file", password_file);
        self
    }

    /// Sets any key of `[repository]`.
    pub fn repository_key(&mut self, key: &str, value: impl Into<Toml>) -> &mut Self {
        self.repository.set(key, value);
        self
    }

    /// Sets the recovery recipients, `age1…`.
    pub fn recipients<'a>(&mut self, recipients: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.recovery.set("recipients", recipients.into_iter().map(Toml::from).collect::<Vec<_>>());
        self
    }

    /// Adds a `[[writer]]` and gives its table, to set the rest.
    pub fn writer(&mut self, id: &str, kind: &str) -> &mut Table {
        self.writers.push(Table::default());
        let last = self.writers.len() - 1;
        self.writers[last].set("id", id).set("type", kind)
    }

    /// Removes all writers.
    pub fn clear_writers(&mut self) -> &mut Self {
        self.writers.clear();
        self
    }

    /// Appends text as it is, e.g. a mistake that a test wants reported.
    pub fn append(&mut self, text: &str) -> &mut Self {
        self.extra.push_str(text);
        self
    }

    /// The document.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let mut table = |head: &str, table: &Table| {
            if !table.0.is_empty() {
                text.push_str(head);
                for (key, value) in &table.0 {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "\n{key} = {}", value.0);
                }
                text.push_str("\n\n");
            }
        };
        table("[repository]", &self.repository);
        table("[recovery]", &self.recovery);
        for writer in &self.writers {
            table("[[writer]]", writer);
        }
        text + &self.extra
    }

    /// Writes the document, readable by its owner only.
    ///
    /// # Errors
    /// [`FixtureError::Io`].
    pub fn write(&self, path: &Path) -> Result<(), FixtureError> {
        process::write_file(path, self.to_toml())?;
        process::chmod(path, 0o600)
    }
}

/// One table of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Table(Vec<(String, Toml)>);

impl Table {
    /// Sets a key, in place of an earlier value.
    pub fn set(&mut self, key: &str, value: impl Into<Toml>) -> &mut Self {
        let value = value.into();
        match self.0.iter_mut().find(|(present, _)| present == key) {
            Some((_, present)) => *present = value,
            None => self.0.push((key.to_owned(), value)),
        }
        self
    }
}

/// A TOML value, already written out.
#[derive(Debug, Clone)]
pub struct Toml(String);

impl From<&str> for Toml {
    fn from(text: &str) -> Self {
        // JSON's strings are TOML's basic strings, escapes included.
        Self(Value::from(text).to_string())
    }
}

impl From<&Path> for Toml {
    fn from(path: &Path) -> Self {
        Self::from(path.to_string_lossy().as_ref())
    }
}

impl From<PathBuf> for Toml {
    fn from(path: PathBuf) -> Self {
        Self::from(path.as_path())
    }
}

impl From<bool> for Toml {
    fn from(value: bool) -> Self {
        Self(value.to_string())
    }
}

impl From<i64> for Toml {
    fn from(value: i64) -> Self {
        Self(value.to_string())
    }
}

impl<T: Into<Self>> From<Vec<T>> for Toml {
    fn from(values: Vec<T>) -> Self {
        let values: Vec<String> = values.into_iter().map(|value| value.into().0).collect();
        Self(format!("[{}]", values.join(", ")))
    }
}

fn lines(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in pipe.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()).map_while(Result::ok) {
            // After the test has lost interest the pipe is still emptied, so that the command never blocks on it.
            let _ = sender.send(line);
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Config;

    #[test]
    fn the_configuration_reads_as_it_was_set() {
        let mut config = Config::default();
        config.repository("/srv/repo", Path::new("/etc/key")).recipients(["age1x"]);
        config.writer("ca", "certificate-authority").set("database", Path::new("/srv/\"ca\"/db")).set("n", 3);
        config.writer("f", "files").set("paths", vec!["/a", "/b"]).set("flag", true).set("flag", false);
        assert_eq!(
            config.to_toml(),
            "[repository]\nlocation = \"/srv/repo\"\npassword-file = \"/etc/key\"\n\n\
             [recovery]\nrecipients = [\"age1x\"]\n\n\
             [[writer]]\nid = \"ca\"\ntype = \"certificate-authority\"\ndatabase = \"/srv/\\\"ca\\\"/db\"\nn = 3\n\n\
             [[writer]]\nid = \"f\"\ntype = \"files\"\npaths = [\"/a\", \"/b\"]\nflag = false\n\n"
        );
    }
}

//! The scratch folder: makes the applications and Holdfast's configuration, runs the applications, kills and destroys them.
//!
//! **Invariant:** no application outlives its [`Scene`]: dropping it kills them, and if that never happens they end
//! because their standard input is closed.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use holdfast_store_keys::{IdentityError, RecoveryIdentity, generate_passphrase};

use super::app::{self, AppError};
use super::places::{APPLICATIONS, CA, DIRECTORY, ORCHESTRATOR, Places};
use super::{ack, durable};

/// The hidden subcommand: `holdfast demo-application NAME DIR` calls [`app::run`].
pub const SUBCOMMAND: &str = "demo-application";
/// Most of what an application said that is repeated in an error, in bytes.
const MAX_SAID: usize = 2000;

/// Why the scene cannot be made or does not play.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SceneError {
    /// Something else is in the folder; nothing of it is touched.
    #[error("{} is not empty; the demonstration wants a folder of its own", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// Its path cannot stand in a configuration.
    #[error("{} contains a character that has a meaning in patterns or cannot be typed", path.display())]
    UnusableFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A file or folder.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An application could not be made.
    #[error("the application `{application}` cannot be made")]
    Application {
        /// Which.
        application: &'static str,
        /// Why.
        #[source]
        source: AppError,
    },
    /// The recovery identity could not be kept.
    #[error("the recovery identity cannot be kept")]
    Identity(#[from] IdentityError),
    /// An application could not be started.
    #[error("the application `{application}` cannot be started")]
    Start {
        /// Which.
        application: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An application ended by itself, which none ever does.
    #[error("the application `{application}` ended by itself ({status}): {said}")]
    Died {
        /// Which.
        application: &'static str,
        /// How.
        status: ExitStatus,
        /// The end of what it said.
        said: String,
    },
    /// Files are not taken away from an application that runs.
    #[error("the applications are still running")]
    Running,
}

impl SceneError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, path: path.to_owned(), source }
    }
}

/// How an application is started: the command that ends in [`app::run`] with a name and the scratch folder.
pub struct Launcher(Box<MakeCommand>);

type MakeCommand = dyn Fn(&str, &Path) -> Command + Send + Sync;

impl Launcher {
    /// By the hidden subcommand of the `holdfast` at `exe`.
    pub fn holdfast(exe: &Path) -> Self {
        let exe = exe.to_owned();
        Self::new(move |name, dir| {
            let mut command = Command::new(&exe);
            command.arg(SUBCOMMAND).arg(name).arg(dir);
            command
        })
    }

    /// By any other command.
    pub fn new(command: impl Fn(&str, &Path) -> Command + Send + Sync + 'static) -> Self {
        Self(Box::new(command))
    }
}

/// The applications in their scratch folder.
pub struct Scene {
    places: Places,
    running: Vec<(&'static str, Child)>,
}

impl Scene {
    /// Makes the applications, the repository's password, a recovery identity and `holdfast.toml` in `dir`, which must
    /// not exist or be empty. Takes about a second: the identity's encryption is slow by design. Nothing runs yet.
    ///
    /// # Errors
    /// [`SceneError`].
    pub fn create(dir: &Path) -> Result<Self, SceneError> {
        match durable::private_folder(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut entries = std::fs::read_dir(dir).map_err(SceneError::io("list", dir))?;
                if entries.next().is_some() {
                    return Err(SceneError::Occupied { path: dir.to_owned() });
                }
            }
            Err(error) => return Err(SceneError::io("create", dir)(error)),
        }
        let root = dir.canonicalize().map_err(SceneError::io("find", dir))?;
        let usable = |c: char| !c.is_control() && !"*?[]{}!\\\"".contains(c);
        if !root.to_str().is_some_and(|text| text.chars().all(usable)) {
            return Err(SceneError::UnusableFolder { path: root });
        }
        let places = Places::new(root);
        for folder in [places.acks(), places.root().join("recovery")] {
            durable::private_folder(&folder).map_err(SceneError::io("create", &folder))?;
        }
        for application in APPLICATIONS {
            app::create(application, &places)
                .map_err(|source| SceneError::Application { application, source })?;
        }
        let recipient = keep_secrets(&places)?;
        let configuration = configuration(&places, &recipient);
        write(&places.configuration(), configuration.as_bytes())?;
        Ok(Self { places, running: Vec::new() })
    }

    /// Where everything lies.
    pub fn places(&self) -> &Places {
        &self.places
    }

    /// Starts the applications, each as a process of its own, through the `holdfast` at `exe`.
    ///
    /// # Errors
    /// As [`start_with`](Self::start_with).
    pub fn start(&mut self, exe: &Path) -> Result<(), SceneError> {
        self.start_with(&Launcher::holdfast(exe))
    }

    /// Starts the applications with `launcher`. Those that run already go on.
    ///
    /// # Errors
    /// [`SceneError::Start`], [`SceneError::Io`]; none is left running then.
    pub fn start_with(&mut self, launcher: &Launcher) -> Result<(), SceneError> {
        for application in APPLICATIONS {
            if self.running.iter().any(|(name, _)| *name == application) {
                continue;
            }
            let output = self.places.output(application);
            let child = File::create(&output).map_err(SceneError::io("create", &output)).and_then(|stderr| {
                (launcher.0)(application, self.places.root())
                    // Ours alone: it closes when we die, and they end.
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(stderr)
                    // Ctrl-C is for us; they are told by the pipe.
                    .process_group(0)
                    .spawn()
                    .map_err(|source| SceneError::Start { application, source })
            });
            match child {
                Ok(child) => self.running.push((application, child)),
                Err(error) => {
                    self.stop();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// The process of an application that runs.
    pub fn pid(&self, application: &str) -> Option<u32> {
        self.running.iter().find(|(name, _)| *name == application).map(|(_, child)| child.id())
    }

    /// How many writes each has acknowledged so far, in the order of [`APPLICATIONS`].
    ///
    /// # Errors
    /// [`SceneError::Died`] when one does not run any more; [`SceneError::Io`].
    pub fn acknowledged(&mut self) -> Result<[u64; 3], SceneError> {
        self.check()?;
        let mut counts = [0; 3];
        for (count, application) in counts.iter_mut().zip(APPLICATIONS) {
            let folder = self.places.acks();
            *count = ack::count(&folder, application).map_err(SceneError::io("read", &folder))?;
        }
        Ok(counts)
    }

    /// Whether every application has acknowledged a write that it began after `time_ns` (`CLOCK_MONOTONIC`).
    pub fn wrote_since(&self, time_ns: u64) -> bool {
        let acks = self.places.acks();
        APPLICATIONS.iter().all(|name| ack::latest(&acks, name).is_some_and(|ack| ack.begun_ns > time_ns))
    }

    /// Looks whether all that were started still run.
    ///
    /// # Errors
    /// [`SceneError::Died`], with what it said last.
    pub fn check(&mut self) -> Result<(), SceneError> {
        for (application, child) in &mut self.running {
            if let Ok(Some(status)) = child.try_wait() {
                let said = std::fs::read(self.places.output(application)).unwrap_or_default();
                let said = String::from_utf8_lossy(&said[said.len().saturating_sub(MAX_SAID)..]);
                let said = if said.trim().is_empty() { "nothing".into() } else { said.trim().to_owned() };
                return Err(SceneError::Died { application, status, said });
            }
        }
        Ok(())
    }

    /// Kills them all by SIGKILL, as a machine that dies would, and waits until they are gone. Harmless when none runs.
    pub fn stop(&mut self) {
        for (_, child) in &mut self.running {
            // It may have ended by itself.
            let _ = child.kill();
        }
        for (_, mut child) in self.running.drain(..) {
            let _ = child.wait();
        }
    }

    /// Removes the three application folders with all that is in them.
    ///
    /// # Errors
    /// [`SceneError::Running`], with nothing removed; [`SceneError::Io`].
    pub fn destroy(&self) -> Result<(), SceneError> {
        if !self.running.is_empty() {
            return Err(SceneError::Running);
        }
        for application in APPLICATIONS {
            let folder = self.places.application(application);
            std::fs::remove_dir_all(&folder).map_err(SceneError::io("remove", &folder))?;
        }
        let root = self.places.root();
        File::open(root).and_then(|folder| folder.sync_all()).map_err(SceneError::io("sync", root))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The repository's password and the recovery identity; returns the public half.
fn keep_secrets(places: &Places) -> Result<String, SceneError> {
    let password = generate_passphrase();
    write(&places.repository_password(), format!("{}\n", &*password).as_bytes())?;
    let identity = RecoveryIdentity::generate();
    let passphrase = generate_passphrase();
    identity.save_encrypted(&places.recovery_identity(), &passphrase)?;
    let note = format!(
        "{}\n# Kept beside its identity because this is a demonstration. Of a real one, neither is ever on the\n\
         # machine that is backed up, nor in the repository.\n",
        &*passphrase
    );
    write(&places.recovery_passphrase(), note.as_bytes())?;
    Ok(identity.recipient().to_string())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), SceneError> {
    durable::write(path, bytes, 0o600).map_err(SceneError::io("write", path))
}

/// Paths need no escaping: `create` has refused those that would.
fn configuration(places: &Places, recipient: &str) -> String {
    let of = |path: PathBuf| format!("\"{}\"", path.display());
    format!(
        r#"# Made by `holdfast demo`: three applications in one folder.

[repository]
location = {repository}
password-file = {password}

[recovery]
# The private half is in recovery/. That it lies here is for the demonstration only.
recipients = ["{recipient}"]

[[writer]]
id = "{CA}"
type = "certificate-authority"
database = {ca_database}
certificate = {ca_certificate}
private-keys = [{ca_key}]
dynamic-files = [{ca_crl}]
configuration = [{ca_configuration}]

[[writer]]
id = "{DIRECTORY}"
type = "sqlite"
database = {directory_database}

[[writer]]
id = "{ORCHESTRATOR}"
type = "files"
paths = [{secrets}, {workflows}]
lock-file = {lock}
busy-timeout = "{busy_s}s"
keys = [{{ path = {encryption_key}, purpose = "secrets encryption" }}]
"#,
        repository = of(places.repository()),
        password = of(places.repository_password()),
        ca_database = of(places.ca_database()),
        ca_certificate = of(places.ca_certificate()),
        ca_key = of(places.ca_key()),
        ca_crl = of(places.ca_crl()),
        ca_configuration = of(places.ca_configuration()),
        directory_database = of(places.directory_database()),
        secrets = of(places.secrets()),
        workflows = of(places.workflows()),
        lock = of(places.orchestrator_lock()),
        busy_s = app::BUSY_TIMEOUT.as_secs(),
        encryption_key = of(places.encryption_key()),
    )
}

#[cfg(test)]
mod tests;

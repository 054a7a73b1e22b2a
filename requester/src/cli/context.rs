//! What most commands need: configuration, folders, password, repository, writers.

use std::error::Error;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, Config, check_trusted};
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::paths::Paths;
use crate::provider::Providers;
use crate::repository::{Options, Password, Repository, RepositoryError, S3Options, StoredSet};
use crate::session::Target;
use crate::writers::{self, ConfiguredWriter};
use holdfast_writer_api::protocol::Said;
use holdfast_writer_api::{Registry, WriterError};

use super::args::{Global, default_config, default_runtime, default_state};
use super::output::Output;

/// Longest password file that is read.
const MAX_PASSWORD: u64 = 4096;
/// How many lines of a failed writer's process a person wants to read.
pub const LAST_WORDS: usize = 10;
/// How long a password command may take.
const PASSWORD_COMMAND: Duration = Duration::from_secs(60);

/// The command line's options, resolved.
pub struct Context {
    pub global: Global,
    pub output: Output,
    pub paths: Paths,
    /// What the processes of each writer say, by its id.
    voices: Mutex<Vec<(String, Said)>>,
}

impl Context {
    pub fn new(global: Global) -> Self {
        let output = Output { json: global.json, quiet: false };
        // What is recorded there is read by other processes, in other folders.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        let paths = Paths {
            state: absolute(global.state_dir.clone().unwrap_or_else(default_state)),
            runtime: absolute(global.runtime_dir.clone().unwrap_or_else(default_runtime)),
        };
        Self { global, output, paths, voices: Mutex::default() }
    }

    /// For a command that runs inside another one, which tells what happens.
    pub fn quiet(global: Global) -> Self {
        let mut context = Self::new(global);
        context.output.quiet = true;
        context
    }

    pub fn config_path(&self) -> PathBuf {
        self.global.config.clone().unwrap_or_else(default_config)
    }

    /// The configuration, which must be there.
    pub fn config(&self) -> Result<Config, Failure> {
        Ok(config::load(&self.config_path())?)
    }

    /// The configuration, or none on a bare machine, as long as the command line says all that is needed.
    pub fn config_if_any(&self) -> Result<Config, Failure> {
        if self.global.config.is_none() && !self.config_path().exists() {
            return Ok(Config::default());
        }
        self.config()
    }

    pub fn writers(&self, config: &Config) -> Result<Vec<ConfiguredWriter>, Failure> {
        let registry = Registry::linked()?;
        let writers = writers::from_config(config, &registry, &own_program()?)?;
        let voices = writers.iter().filter_map(|w| Some((w.entry.id.clone(), w.said()?.clone())));
        self.voices.lock().unwrap_or_else(PoisonError::into_inner).extend(voices);
        Ok(writers)
    }

    /// What the processes of the writer said last by which a command failed, if it was one.
    pub fn last_words(&self, failure: &Failure) -> Vec<String> {
        let mut next = failure.source();
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<WriterError>() {
                let voices = self.voices.lock().unwrap_or_else(PoisonError::into_inner);
                let voice = voices.iter().find(|(id, _)| id == error.writer());
                return voice.map(|(_, said)| said.last(LAST_WORDS)).unwrap_or_default();
            }
            next = error.source();
        }
        Vec::new()
    }

    pub fn providers(&self) -> Result<Providers, Failure> {
        Providers::linked(&[]).map_err(|error| {
            Failure::new(Exit::Usage, "this program is put together wrongly", error, NOTHING_CHANGED)
        })
    }

    /// Makes our folders, and refuses those that others can write: they name processes to be ended and files
    /// to be deleted.
    pub fn create_paths(&self) -> Result<(), Failure> {
        self.paths.create().map_err(|error| {
            let what =
                format!("cannot make {} and {}", self.paths.state.display(), self.paths.runtime.display());
            Failure::new(Exit::Failed, what, error, NOTHING_CHANGED)
                .help("run as root, or name folders of your own with --state-dir and --runtime-dir")
        })?;
        self.trusted(&self.paths.state)?;
        self.trusted(&self.paths.runtime)
    }

    /// Refuses a folder of ours that others can write (promise P10).
    pub fn trusted(&self, folder: &Path) -> Result<(), Failure> {
        check_trusted(folder).map_err(|error| {
            Failure::new(
                Exit::Refused,
                "a folder of Holdfast's own cannot be trusted",
                error,
                NOTHING_CHANGED,
            )
        })
    }

    pub fn location(&self, config: &Config) -> Result<String, Failure> {
        self.global.repo.clone().or_else(|| config.repository.location.clone()).ok_or_else(|| {
            Failure::refused(Exit::Usage, "no repository is named")
                .help("pass --repo, or set `location` in [repository]")
        })
    }

    /// Opens the repository, which must be there.
    pub async fn repository(&self, config: &Config) -> Result<Repository, Failure> {
        let (location, password) = (self.location(config)?, self.password(config).await?);
        let opened = blocking(move || Repository::open(&location, &password, &options())).await?;
        Ok(opened?)
    }

    /// As [`repository`](Self::repository); `None` before this machine's first backup has made it.
    pub async fn repository_if_made(&self, config: &Config) -> Result<Option<Repository>, Failure> {
        let known = Known::at(&self.paths, &self.location(config)?);
        match self.repository(config).await {
            Err(failure) if failure.exit == Exit::NoRepository && !known.is_noted() => Ok(None),
            opened => opened.map(Some),
        }
    }

    /// Where a backup stores. The first one ever makes its repository; where this machine has backed up before, a
    /// repository that is gone is an unmounted disk and not an invitation.
    pub async fn target(&self, config: &Config) -> Result<Target, Failure> {
        let (location, password) = (self.location(config)?, self.password(config).await?);
        let known = Known::at(&self.paths, &location);
        let (place, word) = (location.clone(), password.clone());
        let opened = blocking(move || Repository::open(&place, &word, &options())).await?;
        match opened {
            Err(RepositoryError::NoRepository { .. }) if !known.is_noted() => {
                let output = self.output;
                Ok(Target::New(Arc::new(move || {
                    let repository = init_or_open(&location, &password)?;
                    output.note(format!("made a new repository at {location}"));
                    known.note(output);
                    Ok(repository)
                })))
            }
            Err(error @ RepositoryError::NoRepository { .. }) => {
                let what = "this machine has backed up here before, and the repository is gone";
                Err(Failure::new(Exit::NoRepository, what, error, NOTHING_CHANGED).help(format!(
                    "mount its disk; to begin a new repository there, remove its line from {}",
                    known.file.display()
                )))
            }
            other => {
                let repository = other?;
                known.note(self.output);
                Ok(Target::Open(repository))
            }
        }
    }

    /// Whether a location and a password are given, by its command if need be. The repository is not opened.
    pub async fn repository_is_told(&self, config: &Config) -> Result<(), Failure> {
        self.location(config)?;
        self.password(config).await.map(drop)
    }

    async fn password(&self, config: &Config) -> Result<Password, Failure> {
        let global = &self.global;
        if let Some(command) = &global.password_command {
            let argv: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            return password_from_command(&argv).await;
        }
        if let Some(file) = &global.password_file {
            return first_line(file, "password").map(Password::new);
        }
        if let Some(argv) = &config.repository.password_command {
            return password_from_command(argv).await;
        }
        if let Some(file) = &config.repository.password_file {
            return first_line(file, "password").map(Password::new);
        }
        Err(Failure::refused(Exit::Usage, "no password of the repository is given")
            .help("pass --password-file, or set `password-file` in [repository]"))
    }
}

/// The note that this machine has backed up to a location.
struct Known {
    file: PathBuf,
    location: String,
}

impl Known {
    fn at(paths: &Paths, location: &str) -> Self {
        Self { file: paths.state.join("repositories"), location: location.to_owned() }
    }

    fn is_noted(&self) -> bool {
        let seen = std::fs::read_to_string(&self.file).unwrap_or_default();
        seen.lines().any(|line| line == self.location)
    }

    fn note(&self, output: Output) {
        if self.is_noted() {
            return;
        }
        let noted = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.file)
            .and_then(|mut file| writeln!(file, "{}", self.location).and_then(|()| file.sync_all()));
        if let Err(error) = noted {
            output.note(format!("cannot write {}: {error}", self.file.display()));
        }
    }
}

/// A new repository; if somebody else's first backup made it meanwhile, that one.
fn init_or_open(location: &str, password: &Password) -> Result<Repository, RepositoryError> {
    match Repository::init(location, password, &options()) {
        Err(error @ RepositoryError::AlreadyExists { .. }) => {
            match Repository::open(location, password, &options()) {
                // Parts of one, of which nobody knows whose they are.
                Err(RepositoryError::NoRepository { .. }) => Err(error),
                opened => opened,
            }
        }
        made => made,
    }
}

/// The first line of a secret's file, which only its owner may write (promise P10).
pub fn first_line(path: &Path, what: &str) -> Result<String, Failure> {
    let failed = |cause: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(
            Exit::Usage,
            format!("cannot read the {what} file {}", path.display()),
            cause,
            NOTHING_CHANGED,
        )
    };
    let file = std::fs::File::open(path).map_err(|error| failed(error.into()))?;
    // A pipe such as /dev/stdin has no owner to speak of.
    if file.metadata().is_ok_and(|meta| meta.is_file()) {
        check_trusted(path).map_err(|error| failed(error.into()))?;
    }
    let mut text = String::new();
    file.take(MAX_PASSWORD).read_to_string(&mut text).map_err(|error| failed(error.into()))?;
    let line = text.lines().next().unwrap_or_default().to_owned();
    if line.is_empty() {
        return Err(failed("its first line is empty".into()));
    }
    Ok(line)
}

async fn password_from_command(argv: &[String]) -> Result<Password, Failure> {
    let failed =
        |cause: String| Failure::new(Exit::Usage, "the password command failed", cause, NOTHING_CHANGED);
    let (program, arguments) = argv.split_first().ok_or_else(|| failed("it is empty".into()))?;
    let run = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(std::process::Stdio::null())
        .stderr(std::process::Stdio::inherit())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(PASSWORD_COMMAND, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(failed(format!("{program}: {error}"))),
        Err(_) => {
            return Err(failed(format!("{program} did not end within {} s", PASSWORD_COMMAND.as_secs())));
        }
    };
    if !output.status.success() {
        return Err(failed(format!("{program}: {}", output.status)));
    }
    let text = String::from_utf8(output.stdout).map_err(|_| failed(format!("{program} printed no text")))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Password::new(line)),
        _ => Err(failed(format!("{program} printed nothing"))),
    }
}

/// The program whose `writer serve` holds applications: this one.
pub fn own_program() -> Result<PathBuf, Failure> {
    std::env::current_exe().map_err(|error| {
        Failure::new(Exit::Failed, "cannot find this program's own file", error, NOTHING_CHANGED)
    })
}

/// Object stores are configured as every tool for them is: by the environment.
fn options() -> Options {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
        (Some(access_key_id), Some(secret)) => Options::with_s3(S3Options {
            access_key_id,
            secret_access_key: secret.into(),
            session_token: variable("AWS_SESSION_TOKEN").map(Into::into),
            region: variable("AWS_REGION")
                .or_else(|| variable("AWS_DEFAULT_REGION"))
                .unwrap_or_else(|| "us-east-1".into()),
        }),
        _ => Options::default(),
    }
}

/// Runs blocking work; a panic in it is a failure.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|panic| Failure::new(Exit::Failed, "an inner part failed", panic, "see the message above"))
}

/// As many characters of an id name a set: an unset variable, or a slip of a finger, names none.
const SHORTEST_NAME: usize = 4;

/// The set that `text` names: an id, its beginning, or `latest`.
pub async fn find_set(repository: &Repository, text: &str) -> Result<StoredSet, Failure> {
    if text.len() < SHORTEST_NAME {
        let what = format!("`{text}` is too little to name a set");
        return Err(Failure::refused(Exit::Usage, what)
            .help("`holdfast list backups` shows the sets; four characters of an id are enough if they are one set's only"));
    }
    let inner = repository.clone();
    let mut sets = blocking(move || inner.sets()).await??;
    if text == "latest" {
        return sets.pop().ok_or_else(|| Failure::refused(Exit::Refused, "the repository holds no set yet"));
    }
    let mut matching = sets.into_iter().filter(|set| set.set.to_string().starts_with(text));
    match (matching.next(), matching.next()) {
        (Some(set), None) => Ok(set),
        (None, _) => Err(Failure::refused(Exit::Refused, format!("there is no set `{text}`"))
            .help("`holdfast list backups` shows those there are")),
        (Some(_), Some(_)) => {
            Err(Failure::refused(Exit::Refused, format!("more than one set begins with `{text}`"))
                .help("`holdfast list backups` shows them; write more of it"))
        }
    }
}

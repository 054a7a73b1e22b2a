//! A fixture that is a program: for writers in any language.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use super::fixture::{Fixture, FixtureError, Poke, Subject};
use super::run::Fixtures;
use crate::StreamFile;
use crate::protocol::Launcher;

/// Exit status of a fixture: the write is held; the application does not come up.
const HELD: i32 = 75;
/// Exit status of a fixture: it has no such command.
const UNABLE: i32 = 64;
/// How long a command may take beyond the patience it is given.
const LIMIT: Duration = Duration::from_secs(55);
/// How long the last `stop` may take.
const LAST_STOP: Duration = Duration::from_secs(20);
/// Most bytes of an answer.
const MAX_ANSWER: u64 = 16 << 20;

/// Starts applications by a program, one for each rule.
///
/// The program is called with a command and DIR, a folder that is empty at first and the application's own. It answers on
/// standard output. Exit status 0 means done, 64 that it has no such command, any other but those below that it failed;
/// then its standard error says why.
///
/// | command | does | answers |
/// |---|---|---|
/// | `start DIR` | starts the application in the background, with some data | a JSON object: `settings` of the writer; if they apply, `"registers": true` (see W15) and `"streams": "generated"` (see W18) |
/// | `poke DIR MS` | one write past the writer; the application gets MS milliseconds | the write's id; exit 75: held |
/// | `contents DIR` | | the ids that the application has, one a line |
/// | `contents-of DIR ROOT` | opens the copy below ROOT, each file at its original path, with the application's own program | its ids |
/// | `stop DIR` | stops the application, and waits for that | |
/// | `restart DIR` | starts it again, and waits for that | exit 75: it refuses to come up |
/// | `logs DIR` | | the names of the application's logs, one a line |
#[derive(Debug, Clone)]
pub struct ProgramFixtures {
    /// The fixture.
    pub program: PathBuf,
    /// How its writer is started.
    pub writer: Launcher,
    /// The writer's type.
    pub writer_type: String,
    /// The writer's id.
    pub id: String,
    /// Settings that win over those of the fixture.
    pub settings: serde_json::Map<String, Value>,
}

#[async_trait]
impl Fixtures for ProgramFixtures {
    async fn start(&self) -> Result<Box<dyn Fixture>, FixtureError> {
        let place = tempfile::Builder::new().prefix("holdfast-app-").tempdir();
        let place =
            place.map_err(|error| FixtureError::failed("make a folder for the application", &error))?;
        // The application and its writer may run as other users, who have to get through here.
        let open = |path: &Path| std::fs::set_permissions(path, PermissionsExt::from_mode(0o755));
        let dir = place.path().join("app");
        std::fs::create_dir(&dir)
            .and_then(|()| open(place.path()))
            .and_then(|()| open(&dir))
            .map_err(|error| FixtureError::failed("make a folder for the application", &error))?;
        let mut fixture = ProgramFixture {
            run: Run { program: self.program.clone(), dir, place },
            subject: Subject::program(self.writer_again(), self.writer_type.clone(), Value::Null)
                .with_id(&self.id),
            registers: false,
            generated: false,
            started: false,
        };
        fixture.begin(&self.settings).await?;
        Ok(Box::new(fixture))
    }
}

impl ProgramFixtures {
    /// With a standard error of its own for each rule.
    fn writer_again(&self) -> Launcher {
        Launcher { said: Default::default(), ..self.writer.clone() }
    }
}

/// One application.
struct ProgramFixture {
    run: Run,
    subject: Subject,
    registers: bool,
    generated: bool,
    /// Whether there is anything to stop.
    started: bool,
}

/// How the program is called.
#[derive(Debug)]
struct Run {
    program: PathBuf,
    dir: PathBuf,
    place: TempDir,
}

impl ProgramFixture {
    async fn begin(&mut self, settings: &serde_json::Map<String, Value>) -> Result<(), FixtureError> {
        // From here on there may be something to stop, whatever comes of it.
        self.started = true;
        let text = self.run.answer("start", &[], LIMIT).await?;
        let bad = |why: String| FixtureError::because("start its application", why);
        let answer: Value = serde_json::from_str(&text).map_err(|error| {
            bad(format!("`start` printed `{}`, which is no JSON object: {error}", text.trim()))
        })?;
        let mut all = match answer.get("settings") {
            Some(Value::Object(settings)) => settings.clone(),
            None if answer.is_object() => serde_json::Map::new(),
            Some(_) | None => return Err(bad("`start` printed no object with an object `settings`".into())),
        };
        all.extend(settings.clone());
        self.subject.settings = Value::Object(all);
        self.registers = answer["registers"].as_bool().unwrap_or_default();
        self.generated = answer["streams"] == "generated";
        Ok(())
    }

    async fn lines(&self, command: &str, arguments: &[&str]) -> Result<Vec<String>, FixtureError> {
        let text = self.run.answer(command, arguments, LIMIT).await?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect())
    }
}

#[async_trait]
impl Fixture for ProgramFixture {
    fn writer(&self) -> Subject {
        self.subject.clone()
    }

    async fn poke(&mut self, patience: Duration) -> Result<Poke, FixtureError> {
        let ms = patience.as_millis().max(1).to_string();
        let ended = self.run.call("poke", &[&ms], patience + LIMIT).await?;
        if ended.status.code() == Some(HELD) {
            return Ok(Poke::Held);
        }
        let id = ended.answer("poke")?.trim().to_owned();
        if id.is_empty() || id.contains('\n') {
            return Err(FixtureError::because("write", format!("`poke` printed `{id}`, and not one id")));
        }
        Ok(Poke::Written(id))
    }

    async fn contents(&mut self) -> Result<Vec<String>, FixtureError> {
        self.lines("contents", &[]).await
    }

    async fn contents_of(&mut self, root: &Path) -> Result<Vec<String>, FixtureError> {
        self.lines("contents-of", &[&root.to_string_lossy()]).await
    }

    async fn stop(&mut self) -> Result<(), FixtureError> {
        self.run.answer("stop", &[], LIMIT).await.map(drop)
    }

    async fn start(&mut self) -> Result<bool, FixtureError> {
        let ended = self.run.call("restart", &[], LIMIT).await?;
        if ended.status.code() == Some(HELD) {
            return Ok(false);
        }
        ended.answer("restart").map(|_| true)
    }

    async fn logs(&mut self) -> Result<Vec<String>, FixtureError> {
        self.lines("logs", &[]).await
    }

    fn registers(&self) -> bool {
        self.registers
    }

    async fn streamed(&mut self, stream: &StreamFile) -> Result<Option<Vec<u8>>, FixtureError> {
        if self.generated {
            return Ok(None);
        }
        let read = std::fs::read(&stream.path);
        read.map(Some)
            .map_err(|error| FixtureError::failed(format!("read {}", stream.path.display()), &error))
    }
}

impl Drop for ProgramFixture {
    fn drop(&mut self) {
        if self.started {
            // Nobody is left to be told; whoever started us ends what is left of our processes.
            let _ = self.run.call_now("stop", &[], LAST_STOP);
        }
    }
}

/// How a call ended.
struct Ended {
    status: ExitStatus,
    text: String,
    errors: String,
}

impl Ended {
    /// What it answered.
    fn answer(self, command: &str) -> Result<String, FixtureError> {
        match self.status.code() {
            Some(0) => Ok(self.text),
            Some(UNABLE) => Err(FixtureError::unable(format!("do `{command}`"))),
            _ => {
                let last: Vec<&str> = self.errors.lines().rev().take(5).collect();
                let last: Vec<&str> = last.into_iter().rev().collect();
                let why = format!("`{command}` ended with {}: {}", self.status, last.join(" / "));
                Err(FixtureError::because(format!("do `{command}`"), why))
            }
        }
    }
}

impl Run {
    async fn answer(
        &self,
        command: &str,
        arguments: &[&str],
        limit: Duration,
    ) -> Result<String, FixtureError> {
        self.call(command, arguments, limit).await?.answer(command)
    }

    async fn call(&self, command: &str, arguments: &[&str], limit: Duration) -> Result<Ended, FixtureError> {
        let mut running = self.begin(command, arguments)?;
        let until = Instant::now() + limit;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(ended) = running.ended(command)? {
                return Ok(ended);
            }
            if Instant::now() >= until {
                return Err(running.too_late(command, limit));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// The same where nobody can wait otherwise.
    fn call_now(&self, command: &str, arguments: &[&str], limit: Duration) -> Result<Ended, FixtureError> {
        let mut running = self.begin(command, arguments)?;
        let until = Instant::now() + limit;
        loop {
            if let Some(ended) = running.ended(command)? {
                return Ok(ended);
            }
            if Instant::now() >= until {
                return Err(running.too_late(command, limit));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Answers go to files: an application that is left in the background may keep a pipe open for ever.
    fn begin(&self, command: &str, arguments: &[&str]) -> Result<Running, FixtureError> {
        let failed = |error: std::io::Error| {
            FixtureError::failed(format!("start {} {command}", self.program.display()), &error)
        };
        let file = || tempfile::tempfile_in(self.place.path()).map_err(failed);
        let (output, errors) = (file()?, file()?);
        let copy = |file: &File| file.try_clone().map(Stdio::from).map_err(failed);
        let child = Command::new(&self.program)
            .arg(command)
            .arg(&self.dir)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(copy(&output)?)
            .stderr(copy(&errors)?)
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        Ok(Running { child: Some(child), output, errors })
    }
}

/// A call that is not over. Dropping it ends its process group.
struct Running {
    child: Option<Child>,
    output: File,
    errors: File,
}

impl Running {
    fn ended(&mut self, command: &str) -> Result<Option<Ended>, FixtureError> {
        let failed = |error: std::io::Error| FixtureError::failed(format!("wait for `{command}`"), &error);
        let Some(child) = &mut self.child else { return Ok(None) };
        let Some(status) = child.try_wait().map_err(failed)? else { return Ok(None) };
        // What it left in the background is the application.
        self.child = None;
        let text = written(&mut self.output).map_err(failed)?;
        let errors = written(&mut self.errors).map_err(failed)?;
        Ok(Some(Ended { status, text, errors }))
    }

    fn too_late(self, command: &str, limit: Duration) -> FixtureError {
        let why = format!("it did not end within {} ms, and was killed", limit.as_millis());
        FixtureError::because(format!("do `{command}`"), why)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = child.wait();
        }
    }
}

fn written(file: &mut File) -> std::io::Result<String> {
    use std::io::Seek;
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(MAX_ANSWER).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Why nothing else is checked there.
const WITHOUT: &str = "watch an application: there is none without `--fixture`";

/// No application at all: only what a writer says can be checked, and the report says what was not.
#[derive(Debug, Clone)]
pub struct Without {
    /// The writer.
    pub writer: Subject,
}

#[async_trait]
impl Fixtures for Without {
    async fn start(&self) -> Result<Box<dyn Fixture>, FixtureError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Fixture for Without {
    fn writer(&self) -> Subject {
        self.writer.clone()
    }

    async fn poke(&mut self, _: Duration) -> Result<Poke, FixtureError> {
        Err(FixtureError::unable(WITHOUT))
    }

    async fn contents(&mut self) -> Result<Vec<String>, FixtureError> {
        Err(FixtureError::unable(WITHOUT))
    }
}

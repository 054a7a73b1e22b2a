//! The contract's traits, spoken by a script.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use holdfast_writer_api::protocol::Hello;
use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, BackupRequest, Cause, CheckReport, Finding, FreezeContext, Mark,
    OnlineState, PhaseContext, PostSnapshot, Prepared, RestoreParticipant, RestoreRequest, ShadowContext,
    StagedFiles, Thawed, Truncated, Writer, WriterError, WriterMetadata,
};
use serde_json::Value;

use super::describe::Description;
use super::link::{Link, Told};
use super::script::{Environment, Script, Verdict};

/// The exit code of `online` for an application that is down, as `systemctl is-active` has it. Not 1: that is what a
/// script ends with that has a mistake.
const DOWN: i32 = 3;

/// A writer for the requester that said `hello`.
///
/// # Errors
/// [`WriterError::InvalidSetting`]: a setting that cannot be told to a script.
pub fn build(script: &Script, link: &Arc<Mutex<Link>>, hello: Hello) -> Result<Box<dyn Writer>, WriterError> {
    let Hello { id, writer_type, settings, .. } = hello;
    let mut environment = vec![("HOLDFAST_WRITER".to_owned(), id.clone())];
    for (key, value) in settings.as_object().into_iter().flatten() {
        let name = format!("SETTING_{}", key.to_uppercase().replace('-', "_"));
        let problem = match value {
            _ if !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) => {
                "a script takes keys of letters, digits, `-` and `_`".to_owned()
            }
            _ if environment.iter().any(|(known, _)| *known == name) => {
                format!("another key is {name} to the script as well")
            }
            Value::String(text) if text.contains('\0') => "a script takes no text with a NUL".to_owned(),
            Value::String(text) => {
                environment.push((name, text.clone()));
                continue;
            }
            Value::Bool(_) | Value::Number(_) => {
                environment.push((name, value.to_string()));
                continue;
            }
            Value::Null | Value::Array(_) | Value::Object(_) => {
                "a script takes text, numbers, true and false".to_owned()
            }
        };
        return Err(WriterError::InvalidSetting { writer: id, key: Some(key.clone()), problem });
    }
    let (script, link) = (script.clone(), Arc::clone(link));
    Ok(Box::new(Shell { id, writer_type, script, link, environment }))
}

#[derive(Clone)]
struct Shell {
    id: String,
    writer_type: String,
    script: Script,
    link: Arc<Mutex<Link>>,
    environment: Environment,
}

impl Shell {
    fn failed(&self, word: &str, how: impl std::fmt::Display) -> WriterError {
        WriterError::rejected(&self.id, format!("`{} {word}`: {how}", self.script.name()))
    }

    fn skipped(&self, word: &str) -> WriterError {
        let cause = Cause::new(format!("`{} {word}` ended with exit status 75", self.script.name()));
        WriterError::Skipped { writer: self.id.clone(), cause }
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks, as the freeze does: what must go on meanwhile has threads and a process of its own.
    fn run(&self, word: &str) -> Result<(Verdict, String), WriterError> {
        self.link().run(word, self.environment.clone()).map_err(|error| self.failed(word, error))
    }
}

#[async_trait]
impl Writer for Shell {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        const WORD: &str = "describe";
        match self.run(WORD)? {
            (Verdict::Done, printed) => {
                Description::parse(&self.id, &printed)?.metadata(&self.writer_type, &self.id)
            }
            (Verdict::Skipped, _) => Err(self.skipped(WORD)),
            (Verdict::Failed { how, .. }, _) => Err(self.failed(WORD, how)),
        }
    }

    async fn begin_backup(&self, _: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        Ok(Box::new(Backup { shell: self.clone(), frozen: None }))
    }

    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Ok(Box::new(Restore { shell: self.clone(), metadata: request.metadata }))
    }
}

struct Backup {
    shell: Shell,
    /// What `freeze` was told, once it was asked for.
    frozen: Option<FreezeContext>,
}

impl Backup {
    fn environment(&self, ctx: &FreezeContext) -> Environment {
        let mut environment = self.shell.environment.clone();
        environment.push(("HOLDFAST_SET".into(), ctx.set.to_string()));
        environment.push(("HOLDFAST_BUDGET_MS".into(), ctx.budget.as_millis().to_string()));
        environment
    }

    fn release(&mut self) -> Result<Thawed, WriterError> {
        let Some(ctx) = self.frozen.take() else { return Ok(Thawed::WasNotHeld) };
        let told = self.shell.link().thaw();
        match told {
            Ok(Told::WasNotHeld) => Ok(Thawed::WasNotHeld),
            Ok(Told::Released) => Ok(Thawed::Released),
            Ok(Told::Late) => Err(WriterError::timed_out(&self.shell.id, "thaw", ctx.budget)),
            Ok(
                other @ (Told::Ended { .. }
                | Told::Started { .. }
                | Told::Frozen
                | Told::Skipped
                | Told::Failed(_)),
            ) => Err(self.shell.failed("thaw", format!("no answer to it: {other:?}"))),
            Err(_) => Err(self.lost("thaw")),
        }
    }

    /// Its guardian was killed, and another one has thawed: when, nobody knows, so what was copied is good for nothing.
    fn lost(&self, word: &str) -> WriterError {
        let how =
            format!("its guardian was killed, and another one has run `{} thaw`", self.shell.script.name());
        WriterError::not_responding(&self.shell.id, format!("asked to {word}: {how}"))
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        // Nobody is left to tell; the guardian tells the system's log.
        let _ = self.release();
    }
}

#[async_trait]
impl BackupParticipant for Backup {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        Ok(Prepared::default())
    }

    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        Ok(())
    }

    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        const WORD: &str = "freeze";
        self.frozen = Some(ctx.clone());
        let environment = self.environment(ctx);
        let told = self.shell.link().freeze(ctx.budget, environment);
        match told {
            Ok(Told::Frozen) => {
                let proof = format!("`{} {WORD}` succeeded", self.shell.script.name());
                Ok(Mark { proof, ..Mark::default() })
            }
            Ok(Told::Skipped) => Err(self.shell.skipped(WORD)),
            Ok(Told::Failed(how)) => Err(self.shell.failed(WORD, how)),
            Ok(
                other @ (Told::Ended { .. }
                | Told::Started { .. }
                | Told::Released
                | Told::Late
                | Told::WasNotHeld),
            ) => Err(self.shell.failed(WORD, format!("no answer to it: {other:?}"))),
            Err(_) => {
                self.frozen = None;
                Err(self.lost(WORD))
            }
        }
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        self.release()
    }

    async fn post_snapshot(&mut self, _: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        Ok(PostSnapshot::default())
    }

    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        Ok(Truncated::default())
    }

    async fn abort(&mut self) -> Result<(), WriterError> {
        self.release().map(drop)
    }
}

struct Restore {
    shell: Shell,
    metadata: WriterMetadata,
}

impl Restore {
    /// The files and folders that are to be there.
    fn wanted(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let sets = self.metadata.components.iter().flat_map(|component| &component.files);
        // `describe` makes sets of two kinds: a file by its name, and a folder with all below it.
        sets.map(|set| if set.recursive { set.path.clone() } else { set.path.join(&set.pattern) })
    }
}

#[async_trait]
impl RestoreParticipant for Restore {
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        const WORD: &str = "online";
        match self.shell.run(WORD)? {
            (Verdict::Done, _) => Ok(OnlineState::Ready),
            (Verdict::Failed { code: Some(DOWN), .. }, _) => Ok(OnlineState::Down),
            (Verdict::Skipped, _) => Err(self.shell.skipped(WORD)),
            (Verdict::Failed { how, .. }, _) => Err(self.shell.failed(WORD, how)),
        }
    }

    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        let mut findings = Vec::new();
        for path in self.wanted() {
            match staged.locate(&path).map(|copy| copy.symlink_metadata()) {
                Some(Ok(_)) => {
                    let (check, result) = (path.display().to_string(), "is there".to_owned());
                    findings.push(Finding { check, result, warning: false });
                }
                Some(Err(error)) => {
                    let why = format!("`{}` did not come back: {error}", path.display());
                    return Err(WriterError::rejected(&self.shell.id, why));
                }
                // Not among the chosen components.
                None => {}
            }
        }
        Ok(CheckReport { findings })
    }

    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.check(staged).await
    }
}

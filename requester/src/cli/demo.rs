//! `demo`: the main job in a scratch folder, told as it happens.

use std::path::Path;

use crate::demo::{self, BackupFacts, DemoError, Engine, Hold, Launcher, Line, Places, RestoreFacts};
use crate::failure::{Exit, Failure};
use async_trait::async_trait;
use holdfast_writer_api::document::BackupSet;
use serde_json::json;

use super::args::{BackupArgs, DemoArgs, Global, IdentityArgs, RestoreArgs, RestoreCommand, Type};
use super::context::{Context, own_program};
use super::output::Output;
use super::{backup, restore};

pub async fn run(context: &Context, args: DemoArgs) -> Result<Exit, Failure> {
    let dir = match args.dir {
        Some(dir) => dir,
        None => {
            let made = tempfile::Builder::new().prefix("holdfast-demo-").tempdir();
            made.map_err(|error| Failure::new(Exit::Failed, "no scratch folder", error, "nothing was begun"))?
                .keep()
        }
    };
    let launcher = Launcher::holdfast(&own_program()?);
    let out = context.output;
    let mut say = move |line: Line| tell(out, line);
    let mut engine = CommandEngine { json: out.json };
    match demo::run(&dir, &launcher, &mut engine, &mut say).await {
        Ok(outcome) => {
            out.document(&json!({"schema": "holdfast.demo/1", "dir": dir, "outcome": outcome}));
            Ok(Exit::Ok)
        }
        Err(error) => {
            let state = format!("the applications are stopped; everything lies in {}", dir.display());
            let exit = if matches!(error, DemoError::Count(_)) { Exit::VerifyFailed } else { Exit::Failed };
            Err(Failure::new(exit, "the demonstration failed", error, state))
        }
    }
}

/// One of the demonstration's applications, until it is killed.
pub fn app(name: &str, dir: &Path) -> Result<Exit, Failure> {
    let failed =
        |error| Failure::new(Exit::Failed, format!("application `{name}` ended"), error, "its writes stand");
    demo::app::run(name, dir).map(|()| Exit::Ok).map_err(failed)
}

fn tell(out: Output, line: Line) {
    match line {
        Line::Step { number, of, title } => out.line(format!("\n[{number}/{of}] {title}")),
        Line::Fact(text) => out.line(format!("      {text}")),
        Line::Proof(text) => out.line(format!("   ok {text}")),
        Line::Failure(text) => out.line(format!("  BAD {text}")),
        Line::Place(what, path) => out.line(format!("      {what:<34} {path}")),
        Line::Command(command, what) => out.line(format!("      {command}\n          {what}")),
    }
}

/// The very commands a user would type, in the demonstration's own folders.
struct CommandEngine {
    json: bool,
}

impl CommandEngine {
    fn context(&self, places: &Places) -> Context {
        let global = Global {
            config: Some(places.configuration()),
            state_dir: Some(places.root().join("state")),
            runtime_dir: Some(places.root().join("run")),
            repo: None,
            password_file: None,
            password_command: None,
            json: self.json,
            verbose: 0,
        };
        Context::quiet(global)
    }
}

#[async_trait(?Send)]
impl Engine for CommandEngine {
    type Error = Failure;

    async fn backup(&mut self, places: &Places) -> Result<BackupFacts, Failure> {
        let args = BackupArgs {
            backup_type: Type::Full,
            writers: Vec::new(),
            components: Vec::new(),
            freeze_budget: None,
            allow_incomplete: Vec::new(),
            tags: vec!["demo".into()],
        };
        let context = self.context(places);
        let made = backup::make(&context, args).await?;
        if let Some(writer) = made.not_completed.first() {
            return Err(writer.failure(made.set.set));
        }
        let holds = made.holds.into_iter().filter_map(|(id, times)| {
            let hold =
                Hold { called_ns: times.called?, taken_ns: times.taken?, released_ns: times.released? };
            Some((id, hold))
        });
        Ok(facts(&made.set, holds.collect()))
    }

    async fn restore(&mut self, places: &Places, set: &str) -> Result<RestoreFacts, Failure> {
        let args = RestoreArgs {
            set: Some(set.to_owned()),
            writers: Vec::new(),
            components: Vec::new(),
            to: None,
            map: Vec::new(),
            stop: false,
            // The demonstration killed them itself; without privileges nobody can see every process.
            assume_stopped: true,
            without_keys: false,
            keep_old: false,
            identity: IdentityArgs {
                identity: Some(places.recovery_identity()),
                identity_passphrase_file: Some(places.recovery_passphrase()),
            },
        };
        let context = self.context(places);
        match restore::make(&context, RestoreCommand { plan: None, args }).await? {
            restore::Outcome::Restored(restored) => {
                let restore::Restored { files, bytes, keys, .. } = restored;
                Ok(RestoreFacts { files, bytes, keys })
            }
            restore::Outcome::Planned(_) => Err(Failure::refused(Exit::Failed, "only a plan was made")),
        }
    }

    fn invocation(&self, places: &Places) -> String {
        let root = places.root();
        format!(
            "holdfast --config {} --state-dir {} --runtime-dir {}",
            places.configuration().display(),
            root.join("state").display(),
            root.join("run").display()
        )
    }
}

fn facts(set: &BackupSet, holds: std::collections::BTreeMap<String, Hold>) -> BackupFacts {
    let providers: Vec<_> = set.shadows.iter().map(|shadow| shadow.provider.as_str()).collect();
    BackupFacts {
        set: set.set.to_string(),
        level: set.level.as_str().to_owned(),
        provider: providers.join(", "),
        window_ms: set.window_ms,
        skew_ms: set.skew_ms,
        bytes: set.bytes(),
        holds,
    }
}

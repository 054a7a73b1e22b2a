//! `restore`, `restore plan`, `recover`, and what `verify` shows.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::Config;
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::repository::{ProgressFn, Repository, StoredSet};
use crate::restore::NoSteps;
use crate::restore::engine::{
    self, RecoverOptions, RestoreEnvironment, RestoreOptions, RestorePlan, RestoreReport,
};
use crate::restore::target::TargetMap;
use crate::writers::ConfiguredWriter;
use holdfast_store_keys::RecoveryIdentity;
use serde::Serialize;

use super::args::{IdentityArgs, RestoreArgs, RestoreCommand, RestorePlan as PlanCommand};
use super::backup::{chosen, interruptible};
use super::context::{Context, blocking, find_set, first_line};
use super::output::FailureFields;
use super::pause;

/// What was restored, and how much of it.
pub struct Restored {
    pub report: RestoreReport,
    pub files: u64,
    pub bytes: u64,
    pub keys: u64,
}

/// What came of the command.
pub enum Outcome {
    /// Only a plan was asked for; why the restore would be refused.
    Planned(Option<Failure>),
    /// It was done.
    Restored(Restored),
}

/// A plan with what it comes to: one document, whether or not the restore would be refused.
#[derive(Serialize)]
struct PlanDocument<'p> {
    #[serde(flatten)]
    plan: &'p RestorePlan,
    refusal: Option<FailureFields<'p>>,
}

pub async fn run(context: &Context, command: RestoreCommand) -> Result<Exit, Failure> {
    match make(context, command).await? {
        Outcome::Planned(None) => Ok(Exit::Ok),
        Outcome::Planned(Some(refusal)) => {
            context.output.explain(&refusal, &context.last_words(&refusal));
            Ok(refusal.exit)
        }
        Outcome::Restored(restored) => {
            show_report(context, &restored.report);
            context.output.document(&restored.report);
            Ok(Exit::Ok)
        }
    }
}

/// Does it, or, for `plan`, only shows what it would do.
pub async fn make(context: &Context, command: RestoreCommand) -> Result<Outcome, Failure> {
    let (args, only_plan) = match command.plan {
        Some(PlanCommand::Plan(args)) => (args, true),
        None => (command.args, false),
    };
    let Some(text) = args.set.clone() else {
        return Err(Failure::refused(Exit::Usage, "which set? Name one, or `latest`")
            .help("`holdfast list backups` shows those there are"));
    };
    let config = context.config_if_any()?;
    let writers = context.writers(&config)?;
    context.create_paths()?;
    let repository = context.repository(&config).await?;
    let stored = find_set(&repository, &text).await?;
    let options = options(stored, args).await?;
    let progress = context.output.progress("restoring");
    let note = |text: &str| context.output.note(text);
    let at = |name: &str| pause::at(&context.paths, name);
    let environment = environment(context, &writers, &note, &at, Some(progress.callback()));
    let plan = engine::plan(&environment, &repository, options).await?;
    let refusal = plan.refusal();
    if only_plan || refusal.is_some() {
        drop(progress);
        show_plan(context, &plan);
    }
    if only_plan {
        let document = PlanDocument { plan: &plan, refusal: refusal.as_ref().map(FailureFields::from) };
        context.output.document(&document);
        return Ok(Outcome::Planned(refusal));
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let units = || plan.writers.iter().flat_map(|writer| &writer.units);
    let files = units().map(|unit| unit.entries).sum();
    let bytes = units().map(|unit| unit.bytes).sum();
    let keys = plan.writers.iter().map(|writer| writer.keys.len() as u64).sum();
    let interrupted =
        "what was registered stays blocked: `holdfast recover` finishes it, or `--roll-back` gives it up";
    let report =
        interruptible(engine::execute(&environment, plan), context, interrupted, &AtomicBool::new(false))
            .await?;
    Ok(Outcome::Restored(Restored { report, files, bytes, keys }))
}

fn environment<'e>(
    context: &'e Context,
    writers: &'e [ConfiguredWriter],
    note: &'e (dyn Fn(&str) + Sync),
    at: &'e (dyn Fn(&str) + Sync),
    progress: Option<ProgressFn>,
) -> RestoreEnvironment<'e> {
    RestoreEnvironment { paths: &context.paths, writers, note, progress, steps: Arc::new(NoSteps), at }
}

async fn options(set: StoredSet, args: RestoreArgs) -> Result<RestoreOptions, Failure> {
    let (writers, components) = chosen(args.writers, &args.components)?;
    let to = args.to.map(std::path::absolute).transpose();
    let to = to.map_err(|e| Failure::new(Exit::Usage, "--to cannot be used", e, NOTHING_CHANGED))?;
    let target = TargetMap::new(to.as_deref(), args.map)
        .map_err(|error| Failure::new(Exit::Usage, "--to or --map cannot be used", error, NOTHING_CHANGED))?;
    Ok(RestoreOptions {
        set,
        writers,
        components,
        target,
        stop: args.stop,
        assume_stopped: args.assume_stopped,
        without_keys: args.without_keys,
        keep_old: args.keep_old,
        identity: identity(&args.identity).await?.map(Arc::new),
    })
}

/// The recovery identity, opened; an scrypt passphrase takes its second.
async fn identity(args: &IdentityArgs) -> Result<Option<RecoveryIdentity>, Failure> {
    let Some(file) = args.identity.clone() else { return Ok(None) };
    let Some(passphrase_file) = &args.identity_passphrase_file else {
        return Err(Failure::refused(Exit::Usage, "--identity needs --identity-passphrase-file"));
    };
    let passphrase = zeroize::Zeroizing::new(first_line(passphrase_file, "passphrase")?);
    let path = file.clone();
    let opened = blocking(move || RecoveryIdentity::load(&path, &passphrase)).await?;
    opened.map(Some).map_err(|error| {
        let what = format!("the recovery identity {} cannot be opened", file.display());
        Failure::new(Exit::Key, what, error, NOTHING_CHANGED)
    })
}

fn show_plan(context: &Context, plan: &RestorePlan) {
    let out = context.output;
    out.line(format!("restore of set {}, made {} on {}", plan.set, plan.created, plan.host));
    for (n, step) in plan.steps.iter().enumerate() {
        out.line(format!("  {:>2}. {step}", n + 1));
    }
    out.line("checks");
    for check in &plan.checks {
        let mark = if check.ok { "ok " } else { "NO " };
        out.line(format!("  {mark} {}: {}", check.what, check.result));
    }
    for need in &plan.needs {
        out.line(format!("  left to do: {need}"));
    }
    for refusal in &plan.refusals {
        out.line(format!("REFUSED: {}", refusal.what));
        if let Some(help) = &refusal.help {
            out.line(format!("  help: {help}"));
        }
    }
}

fn show_report(context: &Context, report: &RestoreReport) {
    let out = context.output;
    out.line(format!("set {} restored", report.set));
    for writer in &report.writers {
        out.line(format!("  {}: {}", writer.writer, writer.components.join(", ")));
        for target in &writer.targets {
            out.line(format!("    {}", target.display()));
        }
        for done in &writer.recovered {
            out.line(format!("    recovered: {done}"));
        }
        for finding in &writer.findings {
            let mark = if finding.warning { "LOOK" } else { "ok" };
            out.line(format!("    {mark}: {}: {}", finding.check, finding.result));
        }
        for step in &writer.steps {
            let result = step.error.clone().unwrap_or_else(|| "done".into());
            out.line(format!("    step {}: {result}", step.name));
        }
        for old in &writer.old_data {
            out.line(format!("    the old data are kept in {}", old.display()));
        }
        for text in writer.lost.iter().chain(&writer.warnings) {
            out.line(format!("    warning: {text}"));
        }
        if writer.full_required {
            out.line("    the next backup has to be a full one");
        }
    }
    if let Some(documents) = &report.documents {
        out.line(format!("  documents and sealed keys are in {}", documents.display()));
    }
    for need in &report.needs {
        out.line(format!("  left to do: {need}"));
    }
}

pub async fn recover(
    context: &Context,
    writer: Option<&str>,
    roll_back: bool,
    assume_stopped: bool,
) -> Result<Exit, Failure> {
    let options = RecoverOptions { writer: writer.map(str::to_owned), roll_back, assume_stopped };
    // A start gate runs before every start: where nothing is registered it needs nothing at all.
    if let Some(report) = engine::nothing_registered(&context.paths, &options).await? {
        context.output.line("no restore is registered: nothing to recover");
        context.output.document(&report);
        return Ok(Exit::Ok);
    }
    let config = context.config_if_any()?;
    let writers = context.writers(&config)?;
    context.create_paths()?;
    let note = |text: &str| context.output.note(text);
    let at = |name: &str| pause::at(&context.paths, name);
    let environment = environment(context, &writers, &note, &at, None);
    let report = engine::recover(&environment, &options).await?;
    for recovery in &report.restores {
        context.output.line(format!("{}: {}", recovery.report.writer, recovery.outcome));
    }
    if report.restores.is_empty() {
        context.output.line("no restore is registered: nothing to recover");
    }
    context.output.document(&report);
    Ok(Exit::Ok)
}

pub async fn verify(
    context: &Context,
    config: &Config,
    repository: Repository,
    stored: StoredSet,
    quick: bool,
) -> Result<Exit, Failure> {
    let writers = context.writers(config)?;
    context.create_paths()?;
    let progress = context.output.progress("verifying");
    let note = |text: &str| context.output.note(text);
    let at = |name: &str| pause::at(&context.paths, name);
    let environment = environment(context, &writers, &note, &at, Some(progress.callback()));
    let report = engine::verify(&environment, &repository, &stored, quick).await?;
    drop(progress);
    let show = |check: &engine::Check| {
        let mark = if check.ok { "ok " } else { "BAD" };
        context.output.line(format!("  {mark} {}: {}", check.what, check.result));
    };
    report.checks.iter().for_each(show);
    for writer in &report.writers {
        context.output.line(format!("{}: {}", writer.writer, writer.components.join(", ")));
        writer.checks.iter().for_each(show);
    }
    if let Some(failure) = report.failure() {
        return Err(failure);
    }
    context.output.line(format!("set {} verified", report.set));
    context.output.document(&report);
    Ok(Exit::Ok)
}

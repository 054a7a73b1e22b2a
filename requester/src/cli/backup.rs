//! `backup`: runs a session and ends with a summary.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::{Exit, Failure};
use crate::session::leftovers;
use crate::session::lock::SessionLock;
use crate::session::{BackupOptions, Environment, Made};
use holdfast_writer_api::document::KeysState;
use holdfast_writer_api::{ComponentRef, chain};
use serde_json::json;

use super::args::BackupArgs;
use super::context::Context;
use super::output::{Output, bytes};
use super::pause;

pub async fn run(context: &Context, args: BackupArgs) -> Result<Exit, Failure> {
    let made = make(context, args).await?;
    summary(context.output, &made);
    context.output.document(&document(&made));
    for writer in &made.not_completed {
        let failure = writer.failure(made.set.set);
        context.output.explain(&failure, &context.last_words(&failure));
    }
    Ok(made.exit())
}

/// Makes the set, and says nothing of it.
pub async fn make(context: &Context, args: BackupArgs) -> Result<Made, Failure> {
    let config = context.config()?;
    let writers = context.writers(&config)?;
    let options = options(args)?;
    // A slip of the pen is told before anything is made or asked for.
    options.check(&writers)?;
    context.create_paths()?;
    let target = context.target(&config).await?;
    let providers = context.providers()?;
    let progress = context.output.progress("storing");
    let output = context.output;
    let stored = AtomicBool::new(false);
    let environment = Environment {
        config: &config,
        paths: &context.paths,
        providers: &providers,
        writers: &writers,
        target,
        note: &|text| output.note(text),
        progress: Some(progress.callback()),
        at: &|name| {
            if name == "stored" {
                stored.store(true, Ordering::SeqCst);
            }
            pause::at(&context.paths, name);
        },
    };
    // Of a guardian that has lost its writer we learn only as its parent whether it was killed. Without, nothing else changes.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let interrupted = "no set was made";
    interruptible(crate::session::backup(&environment, &options), context, interrupted, &stored).await
}

/// Ctrl-C and SIGTERM give the session up: dropping it releases every hold, then what it made is removed. Once
/// `past_recall` is set there is nothing to give up any more, and it is finished. `state` is what a person is told besides.
pub async fn interruptible<T>(
    work: impl Future<Output = Result<T, Failure>>,
    context: &Context,
    state: &str,
    past_recall: &AtomicBool,
) -> Result<T, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error| Failure::new(Exit::Failed, "signals cannot be watched", error, "nothing was begun");
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut int = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut work = Box::pin(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        if !past_recall.load(Ordering::SeqCst) {
            break;
        }
        context.output.note("interrupted, but the set is stored already: finishing it");
    }
    drop(work);
    let failure = Failure {
        state: format!("no application is held; {state}"),
        ..Failure::refused(Exit::Interrupted, "interrupted")
    };
    // The holds ended with the future. The session's lock did too, so that this can take it; where another session
    // did, that one has cleaned up.
    let Ok(_lock) = SessionLock::take(&context.paths.runtime, "cleaning up") else { return Err(failure) };
    let left = leftovers::clean_own(&context.paths, &context.providers()?).await;
    for what in &left.found {
        context.output.note(what.to_string());
    }
    if left.may_be_held {
        let what = "interrupted, and a thaw was not confirmed";
        let state = format!("an application MAY STILL BE HELD; {state}");
        return Err(Failure::new(Exit::ThawNotConfirmed, what, left.describe(), state)
            .help("run `holdfast thaw --all` now, which says what to do about each"));
    }
    Err(failure)
}

fn options(args: BackupArgs) -> Result<BackupOptions, Failure> {
    let (writers, components) = chosen(args.writers, &args.components)?;
    Ok(BackupOptions {
        backup_type: args.backup_type.into(),
        writers,
        components,
        freeze_budget: args.freeze_budget,
        allow_incomplete: args.allow_incomplete,
        tags: args.tags,
    })
}

/// Components by writer id.
type Components = BTreeMap<String, Vec<ComponentRef>>;

/// `--writer` and `--component` together: a writer of which a component is named takes part.
pub fn chosen(mut writers: Vec<String>, named: &[String]) -> Result<(Vec<String>, Components), Failure> {
    let mut components = Components::new();
    for text in named {
        let (writer, component) = writer_and_component(text)?;
        if !writers.contains(&writer) {
            writers.push(writer.clone());
        }
        components.entry(writer).or_default().push(component);
    }
    Ok((writers, components))
}

/// `WRITER/COMPONENT`, the component with its logical path.
fn writer_and_component(text: &str) -> Result<(String, ComponentRef), Failure> {
    match text.split_once('/') {
        Some((writer, component)) if !writer.is_empty() && !component.is_empty() => {
            Ok((writer.to_owned(), ComponentRef::from_full_name(component)))
        }
        _ => Err(Failure::refused(
            Exit::Usage,
            format!("`{text}` is not a component; expected WRITER/COMPONENT"),
        )),
    }
}

/// The end of a backup, as a tired person wants it.
fn summary(output: Output, made: &Made) {
    let set = &made.set;
    let unfinished: Vec<_> =
        made.not_completed.iter().map(|one| format!("`{}`", one.error.writer())).collect();
    match unfinished.is_empty() {
        true => output.line(format!("set {} stored", set.set)),
        false => output.line(format!("set {} stored, NOT COMPLETED by {}", set.set, unfinished.join(", "))),
    }
    for writer in &set.writers {
        let held = writer.held_ms.map_or("not held".to_owned(), |ms| format!("held {ms:.1} ms"));
        output.line(format!("  {} ({}), {held}", writer.id, writer.writer_type));
        for component in &writer.components {
            let level = component.level.map_or("sealed", |level| level.as_str());
            let size = bytes(component.bytes);
            output.line(format!("    {:<28} {level:<12} {size:>10}", component.reference.to_string()));
        }
        match &writer.keys {
            KeysState::Sealed { keys } => output.line(format!("    keys: {} sealed", keys.len())),
            KeysState::NoneDeclared => output.line("    keys: none-declared"),
            KeysState::Inside => output.line("    keys: inside"),
            KeysState::Missing { why } => output.line(format!("    keys: MISSING: {why}")),
        }
    }
    let instant = if set.one_instant { "all at one instant" } else { "NOT all at one instant" };
    output.line(format!(
        "  level {}, {instant}; window {:.1} ms, skew {:.1} ms; {}",
        set.level.as_str(),
        set.window_ms,
        set.skew_ms,
        bytes(set.bytes()),
    ));
    for shadow in &set.shadows {
        output.line(format!(
            "  {} cut by {} in {:.1} ms",
            shadow.volume.display(),
            shadow.provider,
            shadow.commit_ms
        ));
    }
    for exception in &set.exceptions {
        output.line(format!("  EXCEPTION: {exception}"));
    }
    for warning in &set.warnings {
        output.line(format!("  warning: {warning}"));
    }
}

fn document(made: &Made) -> serde_json::Value {
    let set = &made.set;
    let components: Vec<_> = set
        .writers
        .iter()
        .flat_map(|writer| {
            writer.components.iter().map(|component| {
                json!({
                    "writer": writer.id,
                    "component": component.reference.to_string(),
                    "level": component.level,
                    "bytes": component.bytes,
                    "files": component.files,
                    "held_ms": writer.held_ms,
                })
            })
        })
        .collect();
    let keys: BTreeMap<_, _> = set.writers.iter().map(|writer| (&writer.id, &writer.keys)).collect();
    let not_completed: Vec<_> = made
        .not_completed
        .iter()
        .map(|one| json!({"writer": one.error.writer(), "error": chain(&one.error), "allowed": one.allowed}))
        .collect();
    json!({
        "schema": "holdfast.backup/1",
        "set": set.set,
        "level": set.level,
        "one_instant": set.one_instant,
        "window_ms": set.window_ms,
        "skew_ms": set.skew_ms,
        "order": set.order,
        "bytes": set.bytes(),
        "components": components,
        "keys": keys,
        "shadows": set.shadows,
        "exceptions": set.exceptions,
        "warnings": set.warnings,
        "not_completed": not_completed,
    })
}

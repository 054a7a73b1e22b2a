//! `thaw --all` and `gc`: what someone types when something is stuck.

use holdfast::failure::{Exit, Failure};
use holdfast::session::holders::{Holders, Released};
use holdfast::session::leftovers;
use serde_json::json;

use super::context::Context;

/// Ends every recorded holder. Needs no configuration, no repository and nothing on a frozen disk.
pub fn thaw_all(context: &Context) -> Result<(), Failure> {
    if context.paths.runtime.exists() {
        context.trusted(&context.paths.runtime)?;
    }
    let recorded = Holders::recorded(&context.paths.runtime).map_err(|error| {
        let state = "nothing was released; applications may be held";
        Failure::new(Exit::ThawNotConfirmed, "the recorded holders cannot be read", error, state).help(
            "end processes named `holdfast writer serve` by hand; the kernel then releases what they hold",
        )
    })?;
    let outcome = recorded.map(|holders| holders.end()).unwrap_or_default();
    let mut still_held = Vec::new();
    for (holder, released) in &outcome {
        let word = match released {
            Released::Released => "released",
            Released::WasNotHeld => "was not held any more",
            Released::StillHeld => "STILL HELD",
        };
        if *released == Released::StillHeld {
            still_held.push(format!("`{}` (process {})", holder.writer, holder.pid));
        }
        context.output.line(format!("{}: {word} (process {})", holder.writer, holder.pid));
    }
    if outcome.is_empty() {
        context.output.line("no holder is on record: nothing is held by Holdfast");
    }
    let documents: Vec<_> = outcome
        .iter()
        .map(|(holder, released)| json!({"writer": holder.writer, "pid": holder.pid, "outcome": released}))
        .collect();
    if !still_held.is_empty() {
        let what = format!("{} could not be released", still_held.join(", "));
        let cause = "the process was killed and waits in the kernel, most likely on a frozen or lost disk";
        let others: Vec<_> =
            outcome.iter().filter(|(_, released)| *released != Released::StillHeld).collect();
        let others: Vec<_> = others.iter().map(|(holder, _)| format!("`{}`", holder.writer)).collect();
        let state = match others.len() {
            0 => "there was no other holder".to_owned(),
            _ => format!("released: {}", others.join(", ")),
        };
        return Err(Failure::new(Exit::ThawNotConfirmed, what, cause, state)
            .help("look at the disk it waits for (`cat /proc/PID/stack`), then run this again"));
    }
    Holders::forget(&context.paths.runtime);
    context.output.document(&json!({"schema": "holdfast.thaw/1", "holders": documents}));
    Ok(())
}

/// Removes what dead sessions left.
pub async fn gc(context: &Context) -> Result<(), Failure> {
    context.create_paths()?;
    let _lock = holdfast::session::lock::SessionLock::take(&context.paths.runtime, "gc")?;
    let config = context.config_if_any()?;
    let repository = match context.location(&config) {
        Ok(_) => context.repository_if_made(&config).await?,
        Err(_) => None,
    };
    let providers = context.providers()?;
    let left = leftovers::clean(&context.paths, &providers, repository.as_ref()).await;
    let removed = left.found;
    for what in &removed {
        context.output.line(what);
    }
    if removed.is_empty() {
        context.output.line("nothing was left over");
    }
    if left.still_held {
        let what = "a holder of a dead session was killed and is still there";
        return Err(Failure::new(Exit::ThawNotConfirmed, what, removed.join("; "), "the rest is removed")
            .help("run `holdfast thaw --all`"));
    }
    context.output.document(&json!({"schema": "holdfast.gc/1", "removed": removed}));
    Ok(())
}

//! `thaw --all` and `gc`: what someone types when something is stuck.

use crate::failure::{Exit, Failure};
use crate::session::holders::{Holder, Holders, Released};
use crate::session::leftovers;
use serde_json::json;

use super::context::Context;

const AS_THE_OWNER: &str = "run this as the user who makes the backups, or as root";

/// Ends every recorded holder. Needs no configuration, no repository and nothing on a frozen disk.
pub fn thaw_all(context: &Context) -> Result<(), Failure> {
    if context.paths.runtime.exists() {
        context.trusted(&context.paths.runtime)?;
    }
    let recorded = Holders::recorded(&context.paths.runtime).map_err(|error| {
        let file = Holders::file(&context.paths.runtime);
        let help = if error.kind() == std::io::ErrorKind::PermissionDenied {
            AS_THE_OWNER.to_owned()
        } else {
            format!(
                "end processes named `holdfast writer serve` by hand, which makes the kernel release what they hold; \
                 then remove {}",
                file.display()
            )
        };
        let state = "nothing was released; applications may be held";
        let what = format!("the recorded holders in {} cannot be read", file.display());
        Failure::new(Exit::ThawNotConfirmed, what, error, state).help(help)
    })?;
    let outcome = recorded.as_ref().map(Holders::end).unwrap_or_default();
    for (holder, released) in &outcome {
        let word = match released {
            Released::Released => "released",
            Released::WasNotHeld => "was not held any more",
            Released::StillHeld => "STILL HELD",
            Released::NotPermitted => "STILL HELD, not permitted to end it",
            Released::NotThawed => "STILL HELD, its guardian still tries to thaw it",
            Released::Lost => "MAY STILL BE HELD, its guardian was killed",
        };
        context.output.line(format!("{}: {word} (process {})", holder.writer, who(holder, *released)));
    }
    if outcome.is_empty() {
        context.output.line("no holder is on record: nothing is held by Holdfast");
    }
    let mut held = outcome.iter().filter(|(_, released)| released.may_be_held());
    // Of one that is lost there is nothing more to be done here: it is told of once.
    if let (Some(recorded), true) = (recorded, held.clone().all(|(_, released)| *released == Released::Lost))
    {
        Holders::forget(&context.paths.runtime, recorded.set);
    }
    if held.next().is_some() {
        return Err(still_held(&outcome));
    }
    let documents: Vec<_> = outcome
        .iter()
        .map(|(holder, released)| json!({"writer": holder.writer, "pid": holder.pid, "outcome": released}))
        .collect();
    context.output.document(&json!({"schema": "holdfast.thaw/1", "holders": documents}));
    Ok(())
}

/// The process to look at.
fn who(holder: &Holder, released: Released) -> u32 {
    match (&holder.guardian, released) {
        (Some(guardian), Released::NotThawed) => guardian.pid,
        _ => holder.pid,
    }
}

fn still_held(outcome: &[(Holder, Released)]) -> Failure {
    let named = |wanted: fn(Released) -> bool| -> String {
        let chosen = outcome.iter().filter(|(_, released)| wanted(*released));
        let names: Vec<_> = chosen.map(|(h, r)| format!("`{}` (process {})", h.writer, who(h, *r))).collect();
        names.join(", ")
    };
    let what = format!("{} could not be released", named(Released::may_be_held));
    let free = named(|released| !released.may_be_held());
    let sure = outcome.iter().any(|(_, released)| released.may_be_held() && *released != Released::Lost);
    let held = if sure { "STILL HELD" } else { "MAY STILL BE HELD" };
    let state = if free.is_empty() { held.to_owned() } else { format!("{held}; free: {free}") };
    let any = |wanted: Released| outcome.iter().any(|(_, released)| *released == wanted);
    let (cause, help) = if any(Released::NotPermitted) {
        ("the process belongs to another user, and was not ended", AS_THE_OWNER)
    } else if any(Released::StillHeld) {
        (
            "the process was killed and waits in the kernel, most likely on a frozen or lost disk",
            "look at the disk it waits for (`cat /proc/PID/stack`), then run this again",
        )
    } else if any(Released::NotThawed) {
        (
            "the writer is gone, and the script that is to thaw its application fails; it is tried again and again",
            "make the script's `thaw` succeed, or release the application by hand; then run this again",
        )
    } else {
        (
            "the writer and its guardian were both killed, so nobody is left who would thaw",
            "run `thaw` of its script by hand, or release the application yourself; this is told once",
        )
    };
    Failure::new(Exit::ThawNotConfirmed, what, cause, state).help(help)
}

/// Removes what dead sessions left.
pub async fn gc(context: &Context) -> Result<(), Failure> {
    context.create_paths()?;
    let _lock = crate::session::lock::SessionLock::take(&context.paths.runtime, "gc")?;
    let config = context.config_if_any()?;
    let repository = match context.location(&config) {
        Ok(_) => context.repository_if_made(&config).await?,
        Err(_) => None,
    };
    let providers = context.providers()?;
    let left = leftovers::clean(&context.paths, &providers, repository.as_ref()).await;
    for what in &left.found {
        context.output.line(what.to_string());
    }
    if left.may_be_held {
        let what = "an application may still be held by a dead session, so nothing else was looked at";
        return Err(Failure::new(Exit::ThawNotConfirmed, what, left.describe(), "nothing was removed")
            .help("run `holdfast thaw --all`, which says what to do about each"));
    }
    if left.found.is_empty() {
        context.output.line("nothing was left over");
    }
    let removed: Vec<_> = left.found.iter().map(ToString::to_string).collect();
    context.output.document(&json!({"schema": "holdfast.gc/1", "removed": removed}));
    Ok(())
}

//! `forget`: by rules, or by name.

use crate::config::KeepConfig;
use crate::failure::{Exit, Failure};
use crate::forget::{self, Decided, Forgotten, Name, Selection};
use crate::repository::keep::{KeepPolicy, Verdict};
use serde_json::{Value, json};

use super::args::ForgetArgs;
use super::context::{Context, blocking};
use super::pause;
use super::repository::describe;

pub async fn run(context: &Context, args: ForgetArgs) -> Result<Exit, Failure> {
    let (dry_run, prune) = (args.dry_run, args.prune && !args.dry_run);
    let config = context.config_if_any()?;
    let selection = selection(args, &config.keep);
    let repository = context.repository(&config).await?;
    let (inner, paths) = (repository.clone(), context.paths.clone());
    let Forgotten { decisions, gone, kept } =
        blocking(move || forget::forget(&inner, &selection, dry_run, || pause::at(&paths, "decided")))
            .await??;
    let mut documents = Vec::new();
    for decided in &decisions {
        let word = word(decided.verdict, dry_run);
        let reasons = decided.reasons.join(", ");
        context.output.line(format!("{word:<12} {}  {reasons}", decided.name.id()));
        documents.push(document(decided, word));
    }
    let verb = if dry_run { "would be forgotten" } else { "forgotten" };
    context.output.line(format!("{gone} sets {verb}, {kept} kept"));
    let mut freed = None;
    if prune {
        let pruned = blocking(move || repository.prune(false)).await?.map_err(|error| {
            let state = "the sets are forgotten; their space is not freed";
            Failure { state: state.into(), ..Failure::from(error) }
        })?;
        context.output.line(describe(&pruned, false));
        freed = Some(pruned.freed_bytes);
    } else if !dry_run && gone > 0 {
        context.output.line("`holdfast prune` frees their space");
    }
    context.output.document(&json!({
        "schema": "holdfast.forget/1", "dry_run": dry_run, "sets": documents, "kept": kept, "freed_bytes": freed,
    }));
    Ok(Exit::Ok)
}

fn word(verdict: Verdict, dry_run: bool) -> &'static str {
    match (verdict, dry_run) {
        (Verdict::Keep, _) => "keep",
        (Verdict::Forget, true) => "would forget",
        (Verdict::Forget, false) => "forget",
    }
}

fn document(decided: &Decided, verdict: &str) -> Value {
    let reasons = &decided.reasons;
    match &decided.name {
        Name::Set(set) => json!({"set": set, "verdict": verdict, "reasons": reasons}),
        Name::Snapshot(snapshot) => json!({"snapshot": snapshot, "verdict": verdict, "reasons": reasons}),
    }
}

fn selection(args: ForgetArgs, configured: &KeepConfig) -> Selection {
    if !args.sets.is_empty() {
        return Selection::Named { names: args.sets, even_last_copy: args.even_last_copy };
    }
    Selection::Rules { policy: policy(&args, configured), zone: jiff::tz::TimeZone::system() }
}

fn policy(args: &ForgetArgs, configured: &KeepConfig) -> KeepPolicy {
    let given = KeepPolicy {
        last: args.keep_last.unwrap_or(0),
        hourly: args.keep_hourly.unwrap_or(0),
        daily: args.keep_daily.unwrap_or(0),
        weekly: args.keep_weekly.unwrap_or(0),
        monthly: args.keep_monthly.unwrap_or(0),
        yearly: args.keep_yearly.unwrap_or(0),
        within: None,
        tags: args.keep_tags.clone(),
    };
    if given != KeepPolicy::default() {
        return given;
    }
    KeepPolicy {
        last: configured.last.unwrap_or(0),
        hourly: configured.hourly.unwrap_or(0),
        daily: configured.daily.unwrap_or(0),
        weekly: configured.weekly.unwrap_or(0),
        monthly: configured.monthly.unwrap_or(0),
        yearly: configured.yearly.unwrap_or(0),
        within: None,
        tags: Vec::new(),
    }
}

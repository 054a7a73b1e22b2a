//! `verify`, `forget`, `prune`.

use holdfast::config::KeepConfig;
use holdfast::failure::{Exit, Failure, NOTHING_CHANGED};
use holdfast::repository::keep::{self, Group, KeepPolicy, SetInfo, Verdict};
use holdfast::repository::{PruneReport, Repository};
use holdfast_writer_api::document::{BackupSet, KeysState};
use serde_json::json;

use super::args::ForgetArgs;
use super::context::{Context, blocking, find_set};
use super::output::bytes;
use super::restore;

pub async fn verify(context: &Context, set: &str, quick: bool) -> Result<Exit, Failure> {
    let config = context.config_if_any()?;
    let repository = context.repository(&config).await?;
    let stored = find_set(&repository, set).await?;
    restore::verify(context, &config, repository, stored, quick).await
}

pub async fn forget(context: &Context, args: ForgetArgs) -> Result<Exit, Failure> {
    let config = context.config_if_any()?;
    let policy = policy(&args, &config.keep);
    let repository = context.repository(&config).await?;
    let infos = set_infos(&repository).await?;
    let decisions = keep::decide(&infos, &policy, &jiff::tz::TimeZone::system()).map_err(|error| {
        Failure::new(Exit::Usage, "nothing was forgotten", error, NOTHING_CHANGED)
            .help("pass --keep-last, --keep-daily, … or set them in [keep]")
    })?;
    let mut documents = Vec::new();
    let mut going = Vec::new();
    for decision in &decisions {
        let word = match (decision.verdict, args.dry_run) {
            (Verdict::Keep, _) => "keep",
            (Verdict::Forget, true) => "would forget",
            (Verdict::Forget, false) => "forget",
        };
        if decision.verdict == Verdict::Forget {
            going.push(decision.set);
        }
        context.output.line(format!("{word:<12} {}  {}", decision.set, decision.reasons.join(", ")));
        documents.push(json!({"set": decision.set, "verdict": word, "reasons": decision.reasons}));
    }
    let mut pruned = None;
    if !args.dry_run {
        let (inner, sets) = (repository.clone(), going.clone());
        blocking(move || inner.forget(&sets)).await??;
        if args.prune {
            pruned = Some(blocking(move || repository.prune(false)).await??);
        }
    }
    let kept = decisions.len() - going.len();
    let verb = if args.dry_run { "would be forgotten" } else { "forgotten" };
    context.output.line(format!("{} sets {verb}, {kept} kept", going.len()));
    if let Some(report) = &pruned {
        context.output.line(describe(report, false));
    } else if !args.dry_run && !going.is_empty() {
        context.output.line("`holdfast prune` frees their space");
    }
    context.output.document(&json!({
        "schema": "holdfast.forget/1", "dry_run": args.dry_run, "sets": documents,
        "freed_bytes": pruned.map(|report| report.freed_bytes),
    }));
    Ok(Exit::Ok)
}

pub async fn prune(context: &Context, dry_run: bool) -> Result<Exit, Failure> {
    let config = context.config_if_any()?;
    let repository = context.repository(&config).await?;
    let report = blocking(move || repository.prune(dry_run)).await??;
    context.output.line(describe(&report, dry_run));
    context.output.document(&json!({
        "schema": "holdfast.prune/1", "dry_run": dry_run, "freed_bytes": report.freed_bytes,
        "used_bytes": report.used_bytes, "packs_removed": report.packs_removed,
        "packs_repacked": report.packs_repacked,
    }));
    Ok(Exit::Ok)
}

fn describe(report: &PruneReport, dry_run: bool) -> String {
    let verb = if dry_run { "would be freed" } else { "freed" };
    format!("{} {verb}, {} in use", bytes(report.freed_bytes), bytes(report.used_bytes))
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

/// A set whose document cannot be read is never forgotten by a rule: nobody knows what depends on it.
async fn set_infos(repository: &Repository) -> Result<Vec<SetInfo>, Failure> {
    let inner = repository.clone();
    blocking(move || {
        let mut infos = Vec::new();
        for stored in inner.sets()? {
            let document = inner.read_document(&stored, "set.json".as_ref(), 64 << 20)?;
            let Ok(set) = BackupSet::parse(&document) else { continue };
            let keys = set.writers.iter().filter_map(|writer| match &writer.keys {
                KeysState::Sealed { keys } => Some(keys),
                KeysState::NoneDeclared | KeysState::Inside | KeysState::Missing { .. } => None,
            });
            let keys = keys.flatten().map(|key| key.fingerprint.clone()).collect();
            let components = set.writers.iter().flat_map(|writer| {
                let whole = writer.components.iter().filter(|component| component.succeeded);
                whole.map(|component| format!("{}/{}", writer.id, component.reference))
            });
            infos.push(SetInfo {
                set: stored.set,
                group: Group { host: stored.hostname, components: components.collect() },
                time: stored.time,
                tags: stored.tags,
                base: set.base,
                keys,
            });
        }
        Ok::<_, holdfast::repository::RepositoryError>(infos)
    })
    .await?
    .map_err(Failure::from)
}

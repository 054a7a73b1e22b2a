//! `verify` and `prune`.

use crate::failure::{Exit, Failure};
use crate::repository::PruneReport;
use serde_json::json;

use super::context::{Context, blocking, find_set};
use super::output::bytes;
use super::restore;

pub async fn verify(context: &Context, set: &str, quick: bool) -> Result<Exit, Failure> {
    let config = context.config_if_any()?;
    let repository = context.repository(&config).await?;
    let stored = find_set(&repository, set).await?;
    restore::verify(context, &config, repository, stored, quick).await
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

/// What a prune did, in a line.
pub fn describe(report: &PruneReport, dry_run: bool) -> String {
    let verb = if dry_run { "would be freed" } else { "freed" };
    format!("{} {verb}, {} in use", bytes(report.freed_bytes), bytes(report.used_bytes))
}

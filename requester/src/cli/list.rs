//! `list writers|providers|shadows|backups`.

use holdfast::failure::Failure;
use holdfast::provider::{Atomicity, Records};
use holdfast_writer_api::WriterMetadata;
use holdfast_writer_api::document::BackupSet;
use serde_json::json;

use super::args::List;
use super::context::{Context, LAST_WORDS, blocking};
use super::output::bytes;

pub async fn run(context: &Context, what: List) -> Result<(), Failure> {
    match what {
        List::Writers => writers(context).await,
        List::Providers => providers(context),
        List::Shadows => shadows(context),
        List::Backups => backups(context).await,
    }
}

async fn writers(context: &Context) -> Result<(), Failure> {
    let config = context.config()?;
    let writers = context.writers(&config)?;
    let mut documents = Vec::new();
    if writers.is_empty() {
        context.output.line("no writer is configured; `holdfast config generate` shows how");
    }
    for writer in &writers {
        let (id, writer_type) = (&writer.entry.id, &writer.entry.writer_type);
        let origin = writer.origin().map(ToString::to_string);
        match writer.writer.identify().await {
            Ok(metadata) => {
                documents.push(json!({
                    "id": id, "type": writer_type, "origin": origin, "state": "stable", "metadata": metadata,
                }));
                show_writer(context, &metadata, origin.as_deref());
            }
            Err(error) => {
                let failure = Failure::new(
                    holdfast::failure::writer_exit(&error),
                    error.to_string(),
                    error.clone(),
                    "",
                );
                let said = writer.said().map(|said| said.last(LAST_WORDS)).unwrap_or_default();
                let reasons: Vec<_> = failure.causes().into_iter().skip(1).collect();
                documents.push(json!({
                    "id": id, "type": writer_type, "origin": origin, "state": "failed at identify",
                    "error": error, "said": said,
                }));
                context.output.line(format!("{id} ({writer_type})"));
                if let Some(origin) = origin {
                    context.output.line(format!("  from: {origin}"));
                }
                context.output.line("  state: EXPECTED BUT ABSENT");
                let told: Vec<_> = std::iter::once(error.to_string()).chain(reasons).collect();
                context.output.line(format!("  last error: {}", told.join(": ")));
                for line in said {
                    context.output.line(format!("  said: {line}"));
                }
            }
        }
    }
    context.output.document(&json!({"schema": "holdfast.writers/1", "writers": documents}));
    Ok(())
}

fn show_writer(context: &Context, metadata: &WriterMetadata, origin: Option<&str>) {
    let out = context.output;
    out.line(format!("{} ({}): {}", metadata.id, metadata.writer_type, metadata.name));
    if let Some(origin) = origin {
        out.line(format!("  from: {origin}"));
    }
    out.line("  state: stable; last error: none");
    for component in &metadata.components {
        let held = match (component.held, component.keys.is_empty()) {
            (true, _) => "held",
            (false, true) => "not held",
            (false, false) => "sealed",
        };
        out.line(format!("  {} ({held})", component.reference()));
        for files in &component.files {
            let more = if files.recursive { ", and below" } else { "" };
            out.line(format!("    {}{more}", files.path.join(&files.pattern).display()));
        }
        for key in &component.keys {
            out.line(format!("    {} ({})", key.path.display(), key.purpose));
        }
    }
    for warning in &metadata.warnings {
        out.line(format!("  warning: {warning}"));
    }
}

fn providers(context: &Context) -> Result<(), Failure> {
    let providers = context.providers()?;
    let mut documents = Vec::new();
    for provider in providers.descriptors() {
        let atomicity = atomicity(provider.atomicity);
        context.output.line(format!("{:<8} one instant: {atomicity:<7} {}", provider.name, provider.summary));
        documents.push(json!({
            "name": provider.name, "atomicity": atomicity, "summary": provider.summary,
        }));
    }
    context.output.document(&json!({"schema": "holdfast.providers/1", "providers": documents}));
    Ok(())
}

fn atomicity(value: Atomicity) -> &'static str {
    match value {
        Atomicity::Volume => "volume",
        Atomicity::File => "file",
        Atomicity::None => "none",
    }
}

fn shadows(context: &Context) -> Result<(), Failure> {
    let Records { records, damaged } = holdfast::provider::list(&context.paths.state).map_err(|error| {
        Failure::new(
            holdfast::failure::Exit::Failed,
            "the records of shadow copies cannot be read",
            error,
            holdfast::failure::NOTHING_CHANGED,
        )
    })?;
    let mut documents = Vec::new();
    for record in &records {
        let owner = if !record.orphaned() { "in use" } else { "LEFT BY A DEAD SESSION" };
        context.output.line(format!(
            "{}  set {}  {}  {}  {owner}\n  {}",
            record.id,
            record.set,
            record.provider,
            record.created,
            record.path.display()
        ));
        documents.push(json!({
            "id": record.id, "set": record.set, "provider": record.provider,
            "path": record.path, "created": record.created.to_string(), "orphan": record.orphaned(),
        }));
    }
    for problem in &damaged {
        context.output.line(format!("a record that cannot be read: {problem}"));
    }
    if records.is_empty() && damaged.is_empty() {
        context.output.line("no shadow copy is on record");
    } else if records.iter().any(|record| record.orphaned()) {
        context.output.line("`holdfast gc` removes those left by dead sessions");
    }
    let damaged: Vec<_> = damaged.iter().map(ToString::to_string).collect();
    context.output.document(&json!({
        "schema": "holdfast.shadows/1", "shadows": documents, "damaged": damaged,
    }));
    Ok(())
}

async fn backups(context: &Context) -> Result<(), Failure> {
    let config = context.config_if_any()?;
    let repository = context.repository(&config).await?;
    let inner = repository.clone();
    let listed = blocking(move || {
        inner.sets().map(|sets| {
            sets.into_iter()
                .map(|set| {
                    let document = inner.read_document(&set, "set.json".as_ref(), 64 << 20);
                    let document = document.map_err(|e| e.to_string());
                    let document =
                        document.and_then(|bytes| BackupSet::parse(&bytes).map_err(|e| e.to_string()));
                    (set, document)
                })
                .collect::<Vec<_>>()
        })
    })
    .await??;
    let mut documents = Vec::new();
    if listed.is_empty() {
        context.output.line("the repository holds no set yet");
    }
    for (stored, document) in &listed {
        match document {
            Ok(set) => {
                let writers: Vec<_> = set.writers.iter().map(|w| w.id.as_str()).collect();
                let instant = if set.one_instant { "one instant" } else { "SEVERAL INSTANTS" };
                let incomplete = if set.exceptions.is_empty() { "" } else { "  INCOMPLETE, as was allowed" };
                context.output.line(format!(
                    "{}  {}  {}  {:<11} {instant}  {:>10}  {}{incomplete}",
                    set.set,
                    &set.created[..set.created.len().min(19)],
                    set.host,
                    set.level.as_str(),
                    bytes(set.bytes()),
                    writers.join(","),
                ));
                documents.push(json!({
                    "set": set.set, "created": set.created, "host": set.host, "type": set.backup_type,
                    "level": set.level, "one_instant": set.one_instant, "bytes": set.bytes(),
                    "writers": writers, "complete": set.exceptions.is_empty(), "tags": stored.tags,
                    "snapshot": stored.snapshot,
                }));
            }
            Err(problem) => {
                context.output.line(format!("{}  {}  UNREADABLE: {problem}", stored.set, stored.time));
                documents.push(json!({"set": stored.set, "error": problem, "snapshot": stored.snapshot}));
            }
        }
    }
    context.output.document(&json!({"schema": "holdfast.backups/1", "backups": documents}));
    Ok(())
}

//! `config generate|check`.

use holdfast::failure::{Exit, Failure, NOTHING_CHANGED};
use holdfast_store_keys::Recipient;
use serde_json::json;

use super::args::ConfigCommand;
use super::context::{Context, LAST_WORDS};

const EXAMPLE: &str = include_str!("example.toml");

pub async fn run(context: &Context, command: ConfigCommand) -> Result<(), Failure> {
    match command {
        ConfigCommand::Generate => {
            context.output.line(EXAMPLE.trim_end());
            context.output.document(&json!({"schema": "holdfast.config/1", "toml": EXAMPLE}));
            Ok(())
        }
        ConfigCommand::Check => check(context).await,
    }
}

async fn check(context: &Context) -> Result<(), Failure> {
    let config = context.config()?;
    let writers = context.writers(&config)?;
    for recipient in &config.recovery.recipients {
        Recipient::parse(recipient).map_err(|error| {
            let what = format!("recipient `{recipient}` in [recovery] cannot be used");
            Failure::new(Exit::Usage, what, error, NOTHING_CHANGED)
        })?;
    }
    let mut absent = Vec::new();
    for writer in &writers {
        match writer.writer.identify().await {
            Ok(metadata) => {
                context.output.line(format!("{}: ok, {} components", metadata.id, metadata.components.len()));
                for warning in &metadata.warnings {
                    context.output.line(format!("  warning: {warning}"));
                }
            }
            Err(error) => {
                let failure = Failure::new(Exit::Failed, "", error, "");
                absent.push(format!("{}: {}", writer.entry.id, failure.causes().join(": ")));
                for line in writer.said().map(|said| said.last(LAST_WORDS)).unwrap_or_default() {
                    context.output.note(format!("{} said: {line}", writer.entry.id));
                }
            }
        }
    }
    if config.recovery.recipients.is_empty() {
        context.output.line("no recipients in [recovery]: writers that declare keys will refuse (exit 8)");
    }
    if !absent.is_empty() {
        let what = "the configuration is well-formed, but not every writer can identify itself";
        return Err(Failure::new(Exit::Refused, what, absent.join("; "), NOTHING_CHANGED));
    }
    context.output.line(format!("{}: ok", context.config_path().display()));
    let ids: Vec<_> = writers.iter().map(|writer| writer.entry.id.as_str()).collect();
    context.output.document(&json!({"schema": "holdfast.config-check/1", "writers": ids}));
    Ok(())
}

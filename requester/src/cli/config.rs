//! `config generate|check`.

use crate::failure::{Exit, Failure, NOTHING_CHANGED};
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
    // Not an error: writers are often configured before there is a place to store anything.
    if let Err(failure) = context.repository_is_told(&config).await {
        context
            .output
            .line(format!("no backup can be stored yet: {failure}: {}", failure.causes().join(": ")));
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

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_writer_api::{Registry, WriterConfig};
    // Linked for their descriptors.
    use holdfast_writer_certificate_authority as _;
    use holdfast_writer_plain as _;

    /// The lines of the example that are commented out because they are examples: tables and settings.
    fn uncommented() -> String {
        let setting = |line: &str| {
            let example = line.strip_prefix("# ")?;
            let key = example.split_once(" = ").map(|(key, _)| key.trim_end());
            let is_key = key.is_some_and(|key| key.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
            (is_key || example.starts_with('[')).then(|| example.to_owned())
        };
        EXAMPLE.lines().map(|line| setting(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
    }

    #[test]
    fn every_setting_of_the_example_is_taken_once_it_is_uncommented() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("holdfast.toml");
        std::fs::write(&path, uncommented()).unwrap();
        let config = crate::config::load(&path).unwrap();
        assert!(config.backup.freeze_budget.is_some());
        let registry = Registry::linked().unwrap();
        let types: Vec<_> = config.writers.iter().map(|entry| entry.writer_type.as_str()).collect();
        // The last is a program of somebody else's.
        assert_eq!(types, ["certificate-authority", "sqlite", "files", "redis"]);
        assert_eq!(config.plugins.paths.len(), 2);
        for entry in config.writers {
            let Some(descriptor) = registry.get(&entry.writer_type) else { continue };
            let built = (descriptor.build)(WriterConfig { id: entry.id, settings: entry.settings });
            assert!(built.is_ok(), "{:?}", built.err());
        }
    }
}

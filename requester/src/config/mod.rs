//! The configuration: what the administrator wrote, checked, with file and line for every complaint.
//!
//! Owns: the shape of `holdfast.toml`. Leaves to others: what a writer's own settings mean (the writers).

mod duration;
mod load;
mod trust;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use duration::parse_duration;
pub use load::load;
pub use trust::{Untrusted, check_trusted};

/// Everything the administrator decided.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Where sets are kept.
    pub repository: RepositoryConfig,
    /// To whom keys are sealed.
    pub recovery: RecoveryConfig,
    /// How backups are made.
    pub backup: BackupConfig,
    /// How long sets are kept.
    pub keep: KeepConfig,
    /// Where writers' programs are looked for.
    pub plugins: PluginsConfig,
    /// The writers, in the order of the files.
    pub writers: Vec<WriterEntry>,
}

/// `[repository]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RepositoryConfig {
    /// A folder, or `s3:…`.
    pub location: Option<String>,
    /// A file whose first line is the password.
    pub password_file: Option<PathBuf>,
    /// A command that prints it, run without a shell.
    pub password_command: Option<Vec<String>>,
}

/// `[recovery]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RecoveryConfig {
    /// `age1…`: public halves of recovery identities.
    #[serde(default)]
    pub recipients: Vec<String>,
}

/// `[backup]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BackupConfig {
    /// The longest hold, for all writers.
    #[serde(default, deserialize_with = "duration::optional")]
    pub freeze_budget: Option<Duration>,
    /// Ids of writers that may fail without failing the set (exit 3).
    #[serde(default)]
    pub allow_incomplete: BTreeSet<String>,
    /// Where shadow copies of the copying providers go; default: in the state folder.
    pub shadow_area: Option<PathBuf>,
}

/// `[keep]`: the policy of `forget` when no `--keep-…` is given.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[allow(missing_docs, reason = "each is the policy of its name")]
pub struct KeepConfig {
    pub last: Option<u32>,
    pub hourly: Option<u32>,
    pub daily: Option<u32>,
    pub weekly: Option<u32>,
    pub monthly: Option<u32>,
    pub yearly: Option<u32>,
}

/// `[plugins]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PluginsConfig {
    /// The folders in which a writer's type is looked for as a program, in this order.
    pub paths: Vec<PathBuf>,
}

impl Default for PluginsConfig {
    fn default() -> Self {
        Self { paths: ["/etc/holdfast/writers", "/usr/lib/holdfast/writers"].map(PathBuf::from).to_vec() }
    }
}

/// One `[[writer]]`: what the requester keeps for itself, and the writer's own settings.
#[derive(Debug, Clone)]
pub struct WriterEntry {
    /// Unique on this machine.
    pub id: String,
    /// The registered name.
    pub writer_type: String,
    /// The rest of the table.
    pub settings: serde_json::Value,
    /// The requester's own part.
    pub common: WriterCommon,
    /// Where it stands, for complaints.
    pub source: Source,
}

/// The keys of a `[[writer]]` table that the requester reads.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct WriterCommon {
    /// The program that is this writer, absolute; default: the type's, built in or in a folder of [`PluginsConfig`].
    pub program: Option<PathBuf>,
    /// The program's arguments.
    #[serde(default)]
    pub arguments: Vec<String>,
    /// Provider to use instead of the preferred one.
    pub provider: Option<String>,
    /// The longest hold of this writer.
    #[serde(default, deserialize_with = "duration::optional")]
    pub freeze_budget: Option<Duration>,
    /// The user the writer's process runs as; default: the owner of its first file, when we are root.
    pub run_as: Option<String>,
    /// The systemd unit of the application.
    pub unit: Option<String>,
    /// Its pid file.
    pub pid_file: Option<PathBuf>,
    /// `tcp:HOST:PORT`, `http://…` or `unix:PATH`: answers while the application serves.
    pub probe: Option<String>,
    /// Commands of `restore --stop`, in order: the application and what serves its dynamic files.
    #[serde(default)]
    pub stop: Vec<Vec<String>>,
}

/// The keys of [`WriterCommon`], so that the rest can be told apart.
const COMMON_KEYS: [&str; 9] =
    ["program", "arguments", "provider", "freeze-budget", "run-as", "unit", "pid-file", "probe", "stop"];

/// A place in a configuration file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// The line of the table, from 1.
    pub line: usize,
    /// The table's text, to find a key's own line.
    pub(crate) text: String,
}

impl Source {
    /// The line of `key` in this table, else the table's own.
    pub fn line_of(&self, key: &str) -> usize {
        let is_key = |line: &str| {
            line.trim_start()
                .trim_start_matches('"')
                .strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().trim_start_matches('"').trim_start().starts_with('='))
        };
        self.line + self.text.lines().position(is_key).unwrap_or(0)
    }
}

/// Why the configuration cannot be used. Nothing was done yet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// There is none.
    #[error("there is no configuration at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others could have written it (promise P10).
    #[error("the configuration cannot be trusted")]
    Untrusted(#[source] Untrusted),
    /// Others could change the program that is a writer (promise P10).
    #[error("{}:{line}: the program of writer `{writer}` cannot be trusted", file.display())]
    UntrustedProgram {
        /// The file that names it.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The writer's id.
        writer: String,
        /// What is wrong with it, or with a folder on the way to it.
        #[source]
        source: Untrusted,
    },
    /// A key or value is wrong.
    #[error("{}:{line}: {problem}", file.display())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, if it is about one.
        key: Option<String>,
        /// What is wrong, and what was expected.
        problem: String,
    },
}

impl ConfigError {
    /// A complaint about a writer's own setting, at its line.
    pub fn setting(entry: &WriterEntry, error: &holdfast_writer_api::SettingsError) -> Self {
        let line = error.key.as_deref().map_or(entry.source.line, |key| entry.source.line_of(key));
        let mut problem = format!("writer `{}`: {}", entry.id, error.problem);
        if let Some(key) = error.key.as_deref().filter(|key| !error.problem.contains(&format!("`{key}`"))) {
            problem = format!("writer `{}`: `{key}`: {}", entry.id, error.problem);
        }
        Self::Invalid { file: entry.source.file.clone(), line, key: error.key.clone(), problem }
    }
}

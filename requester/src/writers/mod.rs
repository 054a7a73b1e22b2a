//! The writers of the configuration, each in child processes of its own.
//!
//! Leaves to others: where a writer's program is (`find`), and the conversation with it (`holdfast_writer_api`).

mod find;
mod located;
mod user;

use std::path::Path;

use holdfast_writer_api::protocol::{Launcher, RemoteWriter, Said};
use holdfast_writer_api::{Registry, Writer, WriterConfig, WriterMetadata};

use crate::config::{Config, ConfigError, WriterEntry};
pub use find::Origin;
use located::{Borrowed, Located};

/// A writer as it is configured.
pub struct ConfiguredWriter {
    /// What the administrator wrote.
    pub entry: WriterEntry,
    /// How to speak to it.
    pub writer: Box<dyn Writer>,
    /// How to start its processes; none for one that is spoken to directly.
    program: Option<(Origin, Launcher)>,
}

impl ConfiguredWriter {
    /// A writer that is spoken to directly: a third party's, or a test's.
    pub fn in_process(entry: WriterEntry, writer: Box<dyn Writer>) -> Self {
        Self { entry, writer, program: None }
    }

    fn of(entry: &WriterEntry, origin: Origin, launcher: Launcher) -> Self {
        let writer = Box::new(remote(entry, launcher.clone()));
        Self { entry: entry.clone(), writer, program: Some((origin, launcher)) }
    }

    /// Where it comes from; none for one that is spoken to directly.
    pub fn origin(&self) -> Option<&Origin> {
        self.program.as_ref().map(|(origin, _)| origin)
    }

    /// What its processes say on standard error.
    pub fn said(&self) -> Option<&Said> {
        self.program.as_ref().map(|(_, launcher)| &launcher.said)
    }

    /// The writer for a run on what `metadata` describes. As root, its process runs as the owner of the
    /// data (promise P10) unless the configuration names a user: a link swapped in leads only where the owner
    /// could go himself.
    pub fn for_run(&self, metadata: &WriterMetadata) -> Box<dyn Writer + '_> {
        let Some((_, launcher)) = &self.program else { return Box::new(Borrowed(&*self.writer)) };
        let mut launcher = launcher.clone();
        if self.entry.common.run_as.is_none() && rustix::process::geteuid().is_root() {
            launcher.run_as = user::owner(metadata);
        }
        Box::new(remote(&self.entry, launcher))
    }
}

/// All writers of `config`: those built into `program`, which is started as `program writer serve TYPE`, and
/// programs of others. Nothing is started yet.
///
/// # Errors
/// [`ConfigError`] with file and line: an unknown type, a program that cannot be trusted, a user that is not there,
/// or settings that a built-in writer does not accept.
pub fn from_config(
    config: &Config,
    registry: &Registry,
    program: &Path,
) -> Result<Vec<ConfiguredWriter>, ConfigError> {
    config.writers.iter().map(|entry| configured(entry, config, registry, program)).collect()
}

fn configured(
    entry: &WriterEntry,
    config: &Config,
    registry: &Registry,
    own_program: &Path,
) -> Result<ConfiguredWriter, ConfigError> {
    let origin = find::origin(entry, &config.plugins, registry)?;
    let mut launcher = match &origin {
        Origin::BuiltIn(descriptor) => {
            // Building touches no file: this only checks the settings where the line can be named.
            let settings = WriterConfig { id: entry.id.clone(), settings: entry.settings.clone() };
            (descriptor.build)(settings).map_err(|error| ConfigError::setting(entry, &error))?;
            Launcher::new(own_program, ["writer", "serve", descriptor.name])
        }
        Origin::Program(program) => Launcher::new(program, &entry.common.arguments),
    };
    launcher.run_as = user::configured(entry)?;
    Ok(ConfiguredWriter::of(entry, origin, launcher))
}

fn remote(entry: &WriterEntry, launcher: Launcher) -> Located {
    let remote = RemoteWriter::new(launcher, &entry.id, &entry.writer_type, entry.settings.clone());
    let ours = concat!("holdfast ", env!("CARGO_PKG_VERSION"));
    Located { entry: entry.clone(), remote: remote.requester(ours) }
}

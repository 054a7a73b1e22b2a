//! The writers of the configuration, each in child processes of its own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_writer_api::protocol::{Launcher, RemoteWriter};
use holdfast_writer_api::{
    Cause, ComponentKind, Registry, SettingsError, Writer, WriterConfig, WriterError, WriterMetadata,
};

use crate::config::{Config, ConfigError, WriterEntry};

/// A writer as it is configured.
pub struct ConfiguredWriter {
    /// What the administrator wrote.
    pub entry: WriterEntry,
    /// How to speak to it.
    pub writer: Box<dyn Writer>,
    remote: Option<(PathBuf, String)>,
}

impl ConfiguredWriter {
    /// A writer that is spoken to directly: a third party's, or a test's.
    pub fn in_process(entry: WriterEntry, writer: Box<dyn Writer>) -> Self {
        Self { entry, writer, remote: None }
    }

    /// The writer for a run on what `metadata` describes. As root, its process runs as the owner of the
    /// data (promise P10): a link swapped in leads only where the owner could go himself.
    ///
    /// # Errors
    /// The configured user is unknown, or we may not become it.
    pub fn for_run(&self, metadata: &WriterMetadata) -> Result<Box<dyn Writer + '_>, WriterError> {
        let Some((program, writer_type)) = &self.remote else {
            return Ok(Box::new(Borrowed(&*self.writer)));
        };
        let run_as = match &self.entry.common.run_as {
            Some(user) => Some(lookup_user(user).ok_or_else(|| {
                WriterError::rejected(&self.entry.id, format!("run-as: there is no user `{user}`"))
            })?),
            None => owner(metadata),
        };
        let we = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let run_as = match run_as {
            Some(user) if user == we => None,
            Some(_) if we.0 != 0 && self.entry.common.run_as.is_some() => {
                let cause = Cause::new("`run-as` names another user, and only root can become one");
                return Err(WriterError::Denied { writer: self.entry.id.clone(), cause });
            }
            Some(_) if we.0 != 0 => None,
            other => other,
        };
        Ok(Box::new(remote(program, &self.entry, writer_type, run_as)))
    }
}

/// All writers of `config`, started as `program writer serve TYPE`.
///
/// # Errors
/// [`ConfigError`] with file and line: an unknown type, or settings its writer does not accept.
pub fn from_config(
    config: &Config,
    registry: &Registry,
    program: &Path,
) -> Result<Vec<ConfiguredWriter>, ConfigError> {
    config
        .writers
        .iter()
        .map(|entry| {
            let known = || {
                let names = registry.names().join("`, `");
                let problem =
                    format!("there is no writer type `{}`; expected one of `{names}`", entry.writer_type);
                ConfigError::setting(entry, &SettingsError::new("type", problem))
            };
            let descriptor = registry.get(&entry.writer_type).ok_or_else(known)?;
            // Building touches no file: this only checks the settings where the line can be named.
            let settings = WriterConfig { id: entry.id.clone(), settings: entry.settings.clone() };
            (descriptor.build)(settings).map_err(|error| ConfigError::setting(entry, &error))?;
            Ok(ConfiguredWriter {
                entry: entry.clone(),
                writer: Box::new(remote(program, entry, &entry.writer_type, None)),
                remote: Some((program.to_owned(), entry.writer_type.clone())),
            })
        })
        .collect()
}

fn remote(
    program: &Path,
    entry: &WriterEntry,
    writer_type: &str,
    run_as: Option<(u32, u32)>,
) -> RemoteWriter {
    let launcher = Launcher { run_as, ..Launcher::new(program, ["writer", "serve", writer_type]) };
    RemoteWriter::new(launcher, &entry.id, writer_type, entry.settings.clone())
}

/// The owner of the first database, else of the first file or folder, links not followed.
fn owner(metadata: &WriterMetadata) -> Option<(u32, u32)> {
    let mut components: Vec<_> = metadata.components.iter().filter(|c| !c.files.is_empty()).collect();
    components.sort_by_key(|c| c.kind != ComponentKind::Database);
    components.iter().flat_map(|c| &c.files).find_map(|set| {
        let file = set.path.join(&set.pattern);
        let found = std::fs::symlink_metadata(file).or_else(|_| std::fs::symlink_metadata(&set.path)).ok()?;
        Some((found.uid(), found.gid()))
    })
}

fn lookup_user(name: &str) -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some((uid, fields.next()?.parse().ok()?))
    })
}

/// A borrowed writer behind the trait; forwards every method.
struct Borrowed<'w>(&'w dyn Writer);

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl Writer for Borrowed<'_> {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        self.0.identify().await
    }

    async fn begin_backup(
        &self,
        request: holdfast_writer_api::BackupRequest,
    ) -> Result<Box<dyn holdfast_writer_api::BackupParticipant>, WriterError> {
        self.0.begin_backup(request).await
    }

    async fn begin_restore(
        &self,
        request: holdfast_writer_api::RestoreRequest,
    ) -> Result<Box<dyn holdfast_writer_api::RestoreParticipant>, WriterError> {
        self.0.begin_restore(request).await
    }
}

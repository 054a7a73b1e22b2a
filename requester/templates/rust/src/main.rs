//! The writer `@NAME@`: what it is called, which files are its application's data.
//!
//! As it was made, the application is the journal that `fixture` runs. Rules (`W3`) are explained in Holdfast's
//! docs/writer-rules.md, the contract in docs/writing-a-writer.md and in the documentation of the traits.

mod backup;
mod restore;

use std::path::PathBuf;

use holdfast_writer_api::{
    BackupParticipant, BackupRequest, Capabilities, Component, ComponentKind, FileRole, FileSet,
    RestoreMethod, RestoreParticipant, RestorePolicy, RestoreRank, RestoreRequest, SettingsError,
    Writer, WriterConfig, WriterDescriptor, WriterError, WriterMetadata, async_trait,
};
use serde::Deserialize;

const DESCRIPTOR: WriterDescriptor = WriterDescriptor {
    name: "@NAME@", // the `type` in the configuration
    summary: "a journal, held by its lock",
    build,
};

// `main`: the protocol, and the threads that end a hold at its deadline (W9) and with the requester (W8).
holdfast_writer_api::program!(DESCRIPTOR);

/// The writer's keys in the `[[writer]]` table.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Settings {
    folder: PathBuf,
}

/// Looks at the settings, and at nothing else.
fn build(config: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
    let Settings { folder } = config.settings()?;
    if !folder.is_absolute() {
        return Err(SettingsError::new("folder", "expected an absolute path"));
    }
    let id = config.id;
    Ok(Box::new(App { id, folder }))
}

/// The application.
#[derive(Clone)]
struct App {
    /// What the configuration calls this writer; errors name it.
    id: String,
    folder: PathBuf,
}

impl App {
    fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    fn rejected(&self, why: String) -> WriterError {
        WriterError::rejected(&self.id, why)
    }
}

#[async_trait]
impl Writer for App {
    /// Called at any time, also beside a running backup: takes nothing, changes nothing, and says the same each time
    /// (W1). Every file that is named is there (W2), and all that the application needs is named (W11).
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        let journal = Component {
            files: vec![FileSet::file(&self.journal(), FileRole::Data)],
            held: true, // by `freeze`; where that is not so, the files have to be cut as one instant
            ..Component::new(ComponentKind::FileGroup, "journal")
        };
        Ok(WriterMetadata {
            name: "the journal".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            // Put in place while the application is down.
            restore: RestorePolicy {
                method: RestoreMethod::StopRestoreStart,
                rank: RestoreRank::Applications,
                service: None,
            },
            // Exactly what is there, no more and no less (W16).
            capabilities: Capabilities {
                freeze: true,
                ..Capabilities::default()
            },
            components: vec![journal],
            ..WriterMetadata::new(DESCRIPTOR.name, &self.id)
        })
    }

    async fn begin_backup(
        &self,
        _: BackupRequest,
    ) -> Result<Box<dyn BackupParticipant>, WriterError> {
        Ok(Box::new(backup::Backup::new(self.clone())))
    }

    async fn begin_restore(
        &self,
        _: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Ok(Box::new(restore::Restore::new(self.clone())))
    }
}

//! A writer for a guest book: an application that adds lines to `FOLDER/book`, each under a lock on `FOLDER/lock`.
//!
//! Linked into a requester, it is registered; as a program, it is `src/main.rs`. It needs nothing but the contract.

mod backup;
mod restore;
mod timed;

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_writer_api::{
    BackupParticipant, BackupRequest, Capabilities, Component, ComponentKind, DataSource, FileRole, FileSet,
    RestoreMethod, RestoreParticipant, RestorePolicy, RestoreRank, RestoreRequest, SettingsError, Usage,
    Writer, WriterConfig, WriterDescriptor, WriterError, WriterMetadata, async_trait, inventory,
};

/// The writer `guestbook`. Its one setting is `folder`.
pub const GUESTBOOK: WriterDescriptor =
    WriterDescriptor { name: "guestbook", summary: "a guest book, held by its lock", build };

inventory::submit! { GUESTBOOK }

fn build(config: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
    let mut settings: BTreeMap<String, PathBuf> = config.settings()?;
    let folder = settings.remove("folder").filter(|folder| folder.is_absolute());
    let folder =
        folder.ok_or_else(|| SettingsError::new("folder", "expected the folder of the guest book"))?;
    match settings.pop_first() {
        Some((key, _)) => Err(SettingsError::new(key, "there is no such setting; expected `folder`")),
        None => Ok(Box::new(GuestBook { id: config.id, folder })),
    }
}

#[derive(Clone)]
struct GuestBook {
    id: String,
    folder: PathBuf,
}

impl GuestBook {
    fn book(&self) -> PathBuf {
        self.folder.join("book")
    }
}

#[async_trait]
impl Writer for GuestBook {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        Ok(WriterMetadata {
            name: "the guest book".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            usage: Usage::UserData,
            source: DataSource::NonTransactedDb,
            restore: RestorePolicy {
                method: RestoreMethod::StopRestoreStart,
                rank: RestoreRank::Applications,
                service: None,
            },
            capabilities: Capabilities { freeze: true, ..Capabilities::default() },
            components: vec![Component {
                held: true,
                files: vec![FileSet::file(&self.book(), FileRole::Data)],
                ..Component::new(ComponentKind::FileGroup, "book")
            }],
            ..WriterMetadata::new(GUESTBOOK.name, &self.id)
        })
    }

    async fn begin_backup(&self, _: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        Ok(Box::new(timed::Timed::new(backup::Backup::new(self.clone()))))
    }

    async fn begin_restore(&self, _: RestoreRequest) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Ok(Box::new(restore::Restore::new(self.clone())))
    }
}

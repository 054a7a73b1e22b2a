//! The factory: checks the settings, describes the installation, begins runs.

use async_trait::async_trait;
use holdfast_writer_api::{
    BackupParticipant, BackupRequest, ComponentRef, RestoreParticipant, RestoreRequest, SettingsError,
    Writer, WriterConfig, WriterDescriptor, WriterError, WriterMetadata,
};

use crate::backup::Backup;
use crate::components::metadata;
use crate::installation::Installation;
use crate::restore::Restore;
use crate::settings::Settings;

/// The name this writer is registered under.
pub const TYPE: &str = "certificate-authority";

/// How the requester finds this writer; linked programs have it registered already.
pub static DESCRIPTOR: WriterDescriptor = WriterDescriptor {
    name: TYPE,
    summary: "a certificate authority on SQLite: database, keys, configuration, CRLs",
    build,
};

holdfast_writer_api::inventory::submit! {
    WriterDescriptor { name: DESCRIPTOR.name, summary: DESCRIPTOR.summary, build }
}

/// Speaks for one certificate authority.
#[derive(Debug)]
pub struct CertificateAuthority {
    id: String,
    settings: Settings,
}

impl CertificateAuthority {
    /// A writer with these settings. Touches no file.
    ///
    /// # Errors
    /// [`SettingsError`] with the key.
    pub fn new(id: impl Into<String>, settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self { id: id.into(), settings })
    }
}

fn build(config: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
    let settings = config.settings()?;
    Ok(Box::new(CertificateAuthority::new(config.id, settings)?))
}

#[async_trait]
impl Writer for CertificateAuthority {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        let found = Installation::resolve(&self.settings, &self.id).await?;
        let metadata = metadata(&self.id, &self.settings, &found);
        metadata.check()?;
        Ok(metadata)
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        let found = Installation::resolve(&self.settings, &self.id).await?;
        let known = metadata(&self.id, &self.settings, &found);
        refuse_unknown(&self.id, &known, &request.components)?;
        Ok(Box::new(Backup::new(self.id.clone(), found, request.components)))
    }

    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        // The stored document counts, never what stands in the settings now.
        request.metadata.check()?;
        refuse_unknown(&self.id, &request.metadata, &request.components)?;
        Ok(Box::new(Restore::new(self.id.clone(), request, &self.settings)))
    }
}

fn refuse_unknown(id: &str, metadata: &WriterMetadata, asked: &[ComponentRef]) -> Result<(), WriterError> {
    match asked.iter().find(|component| metadata.component(component).is_none()) {
        Some(unknown) => Err(WriterError::rejected(id, format!("there is no component `{unknown}`"))),
        None => Ok(()),
    }
}

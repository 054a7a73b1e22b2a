//! Writers behind writers: one whose complaints say where in the configuration to look, and a borrowed one.

use async_trait::async_trait;
use holdfast_writer_api::protocol::RemoteWriter;
use holdfast_writer_api::{
    BackupParticipant, BackupRequest, RestoreParticipant, RestoreRequest, Writer, WriterError, WriterMetadata,
};

use crate::config::WriterEntry;

/// A writer in a process of its own. A setting that it does not take is reported with file and line.
pub struct Located {
    pub entry: WriterEntry,
    pub remote: RemoteWriter,
}

impl Located {
    fn located(&self, error: WriterError) -> WriterError {
        let WriterError::InvalidSetting { writer, key, problem } = error else { return error };
        let source = &self.entry.source;
        let line = key.as_deref().map_or(source.line, |key| source.line_of(key));
        let mut problem = problem;
        if let Some(key) = key.as_deref().filter(|key| !problem.contains(&format!("`{key}`"))) {
            problem = format!("`{key}`: {problem}");
        }
        let problem = format!("{}:{line}: {problem}", source.file.display());
        WriterError::InvalidSetting { writer, key, problem }
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Writer for Located {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        self.remote.identify().await.map_err(|error| self.located(error))
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        self.remote.begin_backup(request).await.map_err(|error| self.located(error))
    }

    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        self.remote.begin_restore(request).await.map_err(|error| self.located(error))
    }
}

/// A borrowed writer behind the trait; forwards every method.
pub struct Borrowed<'w>(pub &'w dyn Writer);

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Writer for Borrowed<'_> {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        self.0.identify().await
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        self.0.begin_backup(request).await
    }

    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        self.0.begin_restore(request).await
    }
}

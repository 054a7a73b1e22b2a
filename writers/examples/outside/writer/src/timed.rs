//! A wrapper around any participant: says how long the application was held.

use std::time::Instant;

use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, FreezeContext, LogFile, Mark, PhaseContext, PostSnapshot, Prepared,
    ShadowContext, Stream, StreamFile, Thawed, Truncated, WriterError, async_trait,
};

/// Whatever `inner` does, and a line on standard error, which is in the session's event log.
pub struct Timed<P> {
    inner: P,
    since: Option<Instant>,
}

impl<P> Timed<P> {
    pub fn new(inner: P) -> Self {
        Self { inner, since: None }
    }
}

// The lint is what a wrapper must not be without: a method that it forgets, or that a later version of the contract
// adds, would be answered by the trait's default instead of the wrapped writer, silently.
#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<P: BackupParticipant> BackupParticipant for Timed<P> {
    async fn prepare_backup(&mut self, ctx: &PhaseContext) -> Result<Prepared, WriterError> {
        self.inner.prepare_backup(ctx).await
    }

    async fn prepare_snapshot(&mut self, ctx: &PhaseContext) -> Result<(), WriterError> {
        self.inner.prepare_snapshot(ctx).await
    }

    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        self.since = Some(Instant::now());
        self.inner.freeze(ctx).await
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        let thawed = self.inner.thaw().await;
        if let (Ok(Thawed::Released), Some(since)) = (&thawed, self.since.take()) {
            eprintln!("held for {} ms", since.elapsed().as_millis());
        }
        thawed
    }

    async fn post_snapshot(&mut self, ctx: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        self.inner.post_snapshot(ctx).await
    }

    async fn backup_complete(&mut self, outcome: &BackupOutcome) -> Result<Truncated, WriterError> {
        self.inner.backup_complete(outcome).await
    }

    async fn abort(&mut self) -> Result<(), WriterError> {
        self.inner.abort().await
    }

    fn holder(&self) -> Option<u32> {
        self.inner.holder()
    }

    fn guardian(&self) -> Option<u32> {
        self.inner.guardian()
    }

    #[cfg(not(feature = "forgetful"))]
    async fn seal_keys(
        &mut self,
        recipients: &[String],
    ) -> Result<Vec<holdfast_writer_api::SealedKey>, WriterError> {
        self.inner.seal_keys(recipients).await
    }

    async fn list_streams(&mut self) -> Result<Vec<StreamFile>, WriterError> {
        self.inner.list_streams().await
    }

    async fn open_stream(&mut self, name: &str) -> Result<Stream, WriterError> {
        self.inner.open_stream(name).await
    }

    async fn close_stream(&mut self, name: &str, bytes: u64) -> Result<(), WriterError> {
        self.inner.close_stream(name, bytes).await
    }

    async fn list_logs(&mut self) -> Result<Vec<LogFile>, WriterError> {
        self.inner.list_logs().await
    }
}

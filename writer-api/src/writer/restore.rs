//! The writer's part in a restore: checks before anything changes, recovery, and what follows.

use async_trait::async_trait;

use super::{
    CheckReport, HookOutcome, HookStep, OnlineState, RecoverContext, Recovered, Registration, StagedFiles,
};
use crate::WriterError;

/// One writer's part in one restore. See design §5 and promises P7 and P8 for the order.
#[async_trait]
pub trait RestoreParticipant: Send {
    /// Whether the application runs, as far as the writer can tell. Asked again right before the swap.
    async fn online_state(&mut self) -> Result<OnlineState, WriterError>;

    /// Checks what was staged: engine's own checks, identity, keys. Changes nothing outside the staging.
    ///
    /// # Errors
    /// Any error is a refusal before anything live was touched.
    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError>;

    /// Registers the restore with the application, where it has a way of its own; the requester's
    /// durable marker exists already.
    async fn register(&mut self, registration: &Registration) -> Result<(), WriterError> {
        let _ = registration;
        Ok(())
    }

    /// All that was registered is in place; recovery may run.
    async fn register_complete(&mut self) -> Result<(), WriterError> {
        Ok(())
    }

    /// Brings the staged files to consistency: replays logs, rolls back what no commit covers.
    ///
    /// # Contract
    /// Works on the staged files only, while the live path is blocked; may run again after a crash.
    async fn recover(
        &mut self,
        staged: &StagedFiles,
        ctx: &RecoverContext,
    ) -> Result<Recovered, WriterError> {
        let _ = (staged, ctx);
        Err(WriterError::unsupported("", "recovery"))
    }

    /// Verifies the recovered files before they are put in place: by the engine, and by the keys.
    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError>;

    /// What to do once the files are in place, in order; empty without
    /// [`crate::Capabilities::post_restore`].
    async fn post_restore_steps(&mut self) -> Result<Vec<HookStep>, WriterError> {
        Ok(Vec::new())
    }

    /// Runs one of them. Idempotent.
    async fn run_step(&mut self, name: &str) -> Result<HookOutcome, WriterError> {
        Err(WriterError::unsupported("", format!("the step `{name}`")))
    }

    /// The restore is over: removes the application's own registration, if `register` made one.
    async fn unregister(&mut self) -> Result<(), WriterError> {
        Ok(())
    }
}

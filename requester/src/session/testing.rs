//! A writer in memory for this module's tests, with faults that no real one can be made to show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use holdfast_writer_api::*;

use super::member::Member;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    At(FaultAt),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAt {
    FreezeFails,
    FreezeHangs,
    FreezePanics,
    ThawStuck,
    ThawLate,
    /// As late as one that hangs, as far as the others are concerned.
    ThawSlow,
}

/// What a test sees of the application.
#[derive(Debug, Clone, Default)]
pub struct Probe {
    pub held: Arc<AtomicBool>,
}

struct InMemory {
    id: String,
    fault: Fault,
    probe: Probe,
}

impl Drop for InMemory {
    fn drop(&mut self) {
        self.probe.held.store(false, Ordering::SeqCst);
    }
}

const BUDGET: Duration = Duration::from_millis(120);

pub fn member(id: &str, level: FreezeLevel, fault: Fault) -> (Member, Probe) {
    let probe = Probe::default();
    let participant = InMemory { id: id.into(), fault, probe: probe.clone() };
    let metadata = WriterMetadata {
        schema: METADATA_SCHEMA.into(),
        writer_type: "in-memory".into(),
        id: id.into(),
        name: id.into(),
        version: "1".into(),
        usage: Usage::Other,
        source: DataSource::Other,
        restore: RestorePolicy {
            method: RestoreMethod::Custom,
            rank: RestoreRank::Applications,
            service: None,
        },
        freeze_level: level,
        freeze_budget_ms: None,
        busy_timeout_ms: None,
        backup_types: BackupTypes::default(),
        capabilities: Capabilities { freeze: true, ..Capabilities::default() },
        components: vec![],
        warnings: vec![],
    };
    (Member::new(metadata, BackupType::Full, BUDGET, Box::new(participant)), probe)
}

#[async_trait]
impl BackupParticipant for InMemory {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        Ok(Prepared::default())
    }
    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        Ok(())
    }
    async fn freeze(&mut self, _: &FreezeContext) -> Result<Mark, WriterError> {
        self.probe.held.store(true, Ordering::SeqCst);
        match self.fault {
            Fault::At(FaultAt::FreezeFails) => Err(WriterError::rejected(&self.id, "as asked")),
            Fault::At(FaultAt::FreezeHangs) => std::future::pending().await,
            Fault::At(FaultAt::FreezePanics) => panic!("as asked"),
            Fault::None | Fault::At(FaultAt::ThawStuck | FaultAt::ThawLate | FaultAt::ThawSlow) => {
                Ok(Mark::default())
            }
        }
    }
    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        match self.fault {
            Fault::At(FaultAt::ThawStuck) => {
                let cause = Cause::new("as asked");
                return Err(WriterError::StuckFrozen { writer: self.id.clone(), cause });
            }
            Fault::At(FaultAt::ThawLate) => tokio::time::sleep(BUDGET * 2).await,
            Fault::At(FaultAt::ThawSlow) => tokio::time::sleep(Duration::from_secs(3)).await,
            Fault::None | Fault::At(FaultAt::FreezeFails | FaultAt::FreezeHangs | FaultAt::FreezePanics) => {}
        }
        self.probe.held.store(false, Ordering::SeqCst);
        Ok(Thawed::Released)
    }
    async fn post_snapshot(&mut self, _: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        Ok(PostSnapshot::default())
    }
    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        Ok(Truncated::default())
    }
    async fn abort(&mut self) -> Result<(), WriterError> {
        Ok(())
    }
}

//! A writer that holds nothing: what it costs is what the barrier costs.

use std::{io, os::fd::AsFd, time::Duration};

use async_trait::async_trait;
use holdfast::session::member::Member;
use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, BackupRequest, BackupTypes, Capabilities, DataSource, FreezeContext,
    FreezeLevel, METADATA_SCHEMA, Mark, PhaseContext, PostSnapshot, Prepared, Registry, RestoreMethod,
    RestoreParticipant, RestorePolicy, RestoreRank, RestoreRequest, ShadowContext, Thawed, Truncated, Usage,
    Writer, WriterDescriptor, WriterError, WriterMetadata,
    protocol::{Launcher, Program, RemoteWriter, serve as serve_writer},
};
use uuid::Uuid;

use crate::{SERVE, error::BenchError};

const TYPE: &str = "no-op";
/// Longer than any measurement.
const BUDGET: Duration = Duration::from_secs(30);

static DESCRIPTOR: WriterDescriptor = WriterDescriptor {
    name: TYPE,
    summary: "holds nothing",
    build: |config| Ok(Box::new(NoOp { id: config.id })),
};

struct NoOp {
    id: String,
}

/// A member of a session that is ready to be frozen, in this process.
pub async fn in_process(id: String) -> Result<Member, BenchError> {
    ready(metadata(&id), Box::new(NoOp { id })).await
}

/// The same in a process of its own, spoken to in the protocol.
pub async fn in_child(id: String) -> Result<Member, BenchError> {
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let launcher = Launcher::new(program, [SERVE]);
    let writer = RemoteWriter::new(launcher, &*id, TYPE, serde_json::json!({}));
    let request = BackupRequest {
        set: Uuid::nil(),
        backup_type: holdfast_writer_api::BackupType::Full,
        components: Vec::new(),
        previous_stamps: std::collections::BTreeMap::new(),
    };
    let participant = writer.begin_backup(request).await?;
    ready(metadata(&id), participant).await
}

async fn ready(
    metadata: WriterMetadata,
    participant: Box<dyn BackupParticipant>,
) -> Result<Member, BenchError> {
    let mut member = Member::new(metadata, holdfast_writer_api::BackupType::Full, BUDGET, participant);
    member.done(holdfast_writer_api::state::Event::BackupPrepared);
    member.prepare_snapshot(Uuid::nil()).await?;
    Ok(member)
}

/// What the child does.
pub fn serve() -> Result<(), BenchError> {
    let mut registry = Registry::empty();
    let failed = |cause: String| BenchError::Barrier { cause };
    registry.register(&DESCRIPTOR).map_err(|error| failed(error.to_string()))?;
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(BenchError::io("take the socket"))?;
    serve_writer(&registry, Program::new("no-op", "1"), TYPE, socket)
        .map_err(|error| failed(crate::error::chain(&error)))
}

fn metadata(id: &str) -> WriterMetadata {
    WriterMetadata {
        schema: METADATA_SCHEMA.into(),
        writer_type: TYPE.into(),
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
        freeze_level: FreezeLevel::BackEnd,
        freeze_budget_ms: None,
        busy_timeout_ms: None,
        backup_types: BackupTypes::default(),
        capabilities: Capabilities { freeze: true, ..Capabilities::default() },
        components: vec![],
        warnings: vec![],
    }
}

#[async_trait]
impl Writer for NoOp {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        Ok(metadata(&self.id))
    }

    async fn begin_backup(&self, _: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        Ok(Box::new(Self { id: self.id.clone() }))
    }

    async fn begin_restore(&self, _: RestoreRequest) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Err(WriterError::unsupported(&self.id, "a restore"))
    }
}

#[async_trait]
impl BackupParticipant for NoOp {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        Ok(Prepared::default())
    }

    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        Ok(())
    }

    async fn freeze(&mut self, _: &FreezeContext) -> Result<Mark, WriterError> {
        Ok(Mark::default())
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
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

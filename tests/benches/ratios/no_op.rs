//! A writer that holds nothing but a flag: what it costs is what the barrier costs.

use std::{collections::BTreeMap, io, os::fd::AsFd, time::Duration};

use holdfast::session::member::Member;
use holdfast_writer_api::{
    BackupParticipant, BackupRequest, BackupType, Registry, Writer, WriterDescriptor, chain,
    protocol::{Launcher, Program, RemoteWriter, serve as serve_writer},
    state::Event,
    testing::{Fault, InMemory},
};
use uuid::Uuid;

use crate::{SERVE, error::BenchError};

const TYPE: &str = "no-op";
/// Longer than any measurement.
const BUDGET: Duration = Duration::from_secs(30);

static DESCRIPTOR: WriterDescriptor = WriterDescriptor {
    name: TYPE,
    summary: "holds nothing",
    build: |config| {
        let fault = if config.settings == slow() { Fault::FreezeSlow } else { Fault::None };
        Ok(Box::new(InMemory::new(config.id, fault)))
    },
};

/// A member of a session that is ready to be frozen, in this process.
pub async fn in_process(id: String, fault: Fault) -> Result<Member, BenchError> {
    let writer = InMemory::new(id, fault);
    ready(&writer, writer.participant()).await
}

/// The settings of one whose freeze takes no time.
pub fn plain() -> serde_json::Value {
    serde_json::json!({})
}

/// The settings of a writer whose freeze takes [`holdfast_writer_api::testing::SLOW_FREEZE`].
pub fn slow() -> serde_json::Value {
    serde_json::json!({ "slow": true })
}

/// A part in a backup, in a process of its own that is spoken to in the protocol.
pub async fn participant(
    id: &str,
    settings: serde_json::Value,
) -> Result<Box<dyn BackupParticipant>, BenchError> {
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let writer = RemoteWriter::new(Launcher::new(program, [SERVE]), id, TYPE, settings);
    let request = BackupRequest {
        set: Uuid::nil(),
        backup_type: BackupType::Full,
        components: Vec::new(),
        previous_stamps: BTreeMap::new(),
    };
    Ok(writer.begin_backup(request).await?)
}

/// As [`in_process`], in a process of its own.
pub async fn in_child(id: String, settings: serde_json::Value) -> Result<Member, BenchError> {
    let participant = participant(&id, settings).await?;
    ready(&InMemory::new(id, Fault::None), participant).await
}

async fn ready(writer: &InMemory, participant: Box<dyn BackupParticipant>) -> Result<Member, BenchError> {
    let mut member = Member::new(writer.metadata(), BackupType::Full, BUDGET, participant);
    member.done(Event::BackupPrepared);
    member.prepare_snapshot(Uuid::nil()).await?;
    Ok(member)
}

/// What the child does.
pub fn serve() -> Result<(), BenchError> {
    let mut registry = Registry::empty();
    let failed = |cause: String| BenchError::Barrier { cause };
    registry.register(&DESCRIPTOR).map_err(|error| failed(error.to_string()))?;
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(BenchError::io("take the socket"))?;
    serve_writer(&registry, Program::new("no-op", "1"), TYPE, socket).map_err(|error| failed(chain(&error)))
}

//! Members of a session for this module's tests: writers in memory.

use std::time::Duration;

use holdfast_writer_api::testing::{Fault, InMemory};
use holdfast_writer_api::{BackupType, FreezeLevel, WriterMetadata};

use super::member::Member;

const BUDGET: Duration = Duration::from_millis(120);

/// A member, and its writer to look at from outside.
pub fn member(id: &str, level: FreezeLevel, fault: Fault) -> (Member, InMemory) {
    let writer = InMemory::new(id, fault);
    let metadata = WriterMetadata { freeze_level: level, ..writer.metadata() };
    (Member::new(metadata, BackupType::Full, BUDGET, writer.participant()), writer)
}

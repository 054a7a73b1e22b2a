//! Whether an answer is one to the call: what the interface promises of each method's reply.

use holdfast_writer_api::protocol::message::{
    Done, Frozen, HelloReply, Identified, Logs, Opened, Released, Sealed, StepDone, Steps, Streams,
};
use holdfast_writer_api::protocol::wire::{Answer, Refusal};
use holdfast_writer_api::protocol::{Call, Version};
use holdfast_writer_api::{
    CheckReport, OnlineState, PostSnapshot, Prepared, Recovered, Truncated, WriterError,
};
use serde::de::DeserializeOwned;

/// What a requester has to make of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Sound {
    /// The method was done.
    Done,
    /// It failed: with the writer's own error, or with an answer that no requester may accept.
    Failed(String),
    /// The writer does not have it.
    Lacking,
    /// It is no answer to this call; the conversation is over.
    Nonsense(String),
}

/// Judges the answer to `call`, which was sent to the writer `id` of type `writer_type`.
pub fn sound(call: &Call, answer: Answer, id: &str, writer_type: &str) -> Sound {
    fn as_reply<T: DeserializeOwned>(answer: Answer, id: &str) -> Result<T, Sound> {
        answer.understand(id).map_err(|refusal| match refusal {
            Refusal::Writer(WriterError::Unsupported { .. }) | Refusal::NoSuchMethod => Sound::Lacking,
            Refusal::Writer(error) => Sound::Failed(holdfast_writer_api::chain(&error)),
            Refusal::Nonsense(why) => Sound::Nonsense(why),
        })
    }
    fn done<T>(_: T) -> Sound {
        Sound::Done
    }
    let judged = match call {
        Call::Hello(_) => as_reply::<HelloReply>(answer, id).map(|reply| hello(&reply)),
        Call::Identify {} => as_reply::<Identified>(answer, id).map(|Identified { metadata }| {
            if metadata.id != id || metadata.writer_type != writer_type {
                return Sound::Failed(format!("it answered as `{}`", metadata.id));
            }
            match metadata.check() {
                Ok(()) => Sound::Done,
                Err(error) => Sound::Failed(holdfast_writer_api::chain(&error)),
            }
        }),
        Call::BeginBackup(_)
        | Call::BeginRestore(_)
        | Call::PrepareSnapshot(_)
        | Call::Abort {}
        | Call::CloseStream { .. }
        | Call::Register(_)
        | Call::RegisterComplete {}
        | Call::Unregister {} => as_reply::<Done>(answer, id).map(done),
        Call::PrepareBackup(_) => as_reply::<Prepared>(answer, id).map(done),
        Call::SealKeys { .. } => as_reply::<Sealed>(answer, id).map(done),
        Call::Freeze(_) => as_reply::<Frozen>(answer, id).map(done),
        Call::Thaw {} => as_reply::<Released>(answer, id).map(done),
        Call::PostSnapshot(_) => as_reply::<PostSnapshot>(answer, id).map(done),
        Call::BackupComplete(_) => as_reply::<Truncated>(answer, id).map(done),
        Call::ListStreams {} => as_reply::<Streams>(answer, id).map(done),
        Call::OpenStream { .. } => as_reply::<Opened>(answer, id).map(|opened| match opened.descriptor {
            0 => Sound::Done,
            other => Sound::Nonsense(format!("it names the file descriptor {other}")),
        }),
        Call::ListLogs {} => as_reply::<Logs>(answer, id).map(done),
        Call::OnlineState {} => as_reply::<OnlineState>(answer, id).map(done),
        Call::Check(_) | Call::Verify(_) => as_reply::<CheckReport>(answer, id).map(done),
        Call::Recover { .. } => as_reply::<Recovered>(answer, id).map(done),
        Call::PostRestoreSteps {} => as_reply::<Steps>(answer, id).map(done),
        Call::RunStep { .. } => as_reply::<StepDone>(answer, id).map(done),
    };
    judged.unwrap_or_else(|not| not)
}

fn hello(reply: &HelloReply) -> Sound {
    match reply.protocol.parse::<Version>() {
        Ok(theirs) if Version::OURS.agreed(theirs).is_some() => Sound::Done,
        Ok(theirs) => Sound::Failed(format!("it speaks protocol {theirs}")),
        Err(error) => Sound::Nonsense(error.to_string()),
    }
}

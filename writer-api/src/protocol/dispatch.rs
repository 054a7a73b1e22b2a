//! Which call is which method of a participant.

use std::os::fd::OwnedFd;
use std::time::Instant;

use super::guard::Watchdog;
use super::message::{Call, Done, Frozen, Logs, Opened, Released, Sealed, StepDone, Steps, Streams};
use super::wire::Answer;
use crate::{BackupParticipant, RestoreParticipant, WriterError};

/// An answer, and the descriptor that goes beside it.
pub struct Reply {
    pub answer: Answer,
    pub descriptor: Option<OwnedFd>,
}

impl From<Answer> for Reply {
    fn from(answer: Answer) -> Self {
        Self { answer, descriptor: None }
    }
}

fn done(result: Result<(), WriterError>) -> Answer {
    Answer::from_result(result.map(|()| Done {}))
}

/// A participant's answer; `None` if the call is not a backup's.
pub async fn backup(
    call: Call,
    participant: &mut dyn BackupParticipant,
    watchdog: &Watchdog,
) -> Option<Reply> {
    let answer = match call {
        Call::PrepareBackup(ctx) => Answer::from_result(participant.prepare_backup(&ctx).await),
        Call::SealKeys { recipients } => {
            Answer::from_result(participant.seal_keys(&recipients).await.map(|keys| Sealed { keys }))
        }
        Call::PrepareSnapshot(ctx) => done(participant.prepare_snapshot(&ctx).await),
        Call::Freeze(ctx) => {
            // Counted from the call, and armed before the hold exists.
            watchdog.arm(Some(Instant::now() + ctx.budget));
            let frozen = participant.freeze(&ctx).await;
            if frozen.is_err() {
                // It failed, so nothing may stay held even if nobody calls thaw.
                if participant.thaw().await.is_ok() {
                    watchdog.arm(None);
                }
            }
            Answer::from_result(frozen.map(|mark| Frozen { mark }))
        }
        Call::Thaw {} => {
            let thawed = participant.thaw().await;
            if thawed.is_ok() {
                watchdog.arm(None);
            }
            Answer::from_result(thawed.map(|thawed| Released { thawed }))
        }
        Call::PostSnapshot(ctx) => Answer::from_result(participant.post_snapshot(&ctx).await),
        Call::BackupComplete(outcome) => Answer::from_result(participant.backup_complete(&outcome).await),
        Call::Abort {} => {
            let aborted = participant.abort().await;
            if aborted.is_ok() {
                watchdog.arm(None);
            }
            done(aborted)
        }
        Call::ListStreams {} => {
            Answer::from_result(participant.list_streams().await.map(|streams| Streams { streams }))
        }
        Call::OpenStream { name } => {
            return Some(match participant.open_stream(&name).await {
                Ok(stream) => {
                    Reply { answer: Answer::reply(&Opened { descriptor: 0 }), descriptor: Some(stream.fd) }
                }
                Err(error) => Answer::failure(&error).into(),
            });
        }
        Call::CloseStream { name, bytes } => done(participant.close_stream(&name, bytes).await),
        Call::ListLogs {} => Answer::from_result(participant.list_logs().await.map(|logs| Logs { logs })),
        Call::Hello(_)
        | Call::Identify {}
        | Call::BeginBackup(_)
        | Call::BeginRestore(_)
        | Call::OnlineState {}
        | Call::Check(_)
        | Call::Register(_)
        | Call::RegisterComplete {}
        | Call::Recover { .. }
        | Call::Verify(_)
        | Call::PostRestoreSteps {}
        | Call::RunStep { .. }
        | Call::Unregister {} => return None,
    };
    Some(answer.into())
}

/// A participant's answer; `None` if the call is not a restore's.
pub async fn restore(call: Call, participant: &mut dyn RestoreParticipant) -> Option<Reply> {
    let answer = match call {
        Call::OnlineState {} => Answer::from_result(participant.online_state().await),
        Call::Check(staged) => Answer::from_result(participant.check(&staged).await),
        Call::Register(registration) => done(participant.register(&registration).await),
        Call::RegisterComplete {} => done(participant.register_complete().await),
        Call::Recover { staged, context } => {
            Answer::from_result(participant.recover(&staged, &context).await)
        }
        Call::Verify(staged) => Answer::from_result(participant.verify(&staged).await),
        Call::PostRestoreSteps {} => {
            Answer::from_result(participant.post_restore_steps().await.map(|steps| Steps { steps }))
        }
        Call::RunStep { name } => {
            Answer::from_result(participant.run_step(&name).await.map(|outcome| StepDone { outcome }))
        }
        Call::Unregister {} => done(participant.unregister().await),
        Call::Hello(_)
        | Call::Identify {}
        | Call::BeginBackup(_)
        | Call::BeginRestore(_)
        | Call::PrepareBackup(_)
        | Call::SealKeys { .. }
        | Call::PrepareSnapshot(_)
        | Call::Freeze(_)
        | Call::Thaw {}
        | Call::PostSnapshot(_)
        | Call::BackupComplete(_)
        | Call::Abort {}
        | Call::ListStreams {}
        | Call::OpenStream { .. }
        | Call::CloseStream { .. }
        | Call::ListLogs {} => return None,
    };
    Some(answer.into())
}

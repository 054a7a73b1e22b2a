//! W16: what a writer says that it can, it can; and nothing else.

use crate::protocol::message::{Call, Logs, Sealed, StepDone, Streams};
use crate::testkit::bench::Bench;
use crate::testkit::keyring::Keyring;
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::rules::Part;
use crate::{BackupType, RecoverContext, Recovered, StagedFiles, WriterError, chain};

/// A name that no writer has.
const NOBODY: &str = "holdfast-no-such-name";

/// W16.
pub async fn declared_is_had(bench: &mut Bench) -> Verdict {
    let declared = bench.metadata().await?.capabilities;
    let mut backup = bench.begun(BackupType::Full).await?;
    backup.prepare_backup().await.map_err(|error| {
        let rule = if declared.freeze { "W3" } else { "W11" };
        Stop::elsewhere(rule, crate::testkit::outcome::answered("PrepareBackup", &error))
    })?;
    let recipients = vec![Keyring::recipient_of_nobody()];
    let limit = bench.limits.call;

    let logs = backup.ask::<Logs>(&Call::ListLogs {}, limit).await;
    judge(Part::Logs, declared.logs, "ListLogs", logs.map(drop))?;
    let sealed = backup.ask::<Sealed>(&Call::SealKeys { recipients }, limit).await;
    judge(Part::Keys, declared.keys, "SealKeys", sealed.map(drop))?;
    let streams = backup.ask::<Streams>(&Call::ListStreams {}, limit).await.map(|reply| reply.streams);
    judge(Part::Stream, declared.stream, "ListStreams", streams.as_ref().map(drop).map_err(Clone::clone))?;
    if declared.stream {
        if streams.is_ok_and(|streams| streams.is_empty()) {
            return Err(Stop::broken("the capability `stream` is declared, and `ListStreams` names none"));
        }
    } else {
        let opened = backup.read_stream(NOBODY, Some(1)).await;
        judge(Part::Stream, false, "OpenStream", opened.map(drop))?;
        let closed = backup.done(Call::CloseStream { name: NOBODY.into(), bytes: 0 }).await;
        judge(Part::Stream, false, "CloseStream", closed)?;
    }
    drop(backup);
    of_a_restore(bench).await
}

async fn of_a_restore(bench: &mut Bench) -> Verdict {
    let declared = bench.metadata().await?.capabilities;
    let limit = bench.limits.call;
    let mut restore = bench.restore(false).await?;
    if !declared.recover {
        // Whether a declared recovery works is the matter of W11.
        let recover = Call::Recover { staged: StagedFiles::default(), context: RecoverContext::default() };
        judge(Part::Recover, false, "Recover", restore.ask::<Recovered>(&recover, limit).await.map(drop))?;
    }
    let steps = restore.post_restore_steps().await;
    match (declared.post_restore, steps) {
        (true, Ok(steps)) if steps.is_empty() => {
            return Err(Stop::broken(
                "the capability `post_restore` is declared, and `PostRestoreSteps` names none",
            ));
        }
        (false, Ok(steps)) if !steps.is_empty() => {
            return Err(Stop::broken(
                "the capability `post_restore` is not declared, and `PostRestoreSteps` names some: nobody would run them",
            ));
        }
        (true, steps) => judge(Part::PostRestore, true, "PostRestoreSteps", steps.map(drop))?,
        // No steps, or no such method: both say that there are none.
        (false, _) => {
            let step = Call::RunStep { name: NOBODY.into() };
            judge(
                Part::PostRestore,
                false,
                "RunStep",
                restore.ask::<StepDone>(&step, limit).await.map(drop),
            )?;
        }
    }
    Ok(None)
}

fn judge(part: Part, declared: bool, method: &str, answer: Result<(), WriterError>) -> Result<(), Stop> {
    let part = part.as_str();
    match (declared, answer) {
        (true, Err(WriterError::Unsupported { .. })) => Err(Stop::Broken(format!(
            "the capability `{part}` is declared, and `{method}` answered `Unsupported`"
        ))),
        // A declared part that fails otherwise has a rule of its own.
        (true, _) | (false, Err(WriterError::Unsupported { .. })) => Ok(()),
        (false, Ok(())) => Err(Stop::Broken(format!(
            "the capability `{part}` is not declared, and `{method}` did not answer `Unsupported`, but as if it were"
        ))),
        (false, Err(error)) => Err(Stop::Broken(format!(
            "the capability `{part}` is not declared, and `{method}` did not answer `Unsupported`, but: {}",
            chain(&error)
        ))),
    }
}

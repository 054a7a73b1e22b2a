//! W4 and W10: `Thaw` and `Abort` work in every state.

use std::time::{Duration, Instant};

use crate::testkit::bench::Bench;
use crate::testkit::outcome::{Stop, Verdict, answered};
use crate::testkit::talk::Talk;
use crate::{BackupType, Thawed};

/// The contract's limit of a thaw …
const THAW_WITHIN: Duration = Duration::from_millis(100);
/// … which a busy machine may break now and then, a good writer not each time.
const TRIES: usize = 5;

/// How far a backup has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begun,
    Prepared,
    Ready,
    Frozen,
    Thawed,
    Finished,
}

impl State {
    const ALL: [Self; 6] =
        [Self::Begun, Self::Prepared, Self::Ready, Self::Frozen, Self::Thawed, Self::Finished];

    /// For a sentence.
    const fn after(self) -> &'static str {
        match self {
            Self::Begun => "after BeginBackup",
            Self::Prepared => "after PrepareBackup",
            Self::Ready => "after PrepareSnapshot",
            Self::Frozen => "after Freeze",
            Self::Thawed => "after Thaw",
            Self::Finished => "after PostSnapshot",
        }
    }
}

/// A backup in that state.
async fn reach(bench: &mut Bench, state: State) -> Result<Talk, Stop> {
    if matches!(state, State::Thawed | State::Finished) {
        let mut cut = {
            let request = bench.request(BackupType::Full).await?;
            bench.cut(request).await?
        };
        if state == State::Finished {
            let finished = cut.talk.post_snapshot(cut.roots).await;
            finished.map_err(|error| Stop::elsewhere("W11", answered("PostSnapshot", &error)))?;
        }
        return Ok(cut.talk);
    }
    let holds = bench.metadata().await?.capabilities.freeze;
    if state == State::Frozen && holds {
        let budget = bench.budget().await?;
        return bench.held(budget).await.map(|(talk, _)| talk);
    }
    let rule = if holds { "W3" } else { "W11" };
    let failed = |method: &str, error| Stop::elsewhere(rule, answered(method, &error));
    let mut talk = bench.begun(BackupType::Full).await?;
    if state != State::Begun {
        talk.prepare_backup().await.map_err(|error| failed("PrepareBackup", error))?;
    }
    if matches!(state, State::Ready | State::Frozen) {
        talk.prepare_snapshot().await.map_err(|error| failed("PrepareSnapshot", error))?;
    }
    if state == State::Frozen {
        let budget = bench.budget().await?;
        talk.freeze(budget).await.map_err(|error| failed("Freeze", error))?;
    }
    Ok(talk)
}

/// W4.
pub async fn thaw_works_from_any_state(bench: &mut Bench) -> Verdict {
    bench.application().await?;
    let holds = bench.metadata().await?.capabilities.freeze;
    for state in State::ALL {
        if state == State::Frozen && holds {
            thaw_releases(bench).await?;
            continue;
        }
        let mut talk = reach(bench, state).await?;
        for nth in ["first", "second"] {
            match talk.thaw().await {
                Ok(Thawed::WasNotHeld) => {}
                // Without a hold there is nothing that could be told from it.
                Ok(Thawed::Released) if !holds => {}
                Ok(Thawed::Released) => {
                    return Err(Stop::Broken(format!(
                        "the {nth} `Thaw` {} said `released`, and nothing was held",
                        state.after()
                    )));
                }
                Err(error) => {
                    let answer = answered("Thaw", &error);
                    return Err(Stop::Broken(format!("{}, the {nth} {answer}", state.after())));
                }
            }
        }
    }
    Ok(None)
}

/// From the state that matters, with the application as a witness.
async fn thaw_releases(bench: &mut Bench) -> Result<(), Stop> {
    let mut slowest = Duration::ZERO;
    for _ in 0..TRIES {
        let mut talk = reach(bench, State::Frozen).await?;
        let asked = Instant::now();
        let thawed = talk.thaw().await.map_err(|error| Stop::Broken(answered("Thaw", &error)))?;
        let took = asked.elapsed();
        if thawed != Thawed::Released {
            return Err(Stop::broken("the application was held, and `Thaw` said `was_not_held`"));
        }
        if !bench.is_free().await? {
            return Err(Stop::broken("`Thaw` said `released`, and the application was still held"));
        }
        for _ in 0..2 {
            match talk.thaw().await {
                Ok(Thawed::WasNotHeld) => {}
                Ok(Thawed::Released) => {
                    return Err(Stop::broken(
                        "a repeated `Thaw` said `released`, and nothing was held any more",
                    ));
                }
                Err(error) => {
                    return Err(Stop::Broken(format!("repeated, {}", answered("Thaw", &error))));
                }
            }
        }
        if !bench.is_free().await? {
            return Err(Stop::broken("a repeated `Thaw` took the hold again"));
        }
        slowest = slowest.max(took);
        if took <= THAW_WITHIN {
            return Ok(());
        }
    }
    Err(Stop::Broken(format!(
        "`Thaw` took {} ms, and more than 100 ms {TRIES} times in a row",
        slowest.as_millis()
    )))
}

/// W10. The writer's process is left alone: a requester would end it now, and that is the matter of other rules.
pub async fn abort_releases_from_any_state(bench: &mut Bench) -> Verdict {
    bench.application().await?;
    for state in State::ALL {
        let mut talk = reach(bench, state).await?;
        for nth in ["first", "second"] {
            if let Err(error) = talk.abort().await {
                let answer = answered("Abort", &error);
                return Err(Stop::Broken(format!("{}, the {nth} {answer}", state.after())));
            }
            if state == State::Frozen && !bench.is_free().await? {
                return Err(Stop::Broken(format!(
                    "the {nth} `Abort` was answered, and the application was still held"
                )));
            }
        }
    }
    Ok(None)
}

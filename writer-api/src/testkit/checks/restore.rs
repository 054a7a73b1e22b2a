//! W14, W15 and W19: what a restore asks of a writer around the files.

use std::collections::BTreeSet;

use crate::protocol::message::Call;
use crate::testkit::bench::Bench;
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::rules::Part;
use crate::testkit::talk::{OrElsewhere, Talk};
use crate::{OnlineState, Registration};

/// W14. One participant is asked all the time: the requester asks again right before it changes anything.
pub async fn online_state_tells_the_truth(bench: &mut Bench) -> Verdict {
    bench.application().await?;
    let mut talk = bench.restore(true).await?;
    let mut unknown = 0;
    for (nth, runs) in [true, false, true].into_iter().enumerate() {
        if nth > 0 {
            change(bench, runs).await?;
        }
        let state = talk.online_state().await.or_broken("OnlineState")?;
        bench.steps.did(format!("it says `{}`", name(&state)));
        let wrong = match state {
            OnlineState::Down => runs,
            OnlineState::Ready | OnlineState::Paused => !runs,
            OnlineState::Unknown => {
                unknown += 1;
                false
            }
        };
        if wrong {
            let is = match (runs, nth) {
                (true, 0) => "runs",
                (true, _) => "runs again",
                (false, _) => "was stopped",
            };
            return Err(Stop::Broken(format!(
                "the application {is}, and `OnlineState` said `{}`",
                name(&state)
            )));
        }
    }
    Ok((unknown > 0)
        .then(|| format!("it said `unknown` {unknown} of 3 times: the requester has to look by itself")))
}

async fn change(bench: &mut Bench, to_run: bool) -> Result<(), Stop> {
    if !to_run {
        return bench.stop().await;
    }
    if bench.start().await? {
        return Ok(());
    }
    Err(Stop::Fixture("the application does not come up again".into()))
}

const fn name(state: &OnlineState) -> &'static str {
    match state {
        OnlineState::Down => "down",
        OnlineState::Paused => "paused",
        OnlineState::Ready => "ready",
        OnlineState::Unknown => "unknown",
    }
}

/// W15.
pub async fn a_registration_is_honoured(bench: &mut Bench) -> Verdict {
    if !bench.app.registers() {
        let why = "the application has no registration of its own, as far as the fixture says";
        return Err(Stop::NotApplicable(why.into()));
    }
    let metadata = bench.metadata().await?;
    bench.stop().await?;
    let marker = bench.scratch.path().join("marker");
    std::fs::write(&marker, "a restore is registered\n")
        .map_err(|error| Stop::Fixture(format!("cannot write {}: {error}", marker.display())))?;
    let files = metadata.components.iter().flat_map(|component| &component.files);
    let map =
        files.map(|set| (set.path.clone(), set.path.clone())).collect::<BTreeSet<_>>().into_iter().collect();
    let registration = Registration { map, marker };

    let mut talk = bench.restore(true).await?;
    talk.done(Call::Register(registration)).await.or_broken("Register")?;
    stays_down(bench, "a restore was registered").await?;
    talk.done(Call::RegisterComplete {}).await.or_broken("RegisterComplete")?;
    stays_down(bench, "`RegisterComplete` was called, and `Unregister` was not").await?;
    talk.kill()?;
    talk.end().await?;
    drop(talk);
    stays_down(bench, "the writer's process was killed after it had registered the restore").await?;

    let mut talk: Talk = bench.restore(true).await?;
    talk.done(Call::Unregister {}).await.or_broken("Unregister")?;
    if bench.start().await? {
        return Ok(None);
    }
    Err(Stop::broken("`Unregister` was called, and the application still does not start"))
}

async fn stays_down(bench: &mut Bench, when: &str) -> Result<(), Stop> {
    if bench.start().await? {
        return Err(Stop::Broken(format!("{when}, and the application started")));
    }
    Ok(())
}

/// W19.
pub async fn steps_may_run_again(bench: &mut Bench) -> Verdict {
    bench.needs(Part::PostRestore).await?;
    bench.application().await?;
    let mut talk = bench.restore(true).await?;
    let steps = talk.post_restore_steps().await.or_see("W16", "PostRestoreSteps")?;
    let mut names = BTreeSet::new();
    if let Some(twice) = steps.iter().find(|step| !names.insert(step.name.clone())) {
        return Err(Stop::Broken(format!("`PostRestoreSteps` names `{}` twice", twice.name)));
    }
    for step in &steps {
        talk.run_step(step).await.or_broken("RunStep")?;
        talk.run_step(step).await.map_err(|error| {
            let why = crate::chain(&error);
            Stop::Broken(format!("the step `{}` was run, and run again it failed: {why}", step.name))
        })?;
    }
    // A crash between two steps: another process goes on with all of them.
    drop(talk);
    let mut talk = bench.restore(true).await?;
    for step in &steps {
        talk.run_step(step).await.map_err(|error| {
            let why = crate::chain(&error);
            Stop::Broken(format!(
                "the step `{}` was run again by another process, and failed: {why}",
                step.name
            ))
        })?;
    }
    Ok(Some(format!("{} steps were run three times each", steps.len())))
}

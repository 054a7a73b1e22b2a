//! W5 to W8: whatever ends the writer or its requester, the application is free again.

use std::time::{Duration, Instant};

use crate::BackupType;
use crate::protocol::message::{Call, Frozen};
use crate::testkit::bench::{Bench, SOON};
use crate::testkit::fixture::Poke;
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::rules::Part;

/// Promise P1.
const DROP_WITHIN: Duration = Duration::from_millis(100);
/// How often that is tried at least, and at most: a busy machine may be late now and then, a good writer not each time.
const ROUNDS: (usize, usize) = (3, 10);
/// For how long an application is watched for a hold that comes too late, at least and at most.
const WATCHED: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(3));

/// W5. A freeze is given up at several moments of the time that it takes.
pub async fn a_freeze_given_up_leaves_nothing_held(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Freeze).await?;
    bench.application().await?;
    let budget = bench.budget().await?;
    let took = {
        let mut talk = bench.ready(BackupType::Full).await?;
        let called = Instant::now();
        talk.freeze(budget)
            .await
            .map_err(|error| Stop::elsewhere("W3", crate::testkit::outcome::answered("Freeze", &error)))?;
        called.elapsed()
    };
    if !frees(bench, SOON).await? {
        return Err(Stop::elsewhere("W6", "a dropped participant did not release"));
    }
    // Twice as long as it takes, and then some: whoever takes it later, takes it by then.
    let watched = (took * 2 + WATCHED.0).min(WATCHED.1);
    for quarter in 0..4 {
        let after = took * quarter / 4;
        let mut talk = bench.ready(BackupType::Full).await?;
        let set = uuid::Uuid::new_v4();
        let freeze = Call::Freeze(crate::FreezeContext { set, budget });
        // At its end the future is dropped, whether it was answered or not.
        let _ = tokio::time::timeout(after, talk.ask::<Frozen>(&freeze, budget)).await;
        let after = after.as_millis();
        bench.steps.did(format!("gave a `Freeze` up after {after} ms"));
        talk.end().await?;
        if !frees(bench, SOON).await? {
            return Err(Stop::Broken(format!(
                "a `Freeze` was given up after {after} ms and the writer was ended; {} ms later the application was still held",
                SOON.as_millis()
            )));
        }
        let until = Instant::now() + watched;
        while Instant::now() < until {
            if !bench.is_free().await? {
                return Err(Stop::Broken(format!(
                    "a `Freeze` was given up after {after} ms and the writer was ended; the application was free, and then \
                     it was held after all"
                )));
            }
        }
    }
    Ok(Some(format!("a freeze took {} ms; it was given up at four moments of them", took.as_millis())))
}

/// W6.
pub async fn a_dropped_participant_releases(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Freeze).await?;
    let budget = bench.budget().await?;
    let mut fastest = Duration::MAX;
    let mut rounds = 0;
    while rounds < ROUNDS.0 || (fastest > DROP_WITHIN && rounds < ROUNDS.1) {
        rounds += 1;
        let (talk, _) = bench.held(budget).await?;
        fastest = fastest.min(talk.drop_it());
        if !bench.is_free().await? {
            return Err(Stop::broken(
                "the participant was dropped, and right after that the application was still held",
            ));
        }
    }
    if fastest > DROP_WITHIN {
        return Err(Stop::Broken(format!(
            "dropping the participant took {} ms at best, of {rounds} times; 100 ms are allowed",
            fastest.as_millis()
        )));
    }
    Ok(Some(format!("it took {} ms at best", fastest.as_millis())))
}

/// W7.
pub async fn death_releases(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Freeze).await?;
    let budget = bench.budget().await?;
    let (mut talk, called) = bench.held(budget).await?;
    let limit = before_the_deadline(called, budget);
    talk.kill()?;
    match bench.comes_free(limit).await? {
        Some((_, took)) => Ok(Some(format!("a write came through {} ms later", took.as_millis()))),
        None => Err(Stop::Broken(format!(
            "its process was killed (SIGKILL), and {} ms later the application was still held; the budget of the hold was {} ms",
            limit.as_millis(),
            budget.as_millis()
        ))),
    }
}

/// W8.
pub async fn a_closed_socket_releases(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Freeze).await?;
    let budget = bench.budget().await?;
    let (mut talk, called) = bench.held(budget).await?;
    let limit = before_the_deadline(called, budget);
    let until = Instant::now() + SOON;
    talk.hang_up();
    let Some((_, took)) = bench.comes_free(limit).await? else {
        return Err(Stop::Broken(format!(
            "its socket was closed, and {} ms later the application was still held; the budget of the hold was {} ms",
            limit.as_millis(),
            budget.as_millis()
        )));
    };
    while !talk.has_ended() {
        if Instant::now() >= until {
            return Err(Stop::Broken(format!(
                "its socket was closed and the application is free, but {} ms later its process still runs",
                SOON.as_millis()
            )));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(Some(format!("a write came through {} ms later", took.as_millis())))
}

/// Soon, and before the deadline would release as well.
fn before_the_deadline(called: Instant, budget: Duration) -> Duration {
    (called + budget * 3 / 4).saturating_duration_since(Instant::now()).min(SOON)
}

async fn frees(bench: &mut Bench, within: Duration) -> Result<bool, Stop> {
    match bench.poke(Duration::ZERO).await? {
        Poke::Written(_) => Ok(true),
        Poke::Held => Ok(bench.comes_free(within).await?.is_some()),
    }
}

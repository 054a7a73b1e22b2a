//! W3 and W9: a hold stands until it is thawed, and never longer than its budget.

use std::time::{Duration, Instant};

use crate::Thawed;
use crate::testkit::bench::Bench;
use crate::testkit::fixture::Poke;
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::rules::Part;

/// How long a hold is watched for writes that come through.
const WATCHED: Duration = Duration::from_millis(1000);
/// The budget whose end is waited for.
const SHORT: Duration = Duration::from_millis(600);
/// How much later than its budget a hold may end: timers are late on a busy machine, minutes are not.
const LATE: Duration = Duration::from_millis(1000);
/// After a deadline: nobody's timer is exact.
const TICK: Duration = Duration::from_millis(20);

/// W3. Watched through three quarters of the budget: the last one belongs to clocks that differ a little.
pub async fn held_means_held(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Freeze).await?;
    let budget = bench.budget().await?.min(WATCHED);
    let (_talk, called) = bench.held(budget).await?;
    let patience = bench.patience_within(budget);
    let mut writes = 1;
    while called.elapsed() + patience < budget * 3 / 4 {
        if let Poke::Written(id) = bench.poke(patience).await? {
            // Later than that the hold has rightly ended.
            if called.elapsed() < budget {
                return Err(Stop::Broken(format!(
                    "the application acknowledged the write `{id}` within {} ms of the call of `Freeze`, whose budget was {} ms; \
                     nobody had called `Thaw`",
                    called.elapsed().as_millis(),
                    budget.as_millis()
                )));
            }
            break;
        }
        writes += 1;
    }
    Ok(Some(format!("{writes} writes were tried under the hold")))
}

/// W9.
pub async fn the_holder_keeps_the_deadline(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Freeze).await?;
    let budget = bench.budget().await?.min(SHORT);
    let (mut talk, called) = bench.held(budget).await?;
    let limit = (called + budget + LATE).saturating_duration_since(Instant::now());
    if bench.comes_free(limit).await?.is_none() {
        return Err(Stop::Broken(format!(
            "the application was still held {} ms after the call of `Freeze`, whose budget was {} ms",
            called.elapsed().as_millis(),
            budget.as_millis()
        )));
    }
    let ended_after = called.elapsed();
    // One that ended early is the matter of W3; the thaw has to be late.
    tokio::time::sleep_until((called + budget + TICK).into()).await;
    match talk.thaw().await {
        Err(_) => Ok(Some(format!(
            "a budget of {} ms ended after {} ms",
            budget.as_millis(),
            ended_after.as_millis()
        ))),
        Ok(thawed) => {
            let said = match thawed {
                Thawed::Released => "released",
                Thawed::WasNotHeld => "was_not_held",
            };
            Err(Stop::Broken(format!(
                "the hold had ended by itself, and the `Thaw` after that said `{said}`: the requester would take a torn copy \
                 for a good one"
            )))
        }
    }
}

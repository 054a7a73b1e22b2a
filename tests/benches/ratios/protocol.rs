//! What it costs that a writer is a program of its own: one call and its answer, and the share of the freeze window.

use std::{fmt::Write as _, time::Instant};

use holdfast::session::member::Member;
use holdfast_writer_api::testing::{Fault, SLOW_FREEZE};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{
    barrier::barrier_ms,
    error::BenchError,
    no_op,
    stats::{Samples, verdict},
};

/// Each round of a window starts its processes anew.
const WINDOWS: usize = 15;
/// Calls of each process.
const CALLS: usize = 50;

pub fn run() -> Result<String, BenchError> {
    let runtime = Runtime::new().map_err(BenchError::io("start a runtime"))?;
    let slow_ms = SLOW_FREEZE.as_secs_f64() * 1e3;
    let mut text = format!(
        "## Writers in processes of their own\n\n\
         Spoken to in the plugin protocol, as real writers are, with nothing to cut. *Round trip*: one call that has \
         nothing to do, and its answer, while the other processes wait. *Window*: from the first freeze to the return of \
         the last thaw, two calls for each process, all freezes at once; with writers that hold nothing, all of it is the \
         protocol's. *Slow window*: the same with freezes that take {slow_ms:.0} ms each, which one after another would take \
         that long for each process. What it takes longer than with as many such writers in the requester's own process \
         is the protocol's share. Goal: ≤ 1 ms each, of round trips and, per process, of windows.\n\n\
         | processes | round trip µs | | window ms | µs a process | | slow window ms | in process ms | protocol's share | |\n\
         |---|---|---|---|---|---|---|---|---|---|\n"
    );
    for count in [1, 10, 100] {
        let trip = runtime.block_on(round_trips(count))?;
        let child = |settings: Value| move |id| no_op::in_child(id, settings.clone());
        let window = windows(&runtime, count, child(no_op::plain()))?;
        let slow = windows(&runtime, count, child(no_op::slow()))?;
        let alone = windows(&runtime, count, |id| no_op::in_process(id, Fault::FreezeSlow))?;
        let share = (slow.median() - alone.median()).max(0.0);
        let each = window.median() / f64::from(count);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {count} | {trip:.0} | {} | {window:.2} | {:.0} | {} | {slow:.1} | {alone:.1} | {share:.1} ms, {:.0} % | {} |",
            verdict(trip.median() <= 1e3),
            each * 1e3,
            verdict(each <= 1.0),
            share / slow.median() * 100.0,
            verdict(share <= f64::from(count)),
        );
    }
    Ok(text)
}

async fn round_trips(count: u32) -> Result<Samples, BenchError> {
    let mut participants = Vec::new();
    for number in 0..count {
        participants.push(no_op::participant(&format!("w{number}"), no_op::plain()).await?);
    }
    let mut took = Samples::default();
    // The first round warms up.
    for round in 0..=CALLS {
        for participant in &mut participants {
            let begun = Instant::now();
            // Nothing is held, and nothing is released: the shortest call there is.
            participant.thaw().await?;
            if round > 0 {
                took.push(begun.elapsed().as_secs_f64() * 1e6);
            }
        }
    }
    Ok(took)
}

fn windows<M: Future<Output = Result<Member, BenchError>>>(
    runtime: &Runtime,
    count: u32,
    member: impl Fn(String) -> M,
) -> Result<Samples, BenchError> {
    let mut took = Samples::default();
    for round in 0..=WINDOWS {
        let ms = runtime.block_on(async {
            let mut members = Vec::new();
            for number in 0..count {
                members.push(member(format!("w{number}")).await?);
            }
            barrier_ms(members).await
        })?;
        if round > 0 {
            took.push(ms);
        }
    }
    Ok(took)
}

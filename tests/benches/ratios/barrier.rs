//! What the barrier itself costs: freeze and thaw of writers that hold nothing, with nothing cut.

use std::{convert::Infallible, fmt::Write as _, time::Instant};

use holdfast::session::{barrier, events::EventLog, member::Member};
use holdfast_writer_api::chain;
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::{
    error::BenchError,
    no_op,
    stats::{Samples, verdict},
};

const ROUNDS: usize = 31;
/// Each round starts that many processes anew.
const ROUNDS_OF_CHILDREN: usize = 15;

pub fn run() -> Result<String, BenchError> {
    let runtime = Runtime::new().map_err(BenchError::io("start a runtime"))?;
    let mut text = String::from(
        "## The barrier\n\n\
         From the first freeze to the return of the last thaw, with writers that hold nothing and nothing to cut: in the \
         requester's own process, and each in a process of its own, spoken to in the plugin protocol, as real writers \
         are. Goal: ≤ 1 ms a writer.\n\n\
         | writers | where | rounds | barrier ms | µs a writer | |\n|---|---|---|---|---|---|\n",
    );
    for (count, children) in
        [(1, false), (10, false), (100, false), (1000, false), (1, true), (10, true), (100, true)]
    {
        let rounds = if children { ROUNDS_OF_CHILDREN } else { ROUNDS };
        let mut took = Samples::default();
        // The first round warms up.
        for round in 0..=rounds {
            let ms = runtime.block_on(once(count, children))?;
            if round > 0 {
                took.push(ms);
            }
        }
        let each = took.median() / count as f64;
        let place = if children { "child processes" } else { "in process" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {count} | {place} | {} | {took:.3} | {:.1} | {} |",
            took.len(),
            each * 1e3,
            verdict(each <= 1.0),
        );
    }
    Ok(text)
}

async fn once(count: usize, children: bool) -> Result<f64, BenchError> {
    let mut members: Vec<Member> = Vec::with_capacity(count);
    for number in 0..count {
        let id = format!("w{number}");
        members.push(if children { no_op::in_child(id).await? } else { no_op::in_process(id).await? });
    }
    let mut log = EventLog::in_memory();
    let begun = Instant::now();
    let cut = barrier::cut(&mut members, Uuid::nil(), &mut log, async |_| Ok::<_, Infallible>(())).await;
    let took = begun.elapsed();
    cut.map_err(|aborted| BenchError::Barrier { cause: chain(&aborted) })?;
    Ok(took.as_secs_f64() * 1e3)
}

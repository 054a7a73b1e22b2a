//! What the barrier itself costs: freeze and thaw of writers that hold nothing, with nothing cut. What it costs with
//! writers in processes of their own is told in `protocol`.

use std::{convert::Infallible, fmt::Write as _, time::Instant};

use holdfast::session::{barrier, events::EventLog, member::Member};
use holdfast_writer_api::{chain, testing::Fault};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::{
    error::BenchError,
    no_op,
    stats::{Samples, verdict},
};

const ROUNDS: usize = 31;

pub fn run() -> Result<String, BenchError> {
    let runtime = Runtime::new().map_err(BenchError::io("start a runtime"))?;
    let mut text = String::from(
        "## The barrier\n\n\
         From the first freeze to the return of the last thaw, with writers in the requester's own process that hold \
         nothing, and nothing to cut. Goal: ≤ 1 ms a writer.\n\n\
         | writers | rounds | barrier ms | µs a writer | |\n|---|---|---|---|---|\n",
    );
    for count in [1, 10, 100, 1000] {
        let mut took = Samples::default();
        // The first round warms up.
        for round in 0..=ROUNDS {
            let ms = runtime.block_on(once(count))?;
            if round > 0 {
                took.push(ms);
            }
        }
        let each = took.median() / f64::from(count);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {count} | {} | {took:.3} | {:.1} | {} |",
            took.len(),
            each * 1e3,
            verdict(each <= 1.0),
        );
    }
    Ok(text)
}

async fn once(count: u32) -> Result<f64, BenchError> {
    let mut members = Vec::new();
    for number in 0..count {
        members.push(no_op::in_process(format!("w{number}"), Fault::None).await?);
    }
    barrier_ms(members).await
}

/// Freezes and thaws `members`, which are ready for it.
pub async fn barrier_ms(mut members: Vec<Member>) -> Result<f64, BenchError> {
    let mut log = EventLog::in_memory();
    let begun = Instant::now();
    let cut = barrier::cut(&mut members, Uuid::nil(), &mut log, async |_| Ok::<_, Infallible>(())).await;
    let took = begun.elapsed();
    cut.map_err(|aborted| BenchError::Barrier { cause: chain(&aborted) })?;
    Ok(took.as_secs_f64() * 1e3)
}

//! Runs checks: each on an application of its own, under a deadline, and with an end whatever happens.

use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::bench::{Bench, Limits};
use super::fixture::{Fixture, FixtureError};
use super::outcome::{Outcome, Stop};
use super::report::Checked;
use super::rules::Rule;
use super::steps::Steps;
use crate::protocol::{Launcher, Said};
use crate::{WriterMetadata, chain};

/// How many lines of the writer's standard error a failure shows.
const SAID: usize = 10;
/// How long a check that was cut off may take to give its application up.
const CLEARING: Duration = Duration::from_secs(30);

/// Starts applications.
#[async_trait]
pub trait Fixtures: Send + Sync {
    /// A new one, running, with some data.
    ///
    /// # Errors
    /// [`FixtureError`].
    async fn start(&self) -> Result<Box<dyn Fixture>, FixtureError>;
}

/// Runs one rule on an application of its own.
pub async fn check(rule: &'static Rule, fixtures: &dyn Fixtures, limits: Limits) -> Checked {
    check_with(rule, fixtures, None, limits).await
}

/// The same, with the process that serves writers linked into this test.
pub(super) async fn check_with(
    rule: &'static Rule,
    fixtures: &dyn Fixtures,
    host: Option<&Launcher>,
    limits: Limits,
) -> Checked {
    let (steps, began) = (Steps::begin(), Instant::now());
    let started = prepared(fixtures, host, &steps, limits).await;
    let (outcome, said, metadata) = match started {
        Err(stop) => (stop.outcome(rule.id), Said::default(), None),
        Ok(bench) => {
            let said = bench.writer.said().clone();
            let (outcome, metadata) = cut_off(rule, bench, limits).await;
            (outcome, said, metadata)
        }
    };
    let said = if outcome.is_bad() { said.last(SAID) } else { Vec::new() };
    let steps = if outcome.is_bad() { steps.all() } else { Vec::new() };
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Checked::new(rule, outcome, took_ms, steps, said, metadata)
}

async fn prepared(
    fixtures: &dyn Fixtures,
    host: Option<&Launcher>,
    steps: &Steps,
    limits: Limits,
) -> Result<Bench, Stop> {
    let started = tokio::time::timeout(limits.fixture, fixtures.start()).await;
    let app = started.map_err(|_| {
        Stop::Fixture(format!("it did not start its application within {} ms", limits.fixture.as_millis()))
    })??;
    steps.did("started the sample application");
    let scratch = tempfile::Builder::new().prefix("holdfast-kit-").tempdir();
    let scratch = scratch.map_err(|error| Stop::Fixture(format!("there is no place for copies: {error}")))?;
    let writer = app.writer().remote(host)?;
    Ok(Bench::new(app, writer, scratch, steps.clone(), limits))
}

/// In a task of its own, so that a panic ends the check and nothing else. Whichever way it ends, the conversations are
/// dropped first, which ends the writer's processes, and then the application.
async fn cut_off(rule: &'static Rule, mut bench: Bench, limits: Limits) -> (Outcome, Option<WriterMetadata>) {
    let mut task = tokio::spawn(async move {
        let verdict = (rule.run)(&mut bench).await;
        // Asked for already, or of no interest.
        let metadata = bench.known_metadata();
        (verdict, metadata)
    });
    let ended = match tokio::time::timeout(limits.check, &mut task).await {
        Ok(ended) => ended,
        Err(_) => {
            task.abort();
            let _ = tokio::time::timeout(CLEARING, task).await;
            let why = format!(
                "the check did not end within {} ms; its last step is the one that hangs",
                limits.check.as_millis()
            );
            return (Outcome::Failed { saw: why }, None);
        }
    };
    match ended {
        Ok((Ok(note), metadata)) => (Outcome::Ok { note }, metadata),
        Ok((Err(stop), metadata)) => (stop.outcome(rule.id), metadata),
        Err(error) => {
            (Outcome::Blocked { why: format!("the fixture panicked: {}", chain(&error)), see: None }, None)
        }
    }
}

//! Runs checks: each on an application of its own, under a deadline, and with an end whatever happens.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::time::Instant;

use async_trait::async_trait;
use futures_util::FutureExt;

use super::bench::{Bench, Limits};
use super::fixture::{Fixture, FixtureError};
use super::outcome::{Outcome, Stop};
use super::report::Checked;
use super::rules::Rule;
use super::steps::Steps;
use crate::WriterMetadata;
use crate::protocol::{Launcher, Said};

/// How many lines of the writer's standard error a failure shows.
const SAID: usize = 10;

/// Starts applications.
#[async_trait]
pub trait Fixtures: Send + Sync {
    /// A new one, running, with some data.
    ///
    /// # Errors
    /// [`FixtureError`].
    async fn start(&self) -> Result<Box<dyn Fixture>, FixtureError>;
}

/// Runs one rule on an application of its own. Dropping the future ends the writer's processes and the application.
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

/// Whichever way it ends, the conversations are dropped first, which ends the writer's processes, and then the application.
async fn cut_off(rule: &'static Rule, mut bench: Bench, limits: Limits) -> (Outcome, Option<WriterMetadata>) {
    let checking = AssertUnwindSafe(async move {
        let verdict = (rule.run)(&mut bench).await;
        (verdict, bench.known_metadata())
    });
    match tokio::time::timeout(limits.check, checking.catch_unwind()).await {
        Ok(Ok((Ok(note), metadata))) => (Outcome::Ok { note }, metadata),
        Ok(Ok((Err(stop), metadata))) => (stop.outcome(rule.id), metadata),
        Ok(Err(panic)) => (Stop::Fixture(format!("it panicked: {}", text(&*panic))).outcome(rule.id), None),
        Err(_) => {
            let limit = limits.check.as_millis();
            let saw =
                format!("the check did not end within {limit} ms; what comes after its last step hangs");
            (Outcome::Failed { saw }, None)
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no message")
}

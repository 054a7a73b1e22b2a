//! Whatever hangs, the kit goes on: the rule fails with a reason, the writer's processes end, the application is free.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast_writer_api::testkit::{
    Fixture, FixtureError, Fixtures, Limits, Outcome, Poke, Subject, check, rule,
};
use rustix::fs::{FlockOperation, flock};
use tempfile::NamedTempFile;

use super::ledger::defect::Defect;
use super::{Broken, report};

fn short() -> Limits {
    Limits { call: Duration::from_millis(400), ..Limits::default() }
}

/// Whether nobody is left who was given the witness.
fn is_alone(witness: &Path) -> bool {
    flock(File::open(witness).unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_hangs_blocks_panics_or_dies_fails_with_a_reason_and_is_ended() {
    for (defect, reason) in [
        (Defect::IdentifyHangs, "`test` did not answer `Identify` within 400 ms"),
        (Defect::IdentifyBlocks, "`test` did not answer `Identify` within 400 ms"),
        (Defect::IdentifyPanics, "it panicked: as planted"),
        (Defect::IdentifyDies, "exit status 3"),
    ] {
        let witness = NamedTempFile::new().unwrap();
        let ledgers = Broken { defect: Some(defect), witness: Some(witness.path().to_owned()) };
        let rules = ["W1", "W3", "W11"].map(|name| rule(name).unwrap());
        let report = report(rules, &ledgers, short()).await;
        let [first, others @ ..] = &report.rules[..] else { panic!() };
        assert!(
            matches!(&first.outcome, Outcome::Failed { saw } if saw.contains(reason)),
            "{defect:?}: {:?}",
            first.outcome
        );
        for other in others {
            assert!(
                matches!(&other.outcome, Outcome::Blocked { see: Some(see), why } if see == "W1" && why.contains(reason)),
                "{defect:?}: {:?}",
                other.outcome
            );
        }
        assert!(is_alone(witness.path()), "{defect:?}: a process of the writer lives on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_does_not_end_is_cut_off_and_leaves_nothing_held() {
    let witness = NamedTempFile::new().unwrap();
    let ledgers = Broken { defect: None, witness: Some(witness.path().to_owned()) };
    let limits = Limits { check: Duration::from_millis(500), ..Limits::default() };
    let began = Instant::now();
    let checked = check(rule("W3").unwrap(), &ledgers, limits).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(
        matches!(&checked.outcome, Outcome::Failed { saw } if saw.contains("did not end within 500 ms")),
        "{:?}",
        checked.outcome
    );
    assert!(is_alone(witness.path()), "a process of the writer lives on");
}

/// A fixture that is itself no better than the writers it is for.
struct Bad(Box<dyn Fixture>, &'static str);

pub struct BadOnes(pub &'static str);

#[async_trait]
impl Fixtures for BadOnes {
    async fn start(&self) -> Result<Box<dyn Fixture>, FixtureError> {
        if self.0 == "start" {
            return Err(FixtureError::because("start the ledger", "the disk is full"));
        }
        Ok(Box::new(Bad(Broken::default().start().await?, self.0)))
    }
}

#[async_trait]
impl Fixture for Bad {
    fn writer(&self) -> Subject {
        self.0.writer()
    }
    async fn poke(&mut self, patience: Duration) -> Result<Poke, FixtureError> {
        match self.1 {
            "hang" => std::future::pending().await,
            "panic" => panic!("the application is gone"),
            "refuse" => Ok(Poke::Held),
            _ => self.0.poke(patience).await,
        }
    }
    async fn contents(&mut self) -> Result<Vec<String>, FixtureError> {
        self.0.contents().await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fixture_that_fails_is_not_taken_for_a_broken_writer() {
    let limits = Limits { fixture: Duration::from_millis(300), ..Limits::default() };
    for (fault, reason) in [
        ("start", "cannot start the ledger: the disk is full"),
        ("hang", "a write did not return within"),
        ("panic", "the fixture failed: it panicked: the application is gone"),
        ("refuse", "though nothing holds it"),
    ] {
        let checked = check(rule("W3").unwrap(), &BadOnes(fault), limits).await;
        assert!(
            matches!(&checked.outcome, Outcome::Blocked { why, see: None } if why.contains(reason)),
            "{fault}: {:?}",
            checked.outcome
        );
    }
    // What it merely cannot do is not checked, and no failure.
    let checked = check(rule("W11").unwrap(), &BadOnes("nothing"), limits).await;
    assert!(
        matches!(&checked.outcome, Outcome::NotChecked { why } if why.contains("cannot stop its application")),
        "{:?}",
        checked.outcome
    );
}

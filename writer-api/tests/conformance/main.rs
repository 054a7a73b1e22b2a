//! The kit itself: a good writer passes every rule, and each mistake breaks exactly its own.

mod cut_off;
mod ledger;
mod told;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use holdfast_writer_api::protocol::Launcher;
use holdfast_writer_api::testkit::{
    Checked, Fixture, FixtureError, Fixtures, Limits, Outcome, RULES, Report, Rule, Subject, check,
};
use ledger::app::Ledger;
use ledger::defect::{Defect, PLANTED, Planted};
use ledger::relay::relayed;
use ledger::writer::LEDGER;
use serde_json::json;
use tokio::sync::Semaphore;

mod healthy {
    //! What every writer's crate has: one line, and a test a rule.

    use super::*;

    async fn start() -> Result<Ledger, FixtureError> {
        Ok(Ledger::new(|dir| Subject::linked(&LEDGER, json!({"dir": dir}))))
    }

    holdfast_writer_api::conformance!(start);
}

/// Not a test: the process of the writers whose server is wrong.
#[test]
#[ignore = "the child process of the other tests"]
fn relayed_writer_process() {
    ledger::relay::serve_relayed();
}

/// Ledgers whose writer has a defect, in processes of this test executable.
#[derive(Clone, Default)]
struct Broken {
    defect: Option<Defect>,
    witness: Option<PathBuf>,
}

#[async_trait]
impl Fixtures for Broken {
    async fn start(&self) -> Result<Box<dyn Fixture>, FixtureError> {
        let process = if relayed(self.defect) { "relayed_writer_process" } else { "healthy::writer_process" };
        let arguments = [process, "--exact", "--ignored", "--nocapture", "writer:ledger"];
        let launcher = Launcher::new(std::env::current_exe().unwrap(), arguments);
        let witness = self.witness.clone();
        let defect = self.defect.map(|defect| format!("{defect:?}"));
        Ok(Box::new(Ledger::new(|dir| {
            Subject::program(launcher, LEDGER.name, json!({"dir": dir, "defect": defect, "witness": witness}))
        })))
    }
}

async fn report(
    rules: impl IntoIterator<Item = &'static Rule>,
    ledgers: &dyn Fixtures,
    limits: Limits,
) -> Report {
    let mut checked = Vec::new();
    for rule in rules {
        checked.push(check(rule, ledgers, limits).await);
    }
    Report::new("the ledger", checked)
}

/// How the report of a broken writer differs from what it has to be.
fn differences(planted: &Planted, report: &Report) -> Vec<String> {
    let mut wrong = Vec::new();
    for Checked { rule, outcome, .. } in &report.rules {
        let expected = match (rule == planted.fails, planted.blocks.contains(&rule.as_str())) {
            (true, _) => matches!(outcome, Outcome::Failed { saw } if saw.contains(planted.since)),
            (_, true) => matches!(outcome, Outcome::Blocked { see: Some(see), .. } if see == planted.fails),
            (false, false) => matches!(outcome, Outcome::Ok { .. } | Outcome::NotApplicable { .. }),
        };
        if !expected {
            wrong.push(format!("{:?}: {rule} came to {outcome:?}", planted.defect));
        }
    }
    wrong
}

/// Goal: a rule that is broken fails, and no other does.
/// Method: every planted defect under all rules, some at a time; they mostly wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn every_planted_defect_breaks_exactly_its_rule() {
    let few = Arc::new(Semaphore::new(8));
    let mut running = tokio::task::JoinSet::new();
    for planted in PLANTED {
        let few = Arc::clone(&few);
        running.spawn(async move {
            let _turn = few.acquire().await.unwrap();
            let ledgers = Broken { defect: Some(planted.defect), witness: None };
            differences(planted, &report(&RULES, &ledgers, Limits::default()).await)
        });
    }
    let wrong: Vec<String> = running.join_all().await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_rule_has_a_defect_that_breaks_it_and_nothing_else() {
    let mut alone: BTreeMap<&str, usize> = RULES.iter().map(|rule| (rule.id, 0)).collect();
    for planted in PLANTED.iter().filter(|planted| planted.blocks.is_empty()) {
        *alone.get_mut(planted.fails).unwrap() += 1;
    }
    assert!(alone.values().all(|count| *count > 0), "{alone:?}");
}

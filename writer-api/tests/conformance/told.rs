//! What an author reads.

use holdfast_writer_api::testkit::{Limits, RULES, Report, check, rule};

use super::cut_off::BadOnes;
use super::ledger::defect::Defect;
use super::{Broken, report};

/// Times, and how often something was done in them, differ from run to run.
fn redacted(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, digits) = rest.split_at(at);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let (number, after) = digits.split_at(end);
        let time = after.starts_with(" ms") || before.ends_with("_ms\": ");
        let times = before.ends_with('×') || after.starts_with(" writes were tried");
        let written = before.ends_with("`e");
        out.push_str(before);
        if time || times || written {
            // A column of numbers keeps its right edge.
            let padding = if before.ends_with("  ") { number.len() - 1 } else { 0 };
            out.push_str(&" ".repeat(padding));
            out.push('N');
        } else {
            out.push_str(number);
        }
        rest = after;
    }
    out + rest
}

async fn broken(defect: Defect, rules: &[&str]) -> Report {
    let ledgers = Broken { defect: Some(defect), witness: None };
    report(rules.iter().map(|name| rule(name).unwrap()), &ledgers, Limits::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_says_what_was_done_what_was_seen_and_what_is_demanded() {
    let report = broken(Defect::EarlyThawFails, &["W4", "W9"]).await;
    assert!(report.is_bad());
    insta::assert_snapshot!(redacted(&report.text()), @r"
    W4   FAILED         thaw_works_from_any_state_any_number_of_times
         saw:    after BeginBackup, the first `Thaw` was answered with: `test` refused: thaw was called before freeze
         rule:   A writer MUST accept `Thaw` in any state and any number of times, release within N ms, and say
                 truthfully whether anything was held.
         more:   docs/writer-rules.md#w4
         did:          N ms  started the sample application
                       N ms  a write past the writer: acknowledged as `eN`
                       N ms  a write past the writer: acknowledged as `eN`
                       N ms  a write past the writer: acknowledged as `eN`
                       N ms  started the writer, and said `Hello`
                       N ms  Identify: answered
                       N ms  started the writer, and said `Hello`
                       N ms  BeginBackup (full, 3 components): answered
                       N ms  Thaw: `test` refused: thaw was called before freeze
    W9   ok             the_holder_keeps_the_deadline_and_a_late_thaw_says_so: a budget of N ms ended after N ms
    2 rules: 1 ok, 1 FAILED
    NOT CHECKED: the capability `stream` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `logs` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `keys` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `recover` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `post_restore` is declared, and no rule has shown that it is had
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_checked_says_why() {
    let mut rules = broken(Defect::DoesNotHearTheEnd, &["W18"]).await.rules;
    rules.extend(broken(Defect::AbortNeedsAHold, &["W13"]).await.rules);
    rules.push(check(rule("W14").unwrap(), &BadOnes("nothing"), Limits::default()).await);
    for checked in &mut rules {
        checked.did.clear();
    }
    let report = Report::new("some ledgers", rules);
    assert!(report.is_bad());
    insta::assert_snapshot!(redacted(&report.text()), @r"
    W18  not applicable streams_are_whole_and_a_wrong_count_is_refused: the capability `stream` is not declared
    W13  BLOCKED        logs_are_truncated_last_and_exactly
         why:    `Abort` was answered with: `test` refused: there is nothing to give up (that is the matter of W10)
         more:   docs/writer-rules.md#w13
    W14  NOT CHECKED    online_state_tells_the_truth: the fixture cannot stop its application
    3 rules: 0 ok, 1 BLOCKED, 1 NOT CHECKED, 1 not applicable
    NOT CHECKED: the capability `freeze` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `logs` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `keys` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `recover` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `post_restore` is declared, and no rule has shown that it is had
    ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_reads_the_same() {
    let report = broken(Defect::NamesAComponentTwice, &["W2", "W14"]).await;
    let json = serde_json::to_string_pretty(&report).unwrap();
    insta::assert_snapshot!(redacted(&json), @r#"
    {
      "schema": "holdfast.writer-test/1",
      "tested": "the ledger",
      "writer": {
        "writer_type": "ledger",
        "name": "ledger",
        "version": "1",
        "capabilities": [
          "freeze",
          "stream",
          "logs",
          "keys",
          "recover",
          "post_restore"
        ]
      },
      "rules": [
        {
          "rule": "W2",
          "check": "metadata_keep_the_rules_and_name_what_is_there",
          "level": "freeze",
          "outcome": "failed",
          "saw": "metadata: component `logs` is declared twice",
          "took_ms": N,
          "must": "A writer's metadata MUST keep the rules of the contract, and every file that they name and do not call optional MUST be there.",
          "more": "docs/writer-rules.md#w2",
          "did": [
            {
              "at_ms": N,
              "text": "started the sample application"
            },
            {
              "at_ms": N,
              "text": "started the writer, and said `Hello`"
            },
            {
              "at_ms": N,
              "text": "Identify: answered"
            }
          ]
        },
        {
          "rule": "W14",
          "check": "online_state_tells_the_truth",
          "level": "restore",
          "outcome": "ok",
          "took_ms": N,
          "must": "A writer MUST NOT say of a running application that it is down, nor of one that is down that it runs, however often it is asked.",
          "more": "docs/writer-rules.md#w14"
        }
      ],
      "unchecked": [
        "freeze",
        "stream",
        "logs",
        "keys",
        "recover",
        "post_restore"
      ],
      "ok": 1,
      "failed": 1,
      "blocked": 0,
      "not_checked": 0,
      "not_applicable": 0
    }
    "#);
    let read: Report = serde_json::from_str(&json).unwrap();
    assert_eq!(read.text(), report.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_declared_capability_that_no_rule_has_shown_is_named() {
    let few =
        report(["W2", "W3"].map(|name| rule(name).unwrap()), &Broken::default(), Limits::default()).await;
    assert!(!few.is_bad());
    insta::assert_snapshot!(few.summary(), @r"
    2 rules: 2 ok
    NOT CHECKED: the capability `stream` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `logs` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `keys` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `recover` is declared, and no rule has shown that it is had
    NOT CHECKED: the capability `post_restore` is declared, and no rule has shown that it is had
    ");
    let all = report(&RULES, &Broken::default(), Limits::default()).await;
    assert_eq!(all.summary(), "19 rules: 19 ok\n");
}

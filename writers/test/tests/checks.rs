//! The program as a judge: requesters that do wrong on a real socket are found out, and told of so that a person
//! understands it.

mod common;

use std::io::Write;
use std::time::Duration;

use common::{SET, Site, Spoken, rules, text};
use serde_json::json;

#[test]
fn nonsense_haste_and_strange_methods_of_a_requester_are_found() {
    let site = Site::new("[[on]]\nphase = \"identify\"\ndo = \"delay\"\nms = 100\n");
    let mut hasty = Spoken::greeted(&site);
    hasty.send("Identify", json!({}));
    hasty.send("Identify", json!({}));
    for _ in 0..2 {
        hasty.back(Duration::from_secs(10));
    }
    hasty.close();
    assert_eq!(rules(&site.check().1), ["R2"]);

    let site = Site::new("");
    let mut strange = Spoken::greeted(&site);
    assert!(strange.answer("Explode", json!({})).error.is_some());
    assert!(strange.answer("Freeze", json!({"budget_ms": 5})).error.is_some());
    strange.socket.write_all(b"{]\0").unwrap();
    assert_eq!(strange.close().0, Some(1));
    let (code, printed) = site.check();
    assert_eq!((code, rules(&printed)), (Some(7), vec!["R1"; 3]), "{printed}");
    assert!(printed.contains("`Explode` was refused with org.varlink.service.MethodNotFound"), "{printed}");
    assert!(printed.contains("MUST be whole"), "{printed}");
}

#[test]
fn a_requester_that_goes_on_after_a_failure_is_found() {
    let site = Site::new("[[on]]\nphase = \"prepare-backup\"\ndo = \"fail\"\n");
    let mut spoken = Spoken::greeted(&site);
    spoken.done("Identify", json!({}));
    spoken.close();
    let mut spoken = Spoken::begun(&site);
    let phase = json!({"set": SET, "budget_ms": 5000});
    assert!(spoken.answer("PrepareBackup", phase.clone()).error.is_some());
    spoken.done("PrepareSnapshot", phase);
    spoken.close();
    let (code, printed) = site.check();
    assert_eq!((code, rules(&printed)), (Some(7), vec!["R7", "R9"]), "{printed}");
}

#[test]
fn what_a_look_finds_missing_is_a_violation() {
    let look =
        "[[look]]\nphase = \"prepare-backup\"\ncommand = [\"sh\", \"-c\", \"echo no set {set}; exit 4\"]\n";
    let site = Site::new(look);
    let mut spoken = Spoken::greeted(&site);
    spoken.done("Identify", json!({}));
    spoken.close();
    let mut spoken = Spoken::begun(&site);
    spoken.done("PrepareBackup", json!({"set": SET, "budget_ms": 5000}));
    spoken.done("Abort", json!({}));
    spoken.close();
    let (code, printed) = site.check();
    assert_eq!((code, rules(&printed)), (Some(7), vec!["R20"]), "{printed}");
    assert!(printed.contains(&format!("no set {SET}")), "{printed}");
}

#[test]
fn check_answers_programs_too_and_a_journal_that_is_none_is_no_success() {
    let site = Site::new("");
    let mut spoken = Spoken::greeted(&site);
    spoken.done("Identify", json!({}));
    spoken.close();
    let journal = site.path("journal");
    let answer = site.run(&["check", "--json", text(&journal)]);
    let document: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
    assert_eq!(document["schema"], "holdfast.requester-check/1");
    assert_eq!((answer.status.code(), document["violations"].as_array().map(Vec::len)), (Some(0), Some(0)));

    assert_eq!(site.run(&["check", "/nonexistent"]).status.code(), Some(1));
    std::fs::write(&journal, "no journal\n").unwrap();
    let answer = site.run(&["check", text(&journal)]);
    assert_eq!(answer.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&answer.stderr).contains("line 1 of"), "{answer:?}");
}

#[test]
fn a_script_can_be_tried_before_it_is_used() {
    let site = Site::new("");
    assert_eq!(site.run(&["script", text(&site.path("script.toml"))]).status.code(), Some(0));
    site.script("[[on]]\nphase = \"freez\"\ndo = \"hang\"\n");
    let answer = site.run(&["script", text(&site.path("script.toml"))]);
    assert_eq!(answer.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&answer.stderr).contains("there is no phase `freez`"), "{answer:?}");
    assert_eq!(site.run(&["explode"]).status.code(), Some(2));
}

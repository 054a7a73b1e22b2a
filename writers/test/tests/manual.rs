//! `docs/test-writer.md` says what the program does: its rules, its words and its keys are all there.

use holdfast_writer_test::rules::RULES;
use holdfast_writer_test::script::ACTIONS;

const MANUAL: &str = include_str!("../../../docs/test-writer.md");

#[test]
fn every_rule_is_in_the_manual_word_by_word() {
    for rule in RULES {
        let line = format!("| R{} | {} |", rule.number, rule.must);
        assert!(MANUAL.lines().any(|known| known == line), "not in docs/test-writer.md: {line}");
    }
    assert_eq!(MANUAL.lines().filter(|line| line.starts_with("| R")).count(), RULES.len());
}

#[test]
fn every_action_is_in_the_manual() {
    for action in ACTIONS {
        let begins = format!("| `{action}` | ");
        assert!(MANUAL.lines().any(|line| line.starts_with(&begins)), "not in docs/test-writer.md: {action}");
    }
}

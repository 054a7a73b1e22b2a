//! Planted wrong journals, one or more for each rule: each must be found, and as exactly its rule.

mod allowed;
mod book;
mod planted;

use std::collections::BTreeSet;

use book::Book;

use super::{RULES, check};
use crate::journal::Process;

fn rules(book: &Book, alive: &[u32]) -> BTreeSet<u8> {
    let is_alive = |process: Process| alive.contains(&process.pid);
    check(&book.lines, is_alive).into_iter().map(|violation| violation.rule).collect()
}

#[test]
fn a_backup_and_a_restore_in_which_all_is_right_break_no_rule() {
    let found = check(&Book::right().lines, |_| false);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn rules_are_numbered_from_one_without_a_gap() {
    let numbers: Vec<_> = RULES.iter().map(|rule| usize::from(rule.number)).collect();
    assert_eq!(numbers, (1..=RULES.len()).collect::<Vec<_>>());
    assert!(RULES.iter().all(|rule| rule.must.contains("MUST") && rule.must.ends_with('.')));
}

#[test]
fn every_planted_journal_is_found_as_exactly_its_rule() {
    let planted = planted::all();
    let mut wrong = Vec::new();
    for (number, what, spoil) in &planted {
        let (mut book, mut alive) = (Book::right(), Vec::new());
        spoil(&mut book, &mut alive);
        let found = rules(&book, &alive);
        if found != BTreeSet::from([*number]) {
            wrong.push(format!("R{number}, {what}: found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let covered: BTreeSet<_> = planted.iter().map(|(number, ..)| *number).collect();
    let all: BTreeSet<_> = RULES.iter().map(|rule| rule.number).collect();
    assert_eq!(covered, all, "each rule has a journal that breaks it");
}

#[test]
fn what_a_requester_may_do_is_no_violation() {
    let mut wrong = Vec::new();
    for (what, change) in allowed::all() {
        let mut book = Book::right();
        change(&mut book);
        let found = check(&book.lines, |_| false);
        if !found.is_empty() {
            wrong.push((what, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

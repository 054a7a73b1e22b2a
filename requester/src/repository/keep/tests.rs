//! What stays under which rules, and the reasons given.

use super::*;

fn group(host: &str, components: &[&str]) -> Group {
    Group { host: host.to_owned(), components: components.iter().map(ToString::to_string).collect() }
}

fn info(number: u128, time: &str) -> SetInfo {
    SetInfo {
        set: Uuid::from_u128(number),
        group: group("here", &["files/etc"]),
        time: time.parse().expect("a time"),
        tags: Vec::new(),
        base: None,
        keys: Vec::new(),
    }
}

/// The sets kept, and the reasons without the last, which names the group.
fn kept(sets: &[SetInfo], policy: &KeepPolicy) -> Vec<(u128, Vec<String>)> {
    let mut decisions = decide(sets, policy, &TimeZone::UTC).expect("a policy");
    assert_eq!(decisions.len(), sets.len(), "every set is decided on");
    for decision in &mut decisions {
        let info = sets.iter().find(|info| info.set == decision.set).expect("one of them");
        let named = decision.reasons.pop().expect("a reason");
        assert_eq!(named, format!("counted among the sets of {}", info.group));
        assert!(!decision.reasons.is_empty(), "a reason beside the group");
    }
    decisions
        .into_iter()
        .filter(|decision| decision.verdict == Verdict::Keep)
        .map(|decision| (decision.set.as_u128(), decision.reasons))
        .collect()
}

fn ids(sets: &[SetInfo], policy: &KeepPolicy) -> Vec<u128> {
    kept(sets, policy).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn without_a_rule_nothing_is_decided() {
    let refused = decide(&[info(1, "2026-01-01T00:00:00Z")], &KeepPolicy::default(), &TimeZone::UTC);
    assert_eq!(refused, Err(KeepError::EmptyPolicy));
}

#[test]
fn the_last_are_the_newest_whatever_the_order_given() {
    let sets =
        [info(1, "2026-01-01T00:00:00Z"), info(3, "2026-01-03T00:00:00Z"), info(2, "2026-01-02T00:00:00Z")];
    let policy = KeepPolicy { last: 2, ..KeepPolicy::default() };
    assert_eq!(kept(&sets, &policy), [(3, vec!["last 1".to_owned()]), (2, vec!["last 2".to_owned()])]);
}

#[test]
fn each_period_keeps_its_newest_set_and_empty_periods_do_not_count() {
    let sets = [
        info(1, "2024-12-29T08:00:00Z"), // Sunday
        info(2, "2024-12-30T08:00:00Z"), // Monday: ISO week 1 of 2025
        info(3, "2025-01-01T08:00:00Z"),
        info(4, "2025-01-01T08:30:00Z"),
        info(5, "2025-01-01T09:00:00Z"),
        info(6, "2025-03-01T00:00:00Z"),
    ];
    let with = |change: fn(&mut KeepPolicy)| {
        let mut policy = KeepPolicy::default();
        change(&mut policy);
        ids(&sets, &policy)
    };
    assert_eq!(with(|p| p.hourly = 3), [6, 5, 4]);
    assert_eq!(with(|p| p.daily = 3), [6, 5, 2]);
    assert_eq!(with(|p| p.weekly = 3), [6, 5, 1]);
    assert_eq!(with(|p| p.monthly = 3), [6, 5, 2]);
    assert_eq!(with(|p| p.yearly = 9), [6, 2]);
}

#[test]
fn periods_follow_the_zone() {
    let sets = [info(1, "2026-01-01T22:30:00Z"), info(2, "2026-01-01T23:30:00Z")];
    let policy = KeepPolicy { daily: 5, ..KeepPolicy::default() };
    let zone = TimeZone::fixed(jiff::tz::offset(1));
    let decisions = decide(&sets, &policy, &zone).expect("a policy");
    assert!(decisions.iter().all(|decision| decision.verdict == Verdict::Keep));
    assert_eq!(ids(&sets, &policy), [2]);
}

#[test]
fn within_counts_from_the_newest_set_and_tags_keep_any_age() {
    let mut sets =
        [info(1, "2020-01-01T00:00:00Z"), info(2, "2026-01-01T00:00:00Z"), info(3, "2026-01-02T00:00:00Z")];
    sets[0].tags = vec!["audit".into()];
    let policy = KeepPolicy {
        within: Some(SignedDuration::from_hours(24)),
        tags: vec!["audit".into()],
        ..KeepPolicy::default()
    };
    assert_eq!(ids(&sets, &policy), [3, 2, 1]);
    let policy = KeepPolicy { within: Some(SignedDuration::from_hours(23)), ..KeepPolicy::default() };
    assert_eq!(ids(&sets, &policy), [3]);
}

#[test]
fn every_base_of_a_kept_set_is_kept_and_says_for_whom() {
    let mut sets = [
        info(1, "2026-01-01T00:00:00Z"),
        info(2, "2026-01-02T00:00:00Z"),
        info(3, "2026-01-03T00:00:00Z"),
        info(4, "2026-01-04T00:00:00Z"),
    ];
    sets[3].base = Some(sets[1].set);
    sets[1].base = Some(sets[0].set);
    // A base that is not there any more is not ours to bring back.
    sets[0].base = Some(Uuid::from_u128(99));
    let policy = KeepPolicy { last: 1, ..KeepPolicy::default() };
    let base_of = |set: &SetInfo| vec![format!("base of {}", set.set)];
    assert_eq!(
        kept(&sets, &policy),
        [(4, vec!["last 1".to_owned()]), (2, base_of(&sets[3])), (1, base_of(&sets[1]))]
    );
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    let mut sets = [info(1, "2026-01-01T00:00:00Z"), info(2, "2026-01-02T00:00:00Z")];
    sets[0].base = Some(sets[1].set);
    sets[1].base = Some(sets[0].set);
    assert_eq!(ids(&sets, &KeepPolicy { last: 1, ..KeepPolicy::default() }), [2, 1]);
}

#[test]
fn the_last_set_with_a_key_is_kept_with_its_bases_unless_a_kept_one_has_the_key() {
    let mut sets = [
        info(1, "2026-01-01T00:00:00Z"),
        info(2, "2026-01-02T00:00:00Z"),
        info(3, "2026-01-03T00:00:00Z"),
        info(4, "2026-01-04T00:00:00Z"),
    ];
    sets[0].keys = vec!["old".into(), "current".into()];
    sets[1].keys = vec!["old".into(), "current".into()];
    sets[1].base = Some(sets[0].set);
    sets[2].keys = vec!["current".into()];
    sets[3].keys = vec!["current".into()];
    let policy = KeepPolicy { last: 1, ..KeepPolicy::default() };
    assert_eq!(
        kept(&sets, &policy),
        [
            (4, vec!["last 1".to_owned()]),
            (2, vec!["last set with the key old".to_owned()]),
            (1, vec![format!("base of {}", sets[1].set)]),
        ]
    );
    let decisions = decide(&sets, &policy, &TimeZone::UTC).expect("a policy");
    assert_eq!((decisions[1].set, decisions[1].verdict), (sets[2].set, Verdict::Forget));
}

#[test]
fn each_group_is_counted_by_itself() {
    let mut sets = [
        info(1, "2026-01-01T00:00:00Z"),
        info(2, "2026-01-02T00:00:00Z"),
        info(3, "2026-01-03T00:00:00Z"),
        info(4, "2026-01-04T00:00:00Z"),
        info(5, "2026-01-05T00:00:00Z"),
        info(6, "2026-01-06T00:00:00Z"),
    ];
    let both = group("here", &["files/etc", "ca/db"]);
    sets[0].group = both.clone();
    sets[1].group = both;
    sets[2].group = group("there", &["files/etc"]);
    // Four newer ones, of one writer or another host, use up no place of the two whole ones.
    let policy = KeepPolicy { last: 2, ..KeepPolicy::default() };
    assert_eq!(ids(&sets, &policy), [6, 5, 3, 2, 1]);
    let policy = KeepPolicy { yearly: 1, ..KeepPolicy::default() };
    assert_eq!(ids(&sets, &policy), [6, 3, 2]);
    let policy = KeepPolicy { within: Some(SignedDuration::from_hours(1)), ..KeepPolicy::default() };
    assert_eq!(ids(&sets, &policy), [6, 3, 2]);
}

#[test]
fn the_last_set_with_a_component_is_kept_for_each_host() {
    let mut sets = [
        info(1, "2026-01-01T00:00:00Z"),
        info(2, "2026-01-02T00:00:00Z"),
        info(3, "2026-01-03T00:00:00Z"),
        info(4, "2026-01-04T00:00:00Z"),
    ];
    sets[0].group = group("here", &["files/etc", "ca/db"]);
    sets[1].group = group("here", &["files/etc", "ca/db"]);
    sets[2].group = group("there", &["ca/db"]);
    sets[3].tags = vec!["audit".into()];
    // A rule that keeps only what is tagged leaves whole groups without a set.
    let policy = KeepPolicy { tags: vec!["audit".into()], ..KeepPolicy::default() };
    assert_eq!(
        kept(&sets, &policy),
        [
            (4, vec!["tag audit".to_owned()]),
            (3, vec!["last set with ca/db of there".to_owned()]),
            (2, vec!["last set with ca/db of here".to_owned()]),
        ]
    );
}

#[test]
fn a_group_is_named_with_its_first_components() {
    assert_eq!(group("here", &["files/etc", "ca/db"]).to_string(), "here with ca/db, files/etc");
    assert_eq!(
        group("here", &["w/1", "w/2", "w/3", "w/4", "w/5", "w/6"]).to_string(),
        "here with w/1, w/2, w/3, w/4 and 2 more"
    );
    assert_eq!(group("here", &[]).to_string(), "here with nothing");
}

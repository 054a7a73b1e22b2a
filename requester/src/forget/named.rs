//! Forgetting by name: a pure function over what is known of the sets.
//!
//! Owns: what a name stands for, and what is refused although it was named.

use std::collections::BTreeSet;

use super::error::{ForgetError, Loss, Needed};
use super::facts::{Facts, Name};
use super::{Decided, Verdict};
use crate::repository::keep::{Holding, SetInfo};

/// Decides on the named sets alone; the decisions are in their order, none twice.
pub(super) fn decide(
    facts: &Facts,
    names: &[String],
    even_last_copy: bool,
) -> Result<Vec<Decided>, ForgetError> {
    let mut named: Vec<Name> = Vec::new();
    for text in names {
        let name = find(facts, text)?;
        if !named.contains(&name) {
            named.push(name);
        }
    }
    let goes = |set: &SetInfo| named.contains(&Name::Set(set.set));
    let staying: Vec<&SetInfo> = facts.sets.iter().filter(|set| !goes(set)).collect();
    let safe: BTreeSet<Holding<'_>> = staying.iter().flat_map(|set| held(set)).collect();

    let mut needed = Vec::new();
    for unreadable in facts.unreadable.iter().filter(|set| !named.contains(&set.name)) {
        needed.push(Needed::PerhapsBase { by: unreadable.name.clone() });
    }
    let mut decisions = Vec::new();
    for name in named {
        let lost = match &name {
            Name::Set(set) => {
                let builders = staying.iter().filter(|other| other.base == Some(*set));
                needed.extend(builders.map(|other| Needed::Base { set: *set, by: other.set }));
                let info = facts.sets.iter().find(|info| info.set == *set);
                info.map(|info| lost_with(info, &safe))
            }
            Name::Snapshot(_) => None,
        };
        let lost = lost.unwrap_or_else(|| vec![Loss::Unknown]);
        let mut reasons = vec!["named".to_owned()];
        if lost.is_empty() {
            reasons.push("its keys and components are in others".to_owned());
        }
        reasons.extend(lost.iter().map(ToString::to_string));
        if !even_last_copy {
            needed.extend(lost.into_iter().map(|loss| Needed::LastCopy { name: name.clone(), loss }));
        }
        decisions.push(Decided { name, verdict: Verdict::Forget, reasons });
    }
    if needed.is_empty() { Ok(decisions) } else { Err(ForgetError::Needed { needed }) }
}

fn held(set: &SetInfo) -> Vec<Holding<'_>> {
    [set.held_keys(), set.held_components()].concat()
}

fn lost_with(info: &SetInfo, safe: &BTreeSet<Holding<'_>>) -> Vec<Loss> {
    let lost = held(info).into_iter().filter(|thing| !safe.contains(thing));
    lost.map(|thing| Loss::Last(thing.to_string())).collect()
}

fn find(facts: &Facts, text: &str) -> Result<Name, ForgetError> {
    let sets = facts.sets.iter().map(|info| Name::Set(info.set));
    let all = sets.chain(facts.unreadable.iter().map(|set| set.name.clone()));
    // Nothing begins every name.
    let mut matching = all.filter(|name| !text.is_empty() && name.id().starts_with(text));
    match (matching.next(), matching.next()) {
        (Some(name), None) => Ok(name),
        (None, _) => Err(ForgetError::NoSuchSet { text: text.to_owned() }),
        (Some(_), Some(_)) => Err(ForgetError::SeveralSets { text: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::facts::{Unreadable, Why};
    use super::*;
    use crate::repository::keep::Group;

    fn info(number: u128, components: &[&str], keys: &[&str]) -> SetInfo {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        SetInfo {
            set: Uuid::from_u128(number),
            group: Group { host: "here".into(), components: owned(components).into_iter().collect() },
            time: "2026-01-01T00:00:00Z".parse().unwrap(),
            tags: Vec::new(),
            base: None,
            keys: owned(keys),
        }
    }

    fn unreadable(name: Name) -> Unreadable {
        Unreadable { name, why: Why::OfAnother { set: Uuid::nil() } }
    }

    fn name(number: u128) -> String {
        Uuid::from_u128(number).to_string()
    }

    fn needed(facts: &Facts, names: &[u128], even_last_copy: bool) -> Vec<Needed> {
        let names: Vec<_> = names.iter().map(|number| name(*number)).collect();
        match decide(facts, &names, even_last_copy) {
            Ok(decisions) => {
                assert_eq!(decisions.len(), names.len());
                assert!(decisions.iter().all(|decided| decided.verdict == Verdict::Forget));
                Vec::new()
            }
            Err(ForgetError::Needed { needed }) => needed,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_set_goes_whose_keys_and_components_are_in_others_and_no_other_is_decided_on() {
        let facts = Facts {
            sets: vec![info(1, &["ca/db"], &["k"]), info(2, &["ca/db", "www/files"], &["k"])],
            unreadable: vec![],
        };
        let decisions = decide(&facts, &[name(1), name(1)], false).unwrap();
        assert_eq!(decisions.len(), 1);
        assert_eq!(decisions[0].name, Name::Set(Uuid::from_u128(1)));
        assert_eq!(decisions[0].reasons, ["named", "its keys and components are in others"]);
    }

    #[test]
    fn the_last_copy_of_a_key_or_component_goes_only_if_the_user_insists() {
        let facts = Facts {
            sets: vec![info(1, &["ca/db"], &["old"]), info(2, &["ca/db", "www/files"], &["new"])],
            unreadable: vec![],
        };
        let last = |set, what: &str| Needed::LastCopy {
            name: Name::Set(Uuid::from_u128(set)),
            loss: Loss::Last(what.to_owned()),
        };
        assert_eq!(needed(&facts, &[1], false), [last(1, "the key old")]);
        assert_eq!(needed(&facts, &[2], false), [last(2, "the key new"), last(2, "www/files of here")]);
        // Both of them: each was safe only by the other.
        let both = needed(&facts, &[1, 2], false);
        assert!(
            both.contains(&last(1, "ca/db of here")) && both.contains(&last(2, "ca/db of here")),
            "{both:?}"
        );
        assert_eq!(needed(&facts, &[1, 2], true), []);
        let decisions = decide(&facts, &[name(1)], true).unwrap();
        assert_eq!(decisions[0].reasons, ["named", "is the last with the key old"]);
    }

    #[test]
    fn another_hosts_component_of_the_same_name_is_no_copy() {
        let mut there = info(2, &["ca/db"], &[]);
        there.group.host = "there".into();
        let facts = Facts { sets: vec![info(1, &["ca/db"], &[]), there], unreadable: vec![] };
        assert_eq!(needed(&facts, &[1], false).len(), 1);
    }

    #[test]
    fn what_a_set_that_stays_builds_on_never_goes_whoever_insists() {
        let mut sets = vec![info(1, &["ca/db"], &[]), info(2, &["ca/db"], &[]), info(3, &["ca/db"], &[])];
        sets[1].base = Some(sets[0].set);
        let facts = Facts { sets, unreadable: vec![] };
        let base = Needed::Base { set: Uuid::from_u128(1), by: Uuid::from_u128(2) };
        assert_eq!(needed(&facts, &[1], true), [base]);
        assert_eq!(needed(&facts, &[1, 2], false), [], "both together go");
    }

    #[test]
    fn while_a_set_that_cannot_be_read_stays_nothing_goes_that_it_may_build_on() {
        let bad = Name::Set(Uuid::from_u128(9));
        let facts = Facts {
            sets: vec![info(1, &["ca/db"], &[]), info(2, &["ca/db"], &[])],
            unreadable: vec![unreadable(bad.clone())],
        };
        assert_eq!(needed(&facts, &[1], true), [Needed::PerhapsBase { by: bad.clone() }]);
        let perhaps_last = Needed::LastCopy { name: bad, loss: Loss::Unknown };
        assert_eq!(needed(&facts, &[9], false), std::slice::from_ref(&perhaps_last));
        assert_eq!(needed(&facts, &[9], true), []);
        assert_eq!(needed(&facts, &[1, 9], false), [perhaps_last]);
        // A set that cannot be read is nobody's other copy.
        assert_eq!(needed(&facts, &[1, 2, 9], false).len(), 3);
    }

    #[test]
    fn a_name_is_the_beginning_of_exactly_one_id() {
        let bad = Name::Snapshot("0123abcd".repeat(8));
        let facts = Facts { sets: vec![info(1, &[], &[])], unreadable: vec![unreadable(bad.clone())] };
        let found = |text: &str| find(&facts, text);
        assert_eq!(found(&name(1)).unwrap(), Name::Set(Uuid::from_u128(1)));
        assert_eq!(found("0123").unwrap(), bad);
        assert!(matches!(found("0"), Err(ForgetError::SeveralSets { .. })));
        for nothing in ["", "latest", "f"] {
            assert!(matches!(found(nothing), Err(ForgetError::NoSuchSet { .. })), "{nothing}");
        }
    }
}

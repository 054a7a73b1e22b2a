//! Which sets a keep policy keeps, and why: a pure function over what the caller knows of each set.
//! Owns: restic's keep rules, counted for each [`Group`] by itself; that a base of a kept set is kept; that the last set
//! with a key, and the last one with a component, is kept.
//! Leaves to others: reading the sets, removing them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use uuid::Uuid;

/// How many components a group's [`Display`](fmt::Display) names; it counts the rest.
const NAMED: usize = 4;

/// Sets that show the same: of one host, with the same components. The rules count in each group by itself, as restic's
/// do for host and paths: a backup of one writer, or of another host, uses up no place of the others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// The host the data are from.
    pub host: String,
    /// `writer/component`, of what is whole in the set.
    pub components: BTreeSet<String>,
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, components } = self;
        let named: Vec<_> = components.iter().take(NAMED).map(String::as_str).collect();
        let named = if named.is_empty() { "nothing".to_owned() } else { named.join(", ") };
        write!(f, "{host} with {named}")?;
        match components.len().saturating_sub(NAMED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What the policy looks at in a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetInfo {
    /// The set's id.
    pub set: Uuid,
    /// What it is counted with.
    pub group: Group,
    /// The instant it shows.
    pub time: Timestamp,
    /// The user's tags.
    pub tags: Vec<String>,
    /// The set it builds on: without it this one cannot be restored.
    pub base: Option<Uuid>,
    /// Fingerprints of the keys that it carries sealed.
    pub keys: Vec<String>,
}

/// What to keep in each group. Each rule keeps for itself; what none keeps is forgotten. Counts are of sets, the newest
/// of each period counting for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeepPolicy {
    /// The newest so many.
    pub last: u32,
    /// For the newest so many hours that have a set, the newest set of each.
    pub hourly: u32,
    /// The same for days.
    pub daily: u32,
    /// The same for weeks (from Monday).
    pub weekly: u32,
    /// The same for months.
    pub monthly: u32,
    /// The same for years.
    pub yearly: u32,
    /// All that are no older than this, counted from the group's newest set: a machine that was off loses
    /// none.
    pub within: Option<SignedDuration>,
    /// All with any of these tags.
    pub tags: Vec<String>,
}

/// Whether a set stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It goes.
    Forget,
}

/// What is decided on one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The set.
    pub set: Uuid,
    /// Whether it stays.
    pub verdict: Verdict,
    /// Why, in words: one reason for each rule that keeps it, or one why it goes; the last names the group.
    pub reasons: Vec<String>,
}

/// Why nothing was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// The policy has no rule, which would forget every set.
    #[error("the policy keeps nothing: give at least one rule")]
    EmptyPolicy,
}

impl KeepPolicy {
    fn is_empty(&self) -> bool {
        let Self { last, hourly, daily, weekly, monthly, yearly, within, tags } = self;
        [last, hourly, daily, weekly, monthly, yearly].iter().all(|count| **count == 0)
            && within.is_none()
            && tags.is_empty()
    }
}

/// Decides on every set; the decisions are in the order of time, newest first. Periods are those of `zone`.
///
/// # Errors
/// [`KeepError::EmptyPolicy`].
pub fn decide(sets: &[SetInfo], policy: &KeepPolicy, zone: &TimeZone) -> Result<Vec<Decision>, KeepError> {
    if policy.is_empty() {
        return Err(KeepError::EmptyPolicy);
    }
    let mut sorted: Vec<&SetInfo> = sets.iter().collect();
    sorted.sort_by_key(|info| std::cmp::Reverse((info.time, info.set)));
    let mut groups: BTreeMap<&Group, Vec<&SetInfo>> = BTreeMap::new();
    for info in &sorted {
        groups.entry(&info.group).or_default().push(info);
    }
    let mut reasons = Reasons::new();
    for group in groups.values() {
        keep_by_rules(group, policy, zone, &mut reasons);
    }
    // Without the last sealed copy of a key, data kept elsewhere could not be decrypted any more.
    keep_last_with(&sorted, &mut reasons, |info| {
        info.keys.iter().map(|key| (key.as_str(), format!("last set with the key {key}"))).collect()
    });
    // A group that ends, since its selection changed, may hold the only copy of what is not backed up any more.
    keep_last_with(&sorted, &mut reasons, |info| {
        let Group { host, components } = &info.group;
        let of_host = |name| ((host.as_str(), name), format!("last set with {name} of {host}"));
        components.iter().map(String::as_str).map(of_host).collect()
    });
    keep_bases(sets, &mut reasons);
    Ok(sorted.into_iter().map(|info| decision(info, &mut reasons)).collect())
}

/// Why each set is kept; one that is not in it is forgotten.
type Reasons = HashMap<Uuid, Vec<String>>;

/// The policy's rules on the sets of one group, newest first.
fn keep_by_rules(group: &[&SetInfo], policy: &KeepPolicy, zone: &TimeZone, reasons: &mut Reasons) {
    let mut keep = |set: Uuid, reason: String| reasons.entry(set).or_default().push(reason);
    for (rank, info) in group.iter().take(policy.last as usize).enumerate() {
        keep(info.set, format!("last {}", rank + 1));
    }
    for (name, count, period) in periods(policy) {
        let mut left = count;
        let mut previous = None;
        for info in group {
            let current = period(info.time, zone);
            if left > 0 && previous != Some(current) {
                previous = Some(current);
                left -= 1;
                keep(info.set, format!("{name} {}", count - left));
            }
        }
    }
    if let (Some(within), Some(newest)) = (policy.within, group.first()) {
        for info in group.iter().filter(|info| newest.time.duration_since(info.time) <= within) {
            keep(info.set, format!("within {within:#} of the newest"));
        }
    }
    for info in group {
        if let Some(tag) = info.tags.iter().find(|tag| policy.tags.contains(tag)) {
            keep(info.set, format!("tag {tag}"));
        }
    }
}

/// Keeps, of each thing that no kept set has, the newest set that has it. `sorted` is newest first; `things` gives what
/// a set has, each with the reason for keeping it.
fn keep_last_with<'a, T: Ord>(
    sorted: &[&'a SetInfo],
    reasons: &mut Reasons,
    things: impl Fn(&'a SetInfo) -> Vec<(T, String)>,
) {
    let kept = sorted.iter().filter(|info| reasons.contains_key(&info.set));
    let mut safe: BTreeSet<T> = kept.flat_map(|info| things(info)).map(|(thing, _)| thing).collect();
    for info in sorted {
        // A set kept here for one thing brings its others along: the next ones see them in `safe`.
        for (thing, reason) in things(info) {
            if safe.insert(thing) {
                reasons.entry(info.set).or_default().push(reason);
            }
        }
    }
}

/// Every base of a kept set is kept, and its bases too.
fn keep_bases(sets: &[SetInfo], reasons: &mut Reasons) {
    let by_id: BTreeMap<Uuid, &SetInfo> = sets.iter().map(|info| (info.set, info)).collect();
    let mut open: Vec<Uuid> =
        sets.iter().map(|info| info.set).filter(|set| reasons.contains_key(set)).collect();
    while let Some(set) = open.pop() {
        let base = by_id.get(&set).and_then(|info| info.base).filter(|base| by_id.contains_key(base));
        let Some(base) = base else { continue };
        // Each set is entered once, so that a chain that bites its tail ends too.
        let known = reasons.contains_key(&base);
        let reason = format!("base of {set}");
        let because = reasons.entry(base).or_default();
        if !because.contains(&reason) {
            because.push(reason);
        }
        if !known {
            open.push(base);
        }
    }
}

fn decision(info: &SetInfo, reasons: &mut Reasons) -> Decision {
    let (verdict, mut reasons) = match reasons.remove(&info.set) {
        Some(reasons) => (Verdict::Keep, reasons),
        None => {
            let why = "no rule keeps it, no kept set needs it, its keys and components are in others";
            (Verdict::Forget, vec![why.to_owned()])
        }
    };
    reasons.push(format!("counted among the sets of {}", info.group));
    Decision { set: info.set, verdict, reasons }
}

/// Names a period by a number that differs between neighbours.
type Period = fn(Timestamp, &TimeZone) -> (Date, i8);

fn periods(policy: &KeepPolicy) -> [(&'static str, u32, Period); 5] {
    fn hour(time: Timestamp, zone: &TimeZone) -> (Date, i8) {
        let time = zone.to_datetime(time);
        (time.date(), time.hour())
    }
    fn day(time: Timestamp, zone: &TimeZone) -> (Date, i8) {
        (zone.to_datetime(time).date(), 0)
    }
    fn week(time: Timestamp, zone: &TimeZone) -> (Date, i8) {
        let date = zone.to_datetime(time).date();
        let week = date.iso_week_date();
        // The week's Thursday lies in the year that ISO 8601 counts the week to.
        let thursday =
            jiff::civil::ISOWeekDate::new(week.year(), week.week(), jiff::civil::Weekday::Thursday);
        (thursday.map_or(date, |week| week.date()), 0)
    }
    fn month(time: Timestamp, zone: &TimeZone) -> (Date, i8) {
        (zone.to_datetime(time).date().first_of_month(), 0)
    }
    fn year(time: Timestamp, zone: &TimeZone) -> (Date, i8) {
        (zone.to_datetime(time).date().first_of_year(), 0)
    }
    [
        ("hourly", policy.hourly, hour),
        ("daily", policy.daily, day),
        ("weekly", policy.weekly, week),
        ("monthly", policy.monthly, month),
        ("yearly", policy.yearly, year),
    ]
}

#[cfg(test)]
mod tests {
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
        let sets = [
            info(1, "2026-01-01T00:00:00Z"),
            info(3, "2026-01-03T00:00:00Z"),
            info(2, "2026-01-02T00:00:00Z"),
        ];
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
        let mut sets = [
            info(1, "2020-01-01T00:00:00Z"),
            info(2, "2026-01-01T00:00:00Z"),
            info(3, "2026-01-02T00:00:00Z"),
        ];
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
}

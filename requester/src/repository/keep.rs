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

/// What a set may have the last copy of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holding<'a> {
    /// A sealed key, by its fingerprint: without it, data kept elsewhere could not be decrypted any more.
    Key(&'a str),
    /// A component, `writer/component`, of a host. A group that ends, since its selection changed, may have the only
    /// copy of what is not backed up any more.
    Component {
        /// The host.
        host: &'a str,
        /// The component.
        name: &'a str,
    },
}

impl fmt::Display for Holding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => write!(f, "the key {key}"),
            Self::Component { host, name } => write!(f, "{name} of {host}"),
        }
    }
}

impl SetInfo {
    /// The keys that it has.
    pub fn held_keys(&self) -> Vec<Holding<'_>> {
        self.keys.iter().map(|key| Holding::Key(key)).collect()
    }

    /// The components that it has.
    pub fn held_components(&self) -> Vec<Holding<'_>> {
        let Group { host, components } = &self.group;
        components.iter().map(|name| Holding::Component { host, name }).collect()
    }
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
    /// Whether it has no rule.
    pub fn is_empty(&self) -> bool {
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
    keep_last_with(&sorted, &mut reasons, SetInfo::held_keys);
    keep_last_with(&sorted, &mut reasons, SetInfo::held_components);
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

/// Keeps, of whatever no kept set has, the newest set that has it. `sorted` is newest first.
fn keep_last_with<'a>(
    sorted: &[&'a SetInfo],
    reasons: &mut Reasons,
    held: impl Fn(&'a SetInfo) -> Vec<Holding<'a>>,
) {
    let kept = sorted.iter().filter(|info| reasons.contains_key(&info.set));
    let mut safe: BTreeSet<Holding<'_>> = kept.flat_map(|info| held(info)).collect();
    for info in sorted {
        // A set kept here for one thing brings its others along: the next ones see them in `safe`.
        for thing in held(info) {
            if safe.insert(thing) {
                reasons.entry(info.set).or_default().push(format!("last set with {thing}"));
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
mod tests;

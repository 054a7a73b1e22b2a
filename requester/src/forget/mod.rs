//! Forgetting sets: what is known of them, what is decided, and the removal, all under one exclusive lock.
//!
//! Owns: that nothing goes which something that stays may need. A set that cannot be read may need anything.
//! Leaves to others: the keep rules ([`keep`]), freeing space ([`Repository::prune`]), what a person sees.

mod error;
mod facts;
mod named;

use jiff::tz::TimeZone;
use uuid::Uuid;

pub use error::{ForgetError, Loss, Needed};
pub use facts::{Name, Unreadable, Why};

use crate::repository::keep::{self, KeepError, KeepPolicy, Verdict};
use crate::repository::{LockKind, Repository, RepositoryError};
use facts::Facts;

/// Which sets go.
#[derive(Debug, Clone)]
pub enum Selection {
    /// Those that no rule keeps, periods counted in `zone`.
    Rules {
        /// The rules.
        policy: KeepPolicy,
        /// Where days begin.
        zone: TimeZone,
    },
    /// Those that are named, and no others.
    Named {
        /// Each the id of a set, or of a snapshot that cannot be read, or the beginning of one.
        names: Vec<String>,
        /// Also what has the last copy of something, or cannot be read, so that nobody knows what it has.
        even_last_copy: bool,
    },
}

/// What is decided on one set, or on a snapshot that may be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Which.
    pub name: Name,
    /// Whether it stays.
    pub verdict: Verdict,
    /// Why, in words.
    pub reasons: Vec<String>,
}

/// What was forgotten, or would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forgotten {
    /// Under rules every set, newest first; else those that were named.
    pub decisions: Vec<Decided>,
    /// How many go.
    pub gone: usize,
    /// How many stay.
    pub kept: usize,
}

/// Decides what goes, and removes it unless it is a dry run. Data stay until [`Repository::prune`]. Blocks.
///
/// The repository's exclusive lock is held from the first look to the last removal: no set can appear, or change,
/// between them. A dry run shares the lock, and says what would be answered. `decided` is called before the removal.
///
/// # Errors
/// [`ForgetError`]; nothing was changed, but for [`ForgetError::Removing`].
pub fn forget(
    repository: &Repository,
    selection: &Selection,
    dry_run: bool,
    decided: impl FnOnce(),
) -> Result<Forgotten, ForgetError> {
    if let Selection::Rules { policy, .. } = selection
        && policy.is_empty()
    {
        return Err(KeepError::EmptyPolicy.into());
    }
    let lock =
        if dry_run { repository.lock_for_reading()? } else { Some(repository.lock(LockKind::Exclusive)?) };
    let facts = Facts::read(repository)?;
    let known = facts.sets.len() + facts.unreadable.len();
    let decisions = match selection {
        Selection::Rules { policy, zone } => by_rules(facts, policy, zone)?,
        Selection::Named { names, even_last_copy } => named::decide(&facts, names, *even_last_copy)?,
    };
    decided();
    let going = || decisions.iter().filter(|decided| decided.verdict == Verdict::Forget);
    let gone = going().count();
    if !dry_run {
        if let Some(lock) = &lock {
            lock.check()?;
        }
        remove(repository, going().map(|decided| &decided.name))
            .map_err(|source| ForgetError::Removing { source })?;
    }
    Ok(Forgotten { gone, kept: known - gone, decisions })
}

/// No rule can be followed over a set that cannot be read: what it builds on could go, or what it has the last copy of
/// be taken for safe.
fn by_rules(facts: Facts, policy: &KeepPolicy, zone: &TimeZone) -> Result<Vec<Decided>, ForgetError> {
    if !facts.unreadable.is_empty() {
        return Err(ForgetError::Unreadable { sets: facts.unreadable });
    }
    let decisions = keep::decide(&facts.sets, policy, zone)?;
    let decided =
        |keep::Decision { set, verdict, reasons }| Decided { name: Name::Set(set), verdict, reasons };
    Ok(decisions.into_iter().map(decided).collect())
}

fn remove<'n>(repository: &Repository, names: impl Iterator<Item = &'n Name>) -> Result<(), RepositoryError> {
    let (mut sets, mut snapshots): (Vec<Uuid>, Vec<String>) = Default::default();
    for name in names {
        match name {
            Name::Set(set) => sets.push(*set),
            Name::Snapshot(snapshot) => snapshots.push(snapshot.clone()),
        }
    }
    // First, so that the sets can be listed again.
    if !snapshots.is_empty() {
        repository.remove_unreadable(&snapshots)?;
    }
    repository.forget(&sets)
}

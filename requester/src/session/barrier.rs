//! The barrier: freeze by level, cut, thaw in reverse. The heart of the house.
//!
//! **Invariant:** [`cut`] returns only after every member was asked to thaw. A dropped `cut` future
//! leaves members whose drop releases them.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use holdfast_writer_api::{FreezeLevel, WriterError, chain};
use uuid::Uuid;

use super::events::{EventLog, What};
use super::member::Member;

/// How long the levels above wait for the thaw of those below, which is to take 100 ms at most.
const THAW_PATIENCE: Duration = Duration::from_millis(250);

/// Why there was no cut. Everything that could be thawed is.
#[derive(Debug, thiserror::Error)]
#[error("the freeze was given up")]
pub struct Aborted<E: std::error::Error + 'static> {
    /// What failed first.
    #[source]
    pub cause: AbortCause<E>,
    /// Writers that may still be held: their thaw was not confirmed. Empty when all are free.
    pub stuck: Vec<WriterError>,
    /// How many were asked to thaw.
    pub thawed: usize,
}

/// What failed first.
#[derive(Debug, thiserror::Error)]
pub enum AbortCause<E: std::error::Error + 'static> {
    /// A writer.
    #[error("a writer could not be held")]
    Writer(#[source] WriterError),
    /// The cut.
    #[error("the shadow copies could not be cut")]
    Commit(#[source] E),
    /// Everything went well, but not in time.
    #[error("a hold ended before its thaw, so the cut cannot be trusted")]
    Late(#[source] WriterError),
    /// Everything went well up to the thaw, which was not confirmed.
    #[error("a thaw was not confirmed, so the cut cannot be trusted")]
    NotThawed(#[source] WriterError),
}

impl<E: std::error::Error + 'static> AbortCause<E> {
    /// The writer it failed by, if it was one.
    pub fn writer(&self) -> Option<&str> {
        match self {
            Self::Writer(error) | Self::Late(error) | Self::NotThawed(error) => Some(error.writer()),
            Self::Commit(_) => None,
        }
    }
}

/// What the window was, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Window {
    /// From the first call of freeze to the last return of thaw.
    pub window_ms: f64,
    /// From the first hold taken to the last.
    pub skew_ms: f64,
}

/// Freezes all members, level by level and together inside a level; runs `commit`; thaws them in
/// reverse. `commit` gets the moment by which it has to be done and its result is waited for no longer.
///
/// # Errors
/// [`Aborted`]: there is no cut, and all members were asked to thaw.
pub async fn cut<T, E, F>(
    members: &mut [Member],
    set: Uuid,
    log: &mut EventLog,
    commit: impl FnOnce(Instant) -> F,
) -> Result<(T, Window), Aborted<E>>
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<T, E>>,
{
    log.reserve(members.len());
    let committed = match freeze_all(members, set).await {
        Ok(deadline) => commit(deadline).await.map_err(AbortCause::Commit),
        Err(error) => Err(AbortCause::Writer(error)),
    };
    let (thawed, failures) = thaw_all(members).await;
    match &committed {
        Ok(_) => {}
        Err(AbortCause::Commit(error)) => drop(log.record(What::CommitFailed { error: chain(error) })),
        Err(AbortCause::Writer(error) | AbortCause::Late(error) | AbortCause::NotThawed(error)) => {
            log.record_failure(error);
        }
    }
    // All of them, also those that a first failure hides from the person.
    failures.iter().for_each(|error| log.record_failure(error));
    for member in members.iter_mut() {
        member.report(log);
        if let (true, Some(mark), Some(at_ns)) = (member.holds(), &member.mark, member.times.taken) {
            let (position, proof) = (mark.position.clone(), mark.proof.clone());
            log.record_at(at_ns, What::Held { writer: member.id.clone(), position, proof });
        }
    }
    let (stuck, late): (Vec<_>, Vec<_>) =
        failures.into_iter().partition(|e| matches!(e, WriterError::StuckFrozen { .. }));
    match committed {
        Err(cause) => Err(Aborted { cause, stuck, thawed }),
        Ok(value) => match (stuck.first().cloned(), late.into_iter().next()) {
            (None, None) => Ok((value, window(members))),
            (Some(first), _) => Err(Aborted { cause: AbortCause::NotThawed(first), stuck, thawed }),
            (None, Some(late)) => Err(Aborted { cause: AbortCause::Late(late), stuck, thawed }),
        },
    }
}

/// Returns the moment by which the shortest hold needs the cut to be done.
async fn freeze_all(members: &mut [Member], set: Uuid) -> Result<Instant, WriterError> {
    let mut cut_by: Option<Instant> = None;
    for level in FreezeLevel::ALL {
        let mut freezing = FuturesUnordered::new();
        let called = Instant::now();
        let mut of_level: Option<Instant> = None;
        for member in members.iter_mut().filter(|member| member.level == level) {
            let own = called + member.budget.saturating_sub(member.thaw_reserve());
            of_level = Some(of_level.map_or(own, |earliest| earliest.min(own)));
            // Whoever is held already sets the limit for all that follow.
            let until = cut_by.map_or(own, |earliest| earliest.min(own));
            freezing.push(member.freeze(set, until.saturating_duration_since(called)));
        }
        while let Some(frozen) = freezing.next().await {
            // The others' freezes are given up right here, by dropping their futures.
            frozen?;
        }
        cut_by = match (cut_by, of_level) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(cut_by.unwrap_or_else(|| Instant::now() + holdfast_writer_api::budget::LONGEST))
}

/// Thaws in reverse order of freezing, all of a level together. Goes on whatever fails, and waits for nobody longer than
/// [`THAW_PATIENCE`], nor until the next hold's time is over, before the next level is asked: one that is stuck keeps no
/// other held.
async fn thaw_all(members: &mut [Member]) -> (usize, Vec<WriterError>) {
    let mut held: Vec<_> = members.iter_mut().filter(|member| member.state().may_be_held()).collect();
    let asked = held.len();
    let mut failures = Vec::new();
    let mut thawing = FuturesUnordered::new();
    for level in FreezeLevel::ALL.into_iter().rev() {
        let of_level;
        (of_level, held) = held.into_iter().partition(|member| member.level == level);
        thawing.extend(of_level.into_iter().map(|member: &mut Member| member.thaw()));
        let patient = Instant::now() + THAW_PATIENCE;
        let in_time = held.iter().filter_map(|member| member.thaw_by()).min();
        let until = in_time.map_or(patient, |in_time| in_time.min(patient));
        while let Ok(Some(thawed)) = tokio::time::timeout_at(until.into(), thawing.next()).await {
            failures.extend(thawed.err());
        }
    }
    while let Some(thawed) = thawing.next().await {
        failures.extend(thawed.err());
    }
    (asked, failures)
}

fn window(members: &[Member]) -> Window {
    let span = |from: Option<u64>, to: Option<u64>| match (from, to) {
        (Some(from), Some(to)) => to.saturating_sub(from) as f64 / 1e6,
        _ => 0.0,
    };
    let called = members.iter().filter_map(|m| m.times.called).min();
    let released = members.iter().filter_map(|m| m.times.released).max();
    let taken = || members.iter().filter(|m| m.holds()).filter_map(|m| m.times.taken);
    Window { window_ms: span(called, released), skew_ms: span(taken().min(), taken().max()) }
}

#[cfg(test)]
mod tests {
    use holdfast_writer_api::testing::{Fault, InMemory};

    use super::super::testing::member;
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("no cut")]
    struct NoCut;

    async fn prepared(faults: &[(FreezeLevel, Fault)]) -> (Vec<Member>, Vec<InMemory>) {
        let mut members = Vec::new();
        let mut probes = Vec::new();
        for (n, (level, fault)) in faults.iter().enumerate() {
            let (mut member, probe) = member(&format!("w{n}"), *level, *fault);
            member.done(holdfast_writer_api::state::Event::BackupPrepared);
            member.prepare_snapshot(Uuid::nil()).await.unwrap();
            members.push(member);
            probes.push(probe);
        }
        (members, probes)
    }

    use FreezeLevel::{BackEnd, FrontEnd, System};

    #[tokio::test]
    async fn front_ends_freeze_first_and_thaw_last_and_all_are_held_at_the_cut() {
        let quiet = [(System, Fault::None), (FrontEnd, Fault::None), (BackEnd, Fault::None)];
        let (mut members, probes) = prepared(&quiet).await;
        let mut log = EventLog::in_memory();
        let held = || probes.iter().all(|probe| probe.is_held());
        let (all_held, window) =
            cut(&mut members, Uuid::nil(), &mut log, async |_| Ok::<_, NoCut>(held())).await.unwrap();
        assert!(all_held);
        assert!(probes.iter().all(|probe| !probe.is_held()));
        let times: Vec<_> = members.iter().map(|m| m.times).collect();
        assert!(times[1].taken < times[2].called && times[2].taken < times[0].called, "freeze order");
        assert!(times[0].released < times[2].released && times[2].released < times[1].released);
        assert!(window.window_ms > window.skew_ms && window.skew_ms > 0.0, "{window:?}");
    }

    /// Goal: whichever writer fails in whichever way, nobody stays held.
    /// Method: three writers, every fault at every place, also a failing cut.
    #[tokio::test]
    async fn whatever_fails_everybody_is_thawed_and_there_is_no_cut() {
        for fault in [Fault::FreezeFails, Fault::FreezeHangs, Fault::FreezePanics] {
            for place in 0..3 {
                let mut faults = [(FrontEnd, Fault::None), (FrontEnd, Fault::None), (System, Fault::None)];
                faults[place].1 = fault;
                let (mut members, probes) = prepared(&faults).await;
                let mut log = EventLog::in_memory();
                let aborted = cut(&mut members, Uuid::nil(), &mut log, async |_| Ok::<(), NoCut>(()))
                    .await
                    .unwrap_err();
                assert!(matches!(aborted.cause, AbortCause::Writer(_)), "{fault:?} at {place}: {aborted:?}");
                assert!(aborted.stuck.is_empty());
                assert!(probes.iter().all(|p| !p.is_held()), "{fault:?} at {place}");
                assert!(members.iter().all(|m| !m.state().may_be_held()), "{fault:?} at {place}");
            }
        }
        let (mut members, probes) = prepared(&[(FrontEnd, Fault::None)]).await;
        let aborted =
            cut(&mut members, Uuid::nil(), &mut EventLog::in_memory(), async |_| Err::<(), _>(NoCut))
                .await
                .unwrap_err();
        assert!(matches!(aborted.cause, AbortCause::Commit(_)));
        assert!(!probes[0].is_held());
    }

    #[tokio::test]
    async fn a_thaw_that_is_not_confirmed_is_reported_while_the_others_are_thawed() {
        let faults = [(FrontEnd, Fault::ThawStuck), (FrontEnd, Fault::None)];
        let (mut members, probes) = prepared(&faults).await;
        let aborted =
            cut(&mut members, Uuid::nil(), &mut EventLog::in_memory(), async |_| Ok::<(), NoCut>(()))
                .await
                .unwrap_err();
        assert!(matches!(aborted.cause, AbortCause::NotThawed(_)), "{aborted:?}");
        assert_eq!(aborted.stuck.len(), 1);
        assert!(!probes[1].is_held());
        assert_eq!(members[0].state(), holdfast_writer_api::state::State::Stuck);
    }

    /// A writer that hangs in thaw is waited for by nobody else: the others' applications write on.
    #[tokio::test]
    async fn a_thaw_that_hangs_keeps_no_other_level_held() {
        for slow in [System, BackEnd] {
            let fault = |level| if level == slow { Fault::ThawSlow } else { Fault::None };
            let (mut members, _) = prepared(&[System, BackEnd, FrontEnd].map(|l| (l, fault(l)))).await;
            let mut log = EventLog::in_memory();
            cut(&mut members, Uuid::nil(), &mut log, async |_| Ok::<(), NoCut>(())).await.unwrap_err();
            let released = |level| members.iter().find(|m| m.level == level).unwrap().times.released;
            for other in [System, BackEnd, FrontEnd].into_iter().filter(|level| *level != slow) {
                assert!(released(other) < released(slow), "{other:?} waited for {slow:?}");
                // Its own time is shorter than the patience with the slow one.
                let called = members.iter().find(|m| m.level == other).unwrap().times.called;
                let held = Duration::from_nanos(released(other).unwrap() - called.unwrap());
                assert!(held < THAW_PATIENCE, "{other:?} was held for {held:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_late_thaw_is_a_failed_backup() {
        let faults = [(FrontEnd, Fault::ThawLate), (FrontEnd, Fault::None)];
        let (mut members, _) = prepared(&faults).await;
        let aborted =
            cut(&mut members, Uuid::nil(), &mut EventLog::in_memory(), async |_| Ok::<(), NoCut>(()))
                .await
                .unwrap_err();
        assert!(matches!(aborted.cause, AbortCause::Late(WriterError::TimedOut { .. })), "{aborted:?}");
        assert!(aborted.stuck.is_empty());
    }

    /// A person is told of the first failure and of every hold; the log tells all.
    #[tokio::test]
    async fn every_failure_is_on_record_also_those_after_the_first() {
        let faults = [Fault::ThawStuck, Fault::ThawLate, Fault::ThawLate].map(|fault| (FrontEnd, fault));
        for committed in [Ok(()), Err(NoCut)] {
            let (mut members, _) = prepared(&faults).await;
            let mut log = EventLog::in_memory();
            let failing = committed.is_err();
            cut(&mut members, Uuid::nil(), &mut log, async |_| committed).await.unwrap_err();
            let mut failed = Vec::new();
            for entry in log.entries() {
                if let What::WriterFailed { writer, .. } = &entry.what {
                    failed.push(writer.as_str());
                }
            }
            failed.sort_unstable();
            assert_eq!(failed, ["w0", "w1", "w2"], "cut failed: {failing}");
            let cut_failed = |what: &What| matches!(what, What::CommitFailed { .. });
            let cut_failed = log.entries().iter().filter(|entry| cut_failed(&entry.what)).count();
            assert_eq!(cut_failed, usize::from(failing));
        }
    }

    #[tokio::test]
    async fn a_dropped_cut_releases_everybody() {
        let (mut members, probes) = prepared(&[(FrontEnd, Fault::None), (System, Fault::None)]).await;
        let mut log = EventLog::in_memory();
        let forever = cut(&mut members, Uuid::nil(), &mut log, async |_| {
            std::future::pending::<()>().await;
            Ok::<(), NoCut>(())
        });
        let given_up = tokio::time::timeout(Duration::from_millis(50), forever).await;
        assert!(given_up.is_err());
        assert!(probes.iter().all(|p| p.is_held()), "held while it waited");
        drop(members);
        assert!(probes.iter().all(|p| !p.is_held()));
    }
}

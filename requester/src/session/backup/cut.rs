//! The cut: providers ready, writers ready, the barrier, and the look of each at its shadow copy.
//!
//! Owns: that holders are on record before anything is frozen, and that what was timed during the hold is told only
//! after it.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use holdfast_writer_api::state::{Event, Phase};
use holdfast_writer_api::{BackupParticipant, ShadowContext, WriterError};

use super::Session;
use super::attempt::{Attempt, may_be_held};
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::session::barrier::{self, AbortCause, Aborted, Window};
use crate::session::events::What;
use crate::session::holders::{Holders, KillOnDrop};
use crate::session::member::Member;
use crate::session::plan::CutPlan;
use crate::session::shadows::{Cut, Shadows};

/// What came of the cut.
pub(super) struct Taken {
    pub cuts: Vec<Cut>,
    pub window: Window,
    /// The stamps of the writers, by writer and component.
    pub stamps: Stamps,
}

type Stamps = BTreeMap<(String, String), String>;

impl Session<'_> {
    /// Lets the providers do their slow work. The last that may refuse.
    pub(super) async fn prepare_shadows(
        &mut self,
        members: &[Member],
        plan: &CutPlan,
        shadows: &mut Shadows,
    ) -> Result<(), Failure> {
        let budget = members.iter().map(|m| m.budget).min().unwrap_or(holdfast_writer_api::budget::LONGEST);
        let prepared = shadows.prepare(plan, budget, self.env.config.backup.shadow_area.as_deref()).await;
        prepared.map_err(|error| {
            Failure::new(error.exit(), "the shadow copies could not be prepared", error, NOTHING_CHANGED)
        })
    }

    /// The barrier: from the writers' last preparation to the last thaw.
    pub(super) async fn cut(
        &mut self,
        members: &mut [Member],
        plan: &CutPlan,
        shadows: &mut Shadows,
    ) -> Result<(Vec<Cut>, Window), Attempt> {
        self.phase("prepare-snapshot");
        let set = self.set;
        let holders = members.iter().filter_map(|m| Some((m.id.clone(), m.holder()?, m.guardian())));
        let holders = Holders::new(set, holders);
        holders.record(&self.env.paths.runtime).map_err(|error| {
            let what = "the holders could not be recorded, so nothing was frozen";
            Failure::new(Exit::Failed, what, error, NOTHING_CHANGED)
        })?;
        let readied = join_all(members.iter_mut().map(|member| member.prepare_snapshot(set))).await;
        if let Err(error) = self.all_of(readied) {
            let held = matches!(error, WriterError::StuckFrozen { .. }).then(|| error.clone());
            let cause = AbortCause::<std::io::Error>::Writer(error);
            let aborted = Aborted { cause, stuck: held.into_iter().collect(), thawed: 0 };
            return Err(Attempt::aborted(set, members.len(), aborted));
        }
        self.phase("freeze");
        let given_up = KillOnDrop::new(holders);
        let (at, volumes) = (self.env.at, plan.volumes.len());
        let result = barrier::cut(members, set, &mut self.log, async |deadline| {
            at("frozen");
            let cut = shadows.commit(deadline).await;
            at("committed");
            cut
        })
        .await;
        let holders = given_up.disarm();
        if let Err(aborted) = &result
            && !aborted.stuck.is_empty()
        {
            // First of all: whatever follows may wait for the very disk that the holder waits for.
            (self.env.note)(&format!("{}: run `holdfast thaw --all` now", may_be_held(&aborted.stuck)));
            if let Some(mut holders) = holders {
                let stuck = aborted.stuck.iter().map(WriterError::writer);
                holders.lost_guardians(stuck, &self.env.paths.runtime);
            }
        }
        if let Ok((cuts, _)) = &result {
            // Timed where they happened, and told only now: nothing is recorded during the hold.
            if let Some(begun) = cuts.iter().map(|cut| cut.begun_ns).min() {
                self.log.record_at(begun, What::CommitStarted { volumes });
            }
            for cut in cuts {
                let done = What::CommitDone {
                    provider: cut.provider.clone(),
                    volume: cut.volume.clone(),
                    commit_ms: cut.commit_ms,
                };
                self.log.record_at(cut.begun_ns + (cut.commit_ms * 1e6) as u64, done);
            }
        }
        self.phase("thawed");
        result.map_err(|aborted| Attempt::aborted(set, members.len(), aborted))
    }

    /// Completes the shadow copies, and shows them to the writers.
    pub(super) async fn post_snapshot(
        &mut self,
        members: &mut [Member],
        shadows: &mut Shadows,
    ) -> Result<Stamps, Attempt> {
        shadows.finish().await.map_err(|error| {
            let state = "all writers are thawed; no set was made";
            Failure::new(Exit::Failed, "the shadow copies could not be finished", error, state)
        })?;
        self.phase("post-snapshot");
        let ctx = ShadowContext { set: self.set, roots: shadows.roots() };
        let finished = join_all(members.iter_mut().map(async |member| {
            let ctx = ctx.clone();
            let look = async move |p: &mut dyn BackupParticipant| p.post_snapshot(&ctx).await;
            let finished = member.call(Phase::PostSnapshot, member.patience, look).await?;
            member.done(Event::PostSnapshotDone);
            member.metadata.warnings.extend(finished.warnings);
            Ok::<_, WriterError>((member.id.clone(), finished.stamps))
        }))
        .await;
        for member in members.iter_mut() {
            member.report(&mut self.log);
        }
        let finished = self.all_of(finished);
        let finished =
            finished.map_err(|error| Attempt::writer("a writer rejected the shadow copy", error))?;
        let stamps = finished.into_iter().flat_map(|(id, stamps)| {
            stamps.into_iter().map(move |(component, stamp)| ((id.clone(), component), stamp))
        });
        Ok(stamps.collect())
    }
}

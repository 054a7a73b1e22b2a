//! A writer's part in a session: its participant, its state, its times.
//!
//! Owns: that each call has a deadline, that a panic is that writer's error, and that states move by the
//! table of the contract and by nothing else.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use holdfast_writer_api::state::{Event, Phase, State};
use holdfast_writer_api::{
    BackupParticipant, BackupType, FreezeContext, FreezeLevel, Mark, PhaseContext, Thawed, WriterError,
    WriterMetadata,
};
use uuid::Uuid;

use super::events::{EventLog, What, now_ns};

/// A thaw is to take 100 ms at most; one that takes this long is not confirmed. Longer than a process is given to answer and,
/// killed, to be gone: what became of that says more.
const THAW_LIMIT: Duration = Duration::from_secs(7);

/// How long `prepare_snapshot` may take.
const PREPARE_SNAPSHOT: Duration = Duration::from_secs(60);

/// How long any other call may take while nothing is held, unless the configuration says otherwise.
const PATIENCE: Duration = Duration::from_secs(600);

/// A writer in a session.
pub struct Member {
    /// Its id.
    pub id: String,
    /// When it is frozen among others.
    pub level: FreezeLevel,
    /// Its budget from freeze to thaw.
    pub budget: Duration,
    /// How long each of its calls may take while nothing is held.
    pub patience: Duration,
    /// The kind of backup it makes: what was asked for, reduced to what it can.
    pub backup_type: BackupType,
    /// What it said of itself when the session began.
    pub metadata: WriterMetadata,
    /// Its log position at the cut.
    pub mark: Option<Mark>,
    /// Monotonic times of its hold, in nanoseconds.
    pub times: HoldTimes,
    participant: Box<dyn BackupParticipant>,
    /// When the hold that was asked for ends by itself.
    held_until: Option<Instant>,
    state: State,
    /// Moves made while held, to be recorded afterwards.
    moves: Vec<(u64, Event, State)>,
}

/// When a hold was asked for, taken, and released.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HoldTimes {
    /// `freeze` was called.
    pub called: Option<u64>,
    /// `freeze` returned: held.
    pub taken: Option<u64>,
    /// `thaw` returned: free.
    pub released: Option<u64>,
}

impl Member {
    /// A writer whose backup has begun.
    pub fn new(
        metadata: WriterMetadata,
        backup_type: BackupType,
        budget: Duration,
        participant: Box<dyn BackupParticipant>,
    ) -> Self {
        Self {
            id: metadata.id.clone(),
            level: metadata.freeze_level,
            budget,
            patience: PATIENCE,
            backup_type,
            metadata,
            mark: None,
            times: HoldTimes::default(),
            participant,
            held_until: None,
            state: State::Stable,
            moves: Vec::with_capacity(8),
        }
    }

    /// Where it is.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether its freeze holds anything.
    pub fn holds(&self) -> bool {
        self.metadata.capabilities.freeze
    }

    /// The process whose end releases its hold.
    pub fn holder(&self) -> Option<u32> {
        self.participant.holder()
    }

    /// The process that releases its hold when that one's end does not.
    pub fn guardian(&self) -> Option<u32> {
        self.participant.guardian()
    }

    /// Kept free at the end of the budget for the thaw, which may take 100 ms by the contract.
    pub fn thaw_reserve(&self) -> Duration {
        (self.budget / 8).clamp(Duration::from_millis(10), Duration::from_millis(100))
    }

    /// When its thaw has to be asked for at the latest, whoever else is waited for.
    pub fn thaw_by(&self) -> Option<Instant> {
        self.held_until?.checked_sub(self.thaw_reserve() / 2)
    }

    fn advance(&mut self, event: Event) {
        match self.state.next(event) {
            Ok(state) => {
                self.state = state;
                self.moves.push((now_ns(), event, state));
            }
            // A fault of ours. The safe direction is to treat the writer as held.
            Err(illegal) => {
                tracing::error!(writer = %self.id, %illegal, "illegal move");
                debug_assert!(false, "{}: {illegal}", self.id);
            }
        }
    }

    /// Hands the moves made since to the log.
    pub fn report(&mut self, log: &mut EventLog) {
        for (at_ns, moved, state) in self.moves.drain(..) {
            log.record_at(at_ns, What::Writer { writer: self.id.clone(), moved, state });
        }
    }

    /// A call outside the freeze: a failure is final, and nothing is held.
    pub async fn call<'m, T, F>(
        &'m mut self,
        phase: Phase,
        limit: Duration,
        call: impl FnOnce(&'m mut dyn BackupParticipant) -> F,
    ) -> Result<T, WriterError>
    where
        F: Future<Output = Result<T, WriterError>> + 'm,
    {
        let Self { id, participant, state, moves, .. } = self;
        let result = guarded(id, action(phase), limit, call(&mut **participant)).await;
        if result.is_err()
            && let Ok(next) = state.next(Event::Failed(phase))
        {
            *state = next;
            moves.push((now_ns(), Event::Failed(phase), next));
        }
        result
    }

    /// Notes that a phase outside the freeze succeeded.
    pub fn done(&mut self, event: Event) {
        self.advance(event);
    }

    /// `prepare_snapshot`.
    ///
    /// # Errors
    /// The writer's; nothing is held.
    pub async fn prepare_snapshot(&mut self, set: Uuid) -> Result<(), WriterError> {
        let budget = PREPARE_SNAPSHOT.min(self.patience);
        let ctx = PhaseContext { set, budget };
        self.call(Phase::PrepareSnapshot, budget, async move |p| p.prepare_snapshot(&ctx).await).await?;
        self.advance(Event::SnapshotPrepared);
        Ok(())
    }

    /// `freeze`, to return within `limit`, which is no longer than the budget.
    ///
    /// Cancel-safe in one direction only: dropped or failed, the writer may be held; call
    /// [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// The writer's, a panic, or the deadline.
    pub async fn freeze(&mut self, set: Uuid, limit: Duration) -> Result<(), WriterError> {
        self.advance(Event::FreezeStarted);
        self.times.called = Some(now_ns());
        self.held_until = Some(Instant::now() + self.budget);
        let ctx = FreezeContext { set, budget: self.budget };
        let mark = guarded(&self.id, "freeze", limit, self.participant.freeze(&ctx)).await?;
        self.times.taken = Some(now_ns());
        self.advance(Event::FreezeDone);
        self.mark = Some(mark);
        Ok(())
    }

    /// `thaw`, from any state. `Ok` means that nothing is held.
    ///
    /// # Errors
    /// [`WriterError::StuckFrozen`] when that could not be confirmed; any other error when the hold had
    /// ended by itself, so that the cut cannot be trusted.
    pub async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        if !self.state.may_be_held() {
            return Ok(Thawed::WasNotHeld);
        }
        let was_held = self.state == State::WaitingForThaw && self.holds();
        self.advance(Event::ThawStarted);
        let thaw = AssertUnwindSafe(self.participant.thaw()).catch_unwind();
        let thawed = match tokio::time::timeout(THAW_LIMIT, thaw).await {
            Ok(Ok(thawed)) => thawed,
            Ok(Err(_)) => Err(self.stuck("it panicked in thaw")),
            Err(_) => Err(self.stuck("thaw was not answered")),
        };
        self.times.released = Some(now_ns());
        match thawed {
            Err(error @ WriterError::StuckFrozen { .. }) => {
                self.advance(Event::ThawFailed);
                Err(error)
            }
            // It held, and now says that it did not: the hold was lost somewhere before the thaw.
            Ok(Thawed::WasNotHeld) if was_held => {
                self.advance(Event::ThawDone);
                Err(WriterError::not_responding(&self.id, "its hold was lost before the thaw"))
            }
            other => {
                self.advance(Event::ThawDone);
                if other.is_ok() && self.overran() {
                    let (writer, budget_ms) = (self.id.clone(), millis(self.budget));
                    return Err(WriterError::TimedOut { writer, action: "thaw".into(), budget_ms });
                }
                other
            }
        }
    }

    fn stuck(&self, why: &str) -> WriterError {
        let cause = holdfast_writer_api::Cause::new(why);
        WriterError::StuckFrozen { writer: self.id.clone(), cause }
    }

    /// Whether the hold lasted longer than its budget: a late thaw is a failed backup (promise P3).
    fn overran(&self) -> bool {
        match (self.times.called, self.times.released) {
            (Some(called), Some(released)) => Duration::from_nanos(released - called) > self.budget,
            _ => false,
        }
    }

    /// Ends the writer's part. The participant is dropped, which releases whatever might be held.
    pub fn end(mut self, log: &mut EventLog) {
        if !self.state.may_be_held() {
            self.advance(Event::Ended);
        }
        self.report(log);
    }
}

/// A call with a deadline, in which a panic is the writer's error.
async fn guarded<T>(
    writer: &str,
    action: &str,
    limit: Duration,
    call: impl Future<Output = Result<T, WriterError>>,
) -> Result<T, WriterError> {
    match tokio::time::timeout(limit, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(WriterError::not_responding(writer, format!("it panicked in {action}"))),
        Err(_) => Err(WriterError::TimedOut {
            writer: writer.to_owned(),
            action: action.to_owned(),
            budget_ms: millis(limit),
        }),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const fn action(phase: Phase) -> &'static str {
    match phase {
        Phase::Identify => "identify itself",
        Phase::PrepareBackup => "prepare",
        Phase::PrepareSnapshot => "prepare for the snapshot",
        Phase::Freeze => "freeze",
        Phase::Thaw => "thaw",
        Phase::PostSnapshot => "finish the shadow copy",
        Phase::BackupComplete => "complete",
        Phase::BackupShutdown => "end",
    }
}

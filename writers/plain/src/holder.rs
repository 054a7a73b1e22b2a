//! Keeps one hold of any kind, and sees to it that it ends (promises P1 and P3).
//! Owns: taking it in a thread of its own, giving up while it waits, its deadline, release within 100 ms.
//! Leaves to others: what is held, how it is proved.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// How long a release waits for a thread that is just taking the hold; the contract allows 100 ms.
const RELEASE_WITHIN: Duration = Duration::from_millis(90);

/// A hold, or the place for one. Dropping it releases.
///
/// `T` is whatever releases when it is dropped.
pub(crate) struct Holder<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    slot: Mutex<Slot<T>>,
    changed: Condvar,
    /// Nobody wants the hold any more that is being taken.
    give_up: AtomicBool,
}

struct Slot<T> {
    state: State<T>,
    /// Counts the holds, so that the timer of an earlier one does not end a later.
    turn: u64,
}

enum State<T> {
    Free,
    Taking,
    Held(T),
    /// Ended at its deadline, not by a release.
    Expired,
}

/// What a release met.
pub(crate) enum Ended<T> {
    /// It was held until now; dropping this releases.
    Held(T),
    /// Nothing was held, and nothing will be.
    WasNotHeld,
    /// It had ended at its deadline.
    Expired,
    /// The thread that was taking it does not answer. It gives up as soon as it can.
    Stuck,
}

/// Why there is no hold.
#[derive(Debug)]
pub(crate) enum NotTaken<E> {
    /// The taking itself failed.
    Failed(E),
    /// Not taken before the deadline, or given up.
    Late,
    /// One hold at a time.
    NotFree,
    /// There is no thread to take it in.
    NoThread(io::Error),
    /// The code that takes it panicked.
    Panicked,
}

impl<T: Send + 'static> Holder<T> {
    pub(crate) fn new() -> Self {
        let slot = Mutex::new(Slot { state: State::Free, turn: 0 });
        Self { shared: Arc::new(Shared { slot, changed: Condvar::new(), give_up: AtomicBool::new(false) }) }
    }

    /// Takes the hold by running `take`, which may block but looks at its flag often, and keeps it until
    /// [`end`](Self::end) or `deadline`, whichever comes first. Dropping the future gives up.
    pub(crate) async fn take<M, E>(
        &self,
        deadline: Instant,
        take: impl FnOnce(&AtomicBool) -> Result<(T, M), E> + Send + 'static,
    ) -> Result<M, NotTaken<E>>
    where
        M: Send + 'static,
        E: Send + 'static,
    {
        let turn = {
            let mut slot = self.shared.lock();
            if !matches!(slot.state, State::Free) {
                return Err(NotTaken::NotFree);
            }
            slot.state = State::Taking;
            slot.turn += 1;
            self.shared.give_up.store(false, Ordering::SeqCst);
            slot.turn
        };
        let guard = GiveUp(Some(&self.shared));
        let (answer, answered) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        let body = move || run(&shared, turn, deadline, take, answer);
        if let Err(error) = thread::Builder::new().name("holder".into()).spawn(body) {
            self.shared.free();
            return Err(NotTaken::NoThread(error));
        }
        match tokio::time::timeout_at(deadline.into(), answered).await {
            Ok(Ok(Ok(mark))) => {
                guard.keep();
                Ok(mark)
            }
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(NotTaken::Panicked),
            Err(_) => Err(NotTaken::Late),
        }
    }

    /// Ends the hold, from any state and any number of times. Blocks for at most 90 ms, and only while it is just being
    /// taken.
    pub(crate) fn end(&self) -> Ended<T> {
        self.shared.end()
    }
}

impl<T> Drop for Holder<T> {
    fn drop(&mut self) {
        drop(self.shared.end());
    }
}

/// Gives up when the future that waits for the hold is dropped or fails.
struct GiveUp<'a, T>(Option<&'a Shared<T>>);

impl<T> GiveUp<'_, T> {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl<T> Drop for GiveUp<'_, T> {
    fn drop(&mut self) {
        if let Some(shared) = self.0 {
            drop(shared.end());
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Slot<T>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn free(&self) {
        self.lock().state = State::Free;
        self.changed.notify_all();
    }

    fn end(&self) -> Ended<T> {
        // Before the lock: whoever takes the hold looks at it again with the lock in hand.
        self.give_up.store(true, Ordering::SeqCst);
        let until = Instant::now() + RELEASE_WITHIN;
        let mut slot = self.lock();
        loop {
            match std::mem::replace(&mut slot.state, State::Free) {
                State::Held(hold) => {
                    self.changed.notify_all();
                    return Ended::Held(hold);
                }
                State::Free => return Ended::WasNotHeld,
                State::Expired => {
                    slot.state = State::Expired;
                    return Ended::Expired;
                }
                State::Taking => slot.state = State::Taking,
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ended::Stuck;
            }
            slot = self.changed.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The holder thread: takes, answers, and stays until the hold ended or its deadline came.
fn run<T, M, E>(
    shared: &Shared<T>,
    turn: u64,
    deadline: Instant,
    take: impl FnOnce(&AtomicBool) -> Result<(T, M), E>,
    answer: oneshot::Sender<Result<M, NotTaken<E>>>,
) {
    // An answer that nobody waits for any more is of no interest: the waiter has given up by its guard.
    let tell = |answer: oneshot::Sender<_>, result| drop(answer.send(result));
    let taken = catch_unwind(AssertUnwindSafe(|| take(&shared.give_up)));
    let (hold, mark) = match taken {
        Ok(Ok(taken)) => taken,
        Ok(Err(error)) => {
            shared.free();
            return tell(answer, Err(NotTaken::Failed(error)));
        }
        Err(_) => {
            shared.free();
            return tell(answer, Err(NotTaken::Panicked));
        }
    };
    let mut slot = shared.lock();
    if shared.give_up.load(Ordering::SeqCst) || Instant::now() >= deadline {
        // Under the lock: whoever sees `Free` finds it really released.
        drop(hold);
        slot.state = State::Free;
        shared.changed.notify_all();
        drop(slot);
        return tell(answer, Err(NotTaken::Late));
    }
    slot.state = State::Held(hold);
    shared.changed.notify_all();
    drop(slot);
    tell(answer, Ok(mark));

    let mut slot = shared.lock();
    while slot.turn == turn && matches!(slot.state, State::Held(_)) {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            slot.state = State::Expired;
            shared.changed.notify_all();
            return;
        }
        slot = shared.changed.wait_timeout(slot, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts as held until dropped.
    struct Flag(Arc<AtomicBool>);

    impl Flag {
        fn raise(flag: &Arc<AtomicBool>) -> Self {
            flag.store(true, Ordering::SeqCst);
            Self(Arc::clone(flag))
        }
    }

    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(false, Ordering::SeqCst);
        }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn a_hold_is_kept_until_it_is_ended_and_a_second_end_is_harmless() {
        let held = Arc::new(AtomicBool::new(false));
        let holder = Holder::new();
        let flag = Arc::clone(&held);
        let mark = holder.take(soon(), move |_| Ok::<_, ()>((Flag::raise(&flag), 7))).await.unwrap();
        assert_eq!(mark, 7);
        assert!(held.load(Ordering::SeqCst));
        assert!(matches!(holder.take(soon(), |_| Err::<(Flag, ()), _>(())).await, Err(NotTaken::NotFree)));
        assert!(matches!(holder.end(), Ended::Held(_)));
        assert!(!held.load(Ordering::SeqCst));
        assert!(matches!(holder.end(), Ended::WasNotHeld));
    }

    #[tokio::test]
    async fn a_hold_ends_at_its_deadline_and_is_not_reported_as_kept() {
        let held = Arc::new(AtomicBool::new(false));
        let holder = Holder::new();
        let flag = Arc::clone(&held);
        let deadline = Instant::now() + Duration::from_millis(50);
        holder.take(deadline, move |_| Ok::<_, ()>((Flag::raise(&flag), ()))).await.unwrap();
        while held.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        assert!(Instant::now() >= deadline);
        assert!(matches!(holder.end(), Ended::Expired));
        assert!(matches!(holder.end(), Ended::Expired));
    }

    #[tokio::test]
    async fn what_is_taken_after_it_was_given_up_is_released_at_once() {
        let held = Arc::new(AtomicBool::new(false));
        let holder = Holder::new();
        let flag = Arc::clone(&held);
        // Takes exactly when it is told not to: the worst moment.
        let taking = holder.take(soon(), move |give_up| {
            while !give_up.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            Ok::<_, ()>((Flag::raise(&flag), ()))
        });
        let dropped = tokio::time::timeout(Duration::from_millis(20), taking).await;
        assert!(dropped.is_err());
        assert!(matches!(holder.end(), Ended::WasNotHeld));
        assert!(!held.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_failure_or_a_panic_leaves_the_place_free() {
        let holder = Holder::<Flag>::new();
        let failed = holder.take(soon(), |_| Err::<(Flag, ()), _>("why")).await;
        assert!(matches!(failed, Err(NotTaken::Failed("why"))));
        let panicked = holder.take::<(), ()>(soon(), |_| panic!("on purpose")).await;
        assert!(matches!(panicked, Err(NotTaken::Panicked)));
        assert!(matches!(holder.end(), Ended::WasNotHeld));
    }

    #[tokio::test]
    async fn a_thread_that_does_not_look_at_its_flag_is_reported_within_100_ms() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let holder = Holder::<()>::new();
        let deadline = Instant::now() + Duration::from_millis(10);
        let late = holder
            .take::<(), ()>(deadline, move |_| {
                let _ = wait.recv();
                Err(())
            })
            .await;
        assert!(matches!(late, Err(NotTaken::Late)));
        let asked = Instant::now();
        assert!(matches!(holder.end(), Ended::Stuck));
        assert!(asked.elapsed() < Duration::from_millis(100));
        drop(go);
        while !matches!(holder.end(), Ended::WasNotHeld) {}
    }
}

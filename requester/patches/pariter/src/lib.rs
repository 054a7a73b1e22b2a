//! The pipeline of threads that the repository library archives with, without its polling.
//!
//! Stands in for the published crate of the same name (`docs/decisions/0009-pipeline.md`): that one wakes each waiting
//! stage ten thousand times in a second, and hands over every item by a meeting of two threads. Same names, same order of
//! results, and only what the library calls.

use std::{
    any::Any,
    collections::VecDeque,
    num::NonZeroUsize,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    thread::{Scope, available_parallelism},
};

use crossbeam_channel::{Receiver, Sender, bounded};

/// Items that a stage may be ahead of the next one. They are chunks of up to 8 MiB, and mostly of less than one.
const AHEAD: usize = 4;

/// What a stage hands on; a panic of its thread is one of the consumer's.
type Handed<T> = Result<T, Box<dyn Any + Send>>;

/// Results that may wait for one that takes longer: as many small files as are done beside a large one.
const AHEAD_OF_THE_FIRST: usize = 30;

/// Runs the stages of an iterator on threads of their own.
pub trait IteratorExt: Iterator + Sized {
    /// Maps with `f` on as many threads as there are processors. Results come in the order of the items; nothing is begun
    /// before the first is asked for.
    fn parallel_map_scoped<'env, 'scope, F, O>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        f: F,
    ) -> ParallelMap<Self, O>
    where
        F: FnMut(Self::Item) -> O + Send + Clone + 'env,
        Self::Item: Send + 'env,
        O: Send + 'env,
    {
        let threads = available_parallelism().map_or(1, NonZeroUsize::get);
        let in_flight = threads + AHEAD_OF_THE_FIRST;
        // As long as all that may be in flight, so that nobody ever waits for room.
        let (work, todo) = bounded::<(usize, Self::Item)>(in_flight);
        let (done, results) = bounded(in_flight);
        for _ in 0..threads {
            let (todo, done, mut f) = (todo.clone(), done.clone(), f.clone());
            scope.spawn(move || {
                for (number, item) in todo {
                    let result = catch_unwind(AssertUnwindSafe(|| f(item)));
                    if done.send((number, result)).is_err() {
                        break; // nobody asks any more
                    }
                }
            });
        }
        ParallelMap {
            items: self,
            work: Some(work),
            results,
            first: 0,
            slots: VecDeque::with_capacity(in_flight),
            in_flight,
        }
    }

    /// Runs all before this on a thread of its own, a few items ahead.
    fn readahead_scoped<'env, 'scope>(self, scope: &'scope Scope<'scope, 'env>) -> Readahead<Self::Item>
    where
        Self: Send + 'env,
        Self::Item: Send + 'env,
    {
        let (sender, items) = bounded(AHEAD);
        scope.spawn(move || {
            let passed_on = AssertUnwindSafe(|| {
                for item in self {
                    if sender.send(Ok(item)).is_err() {
                        break; // nobody asks any more
                    }
                }
            });
            if let Err(panic) = catch_unwind(passed_on) {
                let _ = sender.send(Err(panic));
            }
        });
        Readahead { items }
    }
}

impl<I: Iterator> IteratorExt for I {}

/// See [`IteratorExt::parallel_map_scoped`].
#[derive(Debug)]
pub struct ParallelMap<I: Iterator, O> {
    items: I,
    /// `None` once there are no more items.
    work: Option<Sender<(usize, I::Item)>>,
    results: Receiver<(usize, Handed<O>)>,
    /// The number of the item whose result is next.
    first: usize,
    /// The results from that one on, of all items that were given out.
    slots: VecDeque<Option<Handed<O>>>,
    in_flight: usize,
}

impl<I: Iterator, O> ParallelMap<I, O> {
    fn give_out(&mut self) {
        while let (Some(work), true) = (&self.work, self.slots.len() < self.in_flight) {
            let number = self.first + self.slots.len();
            // The threads live as long as this sender.
            let given = self.items.next().is_some_and(|item| work.send((number, item)).is_ok());
            if given { self.slots.push_back(None) } else { self.work = None }
        }
    }
}

impl<I: Iterator, O> Iterator for ParallelMap<I, O> {
    type Item = O;

    fn next(&mut self) -> Option<O> {
        self.give_out();
        while let Some(None) = self.slots.front() {
            let (number, result) = self.results.recv().expect("each thread answers what it took");
            self.slots[number - self.first] = Some(result);
        }
        let result = self.slots.pop_front()??;
        self.first += 1;
        Some(result.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

/// See [`IteratorExt::readahead_scoped`].
#[derive(Debug)]
pub struct Readahead<T> {
    items: Receiver<Handed<T>>,
}

impl<T> Iterator for Readahead<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let item = self.items.recv().ok()?;
        Some(item.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread::{scope, sleep},
        time::Duration,
    };

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items_whichever_is_ready_first() {
        let slow_first = |n: u64| {
            sleep(Duration::from_millis(if n.is_multiple_of(40) { 5 } else { 0 }));
            n * 2
        };
        let doubled: Vec<_> = scope(|s| {
            (0..400).readahead_scoped(s).parallel_map_scoped(s, slow_first).readahead_scoped(s).collect()
        });
        assert_eq!(doubled, (0..800).step_by(2).collect::<Vec<_>>());
    }

    #[test]
    fn no_stage_runs_away() {
        let made = AtomicUsize::new(0);
        let count = |n: usize| {
            made.fetch_add(1, Ordering::SeqCst);
            n
        };
        scope(|s| {
            let mut items = (0..100_000).map(count).readahead_scoped(s).parallel_map_scoped(s, |n| n);
            assert_eq!(items.next(), Some(0));
            sleep(Duration::from_millis(50));
            let threads = available_parallelism().map_or(1, NonZeroUsize::get);
            assert!(made.load(Ordering::SeqCst) <= threads + AHEAD_OF_THE_FIRST + AHEAD + 3);
        });
        // Nobody asked for more: the scope ended all the same.
        assert!(made.load(Ordering::SeqCst) < 1000);
    }

    #[test]
    fn a_panic_in_any_stage_reaches_whoever_asks_and_never_looks_like_the_end() {
        let fails = |n: u32| if n == 7 { panic!("seven") } else { n };
        let told = |panic: Box<dyn Any + Send>| panic.downcast_ref::<&str>().copied() == Some("seven");
        let mapped = catch_unwind(|| scope(|s| (0..20).parallel_map_scoped(s, fails).count()));
        assert!(told(mapped.unwrap_err()));
        let ahead = catch_unwind(|| scope(|s| (0..20).map(fails).readahead_scoped(s).count()));
        assert!(told(ahead.unwrap_err()));
    }
}

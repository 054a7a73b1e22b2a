//! Death at any point, and the start gate afterwards (promise P8).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::support::{App, Bench};
use crate::failure::{Exit, NOTHING_CHANGED};
use crate::restore::engine::RecoverOptions;
use crate::restore::registration::Registry;
use crate::restore::{NoSteps, Steps};
use crate::session::lock::SessionLock;

fn gate() -> RecoverOptions {
    RecoverOptions { writer: Some("app".into()), ..RecoverOptions::default() }
}

#[tokio::test]
async fn with_nothing_registered_the_gate_opens_without_anything() {
    let mut bench = Bench::new();
    bench.writers.clear();
    std::fs::remove_dir_all(&bench.paths.state).unwrap();
    std::fs::remove_dir_all(&bench.paths.runtime).unwrap();
    assert!(bench.recover(gate()).await.unwrap().restores.is_empty());
    assert!(!bench.paths.state.exists(), "it made nothing");
}

#[tokio::test]
async fn a_restore_that_died_anywhere_is_finished_by_the_gate_or_never_began() {
    for (point, outcome) in [
        ("staged", "discarded"),
        ("registered", "finished"),
        ("blocked", "finished"),
        ("recovered", "finished"),
        ("published", "finished"),
    ] {
        let bench = Bench::new();
        bench.die_at(point, bench.options()).await;
        let live = std::fs::metadata(bench.app().live.join("db"));
        match point {
            "staged" | "registered" => assert!(bench.app().is_changed(), "{point}"),
            "published" => assert_eq!(bench.app().read("db"), "then;committed;"),
            _ => assert!(live.unwrap().is_dir(), "the live path is blocked at {point}"),
        }
        let report = bench.recover(gate()).await.unwrap();
        assert_eq!(report.restores[0].outcome, outcome, "{point}");
        if outcome == "finished" {
            assert!(bench.app().is_restored(), "{point}");
            assert!(bench.paths.state.join("full-required/app.json").exists());
        } else {
            assert!(bench.app().is_changed(), "{point}");
        }
        assert!(bench.is_clean(), "{point}");
        assert!(bench.recover(gate()).await.unwrap().restores.is_empty(), "twice is harmless");
    }
}

#[tokio::test]
async fn a_crash_after_any_move_on_disk_ends_in_all_new_or_all_old() {
    let mut moves = 1;
    let (mut old, mut new) = (0, 0);
    loop {
        let bench = Bench::new();
        if !bench.stop_after(moves, bench.options()).await {
            assert!(bench.app().is_restored(), "without a crash it is restored");
            break;
        }
        bench
            .recover(gate())
            .await
            .unwrap_or_else(|failure| panic!("after {moves}: {failure}: {:?}", failure.causes()));
        if bench.app().is_restored() {
            new += 1;
        } else {
            assert!(bench.app().is_changed(), "half of both after {moves} moves");
            old += 1;
        }
        assert!(bench.is_clean(), "after {moves} moves");
        moves += 1;
    }
    assert!(old > 3 && new > 10, "{old} ended old, {new} new");
}

#[tokio::test]
async fn a_recovery_that_fails_leaves_the_path_blocked_until_it_works_or_is_given_up() {
    let bench = Bench::new();
    bench.faults.set("recover");
    let failed = bench.restore(bench.options()).await.unwrap_err();
    assert_eq!(failed.exit, Exit::Failed);
    assert!(failed.state.contains("blocked"), "{}", failed.state);
    assert!(failed.help.unwrap().contains("holdfast recover --writer app"));
    let again = bench.recover(gate()).await.unwrap_err();
    assert_eq!(again.exit, Exit::Failed);
    assert!(bench.app().live.join("db").is_dir(), "blocked");
    let refused = bench.restore(bench.options()).await.unwrap_err();
    assert!(refused.what.contains("unfinished"), "{}", refused.what);
    bench.faults.clear();
    bench.recover(gate()).await.unwrap();
    assert!(bench.app().is_restored() && bench.is_clean());
}

#[tokio::test]
async fn a_restore_can_be_given_up_at_every_point_also_without_its_writer_or_request() {
    for point in ["registered", "blocked", "recovered", "published"] {
        let mut bench = Bench::new();
        bench.die_at(point, bench.options()).await;
        bench.writers.clear();
        let unknown = bench.recover(gate()).await;
        if point == "published" {
            // All is in place: nothing has to wait for a writer that is gone.
            assert!(unknown.unwrap().restores[0].report.warnings[0].contains("not configured"));
            continue;
        }
        assert!(unknown.unwrap_err().what.contains("no such writer"), "{point}");
        for entry in std::fs::read_dir(bench.paths.restores()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().ends_with(".request.json") {
                std::fs::write(path, "damaged").unwrap();
            }
        }
        let no_request = bench.recover(gate()).await.unwrap_err();
        assert!(no_request.help.unwrap().contains("--roll-back"), "{point}");
        let options = RecoverOptions { roll_back: true, ..gate() };
        assert_eq!(bench.recover(options).await.unwrap().restores[0].outcome, "rolled-back");
        assert!(bench.app().is_changed() && bench.is_clean(), "{point}");
    }
}

#[tokio::test]
async fn a_step_that_fails_after_the_files_are_in_place_is_done_by_the_next_recover() {
    let bench = Bench::new();
    bench.faults.set("step");
    let failed = bench.restore(bench.options()).await.unwrap_err();
    assert!(failed.state.contains("are restored"), "{}", failed.state);
    bench.faults.clear();
    bench.recover(gate()).await.unwrap();
    assert!(bench.app().is_restored() && bench.is_clean());
}

#[tokio::test]
async fn a_gate_run_by_a_restores_own_last_step_opens_and_one_before_does_not() {
    let bench = Bench::new();
    bench.die_at("published", bench.options()).await;
    let lock = SessionLock::take(&bench.paths.runtime, "restore").unwrap();
    assert!(bench.recover(gate()).await.unwrap().restores.is_empty());
    drop(lock);
    let bench = Bench::new();
    bench.die_at("blocked", bench.options()).await;
    let lock = SessionLock::take(&bench.paths.runtime, "restore").unwrap();
    assert_eq!(bench.recover(gate()).await.unwrap_err().exit, Exit::Locked);
    drop(lock);
}

#[tokio::test]
async fn a_marker_that_cannot_be_read_keeps_the_gate_shut() {
    let bench = Bench::new();
    let path = Registry::open(&bench.paths.state).unwrap().path(uuid::Uuid::now_v7());
    std::fs::write(path, "{").unwrap();
    let failed = bench.recover(gate()).await.unwrap_err();
    assert_eq!(failed.exit, Exit::Failed);
}

#[tokio::test]
async fn what_a_dead_restore_staged_does_not_stand_in_the_way_of_the_next() {
    let bench = Bench::new();
    bench.die_at("staged", bench.options()).await;
    // And a request whose marker is gone.
    let orphan = bench.paths.restores().join(format!("{}.request.json", uuid::Uuid::now_v7()));
    std::fs::write(orphan, "{}").unwrap();
    bench.restore(bench.options()).await.unwrap();
    assert!(bench.app().is_restored() && bench.is_clean());
    assert_eq!(std::fs::read_dir(bench.paths.restores()).unwrap().count(), 0);
}

fn two() -> Bench {
    Bench::with(|root| ["first", "second"].map(|id| App::new(root, id)).into())
}

fn second() -> RecoverOptions {
    RecoverOptions { writer: Some("second".into()), ..RecoverOptions::default() }
}

/// All new, or all old; `None` for anything else.
fn is_new(bench: &Bench) -> Option<bool> {
    if bench.apps.iter().all(App::is_restored) {
        return Some(true);
    }
    bench.apps.iter().all(App::is_changed).then_some(false)
}

/// Whoever starts an application now must not find one on old data beside another on new.
fn assert_not_mixed(bench: &Bench, context: &str) {
    let old = bench.apps.iter().any(|app| app.read("db") == "now;");
    let new = bench.apps.iter().any(|app| app.read("db") == "then;committed;");
    assert!(!(old && new), "{context}: old data within reach beside restored ones");
}

#[tokio::test]
async fn two_writers_that_died_anywhere_are_both_finished_or_neither_by_the_gate_of_either() {
    for (point, times) in
        [("staged", 1), ("registered", 2), ("blocked", 2), ("recovered", 2), ("published", 2)]
    {
        for nth in 1..=times {
            let context = format!("{point} of writer {nth}");
            let bench = two();
            bench.die_at_nth(point, nth, bench.options()).await;
            assert_not_mixed(&bench, &context);
            let report = bench.recover(second()).await.unwrap();
            let forward = point != "staged" && (point, nth) != ("registered", 1);
            assert_eq!(is_new(&bench), Some(forward), "{context}");
            let outcome = if forward { "finished" } else { "discarded" };
            let found: Vec<_> =
                report.restores.iter().map(|one| (one.report.writer.as_str(), one.outcome)).collect();
            assert_eq!(found, [("first", outcome), ("second", outcome)], "{context}");
            assert!(bench.is_clean(), "{context}");
            let first = RecoverOptions { writer: Some("first".into()), ..RecoverOptions::default() };
            assert!(bench.recover(first).await.unwrap().restores.is_empty(), "{context}: nothing is left");
        }
    }
}

#[tokio::test]
async fn two_writers_are_given_up_together_wherever_they_died() {
    for point in ["registered", "blocked", "recovered", "published"] {
        for nth in 1..=2 {
            let bench = two();
            bench.die_at_nth(point, nth, bench.options()).await;
            bench.recover(RecoverOptions { roll_back: true, ..second() }).await.unwrap();
            assert_eq!(is_new(&bench), Some(false), "{point} of writer {nth}");
            assert!(bench.is_clean(), "{point} of writer {nth}");
        }
    }
}

#[tokio::test]
async fn two_writers_stopped_after_any_move_are_never_mixed_also_when_their_recovery_or_rollback_is_stopped()
{
    for roll_back in [false, true] {
        let mut moves = 1;
        let (mut old, mut new) = (0, 0);
        loop {
            let context = format!("after {moves} moves, roll back: {roll_back}");
            let bench = two();
            if !bench.stop_after(moves, bench.options()).await {
                break;
            }
            assert_not_mixed(&bench, &context);
            // The recovery dies too, anywhere.
            let options = RecoverOptions { roll_back, ..second() };
            bench.recover_until(moves * 7 % 23 + 1, options).await;
            assert_not_mixed(&bench, &context);
            // And this time nobody asks for a rollback: one that was begun is ended.
            bench
                .recover(second())
                .await
                .unwrap_or_else(|failure| panic!("{context}: {failure}: {:?}", failure.causes()));
            bench.recover(RecoverOptions::default()).await.unwrap();
            match is_new(&bench) {
                Some(true) => new += 1,
                Some(false) => old += 1,
                None => panic!("{context}: half of both"),
            }
            assert!(bench.is_clean(), "{context}");
            moves += 1;
        }
        assert!(old > 5 && new > 5, "{old} ended old, {new} new");
    }
}

#[tokio::test]
async fn a_second_writer_that_does_not_take_the_restore_takes_both_back_before_anything_is_blocked() {
    let bench = two();
    let registered = AtomicUsize::new(0);
    let faults = bench.faults.clone();
    let at = move |point: &str| {
        if point == "registered" && registered.fetch_add(1, Ordering::SeqCst) == 1 {
            faults.set("register-second");
        }
        assert_ne!(point, "blocked");
    };
    let failed = bench.restore_at(bench.options(), &at, Arc::new(NoSteps)).await.unwrap_err();
    assert_eq!((failed.exit, failed.state.as_str()), (Exit::Refused, NOTHING_CHANGED));
    assert_eq!(is_new(&bench), Some(false));
    assert!(bench.is_clean());
    assert!(bench.calls().contains(&"first unregister".to_owned()), "{:?}", bench.calls());
}

#[tokio::test]
async fn a_failure_of_the_second_writer_leaves_all_blocked_and_says_so() {
    let bench = Bench::with(|root| ["a", "b", "c"].map(|id| App::new(root, id)).into());
    let recovered = AtomicUsize::new(0);
    let faults = bench.faults.clone();
    let at = move |point: &str| {
        if point == "recovered" && recovered.fetch_add(1, Ordering::SeqCst) == 0 {
            faults.set("recover");
        }
    };
    let failed = bench.restore_at(bench.options(), &at, Arc::new(NoSteps)).await.unwrap_err();
    assert_eq!(failed.exit, Exit::Failed);
    assert!(failed.state.contains("of `b` is blocked"), "{}", failed.state);
    assert!(failed.state.contains("blocked with it: `a`, `c`"), "{}", failed.state);
    assert!(bench.apps.iter().all(|app| app.live.join("db").is_dir()));
    bench.faults.clear();
    bench.recover(RecoverOptions { writer: Some("c".into()), ..RecoverOptions::default() }).await.unwrap();
    assert_eq!(is_new(&bench), Some(true));
}

/// Tells that a step was reached, then stays in it until it is let go.
struct Stuck(std::sync::mpsc::SyncSender<()>, std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

impl Steps for Stuck {
    fn reached(&self, _: &'static str) -> std::ops::ControlFlow<()> {
        let _ = self.0.send(());
        // Ends when the other side has gone, too.
        let _ = self.1.lock().unwrap().recv();
        std::ops::ControlFlow::Break(())
    }
}

#[tokio::test]
async fn an_interrupted_restore_keeps_the_session_lock_until_its_step_on_disk_has_ended() {
    let bench = Bench::new();
    let (tell, reached) = std::sync::mpsc::sync_channel(8);
    let (let_go, stay) = std::sync::mpsc::channel();
    let reached = tokio::task::spawn_blocking(move || reached.recv().unwrap());
    tokio::select! {
        done = bench.restore_at(bench.options(), &|_| {}, Arc::new(Stuck(tell, stay.into()))) => panic!("{:?}", done.err()),
        _ = reached => {}
    }
    // The restore's future is gone now, as after Ctrl-C.
    assert!(SessionLock::take(&bench.paths.runtime, "recover").is_err());
    drop(let_go);
    let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while SessionLock::take(&bench.paths.runtime, "recover").is_err() {
        assert!(std::time::Instant::now() < until, "the lock was never given back");
        tokio::task::yield_now().await;
    }
}

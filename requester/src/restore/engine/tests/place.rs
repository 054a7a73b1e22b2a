//! Restores in place.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use holdfast_writer_api::{ComponentRef, RestoreMethod, RestoreRank};

use super::support::{App, Bench};
use crate::failure::{Exit, NOTHING_CHANGED};
use crate::restore::engine::RestoreOptions;
use crate::session::lock::SessionLock;

#[tokio::test]
async fn a_restore_in_place_brings_back_what_was_and_leaves_nothing_of_now() {
    let bench = Bench::new();
    let report = bench.restore(bench.options()).await.unwrap();
    assert!(bench.app().is_restored());
    assert!(bench.is_clean());
    let expected =
        ["check", "register", "recover", "verify", "restart", "unregister"].map(|call| format!("app {call}"));
    assert_eq!(bench.calls(), expected);
    let writer = &report.writers[0];
    assert_eq!(writer.recovered, ["log appended"]);
    assert!(writer.full_required && bench.paths.state.join("full-required/app.json").exists());
    assert_eq!(writer.old_data, Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_plan_changes_nothing_and_says_what_would_be_done() {
    let bench = Bench::new();
    let plan = bench.plan(bench.options()).await.unwrap();
    assert_eq!(plan.refusal().map(|failure| failure.what), None);
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["schema"], "holdfast.restore-plan/1");
    assert_eq!(json["writers"][0]["units"].as_array().unwrap().len(), 2);
    assert_eq!(json["writers"][0]["steps"][0], "start the application");
    assert!(plan.checks.iter().all(|check| check.ok));
    assert!(bench.app().is_changed() && bench.is_clean() && bench.calls().is_empty());
}

#[tokio::test]
async fn an_application_that_has_a_file_open_is_seen_and_the_users_word_does_not_cover_it() {
    let bench = Bench::new();
    let mut holder = Command::new("sh")
        .args(["-c", "exec 3<\"$1\"; echo ready; read gone", "sh"])
        .arg(bench.app().live.join("certs/deep/2.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let refused = bench.restore(bench.options()).await.unwrap_err();
    drop(holder.stdin.take());
    holder.wait().unwrap();
    assert_eq!((refused.exit, refused.state.as_str()), (Exit::Refused, NOTHING_CHANGED));
    assert!(refused.what.contains("it runs"), "{}", refused.what);
    assert!(bench.app().is_changed() && bench.is_clean());
    bench.restore(bench.options()).await.unwrap();
    assert!(bench.app().is_restored());
}

#[tokio::test]
async fn stop_commands_are_run_and_reported_before_it_is_asked_again() {
    let mut bench = Bench::new();
    let file = bench.app().live.join("db");
    let mut holder = Command::new("sh")
        .args(["-c", "exec 3<\"$1\"; echo ready; while [ -e \"$1.stop\" ]; do sleep 0.02; done", "sh"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    fs::write(bench.app().live.join("db.stop"), "").unwrap();
    let stop = vec!["rm".to_owned(), file.with_file_name("db.stop").display().to_string()];
    bench.writers[0].entry.common.stop = vec![stop];
    let options = RestoreOptions { stop: true, ..bench.options() };
    let reaper = std::thread::spawn(move || holder.wait().unwrap());
    let report = bench.restore(options).await.unwrap();
    reaper.join().unwrap();
    assert!(report.stopped.len() == 1 && report.stopped[0].ok);
    assert!(bench.app().is_restored());
}

#[tokio::test]
async fn one_writer_that_refuses_what_was_staged_keeps_all_of_them_from_being_touched() {
    let bench = Bench::with(|root| vec![App::new(root, "a"), App::new(root, "b")]);
    // The first passes its check, the second finds its data damaged.
    bench.faults.set("check");
    let refused = bench.restore(bench.options()).await.unwrap_err();
    assert_eq!((refused.exit, refused.state.as_str()), (Exit::Refused, NOTHING_CHANGED));
    assert!(bench.apps.iter().all(App::is_changed) && bench.is_clean());
    assert!(!bench.calls().iter().any(|call| call.contains("register")));
}

#[tokio::test]
async fn a_writer_that_does_not_take_the_registration_turns_it_into_a_refusal() {
    let bench = Bench::new();
    bench.faults.set("register");
    let refused = bench.restore(bench.options()).await.unwrap_err();
    assert_eq!((refused.exit, refused.state.as_str()), (Exit::Refused, NOTHING_CHANGED));
    assert!(bench.app().is_changed() && bench.is_clean());
}

#[tokio::test]
async fn writers_come_back_by_rank_and_after_what_they_depend_on() {
    let bench = Bench::with(|root| {
        let mut apps: Vec<App> = ["web", "ca", "dir", "jobs"].map(|id| App::new(root, id)).into();
        apps[0].needs = vec!["jobs"];
        apps[1].rank = RestoreRank::Services;
        apps[2].rank = RestoreRank::Directory;
        apps
    });
    let report = bench.restore(bench.options()).await.unwrap();
    let order: Vec<_> = report.writers.iter().map(|writer| writer.writer.as_str()).collect();
    assert_eq!(order, ["ca", "dir", "jobs", "web"]);
    let calls = bench.calls();
    let first = |what: &str| calls.iter().position(|call| call.ends_with(what)).unwrap();
    let last = |what: &str| calls.iter().rposition(|call| call.ends_with(what)).unwrap();
    assert!(last("check") < first(" register"), "all are checked before one is registered: {calls:?}");
}

#[tokio::test]
async fn dependencies_in_a_circle_are_refused_by_name() {
    let bench = Bench::with(|root| {
        let mut apps: Vec<App> = ["a", "b"].map(|id| App::new(root, id)).into();
        apps[0].needs = vec!["b"];
        apps[1].needs = vec!["a"];
        apps
    });
    let refused = bench.plan(bench.options()).await.err().unwrap();
    assert_eq!(refused.exit, Exit::Refused);
    assert!(refused.what.contains("a → b → a"), "{}", refused.what);
}

#[tokio::test]
async fn a_folder_of_which_something_was_left_out_keeps_the_old_one_beside_it() {
    let bench = Bench::with(|root| {
        let mut app = App::new(root, "app");
        app.whole = false;
        vec![app]
    });
    let plan = bench.plan(bench.options()).await.unwrap();
    assert!(plan.writers[0].keep_old.as_deref().unwrap().contains("certs"));
    let report = bench.restore(bench.options()).await.unwrap();
    assert!(bench.app().is_restored());
    let kept = report.writers[0].old_data.iter().find(|path| path.ends_with("certs")).unwrap();
    assert_eq!(fs::read_to_string(kept.join("3.pem")).unwrap(), "new since");
    // It can still be undone.
    let options = super::super::RecoverOptions { roll_back: true, assume_stopped: true, writer: None };
    bench.recover(options).await.unwrap();
    assert!(bench.app().is_changed() && bench.is_clean());
}

#[tokio::test]
async fn chosen_components_come_back_alone_and_unknown_ones_are_a_usage_error() {
    let bench = Bench::new();
    let only = |name: &str| {
        let components = [("app".to_owned(), vec![ComponentRef::from_full_name(name)])].into();
        RestoreOptions { components, ..bench.options() }
    };
    let refused = bench.restore(only("nothing")).await.unwrap_err();
    assert_eq!(refused.exit, Exit::Usage);
    // Without its database the writer in memory has nothing to check: the folder cannot come alone.
    bench.restore(only("database")).await.unwrap();
    assert_eq!(bench.app().read("db"), "then;committed;");
    assert_eq!(bench.app().read("certs/3.pem"), "new since");
    let unknown = RestoreOptions { writers: vec!["other".into()], ..bench.options() };
    assert_eq!(bench.restore(unknown).await.unwrap_err().exit, Exit::Usage);
}

#[tokio::test]
async fn a_restore_method_that_forbids_the_place_is_a_refusal() {
    for method in [RestoreMethod::IfNotThere, RestoreMethod::ToAlternateLocation, RestoreMethod::Custom] {
        let bench = Bench::with(|root| {
            let mut app = App::new(root, "app");
            app.method = method;
            vec![app]
        });
        assert_eq!(bench.restore(bench.options()).await.unwrap_err().exit, Exit::Refused, "{method:?}");
        assert!(bench.app().is_changed() && bench.is_clean());
    }
}

#[tokio::test]
async fn a_second_session_is_told_that_the_lock_is_taken() {
    let bench = Bench::new();
    let lock = SessionLock::take(&bench.paths.runtime, "backup").unwrap();
    let refused = bench.restore(bench.options()).await.unwrap_err();
    assert_eq!(refused.exit, Exit::Locked);
    drop(lock);
    assert!(bench.app().is_changed() && bench.is_clean());
}

#[tokio::test]
async fn a_link_swapped_in_for_the_database_is_refused_and_not_followed() {
    let bench = Bench::new();
    let other = bench.root.path().join("somebody-elses");
    fs::write(&other, "precious").unwrap();
    fs::remove_file(bench.app().live.join("db")).unwrap();
    std::os::unix::fs::symlink(&other, bench.app().live.join("db")).unwrap();
    let refused = bench.restore(bench.options()).await.unwrap_err();
    assert_eq!(refused.exit, Exit::Refused);
    assert_eq!(fs::read_to_string(other).unwrap(), "precious");
    assert!(bench.is_clean());
}

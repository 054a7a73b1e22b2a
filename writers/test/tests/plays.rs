//! The program as a writer: it keeps the contract where the script says nothing, and breaks it as the script says.

mod common;

use std::time::{Duration, Instant};

use common::{Back, PATIENCE, PROGRAM, SET, Site, Spoken, eventually, kinds, text};
use holdfast_writer_api::protocol::{Launcher, RemoteWriter};
use holdfast_writer_api::*;
use holdfast_writer_test::journal::Record;
use holdfast_writer_test::script::ACTIONS;
use serde_json::json;
use uuid::Uuid;

fn ctx(ms: u64) -> PhaseContext {
    PhaseContext { set: SET.parse().unwrap(), budget: Duration::from_millis(ms) }
}

fn freeze_ctx(ms: u64) -> FreezeContext {
    FreezeContext { set: SET.parse().unwrap(), budget: Duration::from_millis(ms) }
}

fn remote(site: &Site) -> RemoteWriter {
    RemoteWriter::new(Launcher::new(PROGRAM, [""; 0]), "w", "test", site.settings())
}

async fn begin(writer: &RemoteWriter) -> Box<dyn BackupParticipant> {
    let request = BackupRequest {
        set: set(),
        backup_type: BackupType::Full,
        components: vec![ComponentRef::from_full_name("data")],
        previous_stamps: Default::default(),
    };
    writer.begin_backup(request).await.unwrap()
}

fn set() -> Uuid {
    SET.parse().unwrap()
}

/// The contract's own client, which does everything right, and a writer whose script says nothing of misbehaviour.
#[tokio::test]
async fn a_requester_that_does_right_leaves_a_journal_that_breaks_no_rule() {
    let site = Site::new("[[streams]]\nname = \"s\"\ncomponent = \"data\"\npath = \"PATH\"\n");
    let file = site.path("data/file");
    let script = std::fs::read_to_string(site.path("script.toml")).unwrap();
    let script = script.replace("\"PATH\"", &format!("{:?}", text(&file)));
    std::fs::write(site.path("script.toml"), script.replace("recover = true", "stream = true")).unwrap();
    let writer = remote(&site);
    let metadata = writer.identify().await.unwrap();
    assert_eq!((metadata.id.as_str(), metadata.writer_type.as_str()), ("w", "test"));
    let components = vec![ComponentRef::from_full_name("data")];
    let request = BackupRequest {
        set: set(),
        backup_type: BackupType::Full,
        components: components.clone(),
        previous_stamps: Default::default(),
    };
    let mut run = writer.begin_backup(request).await.unwrap();
    run.prepare_backup(&ctx(5000)).await.unwrap();
    assert_eq!(run.list_streams().await.unwrap()[0].size_hint, 7);
    let stream = run.open_stream("s").await.unwrap();
    assert_eq!(std::io::read_to_string(std::fs::File::from(stream.fd)).unwrap(), "content");
    run.close_stream("s", 7).await.unwrap();
    run.prepare_snapshot(&ctx(5000)).await.unwrap();
    run.freeze(&freeze_ctx(5000)).await.unwrap();
    assert!(!site.is_free());
    assert_eq!(run.thaw().await, Ok(Thawed::Released));
    assert!(site.is_free());
    assert_eq!(run.thaw().await, Ok(Thawed::WasNotHeld));
    let folder = site.path("data");
    let shadow = ShadowContext { set: set(), roots: vec![(folder.clone(), folder)] };
    assert_eq!(run.post_snapshot(&shadow).await.unwrap().stamps.len(), 1);
    let outcome = BackupOutcome {
        set: set(),
        backup_type: BackupType::Full,
        succeeded: components,
        stored_logs: vec![],
    };
    run.backup_complete(&outcome).await.unwrap();
    drop(run);
    let (code, printed) = site.check();
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.starts_with("ok: 2 conversations"), "{printed}");
}

#[test]
fn the_hold_ends_at_its_deadline_and_the_thaw_after_it_says_so() {
    let site = Site::new("");
    let mut spoken = Spoken::begun(&site);
    spoken.phase("Freeze", 60);
    assert!(matches!(spoken.back(PATIENCE), Back::Answer(_)));
    assert!(!site.is_free());
    eventually("the end of the hold", || site.is_free());
    let late = spoken.answer("Thaw", json!({}));
    assert_eq!(late.error.as_deref(), Some("io.holdfast.Writer.TimedOut"));
    assert_eq!(spoken.close().0, Some(0));
    let lines = site.journal();
    assert!(
        kinds(&lines).join(" ").ends_with("Freeze ok released Thaw TimedOut ended"),
        "{:?}",
        kinds(&lines)
    );
}

#[test]
fn a_hold_that_somebody_else_has_is_busy_and_a_closed_socket_releases() {
    let site = Site::new("");
    let mut first = Spoken::begun(&site);
    first.phase("Freeze", 20_000);
    assert!(matches!(first.back(PATIENCE), Back::Answer(_)));
    let mut second = Spoken::begun(&site);
    second.phase("Freeze", 30);
    let Back::Answer(busy) = second.back(PATIENCE) else { panic!() };
    assert_eq!(busy.error.as_deref(), Some("io.holdfast.Writer.Busy"));
    assert_eq!(first.close().0, Some(0));
    assert!(site.is_free());
}

/// What a requester sees of each action, in `PrepareBackup`.
#[test]
fn every_action_does_what_it_says() {
    for action in ACTIONS {
        let (more, budget) = match action {
            "delay" => ("ms = 120", 5000),
            "late" => ("ms = 60", 60),
            "fail" => ("class = \"busy\"\nmessage = \"not now\"", 5000),
            "answer" => ("json = \"7\"", 5000),
            "stderr" => ("text = \"hear me\"\nlines = 3", 5000),
            "endless" => ("bytes = 20000000", 5000),
            "descriptors" => ("count = 2\nof = \"folder\"", 5000),
            "exit" => ("code = 9", 5000),
            _ => ("", 5000),
        };
        let site = Site::new(&format!("[[on]]\nphase = \"prepare-backup\"\ndo = \"{action}\"\n{more}\n"));
        let mut spoken = Spoken::begun(&site);
        let asked = Instant::now();
        spoken.phase("PrepareBackup", budget);
        let silent = matches!(action, "hang" | "silent" | "stop" | "half" | "fork");
        let back = spoken.back(if silent { Duration::from_millis(200) } else { PATIENCE });
        seen(action, &back, asked.elapsed(), &mut spoken);
        let noted = kinds(&site.journal());
        let honest = matches!(action, "fail" | "delay" | "late" | "answer" | "stderr");
        assert_eq!(noted.contains(&action.to_owned()), !honest, "{action}: {noted:?}");
        match action {
            "exit" => assert_eq!(spoken.close().0, Some(9)),
            "kill" => assert_eq!(spoken.close().0, None),
            "panic" => {
                let (code, said) = spoken.close();
                assert!(code == Some(101) && said.contains("as the script says"), "{code:?} {said}");
            }
            "stderr" => assert_eq!(spoken.close(), (Some(0), "hear me\n".repeat(3))),
            "silent" | "cut" => assert_eq!(spoken.close().0, Some(0), "{action}"),
            _ => spoken.kill(),
        }
        if action == "fork" {
            end_what_was_left(&site);
        }
    }
}

fn seen(action: &str, back: &Back, took: Duration, spoken: &mut Spoken) {
    let is_right = matches!(back, Back::Answer(answer) if answer.error.is_none() && !answer.continues);
    let sees = match action {
        "fail" => matches!(back, Back::Answer(answer)
            if answer.error.as_deref() == Some("io.holdfast.Writer.Busy")
                && answer.parameters == json!({"cause": {"message": "not now"}})),
        "delay" | "late" => is_right && took >= Duration::from_millis(120),
        "answer" => matches!(back, Back::Answer(answer) if answer.parameters == json!(7)),
        "stderr" => is_right,
        "garbage" => matches!(back, Back::Nonsense),
        "half" => matches!(back, Back::Nothing { half: true }),
        "cut" => matches!(back, Back::Closed { half: true }),
        "twice" => is_right && spoken.has_more(),
        "continues" => matches!(back, Back::Answer(answer) if answer.continues),
        "endless" => matches!(back, Back::Nonsense),
        "descriptors" => is_right && spoken.descriptors.len() == 2,
        "hang" | "silent" | "stop" => matches!(back, Back::Nothing { half: false }),
        "close-stdin" => {
            matches!(back, Back::Closed { half: false }) && matches!(spoken.child.try_wait(), Ok(None))
        }
        "exit" | "kill" | "panic" => matches!(back, Back::Closed { half: false }),
        // The one that was left has the socket still.
        "fork" => matches!(back, Back::Nothing { .. }),
        other => panic!("{other} is not looked at"),
    };
    assert!(sees, "{action}: {back:?} after {took:?}");
}

/// The process that `fork` leaves is in the journal, and `check` tells of it.
fn end_what_was_left(site: &Site) {
    let left = site.journal().into_iter().rev().find(|line| matches!(line.record, Record::Started { .. }));
    let left = left.unwrap().process;
    assert!(left.is_alive());
    let (code, printed) = site.check();
    assert!(code == Some(7) && common::rules(&printed).contains(&"R21"), "{code:?} {printed}");
    let pid = rustix::process::Pid::from_raw(i32::try_from(left.pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("the end of what was left", || !left.is_alive());
}

#[test]
fn a_hold_is_taken_before_a_freeze_goes_wrong_and_only_a_thaw_that_is_done_ends_it() {
    let site = Site::new(
        "[[on]]\nphase = \"freeze\"\ndo = \"fail\"\n[[on]]\nphase = \"thaw\"\ndo = \"fail\"\nnth = 1\n",
    );
    let mut spoken = Spoken::begun(&site);
    spoken.phase("Freeze", 20_000);
    assert!(matches!(spoken.back(PATIENCE), Back::Answer(answer) if answer.error.is_some()));
    assert!(!site.is_free());
    assert!(spoken.answer("Thaw", json!({})).error.is_some());
    assert!(!site.is_free());
    assert_eq!(spoken.done("Thaw", json!({})), json!({"thawed": "released"}));
    assert!(site.is_free());
    spoken.close();
}

#[test]
fn calls_are_counted_over_all_processes_of_a_writer() {
    let site = Site::new("[[on]]\nphase = \"identify\"\ndo = \"fail\"\nnth = 2\n");
    let failed: Vec<_> = (0..3)
        .map(|_| {
            let mut spoken = Spoken::greeted(&site);
            let failed = spoken.answer("Identify", json!({})).error.is_some();
            spoken.close();
            failed
        })
        .collect();
    assert_eq!(failed, [false, true, false]);
}

#[test]
fn what_is_merged_into_an_answer_leaves_the_rest_of_it_right() {
    let site =
        Site::new("[[on]]\nphase = \"identify\"\ndo = \"answer\"\nmerge = { metadata = { id = \"x\" } }\n");
    let metadata = Spoken::greeted(&site).done("Identify", json!({}))["metadata"].clone();
    assert_eq!(
        (metadata["id"].as_str(), metadata["components"][0]["name"].as_str()),
        (Some("x"), Some("data"))
    );
}

#[test]
fn settings_that_cannot_be_used_are_told_with_their_key() {
    let site = Site::new("");
    for (settings, key, word) in [
        (json!({"script": site.path("script.toml")}), "journal", "missing field"),
        (json!({"script": "/nonexistent", "journal": site.path("j")}), "script", "cannot read"),
        (json!({"script": site.path("script.toml"), "journal": "/nonexistent/j"}), "journal", "cannot"),
        (json!({"script": 1, "journal": 2, "more": 3}), "", "invalid type"),
    ] {
        let mut spoken = Spoken::start();
        let answer = spoken.hello(settings);
        assert_eq!(answer.error.as_deref(), Some("io.holdfast.Writer.InvalidSetting"), "{answer:?}");
        assert!(answer.parameters["problem"].as_str().unwrap().contains(word), "{answer:?}");
        assert!(key.is_empty() || answer.parameters["key"] == json!(key), "{answer:?}");
        spoken.close();
    }
    let mut spoken = Spoken::start();
    assert!(matches!(
        spoken.answer("Identify", json!({})).error.as_deref(),
        Some("io.holdfast.Writer.OutOfOrder")
    ));
    spoken.close();
}

/// The requester's patience with a writer that hangs where it holds nothing, in a short call and in a long one.
#[tokio::test]
async fn a_writer_that_hangs_while_nothing_is_held_is_given_up_when_patience_ends() {
    let site = Site::new(
        "[[on]]\nphase = \"post-snapshot\"\ndo = \"hang\"\n[[on]]\nphase = \"identify\"\ndo = \"hang\"\n",
    );
    let limit = Duration::from_secs(1);
    let gives_up = |error: &WriterError| matches!(error, WriterError::TimedOut { budget_ms: 1000, .. });
    let writer = remote(&site).patience(Some(limit));
    assert!(writer.identify().await.is_err_and(|error| gives_up(&error)));
    let mut run = begin(&writer).await;
    let shadow = ShadowContext { set: set(), roots: vec![] };
    assert!(run.post_snapshot(&shadow).await.is_err_and(|error| gives_up(&error)));
}

/// What the contract's client makes of descriptors that are too few, too many, or of the wrong kind.
#[tokio::test]
async fn a_wrong_number_of_descriptors_or_of_a_wrong_kind_opens_no_stream() {
    for (step, told) in [
        ("count = 0", "no file descriptor"),
        ("count = 2", "that nobody asked for"),
        ("count = 1\nof = \"folder\"", "no pipe, socket or regular file"),
        ("count = 1\nof = \"write-end\"", "cannot be read from"),
    ] {
        let site = Site::new(&format!("[[on]]\nphase = \"open-stream\"\ndo = \"descriptors\"\n{step}\n"));
        let file = site.path("data/file");
        let script = std::fs::read_to_string(site.path("script.toml")).unwrap();
        let stream = format!("[[streams]]\nname = \"s\"\ncomponent = \"data\"\npath = {file:?}\n");
        std::fs::write(site.path("script.toml"), script.replace("recover = true", "stream = true") + &stream)
            .unwrap();
        let mut run = begin(&remote(&site)).await;
        let error = run.open_stream("s").await.unwrap_err();
        assert!(chain(&error).contains(told), "{step}: {}", chain(&error));
    }
}

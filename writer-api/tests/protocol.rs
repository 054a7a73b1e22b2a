//! A writer in a process of its own: whatever happens to it or to us, its application is free again.
//!
//! The writer holds a lock on a file; the tests watch that lock from outside, not the writer's word.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use common::{STREAM_BYTES, application, is_free, stream_content};
use holdfast_writer_api::protocol::{Launcher, RemoteWriter};
use holdfast_writer_api::*;
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

/// Not a test: the child process of the others.
#[test]
#[ignore = "the child process of the other tests"]
fn writer_process() {
    common::serve_lock();
}

fn writer(file: &Path, fault: &str) -> RemoteWriter {
    let arguments = ["writer_process", "--exact", "--ignored", "--nocapture"];
    let launcher = Launcher::new(std::env::current_exe().unwrap(), arguments);
    RemoteWriter::new(launcher, "w", "lock", serde_json::json!({"file": file, "fault": fault}))
}

async fn begin(file: &Path, fault: &str) -> Box<dyn BackupParticipant> {
    let request = BackupRequest {
        set: Uuid::nil(),
        backup_type: BackupType::Full,
        components: vec![],
        previous_stamps: Default::default(),
    };
    writer(file, fault).begin_backup(request).await.unwrap()
}

fn budget(ms: u64) -> FreezeContext {
    FreezeContext { set: Uuid::nil(), budget: Duration::from_millis(ms) }
}

#[tokio::test]
async fn a_hold_lives_from_freeze_to_thaw_and_a_second_thaw_is_harmless() {
    let app = application();
    let mut run = begin(app.path(), "").await;
    assert_eq!(run.thaw().await, Ok(Thawed::WasNotHeld));
    assert_eq!(run.freeze(&budget(5000)).await.unwrap().position, "7");
    assert!(!is_free(app.path()));
    assert_eq!(run.thaw().await, Ok(Thawed::Released));
    assert!(is_free(app.path()));
    assert_eq!(run.thaw().await, Ok(Thawed::WasNotHeld));
}

#[tokio::test]
async fn dropping_a_participant_releases_before_drop_returns() {
    let app = application();
    for fault in ["", "hold, then fail"] {
        let mut run = begin(app.path(), fault).await;
        let _ = run.freeze(&budget(5000)).await;
        let before = Instant::now();
        drop(run);
        assert!(is_free(app.path()));
        assert!(before.elapsed() < Duration::from_millis(100), "took {:?}", before.elapsed());
    }
}

#[tokio::test]
async fn a_freeze_given_up_never_takes_hold_afterwards() {
    let app = application();
    // The application holds its own lock, so that the writer's process waits in the kernel for it.
    let busy = File::open(app.path()).unwrap();
    flock(busy.as_fd(), FlockOperation::LockExclusive).unwrap();
    let mut run = begin(app.path(), "").await;
    let error = run.freeze(&budget(80)).await.unwrap_err();
    assert!(matches!(error, WriterError::TimedOut { .. } | WriterError::NotResponding { .. }), "{error:?}");
    assert_eq!(run.thaw().await, Ok(Thawed::Released));
    drop(busy);
    // Its process is gone; there is nobody left who could take it.
    assert!(is_free(app.path()));
}

#[tokio::test]
async fn the_holder_ends_the_hold_at_its_own_deadline() {
    let app = application();
    let mut run = begin(app.path(), "").await;
    run.freeze(&budget(60)).await.unwrap();
    let until = Instant::now() + Duration::from_secs(2);
    while !is_free(app.path()) {
        assert!(Instant::now() < until, "still held long after its deadline");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let late = run.thaw().await.unwrap_err();
    assert!(matches!(late, WriterError::NotResponding { .. }), "{late:?}");
}

#[tokio::test]
async fn a_writer_that_hangs_blocks_panics_or_dies_is_a_named_error_and_holds_nothing() {
    let app = application();
    for fault in ["hang", "block", "hold, then block", "panic", "exit", "hold, then fail"] {
        let mut run = begin(app.path(), fault).await;
        // What ends by itself gets time to; what never ends is cut off soon.
        let limit = if matches!(fault, "panic" | "exit" | "hold, then fail") { 10_000 } else { 100 };
        let error = run.freeze(&budget(limit)).await.unwrap_err();
        let expected = match fault {
            "panic" | "exit" => matches!(error, WriterError::NotResponding { .. }),
            "hold, then fail" => matches!(error, WriterError::Rejected { .. }),
            // Its own deadline and ours race; either is right.
            _ => matches!(error, WriterError::TimedOut { .. } | WriterError::NotResponding { .. }),
        };
        assert!(expected, "{fault}: {error:?}");
        run.thaw().await.unwrap();
        assert!(is_free(app.path()), "{fault}");
    }
}

#[tokio::test]
async fn methods_out_of_order_are_refused_without_harm() {
    let app = application();
    let mut run = begin(app.path(), "").await;
    assert!(matches!(run.seal_keys(&[]).await, Err(WriterError::Unsupported { .. })));
    run.freeze(&budget(5000)).await.unwrap();
    assert_eq!(run.thaw().await, Ok(Thawed::Released));
}

#[tokio::test]
async fn an_unknown_program_is_a_named_error() {
    let launcher = Launcher::new("/nonexistent", [""; 0]);
    let writer = RemoteWriter::new(launcher, "w", "lock", serde_json::Value::Null);
    let error = writer.identify().await.unwrap_err();
    assert!(matches!(error, WriterError::NotResponding { .. }), "{error:?}");
}

/// Reads a stream as the requester would: at its own pace, to the end.
async fn read(stream: Stream) -> Vec<u8> {
    tokio::task::spawn_blocking(move || {
        let mut content = Vec::new();
        File::from(stream.fd).read_to_end(&mut content).unwrap();
        content
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn megabytes_travel_beside_the_protocol_and_both_ends_count_them() {
    let app = application();
    let mut run = begin(app.path(), "").await;
    assert_eq!(run.list_streams().await.unwrap()[0].name, "main");
    for _ in 0..2 {
        let content = read(run.open_stream("main").await.unwrap()).await;
        assert!(content == stream_content(), "{} bytes came", content.len());
        assert_eq!(run.close_stream("main", STREAM_BYTES as u64).await, Ok(()));
    }
    // The conversation goes on.
    assert_eq!(run.thaw().await, Ok(Thawed::WasNotHeld));
}

#[tokio::test]
async fn a_stream_that_was_not_read_to_its_end_or_broke_is_void() {
    let app = application();
    let mut run = begin(app.path(), "").await;
    let content = read(run.open_stream("main").await.unwrap()).await;
    let short = run.close_stream("main", content.len() as u64 - 1).await.unwrap_err();
    assert!(matches!(short, WriterError::Rejected { .. }), "{short:?}");

    let mut run = begin(app.path(), "stream breaks").await;
    let content = read(run.open_stream("main").await.unwrap()).await;
    assert!(content.len() < STREAM_BYTES);
    let broken = run.close_stream("main", content.len() as u64).await.unwrap_err();
    assert!(chain(&broken).contains("the disk is gone"), "{broken:?}");

    let unknown = run.open_stream("other").await.unwrap_err();
    assert!(matches!(unknown, WriterError::Rejected { .. }), "{unknown:?}");
    assert_eq!(run.thaw().await, Ok(Thawed::WasNotHeld));
}

#[tokio::test]
async fn a_setting_that_is_not_taken_is_named() {
    let arguments = ["writer_process", "--exact", "--ignored", "--nocapture"];
    let launcher = Launcher::new(std::env::current_exe().unwrap(), arguments);
    let wrong = RemoteWriter::new(launcher, "w", "lock", serde_json::json!({"surprise": 1}));
    let error = wrong.identify().await.unwrap_err();
    assert_eq!(
        error,
        WriterError::InvalidSetting {
            writer: "w".into(),
            key: Some("surprise".into()),
            problem: "there is no such setting".into()
        }
    );
    assert!(error.to_string().contains("`surprise`: there is no such setting"), "{error}");
}

#[tokio::test]
async fn what_a_process_says_is_kept_until_after_its_end() {
    let app = application();
    let writer = writer(app.path(), "panic");
    let request = BackupRequest {
        set: Uuid::nil(),
        backup_type: BackupType::Full,
        components: vec![],
        previous_stamps: Default::default(),
    };
    let mut run = writer.begin_backup(request).await.unwrap();
    run.freeze(&budget(5000)).await.unwrap_err();
    drop(run);
    // The backtrace comes after it, if one is wanted.
    let last = writer.said().last(1000).join("\n");
    assert!(last.contains("panicked at") && last.contains("as asked"), "{last}");
}

/// Between fork and exec a child has all that we have open. One that was started beside another must not be taken for
/// somebody who keeps the other's socket.
#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn writers_that_are_started_and_ended_beside_each_other_do_not_end_each_other() {
    let mut crowd = tokio::task::JoinSet::new();
    for _ in 0..16 {
        crowd.spawn(async {
            for _ in 0..100 {
                let app = application();
                let error = writer(app.path(), "").identify().await.unwrap_err();
                assert!(matches!(error, WriterError::Rejected { .. }), "{error:?}");
            }
        });
    }
    crowd.join_all().await;
}

//! Both writers as the requester runs them: in a process of their own, whose death frees the application (promise P1).
//!
//! The tests are the application: its own SQLite connection and its own lock, in another process than the writer's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use holdfast_writer_api::protocol::{Launcher, Program, RemoteWriter, serve};
use holdfast_writer_api::*;
use rusqlite::Connection;
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use holdfast_writer_plain as _;

/// Not tests: the child processes of the others.
#[test]
#[ignore = "the child process of the other tests"]
fn serve_sqlite() {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let _ = serve(&Registry::linked().unwrap(), Program::new("plain-test", "1"), "sqlite", socket);
}

#[test]
#[ignore = "the child process of the other tests"]
fn serve_files() {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let _ = serve(&Registry::linked().unwrap(), Program::new("plain-test", "1"), "files", socket);
}

async fn frozen(
    writer_type: &str,
    settings: serde_json::Value,
    budget_ms: u64,
) -> Box<dyn BackupParticipant> {
    let child = format!("serve_{writer_type}");
    let arguments = [&child, "--exact", "--ignored", "--nocapture"];
    let launcher = Launcher::new(std::env::current_exe().unwrap(), arguments);
    let writer = RemoteWriter::new(launcher, "w", writer_type, settings);
    let components = writer.identify().await.unwrap().components.iter().map(|c| c.reference()).collect();
    let (set, backup_type) = (Uuid::nil(), BackupType::Full);
    let request = BackupRequest { set, backup_type, components, previous_stamps: Default::default() };
    let mut run = writer.begin_backup(request).await.unwrap();
    let phase = PhaseContext { set, budget: Duration::from_secs(30) };
    run.prepare_backup(&phase).await.unwrap();
    run.prepare_snapshot(&phase).await.unwrap();
    run.freeze(&FreezeContext { set, budget: Duration::from_millis(budget_ms) }).await.unwrap();
    run
}

fn database(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch("CREATE TABLE entry (text)").unwrap();
    connection
}

fn writes(application: &Connection) -> bool {
    application.execute("INSERT INTO entry VALUES ('x')", ()).is_ok()
}

/// Until the application may go on; the kernel needs a moment to bury a process.
fn comes_free(mut is_free: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        if is_free() {
            return true;
        }
    }
    false
}

fn kill(run: &dyn BackupParticipant) {
    let pid = rustix::process::Pid::from_raw(run.holder().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_database_is_held_until_its_holder_thaws_is_dropped_is_killed_or_is_late() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let application = database(&path);
    let settings = serde_json::json!({"database": path});

    let mut run = frozen("sqlite", settings.clone(), 30_000).await;
    assert!(!writes(&application));
    assert_eq!(run.thaw().await.unwrap(), Thawed::Released);
    assert!(writes(&application));

    let run = frozen("sqlite", settings.clone(), 30_000).await;
    assert!(!writes(&application));
    drop(run);
    assert!(writes(&application));

    let run = frozen("sqlite", settings.clone(), 30_000).await;
    assert!(!writes(&application));
    kill(&*run);
    assert!(comes_free(|| writes(&application)));

    let mut run = frozen("sqlite", settings, 500).await;
    assert!(comes_free(|| writes(&application)));
    assert!(run.thaw().await.is_err());
}

#[tokio::test]
async fn a_lock_file_is_held_until_its_holder_thaws_is_dropped_or_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    std::fs::write(&lock, "").unwrap();
    let settings = serde_json::json!({"paths": [folder.path()], "lock-file": lock});
    let free = || flock(File::open(&lock).unwrap(), FlockOperation::NonBlockingLockShared).is_ok();

    let mut run = frozen("files", settings.clone(), 30_000).await;
    assert!(!free());
    assert_eq!(run.thaw().await.unwrap(), Thawed::Released);
    assert!(free());

    let run = frozen("files", settings.clone(), 30_000).await;
    assert!(!free());
    drop(run);
    assert!(free());

    let run = frozen("files", settings, 30_000).await;
    assert!(!free());
    kill(&*run);
    assert!(comes_free(free));
}

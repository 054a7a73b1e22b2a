//! Bad input from a writer's program: whatever it does, the requester says what it was, the application is free, and
//! neither a process nor a descriptor is left.
//!
//! One test alone in its process, since it counts the descriptors of that process.

use std::{
    fs::{self, File},
    path::Path,
    time::{Duration, Instant},
};

use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, BackupRequest, BackupType, FreezeContext, PhaseContext, Writer,
    WriterError, chain,
    protocol::{Launcher, RemoteWriter},
};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

/// More than enough for what is answered, and not long to wait for what is not.
const BUDGET: Duration = Duration::from_millis(400);

/// What goes wrong, when, and what is said of it.
const CASES: [(&str, &str, &str); 45] = [
    // Before the call or after it: it may look like the answer to the first call, and is none.
    ("early", "start", "stopped responding"),
    ("garbage", "Hello", "not understood"),
    ("garbage", "Freeze", "not understood"),
    ("half-then-end", "Freeze", "middle of a message"),
    ("half-then-nothing", "Freeze", "did not freeze within"),
    ("endless", "Identify", "more than 16777216 bytes"),
    ("endless", "Freeze", "more than 16777216 bytes"),
    ("closes", "Hello", "closed the connection"),
    ("closes", "Freeze", "closed the connection"),
    ("exits", "Identify", "exit status 3"),
    ("exits", "Freeze", "exit status 3"),
    ("is-killed", "Freeze", "signal 9"),
    ("forks-and-exits", "Hello", "its process ended: exit status 0"),
    ("forks-and-exits", "Freeze", "its process ended: exit status 0"),
    ("becomes-a-daemon", "Hello", "its process ended: exit status 0"),
    ("becomes-a-daemon", "Freeze", "its process ended: exit status 0"),
    ("leaves-a-daemon", "PrepareSnapshot", ""),
    ("leaves-a-daemon", "Freeze", ""),
    ("silent", "PrepareBackup", "did not prepare within"),
    ("silent", "Freeze", "did not freeze within"),
    ("late", "PrepareBackup", "did not prepare within"),
    ("late", "Freeze", "did not freeze within"),
    ("twice", "Freeze", "out of turn"),
    ("twice-later", "Freeze", "out of turn"),
    ("continues", "Freeze", "out of turn"),
    ("wrong-id", "Identify", "answered as `other`"),
    ("wrong-type", "Identify", "of type `other`"),
    ("version", "Hello", "it speaks protocol 2.0, we speak 1.0"),
    ("no-version", "Hello", "`one\\u{1b}[2J` is no version"),
    ("mismatch", "Hello", "it speaks protocol 7.3, we speak 1.0"),
    ("no-method", "Freeze", "does not support being asked to freeze"),
    ("no-order", "Freeze", "not possible in state `confused`"),
    ("foreign-error", "Freeze", "com.example.Oops {\"why\":\"\\\\u{1b}]0;title\\\\u{7}\"}"),
    ("setting", "Hello", "`folder`: there is no such folder"),
    ("blames-another", "Freeze", "it was him"),
    ("long-error", "Freeze", "longer than 65536 bytes"),
    ("shouts", "Freeze", "as asked"),
    ("wrong-shape", "Identify", "not understood"),
    ("wrong-shape", "Freeze", "not understood"),
    ("descriptors-unasked", "Freeze", "descriptors that nobody asked for"),
    ("descriptors-very-many", "Freeze", "descriptors that nobody asked for"),
    ("no-descriptor", "OpenStream", "no file descriptor"),
    ("two-descriptors", "OpenStream", "descriptors that nobody asked for"),
    ("folder-descriptor", "OpenStream", "no pipe, socket or regular file"),
    ("write-descriptor", "OpenStream", "cannot be read from"),
];

#[test]
fn whatever_a_program_does_is_a_named_error_and_leaves_neither_process_nor_descriptor() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    fs::write(&lock, "").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();

    let (before, memory) = (descriptors(), peak_memory_kb());
    // It is sound where nothing is asked of it.
    assert_eq!(runtime.block_on(run(folder.path(), "none", "nothing", "sound")).0, Ok(()));
    assert_all_closed(before, "sound");

    let more =
        [("descriptor-beside-an-error", "OpenStream", "beside an error"), ("streams", "OpenStream", "")];
    for (n, (fault, method, said)) in CASES.into_iter().chain(more).enumerate() {
        let what = format!("{fault} in {method}");
        let marker = format!("unruly-{}-{n}", std::process::id());
        let begun = Instant::now();
        let (result, ending) = runtime.block_on(run(folder.path(), fault, method, &marker));
        match &result {
            Ok(()) => assert!(said.is_empty(), "{what}: nothing was noticed"),
            Err(error) => {
                assert!(!said.is_empty() && chain(error).contains(said), "{what}: {}", chain(error));
                // Nobody but itself is to blame, whomever it names.
                assert_eq!(error.writer(), "unruly", "{what}");
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{what}: took {:?}", begun.elapsed());
        // P1: 100 ms; more on a machine that is busy with something else.
        assert!(ending < Duration::from_millis(250), "{what}: its end took {ending:?}");
        assert!(is_free(&lock), "{what}: the application is still held");
        assert_eq!(processes_with(&marker), Vec::<String>::new(), "{what}");
        assert_all_closed(before, &what);
    }
    // The bound of a message, and what is read of it; not a gigabyte.
    let grown = peak_memory_kb() - memory;
    assert!(grown < 100 << 10, "{grown} KiB were taken for a message that was refused");
}

/// A backup as the session makes it: up to the first error, and then to its end. Gives how long the end took.
async fn run(folder: &Path, fault: &str, method: &str, marker: &str) -> (Result<(), WriterError>, Duration) {
    let launcher = Launcher::new(env!("CARGO_BIN_EXE_unruly-writer"), [fault, method, marker]);
    let writer = RemoteWriter::new(launcher, "unruly", "unruly", serde_json::json!({"folder": folder}));
    let metadata = match writer.identify().await {
        Ok(metadata) => metadata,
        Err(error) => return (Err(error), Duration::ZERO),
    };
    let request = BackupRequest {
        set: Uuid::nil(),
        backup_type: BackupType::Full,
        components: metadata.components.iter().map(holdfast_writer_api::Component::reference).collect(),
        previous_stamps: std::collections::BTreeMap::new(),
    };
    let mut participant = match writer.begin_backup(request).await {
        Ok(participant) => participant,
        Err(error) => return (Err(error), Duration::ZERO),
    };
    let result = phases(&mut *participant, method == "OpenStream").await;
    let begun = Instant::now();
    if result.is_err() {
        // Whatever became of it, thaw says the truth: nothing is held.
        participant.thaw().await.expect("the end of a process releases");
    }
    drop(participant);
    let ending = begun.elapsed();
    if fault == "shouts" {
        let last = writer.said().last(2);
        assert_eq!(last[1], "line 99999 \\u{1b}[31mof very many");
        let (kept, dropped) = writer.said().take();
        assert_eq!(kept.len() as u64 + dropped, 100_000);
    }
    (result, ending)
}

async fn phases(participant: &mut dyn BackupParticipant, streams: bool) -> Result<(), WriterError> {
    let (set, phase) = (Uuid::nil(), PhaseContext { set: Uuid::nil(), budget: BUDGET });
    participant.prepare_backup(&phase).await?;
    participant.prepare_snapshot(&phase).await?;
    participant.freeze(&FreezeContext { set, budget: BUDGET }).await?;
    // Time for a second answer to arrive.
    tokio::time::sleep(Duration::from_millis(60)).await;
    participant.thaw().await?;
    if streams {
        let stream = participant.open_stream("main").await?;
        let read = move || std::io::read_to_string(File::from(stream.fd));
        assert_eq!(tokio::task::spawn_blocking(read).await.unwrap().unwrap(), "stream");
        participant.close_stream("main", 6).await?;
    }
    let outcome =
        BackupOutcome { set, backup_type: BackupType::Full, succeeded: vec![], stored_logs: vec![] };
    participant.backup_complete(&outcome).await.map(drop)
}

fn is_free(lock: &Path) -> bool {
    flock(File::open(lock).unwrap(), FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[track_caller]
fn assert_all_closed(before: usize, what: &str) {
    let until = Instant::now() + Duration::from_secs(5);
    while descriptors() != before && Instant::now() < until {
        // The runtime's own threads close what was theirs.
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(descriptors(), before, "{what}");
}

fn peak_memory_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The command lines of all living processes that carry the marker.
fn processes_with(marker: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(marker)).collect()
}

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::demo::app;
use crate::demo::testing::copy;
use crate::session::events::now_ns;

/// Tells this test program to be an application.
const PLAY: &str = "HOLDFAST_TEST_DEMO_APPLICATION";

/// Not a test: what `launcher` runs as a process of its own.
#[test]
#[ignore = "run by the other tests, as an application"]
fn application() {
    let Some(name) = std::env::var_os(PLAY) else { return };
    let dir = std::env::current_dir().unwrap();
    app::run(name.to_str().unwrap(), &dir).unwrap();
}

fn launcher() -> Launcher {
    Launcher::new(|name, dir| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "demo::story::tests::application", "--ignored", "--nocapture"]);
        command.env(PLAY, name).current_dir(dir);
        command
    })
}

/// Holds all three for real, and copies while they are held; or pretends to.
struct Copier {
    copy: PathBuf,
    honest: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot be held")]
struct NotHeld;

#[async_trait(?Send)]
impl Engine for Copier {
    type Error = NotHeld;

    async fn backup(&mut self, places: &Places) -> Result<BackupFacts, NotHeld> {
        let give_up = AtomicBool::new(false);
        let hold = |database: PathBuf| {
            let database = holdfast_store_sqlite::Database::open(database).map_err(|_| NotHeld)?;
            database.hold(Instant::now() + Duration::from_secs(5), &give_up).map_err(|_| NotHeld)
        };
        let mut called_ns = now_ns();
        let lock = File::open(places.orchestrator_lock()).map_err(|_| NotHeld)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(|_| NotHeld)?;
        let holds = [hold(places.directory_database())?, hold(places.ca_database())?];
        let mut taken_ns = now_ns();
        copy(places.root(), &self.copy);
        let mut released_ns = now_ns();
        for hold in holds {
            hold.release().map_err(|_| NotHeld)?;
        }
        drop(lock);
        if !self.honest {
            // Claims to have held them later than it did: what was acknowledged in between is not in the copy.
            let acks = |name| crate::demo::ack::count(&places.acks(), name).unwrap();
            let before = APPLICATIONS.map(acks);
            while APPLICATIONS.map(acks).iter().zip(before).any(|(now, before)| *now < before + 5) {
                tokio::time::sleep(LOOK).await;
            }
            (called_ns, taken_ns, released_ns) = (now_ns(), now_ns(), now_ns());
        }
        let hold = Hold { called_ns, taken_ns, released_ns };
        Ok(BackupFacts {
            set: "a-copy".into(),
            level: "application".into(),
            provider: "copy".into(),
            window_ms: millis(called_ns, released_ns),
            skew_ms: 0.0,
            bytes: 1_234_567,
            holds: APPLICATIONS.map(|name| (name.to_owned(), hold)).into(),
        })
    }

    async fn restore(&mut self, places: &Places, set: &str) -> Result<RestoreFacts, NotHeld> {
        assert_eq!(set, "a-copy");
        for name in APPLICATIONS {
            assert!(!places.application(name).exists(), "{name} is destroyed before it is restored");
        }
        copy(&self.copy, places.root());
        Ok(RestoreFacts { files: 7, bytes: 12, keys: 2 })
    }
}

async fn tell(honest: bool) -> (tempfile::TempDir, Vec<Line>, Result<Outcome, DemoError<NotHeld>>) {
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let mut lines = Vec::new();
    let mut say = |line| lines.push(line);
    let outcome =
        run(&scratch.path().join("scene"), &launcher(), &mut Copier { copy, honest }, &mut say).await;
    (scratch, lines, outcome)
}

/// No process of ours has its working folder below `dir`, as the applications do.
fn nothing_runs_in(dir: &Path) {
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(folder) = std::fs::read_link(process.path().join("cwd")) {
            assert!(!folder.starts_with(dir), "{} still runs", process.path().display());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_acknowledged_write_of_killed_and_destroyed_applications_is_counted() {
    let (scratch, lines, outcome) = tell(true).await;
    let outcome = outcome.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
    nothing_runs_in(scratch.path());
    for counted in &outcome.verdict.applications {
        assert!(counted.acknowledged >= FEWEST, "{counted:?}");
        assert_eq!(counted.acknowledged, counted.found);
        assert!(counted.later >= AFTERWARDS, "they went on after the thaw: {counted:?}");
    }
    let steps: Vec<_> = lines
        .iter()
        .filter_map(|line| if let Line::Step { number, of, .. } = line { Some((*number, *of)) } else { None })
        .collect();
    assert_eq!(steps, [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]);
    assert!(!lines.iter().any(|line| matches!(line, Line::Failure(_))));
    let config = format!("holdfast --config {}", scratch.path().canonicalize().unwrap().display());
    for subcommand in ["list backups", "restore plan a-copy", "verify a-copy"] {
        assert!(
            lines.iter().any(|line| matches!(line, Line::Command(command, _)
                if command.starts_with(&config) && command.ends_with(subcommand))),
            "{subcommand}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_lost_acknowledged_writes_fails_the_demonstration_loudly() {
    let (scratch, lines, outcome) = tell(false).await;
    nothing_runs_in(scratch.path());
    let Err(DemoError::Count(CountError::Disproved { verdict })) = outcome else {
        panic!("{outcome:?}");
    };
    for counted in &verdict.applications {
        assert!(counted.missing.len() >= 5, "{counted:?}");
        assert_eq!(counted.found + counted.missing.len() as u64, counted.acknowledged);
    }
    let failures = lines.iter().filter(|line| matches!(line, Line::Failure(_))).count();
    assert!(failures >= 3, "{lines:?}");
    assert!(matches!(lines.last(), Some(Line::Failure(_))), "nothing is said to be proved after that");
}

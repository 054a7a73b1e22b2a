//! The freeze window of a whole `holdfast backup` against `syncfs` + snapshot ioctl, while a SQLite application commits
//! at full speed on the same volume.

use std::{fmt::Write as _, fs, time::Duration};

use holdfast_tests::{Journal, holdfast::Holdfast, volumes::LoopVolume, watch::SqliteWriter};

use serde_json::Value;

use crate::{
    bare,
    error::BenchError,
    stats::{Samples, verdict},
};

const ROUNDS: usize = 30;
const VOLUME: u64 = 2 << 30;
/// Commits between two measurements: both sides find a volume with writes under way.
const COMMITS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// The application waits this long for a lock, Python's own default.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// The exit code of a backup that was given up in the freeze.
const FREEZE_ABORTED: i32 = 5;

/// How the application writes: its journal, and its pause between two commits.
const LOADS: [(Journal, Duration); 2] =
    [(Journal::Wal, Duration::from_millis(2)), (Journal::Wal, Duration::ZERO)];

pub fn run() -> Result<String, BenchError> {
    let mut text = String::from(
        "## Freeze window\n\n\
         One SQLite application commits row after row (`synchronous=FULL`) on a btrfs volume. *Bare* is `syncfs` and the \
         snapshot ioctl with nobody held. *Window* is what `backup --json` reports: from the call of freeze until the \
         last thaw has returned. In it, *hold* is how long the application could not write, and *cut* what the provider \
         took; the rest is waiting for the application's own transaction to end. *Given up*: freezes that ended without a \
         hold (exit 5). Goal: window ≤ 1.2 × bare + 5 ms.\n\n\
         | journal, pause between commits | rounds | bare ms | ioctl alone ms | window ms | hold ms | cut ms | window / bare | goal ms | given up |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for (journal, pause) in LOADS {
        let row = measure(journal, pause)?;
        let goal = 1.2 * row.bare.median() + 5.0;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {}, {} ms | {} | {} | {} | {} | {} | {} | {:.2} | {goal:.1} {} | {} |",
            journal.pragma(),
            pause.as_millis(),
            row.window.len(),
            row.bare,
            row.ioctl,
            row.window,
            row.hold,
            row.cut,
            row.window.median() / row.bare.median(),
            verdict(row.window.median() <= goal),
            row.given_up,
        );
    }
    Ok(text)
}

#[derive(Default)]
struct Row {
    bare: Samples,
    ioctl: Samples,
    window: Samples,
    hold: Samples,
    cut: Samples,
    given_up: usize,
}

impl Row {
    fn add(&mut self, world: &Holdfast, set: &Value) -> Result<(), BenchError> {
        let number = |value: &Value, what| {
            value.as_f64().ok_or_else(|| BenchError::Answer { what, answer: set.to_string() })
        };
        self.window.push(number(&set["window_ms"], "window_ms")?);
        self.hold.push(hold_ms(&session_log(world, set)?)?);
        self.cut.push(number(&set["shadows"][0]["commit_ms"], "commit_ms")?);
        Ok(())
    }
}

/// The session's event log.
fn session_log(world: &Holdfast, set: &Value) -> Result<Vec<Value>, BenchError> {
    let path =
        world.state_dir().join("sessions").join(format!("{}.ndjson", set["set"].as_str().unwrap_or("")));
    let text = fs::read_to_string(&path).map_err(BenchError::io(format!("read {}", path.display())))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// From the hold's being taken to its release, the only writer being held.
fn hold_ms(log: &[Value]) -> Result<f64, BenchError> {
    let at = |moved: &str| {
        let entry = log.iter().find(|entry| entry["moved"]["event"] == moved);
        entry.and_then(|entry| entry["at_ns"].as_u64())
    };
    match (at("freeze-done"), at("thaw-done")) {
        (Some(taken), Some(released)) => Ok(released.saturating_sub(taken) as f64 / 1e6),
        _ => Err(BenchError::Answer { what: "hold", answer: "the session's log".to_owned() }),
    }
}

fn measure(journal: Journal, pause: Duration) -> Result<Row, BenchError> {
    let volume = LoopVolume::btrfs(VOLUME)?;
    let subvolume = volume.subvolume("app")?;
    let snapshots = volume.path().join("bare-snapshots");
    fs::create_dir(&snapshots).map_err(BenchError::io("make a folder for snapshots"))?;
    let database = subvolume.join("shop.db");
    let application = SqliteWriter::start_with(&database, journal, BUSY_TIMEOUT, pause)?;
    let mut world = Holdfast::new()?;
    world.config().writer("shop", "sqlite").set("database", database.as_path());
    let ready = || -> Result<(), BenchError> {
        // Deleted snapshots are cleaned up in the background: not at the next one's expense.
        bare::cleaned(&volume.path())?;
        let acks = application.acks();
        acks.wait_for(acks.count() + COMMITS, PATIENCE)?;
        Ok(())
    };
    let mut row = Row::default();
    // The first round warms up, and makes the repository.
    for round in 0..=ROUNDS {
        for turn in 0..2 {
            ready()?;
            if (round + turn) % 2 == 0 {
                let took = bare::snapshot(&subvolume, &snapshots)?;
                if round > 0 {
                    row.bare.push((took.syncfs + took.snapshot).as_secs_f64() * 1e3);
                    row.ioctl.push(took.snapshot.as_secs_f64() * 1e3);
                }
            } else {
                let backup = world.run(["--json", "backup"])?;
                if round > 0 && backup.code == Some(FREEZE_ABORTED) {
                    row.given_up += 1;
                } else {
                    let set = backup.success()?.json()?;
                    if round > 0 {
                        row.add(&world, &set)?;
                    }
                }
            }
        }
    }
    eprintln!(
        "{} rounds: bare {}, window {}, hold {}, cut {}, given up {}",
        row.window.len(),
        row.bare,
        row.window,
        row.hold,
        row.cut,
        row.given_up
    );
    // Ended before its volume is unmounted.
    drop(application);
    Ok(row)
}

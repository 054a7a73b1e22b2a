//! The freeze window of a whole `holdfast backup` against `syncfs` + snapshot ioctl, while a SQLite application commits
//! at full speed on the same volume.

use std::{fmt::Write as _, fs, time::Duration};

use holdfast_tests::{
    Journal,
    holdfast::Holdfast,
    process::{command, run as run_command},
    volumes::LoopVolume,
    watch::SqliteWriter,
};

use crate::{
    bare,
    error::BenchError,
    stats::{Samples, verdict},
};

const ROUNDS: usize = 40;
const VOLUME: u64 = 2 << 30;
/// Commits between two measurements: both sides find a volume with writes under way.
const COMMITS: usize = 50;
const PATIENCE: Duration = Duration::from_secs(60);

pub fn run() -> Result<String, BenchError> {
    let mut text = String::from(
        "## Freeze window\n\n\
         One SQLite application commits at full speed (`synchronous=FULL`) on a btrfs volume. *Bare* is `syncfs` and the \
         snapshot ioctl with nobody held. *Window* is what `backup --json` reports: from the call of freeze until the \
         last thaw has returned, the application held; *cut* is the part of it that the provider takes. Goal: window ≤ \
         1.2 × bare + 5 ms.\n\n\
         | journal | rounds | bare ms | ioctl alone ms | window ms | cut ms | window / bare | goal ms | |\n\
         |---|---|---|---|---|---|---|---|---|\n",
    );
    for journal in [Journal::Wal, Journal::Delete] {
        let row = measure(journal)?;
        let goal = 1.2 * row.bare.median() + 5.0;
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {:.2} | {goal:.1} | {} |",
            journal.pragma(),
            row.window.len(),
            row.bare,
            row.ioctl,
            row.window,
            row.cut,
            row.window.median() / row.bare.median(),
            verdict(row.window.median() <= goal),
        );
    }
    Ok(text)
}

#[derive(Default)]
struct Row {
    bare: Samples,
    ioctl: Samples,
    window: Samples,
    cut: Samples,
}

fn measure(journal: Journal) -> Result<Row, BenchError> {
    let volume = LoopVolume::btrfs(VOLUME)?;
    let subvolume = volume.subvolume("app")?;
    let snapshots = volume.path().join("bare-snapshots");
    fs::create_dir(&snapshots).map_err(BenchError::io("make a folder for snapshots"))?;
    let database = subvolume.join("shop.db");
    let application = SqliteWriter::start(&database, journal)?;
    let mut world = Holdfast::new()?;
    world.config().writer("shop", "sqlite").set("database", database.as_path());
    let ready = || -> Result<(), BenchError> {
        // Deleted snapshots are cleaned up in the background: not at the next one's expense.
        run_command(command("btrfs").args(["subvolume", "sync"]).arg(volume.path()), PATIENCE)?;
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
                let set = world.json(["backup"])?;
                let number = |value: &serde_json::Value, what| {
                    value.as_f64().ok_or_else(|| BenchError::Answer { what, answer: set.to_string() })
                };
                if round > 0 {
                    row.window.push(number(&set["window_ms"], "window_ms")?);
                    row.cut.push(number(&set["shadows"][0]["commit_ms"], "commit_ms")?);
                }
            }
        }
    }
    // Ended before its volume is unmounted.
    drop(application);
    Ok(row)
}

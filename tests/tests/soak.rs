//! Backups killed at random moments, under load, and restored: the long form of `death.rs`.
//!
//! CI runs a short form of the same code; `make soak` runs hundreds of rounds (`HOLDFAST_SOAK_ROUNDS`). The seed is
//! printed; `HOLDFAST_SOAK_SEED` repeats a run as far as timing allows.

use std::time::Duration;

use holdfast_tests::{
    FixtureError, Journal,
    holdfast::Holdfast,
    require::{require_root_or_skip, require_tool},
    volumes::{LoopVolume, SMALL},
    watch::{self, SqliteWriter},
};

const SOON: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// A small generator (xorshift), so that a seed is all there is to a run's choices.
struct Choices(u64);

impl Choices {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Goal: whenever the requester is killed, the application writes again within a second; whatever became a set holds
/// every write acknowledged before its freeze, in a sound database.
/// Method: kill after a random time; then let one backup finish, restore it elsewhere, and count.
fn rounds(rounds: u64, seed: u64) -> Result<(), FixtureError> {
    let (Some(()), Some(_)) = (require_root_or_skip(), require_tool("mkfs.btrfs")) else { return Ok(()) };
    let mut choices = Choices(seed | 1);
    let volume = LoopVolume::btrfs(SMALL)?;
    let folder = volume.subvolume("applications")?;
    let mut world = Holdfast::new()?;
    let mut applications = Vec::new();
    for (id, journal) in [("wal", Journal::Wal), ("rollback", Journal::Delete)] {
        let database = folder.join(format!("{id}.db"));
        applications.push(SqliteWriter::start_with(&database, journal, PATIENCE, Duration::from_millis(2))?);
        world.config().writer(id, "sqlite").set("database", database);
    }
    for round in 0..rounds {
        let mut doomed = world.spawn(["backup"])?;
        std::thread::sleep(Duration::from_millis(choices.below(900)));
        doomed.kill();
        for application in &applications {
            application.wrote_again_within(SOON)?;
        }
        let before: Vec<_> = applications.iter().map(|application| application.acks().count()).collect();
        let made = world.json(["backup"])?;
        let target = world.root().join(format!("copy-{round}"));
        let set = made["set"].as_str().expect("a set").to_owned();
        let to = target.display().to_string();
        world.run(["restore", &set, "--to", &to, "--assume-stopped"])?.success()?;
        for (application, before) in applications.iter().zip(before) {
            let original = application.database();
            let copy = target.join(original.strip_prefix("/").unwrap_or(original));
            let found = watch::ids(&copy)?.len();
            assert!(found >= before, "round {round}: {found} of {before} acknowledged in {}", copy.display());
        }
        let shadows = world.json(["list", "shadows"])?;
        assert_eq!(shadows["shadows"], serde_json::json!([]), "round {round}");
        std::fs::remove_dir_all(&target)
            .map_err(|e| FixtureError::Answer { server: "the copy".into(), answer: e.to_string() })?;
    }
    Ok(())
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_few_random_kills_leave_every_application_writing_and_every_set_whole() -> Result<(), FixtureError> {
    rounds(4, 20_261_121)
}

#[test]
#[ignore = "the long form, run by `make soak`"]
fn hundreds_of_random_kills_leave_every_application_writing_and_every_set_whole() -> Result<(), FixtureError>
{
    let seed = number("HOLDFAST_SOAK_SEED", u64::from(std::process::id()) * 7919);
    eprintln!("HOLDFAST_SOAK_SEED={seed}");
    rounds(number("HOLDFAST_SOAK_ROUNDS", 200), seed)
}

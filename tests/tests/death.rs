//! Death means thaw (P1), all or nothing (P2), budgets (P3): sessions killed, stopped and interrupted in every phase,
//! with live applications watched from outside.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use holdfast_tests::{
    FixtureError, Journal,
    holdfast::{Holdfast, Run},
    paused::{BACKUP_POINTS, Paused, all_gone},
    process,
    require::{require_root_or_skip, require_tool},
    volumes::{LoopVolume, SMALL},
    watch::{self, SqliteWriter},
};
use rustix::process::Signal;

type Tested = Result<(), FixtureError>;

/// What an administrator may expect of an application whose backup died.
const SOON: Duration = Duration::from_secs(1);
/// For what is only slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A btrfs volume with live SQLite applications on it, and a world that backs them up.
struct Site {
    world: Holdfast,
    volume: LoopVolume,
    applications: Vec<SqliteWriter>,
    subvolumes: usize,
}

impl Site {
    /// `None` without root: said aloud.
    fn new(journals: &[Journal]) -> Result<Option<Self>, FixtureError> {
        let (Some(()), Some(_)) = (require_root_or_skip(), require_tool("mkfs.btrfs")) else {
            return Ok(None);
        };
        let volume = LoopVolume::btrfs(SMALL)?;
        let folder = volume.subvolume("applications")?;
        let mut world = Holdfast::new()?;
        let mut applications = Vec::new();
        for (n, journal) in journals.iter().enumerate() {
            let database = folder.join(format!("app{n}.db"));
            // A long busy timeout and a pause: it is the hold that is watched, not the machine's speed.
            let gap = Duration::from_millis(2);
            applications.push(SqliteWriter::start_with(&database, *journal, PATIENCE, gap)?);
            world.config().writer(&format!("app{n}"), "sqlite").set("database", database);
        }
        let site = Self { world, volume, applications, subvolumes: 1 };
        assert_eq!(site.subvolumes()?.len(), site.subvolumes, "one to begin with");
        Ok(Some(site))
    }

    fn writes_again(&self, when: &str) -> Tested {
        for application in &self.applications {
            let again = application.wrote_again_within(SOON);
            again.map_err(|error| FixtureError::Answer {
                server: format!("{} {when}", application.database().display()),
                answer: error.to_string(),
            })?;
        }
        Ok(())
    }

    /// That nobody writes: the pause point really lies inside the hold.
    fn assert_held(&self, paused: &Paused) {
        // What was under way when the point was reached may still be told.
        let settled = self.applications.iter().map(|a| {
            let _ = a.wrote_again_within(Duration::from_millis(30));
            a.acks().count()
        });
        let before: Vec<_> = settled.collect();
        for (application, before) in self.applications.iter().zip(before) {
            let wrote = application.wrote_again_within(Duration::from_millis(60)).is_ok();
            // On a machine too slow to look in time, the hold has ended by its own deadline, which proves nothing.
            if paused.since() < Duration::from_millis(500) {
                assert!(!wrote, "not held: {} acks, then {}", before, application.acks().count());
            }
        }
    }

    fn subvolumes(&self) -> Result<Vec<String>, FixtureError> {
        let mut list = process::command("btrfs");
        let listed = process::run(list.args(["subvolume", "list"]).arg(self.volume.path()), PATIENCE)?;
        Ok(listed.text().lines().map(str::to_owned).collect())
    }

    fn sets(&self) -> Result<usize, FixtureError> {
        let listed = self.world.json(["list", "backups"])?;
        let sets = listed["backups"].as_array().expect("an array");
        assert!(sets.iter().all(|set| set["error"].is_null()), "{sets:?}");
        Ok(sets.len())
    }

    /// Nothing of any session is left, anywhere.
    fn assert_clean(&self, when: &str) -> Tested {
        let shadows = self.world.json(["list", "shadows"])?;
        assert_eq!(shadows["shadows"], serde_json::json!([]), "{when}: {shadows}");
        assert_eq!(shadows["damaged"], serde_json::json!([]), "{when}: {shadows}");
        assert_eq!(self.subvolumes()?.len(), self.subvolumes, "{when}: {:?}", self.subvolumes()?);
        assert!(!self.world.runtime_dir().join("holders.json").exists(), "{when}: holders on record");
        if self.world.repository().exists() && require_tool("restic").is_some() {
            let snapshots = self.world.restic().snapshots()?;
            assert_eq!(snapshots.len(), self.sets()?, "{when}: partial snapshots: {snapshots:?}");
        }
        Ok(())
    }

    fn stopped(self) -> Tested {
        for application in self.applications {
            let database = application.database().to_path_buf();
            let acks = application.stop();
            assert_eq!(watch::ids(&database)?.len(), acks.len(), "every acknowledged write is there");
        }
        Ok(())
    }
}

/// Goal: kill -9 of the requester in any phase frees the application within a second, and the next backup names what
/// was left, removes it, and succeeds.
fn killed_in_every_phase(journal: Journal) -> Tested {
    let Some(site) = Site::new(&[journal])? else { return Ok(()) };
    let mut sets = 0;
    for point in BACKUP_POINTS {
        let paused = site.world.pause_at(point, ["backup"])?;
        let in_window = matches!(point, "frozen" | "committed");
        if in_window {
            site.assert_held(&paused);
        }
        let holders = paused.kill();
        site.writes_again(&format!("after a kill in `{point}`"))?;
        all_gone(&holders, SOON)?;

        let next = site.world.run(["backup"])?.success()?;
        sets += 1;
        if matches!(point, "stored" | "backup-complete") {
            // The set of the killed session exists: it was durable before.
            sets += 1;
        }
        assert_eq!(site.sets()?, sets, "after a kill in `{point}`");
        let (has_shadow, has_holders) = match point {
            "identify" | "preflight" | "prepare-backup" => (false, false),
            "prepare-snapshot" => (false, false),
            "freeze" | "frozen" => (false, true),
            _ => (true, true),
        };
        if has_shadow {
            assert!(next.stderr.contains("shadow copy"), "{point}:\n{}", next.stderr);
            assert!(!next.stderr.contains("NOT removed"), "{point}:\n{}", next.stderr);
        }
        if has_holders {
            assert!(next.stderr.contains("ended without a word"), "{point}:\n{}", next.stderr);
        }
        site.assert_clean(&format!("after a kill in `{point}`"))?;
    }
    site.stopped()
}

#[test]
fn killed_in_every_phase_a_wal_application_writes_on_and_the_next_backup_cleans_up() -> Tested {
    killed_in_every_phase(Journal::Wal)
}

#[test]
fn killed_in_every_phase_a_rollback_application_writes_on_and_the_next_backup_cleans_up() -> Tested {
    killed_in_every_phase(Journal::Delete)
}

/// Goal: SIGTERM and SIGINT release at once and leave nothing, before, in and after the window; exit 130.
#[test]
fn an_interrupted_session_releases_at_once_and_leaves_nothing() -> Tested {
    let Some(site) = Site::new(&[Journal::Wal, Journal::Delete])? else { return Ok(()) };
    site.world.run(["backup"])?.success()?;
    for (point, signal) in [
        ("prepare-backup", Signal::INT),
        ("frozen", Signal::TERM),
        ("frozen", Signal::INT),
        ("committed", Signal::TERM),
        ("post-snapshot", Signal::INT),
        ("store", Signal::TERM),
    ] {
        let paused = site.world.pause_at(point, ["backup"])?;
        if point == "frozen" {
            site.assert_held(&paused);
        }
        let holders = paused.children().to_vec();
        paused.signal(signal);
        let run = paused.go_on()?;
        site.writes_again(&format!("after an interruption in `{point}`"))?;
        run.assert_failed(130, &["error: interrupted", "no set was made"]);
        all_gone(&holders, SOON)?;
        assert_eq!(site.sets()?, 1, "interrupted in `{point}`, and a set was made");
        site.assert_clean(&format!("after an interruption in `{point}`"))?;
    }
    site.stopped()
}

/// Goal: a freeze given up while somebody else held the write lock never takes hold afterwards, though its requester
/// lives on.
#[test]
fn a_freeze_given_up_while_it_waited_never_takes_hold_afterwards() -> Tested {
    let Some(site) = Site::new(&[Journal::Wal])? else { return Ok(()) };
    let other = rusqlite::Connection::open(site.applications[0].database()).expect("the database");
    other.busy_timeout(PATIENCE).expect("a busy timeout");
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let paused = site.world.pause_at("thawed", ["backup"])?;
    other.execute_batch("COMMIT").expect("given back");
    // Longer than any hold of SQLite may be: whatever had come late would show.
    site.writes_again("after the write lock was given back")?;
    for _ in 0..15 {
        let again = site.applications[0].wrote_again_within(Duration::from_millis(600));
        again.expect("nothing holds it");
        std::thread::sleep(Duration::from_millis(80));
    }
    let run = paused.go_on()?;
    run.assert_failed(5, &["was not created", "`app0`", "no application is held", "--freeze-budget"]);
    site.assert_clean("after a freeze that was given up")?;
    site.stopped()
}

/// Goal: the death of a writer's process while it holds is a failed backup and a free application.
#[test]
fn a_writer_killed_while_it_holds_fails_the_backup_and_frees_all() -> Tested {
    let Some(site) = Site::new(&[Journal::Wal, Journal::Delete])? else { return Ok(()) };
    let paused = site.world.pause_at("frozen", ["backup"])?;
    site.assert_held(&paused);
    let holders = paused.children().to_vec();
    assert_eq!(holders.len(), 2, "a process for each writer");
    holders[0].signal(Signal::KILL);
    let run = paused.go_on()?;
    site.writes_again("after its holder was killed")?;
    run.assert_failed(5, &["was not created", "no application is held"]);
    all_gone(&holders, SOON)?;
    site.assert_clean("after a holder was killed")?;
    assert_eq!(site.sets()?, 0, "a set was made without a hold");
    site.stopped()
}

/// Goal: a writer that hangs in freeze does not keep the others held.
#[test]
fn a_writer_that_hangs_in_freeze_is_given_up_and_all_are_thawed() -> Tested {
    let Some(site) = Site::new(&[Journal::Wal, Journal::Wal])? else { return Ok(()) };
    let paused = site.world.pause_at("freeze", ["backup"])?;
    let holders = paused.children().to_vec();
    holders[0].signal(Signal::STOP);
    let run = paused.go_on()?;
    site.writes_again("after a writer hung in freeze")?;
    run.assert_failed(5, &["was not created", "no application is held"]);
    all_gone(&holders, SOON)?;
    site.assert_clean("after a writer hung in freeze")?;
    assert_eq!(site.sets()?, 0);
    site.stopped()
}

/// Goal: `thaw --all` is the panic button: without a configuration, while the requester does not answer, in 2 s.
#[test]
fn thaw_all_releases_what_a_stopped_requester_holds() -> Tested {
    let Some(site) = Site::new(&[Journal::Wal])? else { return Ok(()) };
    let paused = site.world.pause_at("frozen", ["backup"])?;
    paused.signal(Signal::STOP);
    let thawed = without_config(&site, ["--json", "thaw", "--all"])?;
    assert!(thawed.took < Duration::from_secs(2), "{:?}", thawed.took);
    let report = thawed.success()?.json()?;
    site.writes_again("after thaw --all")?;
    assert_eq!(report["schema"], "holdfast.thaw/1");
    assert_eq!(report["holders"][0]["writer"], "app0", "{report}");
    assert_eq!(report["holders"][0]["outcome"], "released", "{report}");
    all_gone(paused.children(), SOON)?;

    let again = without_config(&site, ["thaw", "--all"])?.success()?;
    assert!(again.stdout.contains("nothing is held by Holdfast"), "{}", again.stdout);

    paused.signal(Signal::CONT);
    let run = paused.go_on()?;
    run.assert_failed(5, &["was not created", "no application is held"]);
    assert_eq!(site.sets()?, 0, "a set was made without a hold");
    site.assert_clean("after thaw --all")?;
    site.stopped()
}

fn without_config<'a>(
    site: &Site,
    arguments: impl IntoIterator<Item = &'a str>,
) -> Result<Run, FixtureError> {
    let mut command: Command = site.world.command(arguments)?;
    let garbage: PathBuf = site.world.root().join("garbage.toml");
    fs::write(&garbage, "\u{0}[[[").expect("a configuration that nobody can read");
    command.env("HOLDFAST_CONFIG", garbage).env("HOLDFAST_STATE_DIR", "/nonexistent");
    Holdfast::run_command(command)
}

/// Goal: the deadline belongs to the holder: the application is free at the end of the budget though the requester is
/// stopped, and the late thaw is a failed backup.
#[test]
fn a_budget_that_ran_out_frees_the_application_and_fails_the_backup() -> Tested {
    let Some(site) = Site::new(&[Journal::Wal])? else { return Ok(()) };
    let paused = site.world.pause_at("frozen", ["backup", "--freeze-budget", "150ms"])?;
    paused.signal(Signal::STOP);
    site.writes_again("at the end of the budget, while the requester is stopped")?;
    paused.signal(Signal::CONT);
    let run = paused.go_on()?;
    let told = ["was not created", "budget", "no application is held", "no shadow copy is left"];
    run.assert_failed(5, &told);
    assert_eq!(site.sets()?, 0, "a set was made of a cut that cannot be trusted");
    site.assert_clean("after a late thaw")?;
    site.stopped()
}

//! Exit 6: a thaw that is not confirmed is never taken for a success, and never lost sight of. Holders that SIGKILL does not
//! end: of another user, or waiting in the kernel for a frozen disk.

use std::{
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
    time::{Duration, Instant},
};

use holdfast::session::holders::Holders;
use holdfast_tests::{
    FixtureError,
    holdfast::Holdfast,
    paused::{Paused, Process, all_gone},
    require::{require_root_or_skip, require_tool},
    volumes::{LoopVolume, SMALL},
};
use rustix::process::Signal;
use uuid::Uuid;

type Tested = Result<(), FixtureError>;

/// `nobody`, on every Linux.
const NOBODY: u32 = 65534;
/// What an administrator may expect once the disk is back.
const SOON: Duration = Duration::from_secs(10);
/// After that a frozen disk is thawed, whatever a test is doing.
const FROZEN: Duration = Duration::from_secs(15);

/// A process that is killed when the test ends.
struct Sleeper(std::process::Child);

impl Drop for Sleeper {
    fn drop(&mut self) {
        // Both fail only if it is gone.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Goal: whoever may not end a holder is told that it holds, not that it is released; its record stays.
#[test]
fn a_holder_of_another_user_is_still_held_for_whoever_may_not_end_it() -> Tested {
    let Some(()) = require_root_or_skip() else { return Ok(()) };
    let world = Holdfast::new()?;
    let mut holder = Sleeper(Command::new("sleep").arg("600").process_group(0).spawn().expect("a process"));
    let runtime = world.runtime_dir();
    Holders::new(Uuid::now_v7(), [("app".into(), holder.0.id(), None)]).record(&runtime).expect("recorded");

    // The folder is root's alone, as it is made: not even the names are seen.
    let run = Holdfast::run_command(world.command_as(NOBODY, ["thaw", "--all"])?)?;
    run.assert_failed(6, &["cannot be read", "applications may be held", "as root"]);

    for (path, mode) in [(&runtime, 0o755), (&runtime.join("holders.json"), 0o644)] {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("opened to all");
    }
    let run = Holdfast::run_command(world.command_as(NOBODY, ["thaw", "--all"])?)?;
    let told = [
        "`app` (process ",
        "could not be released",
        "belongs to another user",
        "state: STILL HELD",
        "as root",
    ];
    run.assert_failed(6, &told);
    assert!(run.stdout.starts_with("app: STILL HELD, not permitted to end it (process "), "{}", run.stdout);
    assert!(run.took < Duration::from_secs(2), "{:?}", run.took);
    let json = Holdfast::run_command(world.command_as(NOBODY, ["--json", "thaw", "--all"])?)?;
    assert_eq!((json.code, &json.json()?["exit"]), (Some(6), &6.into()), "{}", json.stdout);
    assert!(matches!(holder.0.try_wait(), Ok(None)), "it lives");

    let run = world.run(["thaw", "--all"])?.success()?;
    assert!(run.stdout.starts_with("app: released (process "), "{}", run.stdout);
    Ok(())
}

/// A SQLite application on a disk of its own, which can be frozen.
struct Site {
    world: Holdfast,
    application: rusqlite::Connection,
    volume: LoopVolume,
}

impl Site {
    /// `None` without root: said aloud.
    fn new(make: fn(u64) -> Result<LoopVolume, FixtureError>) -> Result<Option<Self>, FixtureError> {
        let tools = ["mkfs.ext4", "mkfs.btrfs", "fsfreeze"].map(require_tool);
        let (Some(()), [Some(_), Some(_), Some(_)]) = (require_root_or_skip(), tools) else {
            return Ok(None);
        };
        let volume = make(SMALL)?;
        let database = volume.path().join("app.db");
        let application = rusqlite::Connection::open(&database).expect("a database");
        application.pragma_update(None, "journal_mode", "wal").expect("a write-ahead log");
        application.execute_batch("CREATE TABLE entry (id INTEGER PRIMARY KEY)").expect("a table");
        let mut world = Holdfast::new()?;
        world.config().writer("app", "sqlite").set("database", database);
        Ok(Some(Self { world, application, volume }))
    }

    fn writes(&self) {
        self.application.execute_batch("INSERT INTO entry DEFAULT VALUES").expect("a write");
    }

    /// A backup right before its freeze, of an application that has written since the holder looked: the holder will have
    /// to note that in the log's shared index, which is a write to the disk.
    fn before_the_freeze(&self, arguments: &[&str]) -> Result<Paused, FixtureError> {
        let paused = self.world.pause_at("freeze", arguments)?;
        self.writes();
        Ok(paused)
    }

    /// The disk is back: the holder ends, nothing is held, and backups go on.
    fn recovers(&self, holder: Process) -> Tested {
        all_gone(&[holder], SOON)?;
        self.writes();
        let thaw = self.world.run(["thaw", "--all"])?.success()?;
        assert!(thaw.stdout.contains("app: was not held any more"), "{}", thaw.stdout);
        let backup = self.world.run(["backup"])?.success()?;
        assert!(backup.stdout.contains("stored"), "{}", backup.stdout);
        let listed = self.world.json(["list", "backups"])?;
        assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{listed}");
        assert_eq!(self.world.json(["list", "shadows"])?["shadows"], serde_json::json!([]));
        Ok(())
    }
}

/// Goal: a holder that outlives SIGKILL makes the backup end with 6, and `thaw --all` after it.
#[test]
fn a_backup_whose_holder_waits_for_a_frozen_disk_ends_with_6_and_so_does_thaw_all() -> Tested {
    let Some(site) = Site::new(LoopVolume::ext4)? else { return Ok(()) };
    let paused = site.before_the_freeze(&["backup", "--freeze-budget", "300ms"])?;
    let holder = paused.children()[0];
    let frozen = site.volume.freeze(FROZEN)?;
    let run = paused.go_on()?;
    let (pid, record) = (holder.pid, site.world.runtime_dir().join("holders.json"));
    let may_be_held = format!(
        "`app` (process {pid} was killed, and after 5000 ms not all of its group is gone) MAY STILL BE HELD"
    );
    run.assert_failed(
        6,
        &["was not created", &format!("state: {may_be_held}"), "help:  run `holdfast thaw --all` now"],
    );
    assert!(
        run.stderr.starts_with(&format!(
            "made a new repository at {}\n{may_be_held}",
            site.world.repository().display()
        )),
        "told first: {}",
        run.stderr
    );
    assert!(record.exists(), "it stays on record");

    let thaw = site.world.run(["thaw", "--all"])?;
    thaw.assert_failed(
        6,
        &["could not be released", "waits in the kernel", "state: STILL HELD", "frozen or lost disk"],
    );
    assert_eq!(thaw.stdout, format!("app: STILL HELD (process {pid})\n"));
    assert!(thaw.took < Duration::from_secs(2), "{:?}", thaw.took);

    assert!(record.exists() && holder.is_running(), "all of that was seen while it waited");
    drop(frozen);
    site.recovers(holder)
}

/// Goal: Ctrl-C does not make a success of it, keeps no other application held meanwhile, and no session begins while the
/// holder is there.
#[test]
fn an_interrupted_backup_whose_holder_waits_for_a_frozen_disk_ends_with_6_and_so_does_the_next() -> Tested {
    let Some(mut site) = Site::new(LoopVolume::btrfs)? else { return Ok(()) };
    let other = site.world.root().join("other.db");
    let application = rusqlite::Connection::open(&other).expect("a database");
    application.execute_batch("CREATE TABLE entry (id INTEGER PRIMARY KEY)").expect("a table");
    site.world.config().writer("other", "sqlite").set("database", other);

    let paused = site.before_the_freeze(&["backup", "--freeze-budget", "10s"])?;
    let frozen = site.volume.freeze(FROZEN)?;
    paused.release()?;
    let until = Instant::now() + Duration::from_secs(5);
    let stuck = loop {
        match paused.children().iter().find(|holder| holder.waits_in_the_kernel()) {
            Some(stuck) => break *stuck,
            None => assert!(Instant::now() < until, "the holder was to wait for the disk"),
        }
        std::thread::yield_now();
    };
    let other: Vec<_> = paused.children().iter().copied().filter(|holder| *holder != stuck).collect();
    paused.signal(Signal::TERM);
    // The stuck one is waited for half a second.
    all_gone(&other, Duration::from_millis(400))?;
    application.execute_batch("INSERT INTO entry DEFAULT VALUES").expect("a write");
    let run = paused.wait()?;
    let told =
        ["interrupted, and a thaw was not confirmed", "STILL HELD", "MAY STILL BE HELD; no set was made"];
    run.assert_failed(6, &told);
    let next = site.world.run(["backup"])?;
    next.assert_failed(
        6,
        &["may still be held by a dead session, so none was begun", "STILL HELD", "thaw --all"],
    );
    site.world.run(["gc"])?.assert_failed(6, &["nothing else was looked at", "STILL HELD", "thaw --all"]);
    assert!(site.world.runtime_dir().join("holders.json").exists(), "it stays on record");
    assert!(stuck.is_running(), "all of that was seen while it waited");
    drop(frozen);
    site.recovers(stuck)
}

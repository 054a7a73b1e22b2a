//! The example writers in Python against real servers on a real volume: every acknowledged write comes back, whoever
//! dies under the hold.
//!
//! The server, the load on it and the look into it are those of the writer's own `fixture.py`.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use holdfast_tests::{
    FixtureError,
    holdfast::{Holdfast, Toml},
    load::{Ack, Load},
    paused::all_gone,
    process::{command, run},
    require::{require_root_or_skip, require_tool, workspace_root},
    volumes::{LoopVolume, SMALL},
};
use rustix::process::Signal;
use serde_json::Value;

type Tested = Result<(), FixtureError>;

/// What an administrator may expect of an application whose backup died.
const SOON: Duration = Duration::from_secs(1);
/// For what is only slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// An example.
#[derive(Debug, Clone, Copy)]
struct Kind {
    /// Its writer's type, and its folder's name.
    writer: &'static str,
    fixture: &'static str,
    /// The server it needs.
    server: &'static str,
    /// The component with the data, and what its copy is.
    component: &'static str,
    level: &'static str,
}

const REDIS: Kind = Kind {
    writer: "redis",
    fixture: "fixture.py",
    server: "redis-server",
    component: "aof",
    level: "application",
};
const REDIS_DUMP: Kind = Kind { fixture: "fixture_rdb.py", component: "rdb", ..REDIS };
const MARIADB: Kind = Kind {
    writer: "mariadb",
    fixture: "fixture.py",
    server: "mariadbd",
    component: "data",
    // Its commits are held; its files are not, so they are cut as one instant.
    level: "crash",
};

/// A server on a btrfs volume, its writer installed as a user would, and a world that backs it up.
struct Example {
    kind: Kind,
    world: Holdfast,
    fixture: Fixture,
    // Last: unmounted when the server is gone.
    _volume: LoopVolume,
}

/// The writer's own sample application; stopped when dropped.
struct Fixture {
    program: PathBuf,
    folder: PathBuf,
}

impl Fixture {
    fn command(&self, word: &str) -> Command {
        let mut fixture = command(&self.program);
        fixture.arg(word).arg(&self.folder);
        fixture
    }

    fn run(&self, word: &str) -> Result<String, FixtureError> {
        Ok(run(&mut self.command(word), PATIENCE)?.text())
    }

    fn contents(&self) -> Result<BTreeSet<String>, FixtureError> {
        Ok(self.run("contents")?.lines().map(str::to_owned).collect())
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // It may be down already.
        let _ = self.run("stop");
    }
}

impl Example {
    /// `None` without root, the server or btrfs: said aloud.
    fn new(kind: Kind) -> Result<Option<Self>, FixtureError> {
        let needed = [kind.server, "python3", "mkfs.btrfs"].map(require_tool);
        if require_root_or_skip().is_none() || needed.iter().any(Option::is_none) {
            return Ok(None);
        }
        let volume = LoopVolume::btrfs(SMALL)?;
        // The server's user has to reach what is its own.
        chmod(volume.path().parent().expect("a folder"), 0o711);
        let applications = volume.subvolume("srv")?;
        let example = workspace_root().join("writers/examples").join(kind.writer);
        let found_in = install(&example, &volume.path().join("lib"))?;
        let fixture = Fixture { program: example.join(kind.fixture), folder: applications.join("app") };
        let started: Value = serde_json::from_str(&fixture.run("start")?).expect("one JSON document");
        let mut world = Holdfast::new()?;
        let table = world.config().writer("app", kind.writer);
        for (key, value) in started["settings"].as_object().expect("settings") {
            table.set(key, toml(value));
        }
        world.config().append(&format!("[plugins]\npaths = [{:?}]\n", found_in));
        Ok(Some(Self { kind, world, fixture, _volume: volume }))
    }

    fn load(&self) -> Result<Load, FixtureError> {
        let load = Load::in_process(self.kind.fixture, &mut self.fixture.command("load"))?;
        load.acks().wait_for(100, PATIENCE)?;
        Ok(load)
    }

    /// When the writer held in the making of `set`, on the monotonic clock: asked, taken, asked to thaw, free.
    fn hold(&self, set: &str) -> [u64; 4] {
        let log = self.world.state_dir().join("sessions").join(format!("{set}.ndjson"));
        let log = fs::read_to_string(log).expect("the event log");
        let lines: Vec<Value> =
            log.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        ["freeze-started", "freeze-done", "thaw-started", "thaw-done"].map(|event| {
            let moved = lines.iter().find(|line| line["writer"] == "app" && line["moved"]["event"] == event);
            moved.and_then(|line| line["at_ns"].as_u64()).unwrap_or_else(|| panic!("no `{event}` in\n{log}"))
        })
    }
}

/// Does what the example's README says, in a folder of our own. Gives that in which the program is found by its type.
fn install(example: &Path, into: &Path) -> Result<PathBuf, FixtureError> {
    let readme = fs::read_to_string(example.join("README.md")).expect("the README");
    let (_, block) = readme.split_once("```sh\n").expect("what is to be typed");
    let (typed, _) = block.split_once("```").expect("its end");
    let typed = typed.replace("/usr/lib/holdfast", into.to_str().expect("UTF-8"));
    run(command("sh").args(["-e", "-c", &typed]).current_dir(example), PATIENCE)?;
    Ok(into.join("writers"))
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn toml(value: &Value) -> Toml {
    match value {
        Value::Array(items) => items.iter().map(toml).collect::<Vec<_>>().into(),
        Value::String(text) => text.as_str().into(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            panic!("a fixture's setting is {value}")
        }
    }
}

/// Goal: a backup under load has all that was acknowledged before the freeze and nothing that was begun after the thaw.
/// Method: count, after the data were destroyed and restored in place, by the server itself.
fn every_acknowledged_write_comes_back(kind: Kind) -> Tested {
    let Some(example) = Example::new(kind)? else { return Ok(()) };
    let load = example.load()?;
    let document = example.world.json(["backup"])?;
    // Twice, so that at least one was begun after the end of the backup.
    load.acks().wrote_again_within(PATIENCE)?;
    load.acks().wrote_again_within(PATIENCE)?;
    let acks = load.stop();

    let components = document["components"].as_array().expect("components");
    let data = components.iter().find(|component| component["component"] == kind.component);
    assert_eq!(data.map(|data| &data["level"]), Some(&Value::from(kind.level)), "{document:#}");
    assert_eq!(document["one_instant"], true, "{document:#}");
    assert_eq!(document["shadows"][0]["provider"], "btrfs", "{document:#}");
    let [called, taken, thaw, released] = example.hold(document["set"].as_str().expect("a set"));
    let under_hold = |ack: &&Ack| ack.begun_ns > taken && ack.acked_ns < thaw;
    assert_eq!(acks.iter().filter(under_hold).count(), 0, "writes were acknowledged under the hold");

    example.fixture.run("stop")?;
    fs::remove_dir_all(example.fixture.folder.join("data")).expect("destroy the data");
    // This test has stopped it, but a machine may hide processes even from root.
    example.world.run(["--json", "restore", "latest", "--assume-stopped"])?.success()?;
    example.fixture.run("restart")?;
    let found = example.fixture.contents()?;
    let before: Vec<_> = acks.iter().filter(|ack| ack.acked_ns < called).collect();
    let after: Vec<_> = acks.iter().filter(|ack| ack.begun_ns > released).collect();
    assert!(before.len() >= 100 && !after.is_empty(), "{} before, {} after", before.len(), after.len());
    let missing: Vec<_> = before.iter().filter(|ack| !found.contains(&ack.name)).collect();
    assert!(missing.is_empty(), "{} of {} acknowledged writes are missing", missing.len(), before.len());
    let too_late: Vec<_> = after.iter().filter(|ack| found.contains(&ack.name)).collect();
    assert!(too_late.is_empty(), "{} writes begun after the thaw are there", too_late.len());
    // And it goes on.
    example.load().map(drop)
}

/// Goal: kill -9 of the requester, or of the writer's program, frees the server within a second; nothing is left in the
/// way of the next backup.
fn whoever_dies_under_the_hold_the_server_writes_again(kind: Kind) -> Tested {
    let Some(example) = Example::new(kind)? else { return Ok(()) };
    let load = example.load()?;
    let held = || {
        // What was under way when the hold was taken may still be told.
        let _ = load.acks().wrote_again_within(Duration::from_millis(50));
        load.acks().wrote_again_within(Duration::from_millis(300)).is_err()
    };

    let paused = example.world.pause_at("frozen", ["backup"])?;
    assert!(held() || paused.since() > SOON, "not held");
    let holders = paused.kill();
    assert!(!holders.is_empty());
    load.acks().wrote_again_within(SOON)?;
    all_gone(&holders, SOON)?;

    let paused = example.world.pause_at("frozen", ["backup"])?;
    assert!(held() || paused.since() > SOON, "not held");
    for holder in paused.children() {
        holder.signal(Signal::KILL);
    }
    load.acks().wrote_again_within(SOON)?;
    // A hold that was lost is a backup that failed, with nobody held.
    paused.go_on()?.assert_failed(5, &["app"]);

    example.world.run(["backup"])?.success()?;
    load.acks().wrote_again_within(PATIENCE).map(drop)
}

/// Goal: the example keeps the rules for writers, all that concern it, on the real server.
/// Method: `holdfast writer test` as its author types it, with what the README installs and the folder's own fixture.
fn keeps_the_rules_for_writers(kind: Kind) -> Tested {
    // They truncate no logs, stream nothing, have no steps after a restore, and their servers register nothing. A key is
    // declared only where the server has one: the example's own tests have.
    const NOT_CONCERNED: [&str; 5] = ["W13", "W15", "W17", "W18", "W19"];
    if [kind.server, "python3"].map(require_tool).iter().any(Option::is_none) {
        return Ok(());
    }
    let world = Holdfast::new()?;
    chmod(world.root(), 0o755);
    let example = workspace_root().join("writers/examples").join(kind.writer);
    let program = install(&example, &world.root().join("lib"))?.join(kind.writer);
    let (program, fixture) =
        (program.display().to_string(), example.join(kind.fixture).display().to_string());
    let report = world.run(["--json", "writer", "test", &program, "--fixture", &fixture])?;
    assert_eq!(report.code, Some(0), "{}\n{}", report.stdout, report.stderr);
    let report = report.json()?;
    let rules = report["rules"].as_array().expect("rules");
    let outcome = |wanted: &str| -> Vec<_> {
        let rules = rules.iter().filter(|rule| rule["outcome"] == wanted);
        rules.map(|rule| rule["rule"].as_str().expect("a number")).collect()
    };
    assert_eq!(outcome("not-applicable"), NOT_CONCERNED, "{report:#}");
    // Whose freeze holds no file still, that is told.
    assert_eq!(rules[1].to_string().contains("cut as one instant"), kind.level == "crash", "{report:#}");
    assert_eq!(outcome("ok").len() + NOT_CONCERNED.len(), rules.len(), "{report:#}");
    Ok(())
}

#[test]
fn redis_keeps_the_rules_for_writers() -> Tested {
    keeps_the_rules_for_writers(REDIS)
}

#[test]
fn redis_without_an_append_only_file_keeps_the_rules_for_writers() -> Tested {
    keeps_the_rules_for_writers(REDIS_DUMP)
}

#[test]
fn mariadb_keeps_the_rules_for_writers() -> Tested {
    keeps_the_rules_for_writers(MARIADB)
}

#[test]
fn redis_every_acknowledged_write_comes_back() -> Tested {
    every_acknowledged_write_comes_back(REDIS)
}

#[test]
fn redis_without_an_append_only_file_every_acknowledged_write_comes_back() -> Tested {
    every_acknowledged_write_comes_back(REDIS_DUMP)
}

#[test]
fn mariadb_every_acknowledged_write_comes_back() -> Tested {
    every_acknowledged_write_comes_back(MARIADB)
}

#[test]
fn redis_writes_again_whoever_dies_under_the_hold() -> Tested {
    whoever_dies_under_the_hold_the_server_writes_again(REDIS)
}

#[test]
fn mariadb_writes_again_whoever_dies_under_the_hold() -> Tested {
    whoever_dies_under_the_hold_the_server_writes_again(MARIADB)
}

//! Programs as writers, in whole runs of the command: found, trusted, run as somebody else; and whatever one of them
//! does, the others are thawed and nothing is left.

use std::{
    fs::{self, File},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use holdfast_tests::{
    FixtureError, Journal,
    holdfast::{Holdfast, Run, Table, binary},
    require::{require_root_or_skip, require_tool},
    watch::SqliteWriter,
};
use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

type Tested = Result<(), FixtureError>;

/// What an administrator may expect of an application whose backup failed.
const SOON: Duration = Duration::from_secs(1);
/// `nobody`, on every Linux.
const SERVICE: u32 = 65534;

/// A world, and a folder with a program that is a writer, and its application.
struct Site {
    world: Holdfast,
    place: tempfile::TempDir,
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).expect("a mode");
}

impl Site {
    fn new() -> Result<Self, FixtureError> {
        let place = tempfile::tempdir().expect("a scratch folder");
        mode(place.path(), 0o755);
        for folder in ["writers", "application"] {
            fs::create_dir(place.path().join(folder)).expect("a folder");
            mode(&place.path().join(folder), 0o755);
        }
        fs::write(place.path().join("application/lock"), "the application's own").expect("a lock");
        fs::copy(env!("CARGO_BIN_EXE_unruly-writer"), place.path().join("writers/unruly"))
            .expect("a program");
        mode(&place.path().join("writers/unruly"), 0o755);
        let mut site = Self { world: Holdfast::new()?, place };
        let folders = format!("[plugins]\npaths = [{:?}]\n", site.place.path().join("writers"));
        site.world.config().append(&folders);
        // Every process of a session keeps this, and is found by it.
        let marker = site.marker();
        fs::create_dir(&marker).expect("a folder");
        mode(Path::new(&marker), 0o1777);
        site.world.set_environment("TMPDIR", &marker);
        Ok(site)
    }

    fn marker(&self) -> String {
        self.place.path().join("temporary").display().to_string()
    }

    fn program(&self) -> PathBuf {
        self.place.path().join("writers/unruly")
    }

    fn application(&self) -> PathBuf {
        self.place.path().join("application")
    }

    /// The writer that does `fault` when `method` is called.
    fn unruly(&mut self, fault: &str, method: &str) -> &mut Table {
        let folder = self.application();
        let writer = self.world.config().writer("bad", "unruly");
        writer.set("folder", folder).set("arguments", vec![fault, method]).set("freeze-budget", "500ms")
    }

    /// No process of ours is left, by the marker in its environment.
    fn assert_alone(&self, when: &str) {
        let marker = self.marker();
        let left: Vec<_> = fs::read_dir("/proc")
            .expect("the processes")
            .flatten()
            .filter(|process| {
                let environment = fs::read(process.path().join("environ")).unwrap_or_default();
                environment.windows(marker.len()).any(|window| window == marker.as_bytes())
            })
            .map(|process| fs::read_to_string(process.path().join("cmdline")).unwrap_or_default())
            .collect();
        assert!(left.is_empty(), "{when}: {left:?}");
    }

    fn sets(&self) -> Result<usize, FixtureError> {
        Ok(self.world.json(["list", "backups"])?["backups"].as_array().expect("an array").len())
    }

    /// All that the event logs of all sessions say was said.
    fn said(&self) -> Vec<String> {
        // There may have been none.
        let logs = fs::read_dir(self.world.state_dir().join("sessions")).into_iter().flatten().flatten();
        let text: String = logs.map(|log| fs::read_to_string(log.path()).expect("a log")).collect();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event"));
        let said = events.filter(|event| event["event"] == "writer-said" && event["writer"] == "bad");
        said.map(|event| event["text"].as_str().expect("a text").to_owned()).collect()
    }
}

/// Goal: one program's fault, at any point, is named with its exit code, and costs nobody else more than the set.
#[test]
fn whatever_a_program_does_the_others_are_thawed_and_nothing_is_left() -> Tested {
    let mut site = Site::new()?;
    let database = site.place.path().join("good.db");
    let patience = Duration::from_secs(20);
    let good = SqliteWriter::start_with(&database, Journal::Wal, patience, Duration::from_millis(1))?;
    let aborted: &[&str] = &["was not created", "no application is held"];
    for (fault, method, exit, said) in [
        ("garbage", "Hello", 1, "a message that is not understood"),
        ("version", "Hello", 4, "it speaks protocol 2.0, we speak 1.0"),
        ("setting", "Hello", 2, "holdfast.toml:"),
        ("becomes-a-daemon", "Identify", 1, "its process ended: exit status 0"),
        ("wrong-id", "Identify", 4, "answered as `other`"),
        ("exits", "PrepareBackup", 1, "exit status 3"),
        ("closes", "PrepareSnapshot", 5, "closed the connection"),
        ("garbage", "Freeze", 5, "not understood"),
        ("half-then-end", "Freeze", 5, "in the middle of a message"),
        ("endless", "Freeze", 5, "more than 16777216 bytes"),
        ("forks-and-exits", "Freeze", 5, "its process ended: exit status 0"),
        ("becomes-a-daemon", "Freeze", 5, "its process ended: exit status 0"),
        ("silent", "Freeze", 5, "did not freeze within"),
        ("late", "Freeze", 5, "did not freeze within"),
        ("twice", "Freeze", 5, "out of turn"),
        // It may look like the answer to the next call, and is none.
        ("twice-later", "Freeze", 5, "`bad` stopped responding"),
        ("no-method", "Freeze", 5, "does not support"),
        ("descriptors-very-many", "Freeze", 5, "that nobody asked for"),
        ("blames-another", "Freeze", 5, "`bad` refused"),
        ("shouts", "Freeze", 5, "said:  line 99999 \\u{1b}[31mof very many"),
        ("is-killed", "Thaw", 5, "signal 9"),
        ("silent", "Thaw", 5, "did not thaw within"),
        ("exits", "PostSnapshot", 1, "exit status 3"),
    ] {
        let what = format!("{fault} in {method}");
        site.world.config().clear_writers().writer("good", "sqlite").set("database", database.clone());
        site.unruly(fault, method);
        let run = site.world.run(["backup"])?;
        good.wrote_again_within(SOON)?;
        let words = if exit == 5 { aborted } else { &["state: "] };
        assert!(run.stderr.contains(said), "{what}:\n{}", run.stderr);
        run.assert_failed(exit, words);
        let lock = File::open(site.application().join("lock")).expect("the lock");
        assert!(flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(), "{what}: still held");
        site.assert_alone(&what);
        assert_eq!(site.world.json(["list", "shadows"])?["shadows"], serde_json::json!([]), "{what}");
    }
    assert_eq!(site.sets()?, 0);
    // Once the set exists, nothing takes it back; what went wrong is said.
    site.world.config().clear_writers().writer("good", "sqlite").set("database", database);
    site.unruly("exits", "BackupComplete");
    let run = site.world.run(["backup"])?.success()?;
    assert!(run.stderr.contains("the set is stored, but `bad` stopped responding"), "{}", run.stderr);
    assert_eq!(site.sets()?, 1);
    site.assert_alone("at the end");
    Ok(())
}

#[test]
fn a_program_is_found_shown_and_backed_up_and_what_it_says_is_in_the_event_log() -> Tested {
    let mut site = Site::new()?;
    site.unruly("says", "Freeze");
    let listed = site.world.json(["list", "writers"])?;
    assert_eq!(listed["writers"][0]["origin"], site.program().display().to_string(), "{listed}");
    assert_eq!(listed["writers"][0]["state"], "stable", "{listed}");
    let listed = site.world.run(["list", "writers"])?.success()?;
    assert!(listed.stdout.contains(&format!("from: {}", site.program().display())), "{}", listed.stdout);

    site.world.run(["backup"])?.success()?;
    assert_eq!(site.sets()?, 1);
    let said = site.said();
    assert!(said.len() == 1 && said[0].starts_with("users "), "{said:?}");
    site.assert_alone("afterwards");

    // The same program, named in the table.
    site.world.config().clear_writers();
    let program = site.program();
    site.unruly("none", "nothing").set("type", "another-type").set("program", program);
    site.world.run(["backup"])?.success()?;
    assert_eq!(site.sets()?, 2);
    Ok(())
}

#[test]
fn a_program_that_fails_is_shown_with_its_last_words() -> Tested {
    let mut site = Site::new()?;
    site.unruly("shouts", "Identify");
    let listed = site.world.run(["list", "writers"])?.success()?;
    for words in
        ["EXPECTED BUT ABSENT", "last error: `bad` refused: as asked", "said: line 99999 \\u{1b}[31m"]
    {
        assert!(listed.stdout.contains(words), "{words}:\n{}", listed.stdout);
    }
    let failed = site.world.run(["--json", "backup"])?;
    let document = failed.json()?;
    assert_eq!(document["said"].as_array().map(Vec::len), Some(10), "{document}");
    assert!(!failed.stdout.contains('\u{1b}') && !failed.stderr.contains('\u{1b}'));
    Ok(())
}

#[test]
fn a_program_that_others_could_change_is_never_started() -> Tested {
    let mut site = Site::new()?;
    site.unruly("none", "nothing");
    mode(&site.program(), 0o777);
    let run = site.world.run(["backup"])?;
    run.assert_failed(
        2,
        &["the program of writer `bad` cannot be trusted", "can be written by others", "state: "],
    );
    mode(&site.program(), 0o755);
    mode(&site.place.path().join("writers"), 0o777);
    let run = site.world.run(["list", "writers"])?;
    run.assert_failed(2, &["writers can be written by others"]);
    mode(&site.place.path().join("writers"), 0o755);
    // A built-in type does not become somebody else's.
    site.world.config().clear_writers();
    let program = site.program();
    site.unruly("none", "nothing").set("type", "sqlite").set("program", program);
    let run = site.world.run(["config", "check"])?;
    run.assert_failed(2, &["holdfast.toml:", "`program`: type `sqlite` is built in"]);
    assert_eq!(site.said(), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_program_runs_as_the_user_it_is_given_and_in_no_other_group() -> Tested {
    let Some(()) = require_root_or_skip() else { return Ok(()) };
    let mut site = Site::new()?;
    site.world.set_environment("HOME", "/root");
    site.unruly("says", "Hello").set("run-as", "nobody");
    site.world.run(["backup"])?.success()?;
    let said = site.said();
    // Once when it introduced itself, once for the run.
    let nobody = |line: &String| {
        line.starts_with("users 65534 65534 65534 65534; groups ") && line.ends_with("others []; home []")
    };
    assert!(said.len() == 2 && said.iter().all(nobody), "{said:?}");

    site.world.config().clear_writers();
    site.unruly("says", "Hello").set("run-as", "nobody-at-all");
    let run = site.world.run(["backup"])?;
    run.assert_failed(
        2,
        &["holdfast.toml:", "`run-as`: there is no user `nobody-at-all`", "nothing was changed"],
    );
    Ok(())
}

#[test]
fn a_privilege_that_run_as_needs_is_missed_before_anything_begins() -> Tested {
    let (Some(()), Some(setpriv)) = (require_root_or_skip(), require_tool("setpriv")) else { return Ok(()) };
    let mut site = Site::new()?;
    site.unruly("says", "Hello").set("run-as", "root");
    let wanted = site.world.command(["backup"])?;
    let program = site.place.path().join("holdfast");
    fs::copy(binary(), &program).expect("the program");
    mode(&program, 0o755);
    let root = site.world.root();
    for path in ["", "state", "run", "repository.key", "holdfast.toml"].map(|name| root.join(name)) {
        chown(path, Some(SERVICE), Some(SERVICE)).expect("given to the service");
    }
    let mut command = Command::new(setpriv);
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&program);
    command.args(wanted.get_args()).current_dir(root);
    for (name, value) in wanted.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let run: Run = Holdfast::run_command(command)?;
    run.assert_failed(
        4,
        &["an expected writer is absent", "`bad` lacks a privilege", "only root can become one"],
    );
    assert!(site.said().is_empty(), "it was not started");
    Ok(())
}

//! `holdfast writer test` as an author types it: a fixture in shell, a writer in a process of its own, a report, and
//! nobody left behind.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_tests::FixtureError;
use holdfast_tests::holdfast::{Holdfast, binary};
use holdfast_tests::require::{require_tool, workspace_root};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

type Tested = Result<(), FixtureError>;

/// Long enough for a report's next line.
const LINE: Duration = Duration::from_secs(60);
const END: Duration = Duration::from_secs(120);

fn ledger() -> PathBuf {
    workspace_root().join("tests/fixtures/ledger")
}

/// A world without a configuration worth mentioning; its temporary files lie below it.
fn world() -> Result<Option<Holdfast>, FixtureError> {
    let mut world = Holdfast::new()?;
    if require_tool("flock").is_none() {
        return Ok(None);
    }
    let temporary = world.root().join("tmp");
    fs::create_dir(&temporary).expect("a folder");
    world.set_environment("TMPDIR", &temporary.to_string_lossy());
    Ok(Some(world))
}

fn test_files(world: &Holdfast, more: &[&str]) -> Result<Command, FixtureError> {
    let fixture = ledger().display().to_string();
    let arguments = ["writer", "test", "files", "--fixture", &fixture];
    world.command(arguments.iter().chain(more))
}

/// The processes that have the world's folder in their environment: fixtures, applications, and the command itself.
fn processes_of(world: &Holdfast) -> Vec<String> {
    let root = world.root().to_string_lossy().into_owned();
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let numbers =
        entries.filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
    let inside = numbers.filter(|entry| {
        fs::read(entry.path().join("environ"))
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains(&root))
    });
    inside
        .map(|entry| fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned())
        .collect()
}

#[track_caller]
fn assert_nobody_is_left(world: &Holdfast) {
    let until = Instant::now() + Duration::from_secs(5);
    while !processes_of(world).is_empty() {
        assert!(Instant::now() < until, "still there: {:?}", processes_of(world));
        std::thread::yield_now();
    }
}

#[test]
fn a_good_writer_passes_and_leaves_nothing_behind() -> Tested {
    let Some(world) = world()? else { return Ok(()) };
    let run = Holdfast::run_command(test_files(&world, &[])?)?;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("W3   ok             held_means_held_until_thaw"), "{}", run.stdout);
    assert!(run.stdout.ends_with("19 rules: 14 ok, 5 not applicable\n"), "{}", run.stdout);
    assert_eq!(run.stderr, "");
    assert_nobody_is_left(&world);
    let left: Vec<_> = fs::read_dir(world.root().join("tmp")).expect("a folder").collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_hold_that_does_not_hold_is_7_for_people_and_for_programs() -> Tested {
    let Some(mut world) = world()? else { return Ok(()) };
    // The ledger takes another lock than the one that its writer is told.
    world.set_environment("LEDGER_LOCK", "elsewhere");
    let run = Holdfast::run_command(test_files(&world, &["--rule", "W2,w3"])?)?;
    assert_eq!(run.code, Some(7), "{}\n{}", run.stdout, run.stderr);
    for part in
        ["W3   FAILED", "still the application acknowledged the write", "MUST let no write through", "did:"]
    {
        assert!(run.stdout.contains(part), "`{part}`: {}", run.stdout);
    }
    let json = Holdfast::run_command(test_files(&world, &["--json", "--level", "freeze"])?)?;
    assert_eq!(json.code, Some(7), "{}", json.stderr);
    let report = json.json()?;
    assert_eq!(report["schema"], "holdfast.writer-test/1");
    assert_eq!(report["failed"], 1);
    let failed: Vec<&Value> = report["rules"]
        .as_array()
        .expect("rules")
        .iter()
        .filter(|rule| rule["outcome"] == "failed")
        .collect();
    assert_eq!(failed[0]["rule"], "W3");
    assert_eq!(failed[0]["more"], "docs/writer-rules.md#w3");
    assert!(
        report["rules"].as_array().expect("rules").iter().all(|rule| rule["level"] == "freeze"),
        "{report}"
    );
    assert_nobody_is_left(&world);
    Ok(())
}

#[test]
fn without_a_fixture_only_what_a_program_says_is_checked_and_the_rest_is_named() -> Tested {
    let Some(world) = world()? else { return Ok(()) };
    let database = world.root().join("shop.db");
    rusqlite::Connection::open(&database).expect("opened").execute_batch("CREATE TABLE t (x)").expect("made");
    let settings = world.root().join("settings.toml");
    fs::write(&settings, format!("database = {:?}\n", database.display().to_string())).expect("written");
    // A program with arguments, as a third party's would be.
    let program = binary().display().to_string();
    let settings = settings.display().to_string();
    let arguments = [
        "writer",
        "test",
        &program,
        "--type",
        "sqlite",
        "--settings",
        &settings,
        "--",
        "writer",
        "serve",
        "sqlite",
    ];
    let run = world.run(arguments)?;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    for part in [
        "W1   ok",
        "W2   ok",
        "W3   NOT CHECKED    held_means_held_until_thaw: the fixture cannot watch an application",
        "W12  NOT CHECKED",
        "W16  ok",
        "NOT CHECKED: the capability `freeze` is declared, and no rule has shown that it is had",
    ] {
        assert!(run.stdout.contains(part), "`{part}`: {}", run.stdout);
    }
    Ok(())
}

#[test]
fn what_cannot_be_begun_is_2_and_a_fixture_that_fails_is_told_apart() -> Tested {
    let Some(world) = world()? else { return Ok(()) };
    for (arguments, words) in [
        (&["writer", "test", "./nothing"][..], "the writer ./nothing cannot be started"),
        (&["writer", "test", "files", "--fixture", "./nothing"], "the fixture ./nothing cannot be started"),
        (&["writer", "test", "files", "--settings", "./nothing"], "the settings ./nothing cannot be used"),
        (&["writer", "test", "files", "--level", "freez"], "there are: freeze, log, restore, key"),
        (&["writer", "test", "files", "--rule", "W0"], "there are W1 to W19"),
    ] {
        world.run(arguments)?.assert_failed(2, &[words]);
    }
    let fixture = world.root().join("fixture");
    fs::write(&fixture, "#!/bin/sh\necho 'no disk left' >&2\nexit 1\n").expect("written");
    fs::set_permissions(&fixture, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let run = world.run(["writer", "test", "files", "--fixture", "./fixture", "--rule", "W3"])?;
    assert_eq!(run.code, Some(7), "{}", run.stderr);
    for part in ["W3   BLOCKED", "the fixture failed: cannot do `start`", "no disk left"] {
        assert!(run.stdout.contains(part), "`{part}`: {}", run.stdout);
    }
    Ok(())
}

/// Goal: whatever ends a test, its application and its writer end with it.
/// Method: the test is ended in the middle of its rules, politely, and by killing either of its two processes.
#[test]
fn a_test_that_is_interrupted_or_killed_leaves_nobody_behind() -> Tested {
    let Some(world) = world()? else { return Ok(()) };
    for (which, signal) in [("command", Signal::TERM), ("tester", Signal::KILL), ("command", Signal::KILL)] {
        let mut running = Holdfast::spawn_command(test_files(&world, &[])?)?;
        running.wait_for_line("W2 ", LINE)?;
        let command = i32::try_from(running.pid()).ok().and_then(Pid::from_raw).expect("a number");
        let victim = if which == "command" { command } else { child_of(command) };
        kill_process(victim, signal).expect("it runs");
        let run = running.wait(END)?;
        match (which, signal) {
            ("command", Signal::TERM) => assert_eq!(run.code, Some(130), "{}", run.stderr),
            ("tester", _) => assert_eq!(run.code, Some(137), "{}", run.stderr),
            _ => assert_eq!(run.signal, Some(9)),
        }
        assert_nobody_is_left(&world);
    }
    Ok(())
}

fn child_of(parent: Pid) -> Pid {
    let children = format!("/proc/{0}/task/{0}/children", parent.as_raw_pid());
    let text = fs::read_to_string(children).expect("the kernel lists children");
    let first = text.split_whitespace().next().expect("a child");
    first.parse().ok().and_then(Pid::from_raw).expect("a number")
}

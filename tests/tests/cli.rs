//! The command line's promises to scripts and to tired people: documents with a schema, exit codes, the shape of errors,
//! examples in the help.

use std::{fs, path::PathBuf};

use holdfast_tests::{
    FixtureError,
    holdfast::{Holdfast, Run},
};
use serde_json::Value;

type Tested = Result<(), FixtureError>;

/// A world with one folder to back up.
fn world() -> Result<(Holdfast, PathBuf), FixtureError> {
    let mut world = Holdfast::new()?;
    let folder = world.root().join("data");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("file"), "content").expect("a file");
    world.config().writer("data", "files").set("paths", vec![folder.clone()]);
    Ok((world, folder))
}

#[track_caller]
fn assert_document(document: &Value, schema: &str, keys: &[&str]) {
    assert_eq!(document["schema"], schema, "{document}");
    for key in keys {
        assert!(document.get(key).is_some(), "`{key}` is missing in {document}");
    }
}

/// Exit code and standard error, without what differs from run to run.
fn redacted(world: &Holdfast, run: &Run) -> String {
    let mut text = format!("exit: {}\n{}", run.code.unwrap_or(-1), run.stderr);
    text = text.replace(&*world.root().to_string_lossy(), "[world]");
    let words = text.split_inclusive([' ', '\n', '`', ',', ';']);
    let word = |word: &str| {
        let bare = word.trim_end_matches([' ', '\n', '`', ',', ';']);
        let rest = &word[bare.len()..];
        let plain = if uuid::Uuid::parse_str(bare).is_ok() {
            "[set-id]"
        } else if bare.len() >= 20 && bare.ends_with('Z') && bare.contains('T') {
            "[time]"
        } else if bare.len() >= 3 && bare.chars().all(|c| c.is_ascii_digit()) {
            "[n]"
        } else {
            bare
        };
        format!("{plain}{rest}")
    };
    words.map(word).collect()
}

/// Goal: folders may be named as they are seen from where one stands.
#[test]
fn folders_named_relative_to_the_current_one_serve_all_commands() -> Tested {
    let (world, folder) = world()?;
    let there = |arguments: &[&str]| {
        let mut command = world.command(arguments.iter().copied())?;
        command.current_dir(world.root());
        for (variable, folder) in [
            ("HOLDFAST_STATE_DIR", "near/state"),
            ("HOLDFAST_RUNTIME_DIR", "near/run"),
            ("HOLDFAST_REPO", "near/sets"),
        ] {
            command.env(variable, folder);
        }
        Holdfast::run_command(command)?.success()
    };
    there(&["backup"])?;
    there(&["backup"])?;
    fs::remove_dir_all(&folder).expect("the disaster");
    there(&["restore", "latest", "--assume-stopped"])?;
    assert_eq!(fs::read_to_string(folder.join("file")).expect("is back"), "content");
    Ok(())
}

#[test]
fn every_command_answers_json_with_its_schema() -> Tested {
    let (world, _) = world()?;
    let one = |arguments: &[&str]| world.json(arguments.iter().copied());
    let made = one(&["backup", "--tag", "nightly"])?;
    let keys = [
        "set",
        "level",
        "one_instant",
        "window_ms",
        "skew_ms",
        "order",
        "bytes",
        "components",
        "keys",
        "shadows",
        "exceptions",
        "warnings",
    ];
    assert_document(&made, "holdfast.backup/1", &keys);
    assert_eq!(made["components"][0]["writer"], "data", "{made}");
    assert_eq!(made["components"][0]["files"], 2, "the folder counts: {made}");
    let set = made["set"].as_str().expect("an id");
    uuid::Uuid::parse_str(set).expect("an id");

    let listed = one(&["list", "backups"])?;
    assert_document(&listed, "holdfast.backups/1", &["backups"]);
    let first = &listed["backups"][0];
    assert_eq!((first["set"].as_str(), &first["tags"][0]), (Some(set), &"nightly".into()), "{listed}");
    for key in ["created", "host", "level", "one_instant", "bytes", "writers", "complete", "snapshot"] {
        assert!(first.get(key).is_some(), "`{key}` is missing in {first}");
    }

    let writers = one(&["list", "writers"])?;
    assert_document(&writers, "holdfast.writers/1", &["writers"]);
    assert_eq!(
        (&writers["writers"][0]["id"], &writers["writers"][0]["type"]),
        (&"data".into(), &"files".into())
    );
    let providers = one(&["list", "providers"])?;
    assert_document(&providers, "holdfast.providers/1", &["providers"]);
    let names = providers["providers"].as_array().expect("an array").iter().map(|p| p["name"].as_str());
    let names: Vec<_> = names.flatten().collect();
    assert!(["btrfs", "copy", "reflink"].iter().all(|name| names.contains(name)), "{names:?}");
    assert_document(&one(&["list", "shadows"])?, "holdfast.shadows/1", &["shadows", "damaged"]);
    assert_document(&one(&["thaw", "--all"])?, "holdfast.thaw/1", &["holders"]);
    assert_document(&one(&["gc"])?, "holdfast.gc/1", &["removed"]);
    assert_document(&one(&["config", "generate"])?, "holdfast.config/1", &["toml"]);
    assert_document(&one(&["config", "check"])?, "holdfast.config-check/1", &["writers"]);
    assert_document(&one(&["verify", set])?, "holdfast.verify/1", &["set", "sound"]);
    assert_document(
        &one(&["restore", "plan", "latest", "--assume-stopped"])?,
        "holdfast.restore-plan/1",
        &["set", "steps", "checks", "refusals", "refusal"],
    );
    let target = world.root().join("restored");
    fs::create_dir(&target).expect("a folder");
    let to = target.to_string_lossy().into_owned();
    assert_document(&one(&["restore", "latest", "--to", &to])?, "holdfast.restore/1", &["set"]);

    one(&["backup"])?;
    let dry = one(&["forget", "--keep-last", "1", "--dry-run"])?;
    assert_document(&dry, "holdfast.forget/1", &["dry_run", "sets", "freed_bytes"]);
    let verdicts = |document: &Value| -> Vec<String> {
        let sets = document["sets"].as_array().expect("an array");
        assert!(
            sets.iter().all(|set| set["reasons"].as_array().is_some_and(|r| !r.is_empty())),
            "{document}"
        );
        let mut verdicts: Vec<_> =
            sets.iter().map(|set| set["verdict"].as_str().unwrap_or("").into()).collect();
        verdicts.sort();
        verdicts
    };
    assert_eq!(verdicts(&dry), ["keep", "would forget"]);
    assert_eq!(
        one(&["list", "backups"])?["backups"].as_array().map(Vec::len),
        Some(2),
        "a dry run changes nothing"
    );
    assert_eq!(verdicts(&one(&["forget", "--keep-last", "1"])?), ["forget", "keep"]);
    assert_eq!(one(&["list", "backups"])?["backups"].as_array().map(Vec::len), Some(1));
    let pruned = one(&["prune"])?;
    assert_document(&pruned, "holdfast.prune/1", &["dry_run", "freed_bytes", "used_bytes", "packs_removed"]);

    fs::write(world.root().join("passphrase"), "correct horse battery staple\n").expect("written");
    let identity = one(&["key", "identity", "-o", "identity.age", "--passphrase-file", "passphrase"])?;
    assert_document(&identity, "holdfast.identity/1", &["recipient", "file"]);
    assert!(identity["recipient"].as_str().is_some_and(|r| r.starts_with("age1")), "{identity}");
    let sealed = fs::read(world.root().join("identity.age")).expect("the identity");
    assert!(sealed.starts_with(b"age-encryption.org/"), "stock age opens it");
    Ok(())
}

#[test]
fn a_failure_is_a_document_too_and_nothing_else_is_on_standard_output() -> Tested {
    let (world, _) = world()?;
    let run = world.run(["--json", "list", "backups"])?;
    assert_eq!(run.code, Some(10), "{}", run.stderr);
    let document = run.json()?;
    assert_document(&document, "holdfast.error/1", &["error", "causes", "state", "help", "exit"]);
    assert_eq!(document["exit"], 10);
    Ok(())
}

/// What is refused or goes wrong half-way has said something already: that must not become a document of its own.
#[test]
fn with_json_there_is_exactly_one_document_whatever_comes_of_the_command() -> Tested {
    let (mut world, folder) = world()?;
    world.run(["backup"])?.success()?;
    let one = |world: &Holdfast, code: i32, schema: &str, arguments: &[&str]| {
        let run = world.run(std::iter::once(&"--json").chain(arguments))?;
        assert_eq!(run.code, Some(code), "{arguments:?}: {}{}", run.stderr, run.stdout);
        // Fails if anything follows the first document.
        let document = run.json()?;
        assert_eq!(document["schema"], schema, "{arguments:?}: {document}");
        Ok::<_, FixtureError>((document, run))
    };

    // An application that has its file open is not down.
    let in_use = fs::File::open(folder.join("file")).expect("the live file");
    let plan = ["restore", "plan", "latest"];
    let (planned, run) = one(&world, 4, "holdfast.restore-plan/1", &plan)?;
    assert!(!planned["refusals"].as_array().expect("an array").is_empty(), "{planned}");
    assert!(planned["steps"].is_array() && planned["checks"].is_array(), "the whole plan: {planned}");
    for key in ["error", "causes", "state", "help", "exit"] {
        assert!(planned["refusal"].get(key).is_some(), "`{key}` is missing in {planned}");
    }
    assert_eq!(
        (&planned["refusal"]["exit"], &planned["refusal"]["state"]),
        (&4.into(), &"nothing was changed".into())
    );
    let told = planned["refusal"]["error"].as_str().expect("a sentence");
    assert!(run.stderr.contains(&format!("error: {told}\n")), "a person is told as before:\n{}", run.stderr);
    let (refused, _) = one(&world, 4, "holdfast.error/1", &["restore", "latest"])?;
    assert_eq!(refused["error"], told, "the restore says what its plan said");
    drop(in_use);
    let (planned, _) =
        one(&world, 0, "holdfast.restore-plan/1", &["restore", "plan", "latest", "--assume-stopped"])?;
    assert_eq!(planned["refusal"], Value::Null);

    // Stored with an exception, and given up with somebody held.
    world.config().writer("absent", "sqlite").set("database", "/nonexistent/absent.db");
    let (stored, _) = one(&world, 3, "holdfast.backup/1", &["backup", "--allow-incomplete", "absent"])?;
    assert_eq!(stored["exceptions"].as_array().map(Vec::len), Some(1), "{stored}");
    one(&world, 4, "holdfast.error/1", &["backup"])?;
    let database = world.root().join("busy.db");
    let busy = rusqlite::Connection::open(&database).expect("a database");
    busy.execute_batch("CREATE TABLE t (x); BEGIN IMMEDIATE; INSERT INTO t VALUES (1)").expect("held");
    world.config().clear_writers();
    world.config().writer("data", "files").set("paths", vec![folder]);
    world.config().writer("busy", "sqlite").set("database", database.as_path());
    let (aborted, _) = one(&world, 5, "holdfast.error/1", &["backup", "--freeze-budget", "300ms"])?;
    assert_eq!(aborted["exit"], 5, "{aborted}");
    let (stored, _) = one(
        &world,
        3,
        "holdfast.backup/1",
        &["backup", "--freeze-budget", "300ms", "--allow-incomplete", "busy"],
    )?;
    assert!(stored["exceptions"][0].as_str().is_some_and(|text| text.contains("`busy`")), "{stored}");
    Ok(())
}

#[test]
fn exit_codes_are_those_that_are_documented() -> Tested {
    let (mut world, folder) = world()?;
    let code = |world: &Holdfast, arguments: &[&str]| world.run(arguments).map(|run| run.code);
    assert_eq!(code(&world, &["list", "backups"])?, Some(10));
    assert_eq!(code(&world, &["--version"])?, Some(0));
    assert_eq!(code(&world, &["no-such-command"])?, Some(2));
    assert_eq!(code(&world, &["thaw"])?, Some(2), "never all by accident");
    assert_eq!(code(&world, &["backup", "--freeze-budget", "10"])?, Some(2), "a time needs its unit");
    assert_eq!(code(&world, &["backup", "--writer", "unknown"])?, Some(2));
    assert_eq!(code(&world, &["backup"])?, Some(0));
    assert_eq!(code(&world, &["verify", "latest"])?, Some(0));
    assert_eq!(code(&world, &["restore", "ffffffff"])?, Some(4));
    assert_eq!(code(&world, &["forget"])?, Some(2), "no policy, no forgetting");
    assert_eq!(code(&world, &["--repo", "swift:x", "list", "backups"])?, Some(2));

    // A private key among the files, or declared and with nobody to seal it to.
    let key = holdfast_tests::process::command("openssl");
    let mut key = key;
    key.args(["genpkey", "-algorithm", "ED25519", "-out"]).arg(folder.join("tls.key"));
    holdfast_tests::process::run(&mut key, std::time::Duration::from_secs(20))?;
    assert_eq!(code(&world, &["backup"])?, Some(8), "a key is never stored in the clear");
    fs::remove_file(folder.join("tls.key")).expect("removed");

    // Allowed by name: stored, and said.
    world.config().writer("absent", "sqlite").set("database", "/nonexistent/absent.db");
    assert_eq!(code(&world, &["backup"])?, Some(4), "an expected writer that is absent is a failure");
    let run = world.run(["backup", "--allow-incomplete", "absent"])?;
    assert_eq!(run.code, Some(3), "{}", run.stderr);
    assert!(run.stdout.contains("EXCEPTION: `absent` was left out"), "{}", run.stdout);
    let listed = world.run(["list", "backups"])?.success()?;
    assert!(listed.stdout.contains("INCOMPLETE"), "{}", listed.stdout);
    Ok(())
}

#[test]
fn one_session_at_a_time_and_who_holds_it_is_shown() -> Tested {
    let (world, _) = world()?;
    let paused = world.pause_at("preflight", ["backup"])?;
    let run = world.run(["backup"])?;
    insta::assert_snapshot!(redacted(&world, &run), @r#"
exit: 11
error: no session was begun
cause: another session runs: backup, process [n], since [time]
state: nothing was changed
"#);
    world.run(["gc"])?.assert_failed(11, &["another session runs: backup, process"]);
    paused.go_on()?.success()?;
    world.run(["gc"])?.success()?;
    Ok(())
}

#[test]
fn what_a_person_is_told_has_error_cause_state_and_help() -> Tested {
    let (mut world, folder) = world()?;
    let told = |world: &Holdfast, arguments: &[&str]| world.run(arguments).map(|run| redacted(world, &run));
    insta::assert_snapshot!(told(&world, &["list", "backups"])?, @r#"
exit: 10
error: the repository cannot be used
cause: there is no repository at [world]/repository
state: no set was changed
help:  check --repo; the first `holdfast backup` makes a new repository
"#);
    world.run(["backup"])?.success()?;
    insta::assert_snapshot!(told(&world, &["restore", "ffffffff"])?, @r#"
exit: 4
error: there is no set `ffffffff`
state: nothing was changed
help:  `holdfast list backups` shows those there are
"#);
    insta::assert_snapshot!(told(&world, &["backup", "--writer", "shop"])?, @r#"
exit: 2
error: there is no writer `shop`; configured are: data
state: nothing was changed
"#);
    fs::rename(&folder, world.root().join("away")).expect("moved away");
    insta::assert_snapshot!(told(&world, &["backup"])?, @r#"
exit: 4
error: an expected writer is absent
cause: `data` refused
cause: cannot find `[world]/data`: No such file or directory (os error 2)
state: nothing is held; no set was made
help:  see why with `holdfast list writers`; `--allow-incomplete data` stores a set without it (exit 3)
"#);
    fs::rename(world.root().join("away"), &folder).expect("moved back");
    fs::write(world.password_file(), "wrong\n").expect("written");
    insta::assert_snapshot!(told(&world, &["verify", "latest"])?, @r#"
exit: 12
error: the repository cannot be used
cause: the password opens no key of the repository at [world]/repository
state: no set was changed
help:  check the password file; its first line counts
"#);
    world.config().append("[keep]\ndayly = 7\n");
    insta::assert_snapshot!(told(&world, &["forget"])?, @r#"
exit: 2
error: the configuration cannot be used
cause: [world]/holdfast.toml:11: unknown field `dayly`, expected one of `last`, `hourly`, `daily`, `weekly`, `monthly`, `yearly`
state: nothing was changed
help:  `holdfast config check` tries it again without doing anything
"#);
    Ok(())
}

#[test]
fn the_help_shows_examples_and_the_exit_codes() -> Tested {
    let (world, _) = world()?;
    for command in ["backup", "restore", "forget"] {
        let help = world.run([command, "--help"])?.success()?.stdout;
        assert!(help.contains("Example:\n  holdfast "), "{help}");
        let example = help.lines().skip_while(|line| !line.contains("Example:")).nth(1).unwrap_or("");
        assert!(example.contains(&format!("holdfast {command}")), "{example}");
    }
    let help = world.run(["--help"])?.success()?.stdout;
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
    assert!(help.contains("6 THAW NOT CONFIRMED") && help.contains("130 interrupted"), "{help}");
    let hidden = world.run(["demo-app", "--help"])?;
    assert!(!help.contains("demo-app"), "{}", hidden.stdout);
    Ok(())
}

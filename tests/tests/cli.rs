//! The command line's promises to scripts and to tired people: documents with a schema, exit codes, the shape of errors,
//! examples in the help.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    time::Duration,
};

use holdfast_tests::{
    FixtureError,
    holdfast::{Holdfast, Run},
    process,
    require::require_tool,
};
use rustix::process::Signal;
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
        "not_completed",
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
    let mut key = process::command("openssl");
    key.args(["genpkey", "-algorithm", "ED25519", "-out"]).arg(folder.join("tls.key"));
    process::run(&mut key, Duration::from_secs(20))?;
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

/// Goal: a first backup that is refused leaves no repository behind, whatever refuses it; the next one makes it; after
/// that, a repository that is gone is an error.
#[test]
fn the_repository_comes_into_being_with_the_first_backup_that_is_not_refused() -> Tested {
    let (mut world, folder) = world()?;
    let refused = |world: &Holdfast, code: i32, arguments: &[&str], why: &str| -> Tested {
        world.run(arguments)?.assert_failed(code, &[why, "state: "]);
        assert!(!world.repository().exists(), "{arguments:?} left a repository");
        assert!(!world.state_dir().join("repositories").exists(), "{arguments:?} noted one");
        Ok(())
    };
    refused(&world, 2, &["backup", "--writer", "unknown"], "no writer `unknown`")?;
    refused(&world, 4, &["backup", "--component", "data/unknown"], "no component `unknown`")?;
    fs::rename(&folder, world.root().join("away")).expect("moved away");
    refused(&world, 4, &["backup"], "an expected writer is absent")?;
    fs::rename(world.root().join("away"), &folder).expect("moved back");
    let key = folder.join("tls.key");
    let mut openssl = process::command("openssl");
    openssl.args(["genpkey", "-algorithm", "ED25519", "-out"]).arg(&key);
    process::run(&mut openssl, Duration::from_secs(20))?;
    refused(&world, 8, &["backup"], "tls.key")?;
    fs::remove_file(&key).expect("removed");
    // A folder for shadow copies that others can read: found by the provider, last of all.
    world.config().clear_writers().writer("data", "files").set("paths", vec![folder]).set("provider", "copy");
    let area = world.state_dir().join(".holdfast-shadows");
    fs::create_dir(&area)
        .and_then(|()| fs::set_permissions(&area, Permissions::from_mode(0o755)))
        .expect("made");
    refused(&world, 4, &["backup"], "the shadow copies could not be prepared")?;
    fs::remove_dir(&area).expect("removed");
    world.run(["gc"])?.success()?;
    refused(&world, 10, &["list", "backups"], "there is no repository")?;

    let paused = world.pause_at("prepare-snapshot", ["backup"])?;
    assert!(world.repository().join("config").exists(), "it is there before anything is frozen");
    paused.go_on()?.success()?;
    fs::rename(world.repository(), world.root().join("unmounted")).expect("moved away");
    let run = world.run(["backup"])?;
    run.assert_failed(10, &["this machine has backed up here before", "mount its disk"]);
    world.run(["gc"])?.assert_failed(10, &["there is no repository"]);
    assert!(!world.repository().exists(), "and none was made");
    Ok(())
}

/// Goal: a writer that fails at BackupComplete is no success: the set is there and whole, and the command says which
/// writer, why, what is not truncated, and what to do.
#[test]
fn a_writer_that_does_not_complete_ends_a_backup_with_1_or_with_3_where_it_was_allowed() -> Tested {
    let (world, _) = world()?;
    let killed_at_the_end = |arguments: &[&str]| {
        let paused = world.pause_at("backup-complete", arguments)?;
        paused.children().iter().for_each(|writer| writer.signal(Signal::KILL));
        paused.go_on()
    };
    let run = killed_at_the_end(&["backup"])?;
    assert!(run.stdout.contains("stored, NOT COMPLETED by `data`"), "{}", run.stdout);
    run.assert_failed(
        1,
        &[
            "is stored, but writer `data` did not complete the backup",
            "cause: `data` stopped responding",
            "signal 9",
            "state: the set can be restored; no application is held; the logs of `data` were not truncated",
            "help:  see why with `holdfast list writers`",
            "`--allow-incomplete data` makes of this exit 3",
        ],
    );

    let run = killed_at_the_end(&["--json", "backup", "--allow-incomplete", "data"])?;
    run.assert_failed(3, &["writer `data` did not complete the backup", "were not truncated"]);
    let document = run.json()?;
    assert_document(&document, "holdfast.backup/1", &["set", "level", "not_completed"]);
    let not_completed = &document["not_completed"][0];
    assert_eq!(
        (&not_completed["writer"], &not_completed["allowed"]),
        (&"data".into(), &true.into()),
        "{document}"
    );
    assert!(not_completed["error"].as_str().is_some_and(|text| text.contains("signal 9")), "{document}");
    assert_eq!(document["exceptions"], serde_json::json!([]), "nothing is missing in it");

    let listed = world.json(["list", "backups"])?;
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(2), "{listed}");
    let set = document["set"].as_str().expect("an id");
    world.run(["verify", set])?.success()?;
    let target = world.root().join("restored");
    fs::create_dir(&target).expect("a folder");
    world.run(["restore", set, "--to", &target.to_string_lossy()])?.success()?;
    if require_tool("restic").is_some() {
        for (path, words) in [("set.json", "did not complete the backup"), ("events.ndjson", "writer-failed")]
        {
            let told = world.restic().dump("latest", &format!("/holdfast/{path}"))?;
            assert!(String::from_utf8_lossy(&told).contains(words), "the set itself says so, in {path}");
        }
    }
    assert_eq!(world.json(["backup"])?["not_completed"], serde_json::json!([]));
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
    insta::assert_snapshot!(told(&world, &["backup", "--allow-incomplete", "dta"])?, @r#"
exit: 2
error: --allow-incomplete: there is no writer `dta`; configured are: data
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

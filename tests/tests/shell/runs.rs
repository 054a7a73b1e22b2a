//! What a script is asked, and what it may answer.

use std::fs;

use holdfast_tests::holdfast::Holdfast;
use holdfast_tests::require::{require_tool, workspace_root};

use crate::site::{Site, Tested, assert_free};

#[test]
fn a_book_is_backed_up_while_it_is_signed_and_comes_back() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    let before = site.visitors().count();
    let run = site.world.run(["backup"])?.success()?;
    assert!(run.stdout.contains("stored"), "{}", run.stdout);
    site.assert_released("after the backup");
    site.assert_alone("after the backup");
    let application = site.application();
    // Its own word is asked for: it runs, as far as that goes.
    fs::write(application.join("pid"), std::process::id().to_string()).expect("a file");
    let run = site.world.run(["restore", "latest", "--writer", "book"])?;
    run.assert_failed(4, &["`book`", "it runs, says its writer"]);
    let (world, _place, signed) = site.closes();
    fs::remove_file(application.join("pid")).expect("removed");
    fs::write(application.join("book"), "torn to pieces").expect("written");
    // In a container, root may not look into each process.
    world.run(["restore", "latest", "--writer", "book", "--assume-stopped"])?.success()?;
    let back = fs::read_to_string(application.join("book")).expect("the book");
    let back: Vec<u64> = back.lines().map(|line| line.parse().expect("a number")).collect();
    assert!(back.len() >= before && signed.starts_with(&back), "{back:?} of {signed:?}");
    Ok(())
}

#[test]
fn the_example_keeps_the_rules_for_writers() -> Tested {
    let Some(_) = require_tool("flock") else { return Ok(()) };
    let Some(site) = Site::new()? else { return Ok(()) };
    let script = site.script("visitors").display().to_string();
    let fixture = workspace_root().join("writers/examples/shell/fixture").display().to_string();
    let run = site.world.run(["writer", "test", &script, "--fixture", &fixture])?;
    assert_eq!(run.code, Some(0), "{}\n{}", run.stdout, run.stderr);
    assert!(run.stdout.ends_with("19 rules: 14 ok, 5 not applicable\n"), "{}", run.stdout);
    site.assert_alone("after the test");
    Ok(())
}

#[test]
fn a_script_sees_its_settings_its_set_and_nothing_of_its_requester() -> Tested {
    let Some(mut site) = Site::faulty("tells")? else { return Ok(()) };
    site.world.set_environment("SECRET", "of the administrator");
    site.with_fault("tells").set("two-words", true).set("count", 7);
    site.world.run(["backup"])?.success()?;
    let names = fs::read_to_string(site.application().join("environment")).expect("what it saw");
    let ours = ["HOLDFAST_", "SETTING_"];
    let (given, kept): (Vec<_>, Vec<_>) =
        names.lines().partition(|name| ours.iter().any(|prefix| name.starts_with(prefix)));
    assert_eq!(
        given,
        [
            "HOLDFAST_BUDGET_MS",
            "HOLDFAST_SET",
            "HOLDFAST_WRITER",
            "SETTING_COUNT",
            "SETTING_FAULT",
            "SETTING_FOLDER",
            "SETTING_TWO_WORDS",
            "SETTING_WRITER"
        ]
    );
    // PWD and the like are the shell's own.
    let usual =
        ["HOME", "LANG", "LC_ALL", "OLDPWD", "PATH", "PWD", "RUST_BACKTRACE", "SHLVL", "TMPDIR", "TZ", "_"];
    assert!(kept.iter().all(|name| usual.contains(name)), "{kept:?}");

    site.with_fault("tells").set("list", vec!["a", "b"]);
    site.world.run(["backup"])?.assert_failed(2, &["holdfast.toml:", "`list`", "a script takes text"]);
    site.with_fault("tells").set("two-words", 1).set("two_words", 2);
    site.world.run(["backup"])?.assert_failed(2, &["another key is SETTING_TWO_WORDS"]);
    Ok(())
}

#[test]
fn what_describe_prints_is_understood_or_refused_with_line_and_key() -> Tested {
    let Some(mut site) = Site::new()? else { return Ok(()) };
    for (fault, words) in [
        ("garbage", ["an expected writer is absent", "line 1 (`hello`)"]),
        ("wrong-key", ["line 2 (`bugdet = \"2s\"`)", "unknown field `bugdet`"]),
    ] {
        site.with_fault(fault);
        site.world.run(["backup"])?.assert_failed(4, &words);
        site.assert_alone(fault);
    }
    Ok(())
}

/// Goal: whoever says that he takes no part is missed, unless he was allowed by name to be.
#[test]
fn a_script_that_skips_fails_the_set_unless_that_was_allowed() -> Tested {
    let Some(mut site) = Site::faulty("skips")? else { return Ok(()) };
    // The word that skips is the first that does: `describe`.
    let absent = ["an expected writer is absent", "`book` takes no part", "exit status 75"];
    site.and_other();
    site.world.run(["backup"])?.assert_failed(4, &absent);
    let run = site.world.run(["backup", "--allow-incomplete", "book"])?;
    assert_eq!(run.code, Some(3), "{}{}", run.stdout, run.stderr);
    assert_eq!(site.sets()?, 1);

    site.with_fault("skips-late");
    site.and_other();
    assert_free(&site.world.run(["backup"])?, &["`book` takes no part"]);
    assert_eq!(site.sets()?, 1);
    let run = site.world.run(["backup", "--allow-incomplete", "book"])?;
    assert_eq!(run.code, Some(3), "{}{}", run.stdout, run.stderr);
    assert_eq!(site.sets()?, 2);
    site.assert_released("at the end");
    site.assert_alone("at the end");
    Ok(())
}

#[test]
fn a_script_that_others_could_change_is_not_run() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    let script = site.script("visitors");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(&script, permissions).expect("a mode");
    site.world.run(["backup"])?.assert_failed(2, &["cannot be trusted", "can be written by others"]);
    // The requester does not see which script it is that another program runs.
    let mut world = Holdfast::new()?;
    let link = world.root().join("shell");
    fs::copy(holdfast_tests::holdfast::binary(), &link).expect("a copy");
    let arguments = vec!["writer", "shell", script.to_str().expect("a name")];
    world.config().writer("book", "any").set("program", link).set("arguments", arguments);
    world.run(["backup"])?.assert_failed(4, &["`book` refused", "the script", "can be written by others"]);
    Ok(())
}

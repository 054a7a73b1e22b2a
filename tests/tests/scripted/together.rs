//! Several writers at once: two that fail, one that may fail, and what has to be true before logs are truncated.

use holdfast_tests::{FixtureError, holdfast::binary, paused::all_gone};

use super::{
    scene::{SOON, Scene, Told},
    table::{Expected, unlike},
};

fn step(phase: &str, what: &str) -> String {
    format!("[[on]]\nphase = \"{phase}\"\ndo = \"{what}\"\n")
}

/// Runs a backup and looks at everything.
fn backup(scene: &Scene, arguments: &[&str], expected: &Expected) -> Result<Vec<String>, FixtureError> {
    let run = scene.run(&[["backup"].as_slice(), arguments].concat())?;
    let mut wrong = unlike(&run, expected);
    wrong.extend(scene.wrong());
    Ok(wrong)
}

#[test]
fn two_of_one_level_that_fail_together_keep_nobody_held() -> Result<(), FixtureError> {
    let scene = Scene::new()?;
    let slow = "[[on]]\nphase = \"freeze\"\ndo = \"delay\"\nms = 300\n";
    let mut wrong = Vec::new();
    for (odd, calm) in [
        (step("freeze", "hang"), step("freeze", "hang")),
        (step("freeze", "fail"), step("freeze", "kill")),
        // Given up in the middle of its freeze.
        (step("freeze", "fail"), slow.to_owned()),
        (step("thaw", "hang"), step("thaw", "hang")),
        (step("thaw", "fork"), step("thaw", "garbage")),
    ] {
        scene.script("odd", &odd);
        scene.tell("calm", &Told { level: "system", ..Told::with("calm", &calm) });
        let says = vec!["was not created", "writers thawed; no application is held"];
        let found = backup(&scene, &[], &Expected { exit: 5, says, one_of: &[] })?;
        wrong.extend(found.into_iter().map(|one| format!("{odd}{calm}: {one}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    scene.stop()
}

/// Goal: whoever may fail by name is left out, in whichever phase he fails, and the others are cut at one instant; they
/// are asked anew from the beginning.
#[test]
fn a_writer_that_may_fail_is_left_out_and_the_others_make_a_set() -> Result<(), FixtureError> {
    let mut scene = Scene::new()?;
    let mut wrong = Vec::new();
    for (phase, action) in [
        ("hello", "garbage"),
        ("identify", "kill"),
        ("begin-backup", "fail"),
        ("prepare-backup", "exit"),
        ("seal-keys", "fail"),
        ("prepare-snapshot", "twice"),
        ("freeze", "fork"),
        ("thaw", "fail"),
        ("post-snapshot", "panic"),
        ("backup-complete", "fail"),
    ] {
        scene.script("odd", &step(phase, action));
        scene.sets += 1;
        let found = backup(
            &scene,
            &["--allow-incomplete", "odd"],
            &Expected { exit: 3, says: vec!["`odd`"], one_of: &[] },
        )?;
        wrong.extend(found.into_iter().map(|one| format!("{phase}, {action}: {one}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    scene.stop()
}

/// Goal: when writers are told to truncate, the set is there for whoever looks (promise P5).
#[test]
fn the_set_can_be_read_by_others_when_logs_are_truncated() -> Result<(), FixtureError> {
    let mut scene = Scene::new()?;
    let (program, world) = (binary(), &scene.world);
    let flags = [
        ("--config", world.config_file()),
        ("--state-dir", world.state_dir()),
        ("--runtime-dir", world.runtime_dir()),
    ];
    let flags: String = flags.iter().map(|(flag, path)| format!("{flag:?}, {path:?}, ")).collect();
    let look = |phase: &str| {
        format!("[[look]]\nphase = \"{phase}\"\ncommand = [{program:?}, {flags}\"verify\", \"{{set}}\"]\n")
    };
    scene.script("odd", &look("backup-complete"));
    scene.sets = 1;
    let wrong = backup(&scene, &[], &Expected { exit: 0, says: vec![], one_of: &[] })?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // And the look does look: before, there is no set.
    scene.script("odd", &look("post-snapshot"));
    scene.sets = 2;
    let wrong = backup(&scene, &[], &Expected { exit: 0, says: vec![], one_of: &[] })?;
    assert!(wrong.len() == 1 && wrong[0].contains("R20"), "{}", wrong.join("\n"));
    scene.stop()
}

/// Goal: the death of the requester breaks no rule, since a dead one says nothing any more; whoever it held is free.
#[test]
fn writers_of_a_requester_that_is_killed_end_with_it() -> Result<(), FixtureError> {
    let scene = Scene::new()?;
    scene.script("odd", "");
    for point in ["prepare-snapshot", "frozen", "post-snapshot"] {
        let _ = std::fs::remove_file(scene.journal());
        let paused = scene.world.pause_at(point, ["backup"])?;
        let writers = paused.kill();
        all_gone(&writers, SOON)?;
        let wrong = scene.wrong();
        let of_writers =
            |one: &&String| one.contains("held") || one.contains("the requester:") || one.contains("write");
        let wrong: Vec<_> = wrong.iter().filter(of_writers).collect();
        assert!(wrong.is_empty(), "{point}: {wrong:?}");
        // What it left is cleared away by the next.
        scene.run(&["gc"])?.success()?;
    }
    scene.stop()
}

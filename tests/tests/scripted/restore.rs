//! A restore of the scripted writers, while the other application goes on: every phase, and every way to misbehave in it.

use std::fs;

use holdfast_tests::FixtureError;

use super::{
    scene::{NOW, Scene, THEN, Told},
    table::{Case, Expected, Place, cases, go_through, unlike},
};

/// All calls of a restore. Those with a 1 are of the plan, those with a 2 of the restore itself.
const PLACES: [Place; 15] = [
    ("hello", Some(1)),
    ("hello", Some(2)),
    ("begin-restore", Some(1)),
    ("begin-restore", Some(2)),
    ("online-state", Some(1)),
    ("online-state", Some(2)),
    ("check", None),
    ("register", None),
    ("register-complete", None),
    ("recover", None),
    ("verify", None),
    ("post-restore-steps", Some(1)),
    ("post-restore-steps", Some(2)),
    ("run-step", None),
    ("unregister", None),
];

/// How the data of both writers stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Data {
    /// As before.
    Now,
    /// As in the set.
    Then,
    /// Nobody can open them.
    Blocked,
}

fn expected(case: Case) -> (Expected, Data) {
    let ends = |exit, says: &[&'static str]| Expected { exit, says: says.to_vec(), one_of: case.told() };
    match (case.phase, case.nth) {
        _ if case.is_harmless() => (Expected { exit: 0, says: vec![], one_of: &[] }, Data::Then),
        // One that cannot tell is not believed either way: the requester looks by itself.
        ("online-state", _) if case.action == "fail" => {
            (Expected { exit: 0, says: vec![], one_of: &[] }, Data::Then)
        }
        // After that nothing can be asked of it, and what that next thing is differs.
        ("online-state", _) => {
            (Expected { one_of: &[], ..ends(4, &["`odd`", "nothing was changed"]) }, Data::Now)
        }
        ("register-complete" | "recover" | "verify", _) => (
            ends(1, &["`odd`", "is blocked: its application cannot start", "holdfast recover"]),
            Data::Blocked,
        ),
        ("post-restore-steps", Some(2)) | ("run-step" | "unregister", _) => {
            (ends(1, &["`odd`", "are restored; what follows is unfinished", "holdfast recover"]), Data::Then)
        }
        _ => (ends(4, &["`odd`", "nothing was changed"]), Data::Now),
    }
}

fn data(scene: &Scene, writer: &str) -> Option<Data> {
    match fs::read_to_string(scene.data(writer)).as_deref() {
        Ok(NOW) => Some(Data::Now),
        Ok(THEN) => Some(Data::Then),
        Ok(_) => None,
        Err(_) => Some(Data::Blocked),
    }
}

/// Whether both writers' data are `expected`.
fn both(scene: &Scene, when: &str, expected: Data) -> Vec<String> {
    let stand = ["odd", "calm"].map(|writer| data(scene, writer));
    if stand == [Some(expected); 2] {
        return Vec::new();
    }
    vec![format!("{when}: the data of both are to be {expected:?}, and are {stand:?}")]
}

/// The scripted writers alone; the application goes on.
const RESTORE: [&str; 7] = ["restore", "latest", "--writer", "odd", "--writer", "calm", "--assume-stopped"];

fn make(scene: &Scene, content: &str) {
    for writer in ["odd", "calm"] {
        fs::write(scene.data(writer), content).expect("the data");
    }
}

fn with_a_set() -> Result<Scene, FixtureError> {
    let mut scene = Scene::new()?;
    scene.tell("odd", &Told::without_keys("odd", ""));
    scene.run(&["backup"])?.success()?;
    scene.sets = 1;
    Ok(scene)
}

/// Restores, and then finishes what is left to be finished, with a writer that does right.
fn run(scene: &mut Scene, case: Case) -> Result<Vec<String>, FixtureError> {
    make(scene, NOW);
    let (expected, stands) = expected(case);
    scene.tell("odd", &Told::without_keys("odd", &case.step()));
    let run = scene.run(&RESTORE)?;
    let mut wrong = unlike(&run, &expected);
    wrong.extend(both(scene, "after the restore", stands));
    wrong.extend(scene.wrong());

    scene.tell("odd", &Told::without_keys("odd", ""));
    let recovered = scene.go_on(&["recover", "--assume-stopped"])?;
    wrong.extend(unlike(&recovered, &Expected { exit: 0, says: vec![], one_of: &[] }));
    let ends = if stands == Data::Now { Data::Now } else { Data::Then };
    wrong.extend(both(scene, "after `recover`", ends));
    wrong.extend(scene.wrong());
    wrong.extend(scene.registered().map(|name| format!("still registered: {name}")));
    Ok(wrong)
}

/// Goal: whatever a writer does in whatever phase, the restore ends as documented, changed for all its writers or for
/// none, and what it left unfinished is finished by `recover`.
#[test]
fn whatever_a_writer_does_in_a_restore_is_told_and_can_be_finished() {
    go_through(&cases(&[], &PLACES), with_a_set, run);
}

#[test]
#[ignore = "soak: the whole table"]
fn every_misbehaviour_in_every_phase_of_a_restore() {
    go_through(&cases(&PLACES, &[]), with_a_set, run);
}

/// What a script says besides, and how the restore ends.
#[test]
fn what_a_writer_says_of_itself_decides_how_its_restore_goes() -> Result<(), FixtureError> {
    let scene = with_a_set()?;
    let told = |steps: &str| Told::without_keys("odd", steps);
    let ready =
        "[[on]]\nphase = \"online-state\"\ndo = \"answer\"\njson = '{\"state\": \"ready\"}'\nnth = 2\n";
    let lacking = ["register", "register-complete", "unregister"].map(|phase| {
        let class = "org.varlink.service.MethodNotFound";
        format!("[[on]]\nphase = \"{phase}\"\ndo = \"fail\"\nclass = \"{class}\"\n")
    });
    let failing = "[[on]]\nphase = \"run-step\"\ndo = \"fail\"\n";
    let runs = &["it runs, says its writer", "nothing was changed"][..];
    let mut wrong = Vec::new();
    for (what, told, exit, says, stands) in [
        ("it runs", Told { online: "ready", ..told("") }, 4, runs, Data::Now),
        ("it runs again when it is to be moved", told(ready), 4, runs, Data::Now),
        ("it has no registration of its own", told(&lacking.concat()), 0, &[], Data::Then),
        ("it has nothing to recover", Told { recover: false, ..told("") }, 0, &[], Data::Then),
        (
            "its step may fail",
            Told { on_failure: "continue", ..told(failing) },
            0,
            &["starts it"],
            Data::Then,
        ),
    ] {
        make(&scene, THEN);
        // What it says of itself is stored with the set.
        scene.tell("odd", &Told { steps: String::new(), ..told });
        scene.run(&["backup"])?.success()?;
        scene.tell("odd", &told);
        make(&scene, NOW);
        // The backup's part of the journal is gone.
        let run = scene.run(&RESTORE)?;
        let mut found = unlike(&run, &Expected { exit, says: says.to_vec(), one_of: &[] });
        found.extend(both(&scene, "after the restore", stands));
        found.extend(scene.wrong().into_iter().filter(|one| !one.contains("snapshots")));
        found.extend(scene.registered().map(|name| format!("still registered: {name}")));
        wrong.extend(found.into_iter().map(|one| format!("{what}: {one}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    scene.stop()
}

//! A backup: every phase, and every way to misbehave in it.

use holdfast_tests::FixtureError;

use super::{
    scene::Scene,
    table::{Case, Expected, Place, cases, go_through, unlike},
};

/// Where applications are held.
const DANGEROUS: [Place; 2] = [("freeze", None), ("thaw", None)];

/// All other calls of a backup. The first `Hello` is that of `Identify`.
const OTHERS: [Place; 10] = [
    ("hello", Some(1)),
    ("hello", Some(2)),
    ("identify", None),
    ("begin-backup", None),
    ("prepare-backup", None),
    ("seal-keys", None),
    ("prepare-snapshot", None),
    ("post-snapshot", None),
    ("backup-complete", None),
    ("abort", None),
];

/// How the backup ends, and whether there is a set.
fn expected(case: Case) -> (Expected, bool) {
    let failed =
        |exit, says: &[&'static str]| (Expected { exit, says: says.to_vec(), one_of: case.told() }, false);
    match case.phase {
        // It is `calm` by which the backup fails; what `odd` does then changes nothing.
        "abort" => {
            let says =
                vec!["a writer could not prepare", "`calm` refused", "nothing is held; no set was made"];
            (Expected { exit: 4, says, one_of: &[] }, false)
        }
        _ if case.is_harmless() => (Expected { exit: 0, says: vec![], one_of: &[] }, true),
        "backup-complete" => {
            let (expected, _) =
                failed(1, &["is stored", "`odd`", "the set can be restored; no application is held"]);
            (expected, true)
        }
        "prepare-snapshot" => {
            failed(5, &["was not created", "`odd`", "nothing was frozen; no application is held"])
        }
        "freeze" | "thaw" => {
            let state = "3 of 3 writers thawed; no application is held; no shadow copy is left";
            failed(5, &["was not created", "`odd`", state])
        }
        _ => {
            let exit = if case.action == "fail" { 4 } else { 1 };
            failed(exit, &["`odd`", "nothing is held; no set was made"])
        }
    }
}

fn run(scene: &mut Scene, case: Case) -> Result<Vec<String>, FixtureError> {
    let (expected, is_stored) = expected(case);
    scene.script("odd", &case.step());
    let failing = "[[on]]\nphase = \"prepare-backup\"\ndo = \"fail\"\n";
    scene.script("calm", if case.phase == "abort" { failing } else { "" });
    let run = scene.run(&["backup"])?;
    scene.sets += usize::from(is_stored);
    let mut wrong = unlike(&run, &expected);
    wrong.extend(scene.wrong());
    Ok(wrong)
}

/// Goal: whatever a writer does in whatever phase, the backup ends as documented, the applications write on, nothing is
/// left, and the other writers were treated as the contract says.
#[test]
fn whatever_a_writer_does_in_a_backup_is_told_and_harms_nobody() {
    go_through(&cases(&DANGEROUS, &OTHERS), Scene::new, run);
}

#[test]
#[ignore = "soak: the whole table"]
fn every_misbehaviour_in_every_phase_of_a_backup() {
    go_through(&cases(&[DANGEROUS.as_slice(), &OTHERS].concat(), &[]), Scene::new, run);
}

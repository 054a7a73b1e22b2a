//! The requester against writers that misbehave in every phase and in every way.

#[path = "scripted/scene.rs"]
mod scene;
#[path = "scripted/table.rs"]
mod table;

use holdfast_writer_test::script::ACTIONS;
use scene::Scene;
use table::{Case, go_through};

#[test]
fn explore() {
    let phases = [
        ("hello", Some(1)),
        ("hello", Some(2)),
        ("identify", None),
        ("begin-backup", None),
        ("prepare-backup", None),
        ("seal-keys", None),
        ("prepare-snapshot", None),
        ("freeze", None),
        ("thaw", None),
        ("post-snapshot", None),
        ("backup-complete", None),
        ("abort", None),
    ];
    let only = std::env::var("PHASE").ok();
    let mut cases = Vec::new();
    for (phase, nth) in phases {
        for kind in ACTIONS {
            if only.as_deref().is_none_or(|only| only == phase) {
                cases.push(Case { phase, nth, kind });
            }
        }
    }
    let begun = std::time::Instant::now();
    let wrong = go_through(
        &cases,
        || Scene::new().unwrap(),
        |scene, case| {
            scene.script("odd", &case.step());
            if case.phase == "abort" {
                scene.script("calm", "[[on]]\nphase = \"prepare-backup\"\ndo = \"fail\"\n");
            }
            let run = scene.run(&["backup"]).unwrap();
            let snaps =
                std::fs::read_dir(scene.world.repository().join("snapshots")).map(|d| d.count()).unwrap_or(0);
            let made = snaps - scene.sets;
            scene.sets = snaps;
            scene.script("calm", "");
            let wrong = scene.wrong();
            let lines: Vec<_> = run
                .stderr
                .lines()
                .filter(|l| l.starts_with("error") || l.starts_with("cause") || l.starts_with("state"))
                .collect();
            eprintln!(
                "{:16} {:12} exit {:?} +{made} {:?} {}  {}",
                case.phase,
                case.kind,
                run.code,
                run.took,
                lines.join(" | "),
                wrong.join(" !! ")
            );
            wrong
        },
    );
    eprintln!("took {:?}", begun.elapsed());
    eprintln!("{wrong:#?}");
}

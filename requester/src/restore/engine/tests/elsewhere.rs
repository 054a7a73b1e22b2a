//! Restores to another place, on a bare machine, and verification.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::support::{App, Bench};
use crate::failure::Exit;
use crate::restore::NoSteps;
use crate::restore::engine::{RestoreOptions, VerifyReport, verify};
use crate::restore::target::TargetMap;

fn to(bench: &Bench, folder: &Path) -> RestoreOptions {
    RestoreOptions { target: TargetMap::new(Some(folder), []).unwrap(), ..bench.options() }
}

fn below(folder: &Path, live: &Path) -> PathBuf {
    folder.join(live.strip_prefix("/").unwrap())
}

#[tokio::test]
async fn a_restore_elsewhere_is_recovered_there_and_leaves_the_original_place_alone() {
    let bench = Bench::new();
    fs::set_permissions(&bench.app().live, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = bench.root.path().join("copy");
    let report = bench.restore(to(&bench, &copy)).await.unwrap();
    let there =
        App { live: below(&copy, &bench.app().live), ..App::new(&bench.root.path().join("scratch"), "app") };
    assert!(there.is_restored());
    assert!(bench.app().is_changed() && bench.is_clean());
    assert!(!report.writers[0].full_required && report.documents.is_none());
    assert!(!bench.paths.state.join("full-required").exists());
}

#[tokio::test]
async fn folders_made_above_the_target_get_the_mode_they_had() {
    let bench = Bench::with(|root| {
        let app = App::new(root, "app");
        fs::set_permissions(&app.live, fs::Permissions::from_mode(0o2750)).unwrap();
        vec![app]
    });
    fs::remove_dir_all(bench.root.path().join("live")).unwrap();
    bench.restore(bench.options()).await.unwrap();
    assert!(bench.app().is_restored());
    assert_eq!(fs::metadata(&bench.app().live).unwrap().mode() & 0o7777, 0o2750);
}

#[tokio::test]
async fn a_bare_machine_gets_files_documents_and_sealed_keys_and_is_told_what_is_missing() {
    let mut bench = Bench::new();
    bench.writers.clear();
    let in_place = bench.restore(bench.options()).await.unwrap_err();
    assert_eq!(in_place.exit, Exit::Refused);
    assert!(in_place.help.unwrap().contains("--to"));
    let copy = bench.root.path().join("copy");
    let report = bench.restore(to(&bench, &copy)).await.unwrap();
    let there = below(&copy, &bench.app().live);
    // As they were cut: nobody here can append the log.
    assert_eq!(fs::read_to_string(there.join("db")).unwrap(), "then;");
    assert_eq!(fs::read_to_string(there.join("db-wal")).unwrap(), "committed;");
    assert!(report.needs.iter().any(|need| need.contains("app/database")), "{:?}", report.needs);
    let documents = report.documents.unwrap();
    assert!(documents.join("set.json").exists() && documents.join("writers/app.json").exists());
    assert!(bench.is_clean());
}

#[tokio::test]
async fn a_renamed_database_takes_its_log_along() {
    let bench = Bench::new();
    let (live, new) = (bench.app().live.clone(), bench.root.path().join("other/new.db"));
    let rules = [(live.join("db"), new.clone()), (live.join("certs"), bench.root.path().join("other/certs"))];
    let options = RestoreOptions { target: TargetMap::new(None, rules).unwrap(), ..bench.options() };
    bench.restore(options).await.unwrap();
    assert_eq!(fs::read_to_string(new).unwrap(), "then;committed;");
    assert!(bench.app().is_changed());
}

#[tokio::test]
async fn maps_that_collide_miss_or_split_a_folder_are_refused() {
    let bench = Bench::new();
    let (live, root) = (bench.app().live.clone(), bench.root.path().to_owned());
    let mapped = |rules: &[(PathBuf, PathBuf)]| RestoreOptions {
        target: TargetMap::new(None, rules.iter().cloned()).unwrap(),
        ..bench.options()
    };
    for (rules, expected) in [
        (vec![(live.join("db"), root.join("x")), (live.join("certs"), root.join("x"))], "both be restored"),
        (vec![(root.join("nowhere"), root.join("x"))], "nothing of this restore"),
        (vec![(live.join("certs/deep"), root.join("x"))], "as a whole"),
    ] {
        let plan = bench.plan(mapped(&rules)).await.unwrap();
        assert!(
            plan.refusals.iter().any(|refusal| refusal.what.contains(expected)),
            "{expected}: {:?}",
            plan.refusals
        );
        assert_eq!(plan.refusal().unwrap().exit, Exit::Refused);
    }
    assert!(bench.app().is_changed() && bench.is_clean());
}

#[tokio::test]
async fn two_writers_one_inside_the_other_are_refused_by_name() {
    let bench = Bench::with(|root| {
        let outer = App::new(root, "outer");
        let mut inner = App::new(root, "inner");
        inner.live = outer.live.join("certs");
        fs::create_dir_all(inner.live.join("certs/deep")).unwrap();
        for name in ["db", "db-wal", "certs/1.pem", "certs/deep/2.pem"] {
            inner.write(name, "x");
        }
        vec![outer, inner]
    });
    let plan = bench.plan(bench.options()).await.unwrap();
    assert!(
        plan.refusals.iter().any(|refusal| refusal.what.contains("of `inner` lies in")),
        "{:?}",
        plan.refusals
    );
}

async fn verified(bench: &Bench, quick: bool) -> VerifyReport {
    bench
        .run(&|_| {}, Arc::new(NoSteps), async |env| verify(env, &bench.repository, &bench.set, quick).await)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_good_set_verifies_by_its_engine_and_leaves_no_scratch_folder() {
    let bench = Bench::alone();
    let left = bench.paths.state.join("verify/1-2-left-by-a-dead-one");
    fs::create_dir_all(&left).unwrap();
    let report = verified(&bench, false).await;
    assert!(report.sound && report.failure().is_none(), "{report:?}");
    assert!(report.writers[0].checks.iter().any(|check| check.what == "recovery"));
    assert_eq!(fs::read_dir(bench.paths.state.join("verify")).unwrap().count(), 0);
    assert!(bench.app().is_changed());
}

#[tokio::test]
async fn what_an_engine_refuses_and_a_damaged_pack_fail_verification_with_exit_7() {
    let bench = Bench::alone();
    bench.faults.set("check");
    let report = verified(&bench, true).await;
    assert!(!report.sound);
    assert_eq!(report.failure().unwrap().exit, Exit::VerifyFailed);
    bench.faults.clear();
    bench.storage.damage();
    let report = verified(&bench, false).await;
    assert!(!report.sound && !report.checks[0].ok, "{report:?}");
}

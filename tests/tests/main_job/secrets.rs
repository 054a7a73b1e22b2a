//! Promise P9: keys travel sealed. Searched for with stock restic and opened with stock age: no code of ours looks.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_tests::{
    FixtureError, Journal,
    process::{command, run},
    require::require_tool,
    tree::{contains, walk},
};
use serde_json::Value;

use super::authority::{Product, Secret, Settings, Site};
use super::run::{Ground, World, assert_code, text};
use super::{SERVICE, Tested, ready};

const LIMIT: Duration = Duration::from_secs(60);
const ANSWER: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../writers/stores/keys/tests/answer_passphrase.py");

/// Both CAs backed up into one set, at rest.
fn both() -> Result<(World, [Site; 2], holdfast_tests::volumes::LoopVolume), FixtureError> {
    let (volume, folder) = Ground::Btrfs.make()?;
    let mut world = World::new()?;
    let make = |product, name: &str, owner| {
        Site::create(product, &folder.join(name), Journal::Wal, owner, world.aside()).map(|(site, _)| site)
    };
    let sites = [make(Product::Cfssl, "cfssl", SERVICE)?, make(Product::DjangoCa, "django", 0)?];
    for (site, id) in sites.iter().zip(["cfssl", "django"]) {
        world.holdfast.config().append(&site.writer(id, Settings::Discovered));
    }
    world.holdfast.json(["backup"])?;
    Ok((world, sites, volume))
}

/// Files below `folder` in which a secret occurs, in content or name.
fn find(secrets: &[&Secret], folder: &Path) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for path in walk(folder) {
        let kind = fs::symlink_metadata(&path).expect("a file that was listed").file_type();
        let mut bytes = if kind.is_file() { fs::read(&path).expect("a file") } else { Vec::new() };
        bytes.extend_from_slice(path.as_os_str().as_encoded_bytes());
        for secret in secrets {
            if contains(&bytes, &secret.bytes) {
                found.push((secret.what.clone(), path.clone()));
            }
        }
    }
    found
}

#[test]
fn no_byte_of_a_private_key_lies_in_a_set_unsealed_and_stock_age_opens_the_sealed_ones() -> Tested {
    let (Some(()), Some(()), Some(_)) =
        (ready(Product::Cfssl), ready(Product::DjangoCa), require_tool("age"))
    else {
        return Ok(());
    };
    let (world, sites, _volume) = both()?;
    let secrets: Vec<&Secret> = sites.iter().flat_map(|site| &site.secrets).collect();
    assert!(secrets.iter().all(|secret| secret.bytes.len() >= 16), "{secrets:?}");
    for site in &sites {
        // The search finds what is there; keys in DER and as bare numbers are only made from it.
        let shown = find(&secrets, &site.dir);
        for file in site.key_files() {
            assert!(
                shown.iter().any(|(_, path)| *path == file),
                "{} was not found: {shown:?}",
                file.display()
            );
        }
    }

    let opened = world.holdfast.root().join("opened");
    let snapshots = world.holdfast.restic().snapshots()?;
    assert_eq!(snapshots.len(), 1, "only the set itself: {snapshots:?}");
    world.holdfast.restic().restore("latest", &opened)?;
    for folder in [&opened, &world.holdfast.state_dir(), &world.holdfast.runtime_dir()] {
        assert_eq!(find(&secrets, folder), [], "unsealed in {}", folder.display());
    }

    // Stock age, with the identity's file and its passphrase.
    let identity = world.holdfast.root().join("identity.txt");
    let age = |arguments: &[&str]| run(command("age").arg("-d").args(arguments), LIMIT);
    run(
        command("python3")
            .args([ANSWER, &text(&world.passphrase), "age", "-d", "-o"])
            .args([&identity, &world.identity]),
        LIMIT,
    )?;
    fs::set_permissions(&identity, fs::Permissions::from_mode(0o600)).expect("chmod");
    let set: Value =
        serde_json::from_slice(&fs::read(opened.join("holdfast/set.json")).expect("set.json")).expect("JSON");
    let writers = set["writers"].as_array().expect("writers");
    let keys: Vec<&Value> =
        writers.iter().filter_map(|writer| writer["keys"]["keys"].as_array()).flatten().collect();
    let expected: usize = sites.iter().map(|site| site.key_files().len()).sum();
    assert_eq!(keys.len(), expected, "{keys:?}");
    for key in keys {
        let live = fs::read(key["path"].as_str().expect("a path")).expect("the live key");
        let sealed = opened.join(key["stored"].as_str().expect("where it is stored").trim_start_matches('/'));
        let plain = age(&["-i", &text(&identity), &text(&sealed)])?.stdout;
        assert_eq!(plain, live, "{} opens to something else", sealed.display());
    }
    Ok(())
}

#[test]
fn without_the_recovery_identity_keys_stay_sealed_and_nothing_is_changed_unasked() -> Tested {
    let (Some(()), Some(())) = (ready(Product::Cfssl), ready(Product::DjangoCa)) else { return Ok(()) };
    let (world, sites, _volume) = both()?;
    let secrets: Vec<&Secret> = sites.iter().flat_map(|site| &site.secrets).collect();
    let fresh = world.holdfast.root().join("fresh");
    let to = text(&fresh);
    let restore = ["restore", "latest", "--assume-stopped", "--to", &to];
    assert_code(&world.holdfast.run(restore)?, 8);
    assert!(!fresh.exists(), "a refusal changed something");

    // Another identity opens nothing.
    let (other, passphrase) = (world.holdfast.root().join("other.age"), text(&world.passphrase));
    world.holdfast.json(["key", "identity", "--output", &text(&other), "--passphrase-file", &passphrase])?;
    let wrong = ["--identity".to_owned(), text(&other), "--identity-passphrase-file".to_owned(), passphrase];
    let with_wrong = restore.map(str::to_owned).into_iter().chain(wrong);
    assert_code(&world.holdfast.run(with_wrong)?, 8);
    assert!(!fresh.exists(), "a refusal changed something");

    // By name it goes without them: the rest is there, the keys are sealed at most.
    assert_code(&world.holdfast.run(restore.into_iter().chain(["--without-keys"]))?, 0);
    for site in &sites {
        let restored = super::run::below(site, &fresh);
        assert_eq!(restored.integrity(), "ok");
    }
    assert_eq!(find(&secrets, &fresh), []);
    Ok(())
}

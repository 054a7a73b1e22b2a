//! Forgetting: nothing goes that something else may need, also when nobody can tell; and by name, what the user insists on.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use holdfast::{
    repository::{Document, Options, Password, Repository, StoredSet},
    session::record::SET_DOCUMENT,
};
use holdfast_tests::{FixtureError, holdfast::Holdfast};
use serde_json::Value;

type Tested = Result<(), FixtureError>;

/// A world that backs up one folder, into as many sets as asked for; their ids, oldest first.
fn world(sets: usize) -> Result<(Holdfast, Vec<String>), FixtureError> {
    let mut world = Holdfast::new()?;
    let folder = world.root().join("data");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("file"), "content").expect("a file");
    world.config().writer("data", "files").set("paths", vec![folder]);
    let mut ids = Vec::new();
    for _ in 0..sets {
        ids.push(world.json(["backup"])?["set"].as_str().expect("an id").to_owned());
    }
    Ok((world, ids))
}

fn open(world: &Holdfast) -> Repository {
    let password = fs::read_to_string(world.password_file()).expect("the password");
    let location = world.repository().to_string_lossy().into_owned();
    Repository::open(&location, &Password::new(password.trim()), &Options::default()).expect("the repository")
}

/// All files of one kind in a local repository.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { assert!(found.insert(path)) }
    }
    found
}

fn snapshots(world: &Holdfast) -> BTreeSet<PathBuf> {
    files(&world.repository().join("snapshots"))
}

fn flip(path: &Path) {
    let mut bytes = fs::read(path).expect("a stored file");
    let middle = bytes.len() / 2;
    bytes[middle] = !bytes[middle];
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("made writable");
    fs::write(path, bytes).expect("damaged");
}

fn stored(repository: &Repository, id: &str) -> StoredSet {
    repository.set(id.parse().expect("an id")).expect("the set")
}

fn document(repository: &Repository, id: &str) -> Value {
    let bytes = repository.read_document(&stored(repository, id), SET_DOCUMENT.as_ref(), 1 << 20);
    serde_json::from_slice(&bytes.expect("its document")).expect("JSON")
}

fn amend(repository: &Repository, id: &str, document: &[u8]) {
    let document = Document { path: SET_DOCUMENT.into(), bytes: document.to_vec() };
    repository.amend(&stored(repository, id), vec![document]).expect("amended");
}

/// Makes a set unreadable, and gives the name it goes by from then on.
type Spoil = fn(&Holdfast, &str) -> String;

/// Every way in which a set cannot be read, with the exit code of its own error.
const WAYS: [(&str, i32, Spoil); 5] = [
    ("a newer Holdfast wrote it", 4, |world, id| {
        let repository = open(world);
        let mut newer = document(&repository, id);
        newer["schema"] = "holdfast.set/2".into();
        amend(&repository, id, newer.to_string().as_bytes());
        id.to_owned()
    }),
    ("is damaged", 1, |world, id| {
        amend(&open(world), id, b"{\"schema\": \"holdfast.set/1\", ");
        id.to_owned()
    }),
    ("its document is that of set", 1, |world, id| {
        let repository = open(world);
        let mut other = document(&repository, id);
        other["set"] = uuid::Uuid::nil().to_string().into();
        amend(&repository, id, other.to_string().as_bytes());
        id.to_owned()
    }),
    ("is damaged: pack", 1, |world, id| {
        let repository = open(world);
        let packs = world.repository().join("data");
        let before = files(&packs);
        let mut changed = document(&repository, id);
        changed["warnings"] = vec!["so that it lies in a pack of its own"].into();
        amend(&repository, id, changed.to_string().as_bytes());
        files(&packs).difference(&before).for_each(|path| flip(path));
        id.to_owned()
    }),
    ("snapshot", 1, |world, id| {
        let snapshot = stored(&open(world), id).snapshot;
        flip(&world.repository().join("snapshots").join(&snapshot));
        snapshot
    }),
];

/// Goal: what a set that cannot be read may need is never removed, and there is a way on.
/// Method: of three sets the second builds on the first; then it is made unreadable, in every way there is.
#[test]
fn a_set_that_cannot_be_read_stops_every_rule_and_can_be_given_up_by_name() -> Tested {
    for (why, code, spoil) in WAYS {
        let (world, ids) = world(3)?;
        let mut based = document(&open(&world), &ids[1]);
        based["base"] = ids[0].clone().into();
        amend(&open(&world), &ids[1], based.to_string().as_bytes());
        let kept = world.run(["forget", "--keep-last", "1", "--dry-run"])?.success()?;
        assert!(kept.stdout.contains("2 sets would be forgotten"), "{}", kept.stdout);

        let bad = spoil(&world, &ids[1]);
        let there = snapshots(&world);
        let unchanged = || assert_eq!(snapshots(&world), there, "{why}: something was removed");
        let help = format!("`holdfast forget {bad} --even-last-copy`");
        for arguments in [&["--dry-run"][..], &["--prune"]] {
            let run = world.run(["--json", "forget", "--keep-last", "1"].iter().chain(arguments))?;
            run.assert_failed(
                code,
                &[why, &bad, "nothing was forgotten", "state: nothing was changed", &help],
            );
            assert_eq!(run.json()?["schema"], "holdfast.error/1");
            unchanged();
        }

        // By name neither goes by accident.
        let maybe = format!("{bad} cannot be read, and may build on what was named");
        world
            .run(["forget", &ids[0], "--even-last-copy"])?
            .assert_failed(4, &[&maybe, "nothing was changed"]);
        let unknown = format!("{bad} cannot be read: nobody knows whether it has the last copy");
        world.run(["forget", &bad])?.assert_failed(4, &[&unknown, "--even-last-copy removes it"]);
        let dry = world.run(["forget", &bad, "--even-last-copy", "--dry-run"])?.success()?;
        assert!(dry.stdout.contains(&format!("would forget {bad}  named, ")), "{}", dry.stdout);
        unchanged();

        // As its own error says it, by the beginning of its name.
        let name = if bad == ids[1] { &*bad } else { &bad[..8] };
        let gone = world.run(["forget", name, "--even-last-copy"])?.success()?;
        assert!(gone.stdout.contains(&format!("forget       {bad}  named, ")), "{}", gone.stdout);
        assert_eq!(snapshots(&world).len(), 2, "{why}");
        world.run(["forget", "--keep-last", "1"])?.success()?;
        let left = world.json(["list", "backups"])?;
        assert_eq!(left["backups"].as_array().map(Vec::len), Some(1), "{left}");
        assert_eq!(left["backups"][0]["set"], ids[2].as_str(), "{left}");
        world.run(["verify", "latest"])?.success()?;
    }
    Ok(())
}

#[test]
fn by_name_the_last_copy_of_a_component_goes_only_if_the_user_insists() -> Tested {
    let (world, ids) = world(2)?;
    let named = world.json(["forget", &ids[0], "--dry-run"])?;
    assert_eq!(named["sets"].as_array().map(Vec::len), Some(1), "only what was named: {named}");
    assert_eq!(
        (&named["sets"][0]["set"], &named["sets"][0]["verdict"]),
        (&ids[0].as_str().into(), &"would forget".into())
    );
    assert_eq!((&named["dry_run"], &named["kept"]), (&true.into(), &1.into()), "{named}");
    assert_eq!(snapshots(&world).len(), 2, "a dry run changes nothing");

    let both = world.run(["forget", &ids[0], &ids[1]])?;
    let last = format!("set {} is the last with data/files of ", ids[1]);
    both.assert_failed(4, &[&last, "state: nothing was changed", "help:  --even-last-copy"]);
    assert_eq!(snapshots(&world).len(), 2);
    world.run(["forget", &ids[0]])?.success()?;
    world.run(["forget", &ids[1]])?.assert_failed(4, &[&last]);
    let run = world.run(["forget", &ids[1], "--even-last-copy", "--prune"])?.success()?;
    assert!(
        run.stdout.contains("named, is the last with data/files") && run.stdout.contains("freed"),
        "{}",
        run.stdout
    );
    assert!(snapshots(&world).is_empty());
    world.run(["forget", &ids[1], "--even-last-copy"])?.assert_failed(4, &["there is no set"]);
    Ok(())
}

#[test]
fn rules_and_names_do_not_mix_and_insisting_needs_a_name() -> Tested {
    let (world, ids) = world(1)?;
    for arguments in [
        &["forget", &ids[0], "--keep-last", "1"][..],
        &["forget", "--keep-last", "1", "--even-last-copy"],
        &["forget", "--even-last-copy"],
    ] {
        assert_eq!(world.run(arguments)?.code, Some(2), "{arguments:?}");
    }
    // Of all the names there are for a set, the one that changes by itself is none here.
    world.run(["forget", "latest", "--even-last-copy"])?.assert_failed(4, &["there is no set `latest`"]);
    assert_eq!(snapshots(&world).len(), 1);
    Ok(())
}

#[test]
fn no_set_appears_between_the_decision_and_the_removal() -> Tested {
    let (world, ids) = world(2)?;
    for arguments in [&["forget", "--keep-last", "1"][..], &["forget", &ids[1], "--even-last-copy"]] {
        let paused = world.pause_at("decided", arguments)?;
        world.run(["backup"])?.assert_failed(11, &["is locked by", "exclusively"]);
        paused.go_on()?.success()?;
    }
    assert!(snapshots(&world).is_empty());
    Ok(())
}

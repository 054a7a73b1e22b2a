//! Bad input, where sets are kept: no repository, a wrong password, a foreign lock, damage, a full disk, a newer document, a set
//! cut off in the middle. Each a named error with its exit code, and nothing half done.

use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use holdfast::{
    repository::{
        Document, EntryKind, EntryMetadata, Options, Password, Repository, SetIdentity, SourceEntry,
    },
    session::record::{SET_DOCUMENT, hostname},
};
use holdfast_tests::{
    FixtureError,
    holdfast::Holdfast,
    process,
    require::{require_root_or_skip, require_tool},
    tree::{files, noise},
    volumes::LoopVolume,
};

type Tested = Result<(), FixtureError>;

const PATIENCE: Duration = Duration::from_secs(30);

/// A world that backs up one folder with a few bytes in it.
fn world() -> Result<(Holdfast, PathBuf), FixtureError> {
    let mut world = Holdfast::new()?;
    let folder = world.root().join("data");
    fs::create_dir(&folder).expect("a folder");
    fs::write(folder.join("small"), noise(1, 100_000)).expect("a file");
    world.config().writer("data", "files").set("paths", vec![folder.clone()]);
    Ok((world, folder))
}

fn sets(world: &Holdfast) -> Result<usize, FixtureError> {
    let listed = world.json(["list", "backups"])?;
    Ok(listed["backups"].as_array().expect("an array").len())
}

fn assert_no_shadow(world: &Holdfast) -> Tested {
    let shadows = world.json(["list", "shadows"])?;
    assert_eq!(shadows["shadows"], serde_json::json!([]), "{shadows}");
    Ok(())
}

fn open(world: &Holdfast) -> Repository {
    let password = fs::read_to_string(world.password_file()).expect("the password");
    let location = world.repository().to_string_lossy().into_owned();
    let opened = Repository::open(&location, &Password::new(password.trim()), &Options::default());
    opened.expect("the repository")
}

fn flip(path: &Path) {
    let bytes = fs::read(path).expect("a stored file");
    let mut permissions = fs::metadata(path).expect("a stored file").permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    fs::set_permissions(path, permissions).expect("made writable");
    let at = bytes.len() / 2;
    let mut file = fs::File::options().write(true).open(path).expect("a stored file");
    file.seek(SeekFrom::Start(at as u64)).expect("a place in it");
    file.write_all(&[!bytes[at]]).expect("damaged");
}

#[test]
fn a_wrong_password_is_exit_12_and_no_repository_exit_10() -> Tested {
    let (world, _) = world()?;
    world.run(["list", "backups"])?.assert_failed(10, &["there is no repository", "help: "]);
    assert!(!world.repository().exists(), "only a backup makes a repository");
    world.run(["backup"])?.success()?;

    let right = fs::read(world.password_file()).expect("the password");
    fs::write(world.password_file(), "wrong\n").expect("another password");
    for command in [&["list", "backups"][..], &["backup"], &["verify", "latest"], &["restore", "latest"]] {
        world.run(command)?.assert_failed(12, &["the password opens no key", "password file"]);
    }
    fs::write(world.password_file(), right).expect("the password");
    assert_eq!(sets(&world)?, 1);

    // An unmounted disk must not become a second, empty repository.
    fs::rename(world.repository(), world.root().join("unmounted")).expect("moved away");
    let run = world.run(["backup"])?;
    run.assert_failed(10, &["this machine has backed up here before", "mount its disk"]);
    assert!(!world.repository().exists(), "a new repository was begun");
    assert_no_shadow(&world)
}

#[test]
fn a_lock_of_stock_restic_is_respected_and_named() -> Tested {
    let (world, _) = world()?;
    let Some(restic) = require_tool("restic") else { return Ok(()) };
    world.run(["backup"])?.success()?;
    // restic holds its lock for as long as its standard input stays open.
    let mut other = std::process::Command::new(restic)
        .args(["--no-cache", "--repo"])
        .arg(world.repository())
        .arg("--password-file")
        .arg(world.password_file())
        .args(["backup", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("restic");
    let begun = Instant::now();
    while files(&world.repository().join("locks")).is_empty() {
        assert!(begun.elapsed() < PATIENCE, "restic took no lock");
        std::thread::sleep(Duration::from_millis(10));
    }
    let forget = world.run(["forget", "--keep-last", "1", "--prune"]);
    let prune = world.run(["prune"]);
    let _ = other.kill();
    let _ = other.wait();
    let owner = format!("{}", other.id());
    forget?.assert_failed(11, &["locked by", &owner, "restic unlock"]);
    prune?.assert_failed(11, &["locked by", &owner]);
    assert_eq!(sets(&world)?, 1);
    Ok(())
}

#[test]
fn damage_is_found_and_named_wherever_it_lies() -> Tested {
    for kind in ["data", "index", "snapshots"] {
        let (world, _) = world()?;
        let set = world.json(["backup"])?["set"].as_str().expect("an id").to_owned();
        for path in files(&world.repository().join(kind)) {
            flip(&path);
        }
        let verified = world.run(["verify", &set])?;
        assert!(matches!(verified.code, Some(1 | 7)), "{kind}: {:?}\n{}", verified.code, verified.stderr);
        if kind == "data" {
            assert_eq!(verified.code, Some(7), "{}", verified.stderr);
        }
        let told = format!("{}{}", verified.stdout, verified.stderr);
        assert!(told.contains("damaged") || told.contains("wrong bytes"), "{kind}:\n{told}");
        let target = world.root().join("restored");
        fs::create_dir(&target).expect("a folder");
        let restored = world.run(["restore", &set, "--to", &target.to_string_lossy()])?;
        assert!(matches!(restored.code, Some(1 | 4 | 7)), "{kind}: {:?}\n{}", restored.code, restored.stderr);
        let live: Vec<_> = files(&target).into_iter().filter(|path| path.ends_with("small")).collect();
        assert!(live.is_empty(), "{kind}: wrong bytes were put in place: {live:?}");
    }
    Ok(())
}

#[test]
fn a_snapshot_of_another_set_that_cannot_be_read_fails_no_backup_and_can_be_given_up() -> Tested {
    let (world, _) = world()?;
    world.run(["backup"])?.success()?;
    let damaged = files(&world.repository().join("snapshots")).pop().expect("the snapshot");
    flip(&damaged);
    let made = world.json(["backup"])?;
    let name = damaged.file_name().expect("a name").to_string_lossy().into_owned();
    let advice = format!("`holdfast forget {} --even-last-copy` gives it up", &name[..8]);
    world.run(["list", "backups"])?.assert_failed(1, &["is damaged", &name, &advice]);
    world.run(["forget", &name[..8], "--even-last-copy"])?.success()?;
    let listed = world.json(["list", "backups"])?;
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["backups"][0]["set"], made["set"], "{listed}");
    world.run(["verify", "latest"])?.success()?;
    Ok(())
}

#[test]
fn a_document_of_a_newer_schema_is_refused_by_name() -> Tested {
    let (world, _) = world()?;
    world.run(["backup"])?.success()?;
    let repository = open(&world);
    let stored = repository.sets().expect("sets").pop().expect("the set");
    let document = repository.read_document(&stored, SET_DOCUMENT.as_ref(), 1 << 20).expect("its document");
    let newer = String::from_utf8(document).expect("JSON").replace("holdfast.set/1", "holdfast.set/2");
    let newer = Document { path: SET_DOCUMENT.into(), bytes: newer.into_bytes() };
    repository.amend(&stored, vec![newer]).expect("amended");

    let target = world.root().join("restored");
    fs::create_dir(&target).expect("a folder");
    let to = target.to_string_lossy().into_owned();
    for command in
        [&["restore", "latest", "--to", &to][..], &["restore", "plan", "latest"], &["verify", "latest"]]
    {
        // A set that cannot be read does not verify, which has a code of its own.
        let code = if command[0] == "verify" { 7 } else { 4 };
        world.run(command)?.assert_failed(code, &["holdfast.set/2", "a newer Holdfast wrote it"]);
    }
    assert_eq!(files(&target).len(), 0, "something was restored of a set that cannot be read");
    let listed = world.run(["list", "backups"])?.success()?;
    assert!(listed.stdout.contains("UNREADABLE") && listed.stdout.contains("newer"), "{}", listed.stdout);
    // Nobody knows what it builds on: no rule forgets anything.
    world.run(["backup"])?.success()?;
    world.run(["forget", "--keep-last", "1"])?.assert_failed(4, &["a newer Holdfast wrote it"]);
    assert_eq!(sets(&world)?, 2);
    Ok(())
}

#[test]
fn a_set_cut_off_in_the_middle_is_not_listed_and_gc_removes_it() -> Tested {
    let (world, folder) = world()?;
    world.run(["backup"])?.success()?;
    // What a death between the last byte and the documents leaves.
    let set = uuid::Uuid::now_v7();
    let about = SetIdentity {
        set,
        time: jiff::Timestamp::now(),
        hostname: hostname(),
        tags: vec![],
        label: String::new(),
    };
    let data = SourceEntry {
        save_as: "/data".into(),
        kind: EntryKind::Directory,
        metadata: EntryMetadata { mode: 0o700, ..EntryMetadata::default() },
    };
    open(&world).archive(&about, vec![data], None).expect("a part of a set");
    assert_eq!(sets(&world)?, 1, "a part is no set");
    let restore = world.run(["restore", &set.to_string(), "--to", "/nonexistent"])?;
    restore.assert_failed(4, &["there is no set", "nothing was changed"]);
    // There is one set, and an unset variable of a script does not name it.
    for little in ["", "0"] {
        world
            .run(["restore", little, "--to", "/nonexistent"])?
            .assert_failed(2, &["too little to name a set"]);
        world.run(["verify", little])?.assert_failed(2, &["too little to name a set"]);
    }
    let gc = world.run(["gc"])?.success()?;
    assert!(gc.stdout.contains(&format!("a part of set {set}")), "{}", gc.stdout);
    assert!(gc.stdout.contains("removed"), "{}", gc.stdout);
    assert_eq!(open(&world).partials().expect("partials"), []);

    // A real death, somewhere in the bytes.
    fs::write(folder.join("large"), noise(2, 48 << 20)).expect("a large file");
    let packs = world.repository().join("data");
    let before = files(&packs).len();
    let mut running = world.spawn(["backup"])?;
    let begun = Instant::now();
    while files(&packs).len() == before && running.is_running() {
        assert!(begun.elapsed() < PATIENCE, "nothing is stored");
        std::thread::sleep(Duration::from_millis(2));
    }
    running.kill();
    assert_eq!(sets(&world)?, 1, "a set that was cut off is listed");
    world.run(["gc"])?.success()?;
    assert_no_shadow(&world)?;
    world.run(["backup"])?.success()?;
    world.run(["verify", "latest"])?.success()?;
    assert_eq!(sets(&world)?, 2);
    Ok(())
}

#[test]
fn a_full_disk_in_the_repository_fails_the_backup_and_keeps_the_sets() -> Tested {
    let (Some(()), Some(_)) = (require_root_or_skip(), require_tool("mkfs.ext4")) else { return Ok(()) };
    let (mut world, folder) = world()?;
    let volume = LoopVolume::ext4(96 << 20)?;
    let password = world.password_file();
    let location = volume.path().join("repository");
    world.config().repository(location.to_string_lossy(), &password);
    world.run(["backup"])?.success()?;
    fs::write(folder.join("large"), noise(3, 24 << 20)).expect("a large file");
    let filler = volume.fill(2 << 20)?;
    let run = world.run(["backup"])?;
    run.assert_failed(1, &["could not be stored", "no space left", "no set was made"]);
    assert_no_shadow(&world)?;
    assert_eq!(sets(&world)?, 1, "the set before is still there, and no other");
    world.run(["verify", "latest"])?.success()?;
    fs::remove_file(filler).expect("room again");
    world.run(["backup"])?.success()?;
    world.run(["verify", "latest"])?.success()?;
    assert_eq!(sets(&world)?, 2);
    Ok(())
}

#[test]
fn a_full_shadow_area_fails_the_backup_and_leaves_nothing_in_it() -> Tested {
    let (Some(()), Some(_)) = (require_root_or_skip(), require_tool("mkfs.ext4")) else { return Ok(()) };
    let (mut world, folder) = world()?;
    let volume = LoopVolume::ext4(64 << 20)?;
    let area = volume.path().join("area");
    process::run(process::command("mkdir").args(["-m", "700"]).arg(&area), PATIENCE)?;
    world.config().append(&format!("[backup]\nshadow-area = \"{}\"\n", area.display()));
    world.run(["backup"])?.success()?;
    fs::write(folder.join("large"), noise(4, 24 << 20)).expect("a large file");
    let filler = volume.fill(2 << 20)?;
    let run = world.run(["backup"])?;
    assert!(matches!(run.code, Some(1 | 4 | 5)), "{:?}\n{}", run.code, run.stderr);
    assert!(run.stderr.contains("space") || run.stderr.contains("room"), "{}", run.stderr);
    assert!(run.stderr.contains(&*volume.path().to_string_lossy()), "which disk?\n{}", run.stderr);
    assert_no_shadow(&world)?;
    assert_eq!(files(&area), Vec::<PathBuf>::new());
    assert_eq!(sets(&world)?, 1);
    fs::remove_file(filler).expect("room again");
    world.run(["backup"])?.success()?;
    assert_eq!(sets(&world)?, 2);
    Ok(())
}

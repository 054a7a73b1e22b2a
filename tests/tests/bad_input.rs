//! Bad input (P7, P10): what is backed up, where it comes back, and the configuration. Each a named error with its exit
//! code, and nothing half done: no set, no shadow copy, the target untouched.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use holdfast_tests::{
    FixtureError,
    holdfast::{Holdfast, Run},
    process,
    require::{require_root_or_skip, require_tool},
    volumes::{LoopVolume, SMALL},
};

type Tested = Result<(), FixtureError>;

/// `nobody`, on every Linux.
const SERVICE: u32 = 65534;

/// A folder that belongs to a service's user, with its database in it, and a file of root's beside it.
struct Site {
    world: Holdfast,
    _place: tempfile::TempDir,
    folder: PathBuf,
    database: PathBuf,
    secret: PathBuf,
}

fn mode(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).expect("a mode");
}

fn make_database(path: &Path, content: &str) {
    let database = rusqlite::Connection::open(path).expect("a database");
    let create = format!("CREATE TABLE entry (id INTEGER PRIMARY KEY); CREATE TABLE {content} (x);");
    database.execute_batch(&create).expect("a table");
}

impl Site {
    fn new() -> Result<Option<Self>, FixtureError> {
        let Some(()) = require_root_or_skip() else { return Ok(None) };
        let place = tempfile::tempdir().expect("a scratch folder");
        mode(place.path(), 0o755);
        let folder = place.path().join("service");
        fs::create_dir(&folder).expect("a folder");
        let (database, secret) = (folder.join("app.db"), place.path().join("secret.db"));
        make_database(&database, "own");
        make_database(&secret, "secret");
        mode(&secret, 0o600);
        for path in [&folder, &database] {
            chown(path, Some(SERVICE), Some(SERVICE)).expect("given to the service");
        }
        let mut world = Holdfast::new()?;
        world.config().writer("app", "sqlite").set("database", database.clone());
        Ok(Some(Self { world, _place: place, folder, database, secret }))
    }

    /// Puts a link to root's file where the database was.
    fn swap(&self) {
        fs::rename(&self.database, self.folder.join("away")).expect("moved away");
        symlink(&self.secret, &self.database).expect("a link");
    }

    fn swap_back(&self) {
        fs::remove_file(&self.database).expect("removed");
        fs::rename(self.folder.join("away"), &self.database).expect("moved back");
    }
}

/// No set beyond `sets`, no shadow copy, no partial snapshot.
fn assert_nothing_done(world: &Holdfast, sets: usize) -> Tested {
    let shadows = world.json(["list", "shadows"])?;
    assert_eq!(shadows["shadows"], serde_json::json!([]), "{shadows}");
    if world.repository().join("config").exists() {
        let listed = world.json(["list", "backups"])?;
        assert_eq!(listed["backups"].as_array().map(Vec::len), Some(sets), "{listed}");
        if require_tool("restic").is_some() {
            assert_eq!(world.restic().snapshots()?.len(), sets);
        }
    } else {
        assert_eq!(sets, 0);
    }
    Ok(())
}

#[test]
fn a_database_swapped_for_a_link_is_never_stored() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    site.swap();
    let run = site.world.run(["backup"])?;
    run.assert_failed(4, &["app.db", "not a regular file", "state: "]);
    assert_nothing_done(&site.world, 0)?;
    site.swap_back();
    site.world.run(["backup"])?.success()?;

    // After everything was checked, right before the cut, and between the cut and the copy.
    for point in ["prepare-backup", "prepare-snapshot", "freeze", "frozen"] {
        let paused = site.world.pause_at(point, ["backup"])?;
        site.swap();
        let run = paused.go_on()?;
        assert!(matches!(run.code, Some(4 | 5)), "{point}: {:?}\n{}", run.code, run.stderr);
        assert!(run.stderr.contains("app.db"), "{point}:\n{}", run.stderr);
        assert_nothing_done(&site.world, 1)?;
        site.swap_back();
    }
    site.world.run(["backup"])?.success()?;
    assert_nothing_done(&site.world, 2)
}

#[test]
fn a_hard_link_to_another_users_file_is_refused_by_name() -> Tested {
    let Some(mut site) = Site::new()? else { return Ok(()) };
    let link = site.folder.join("innocent.db");
    fs::hard_link(&site.secret, &link).expect("a hard link");
    site.world.config().clear_writers().writer("app", "sqlite").set("database", link.clone());
    let run = site.world.run(["backup"])?;
    run.assert_failed(4, &["innocent.db", "state: "]);
    assert_nothing_done(&site.world, 0)?;
    let folder = site.folder.clone();
    site.world.config().clear_writers().writer("app", "files").set("paths", vec![folder]);
    site.world.run(["backup"])?.assert_failed(4, &["innocent.db", "state: "]);
    assert_nothing_done(&site.world, 0)
}

#[test]
fn a_restore_never_writes_through_a_link() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    site.world.run(["backup"])?.success()?;
    let secret = fs::read(&site.secret).expect("root's file");
    let victim = site.secret.with_file_name("victim");
    fs::create_dir(&victim).expect("a folder of root's");
    let untouched = || {
        assert_eq!(fs::read(&site.secret).expect("root's file"), secret, "written through the link");
        let inside = fs::read_dir(&victim).expect("the folder").count();
        assert_eq!(inside, 0, "written into root's folder");
    };

    // The live file is a link: it may be replaced, what it leads to may not.
    site.swap();
    let run = site.world.run(["restore", "latest", "--assume-stopped"])?;
    assert!(matches!(run.code, Some(0 | 4)), "{:?}\n{}", run.code, run.stderr);
    untouched();
    if run.code == Some(0) {
        assert!(fs::symlink_metadata(&site.database).expect("restored").is_file());
        fs::remove_file(site.folder.join("away")).expect("removed");
    } else {
        site.swap_back();
    }

    // The folder above is a link.
    let aside = site.folder.with_file_name("aside");
    fs::rename(&site.folder, &aside).expect("moved away");
    symlink(&victim, &site.folder).expect("a link");
    let run = site.world.run(["restore", "latest", "--assume-stopped"])?;
    run.assert_failed(4, &["link", "nothing was changed"]);
    untouched();
    fs::remove_file(&site.folder).expect("removed");
    fs::rename(&aside, &site.folder).expect("moved back");

    // It becomes one after everything was checked.
    let before = fs::read(&site.database).expect("the database");
    let paused = site.world.pause_at("staged", ["restore", "latest", "--assume-stopped"])?;
    fs::rename(&site.folder, &aside).expect("moved away");
    symlink(&victim, &site.folder).expect("a link");
    let run = paused.go_on()?;
    untouched();
    // The folder was opened before: it is either refused, or lands where the folder really is.
    assert!(run.code.is_some(), "{}", run.stderr);
    if run.code != Some(0) {
        assert!(run.stderr.contains("state: "), "{}", run.stderr);
        assert_eq!(fs::read(aside.join("app.db")).expect("the database"), before);
    }
    Ok(())
}

#[test]
fn missing_privileges_are_named_before_anything_begins() -> Tested {
    let Some(mut site) = Site::new()? else { return Ok(()) };
    // A world that the service's user may use, and a database that he may not.
    let secret = site.secret.clone();
    site.world.config().clear_writers().writer("app", "sqlite").set("database", secret);
    let command = site.world.command_as(SERVICE, ["backup"])?;
    let root = site.world.root();
    let paths = ["", "state", "run", "repository.key", "holdfast.toml"].map(|name| root.join(name));
    for path in paths {
        chown(path, Some(SERVICE), Some(SERVICE)).expect("given to the service");
    }
    let run = Holdfast::run_command(command)?;
    run.assert_failed(4, &["secret.db", "state: "]);
    for path in ["", "state", "run", "repository.key", "holdfast.toml"].map(|name| root.join(name)) {
        chown(path, Some(0), Some(0)).expect("taken back");
    }
    assert_nothing_done(&site.world, 0)
}

/// A configuration as text, and what must be said of it.
fn complaint(text: &str, words: &[&str]) -> Tested {
    let world = Holdfast::new()?;
    let command = world.command(["config", "check"])?;
    fs::write(world.config_file(), text).expect("written");
    let run = Holdfast::run_command(command)?;
    run.assert_failed(2, words);
    run.assert_failed(2, &["error: the configuration cannot be used", "nothing was changed", "help: "]);
    Ok(())
}

#[test]
fn a_bad_configuration_is_told_with_file_line_key_and_what_was_expected() -> Tested {
    let writer = |rest: &str| format!("[[writer]]\nid = \"a\"\ntype = \"sqlite\"\n{rest}\n");
    complaint("[repository]\nlocatoin = \"/r\"\n", &["holdfast.toml:2", "locatoin", "expected"])?;
    complaint("[repository]\nlocation = 7\n", &["holdfast.toml:2", "location", "expected a string"])?;
    complaint("[repozitory]\n", &["holdfast.toml:1", "repozitory", "expected"])?;
    complaint(&writer("databse = \"/x\""), &["holdfast.toml:4", "databse", "expected"])?;
    complaint(&writer("database = 5"), &["holdfast.toml:4", "database", "expected path"])?;
    complaint(&writer(""), &["holdfast.toml:1", "database", "expected"])?;
    complaint(&writer("database = \"x.db\""), &["holdfast.toml:4", "database", "absolute path"])?;
    let unit = writer("database = \"/x\"\nfreeze-budget = \"10\"");
    complaint(&unit, &["holdfast.toml:5", "freeze-budget", "unit"])?;
    let unknown = "[[writer]]\nid = \"a\"\ntype = \"oracle\"\n";
    complaint(unknown, &["holdfast.toml:3", "oracle", "expected one of"])?;
    complaint("[repository\n", &["holdfast.toml:1"])?;
    complaint("\u{0}\u{1}", &["holdfast.toml:1"])
}

#[test]
fn missing_files_of_the_configuration_are_named() -> Tested {
    let mut world = Holdfast::new()?;
    let mut command = world.command(["config", "check"])?;
    command.env("HOLDFAST_CONFIG", "/nonexistent/holdfast.toml");
    Holdfast::run_command(command)?.assert_failed(2, &["/nonexistent/holdfast.toml", "config generate"]);

    world.config().writer("a", "files").set("paths", vec!["/etc/hostname"]);
    fs::remove_file(world.password_file()).expect("removed");
    world.run(["backup"])?.assert_failed(2, &["password file", "repository.key", "nothing was changed"]);
    assert_nothing_done(&world, 0)
}

#[test]
fn what_others_can_write_is_not_trusted() -> Tested {
    let mut world = Holdfast::new()?;
    world.config().writer("a", "files").set("paths", vec!["/etc/hostname"]);
    let command = world.command(["backup"])?;
    mode(&world.config_file(), 0o666);
    let run = Holdfast::run_command(command)?;
    run.assert_failed(2, &["holdfast.toml", "can be written by others", "chmod go-w"]);
    mode(&world.password_file(), 0o622);
    world.run(["backup"])?.assert_failed(2, &["repository.key", "can be written by others"]);
    assert_nothing_done(&world, 0)
}

fn refused_path(path: &str) -> Result<Run, FixtureError> {
    let mut world = Holdfast::new()?;
    world.config().writer("a", "files").set("paths", vec![path]);
    let run = world.run(["backup"])?;
    assert_nothing_done(&world, 0)?;
    Ok(run)
}

#[test]
fn a_path_that_no_volume_holds_is_refused_by_name() -> Tested {
    for path in ["/nonexistent/folder", "/proc/version", "/sys/kernel/notes"] {
        refused_path(path)?.assert_failed(4, &[path, "nothing"]);
    }
    Ok(())
}

#[test]
fn a_volume_inside_a_file_set_is_refused_by_name() -> Tested {
    let (Some(()), Some(_)) = (require_root_or_skip(), require_tool("mkfs.btrfs")) else { return Ok(()) };
    let volume = LoopVolume::btrfs(SMALL)?;
    let outer = volume.subvolume("outer")?;
    let inner = volume.subvolume("outer/inner")?;
    fs::write(inner.join("file"), "x").expect("a file");
    let mut world = Holdfast::new()?;
    world.config().writer("a", "files").set("paths", vec![outer]);
    let inner = inner.to_string_lossy().into_owned();
    world.run(["backup"])?.assert_failed(4, &[&inner, "volume of its own", "nothing was changed"]);
    assert_nothing_done(&world, 0)?;

    let folder = volume.subvolume("second")?;
    let point = folder.join("mounted");
    fs::create_dir(&point).expect("a folder");
    process::run(
        process::command("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&point),
        std::time::Duration::from_secs(10),
    )?;
    world.config().clear_writers().writer("a", "files").set("paths", vec![folder]);
    let point = point.to_string_lossy().into_owned();
    world.run(["backup"])?.assert_failed(4, &[&point, "nothing was changed"]);
    assert_nothing_done(&world, 0)
}

#[test]
fn an_empty_file_is_stored_and_an_empty_database_refused() -> Tested {
    let mut world = Holdfast::new()?;
    let (file, database) = (world.root().join("empty.txt"), world.root().join("empty.db"));
    for path in [&file, &database] {
        fs::write(path, "").expect("an empty file");
    }
    world.config().writer("files", "files").set("paths", vec![file.clone()]);
    let made = world.json(["backup"])?;
    assert_eq!((&made["components"][0]["files"], &made["bytes"]), (&1.into(), &0.into()), "{made}");
    let target = world.root().join("restored");
    fs::create_dir(&target).expect("a folder");
    world.run(["restore", "latest", "--to", &target.to_string_lossy()])?.success()?;
    let restored = target.join(file.strip_prefix("/").expect("absolute"));
    assert_eq!(fs::read(restored).expect("restored").len(), 0);

    world.config().clear_writers().writer("db", "sqlite").set("database", database);
    world.run(["backup"])?.assert_failed(4, &["empty.db", "no set was made"]);
    assert_nothing_done(&world, 1)
}

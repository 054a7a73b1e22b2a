//! The fixtures against the real thing: a fixture that lies would make every test on it worthless.

use std::{collections::HashSet, fs, path::Path, time::Duration};

use holdfast_tests::{
    FixtureError, Journal,
    cfssl::Cfssl,
    clock::monotonic_ns,
    django_ca::{self, DjangoCa},
    holdfast::Holdfast,
    load::Ack,
    moto::Moto,
    openssl,
    process::{Server, capture, command},
    require::{require_root_or_skip, require_tool, require_venv},
    restic::Restic,
    volumes::{LoopVolume, SMALL, mounted_below},
    watch::{self, SqliteWriter},
};

type Tested = Result<(), FixtureError>;

const PATIENCE: Duration = Duration::from_secs(60);

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch folder")
}

fn journal_mode(database: &Path) -> String {
    let database =
        rusqlite::Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
    let mode = database.and_then(|database| database.query_row("PRAGMA journal_mode", [], |row| row.get(0)));
    mode.expect("the journal mode")
}

fn assert_times_grow(acks: &[Ack]) {
    assert!(acks.iter().all(|ack| ack.begun_ns < ack.acked_ns && ack.acked_ns < monotonic_ns()));
    assert!(acks.windows(2).all(|pair| pair[0].acked_ns <= pair[1].begun_ns));
}

fn cfssl_issues_and_revokes(journal: Journal) -> Tested {
    let (Some(_), Some(_)) = (require_tool("cfssl"), require_tool("openssl")) else { return Ok(()) };
    let folder = scratch();
    let mut ca = Cfssl::create(folder.path(), journal)?;
    assert!(openssl::key_fits(&ca.key(), &ca.certificate())?);
    assert!(!ca.is_serving());
    ca.start()?;
    assert!(ca.is_serving());

    let load = ca.issue_loop("load")?;
    let one = ca.issue("one.example")?;
    load.acks().wait_for(20, PATIENCE)?;
    load.acks().wrote_again_within(PATIENCE)?;
    let acks = load.stop();
    assert_times_grow(&acks);
    openssl::verify_all(&ca.certificate(), acks.iter().map(|ack| ack.pem.as_str()))?;
    openssl::verify(&ca.certificate(), &one.pem)?;

    assert_eq!(ca.status_of(&one.serial)?.as_deref(), Some("good"));
    ca.revoke(&one.serial)?;
    assert_eq!(ca.status_of(&one.serial)?.as_deref(), Some("revoked"));
    assert!(ca.revoke("1234567").is_err());

    let kept: HashSet<String> = ca.certificates()?.into_iter().map(|(serial, _)| serial).collect();
    assert!(acks.iter().all(|ack| kept.contains(&ack.serial)), "the database holds what was acknowledged");
    assert_eq!(journal_mode(&ca.database()), journal.pragma());

    ca.stop();
    assert!(!ca.is_serving());
    assert!(ca.pid().is_none());
    // Started again it goes on; without its key it must not.
    ca.start()?;
    ca.issue("two.example")?;
    ca.stop();
    fs::rename(ca.key(), folder.path().join("away")).expect("hide the key");
    let refused = ca.start();
    assert!(matches!(refused, Err(FixtureError::Answer { .. })), "{refused:?}");
    Ok(())
}

#[test]
fn cfssl_issues_and_revokes_with_a_rollback_journal() -> Tested {
    cfssl_issues_and_revokes(Journal::Delete)
}

#[test]
fn cfssl_issues_and_revokes_with_a_wal() -> Tested {
    cfssl_issues_and_revokes(Journal::Wal)
}

#[test]
fn cfssl_is_not_serving_without_its_tables() -> Tested {
    let Some(_) = require_tool("cfssl") else { return Ok(()) };
    let folder = scratch();
    let mut ca = Cfssl::create(folder.path(), Journal::Delete)?;
    fs::remove_file(ca.database()).expect("remove the database");
    assert!(!ca.starts_and_serves(), "served without a database");
    assert!(ca.client()?.answers(), "the server itself is up: only its database is missing");
    Ok(())
}

fn django_ca_issues_lists_and_signs_crls(journal: Journal) -> Tested {
    let (Some(_), Some(_)) = (require_venv("django-ca", "python"), require_tool("openssl")) else {
        return Ok(());
    };
    let (folder, beside) = (scratch(), scratch());
    let ca = DjangoCa::create(folder.path(), journal)?;
    assert_eq!(journal_mode(&ca.database()), journal.pragma());
    let certificate = beside.path().join("ca.pem");
    fs::write(&certificate, ca.certificate()?).expect("keep the CA's certificate");
    assert!(openssl::key_fits(&ca.key(), &certificate)?);

    let load = ca.issue_loop("load")?;
    load.acks().wait_for(10, PATIENCE)?;
    load.acks().wrote_again_within(PATIENCE)?;
    let acks = load.stop();
    assert_times_grow(&acks);
    openssl::verify_all(&certificate, acks.iter().map(|ack| ack.pem.as_str()))?;
    assert!(acks.iter().all(|ack| openssl::serial(&ack.pem).is_ok_and(|serial| serial.hex() == ack.serial)));

    let signed = ca.sign_csr("one.example")?;
    let serial = openssl::serial(&signed)?.hex();
    let listed: HashSet<String> = ca.list_certs()?.into_iter().collect();
    assert!(listed.contains(&serial));
    assert!(acks.iter().all(|ack| listed.contains(&ack.serial)), "django-ca lists what it acknowledged");

    let before = ca.dump_crl()?;
    openssl::verify_against_crl(&certificate, &before, &signed)?;
    ca.revoke(&serial)?;
    let after = ca.dump_crl()?;
    let (old, new) = (openssl::crl(&certificate, &before)?, openssl::crl(&certificate, &after)?);
    assert!(old.revoked.is_empty());
    assert_eq!(new.revoked, [serial]);
    assert!(new.number > old.number, "{:?} after {:?}", new.number, old.number);
    let refused = openssl::verify_against_crl(&certificate, &after, &signed).expect_err("revoked");
    assert!(refused.to_string().contains("revoked"), "{refused}");
    Ok(())
}

#[test]
fn django_ca_issues_with_a_rollback_journal() -> Tested {
    django_ca_issues_lists_and_signs_crls(Journal::Delete)
}

#[test]
fn django_ca_issues_with_a_wal() -> Tested {
    django_ca_issues_lists_and_signs_crls(Journal::Wal)
}

#[test]
fn django_serves_from_its_database_or_not_at_all() -> Tested {
    let Some(_) = require_venv("django-ca", "python") else { return Ok(()) };
    let folder = scratch();
    let ca = DjangoCa::create(folder.path(), Journal::Delete)?;
    let mut server = ca.serve()?;
    assert!(server.is_serving());
    fs::rename(ca.database(), folder.path().join("away")).expect("hide the database");
    assert!(!server.is_serving());
    server.stop();
    let refused = django_ca::serve(ca.dir(), ca.serial(), Duration::from_secs(4));
    assert!(refused.is_err(), "served without a database");
    assert!(DjangoCa::open(ca.dir()).is_err());
    Ok(())
}

#[test]
fn a_moved_django_project_opens_its_own_copy() -> Tested {
    let Some(_) = require_venv("django-ca", "python") else { return Ok(()) };
    let folder = scratch();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    let serial = DjangoCa::create(&here, Journal::Delete)?.serial().to_owned();
    fs::rename(&here, &there).expect("move the project");
    let moved = DjangoCa::open(&there)?;
    assert_eq!(moved.serial(), serial);
    moved.sign_csr("moved.example")?;
    assert!(!here.exists());
    Ok(())
}

fn volume_is_mounted_until_dropped(volume: LoopVolume) {
    let path = volume.path();
    assert_eq!(mounted_below(&path), std::slice::from_ref(&path));
    let types = capture(command("stat").args(["-f", "-c", "%T"]).arg(&path), PATIENCE).expect("stat").text();
    let expected = if volume.kind() == "ext4" { "ext2/ext3" } else { volume.kind() };
    assert_eq!(types.trim(), expected);
    fs::write(path.join("file"), "content").expect("write on the volume");
    let cloned = capture(
        command("cp").arg("--reflink=always").arg(path.join("file")).arg(path.join("clone")),
        PATIENCE,
    );
    assert_eq!(
        cloned.expect("cp").status.success(),
        volume.kind() != "ext4",
        "reflinks on {}",
        volume.kind()
    );
    // Open files and a freeze must not keep it from going away.
    let open = fs::File::open(path.join("file")).expect("open on the volume");
    drop(volume);
    assert!(mounted_below(&path).is_empty());
    assert!(!path.exists());
    drop(open);
}

#[test]
fn volumes_mount_and_leave_nothing_behind() -> Tested {
    let Some(()) = require_root_or_skip() else { return Ok(()) };
    let tools = ["mkfs.btrfs", "mkfs.xfs", "mkfs.ext4", "fsfreeze"].map(require_tool);
    if tools.iter().any(Option::is_none) {
        return Ok(());
    }
    let btrfs = LoopVolume::btrfs(SMALL)?;
    let subvolume = btrfs.subvolume("ca")?;
    assert!(subvolume.is_dir());
    volume_is_mounted_until_dropped(btrfs);
    volume_is_mounted_until_dropped(LoopVolume::xfs_reflink(SMALL)?);
    volume_is_mounted_until_dropped(LoopVolume::ext4(SMALL)?);

    let frozen = LoopVolume::ext4(SMALL)?;
    let path = frozen.path();
    let freeze = capture(command("fsfreeze").arg("--freeze").arg(&path), PATIENCE)?;
    assert!(freeze.status.success(), "{}", freeze.stderr);
    drop(frozen);
    assert!(mounted_below(&path).is_empty(), "a frozen volume was left behind");

    let full = LoopVolume::ext4(SMALL)?;
    full.fill(0)?;
    let written = fs::write(full.path().join("more"), vec![1_u8; 1 << 20]);
    assert_eq!(written.expect_err("written on a full volume").kind(), std::io::ErrorKind::StorageFull);
    Ok(())
}

#[test]
fn volumes_of_a_killed_run_are_removed_by_the_next() -> Tested {
    let (Some(()), Some(_)) = (require_root_or_skip(), require_tool("mkfs.ext4")) else { return Ok(()) };
    // As a killed run leaves it: a mounted volume in a folder that names a process which is no more.
    let dead = Server::start("true", &mut command("true"))?;
    let orphan = std::env::temp_dir().join(format!("holdfast-volume-{}-1-orphan", dead.pid()));
    drop(dead);
    let mount = orphan.join("mnt");
    fs::create_dir_all(&mount).expect("make the orphan");
    let mounted = capture(command("mount").args(["-t", "tmpfs", "tmpfs"]).arg(&mount), PATIENCE)?;
    assert!(mounted.status.success(), "{}", mounted.stderr);

    let _volume = LoopVolume::ext4(SMALL)?;
    assert!(mounted_below(&orphan).is_empty());
    assert!(!orphan.exists());
    Ok(())
}

#[test]
fn restic_reads_writes_and_notices_damage() -> Tested {
    let Some(_) = require_tool("restic") else { return Ok(()) };
    let world = Holdfast::new()?;
    let restic = world.restic();
    let tree = world.root().join("tree");
    fs::create_dir(&tree).expect("make a tree");
    fs::write(tree.join("file"), "content").expect("write a file");
    restic.init()?;
    restic.backup(&tree)?;
    restic.check_read_data()?;
    let snapshots = restic.snapshots()?;
    assert_eq!(snapshots.len(), 1);
    let file = tree.join("file").display().to_string();
    assert!(restic.ls("latest")?.iter().any(|entry| entry["path"] == file.as_str()));
    assert_eq!(restic.dump("latest", &file)?, b"content");
    let target = world.root().join("restored");
    restic.restore("latest", &target)?;
    let restored = target.join(tree.strip_prefix("/").expect("absolute")).join("file");
    assert_eq!(fs::read(restored).expect("the restored file"), b"content");

    let other = world.root().join("other.key");
    fs::write(&other, "wrong\n").expect("write another password");
    let refused = Restic::new(world.repository(), &other).snapshots().expect_err("a wrong password");
    assert!(refused.to_string().contains("wrong password"), "{refused}");

    let packs =
        capture(command("find").arg(world.repository().join("data")).args(["-type", "f"]), PATIENCE)?.text();
    let pack = packs.lines().next().expect("a pack");
    capture(command("chmod").args(["u+w", pack]), PATIENCE)?;
    let mut bytes = fs::read(pack).expect("read a pack");
    bytes[10] ^= 1;
    fs::write(pack, bytes).expect("damage a pack");
    assert!(restic.check_read_data().is_err(), "damage went unnoticed");
    Ok(())
}

#[test]
fn moto_takes_a_restic_backup() -> Tested {
    let (Some(_), Some(_)) = (require_venv("moto", "moto_server"), require_tool("restic")) else {
        return Ok(());
    };
    let world = Holdfast::new()?;
    let moto = Moto::start()?;
    let restic =
        Restic::new(moto.repository("repo"), &world.password_file()).with_environment(moto.environment());
    restic.init()?;
    restic.backup(&world.password_file())?;
    restic.check_read_data()?;
    assert_eq!(restic.snapshots()?.len(), 1);
    Ok(())
}

fn watched_writer_waits_while_held(journal: Journal) -> Tested {
    let Some(_) = require_tool("python3") else { return Ok(()) };
    let folder = scratch();
    let database = folder.path().join("app.db");
    let writer = SqliteWriter::start_with(&database, journal, Duration::from_millis(100), Duration::ZERO)?;
    assert_eq!(journal_mode(&database), journal.pragma());
    writer.wrote_again_within(PATIENCE)?;

    let holder = rusqlite::Connection::open(&database).expect("open beside the writer");
    holder.busy_timeout(PATIENCE).expect("a busy timeout");
    holder.execute_batch("BEGIN IMMEDIATE").expect("the hold");
    let held_ns = monotonic_ns();
    let kept_out = writer.wrote_again_within(Duration::from_millis(500));
    assert!(matches!(kept_out, Err(FixtureError::Deadline { .. })), "{kept_out:?}");
    let refused = writer.acks().refused();
    assert!(refused.iter().any(|refused| refused.refused_ns > held_ns && refused.message.contains("locked")));
    holder.execute_batch("ROLLBACK").expect("the release");
    drop(holder);
    writer.wrote_again_within(PATIENCE)?;

    let acks = writer.kill();
    assert_times_grow(&acks);
    let ids = watch::ids(&database)?;
    assert!((1..).zip(&ids).all(|(expected, id)| expected == *id), "ids without gaps");
    // The one commit that was under way may have made it without being told of.
    assert!((acks.len()..=acks.len() + 1).contains(&ids.len()), "{} of {}", ids.len(), acks.len());
    Ok(())
}

#[test]
fn the_watched_writer_waits_while_held_with_a_rollback_journal() -> Tested {
    watched_writer_waits_while_held(Journal::Delete)
}

#[test]
fn the_watched_writer_waits_while_held_with_a_wal() -> Tested {
    watched_writer_waits_while_held(Journal::Wal)
}

#[test]
fn nothing_outlives_its_handle_or_its_deadline() -> Tested {
    let folder = scratch();
    let writer = SqliteWriter::start(&folder.path().join("app.db"), Journal::Wal)?;
    let server = Server::start("sleep", command("sleep").arg("600"))?;
    let pids = [writer.pid().expect("a process"), server.pid()];
    drop((writer, server));
    assert!(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()));

    let mark = format!("6{}", std::process::id());
    let limit = Duration::from_millis(300);
    let late = capture(command("sh").args(["-c", &format!("sleep {mark} & wait")]), limit);
    assert!(matches!(late, Err(FixtureError::Deadline { .. })), "{late:?}");
    let left = capture(command("pgrep").args(["-f", &format!("^sleep {mark}$")]), PATIENCE)?;
    assert_eq!(left.text(), "", "the grandchild outlived the deadline");
    Ok(())
}

#[test]
fn the_command_runs_in_a_world_of_its_own() -> Tested {
    let mut world = Holdfast::new()?;
    world.config().writer("app", "sqlite").set("database", Path::new("/srv/app.db"));
    let run = world.run(["--version"])?;
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let written = fs::read_to_string(world.config_file()).expect("the configuration");
    assert!(written.contains("type = \"sqlite\""), "{written}");
    let ended = world.spawn(["--version"])?.wait(PATIENCE)?;
    assert_eq!(ended.code, Some(0));
    Ok(())
}

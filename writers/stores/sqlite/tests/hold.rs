//! A hold stops the application's writers, is really held, and ends.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use holdfast_store_sqlite::{
    Database, HolderKind, JournalFamily, LockHolder, Proof, SqliteError, scan_wal, who_has_it_open,
};

mod common;
use common::{Helper, MODES, cut, database, hold, read, with_suffix, write};

/// A process that another test is just starting has our descriptors for a moment, until it becomes that program.
fn nobody_uses(path: &Path) {
    let began = Instant::now();
    while let Some(holder) = who_has_it_open(path).unwrap().holders.first() {
        assert_eq!(holder.kind, HolderKind::Descriptor);
        assert!(began.elapsed() < Duration::from_secs(5), "{holder:?}");
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

#[test]
fn a_hold_stops_writers_and_lets_readers_read() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let hold = hold(&path);
        assert_eq!(hold.prove().unwrap(), Proof::Kernel);
        assert_eq!(write(&path), "busy", "{mode}");
        assert_eq!(read(&path), "500", "{mode}");
        hold.release().unwrap();
        assert_eq!(write(&path), "ok", "{mode}");
        assert_eq!(read(&path), "501", "{mode}");
    }
}

#[test]
fn a_dropped_hold_is_released_and_a_released_database_can_be_held_again() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        drop(hold(&path));
        assert_eq!(write(&path), "ok", "{mode}");
        let mut database = Database::open(&path).unwrap();
        for _ in 0..3 {
            let hold = database.hold(soon(), &AtomicBool::new(false)).unwrap();
            assert_eq!(write(&path), "busy", "{mode}");
            database = hold.release().unwrap().database;
            assert_eq!(write(&path), "ok", "{mode}");
        }
    }
}

/// The POSIX lock rule. First that the trap is real, then that `prove` falls into no such trap.
#[test]
fn closing_another_descriptor_in_this_process_loses_the_hold_and_the_proof_notices() {
    for (mode, locked) in [("wal", "-shm"), ("delete", "")] {
        let (_dir, path) = database(mode);
        let hold = hold(&path);
        assert_eq!(write(&path), "busy");
        drop(File::open(with_suffix(&path, locked)).unwrap());
        assert!(matches!(hold.prove(), Err(SqliteError::NotHeld { owner: None, .. })), "{mode}");
        assert_eq!(write(&path), "ok", "{mode}: a writer got in during the hold");

        // Another's lock is not taken for ours either.
        let mut other = Helper::start("hold", &path);
        assert_eq!(other.says(), "held");
        assert!(
            matches!(hold.prove(), Err(SqliteError::NotHeld { owner: Some(pid), .. }) if pid == other.pid()),
            "{mode}"
        );
        other.finish();
    }
}

#[test]
fn nothing_we_do_during_a_hold_loses_it() {
    for mode in MODES {
        let (dir, path) = database(mode);
        let hold = hold(&path);
        for _ in 0..3 {
            hold.prove().unwrap();
            hold.mark().unwrap();
            hold.database().describe().unwrap();
            who_has_it_open(&path).unwrap();
            hold.database().other_users().unwrap();
            let _ = scan_wal(&with_suffix(&path, "-wal"));
            holdfast_store_sqlite::pending_super_journal(&path).unwrap();
            assert!(matches!(
                holdfast_store_sqlite::verify_copy(&path, holdfast_store_sqlite::Level::Quick),
                Err(SqliteError::InUse { .. })
            ));
            assert!(matches!(holdfast_store_sqlite::fold_in(&path), Err(SqliteError::InUse { .. })));
            // A second connection of ours, opened and closed.
            drop(Database::open(&path).unwrap());
            cut(&path, &dir.path().join("cut"));
            assert_eq!(write(&path), "busy", "{mode}");
        }
        assert_eq!(hold.prove().unwrap(), Proof::Kernel);
    }
}

/// The close rule.
#[test]
fn the_log_a_killed_application_left_is_not_folded_in_by_us() {
    let (_dir, path) = database("wal");
    assert_eq!(Helper::start("leave-wal", &path).says(), "left");
    let (before, base) = (fs::read(with_suffix(&path, "-wal")).unwrap(), fs::read(&path).unwrap());
    assert!(before.len() > 4 * 4096);
    let released = hold(&path).release().unwrap();
    released.database.describe().unwrap();
    drop(released.database);
    assert!(fs::read(with_suffix(&path, "-wal")).unwrap() == before);
    assert!(fs::read(&path).unwrap() == base);
    assert_eq!(read(&path), "700");
}

#[test]
fn a_database_that_was_closed_is_left_as_it_was_found() {
    for mode in MODES {
        let (dir, path) = database(mode);
        let list = || {
            let mut names: Vec<_> =
                fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            (names, fs::read(&path).unwrap())
        };
        let before = list();
        drop(hold(&path));
        drop(Database::open(&path).unwrap());
        assert!(list() == before, "{mode}");
    }
}

#[test]
fn the_death_of_the_holder_frees_the_application_within_a_second() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let mut holder = Helper::start("hold", &path);
        assert_eq!(holder.says(), "held");
        assert_eq!(write(&path), "busy");
        let killed = Instant::now();
        holder.kill();
        assert_eq!(write(&path), "ok", "{mode}");
        assert!(killed.elapsed() < Duration::from_secs(1), "{mode}: {:?}", killed.elapsed());
    }
}

#[test]
fn a_hold_given_up_while_it_waits_never_takes_hold() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let mut other = Helper::start("hold", &path);
        assert_eq!(other.says(), "held");
        let waiting = Database::open(&path).unwrap();
        let give_up = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&give_up);
        let (started, start) = std::sync::mpsc::channel();
        let waiter = thread::spawn(move || {
            started.send(()).unwrap();
            waiting.hold(Instant::now() + Duration::from_secs(60), &flag)
        });
        start.recv().unwrap();
        assert!(!waiter.is_finished());
        give_up.store(true, Ordering::SeqCst);
        assert!(matches!(waiter.join().unwrap(), Err(SqliteError::GivenUp { .. })), "{mode}");
        // Now it could: nobody must.
        other.finish();
        for _ in 0..5 {
            assert_eq!(write(&path), "ok", "{mode}");
        }
        nobody_uses(&path);
        // The flag stays set: a later attempt does not begin.
        let late = Database::open(&path).unwrap().hold(soon(), &give_up);
        assert!(matches!(late, Err(SqliteError::GivenUp { .. })), "{mode}");
    }
}

/// Goal: whenever the flag is set, an `Err` means that nothing is held and an `Ok` is the caller's to drop.
/// Method: set it after a growing number of spins, so that it falls before, into and behind the taking of the lock.
#[test]
fn giving_up_at_any_moment_leaves_nothing_held() {
    let (_dir, path) = database("wal");
    let (mut taken, mut refused) = (0, 0);
    for spins in (0..400_000_u32).step_by(8_000) {
        let waiting = Database::open(&path).unwrap();
        let give_up = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&give_up);
        let waiter = thread::spawn(move || waiting.hold(soon(), &flag).map(drop));
        for _ in 0..spins {
            std::hint::spin_loop();
        }
        give_up.store(true, Ordering::SeqCst);
        match waiter.join().unwrap() {
            Ok(()) => taken += 1,
            Err(SqliteError::GivenUp { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        nobody_uses(&path);
    }
    assert!(refused > 0, "taken {taken}, refused {refused}");
    assert_eq!(write(&path), "ok");
}

#[test]
fn the_deadline_is_kept_and_nothing_is_held_after_it() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let mut other = Helper::start("hold", &path);
        assert_eq!(other.says(), "held");
        let asked = Instant::now();
        let budget = Duration::from_millis(150);
        let late = Database::open(&path).unwrap().hold(asked + budget, &AtomicBool::new(false));
        let waited = asked.elapsed();
        assert!(matches!(late, Err(SqliteError::HoldTimeout { waited_ms: 1..=250, .. })), "{mode}: {late:?}");
        assert!(waited >= budget && waited < budget + Duration::from_millis(250), "{mode}: {waited:?}");
        other.finish();
        assert_eq!(write(&path), "ok", "{mode}");
        let past = Database::open(&path).unwrap().hold(Instant::now(), &AtomicBool::new(false));
        assert!(matches!(past, Err(SqliteError::HoldTimeout { .. })), "{mode}");
    }
}

#[test]
fn three_saturating_writers_do_not_keep_us_from_holding() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let mut writers: Vec<_> = (0..3).map(|_| Helper::start("saturate", &path)).collect();
        for writer in &mut writers {
            assert_eq!(writer.says(), "writing");
        }
        let mut database = Database::open(&path).unwrap();
        for _ in 0..5 {
            let hold = database.hold(soon(), &AtomicBool::new(false)).unwrap();
            let (before, rows) = (hold.mark().unwrap(), read(&path));
            hold.prove().unwrap();
            assert_eq!((hold.mark().unwrap(), read(&path)), (before, rows), "{mode}: a writer got in");
            database = hold.release().unwrap().database;
        }
    }
}

#[test]
fn a_journal_mode_changed_after_opening_is_noticed_under_the_hold() {
    let (_dir, path) = database("delete");
    let early = Database::open(&path).unwrap();
    assert_eq!(early.describe().unwrap().journal, JournalFamily::Rollback);
    let app = rusqlite::Connection::open(&path).unwrap();
    app.pragma_update(None, "journal_mode", "wal").unwrap();
    let hold = early.hold(soon(), &AtomicBool::new(false)).unwrap();
    assert_eq!(hold.journal().unwrap(), JournalFamily::Wal);
    assert_eq!(hold.mark().unwrap().journal, JournalFamily::Wal);
    assert_eq!(write(&path), "busy");
}

#[test]
fn a_database_replaced_behind_our_back_is_not_held() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let (_other_dir, other) = database(mode);
        let opened = Database::open(&path).unwrap();
        let held = hold(&other);
        fs::copy(&path, with_suffix(&path, "-new")).unwrap();
        fs::rename(with_suffix(&path, "-new"), &path).unwrap();
        assert!(matches!(opened.describe(), Err(SqliteError::Replaced { .. })), "{mode}");
        let hold = opened.hold(soon(), &AtomicBool::new(false));
        assert!(matches!(hold, Err(SqliteError::Replaced { .. })), "{mode}");
        fs::remove_file(&other).unwrap();
        assert!(matches!(held.prove(), Err(SqliteError::Replaced { .. })), "{mode}");
    }
}

/// `BEGIN IMMEDIATE` on a read-only handle succeeds and stops nobody, so that it must not get that far.
#[test]
fn a_handle_that_may_only_read_is_refused() {
    for mode in MODES {
        let (dir, path) = database(mode);
        // Root may write whatever the mode says: somebody else has to try.
        let us = fs::metadata("/proc/self").map(|m| std::os::unix::fs::MetadataExt::uid(&m)).unwrap();
        let folder_mode = if mode == "wal" { 0o777 } else { 0o755 };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(folder_mode)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        let program = dir.path().join("program");
        // Not by us: a process that another test is just starting would have it open for writing, and nobody could run it.
        let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap();
        assert!(copied.success());
        let mut other = Helper::command(&program, "open", &path, |command| {
            if us == 0 {
                command.uid(65534).gid(65534).current_dir("/");
            }
        });
        assert_eq!(other.says(), "ReadOnly", "{mode}");

        // What is refused: a hold that holds nothing.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let reader = rusqlite::Connection::open_with_flags(&path, flags).unwrap();
        reader.execute_batch("BEGIN IMMEDIATE").unwrap();
        if mode == "wal" {
            assert_eq!(write(&path), "ok");
        }
    }
}

#[test]
fn an_application_that_keeps_the_database_to_itself_is_named() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let mut app = Helper::start("exclusive", &path);
        assert_eq!(app.says(), "exclusive");
        let refused = Database::open(&path).unwrap_err();
        assert!(
            matches!(refused, SqliteError::ExclusiveUser { pid: Some(pid), .. } if pid == app.pid()),
            "{mode}: {refused:?}"
        );
    }
}

#[test]
fn what_is_no_database_is_refused_by_name_and_left_alone() {
    let (dir, good) = database("delete");
    let folder = good.parent().unwrap();
    let at = |name: &str| folder.join(name);
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("text"), "this is not a database, it only is a long text\n".repeat(200)).unwrap();
    fs::write(at("short"), b"SQLite format 3\0").unwrap();
    let mut cut = fs::read(&good).unwrap();
    cut.truncate(4096);
    cut[100..].fill(0xff);
    fs::write(at("cut"), &cut).unwrap();
    fs::create_dir(at("folder")).unwrap();
    std::os::unix::fs::symlink(&good, at("link")).unwrap();
    std::os::unix::fs::symlink(folder, at("linked-folder")).unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());

    let refusal = |name: &str| Database::open(at(name)).unwrap_err();
    assert!(matches!(refusal("none"), SqliteError::Missing { .. }));
    assert!(!at("none").exists());
    assert!(matches!(refusal("empty"), SqliteError::Empty { .. }));
    assert!(matches!(refusal("text"), SqliteError::NotADatabase { .. }));
    assert!(matches!(refusal("short"), SqliteError::NotADatabase { .. }), "{:?}", refusal("short"));
    assert!(matches!(refusal("cut"), SqliteError::Damaged { .. }), "{:?}", refusal("cut"));
    assert!(matches!(refusal("folder"), SqliteError::NotRegular { .. }));
    assert!(matches!(refusal("pipe"), SqliteError::NotRegular { .. }));
    assert!(matches!(refusal("link"), SqliteError::Symlink { .. }));
    assert!(matches!(refusal("linked-folder/app.db"), SqliteError::Symlink { .. }));
    assert!(matches!(refusal("nul\0byte"), SqliteError::UnusablePath { .. }));
    assert!(matches!(Database::open(""), Err(SqliteError::UnusablePath { .. })));
    // Not a URI: nothing is opened in memory or with other settings.
    assert!(matches!(Database::open("file:x?mode=memory"), Err(SqliteError::Missing { .. })));

    // A log that leads elsewhere: SQLite itself would follow it.
    std::os::unix::fs::symlink(at("text"), at("app.db-wal")).unwrap();
    assert!(matches!(refusal("app.db"), SqliteError::Symlink { path } if path == at("app.db-wal")));
    drop(dir);
}

#[test]
fn users_are_found_even_if_they_hold_no_lock() {
    for (mode, idle) in [("wal", HolderKind::Reader), ("delete", HolderKind::Descriptor)] {
        let (_dir, path) = database(mode);
        nobody_uses(&path);
        let mut app = Helper::start("idle", &path);
        assert_eq!(app.says(), "idle");
        let found = who_has_it_open(&path).unwrap().holders;
        assert!(found.contains(&LockHolder { pid: Some(app.pid()), kind: idle }), "{mode}: {found:?}");
        assert!(found.iter().all(|holder| holder.pid == Some(app.pid())), "{mode}: {found:?}");

        let mut holder = Helper::start("hold", &path);
        assert_eq!(holder.says(), "held");
        let found = who_has_it_open(&path).unwrap().holders;
        assert!(
            found.contains(&LockHolder { pid: Some(holder.pid()), kind: HolderKind::Writer }),
            "{mode}: {found:?}"
        );
        holder.finish();
        app.finish();
        nobody_uses(&path);
    }
}

#[test]
fn a_description_says_what_the_application_set() {
    let (_dir, path) = database("wal");
    let app = rusqlite::Connection::open(&path).unwrap();
    app.execute_batch("PRAGMA user_version = 7; PRAGMA application_id = -5; DELETE FROM t WHERE a > 100")
        .unwrap();
    let described = Database::open(&path).unwrap().describe().unwrap();
    assert_eq!((described.journal, described.page_size), (JournalFamily::Wal, 4096));
    assert_eq!((described.user_version, described.application_id), (7, -5));
    assert!(described.wal_bytes > 4096 && described.free_pages > 0 && described.encoding == "UTF-8");
    assert_eq!(described.database_bytes, fs::metadata(&path).unwrap().len());
}

//! A copy cut under a hold is of the marked instant, is checked, and becomes one file; every other copy is told apart.

use std::fs;
use std::path::{Path, PathBuf};

use holdfast_store_sqlite::{
    Database, JournalFamily, Level, Mark, SqliteError, check_against_mark, component_files, fold_in,
    scan_wal, verify_copy,
};
use rusqlite::Connection;

mod common;
use common::{Helper, MODES, cut, database, hold, read, with_suffix, write};

fn rows(path: &Path) -> i64 {
    let db = Connection::open(path).unwrap();
    db.query_row("SELECT count(*) FROM t", (), |row| row.get(0)).unwrap()
}

/// An application that stays open, so that its `-wal` stays, with `commits` transactions in it.
fn busy(path: &Path, commits: usize) -> Connection {
    let app = Connection::open(path).unwrap();
    app.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
    for _ in 0..commits {
        app.execute("INSERT INTO t(b) VALUES(hex(randomblob(100)))", ()).unwrap();
    }
    app
}

/// Cuts under a hold.
fn held_cut(path: &Path, folder: &Path) -> (PathBuf, Mark) {
    let hold = hold(path);
    let mark = hold.mark().unwrap();
    let copy = cut(path, folder);
    hold.prove().unwrap();
    (copy, mark)
}

#[test]
fn a_cut_under_load_has_every_acknowledged_row_and_no_later_one() {
    for mode in MODES {
        let (dir, path) = database(mode);
        let mut writers: Vec<_> = (0..3).map(|_| Helper::start("saturate", &path)).collect();
        for writer in &mut writers {
            assert_eq!(writer.says(), "writing");
        }
        for round in 0..3 {
            let hold = hold(&path);
            let (mark, acknowledged) = (hold.mark().unwrap(), read(&path));
            let copy = cut(&path, &dir.path().canonicalize().unwrap().join(format!("cut{round}")));
            hold.release().unwrap();

            check_against_mark(&copy, &mark).unwrap();
            let report = verify_copy(&copy, Level::Full).unwrap();
            assert!(report.is_sound(), "{mode}: {:?}", report.problems);
            assert_eq!(report.tables.len(), 1);
            assert_eq!(report.tables[0].rows.unwrap().to_string(), acknowledged, "{mode}");
            assert_eq!(report.page_count, mark.page_count);
            // Checking changed nothing that the mark knows.
            check_against_mark(&copy, &mark).unwrap();

            let folded = fold_in(&copy).unwrap();
            assert_eq!((folded.journal, folded.page_count), (mark.journal, mark.page_count));
            assert_eq!(folded.wal_frames, mark.wal.map_or(0, |wal| wal.frames), "{mode}");
            assert_eq!(fs::read_dir(copy.parent().unwrap()).unwrap().count(), 1, "{mode}: one file is left");
            assert_eq!(
                fs::metadata(&copy).unwrap().len(),
                u64::from(mark.page_size) * u64::from(mark.page_count)
            );
            assert_eq!(rows(&copy).to_string(), acknowledged, "{mode}");
            let reopened: String = Connection::open(&copy)
                .unwrap()
                .query_row("PRAGMA journal_mode", (), |row| row.get(0))
                .unwrap();
            assert_eq!(reopened, mode, "the journal mode survives");
        }
    }
}

#[test]
fn the_mark_agrees_with_a_walk_over_the_whole_log() {
    let (_dir, path) = database("wal");
    let app = busy(&path, 1);
    let log = with_suffix(&path, "-wal");
    for step in 0..6 {
        match step {
            1 | 3 => drop(app.execute("INSERT INTO t(b) VALUES(zeroblob(50000))", ()).unwrap()),
            // Everything in the database, the log kept; then written from its start again with new salts.
            2 => app.query_row("PRAGMA wal_checkpoint(RESTART)", (), |_| Ok(())).unwrap(),
            4 => app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap(),
            _ => {}
        }
        let mark = hold(&path).mark().unwrap();
        let scan = scan_wal(&log).unwrap();
        assert_eq!(mark.wal.map_or(0, |wal| wal.frames), scan.committed_frames, "step {step}");
        assert_eq!(mark.wal.map(|wal| wal.salts), scan.header.map(|header| header.salts), "step {step}");
        assert_eq!(mark.journal, JournalFamily::Wal);
    }
}

/// The number of pages that tells a foreign log must never accuse a log of the database's own.
#[test]
fn whatever_changes_the_size_of_a_database_its_own_log_is_never_called_foreign() {
    for (page_size, vacuum) in [(512, 0), (4096, 1), (4096, 2), (65536, 0)] {
        let (dir, path) = database("delete");
        let app = Connection::open(&path).unwrap();
        app.execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA auto_vacuum = {vacuum}; VACUUM; PRAGMA journal_mode = wal;
             PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = 5"
        ))
        .unwrap();
        for (step, sql) in [
            "INSERT INTO t(b) SELECT hex(randomblob(900)) FROM t",
            "DELETE FROM t WHERE a % 3",
            "PRAGMA incremental_vacuum(7)",
            "BEGIN; INSERT INTO t(b) SELECT b FROM t; ROLLBACK",
            "BEGIN; SAVEPOINT s; INSERT INTO t(b) SELECT b FROM t; ROLLBACK TO s; INSERT INTO t(b) VALUES(1); COMMIT",
            "VACUUM",
            "CREATE TABLE u AS SELECT * FROM t",
            "PRAGMA wal_checkpoint(PASSIVE)",
            "DROP TABLE u",
            "UPDATE t SET b = b || 'x'",
            "PRAGMA user_version = 3",
            "VACUUM",
        ]
        .into_iter()
        .enumerate()
        {
            app.execute_batch(sql).unwrap();
            let (copy, mark) = held_cut(&path, &dir.path().canonicalize().unwrap().join(format!("cut{step}")));
            check_against_mark(&copy, &mark).unwrap();
            let report = verify_copy(&copy, Level::Full).unwrap();
            assert!(report.is_sound(), "{page_size} {vacuum} {sql}: {report:?}");
            assert_eq!(fold_in(&copy).unwrap().page_count, mark.page_count, "{page_size} {vacuum} {sql}");
        }
    }
}

#[test]
fn a_mark_survives_being_written_down() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let _app = busy(&path, 3);
        let mark = hold(&path).mark().unwrap();
        assert_eq!(mark.change_counter.is_some(), mode == "delete");
        assert_eq!(mark.wal.is_some(), mode == "wal");
        let written = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&written).unwrap(), mark, "{written}");
    }
}

/// A log of another time beside the database: SQLite would replay it, or call the result malformed.
#[test]
fn a_log_of_another_time_beside_the_database_is_noticed() {
    let (dir, path) = database("wal");
    let folder = dir.path().canonicalize().unwrap();
    let app = busy(&path, 5);
    let (old, old_mark) = held_cut(&path, &folder.join("old"));
    // The same round of the log, grown; then a round of its own.
    app.execute("INSERT INTO t(b) VALUES('later')", ()).unwrap();
    let (grown, grown_mark) = held_cut(&path, &folder.join("grown"));
    app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    app.execute("DELETE FROM t WHERE a % 2", ()).unwrap();
    let (new, new_mark) = held_cut(&path, &folder.join("new"));
    for (copy, mark) in [(&old, &old_mark), (&grown, &grown_mark), (&new, &new_mark)] {
        check_against_mark(copy, mark).unwrap();
    }

    let mixed = folder.join("mixed");
    let put = |base: &Path, log: Option<&Path>| {
        fs::copy(base, &mixed).unwrap();
        match log {
            Some(log) => drop(fs::copy(with_suffix(log, "-wal"), with_suffix(&mixed, "-wal")).unwrap()),
            None => fs::remove_file(with_suffix(&mixed, "-wal")).unwrap(),
        }
    };
    let refused = |mark: &Mark| match check_against_mark(&mixed, mark) {
        Err(SqliteError::MarkMismatch { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    put(&old, Some(&new));
    assert_eq!(refused(&old_mark), "the log's salts");
    // Silent without the mark: SQLite rolls forward, or misses the newest transaction.
    put(&old, Some(&grown));
    assert_eq!(refused(&old_mark), "the log's last frame");
    assert!(verify_copy(&mixed, Level::Full).unwrap().is_sound());
    put(&grown, Some(&old));
    assert_eq!(refused(&grown_mark), "the log's last frame");
    assert!(verify_copy(&mixed, Level::Full).unwrap().is_sound());
    put(&old, None);
    assert_eq!(refused(&old_mark), "the log's salts");
    // A log cut off in its last frame.
    put(&old, Some(&old));
    let bytes = fs::read(with_suffix(&mixed, "-wal")).unwrap();
    fs::write(with_suffix(&mixed, "-wal"), &bytes[..bytes.len() - 1]).unwrap();
    assert_eq!(refused(&old_mark), "the log's last frame");
}

#[test]
fn a_newer_log_over_an_older_database_does_not_pass_as_sound() {
    let (dir, path) = database("wal");
    let folder = dir.path().canonicalize().unwrap();
    let app = busy(&path, 0);
    let base = folder.join("base");
    app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    std::process::Command::new("cp").arg(&path).arg(&base).status().unwrap();
    // Checkpointed away, so that no log has these pages …
    for _ in 0..2000 {
        app.execute("INSERT INTO t(b) VALUES(hex(randomblob(200)))", ()).unwrap();
    }
    app.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())).unwrap();
    // … and then a log that builds upon them.
    app.execute("INSERT INTO t(b) VALUES('later')", ()).unwrap();
    fs::copy(with_suffix(&path, "-wal"), with_suffix(&base, "-wal")).unwrap();
    // No check of SQLite's own notices.
    for level in [Level::Quick, Level::Full] {
        let report = verify_copy(&base, level).unwrap();
        assert!(report.problems.iter().any(|p| p.contains("ends with")), "{report:?}");
    }
    assert!(matches!(fold_in(&base), Err(SqliteError::ForeignLog { .. })));
    assert!(with_suffix(&base, "-wal").exists());
}

#[test]
fn copies_of_a_rollback_database_of_another_instant_are_noticed() {
    let (dir, path) = database("delete");
    let folder = dir.path().canonicalize().unwrap();
    let (old, old_mark) = held_cut(&path, &folder.join("old"));
    assert_eq!(write(&path), "ok");
    let (new, new_mark) = held_cut(&path, &folder.join("new"));
    check_against_mark(&new, &new_mark).unwrap();
    for (copy, mark) in [(&old, &new_mark), (&new, &old_mark)] {
        let refused = check_against_mark(copy, mark);
        assert!(
            matches!(refused, Err(SqliteError::MarkMismatch { field: "the change counter", .. })),
            "{refused:?}"
        );
    }
    let length = fs::metadata(&old).unwrap().len();
    fs::File::options().write(true).open(&old).unwrap().set_len(length - 4096).unwrap();
    let refused = check_against_mark(&old, &old_mark);
    assert!(
        matches!(refused, Err(SqliteError::MarkMismatch { field: "the length of the file", .. })),
        "{refused:?}"
    );
}

#[test]
fn a_hot_journal_is_rolled_back_and_never_left_beside_the_result() {
    for by_verify in [true, false] {
        let (dir, path) = database("delete");
        let mark = hold(&path).mark().unwrap();
        assert_eq!(Helper::start("leave-journal", &path).says(), "left");
        let copy = cut(&path, &dir.path().canonicalize().unwrap().join("cut"));
        assert!(with_suffix(&copy, "-journal").exists());
        assert!(rows_lost(&copy));
        let refused = check_against_mark(&copy, &mark);
        assert!(matches!(refused, Err(SqliteError::MarkMismatch { .. })), "{refused:?}");
        if by_verify {
            let report = verify_copy(&copy, Level::Full).unwrap();
            assert!(report.rolled_back && report.is_sound());
        } else {
            assert!(fold_in(&copy).unwrap().rolled_back);
        }
        assert!(!with_suffix(&copy, "-journal").exists());
        assert_eq!(rows(&copy), 500);
    }
}

#[test]
fn a_journal_of_a_transaction_over_several_databases_is_not_judged_alone() {
    let (_dir, path) = database("delete");
    let magic = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let name = b"/srv/other.db-mj00C0FFEE";
    let mut journal = magic.to_vec();
    journal.resize(512, 0);
    journal.extend(name);
    journal.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    journal.extend(name.iter().map(|b| u32::from(*b)).sum::<u32>().to_be_bytes());
    journal.extend(magic);
    fs::write(with_suffix(&path, "-journal"), &journal).unwrap();
    for refused in [verify_copy(&path, Level::Quick).unwrap_err(), fold_in(&path).unwrap_err()] {
        assert!(matches!(refused, SqliteError::SuperJournal { ref super_journal, .. }
            if super_journal == Path::new("/srv/other.db-mj00C0FFEE")));
    }
    assert!(fs::read(with_suffix(&path, "-journal")).unwrap() == journal);
}

#[test]
fn a_damaged_page_is_found() {
    for mode in MODES {
        for level in [Level::Quick, Level::Full] {
            let (_dir, path) = database(mode);
            let clean = verify_copy(&path, level).unwrap();
            assert!(clean.is_sound() && !clean.rolled_back && clean.level == level);
            let mut bytes = fs::read(&path).unwrap();
            let page = 4096 * 10;
            bytes[page..page + 4096].fill(0xa5);
            fs::write(&path, &bytes).unwrap();
            let report = verify_copy(&path, level).unwrap();
            assert!(!report.is_sound() && report.tables.is_empty(), "{mode}");
        }
    }
}

#[test]
fn messages_and_foreign_key_violations_are_bounded_and_the_latter_are_no_damage() {
    let (_dir, path) = database("delete");
    let app = Connection::open(&path).unwrap();
    app.execute_batch(
        "PRAGMA foreign_keys = OFF; CREATE TABLE p(x INTEGER PRIMARY KEY);
         CREATE TABLE c(x REFERENCES p, \"odd \"\"name\"); INSERT INTO c(x) SELECT a FROM t",
    )
    .unwrap();
    app.close().unwrap();
    let report = verify_copy(&path, Level::Full).unwrap();
    assert!(report.is_sound() && report.foreign_keys_checked && report.more_foreign_keys);
    assert_eq!(report.foreign_keys.len(), holdfast_store_sqlite::MAX_MESSAGES);
    assert_eq!((report.foreign_keys[0].table.as_str(), report.foreign_keys[0].parent.as_str()), ("c", "p"));
    assert_eq!(report.tables.iter().map(|t| t.rows).collect::<Vec<_>>(), [Some(500), Some(0), Some(500)]);

    let mut bytes = fs::read(&path).unwrap();
    for page in (6..bytes.len() / 4096).rev() {
        bytes[page * 4096..(page + 1) * 4096].fill(0x5a);
    }
    fs::write(&path, &bytes).unwrap();
    let report = verify_copy(&path, Level::Full).unwrap();
    assert!(!report.is_sound() && report.problems.len() <= holdfast_store_sqlite::MAX_MESSAGES);
    assert!(report.problems.iter().all(|problem| problem.len() <= 1024));
}

#[test]
fn a_schema_that_needs_its_application_is_an_error_of_its_own() {
    let (_dir, path) = database("delete");
    let app = Connection::open(&path).unwrap();
    app.execute_batch(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE INDEX i ON t(b COLLATE only_the_app_has_it)' WHERE name = 'i'",
    )
    .unwrap();
    app.close().unwrap();
    let refused = verify_copy(&path, Level::Full);
    assert!(matches!(refused, Err(SqliteError::NotCheckable { .. })), "{refused:?}");
}

#[test]
fn a_live_database_is_not_taken_for_a_private_copy() {
    for mode in MODES {
        let (_dir, path) = database(mode);
        let mut app = Helper::start("idle", &path);
        assert_eq!(app.says(), "idle");
        let mark = hold(&path).mark().unwrap();
        for refused in [
            verify_copy(&path, Level::Full).map(drop),
            fold_in(&path).map(drop),
            check_against_mark(&path, &mark),
        ] {
            assert!(
                matches!(refused, Err(SqliteError::InUse { pid, .. }) if pid == app.pid()),
                "{mode}: {refused:?}"
            );
        }
        app.finish();
    }
}

#[test]
fn an_index_copied_by_mistake_is_not_believed() {
    let (dir, path) = database("wal");
    let _app = busy(&path, 20);
    let (copy, mark) = held_cut(&path, &dir.path().canonicalize().unwrap().join("cut"));
    fs::write(with_suffix(&copy, "-shm"), vec![0x55; 32768]).unwrap();
    check_against_mark(&copy, &mark).unwrap();
    assert!(verify_copy(&copy, Level::Full).unwrap().is_sound());
    assert_eq!(fold_in(&copy).unwrap().wal_frames, mark.wal.unwrap().frames);
    assert_eq!(rows(&copy), 520);
}

/// Goal: whatever a file holds, the answer is a report or a named error.
/// Method: a sound database of each kind with its log, damaged at places and lengths from a printed seed.
#[test]
fn no_damage_makes_us_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    println!("seed {state:#x}");
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for mode in MODES {
        let (dir, path) = database(mode);
        let app = busy(&path, 10);
        let (copy, mark) = held_cut(&path, &dir.path().canonicalize().unwrap().join("cut"));
        drop(app);
        let base = fs::read(&copy).unwrap();
        let log = fs::read(with_suffix(&copy, "-wal")).unwrap_or_default();
        let mut refusals = 0;
        for round in 0..150 {
            let (mut b, mut l) = (base.clone(), log.clone());
            // Headers are hit most often: that is where lengths and counts are.
            for _ in 0..=random(6) {
                let header_only = random(2) == 0;
                let at = random(if header_only { b.len().min(108) } else { b.len() });
                b[at] = u8::try_from(random(256)).unwrap();
                if !l.is_empty() {
                    let at = random(if header_only { l.len().min(60) } else { l.len() });
                    l[at] = u8::try_from(random(256)).unwrap();
                }
            }
            if round % 5 == 0 {
                b.truncate(random(b.len()));
                l.truncate(random(l.len().max(1)));
            }
            fs::write(&copy, &b).unwrap();
            if mode == "wal" {
                fs::write(with_suffix(&copy, "-wal"), &l).unwrap();
            } else if round % 3 == 0 {
                fs::write(with_suffix(&copy, "-journal"), &b[b.len() / 2..]).unwrap();
            }
            let sound = verify_copy(&copy, Level::Full).is_ok_and(|report| report.is_sound());
            refusals += usize::from(!sound);
            let _ = check_against_mark(&copy, &mark);
            let _ = Database::open(&copy).and_then(|database| database.describe());
            let _ = fold_in(&copy);
            for suffix in ["-wal", "-shm", "-journal"] {
                let _ = fs::remove_file(with_suffix(&copy, suffix));
            }
        }
        assert!(refusals > 20, "{mode}: the damage was hardly noticed, {refusals}");
    }
}

#[test]
fn empty_foreign_and_missing_files_are_named_errors() {
    let (dir, path) = database("delete");
    let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
    fs::write(at("empty"), b"").unwrap();
    fs::write(at("garbage"), [0x42; 9000]).unwrap();
    std::os::unix::fs::symlink(&path, at("link")).unwrap();
    type Call = fn(&Path) -> Result<(), SqliteError>;
    let calls: [Call; 2] = [|p| verify_copy(p, Level::Full).map(drop), |p| fold_in(p).map(drop)];
    for call in calls {
        assert!(matches!(call(&at("none")), Err(SqliteError::Missing { .. })));
        assert!(matches!(call(&at("empty")), Err(SqliteError::Empty { .. })));
        assert!(matches!(call(&at("garbage")), Err(SqliteError::NotADatabase { .. })));
        assert!(matches!(call(&at("link")), Err(SqliteError::Symlink { .. })));
        assert!(matches!(call(dir.path()), Err(SqliteError::NotRegular { .. })));
    }
    let mark = hold(&path).mark().unwrap();
    let refused = check_against_mark(&at("garbage"), &mark);
    assert!(matches!(refused, Err(SqliteError::NotADatabase { .. })), "{refused:?}");
}

#[test]
fn the_index_is_never_among_the_files_to_copy() {
    let files = component_files(Path::new("/srv/app.db"));
    let names: Vec<_> = files.iter().map(|file| (file.path.to_str().unwrap(), file.optional)).collect();
    assert_eq!(names, [("/srv/app.db", false), ("/srv/app.db-wal", true), ("/srv/app.db-journal", true)]);
}

fn rows_lost(copy: &Path) -> bool {
    // The cut really is of the middle of a transaction: without its journal it lacks rows or is malformed.
    let alone = copy.with_extension("alone");
    fs::copy(copy, &alone).unwrap();
    let db = Connection::open(&alone).unwrap();
    db.query_row("SELECT count(*) FROM t WHERE b <> 'lost'", (), |row| row.get::<_, i64>(0))
        .map_or(true, |n| n < 500)
}

//! Applications in processes of their own: POSIX locks do not exclude connections of one process from each other the way
//! they exclude strangers, and only another process can be killed.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use holdfast_store_sqlite::{Database, Hold};
use rusqlite::Connection;

const ROLE: &str = "SQLITE_TEST_ROLE";
const DATABASE: &str = "SQLITE_TEST_DATABASE";

/// Both journal families.
pub const MODES: [&str; 2] = ["wal", "delete"];

/// A folder without links in its path, and an application's database of that journal mode in it, closed.
pub fn database(mode: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap().join("app.db");
    let app = Connection::open(&path).unwrap();
    let now: String = app.query_row(&format!("PRAGMA journal_mode = {mode}"), (), |row| row.get(0)).unwrap();
    assert_eq!(now, mode);
    app.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b); CREATE INDEX i ON t(b)").unwrap();
    app.execute("WITH n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 500) INSERT INTO t SELECT x, hex(randomblob(200)) FROM n", ()).unwrap();
    app.close().unwrap();
    (dir, path)
}

pub fn hold(path: &Path) -> Hold {
    Database::open(path)
        .unwrap()
        .hold(Instant::now() + Duration::from_secs(10), &AtomicBool::new(false))
        .unwrap()
}

/// Tries to write once, from another process, without waiting: `ok` or `busy`.
pub fn write(path: &Path) -> String {
    Helper::start("write", path).says()
}

/// Counts the rows from another process.
pub fn read(path: &Path) -> String {
    Helper::start("read", path).says()
}

/// Copies the database with its `-wal` and `-journal` into `folder`, from another process.
pub fn cut(path: &Path, folder: &Path) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    for suffix in ["", "-wal", "-journal"] {
        let from = with_suffix(path, suffix);
        if from.exists() {
            let status = Command::new("cp").arg(&from).arg(folder).status().unwrap();
            assert!(status.success());
        }
    }
    folder.join(path.file_name().unwrap())
}

pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Another process; killed when dropped.
pub struct Helper {
    child: Child,
    words: BufReader<ChildStderr>,
}

impl Helper {
    pub fn start(role: &str, path: &Path) -> Self {
        Self::command(&std::env::current_exe().unwrap(), role, path, |_| ())
    }

    pub fn command(program: &Path, role: &str, path: &Path, adjust: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(program);
        command
            .args(["--exact", "common::helper_process", "--ignored", "--nocapture"])
            .env(ROLE, role)
            .env(DATABASE, path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        adjust(&mut command);
        let mut child = command.spawn().unwrap();
        let words = BufReader::new(child.stderr.take().unwrap());
        Self { child, words }
    }

    /// The next thing it says.
    pub fn says(&mut self) -> String {
        let mut line = String::new();
        self.words.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it end by itself.
    pub fn finish(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::print_stderr, reason = "how a helper process answers")]
fn say(word: &str) {
    eprintln!("{word}");
}

fn wait_for_the_end() {
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

const INSERT: &str = "INSERT INTO t(b) VALUES(hex(randomblob(100)))";

#[test]
#[ignore = "the other process of the other tests"]
fn helper_process() {
    let role = std::env::var(ROLE).expect("started by another test");
    let path = PathBuf::from(std::env::var_os(DATABASE).expect("started by another test"));
    let application = || {
        let connection = Connection::open(&path).unwrap();
        connection.busy_timeout(Duration::ZERO).unwrap();
        connection
    };
    match role.as_str() {
        "write" => match application().execute(INSERT, ()) {
            Ok(_) => say("ok"),
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => say("busy"),
            Err(e) => say(&e.to_string()),
        },
        "read" => {
            let rows: i64 = application().query_row("SELECT count(*) FROM t", (), |row| row.get(0)).unwrap();
            say(&rows.to_string());
        }
        "hold" => {
            let hold = hold(&path);
            say("held");
            wait_for_the_end();
            hold.release().unwrap();
        }
        "saturate" => {
            let connection = application();
            let mut said = false;
            loop {
                if connection.execute(INSERT, ()).is_ok() && !said {
                    say("writing");
                    said = true;
                }
            }
        }
        "idle" => {
            let connection = application();
            connection.query_row("SELECT count(*) FROM t", (), |row| row.get::<_, i64>(0)).unwrap();
            say("idle");
            wait_for_the_end();
        }
        "exclusive" => {
            let connection = application();
            connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE").unwrap();
            connection.execute(INSERT, ()).unwrap();
            say("exclusive");
            wait_for_the_end();
        }
        "leave-wal" => {
            let connection = application();
            connection.execute_batch("PRAGMA wal_autocheckpoint = 0").unwrap();
            for _ in 0..200 {
                connection.execute(INSERT, ()).unwrap();
            }
            say("left");
            // Without closing, as an application ended by a signal.
            std::process::exit(0);
        }
        "leave-journal" => {
            let connection = application();
            connection
                .execute_batch("PRAGMA cache_size = 2; BEGIN; UPDATE t SET b = 'lost'; DELETE FROM t")
                .unwrap();
            say("left");
            std::process::exit(0);
        }
        "open" => say(&match Database::open(&path) {
            Ok(_) => "opened".to_owned(),
            Err(e) => format!("{e:?}").split([' ', '{']).next().unwrap_or_default().to_owned(),
        }),
        other => panic!("no role {other}"),
    }
}

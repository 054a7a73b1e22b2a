//! For tests: a database, and an application that uses it from a process of its own.
//!
//! It has to be another process: SQLite's locks do not exclude the process that owns them, and a descriptor closed by
//! mistake would drop them without this process noticing.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rusqlite::Connection;

const DATABASE: &str = "HOLDFAST_TEST_DATABASE";

/// A new database with one table, in that journal mode. The connection stays open.
pub(crate) fn database(path: &Path, mode: &str) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.pragma_update(None, "journal_mode", mode).unwrap();
    connection.execute_batch("CREATE TABLE entry (text TEXT NOT NULL)").unwrap();
    connection
}

/// How many rows a copy has.
pub(crate) fn rows(path: &Path) -> i64 {
    Connection::open(path).unwrap().query_row("SELECT count(*) FROM entry", (), |row| row.get(0)).unwrap()
}

/// The application, in a process of its own.
pub(crate) struct Application {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Application {
    pub(crate) fn start(database: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sqlite::testing::the_application", "--nocapture"])
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Runs one statement there; whether the database let it.
    pub(crate) fn can(&mut self, sql: &str) -> bool {
        writeln!(self.input, "{sql}").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the application ended");
            match line.trim_end().rsplit_once("=> ") {
                Some((_, "done")) => return true,
                Some((_, "busy")) => return false,
                Some((_, other)) => panic!("{sql}: {other}"),
                None => {}
            }
        }
    }

    /// Writes one row; whether the database let it.
    pub(crate) fn writes(&mut self) -> bool {
        self.can("INSERT INTO entry VALUES ('x')")
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Does nothing unless [`Application::start`] started it.
#[test]
fn the_application() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(std::time::Duration::ZERO).unwrap();
    for line in std::io::stdin().lines() {
        match connection.execute_batch(&line.unwrap()) {
            Ok(()) => println!("=> done"),
            Err(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => println!("=> busy"),
            Err(e) => println!("=> {e}"),
        }
    }
}

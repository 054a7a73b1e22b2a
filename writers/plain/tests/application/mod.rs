//! An application on SQLite, in a process of its own: SQLite's locks do not keep out the process that has them, and the
//! kit, which copies files in the test's process, would drop them by closing one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use holdfast_writer_api::testkit::FixtureError;
use rusqlite::Connection;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Names the database to the process.
const DATABASE: &str = "HOLDFAST_TEST_DATABASE";
/// Begins its answers; the test harness prints lines of its own.
const ANSWER: &str = "=> ";

/// The running application. Dropping it ends the process.
pub struct Application {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Application {
    /// Starts it, and waits until it has opened `database`. `test` is the hidden test of this executable that calls [`serve`].
    pub async fn start(database: &Path, test: &str) -> Result<Self, FixtureError> {
        let failed = |error: std::io::Error| FixtureError::failed("start the application", &error);
        let mut child = Command::new(std::env::current_exe().map_err(failed)?)
            .args([test, "--exact", "--ignored", "--nocapture"])
            .env(DATABASE, database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(FixtureError::because("start the application", "it has no pipes"));
        };
        let mut application = Self { child, input, output: BufReader::new(output) };
        // SQLite opens a file when it is first read.
        application.finds("SELECT name FROM sqlite_schema").await?;
        Ok(application)
    }

    /// Runs `sql`, which waits for a lock for at most `patience`; `false` if it was still locked then.
    pub async fn runs(&mut self, sql: &str, patience: Duration) -> Result<bool, FixtureError> {
        match self.ask(&format!("run {} {sql}", patience.as_millis())).await?.as_str() {
            "done" => Ok(true),
            "busy" => Ok(false),
            other => Err(FixtureError::because("write", other)),
        }
    }

    /// The first column of what `sql` finds.
    pub async fn finds(&mut self, sql: &str) -> Result<Vec<String>, FixtureError> {
        let answer = self.ask(&format!("find {sql}")).await?;
        match answer.strip_prefix("found:") {
            Some(rows) => Ok(rows.split(',').filter(|row| !row.is_empty()).map(str::to_owned).collect()),
            None => Err(FixtureError::because("read", answer)),
        }
    }

    /// Closes the database, and waits for the end of the process.
    pub async fn stop(mut self) -> Result<(), FixtureError> {
        drop(self.input);
        let ended = self.child.wait().await;
        ended.map(drop).map_err(|error| FixtureError::failed("stop the application", &error))
    }

    async fn ask(&mut self, request: &str) -> Result<String, FixtureError> {
        let failed = |error: std::io::Error| FixtureError::failed("speak to the application", &error);
        self.input.write_all(format!("{request}\n").as_bytes()).await.map_err(failed)?;
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).await.map_err(failed)? == 0 {
                return Err(FixtureError::because("speak to the application", "it has ended"));
            }
            if let Some((_, answer)) = line.trim_end().split_once(ANSWER) {
                return Ok(answer.to_owned());
            }
        }
    }
}

/// The application itself; does nothing unless [`Application::start`] started it.
#[expect(clippy::print_stdout, reason = "how it answers")]
pub fn serve() {
    let Some(path) = std::env::var_os(DATABASE) else { return };
    let database = Connection::open(path).unwrap();
    for request in std::io::stdin().lines() {
        println!("{ANSWER}{}", answer(&database, &request.unwrap()));
    }
}

fn answer(database: &Connection, request: &str) -> String {
    let done = match request.split_once(' ') {
        Some(("run", rest)) => {
            let (patience, sql) = rest.split_once(' ').unwrap();
            database.busy_timeout(Duration::from_millis(patience.parse().unwrap())).unwrap();
            database.execute_batch(sql).map(|()| "done".to_owned())
        }
        Some(("find", sql)) => database.prepare(sql).and_then(|mut query| {
            let rows = query.query_map((), |row| row.get::<_, String>(0))?;
            Ok(format!("found:{}", rows.collect::<Result<Vec<_>, _>>()?.join(",")))
        }),
        _ => return format!("not understood: {request}"),
    };
    done.unwrap_or_else(|error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DatabaseBusy) => "busy".into(),
        _ => error.to_string(),
    })
}

//! `--stop`: runs the configured stop commands, each with a deadline, and reports each.

use std::io::{Read, Seek};
use std::process::Stdio;
use std::time::Duration;

use serde::Serialize;
use tokio::process::Command;

use crate::config::WriterCommon;
use crate::repository::SECRET_VARIABLES;

/// How long one command may take: as long as systemd gives a unit by default, and some.
const LIMIT: Duration = Duration::from_secs(120);
/// How much of what it says is kept.
const MAX_OUTPUT: u64 = 2048;

/// What a stop command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StopReport {
    /// Whose application.
    pub writer: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// `ok`, or how it failed.
    pub result: String,
    /// Whether it ended with 0.
    pub ok: bool,
}

/// Runs the stop commands of `writer` in order. One that fails does not keep the next from running: whether the
/// application is down is asked afterwards.
pub(super) async fn stop(
    writer: &str,
    common: &WriterCommon,
    note: &(dyn Fn(&str) + Sync),
) -> Vec<StopReport> {
    let mut reports = Vec::new();
    for command in &common.stop {
        let (ok, result) = match run(command, LIMIT).await {
            Ok(()) => (true, "ok".to_owned()),
            Err(why) => (false, why),
        };
        note(&format!("`{}`: {result}", command.join(" ")));
        reports.push(StopReport { writer: writer.to_owned(), command: command.clone(), result, ok });
    }
    reports
}

async fn run(command: &[String], limit: Duration) -> Result<(), String> {
    let Some((program, arguments)) = command.split_first() else { return Err("it names no program".into()) };
    // A file and no pipe: a daemon that the command leaves behind must not keep us waiting for its end.
    let mut said = tempfile::tempfile().map_err(|error| format!("no room for its output: {error}"))?;
    let errors = said.try_clone().map_err(|error| format!("no room for its output: {error}"))?;
    let mut command = Command::new(program);
    for secret in SECRET_VARIABLES {
        command.env_remove(secret);
    }
    let mut child = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let status = match tokio::time::timeout(limit, child.wait()).await {
        Ok(status) => status.map_err(|error| format!("cannot be waited for: {error}"))?,
        Err(_) => return Err(format!("did not end within {} s and was ended", limit.as_secs())),
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    // What it said is a help, and may be missing.
    let _ = said.rewind().and_then(|()| said.take(MAX_OUTPUT).read_to_end(&mut text));
    let said = String::from_utf8_lossy(&text);
    Err(match said.trim() {
        "" => format!("failed: {status}"),
        said => format!("failed: {status}: {said}"),
    })
}

#[cfg(test)]
mod stop_tests {
    use super::*;

    #[tokio::test]
    async fn a_command_that_fails_hangs_or_is_missing_is_told_and_the_next_one_runs() {
        let command = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let common = WriterCommon {
            stop: vec![
                command(&["sh", "-c", "echo no unit >&2; exit 3"]),
                command(&["/no/such"]),
                command(&["true"]),
            ],
            ..WriterCommon::default()
        };
        let reports = stop("w", &common, &|_| {}).await;
        let results: Vec<_> = reports.iter().map(|report| (report.ok, report.result.as_str())).collect();
        assert_eq!(results[0], (false, "failed: exit status: 3: no unit"));
        assert!(!results[1].0 && results[1].1.starts_with("cannot be started"), "{results:?}");
        assert_eq!(results[2], (true, "ok"));
        let hung = run(&command(&["sleep", "60"]), Duration::from_millis(20)).await;
        assert!(hung.unwrap_err().starts_with("did not end"));
    }
}

//! The command line of `holdfast-test-writer`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use holdfast_writer_api::chain;
use holdfast_writer_api::protocol::socket_on_stdin;
use serde_json::json;

use crate::script::{ACTIONS, Script, phases};
use crate::{journal, misbehave, rules};

/// The journal shows what a requester may not do.
const EXIT_VIOLATIONS: u8 = 7;
/// The command line, or a script, is wrong.
const EXIT_USAGE: u8 = 2;

/// A scripted writer that tests requesters. Without a command it is a writer: a requester starts it, with a socket as
/// standard input.
#[derive(Debug, Parser)]
#[command(name = "holdfast-test-writer", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says what the requester did wrong, by what the journal tells; exits 7 if it did
    Check {
        /// The journal that the writers kept
        journal: PathBuf,
        /// One JSON document instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Reads a script as a writer would, and says what is wrong with it
    Script {
        /// The script
        script: PathBuf,
    },
    /// Prints the rules that `check` knows
    Rules,
    /// Prints the phases and the actions that a script may name
    Words,
    #[command(hide = true)]
    Keep,
}

/// Does what the command line says.
pub fn command_line() -> ExitCode {
    // clap exits with 2 for a wrong command line.
    match Cli::parse().command {
        None => serve(),
        Some(Command::Check { journal, json }) => check(&journal, json),
        Some(Command::Script { script }) => match Script::read(&script) {
            Ok(_) => ExitCode::SUCCESS,
            Err(error) => failed(EXIT_USAGE, &error),
        },
        Some(Command::Rules) => {
            rules::RULES.iter().for_each(|rule| line(format!("R{}  {}", rule.number, rule.must)));
            ExitCode::SUCCESS
        }
        Some(Command::Words) => {
            line(format!("phase: {}", phases().join(" ")));
            line(format!("do:    {}", ACTIONS.join(" ")));
            ExitCode::SUCCESS
        }
        Some(Command::Keep) => misbehave::keep(),
    }
}

fn serve() -> ExitCode {
    let socket = match socket_on_stdin() {
        Ok(socket) => socket,
        Err(error) => return failed(1, &error),
    };
    match crate::serve(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error),
    }
}

fn check(path: &Path, as_json: bool) -> ExitCode {
    let lines = match journal::read(path) {
        Ok(lines) if lines.is_empty() => {
            note(format!("error: {} is empty or not there: nothing was asked of any writer", path.display()));
            return ExitCode::from(1);
        }
        Ok(lines) => lines,
        Err(error) => return failed(1, &error),
    };
    let violations = rules::check(&lines, journal::Process::is_alive);
    if as_json {
        line(json!({"schema": "holdfast.requester-check/1", "lines": lines.len(), "violations": violations}));
    } else {
        for violation in &violations {
            line(violation);
        }
        let conversations = rules::conversations(&lines);
        line(match violations.len() {
            0 => format!("ok: {conversations} conversations, {} rules, nothing wrong", rules::RULES.len()),
            n => format!("{n} violations in {conversations} conversations"),
        });
    }
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_VIOLATIONS) }
}

fn failed(code: u8, error: &dyn std::error::Error) -> ExitCode {
    note(format!("error: {}", chain(error)));
    ExitCode::from(code)
}

fn line(text: impl std::fmt::Display) {
    // A closed pipe (`| head`) is no failure of ours.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

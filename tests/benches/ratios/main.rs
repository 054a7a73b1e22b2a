//! `make bench`: Holdfast against the bare calls and against stock restic, as ratios of one run.
//!
//! Owns: which measurements are run and where the table goes. Each measurement has a file of its own.
//! No test: nothing fails here because a machine is slow; a goal that is missed says so in the table.
//!
//! ```text
//! ratios [--write FILE] [window] [throughput] [barrier] [protocol]     all of them without a name
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]

mod bare;
mod barrier;
mod error;
mod machine;
mod measured;
mod no_op;
mod protocol;
mod stats;
mod throughput;
mod tree;
mod window;

use std::{env, fmt::Write as _, fs, path::PathBuf, process::ExitCode};

use error::BenchError;

/// How this program starts itself as a writer's process.
pub const SERVE: &str = "--serve-no-op-writer";
/// How this program starts itself to make a repository.
pub const INIT: &str = "--init";
/// How this program starts itself to restore, so that the memory measured is that of the restore alone.
pub const RESTORE: &str = "--restore";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let result = match arguments.first().map(String::as_str) {
        Some(SERVE) => no_op::serve(),
        Some(INIT) => throughput::init_child(&arguments[1..]),
        Some(RESTORE) => throughput::restore_child(&arguments[1..]),
        _ => run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", holdfast_writer_api::chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), BenchError> {
    let mut write_to = None;
    let mut chosen = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "--write" => write_to = rest.next().map(PathBuf::from),
            name if SECTIONS.iter().any(|(known, _)| *known == name) => chosen.push(name),
            other => return Err(BenchError::Usage { argument: other.to_owned() }),
        }
    }
    let mut text = String::from(HEAD);
    text += &machine::describe();
    print!("{text}");
    for (name, section) in SECTIONS {
        if chosen.is_empty() || chosen.contains(&name) {
            let section = section()?;
            print!("\n{section}");
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{section}");
        }
    }
    match write_to {
        Some(path) => fs::write(&path, text).map_err(BenchError::io(format!("write {}", path.display()))),
        None => Ok(()),
    }
}

type Section = fn() -> Result<String, BenchError>;

const SECTIONS: [(&str, Section); 4] = [
    ("window", window::run),
    ("throughput", throughput::run),
    ("barrier", barrier::run),
    ("protocol", protocol::run),
];

const HEAD: &str = "\
# Benchmarks

Written by `make bench` (root, for the loop volume). All sides of a comparison run in turn, in one run, on the same
volume and under the same load; what counts is the ratio. Numbers are medians, with the range from the 10th to the 90th
percentile in parentheses.

";

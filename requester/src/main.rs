//! The `holdfast` command: the only part that prints, exits or reads the environment.

mod cli;

// The built-in writers. Without these lines they are not linked and the list is empty, silently.
use holdfast_writer_certificate_authority as _;
use holdfast_writer_plain as _;

fn main() -> std::process::ExitCode {
    cli::run()
}

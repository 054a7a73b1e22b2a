//! A requester of one's own: all of the `holdfast` command, with the writers that are linked here.

use guestbook_writer as _; // without this line it is not linked, silently
fn main() -> std::process::ExitCode {
    holdfast::cli::run()
}

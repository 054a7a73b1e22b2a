//! Any script as a writer: `holdfast writer shell SCRIPT`, for applications that two commands hold and release.
//!
//! Owns: that what `SCRIPT freeze` began is undone by `SCRIPT thaw`, whoever dies in between (promise P1). A process has
//! no destructor that survives SIGKILL, and a script's hold (a stopped service, a database told to wait) is nothing that
//! the kernel releases. So a *guardian* runs both: a process in a session of its own, that waits for the end of a
//! socket. That end means thaw. A guardian that is killed is replaced by its writer at once; only who kills both at one
//! moment leaves the application held, and then the requester sees that and says so.

mod describe;
mod guardian;
mod link;
mod script;
mod voice;
mod writer;

use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use holdfast_writer_api::WriterError;
use holdfast_writer_api::protocol::{Program, ServeError, serve_with, socket_on_stdin};

use crate::config::check_trusted;
use link::{Link, Starter};
use script::Script;

/// Serves `script` as a writer of whatever type is asked for, to the requester on standard input.
///
/// `starter` makes the command that runs [`guard`] for this script.
///
/// # Errors
/// [`ServeError`]; whatever was held is being released by then.
pub fn serve(script: &Path, starter: impl Fn() -> Command + Send + Sync + 'static) -> Result<(), ServeError> {
    let trusted = check_trusted(script);
    let script = Script::at(script);
    // First of all: what is started from here on must not have the requester's socket.
    let socket = socket_on_stdin()?;
    let starter: Starter = Arc::new(starter);
    let link = Link::start(&starter).map_err(ServeError::NoSocket)?;
    let program = Program::new(script.name(), env!("CARGO_PKG_VERSION")).guarded_by(link.guardian());
    let link = Arc::new(Mutex::new(link));
    serve_with(program, socket, |hello| match &trusted {
        Ok(()) => writer::build(&script, &link, hello),
        Err(untrusted) => Err(WriterError::rejected(hello.id, format!("the script {untrusted}"))),
    })
}

/// The guardian of `script`, for a process of its own with the socket as standard input. Returns when nothing is held.
pub fn guard(script: &Path) -> ExitCode {
    guardian::run(Script::at(script))
}

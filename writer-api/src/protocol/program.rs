//! A whole program of a writer: what stands between its descriptor and a `main`.

use std::io::Write;
use std::process::ExitCode;

use super::server::{Program, ServeError, serve, socket_on_stdin};
use crate::{Registry, WriterDescriptor, chain};

/// Serves the writer of `descriptor` to the requester that started this process, until it is done. For a `main`, and
/// nothing else: the process ends with it. [`program!`](crate::program) writes that `main`.
///
/// Exit code 0: the requester hung up. 1: the conversation broke off; whatever was held is released. 2: no requester
/// started this process.
pub fn main(descriptor: &'static WriterDescriptor, program: Program) -> ExitCode {
    // Standard output is nobody's; what is said on standard error is in the session's event log.
    let say = |text: &str| drop(writeln!(std::io::stderr(), "{}: {text}", program.name));
    let mut registry = Registry::empty();
    // It is the only one, and so no duplicate.
    let _ = registry.register(descriptor);
    let served =
        socket_on_stdin().and_then(|socket| serve(&registry, program.clone(), descriptor.name, socket));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ ServeError::NoSocket(_)) => {
            say(&chain(&error));
            say("it is a writer, and started by whoever makes backups: docs/writing-a-writer.md");
            ExitCode::from(2)
        }
        Err(error @ (ServeError::UnknownType { .. } | ServeError::Frame(_))) => {
            say(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// A whole program of a writer, in one line: defines `main`.
///
/// The program bears the name and version of the crate it stands in. Installed as `/etc/holdfast/writers/NAME`, NAME
/// being the descriptor's, it is the writer of that type.
///
/// ```no_run
/// # mod my_writer {
/// #     use holdfast_writer_api::*;
/// #     fn build(_: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> { unimplemented!() }
/// #     pub const MY_WRITER: WriterDescriptor = WriterDescriptor { name: "null", summary: "", build };
/// # }
/// holdfast_writer_api::program!(my_writer::MY_WRITER);
/// ```
#[macro_export]
macro_rules! program {
    ($descriptor:expr) => {
        fn main() -> ::std::process::ExitCode {
            let program = $crate::protocol::Program::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
            $crate::protocol::main(&$descriptor, program)
        }
    };
}

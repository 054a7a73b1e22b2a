//! From the command line to the library and back to a person: the only part that prints, exits or reads the
//! environment.

mod args;
mod backup;
mod config;
mod context;
mod demo;
mod forget;
mod key;
mod list;
mod new;
mod orphans;
mod output;
mod pause;
mod repository;
mod restore;
mod thaw;
mod writer_test;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use clap::Parser;
use holdfast_writer_api::{Registry, protocol};

use args::{Cli, Command, WriterCommand};
use context::Context;

/// Parses, runs, tells, and returns the documented exit code.
#[expect(clippy::wildcard_enum_match_arm, reason = "all but a few commands run on the runtime")]
pub fn run() -> ExitCode {
    // clap exits with 2 for a wrong command line, as documented.
    let cli = Cli::parse();
    let context = Context::new(cli.global);
    start_log(context.global.verbose);
    let done = match cli.command {
        // A writer's process has a runtime of its own, and no other threads.
        Command::Writer(WriterCommand::Serve { r#type }) => serve(&r#type),
        Command::Writer(WriterCommand::Shell { script }) => shell(&script),
        Command::Writer(WriterCommand::Guard { script }) => return crate::shell::guard(&script),
        Command::Writer(WriterCommand::New(args)) => new::run(&context, &args),
        Command::Thaw { all: _ } => thaw::thaw_all(&context).map(|()| Exit::Ok),
        Command::DemoApp { name, dir } => demo::app(&name, &dir),
        command @ Command::Writer(WriterCommand::Test(_)) => {
            match orphans::supervised(|| told(&context, on_a_runtime(&context, command))) {
                Ok(code) => return code,
                Err(error) => {
                    Err(Failure::new(Exit::Failed, "the test cannot be started", error, NOTHING_CHANGED))
                }
            }
        }
        command => on_a_runtime(&context, command),
    };
    told(&context, done)
}

fn on_a_runtime(context: &Context, command: Command) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Failed, "the runtime cannot be started", error, NOTHING_CHANGED)
    })?;
    let done = runtime.block_on(dispatch(context, command));
    // A worker that is stuck in the kernel must not keep a tired person waiting.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}

fn told(context: &Context, done: Result<Exit, Failure>) -> ExitCode {
    match done {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(failure) => {
            context.output.failure(&failure, &context.last_words(&failure));
            ExitCode::from(failure.exit as u8)
        }
    }
}

async fn dispatch(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Demo(args) => demo::run(context, args).await,
        Command::List(what) => list::run(context, what).await.map(|()| Exit::Ok),
        Command::Backup(args) => backup::run(context, args).await,
        Command::Restore(command) => restore::run(context, command).await,
        Command::Recover { writer, roll_back, assume_stopped } => {
            restore::recover(context, writer.as_deref(), roll_back, assume_stopped).await
        }
        Command::Verify { set, quick } => repository::verify(context, &set, quick).await,
        Command::Forget(args) => forget::run(context, args).await,
        Command::Prune { dry_run } => repository::prune(context, dry_run).await,
        Command::Gc => thaw::gc(context).await.map(|()| Exit::Ok),
        Command::Config(command) => config::run(context, command).await.map(|()| Exit::Ok),
        Command::Key(command) => key::run(context, command).await.map(|()| Exit::Ok),
        Command::Writer(WriterCommand::Test(args)) => writer_test::run(context, args).await,
        // Done before there is a runtime.
        Command::Thaw { .. } | Command::Writer(_) | Command::DemoApp { .. } => Ok(Exit::Ok),
    }
}

fn no_place(error: protocol::ServeError) -> Failure {
    Failure::new(Exit::Usage, "this is no place to serve a writer", error, NOTHING_CHANGED)
        .help("`holdfast backup` starts writers itself; they get a socket as standard input")
}

fn shell(script: &std::path::Path) -> Result<Exit, Failure> {
    let of = script.to_owned();
    let guardian = move || {
        // This very program, also if an update has put another one in its place meanwhile; and not by its name: whoever
        // ends all processes that are called so does not mean to leave an application held.
        let mut guardian = std::process::Command::new("/proc/self/exe");
        guardian.arg0("thaw-guardian").args(["writer", "guard"]).arg(&of);
        guardian
    };
    crate::shell::serve(script, guardian).map_err(no_place)?;
    Ok(Exit::Ok)
}

fn serve(writer_type: &str) -> Result<Exit, Failure> {
    let registry = Registry::linked()?;
    let program = protocol::Program::new("holdfast", env!("CARGO_PKG_VERSION"));
    protocol::socket_on_stdin()
        .and_then(|socket| protocol::serve(&registry, program, writer_type, socket))
        .map_err(no_place)?;
    Ok(Exit::Ok)
}

fn start_log(verbose: u8) {
    use tracing_subscriber::{EnvFilter, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt};
    let default = match verbose {
        0 => "error",
        1 => "holdfast=debug,warn",
        _ => "debug",
    };
    let filter = EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .finish()
        // What signs requests to object stores logs the secret it signs with (promise P9): not to be asked for.
        .with(filter_fn(|event| !event.target().starts_with("reqsign")))
        .try_init();
}

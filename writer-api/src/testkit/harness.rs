//! The kit inside a crate's own tests.

use std::future::Future;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;

use super::bench::Limits;
use super::fixture::{Fixture, FixtureError, SERVE};
use super::outcome::Outcome;
use super::rules::rule;
use super::run::{Fixtures, check_with};
use crate::Registry;
use crate::protocol::{Launcher, Program, serve};

/// A function that starts a fixture.
struct Starting<S> {
    start: S,
    /// What is not installed here.
    missing: Mutex<Option<String>>,
}

#[async_trait]
impl<S, W, F> Fixtures for Starting<S>
where
    S: Fn() -> W + Send + Sync,
    W: Future<Output = Result<F, FixtureError>> + Send,
    F: Fixture + 'static,
{
    async fn start(&self) -> Result<Box<dyn Fixture>, FixtureError> {
        let started = (self.start)().await;
        if let (Err(FixtureError::Missing { what }), Ok(mut missing)) = (&started, self.missing.lock()) {
            *missing = Some(what.clone());
        }
        Ok(Box::new(started?))
    }
}

/// Checks one rule; what [`crate::conformance!`] makes tests of. `module` is where the test stands.
///
/// # Panics
/// The rule is broken, or was not checked. What the fixture needs is only allowed to be missing outside of CI.
pub fn assert_rule<S, W, F>(name: &str, start: S, module: &str)
where
    S: Fn() -> W + Send + Sync,
    W: Future<Output = Result<F, FixtureError>> + Send,
    F: Fixture + 'static,
{
    let rule = rule(name).unwrap_or_else(|| panic!("there is no rule `{name}`"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap_or_else(|error| panic!("no runtime can be started: {error}"));
    let fixtures = Starting { start, missing: Mutex::new(None) };
    let checked = runtime.block_on(check_with(rule, &fixtures, Some(&host(module)), Limits::default()));
    // A thread that reads what nobody writes any more keeps nobody waiting.
    runtime.shutdown_timeout(Duration::from_secs(2));
    if let Ok(Some(what)) = fixtures.missing.into_inner() {
        assert!(std::env::var_os("CI").is_none(), "{what} must be installed in CI");
        return skipped(&what);
    }
    match checked.outcome {
        Outcome::Ok { .. } | Outcome::NotApplicable { .. } => {}
        // A test cannot pass by not running.
        Outcome::Failed { .. } | Outcome::Blocked { .. } | Outcome::NotChecked { .. } => {
            panic!("\n{}", checked.text())
        }
    }
}

#[expect(clippy::print_stderr, reason = "a test that was skipped says so")]
fn skipped(what: &str) {
    eprintln!("skipped: {what} is not installed");
}

/// This test executable, as the process of the writers that are linked into it.
fn host(module: &str) -> Launcher {
    let own = std::env::current_exe().unwrap_or_else(|error| panic!("this test cannot find itself: {error}"));
    // A test's name does not begin with its crate's.
    let inside = module.split_once("::").map_or_else(String::new, |(_, inside)| format!("{inside}::"));
    Launcher::new(own, [&*format!("{inside}writer_process"), "--exact", "--ignored", "--nocapture"])
}

/// Serves a linked writer on standard input, if the arguments of this process name one. Else it does nothing: then
/// somebody runs ignored tests.
pub fn serve_writer() {
    let arguments: Vec<String> = std::env::args().collect();
    let Some(name) = arguments.iter().find_map(|argument| argument.strip_prefix(SERVE)) else { return };
    let registry = Registry::linked().unwrap_or_else(|error| panic!("{error}"));
    let socket = std::io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.unwrap_or_else(|error| panic!("there is no standard input: {error}"));
    if let Err(error) = serve(&registry, Program::new("conformance", env!("CARGO_PKG_VERSION")), name, socket)
    {
        panic!("{}", crate::chain(&error));
    }
}

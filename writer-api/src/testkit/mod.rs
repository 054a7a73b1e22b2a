//! The conformance kit: checks every rule for writers on an application that it watches.
//!
//! A rule is a MUST sentence with a number that it keeps: `docs/writer-rules.md` has them all, with their reasons. A check
//! believes the application, which a [`Fixture`] shows it, and never the writer's word. The writer always runs in a
//! process of its own, so that death and closed sockets are real.
//!
//! In a crate with a writer, as `tests/conformance.rs`, with this crate's feature `testkit` as a dev-dependency:
//!
//! ```ignore
//! struct Shop { /* the application, running */ }
//!
//! #[async_trait::async_trait]
//! impl holdfast_writer_api::testkit::Fixture for Shop { /* … */ }
//!
//! holdfast_writer_api::conformance!(Shop::start);
//! ```
//!
//! For a writer in any language, `holdfast writer test PROGRAM --fixture FIXTURE` does the same;
//! [`ProgramFixtures`] says what a FIXTURE is.
//!
//! Owns: the rules, the order of calls that shows each of them, the report.
//! Leaves to others: what a write is, and what an application has (the fixture).

mod bench;
mod checks;
mod declared;
mod fixture;
mod harness;
mod keyring;
mod outcome;
mod program;
mod report;
mod rules;
mod run;
mod steps;
mod talk;

pub use bench::Limits;
pub use fixture::{Fixture, FixtureError, Poke, Subject, below};
pub use harness::{assert_rule, serve_writer};
pub use outcome::Outcome;
pub use program::{ProgramFixtures, Without};
pub use report::{Checked, REPORT_SCHEMA, Report, Writer};
pub use rules::{Level, Part, RULES, Rule, rule};
pub use run::{Fixtures, check};
pub use steps::Step;

/// Makes one `#[test]` of every rule, named after its check, and the hidden one that serves a linked writer.
///
/// Takes an async function without arguments that starts the fixture: `async fn start() -> Result<Shop, FixtureError>`.
/// Two of them in one file belong in a module each.
#[macro_export]
macro_rules! conformance {
    ($start:expr) => {
        #[test]
        #[ignore = "the writer's process of the other tests"]
        fn writer_process() {
            $crate::testkit::serve_writer();
        }

        $crate::__each_check! { [$crate::__conformance_tests] $start }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ([$($check:ident,)*], $start:expr) => {
        $(
            #[test]
            fn $check() {
                $crate::testkit::assert_rule(stringify!($check), $start, module_path!());
            }
        )*
    };
}

//! The test writer: the mirror of the conformance kit. A writer that is driven by a script, and tests *requesters*.
//!
//! [`script`] is what it is told, [`serve()`] plays it, [`journal`] is what it saw, and [`rules`] is what a requester
//! must have done for that journal to be right. `docs/test-writer.md` is the manual.
//!
//! It speaks the protocol on the plain socket and not through the contract's server: a writer that breaks the protocol
//! cannot be built from a server that keeps it.

mod application;
mod hold;
pub mod journal;
mod misbehave;
mod program;
pub mod rules;
pub mod script;
mod seen;
mod serve;
mod sound;
mod wire;

pub use program::command_line;
pub use serve::{ServeError, serve};

//! The plugin protocol: a writer in a process of its own, spoken to over the socket it gets as stdin.
//!
//! Varlink on the wire (`docs/decisions/0001-own-varlink-framing.md` says why the framing is ours):
//! one JSON object a message, ended by a NUL byte; a call is `{"method", "parameters"}`, an answer
//! `{"parameters"}` or `{"error", "parameters"}`. One call at a time; the requester never sends a second one
//! before the answer to the first. A closed socket means: release everything and end.
//!
//! `io.holdfast.Writer.varlink` beside this crate's manifest is the interface; `docs/plugin-protocol.md` has the
//! rest. [`RemoteWriter`] is the requester's side, [`serve`] the writer's. Both stand on the same messages,
//! which are public for whoever wants to speak the protocol otherwise: a test, or another requester.

mod client;
mod codec;
mod conversation;
mod descriptors;
mod dispatch;
mod group;
mod guard;
mod guardian;
mod launcher;
pub mod message;
mod proc;
mod process;
mod program;
mod said;
mod server;
mod text;
mod version;
pub mod wire;

#[cfg(test)]
mod interface_tests;

pub use client::RemoteWriter;
pub use codec::{Decoder, FrameError, MAX_MESSAGE_BYTES, encode, read, write};
pub use launcher::{Launcher, dies_with_us};
pub use message::{Call, DESCRIPTORS, Hello, HelloReply};
pub use program::main;
pub use said::{Said, SaidLine};
pub use server::{Program, ServeError, serve, serve_with, socket_on_stdin};
pub use text::shown;
pub use version::{NoVersion, Version};

// The conformance kit does to a writer's process what a requester does not: it kills it, and hangs up on it.
#[cfg(feature = "testkit")]
pub(crate) use process::Process;

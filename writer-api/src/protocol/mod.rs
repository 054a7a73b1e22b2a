//! The plugin protocol: a writer in a process of its own, spoken to over the socket it gets as stdin.
//!
//! Varlink on the wire (`docs/decisions/0001-own-varlink-framing.md` says why the framing is ours):
//! one JSON object a message, ended by a NUL byte; a call is `{"method", "parameters"}`, an answer
//! `{"parameters"}` or `{"error", "parameters"}`. One call at a time; the requester never sends a second one
//! before the answer to the first. A closed socket means: release everything and end.

mod client;
mod codec;
mod message;
mod server;

pub use client::{Launcher, RemoteWriter};
pub use codec::{FrameError, MAX_MESSAGE_BYTES};
pub use message::{Call, Hello, HelloReply, PROTOCOL_VERSION};
pub use server::{ServeError, serve};

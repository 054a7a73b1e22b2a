//! The requester: runs snapshot sets through prepare, freeze, snapshot and thaw, keeps them in a
//! repository, and brings applications back.
//!
//! The `holdfast` command is [`cli::run`] and the writers it is linked with. A requester with writers of your own is
//! the same in three lines:
//!
//! ```no_run
//! # #[allow(unused_imports)] use holdfast as my_writer;
//! use my_writer as _; // a crate that submits a `WriterDescriptor`
//! fn main() -> std::process::ExitCode {
//!     holdfast::cli::run()
//! }
//! ```

pub mod cli;
pub mod config;
pub mod demo;
pub mod failure;
pub mod forget;
pub mod paths;
mod process;
pub mod provider;
pub mod repository;
pub mod restore;
pub mod session;
mod shell;
pub mod volume;
pub mod writers;

//! The repository against stock restic and against a damaged, full or dying storage.

#![allow(clippy::print_stdout, reason = "a test that cannot run here says so")]

#[path = "repository/death.rs"]
mod death;
#[path = "repository/faults.rs"]
mod faults;
#[path = "repository/locks.rs"]
mod locks;
#[path = "repository/prune.rs"]
mod prune;
#[path = "repository/restore.rs"]
mod restore;
#[cfg(feature = "s3")]
#[path = "repository/s3.rs"]
mod s3;
#[path = "repository/sets.rs"]
mod sets;
#[path = "repository/support.rs"]
mod support;

//! The repository against stock restic and against a damaged, full or dying storage.

#![allow(clippy::print_stdout, reason = "a test that cannot run here says so")]

#[path = "repository/faults.rs"]
mod faults;
#[path = "repository/locks.rs"]
mod locks;
#[path = "repository/prune.rs"]
mod prune;
#[path = "repository/restore.rs"]
mod restore;
#[path = "repository/sets.rs"]
mod sets;
#[path = "repository/support.rs"]
mod support;

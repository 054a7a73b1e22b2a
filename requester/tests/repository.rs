//! The repository against stock restic and against a damaged, full or dying storage.

#[path = "repository/sets.rs"]
mod sets;
#[path = "repository/support.rs"]
mod support;

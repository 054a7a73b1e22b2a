//! Whole sessions with writers that fail in every way: everybody is thawed, there is no set, nothing is left.
//!
//! The applications are files under a lock; the tests look at the locks, not at the writers' words.

#[path = "session/failures.rs"]
mod failures;
#[path = "session/sets.rs"]
mod sets;
#[path = "session/shadows.rs"]
mod shadows;
#[path = "session/support.rs"]
mod support;

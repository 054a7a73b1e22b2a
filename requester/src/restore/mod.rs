//! The file-level primitives of a restore: from "the data lie beside the target" to "the data are live".
//!
//! Owns: the durable marker of a restore and its phases, the swap of names, the blocker that keeps the application out
//! in between (P8), the question whether the application is down, space, and where a file goes.
//! Leaves to others: reading the repository, checking components, recovery engines, and what a person sees.
//!
//! # What is on disk
//! ```text
//! <parent>/certs.db                                    live path: old data · blocker · new data
//! <parent>/.holdfast-restore-<short>/new/certs.db      staged data; recovery works here
//! <parent>/.holdfast-restore-<short>/old/certs.db      what was live before
//! <state>/restores/<restore>.json                      the marker, durable before the live path changes
//! ```
//! The **blocker** is the first thing in `old/` and the last in `new/`: it changes places with the live data (so there
//! is no instant without one of them), and later with the new data. Where it lies therefore says how far a unit has
//! come, and that, not a note in the marker, is what a resumed restore believes.

mod blocker;
mod disk;
pub mod engine;
pub mod error;
mod holders;
mod moves;
pub mod offline;
pub mod phase;
pub mod placement;
pub mod plan;
mod probe;
mod proc;
pub mod registration;
mod rollback;
mod site;
pub mod space;
pub mod target;
mod walk;

#[cfg(test)]
mod sweep_tests;

pub use disk::{Identity, Kind};
pub use error::{LiveState, Problem, RestoreError};
pub use offline::{Evidence, Offline, OfflineCheck, Probe};
pub use phase::{Event, Phase};
pub use placement::{About, OldData, Placement, Resumed, Undo};
pub use plan::{Plan, UnitSpec};
pub use registration::{Marker, Registry, Together};
pub use site::{NoSteps, Steps};

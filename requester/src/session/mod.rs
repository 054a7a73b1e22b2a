//! One snapshot session, from the session lock to the stored set. Start reading at [`backup()`].
//!
//! **Invariant:** every path out of a freeze goes through thaw, panics and dropped futures included.
//! **Invariant:** nothing here knows an application by name; that is `writers/`.

pub mod backup;
pub mod barrier;
mod contents;
pub mod events;
pub mod holders;
pub mod leftovers;
pub mod lock;
pub mod member;
mod plan;
pub mod record;
mod said;
mod sealed;
mod shadows;
mod storing;

pub use backup::{BackupOptions, Environment, Made, backup};
pub use contents::stored_path;

#[cfg(test)]
mod testing;

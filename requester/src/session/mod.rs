//! One snapshot session, from the session lock to the stored set. Start reading at [`backup`].
//!
//! **Invariant:** every path out of a freeze goes through thaw, panics and dropped futures included.
//! **Invariant:** nothing here knows an application by name; that is `writers/`.

pub mod barrier;
pub mod events;
pub mod holders;
pub mod lock;
pub mod member;

#[cfg(test)]
mod testing;

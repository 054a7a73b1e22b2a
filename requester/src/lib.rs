//! (see ARCHITECTURE)
pub mod provider;

pub mod volume;

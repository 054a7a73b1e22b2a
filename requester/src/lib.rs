//! (see ARCHITECTURE)

pub mod volume;

//! (see ARCHITECTURE)
pub mod restore;

//! (see ARCHITECTURE)

pub mod repository;

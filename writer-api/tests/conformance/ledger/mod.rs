//! The sample application of the kit's own tests, its writer, and the ways in which that can be broken.

pub mod app;
pub mod defect;
pub mod hold;
pub mod relay;
mod restore;
pub mod writer;

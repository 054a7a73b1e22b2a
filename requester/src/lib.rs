//! The requester: runs snapshot sets through prepare, freeze, snapshot and thaw, keeps them in a
//! repository, and brings applications back.

pub mod config;
pub mod demo;
pub mod failure;
pub mod forget;
pub mod paths;
mod process;
pub mod provider;
pub mod repository;
pub mod restore;
pub mod session;
pub mod volume;
pub mod writers;

//! The engine against a real repository in a scratch folder, with writers in memory.

mod crash;
mod elsewhere;
mod keys;
mod place;
mod storage;
mod support;
mod writer;

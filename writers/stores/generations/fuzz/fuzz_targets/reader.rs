//! `cargo +nightly fuzz run reader` in `writers/stores/generations/`.
#![no_main]

#[path = "../invariants.rs"]
mod invariants;

libfuzzer_sys::fuzz_target!(|data: &[u8]| invariants::check(data));

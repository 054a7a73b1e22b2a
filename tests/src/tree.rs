//! Folders of files: something to back up, and what is found there.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
};

/// Bytes that neither compress nor repeat; the same for the same seed.
#[must_use]
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A folder and everything below it, each folder before what it contains. Links are not followed; what goes away meanwhile
/// is left out, and a folder that is not there has nothing.
#[must_use]
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = VecDeque::from([folder.to_owned()]);
    while let Some(path) = left.pop_front() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            left.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        found.push(path);
    }
    found
}

/// Everything below a folder that is no folder itself, sorted; else as [`walk`].
#[must_use]
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = walk(folder);
    found.retain(|path| path.is_symlink() || !path.is_dir());
    found.sort();
    found
}

/// Whether `wanted` occurs in `bytes`.
#[must_use]
pub fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    let (Some(first), true) = (wanted.first(), bytes.len() >= wanted.len()) else { return false };
    let last = bytes.len() - wanted.len();
    (0..=last).any(|at| bytes[at] == *first && bytes[at..at + wanted.len()] == *wanted)
}

//! A tree of files to back up: the same bytes on every machine and in every run.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use crate::error::BenchError;

/// Files of the tree.
pub const FILES: u64 = 20_000;
const FILES_PER_FOLDER: u64 = 100;

/// Makes the tree below `root`, which exists and is empty; gives its bytes, about 2 GB.
///
/// Every second file is noise, which does not compress; the others are text, which does.
pub fn make(root: &Path) -> Result<u64, BenchError> {
    let mut random = SplitMix(0x5eed);
    let mut total = 0;
    for number in 0..FILES {
        let folder = root.join(format!("{:03}", number / FILES_PER_FOLDER));
        if number % FILES_PER_FOLDER == 0 {
            fs::create_dir(&folder).map_err(BenchError::io("make a folder of the tree"))?;
        }
        let size = size_of(&mut random);
        total += size;
        let content = if number % 2 == 0 { noise(&mut random, size) } else { text(&mut random, size) };
        File::create_new(folder.join(format!("{number:05}")))
            .and_then(|mut file| file.write_all(&content))
            .map_err(BenchError::io("write a file of the tree"))?;
    }
    Ok(total)
}

/// Mostly small, as file servers have it; most bytes are in the few large ones.
fn size_of(random: &mut SplitMix) -> u64 {
    let kib = |from: u64, to: u64, random: &mut SplitMix| (from << 10) + random.below((to - from) << 10);
    match random.below(100) {
        0..60 => kib(1, 16, random),
        60..90 => kib(16, 128, random),
        90..99 => kib(128, 1024, random),
        _ => kib(1024, 4096, random),
    }
}

fn noise(random: &mut SplitMix, size: u64) -> Vec<u8> {
    let mut content = Vec::with_capacity(size as usize + 8);
    while (content.len() as u64) < size {
        content.extend_from_slice(&random.next().to_le_bytes());
    }
    content.truncate(size as usize);
    content
}

fn text(random: &mut SplitMix, size: u64) -> Vec<u8> {
    const WORDS: &[u8] = b"certificate directory freeze snapshot writer requester provider thaw ";
    let mut content = Vec::with_capacity(size as usize + 32);
    while (content.len() as u64) < size {
        let words: Vec<&[u8]> = WORDS.split_inclusive(|byte| *byte == b' ').collect();
        for _ in 0..8 {
            content.extend_from_slice(words[random.below(words.len() as u64) as usize]);
        }
        content.extend_from_slice(format!("{}\n", random.below(1 << 30)).as_bytes());
    }
    content.truncate(size as usize);
    content
}

/// SplitMix64: small, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

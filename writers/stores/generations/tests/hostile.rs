//! The reader against what a stranger may hand it: the checks of the fuzzer, with a generator of our own. The seed is
//! printed; `HOLDFAST_SEED` runs it again.

#[path = "../fuzz/invariants.rs"]
mod invariants;

mod common;

use std::fs;

/// SplitMix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap()
    }
}

/// Numbers that lead to overflows and to large allocations, where anything takes them at their word.
const NUMBERS: [u32; 8] = [0, 1, 2, 0x7fff_ffff, 0x8000_0000, 0xffff_fffe, u32::MAX, 0x0001_0000];

#[test]
fn no_bytes_make_the_reader_panic_or_believe_a_length() {
    let seed = std::env::var("HOLDFAST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(since.subsec_nanos()) ^ since.as_secs()
    });
    println!("HOLDFAST_SEED={seed}");
    let mut random = Random(seed);
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(&common::chain_of(dir.path(), common::CHAIN, 2)[1].path).unwrap();
    invariants::check(&whole);
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes.truncate(at + 1),
                1 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                2 => {
                    let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
                    let end = (at + 4).min(bytes.len());
                    bytes[at..end].copy_from_slice(&number[..end - at]);
                }
                3 => drop(bytes.splice(at..at, whole[..random.below(whole.len())].iter().copied())),
                _ => drop(bytes.drain(at..(at + random.below(600)).min(bytes.len()))),
            }
            if bytes.is_empty() {
                break;
            }
        }
        invariants::check(&bytes);
        // Behind a header whose checksum is right, other parts are reached.
        repair_header(&mut bytes);
        invariants::check(&bytes);
    }
}

fn repair_header(bytes: &mut [u8]) {
    use sha2::{Digest, Sha256};
    let Some(length) = bytes.get(12..16).map(|l| u32::from_le_bytes(l.try_into().unwrap()) as usize) else {
        return;
    };
    if (104..=bytes.len()).contains(&length) {
        let sum = Sha256::digest(&bytes[..length - 16]);
        bytes[length - 16..length].copy_from_slice(&sum[..16]);
    }
}

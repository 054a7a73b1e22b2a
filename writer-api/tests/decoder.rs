//! The decoder against what a stranger may send: the checks of the fuzzer, with a generator of our own. The seed is
//! printed; `HOLDFAST_SEED` runs it again.

#[path = "../fuzz/invariants.rs"]
mod invariants;

use std::time::{Duration, Instant};

/// Messages that are understood, to begin with.
const SEEDS: [&str; 9] = [
    r#"{"method":"io.holdfast.Writer.Hello","parameters":{"protocol":"1.0","id":"w","writer_type":"t","settings":{"a":[1,null]}}}"#,
    r#"{"method":"io.holdfast.Writer.Freeze","parameters":{"set":"00000000-0000-0000-0000-000000000000","budget_ms":900}}"#,
    r#"{"method":"io.holdfast.Writer.Check","parameters":{"roots":[["/a","/b"]],"keys":null}}"#,
    r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.holdfast.Writer"},"oneway":true}"#,
    r#"{"parameters":{"protocol":"1.0","features":["descriptors"],"program":"p"}}"#,
    r#"{"parameters":{"mark":{"position":"7","details":{"a":"b"}}},"continues":true}"#,
    r#"{"error":"io.holdfast.Writer.Rejected","parameters":{"cause":{"message":"m","source":{"message":"n"}}}}"#,
    r#"{"error":"io.holdfast.Writer.PartialFailure","parameters":{"components":{"a/b":{"message":"m"}}}}"#,
    r#"{"parameters":{"keys":[{"component":{"name":"k"},"path":"/k","purpose":"p","fingerprint":"f","proof":{"state":"proved","algorithm":"a"},"mode":384,"uid":0,"gid":0,"sealed":"00ff"}]}}"#,
];

/// Pieces that mean something, to be put anywhere.
const PIECES: [&str; 14] = [
    "\0",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "null",
    "1e999",
    "-1",
    "\u{1b}",
    "\\u0000",
    "18446744073709551616",
    ":",
    ",",
];

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
        (self.next() % limit.max(1) as u64) as usize
    }

    fn stream(&mut self) -> Vec<u8> {
        let mut bytes = vec![self.next() as u8];
        for _ in 0..=self.below(4) {
            bytes.extend_from_slice(SEEDS[self.below(SEEDS.len())].as_bytes());
            bytes.push(0);
        }
        for _ in 0..self.below(8) {
            let at = 1 + self.below(bytes.len() - 1);
            match self.below(5) {
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => drop(bytes.drain(at..(at + 1 + self.below(20)).min(bytes.len()))),
                3 => {
                    let piece = PIECES[self.below(PIECES.len())].repeat(1 + self.below(200));
                    bytes.splice(at..at, piece.into_bytes());
                }
                _ => {
                    let end = at + self.below(bytes.len() - at);
                    let copy = bytes[at..end].to_vec();
                    bytes.extend_from_slice(&copy);
                }
            }
            if bytes.len() < 2 {
                bytes.push(0);
            }
        }
        bytes
    }
}

#[expect(clippy::print_stdout, reason = "whoever sees it fail needs the seed")]
fn run(seed: u64, until: impl Fn(u32) -> bool) {
    let given = std::env::var("HOLDFAST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or(seed);
    println!("HOLDFAST_SEED={seed}");
    let mut random = Random(seed);
    let mut rounds = 0;
    while !until(rounds) {
        let stream = random.stream();
        if std::panic::catch_unwind(|| invariants::check(&stream)).is_err() {
            panic!("round {rounds} of seed {seed}: {:?}", String::from_utf8_lossy(&stream));
        }
        rounds += 1;
    }
    println!("{rounds} streams");
}

#[test]
fn whatever_a_stranger_sends_is_understood_or_refused() {
    for seed in SEEDS {
        invariants::check(format!("\u{1}{seed}\0").as_bytes());
    }
    run(20_240_117, |rounds| rounds == 4000);
}

/// A seed of the day, for some minutes.
#[test]
#[ignore = "make soak"]
fn whatever_a_stranger_sends_is_understood_or_refused_for_minutes() {
    let begun = Instant::now();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    run(now.as_secs(), |_| begun.elapsed() > Duration::from_secs(180));
}

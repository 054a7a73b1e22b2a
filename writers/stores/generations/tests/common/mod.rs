//! A small chain of two databases to begin with.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::{Path, PathBuf};

use holdfast_store_generations::{Database, Generation, GenerationWriter, Kind, LogError, file_name};
use uuid::Uuid;

pub const CHAIN: Uuid = Uuid::from_u128(0x1a2b_3c4d_5e6f_4708_8990_a1b2_c3d4_e5f6);
pub const OTHER: Uuid = Uuid::from_u128(0x77);
pub const T0: u64 = 1_700_000_000_000;

pub fn databases() -> Vec<Database> {
    vec![
        Database { path: "/srv/ca/db.sqlite3".into(), page_size: 512 },
        Database { path: "/srv/ca/ocsp.sqlite3".into(), page_size: 1024 },
    ]
}

/// Two records: one of either database.
pub fn fill(writer: &mut GenerationWriter, now: u64) -> Result<(), LogError> {
    let mut record = writer.record(0, Kind::Transaction, 3, now)?;
    record.page(1, &[u8::try_from(now % 251).unwrap(); 512])?;
    record.page(3, &[0x33; 512])?;
    record.finish()?;
    let mut record = writer.record(1, Kind::Difference, 9, now)?;
    record.page(9, &[0x99; 1024])?;
    record.finish()?;
    Ok(())
}

/// Generations 1 to `count` of `chain`, in `folder`.
pub fn chain_of(folder: &Path, chain: Uuid, count: u32) -> Vec<Generation> {
    let mut all: Vec<Generation> = Vec::new();
    for number in 0..u64::from(count) {
        let now = T0 + number * 1000;
        let mut writer = match all.last() {
            None => GenerationWriter::begin_chain(folder, chain, databases(), now).unwrap(),
            Some(before) => GenerationWriter::follow(folder, before, now).unwrap(),
        };
        fill(&mut writer, now).unwrap();
        all.push(writer.seal(now + 1).unwrap());
    }
    all
}

pub fn named(folder: &Path, number: u32) -> PathBuf {
    folder.join(file_name(number))
}

/// The variant's name.
pub fn variant(error: &LogError) -> String {
    format!("{error:?}").split([' ', '{']).next().unwrap_or_default().to_owned()
}

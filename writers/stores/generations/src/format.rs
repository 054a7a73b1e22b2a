//! The parts of a generation file as bytes: header, head of a record, footer.
//! Owns: layout, limits, and the checks that need nothing but the part itself.
//! Leaves to others: files (`writer`, `reader`) and how generations fit each other (`set`).
//!
//! Little-endian throughout; `docs/format-generations.md` is the description.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// Most databases in one chain.
pub const MAX_DATABASES: usize = 256;
/// Longest path of a database, in bytes.
pub const MAX_PATH_BYTES: usize = 4096;

pub(crate) const MAGIC: [u8; 8] = *b"HOLDFLOG";
pub(crate) const VERSION: u32 = 1;
pub(crate) const RECORD_TAG: [u8; 4] = *b"REC ";
pub(crate) const FOOTER_TAG: [u8; 4] = *b"END ";
/// Before the table of databases.
pub(crate) const FIXED_HEADER_BYTES: usize = 88;
/// A checksum is the beginning of a SHA-256.
pub(crate) const CHECKSUM_BYTES: usize = 16;
/// Tag and all, before the first page.
pub(crate) const RECORD_HEAD_BYTES: usize = 32;
/// After the tag, before the page counts.
pub(crate) const FIXED_FOOTER_BYTES: usize = 36;
const LONGEST_HEADER: usize = FIXED_HEADER_BYTES + MAX_DATABASES * (12 + MAX_PATH_BYTES) + CHECKSUM_BYTES;

/// A database of a chain. Its index is its place in the table.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Database {
    /// Where it was when it was backed up: absolute, at most [`MAX_PATH_BYTES`], not necessarily UTF-8.
    pub path: PathBuf,
    /// Bytes of a page: a power of two, 512 to 65536.
    pub page_size: u32,
}

impl Database {
    /// Says what is wrong with it, if anything is.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let path = self.path.as_os_str().as_bytes();
        if !self.path.is_absolute() || path.len() > MAX_PATH_BYTES || path.contains(&0) {
            return Err("a database's path is not absolute, too long, or has a NUL byte");
        }
        if !self.page_size.is_power_of_two() || !(512..=65536).contains(&self.page_size) {
            return Err("a database's page size is not a power of two from 512 to 65536");
        }
        Ok(())
    }
}

/// What a generation says about itself before its first record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The signature of the log set: one for all generations from a base copy on, until something breaks the chain.
    pub chain: Uuid,
    /// From 1, without gaps.
    pub number: u32,
    /// SHA-256 of the whole file of the generation before; zeros in generation 1.
    pub predecessor: [u8; 32],
    /// The last commit number of the generation before; zero in generation 1.
    pub commit_before: u64,
    /// When it was begun, in milliseconds since 1970 (UTC).
    pub created_ms: u64,
    /// The databases of the log set, the same in every generation of a chain.
    pub databases: Vec<Database>,
}

/// What a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The pages one committed transaction wrote, in the order in which it wrote them.
    Transaction,
    /// The pages that differ from the state before, whatever number of transactions changed them.
    Difference,
}

/// What a record says before its pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHead {
    /// Whose pages: an index into the table of databases.
    pub database: u32,
    /// One more than the record before, through all databases and generations of a chain.
    pub commit: u64,
    /// When it was captured, in milliseconds since 1970 (UTC). Never less than in the record before.
    pub time_ms: u64,
    /// Pages of the database after it; at least one.
    pub page_count: u32,
    /// What it is.
    pub kind: Kind,
}

/// What closes a generation. A file without one is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// Its first record's commit number; one more than [`last_commit`](Self::last_commit) if there is none.
    pub first_commit: u64,
    /// Its last record's commit number; the header's [`commit_before`](Header::commit_before) if there is none.
    pub last_commit: u64,
    /// How many records it has.
    pub records: u64,
    /// When it was closed, in milliseconds since 1970 (UTC).
    pub sealed_ms: u64,
    /// Pages of each database after its last record here; zero for those without one.
    pub page_counts: Vec<u32>,
}

/// What bytes can have against them. The caller knows which file they are from.
#[derive(Debug)]
pub(crate) enum Fault {
    /// They end, or are zeros, where something was to come.
    Torn(&'static str),
    Corrupt(&'static str),
    Version(u32),
}

/// The fields one after the other. Every caller has counted the bytes before.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (field, rest) = self.0.split_at_checked(count).ok_or(Fault::Corrupt("a field is cut off"))?;
        self.0 = rest;
        Ok(field)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.bytes(N)?.try_into().map_err(|_| Fault::Corrupt("a field is cut off"))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Fault> {
        self.array().map(u64::from_le_bytes)
    }
}

pub(crate) fn checksum(hash: Sha256) -> [u8; CHECKSUM_BYTES] {
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash.finalize()[..CHECKSUM_BYTES]);
    sum
}

impl Header {
    /// The header's bytes. The databases have been checked.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let table: usize = self.databases.iter().map(|d| 12 + d.path.as_os_str().len()).sum();
        let length = FIXED_HEADER_BYTES + table + CHECKSUM_BYTES;
        let mut bytes = Vec::with_capacity(length);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(as_u32(length).to_le_bytes());
        bytes.extend(self.chain.as_bytes());
        bytes.extend(self.number.to_le_bytes());
        bytes.extend(as_u32(self.databases.len()).to_le_bytes());
        bytes.extend(self.commit_before.to_le_bytes());
        bytes.extend(self.created_ms.to_le_bytes());
        bytes.extend(self.predecessor);
        for (index, database) in self.databases.iter().enumerate() {
            let path = database.path.as_os_str().as_bytes();
            bytes.extend(as_u32(index).to_le_bytes());
            bytes.extend(database.page_size.to_le_bytes());
            bytes.extend(as_u32(path.len()).to_le_bytes());
            bytes.extend(path);
        }
        let sum = checksum(Sha256::new_with_prefix(&bytes));
        bytes.extend(sum);
        bytes
    }

    /// The length of the whole header, once its fixed part is there: as much as may be read next.
    pub(crate) fn length(fixed: &[u8; FIXED_HEADER_BYTES]) -> Result<usize, Fault> {
        let mut fields = Fields(fixed);
        if fields.bytes(8)? != MAGIC {
            return Err(if fixed.iter().all(|b| *b == 0) {
                Fault::Torn("zeros instead of a header")
            } else {
                Fault::Corrupt("it does not begin as a log generation")
            });
        }
        let version = fields.u32()?;
        if version != VERSION {
            return Err(Fault::Version(version));
        }
        let length = fields.u32()? as usize;
        if !(FIXED_HEADER_BYTES + CHECKSUM_BYTES..=LONGEST_HEADER).contains(&length) {
            return Err(Fault::Corrupt("the header's length is impossible"));
        }
        Ok(length)
    }

    /// Reads a whole header, whose fixed part [`length`](Self::length) has seen.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Fault> {
        let (content, sum) = bytes
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .and_then(|at| bytes.split_at_checked(at))
            .ok_or(Fault::Corrupt("the header's length is impossible"))?;
        if checksum(Sha256::new_with_prefix(content)) != sum {
            return Err(Fault::Corrupt("the header's checksum is wrong"));
        }
        let mut fields = Fields(content);
        fields.bytes(16)?;
        let chain = Uuid::from_bytes(fields.array()?);
        let number = fields.u32()?;
        let count = fields.u32()? as usize;
        let (commit_before, created_ms) = (fields.u64()?, fields.u64()?);
        let predecessor: [u8; 32] = fields.array()?;
        let first = number == 1;
        if number == 0 || first != (predecessor == [0; 32]) || (first && commit_before != 0) {
            return Err(Fault::Corrupt("the number does not fit the link to the generation before"));
        }
        if commit_before == u64::MAX {
            return Err(Fault::Corrupt("no commit number is left"));
        }
        if count == 0 || count > MAX_DATABASES {
            return Err(Fault::Corrupt("the number of databases is impossible"));
        }
        let mut databases = Vec::new();
        for index in 0..count {
            if fields.u32()? as usize != index {
                return Err(Fault::Corrupt("the databases are not in order"));
            }
            let (page_size, length) = (fields.u32()?, fields.u32()? as usize);
            let path = OsString::from_vec(fields.bytes(length)?.to_vec()).into();
            let database = Database { path, page_size };
            database.check().map_err(Fault::Corrupt)?;
            databases.push(database);
        }
        if !fields.0.is_empty() {
            return Err(Fault::Corrupt("the header is longer than its content"));
        }
        Ok(Self { chain, number, predecessor, commit_before, created_ms, databases })
    }
}

impl RecordHead {
    pub(crate) fn encode(&self) -> [u8; RECORD_HEAD_BYTES] {
        let mut bytes = [0; RECORD_HEAD_BYTES];
        bytes[..4].copy_from_slice(&RECORD_TAG);
        bytes[4..8].copy_from_slice(&self.database.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.commit.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time_ms.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.page_count.to_le_bytes());
        let kind: u32 = match self.kind {
            Kind::Transaction => 1,
            Kind::Difference => 2,
        };
        bytes[28..].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    /// Reads what follows the tag.
    pub(crate) fn decode(rest: &[u8]) -> Result<Self, Fault> {
        let mut fields = Fields(rest);
        let head = Self {
            database: fields.u32()?,
            commit: fields.u64()?,
            time_ms: fields.u64()?,
            page_count: fields.u32()?,
            kind: match fields.u32()? {
                1 => Kind::Transaction,
                2 => Kind::Difference,
                _ => return Err(Fault::Corrupt("a record is of no known kind")),
            },
        };
        if head.page_count == 0 {
            return Err(Fault::Corrupt("a record leaves a database without a page"));
        }
        Ok(head)
    }
}

impl Footer {
    /// The footer's bytes, without the hash at its end.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = FOOTER_TAG.to_vec();
        bytes.extend(as_u32(self.page_counts.len()).to_le_bytes());
        for number in [self.first_commit, self.last_commit, self.records, self.sealed_ms] {
            bytes.extend(number.to_le_bytes());
        }
        for count in &self.page_counts {
            bytes.extend(count.to_le_bytes());
        }
        bytes
    }

    /// Reads what follows the tag, up to the hash; as many page counts as there are databases.
    pub(crate) fn decode(rest: &[u8], databases: usize) -> Result<Self, Fault> {
        let mut fields = Fields(rest);
        if fields.u32()? as usize != databases {
            return Err(Fault::Corrupt("the footer has another number of databases"));
        }
        let (first_commit, last_commit) = (fields.u64()?, fields.u64()?);
        let (records, sealed_ms) = (fields.u64()?, fields.u64()?);
        let page_counts = (0..databases).map(|_| fields.u32()).collect::<Result<_, _>>()?;
        Ok(Self { first_commit, last_commit, records, sealed_ms, page_counts })
    }
}

/// Of lengths that have been bounded far below.
fn as_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

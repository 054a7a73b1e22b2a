//! Reads SQLite's write-ahead log, as far as a mark and a check need it.
//! Owns: the header, the walk over valid frames, the checksum.
//! Leaves to others: applying frames, which is SQLite's (`recover`).
//!
//! Format: <https://www.sqlite.org/fileformat2.html#the_write_ahead_log>. `-wal` carries no locks, so that opening it is
//! free even in the process that holds.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{SqliteError, access};

/// Bytes before the first frame.
pub(crate) const HEADER_BYTES: usize = 32;
/// Bytes before a frame's page.
pub(crate) const FRAME_HEADER_BYTES: usize = 24;
const MAGIC_LITTLE: u32 = 0x377f_0682;
const MAGIC_BIG: u32 = 0x377f_0683;
const VERSION: u32 = 3_007_000;

/// The header of a `-wal` file whose checksum fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalHeader {
    /// Bytes of a page: a power of two, 512 to 65536.
    pub page_size: u32,
    /// A counter of the connection that began this round. Jumps back; does not number generations.
    pub checkpoint_sequence: u32,
    /// Tells the frames of this round from older ones behind them.
    pub salts: [u32; 2],
    /// Checksum words are big-endian.
    big_endian: bool,
    /// The sums the first frame goes on from.
    sums: [u32; 2],
}

/// What a `-wal` file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalScan {
    /// Length of the file, in bytes.
    pub bytes: u64,
    /// `None` if the header is cut off or its checksum is wrong: SQLite ignores such a file.
    pub header: Option<WalHeader>,
    /// Frames from the first on whose salts and checksums fit.
    pub valid_frames: u32,
    /// The last of them that ends a transaction; zero if none does. SQLite ignores those behind it.
    pub committed_frames: u32,
    /// Pages of the database after that transaction; zero if there is none.
    pub page_count: u32,
}

/// Walks a `-wal` file from its first frame to the last valid one, checking every sum.
///
/// Reads each byte of the valid part once, one page in memory, and never past the length the file had at the start.
///
/// # Errors
/// [`SqliteError::Missing`], [`SqliteError::Symlink`], [`SqliteError::NotRegular`], [`SqliteError::Io`]. Content is never an
/// error: whatever does not fit ends the walk.
pub fn scan_wal(path: &Path) -> Result<WalScan, SqliteError> {
    let found = access::find(path)?;
    let file = File::open(path).map_err(|e| SqliteError::io(path, "open", e))?;
    let mut reader = BufReader::with_capacity(1 << 18, file.take(found.bytes));
    let mut scan =
        WalScan { bytes: found.bytes, header: None, valid_frames: 0, committed_frames: 0, page_count: 0 };

    let mut bytes = [0; HEADER_BYTES];
    if !fill(&mut reader, &mut bytes).map_err(|e| SqliteError::io(path, "read", e))? {
        return Ok(scan);
    }
    let Some(header) = parse_header(&bytes) else { return Ok(scan) };
    scan.header = Some(header);

    let mut sums = header.sums;
    let mut frame = vec![0; FRAME_HEADER_BYTES + header.page_size as usize];
    while scan.valid_frames < u32::MAX
        && fill(&mut reader, &mut frame).map_err(|e| SqliteError::io(path, "read", e))?
    {
        sums = checksum(header.big_endian, sums, &frame[..8]);
        sums = checksum(header.big_endian, sums, &frame[FRAME_HEADER_BYTES..]);
        let page = word(&frame, 0);
        if page == 0
            || [word(&frame, 8), word(&frame, 12)] != header.salts
            || [word(&frame, 16), word(&frame, 20)] != sums
        {
            break;
        }
        scan.valid_frames += 1;
        let page_count = word(&frame, 4);
        if page_count != 0 {
            scan.committed_frames = scan.valid_frames;
            scan.page_count = page_count;
        }
    }
    Ok(scan)
}

/// The header of a `-wal`, and of frame number `frame` (from 1) its page count and salts, without walking.
pub(crate) fn peek(path: &Path, frame: u32) -> Result<Option<(WalHeader, Option<FrameEnd>)>, SqliteError> {
    use std::os::unix::fs::FileExt;
    if access::find_optional(path)?.is_none() {
        return Ok(None);
    }
    let file = File::open(path).map_err(|e| SqliteError::io(path, "open", e))?;
    let read = |buffer: &mut [u8], at: u64| match file.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(SqliteError::io(path, "read", e)),
    };
    let mut bytes = [0; HEADER_BYTES];
    if !read(&mut bytes, 0)? {
        return Ok(None);
    }
    let Some(header) = parse_header(&bytes) else { return Ok(None) };
    let mut end = None;
    if frame > 0 {
        let stride = FRAME_HEADER_BYTES as u64 + u64::from(header.page_size);
        let mut bytes = [0; FRAME_HEADER_BYTES];
        if read(&mut bytes, HEADER_BYTES as u64 + u64::from(frame - 1) * stride)? {
            end = Some(FrameEnd { page_count: word(&bytes, 4), salts: [word(&bytes, 8), word(&bytes, 12)] });
        }
    }
    Ok(Some((header, end)))
}

/// What a frame's header says about the transaction it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameEnd {
    /// Zero if the frame does not end one.
    pub(crate) page_count: u32,
    pub(crate) salts: [u32; 2],
}

fn parse_header(bytes: &[u8; HEADER_BYTES]) -> Option<WalHeader> {
    let big_endian = match word(bytes, 0) {
        MAGIC_LITTLE => false,
        MAGIC_BIG => true,
        _ => return None,
    };
    let page_size = word(bytes, 8);
    if word(bytes, 4) != VERSION || !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
        return None;
    }
    let sums = checksum(big_endian, [0, 0], &bytes[..24]);
    if sums != [word(bytes, 24), word(bytes, 28)] {
        return None;
    }
    Some(WalHeader {
        page_size,
        checkpoint_sequence: word(bytes, 12),
        salts: [word(bytes, 16), word(bytes, 20)],
        big_endian,
        sums,
    })
}

/// SQLite's running sum. `bytes` has a multiple of 8 bytes; a remainder would not be summed.
fn checksum(big_endian: bool, mut sums: [u32; 2], bytes: &[u8]) -> [u32; 2] {
    let read = |w: [u8; 4]| if big_endian { u32::from_be_bytes(w) } else { u32::from_le_bytes(w) };
    let (pairs, _) = bytes.as_chunks::<8>();
    for &[a, b, c, d, e, f, g, h] in pairs {
        sums[0] = sums[0].wrapping_add(read([a, b, c, d])).wrapping_add(sums[1]);
        sums[1] = sums[1].wrapping_add(read([e, f, g, h])).wrapping_add(sums[0]);
    }
    sums
}

/// The big-endian word at `at`, which lies inside `bytes` at every call.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|w| w.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// Fills `buffer`; false if the file ends before.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// A WAL of three transactions, taken from beside a database that is still open.
    fn wal(page_size: u32) -> (tempfile::TempDir, PathBuf, u32) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().canonicalize().unwrap();
        let app = rusqlite::Connection::open(folder.join("db")).unwrap();
        app.pragma_update(None, "page_size", page_size).unwrap();
        app.pragma_update(None, "journal_mode", "wal").unwrap();
        app.execute_batch("CREATE TABLE t(a)").unwrap();
        for _ in 0..2 {
            app.execute_batch("INSERT INTO t VALUES(randomblob(100000))").unwrap();
        }
        let pages = app.query_row("PRAGMA page_count", (), |row| row.get(0)).unwrap();
        fs::copy(folder.join("db-wal"), folder.join("log")).unwrap();
        (dir, folder.join("log"), pages)
    }

    #[test]
    fn every_committed_frame_sqlite_wrote_is_valid() {
        for page_size in [512, 4096, 65536] {
            let (_dir, path, pages) = wal(page_size);
            let scan = scan_wal(&path).unwrap();
            let stride = u64::from(page_size) + 24;
            assert_eq!(u64::from(scan.valid_frames), (scan.bytes - 32) / stride);
            assert_eq!(scan.committed_frames, scan.valid_frames);
            assert_eq!(scan.page_count, pages);
            assert_eq!(scan.header.unwrap().page_size, page_size);
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_walk_there_and_the_transaction_before_it_stands() {
        let (_dir, path, _) = wal(4096);
        let whole = scan_wal(&path).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        let middle = 32 + (whole.valid_frames as usize - 3) * 4120 + 2000;
        bytes[middle] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let cut = scan_wal(&path).unwrap();
        assert_eq!(cut.valid_frames, whole.valid_frames - 3);
        assert!(cut.committed_frames > 0 && cut.committed_frames < cut.valid_frames);
    }

    #[test]
    fn any_prefix_and_any_garbage_is_read_without_an_error() {
        let (_dir, path, _) = wal(512);
        let bytes = fs::read(&path).unwrap();
        for length in (0..200).chain([bytes.len() - 1]) {
            fs::write(&path, &bytes[..length]).unwrap();
            let scan = scan_wal(&path).unwrap();
            assert_eq!(scan.header.is_some(), length >= 32);
            assert!(scan.committed_frames <= scan.valid_frames);
        }
        for at in 0..32 {
            let mut broken = bytes.clone();
            broken[at] ^= 0x40;
            fs::write(&path, &broken).unwrap();
            assert_eq!(scan_wal(&path).unwrap().header, None, "byte {at}");
        }
        fs::write(&path, vec![0xff; 10_000]).unwrap();
        assert_eq!(scan_wal(&path).unwrap().valid_frames, 0);
    }
}

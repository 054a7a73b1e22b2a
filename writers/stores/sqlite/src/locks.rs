//! Reads who holds which byte-range lock.
//! Owns: SQLite's lock bytes, the query for one byte's owner, the parser of `/proc/locks` and of a descriptor's own list.
//! Leaves to others: what a lock means for a backup (`hold`) or for a restore (`openers`).

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::path::Path;

/// First of SQLite's lock bytes in the database file.
pub(crate) const PENDING_BYTE: u64 = 0x4000_0000;
/// Held by the one connection that may write, in the rollback modes.
pub(crate) const RESERVED_BYTE: u64 = PENDING_BYTE + 1;
/// First of the bytes that readers share and that an exclusive user locks for writing.
pub(crate) const SHARED_FIRST: u64 = PENDING_BYTE + 2;
/// How many of them there are.
pub(crate) const SHARED_SIZE: u64 = 510;
/// In `-shm`: held by the one connection that may append to the WAL.
pub(crate) const WAL_WRITE_BYTE: u64 = 120;
/// In `-shm`: the last byte SQLite locks ("somebody has this index open").
pub(crate) const WAL_DMS_BYTE: u64 = 128;

/// `/proc/locks` of a very busy machine has some thousand lines of 60 bytes.
const PROC_LOCKS_LIMIT: u64 = 16 << 20;

/// What the kernel hands out in one piece.
const ONE_PAGE: usize = 4096;
/// How often a longer list is read.
const LOSSY_READINGS: usize = 3;

/// A lock as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ListedLock {
    /// `None` for a lock owned by an open file rather than by a process.
    pub(crate) pid: Option<u32>,
    pub(crate) write: bool,
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) inode: u64,
    pub(crate) first: u64,
    pub(crate) last: u64,
}

impl ListedLock {
    pub(crate) const fn covers(&self, byte: u64) -> bool {
        self.first <= byte && byte <= self.last
    }

    pub(crate) const fn touches(&self, first: u64, last: u64) -> bool {
        self.first <= last && first <= self.last
    }
}

/// Who holds a write lock on one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteOwner {
    Nobody,
    /// The process, as numbered in our pid namespace.
    Process(u32),
    /// Somebody outside our pid namespace, or an open file rather than a process.
    Unnamed,
}

/// Asks the kernel, through a descriptor that is already open, who has a write lock on `byte`.
///
/// The query is that of an "open file description" lock: such a lock belongs to nobody's process, so unlike `F_GETLK` the
/// answer includes locks of our own process. Nothing is locked, opened or closed.
pub(crate) fn owner_of(descriptor: RawFd, byte: u64) -> io::Result<ByteOwner> {
    // SAFETY: `flock` is a plain C struct of integers, for which all-zero is a value.
    let mut query: libc::flock = unsafe { std::mem::zeroed() };
    query.l_type = to_short(libc::F_WRLCK);
    query.l_whence = to_short(libc::SEEK_SET);
    query.l_start = libc::off_t::try_from(byte).map_err(|_| io::ErrorKind::InvalidInput)?;
    query.l_len = 1;
    // SAFETY: the pointer is to a live `flock` that the kernel fills in; a descriptor that was closed meanwhile answers
    // EBADF, and the query changes nothing about whichever file it is.
    if unsafe { libc::fcntl(descriptor, libc::F_OFD_GETLK, &raw mut query) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(if query.l_type == to_short(libc::F_WRLCK) {
        match u32::try_from(query.l_pid) {
            Ok(pid) if pid != 0 => ByteOwner::Process(pid),
            _ => ByteOwner::Unnamed,
        }
    } else {
        // Free, or only read: SQLite's writers take write locks.
        ByteOwner::Nobody
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the constants are 0, 1 and 2; C declares the fields as short"
)]
const fn to_short(constant: libc::c_int) -> libc::c_short {
    constant as libc::c_short
}

/// All granted locks the kernel shows us: those of processes in our pid namespace.
///
/// The kernel hands the list out page by page and forgets its place when locks come and go in between, so that one reading
/// can miss some. Where a process may be examined, [`of_descriptor`] is exact.
pub(crate) fn listed() -> io::Result<Vec<ListedLock>> {
    let mut locks = Vec::new();
    for _ in 0..LOSSY_READINGS {
        let mut text = String::new();
        File::open("/proc/locks")?.take(PROC_LOCKS_LIMIT).read_to_string(&mut text)?;
        for lock in text.lines().filter_map(parse_line) {
            if !locks.contains(&lock) {
                locks.push(lock);
            }
        }
        if text.len() < ONE_PAGE {
            break;
        }
    }
    Ok(locks)
}

/// The locks that a process has on the file behind one of its descriptors; `process` is its folder in `/proc`.
pub(crate) fn of_descriptor(process: &Path, descriptor: RawFd) -> io::Result<Vec<ListedLock>> {
    let mut text = String::new();
    let path = process.join("fdinfo").join(descriptor.to_string());
    File::open(path)?.take(PROC_LOCKS_LIMIT).read_to_string(&mut text)?;
    Ok(text.lines().filter_map(|line| parse_line(line.strip_prefix("lock:")?)).collect())
}

/// One line, such as `1: POSIX  ADVISORY  WRITE 742 fe:00:10010638 120 120`. `None` for waiting locks (`1: -> …`), for
/// leases and for anything else.
fn parse_line(line: &str) -> Option<ListedLock> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    if !matches!(fields.next()?, "POSIX" | "OFDLCK") {
        return None;
    }
    let write = match fields.nth(1)? {
        "WRITE" => true,
        "READ" => false,
        _ => return None,
    };
    let pid = fields.next()?.parse::<i64>().ok()?;
    let mut file = fields.next()?.split(':');
    let major = u32::from_str_radix(file.next()?, 16).ok()?;
    let minor = u32::from_str_radix(file.next()?, 16).ok()?;
    let inode = file.next()?.parse().ok()?;
    let first = fields.next()?.parse().ok()?;
    let last = match fields.next()? {
        "EOF" => u64::MAX,
        number => number.parse().ok()?,
    };
    Some(ListedLock {
        pid: u32::try_from(pid).ok().filter(|p| *p != 0),
        write,
        major,
        minor,
        inode,
        first,
        last,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_locks_are_read_and_others_are_passed_over() {
        let lock = parse_line("12: POSIX  ADVISORY  WRITE 11128 fe:1a:10010638 120 120").unwrap();
        assert_eq!(
            lock,
            ListedLock {
                pid: Some(11128),
                write: true,
                major: 0xfe,
                minor: 0x1a,
                inode: 10_010_638,
                first: 120,
                last: 120
            }
        );
        let open_file = parse_line("3: OFDLCK ADVISORY  READ  -1 00:2a:257 0 EOF").unwrap();
        assert_eq!((open_file.pid, open_file.write, open_file.last), (None, false, u64::MAX));
        for other in [
            "",
            "1:",
            "1: -> POSIX  ADVISORY  WRITE 11128 fe:00:10010638 120 120",
            "1: FLOCK  ADVISORY  WRITE 700 00:19:1060 0 EOF",
            "1: LEASE  ACTIVE    READ 700 00:19:1060 0 EOF",
            "1: POSIX  ADVISORY  WRITE x fe:00:1 120 120",
            "1: POSIX  ADVISORY  WRITE 1 fe:00 120 120",
            "1: POSIX  ADVISORY  WRITE 1 fe:00:99999999999999999999999 120 120",
        ] {
            assert_eq!(parse_line(other), None, "{other}");
        }
    }

    #[test]
    fn ranges_cover_and_touch_at_their_edges() {
        let lock = parse_line("1: POSIX  ADVISORY  READ 5 08:01:7 10 20").unwrap();
        assert!(lock.covers(10) && lock.covers(20) && !lock.covers(9) && !lock.covers(21));
        assert!(lock.touches(0, 10) && lock.touches(20, 30) && !lock.touches(0, 9) && !lock.touches(21, 30));
    }
}

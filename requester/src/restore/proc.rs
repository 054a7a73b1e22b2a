//! What `/proc` tells about filesystems and processes, read with bounds.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::fs::{AtFlags, CWD, StatxFlags};

/// No file of `/proc` that is read here is longer; a longer one is cut.
const MAX_BYTES: u64 = 32 << 20;

/// The device number the kernel knows a path's filesystem by.
///
/// It is what `/proc/locks` and `/proc/PID/maps` show. `st_dev` differs from it on btrfs, where each subvolume has its
/// own. Falls back to `st_dev` where the mount cannot be found.
pub(super) fn filesystem_of(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    let own = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
    if !StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID) {
        return Ok(own);
    }
    Ok(mount_device(&read(Path::new("/proc/self/mountinfo"))?, stat.stx_mnt_id).unwrap_or(own))
}

fn mount_device(mountinfo: &[u8], id: u64) -> Option<u64> {
    let text = String::from_utf8_lossy(mountinfo);
    text.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        if fields.next()?.parse::<u64>().ok()? != id {
            return None;
        }
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Reads a file of `/proc`, at most [`MAX_BYTES`].
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    File::open(path)?.take(MAX_BYTES).read_to_end(&mut out)?;
    Ok(out)
}

/// Whether other users' processes are hidden from this one (`hidepid`).
pub(super) fn hides_processes(proc_root: &Path) -> bool {
    fs::metadata(proc_root.join("1")).is_err()
}

/// What `/proc/PID/stat` says, readable for every user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    pub comm: String,
    /// A zombie or dead: it holds nothing any more.
    pub gone: bool,
    pub kernel_thread: bool,
}

const PF_KTHREAD: u64 = 0x0020_0000;

pub(super) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let text = String::from_utf8_lossy(text);
    // The name may itself contain brackets and blanks: everything up to the last closing one.
    let (open, close) = (text.find('(')?, text.rfind(')')?);
    let comm = text.get(open + 1..close)?.to_owned();
    let mut fields = text.get(close + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    // Fields after the state: ppid pgrp session tty tpgid flags.
    let flags: u64 = fields.nth(5)?.parse().ok()?;
    Some(Stat { comm, gone: matches!(state, "Z" | "X" | "x"), kernel_thread: flags & PF_KTHREAD != 0 })
}

/// One line of `/proc/locks` that holds or awaits a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lock {
    /// `None` for a lock of an open file description, or of a process in another namespace.
    pub pid: Option<u32>,
    pub kind: String,
    pub device: u64,
    pub inode: u64,
}

pub(super) fn parse_lock(line: &str) -> Option<Lock> {
    let mut fields = line.split_ascii_whitespace().skip(1).skip_while(|field| *field == "->");
    let family = fields.next()?;
    let _advisory = fields.next()?;
    let kind = fields.next()?;
    let pid = fields.next()?.parse::<u32>().ok().filter(|pid| *pid > 0);
    let mut id = fields.next()?.split(':');
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let device = rustix::fs::makedev(hex(id.next()?)?, hex(id.next()?)?);
    let inode = id.next()?.parse().ok()?;
    Some(Lock { pid, kind: format!("{family} {kind}"), device, inode })
}

/// The device and inode of one line of `/proc/PID/maps`; `None` for memory without a file.
pub(super) fn parse_map(line: &[u8]) -> Option<(u64, u64)> {
    let mut fields = line.split(|byte| *byte == b' ').filter(|field| !field.is_empty()).skip(3);
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let inode: u64 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    if inode == 0 {
        return None;
    }
    let (major, minor) = device.split_once(':')?;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    Some((rustix::fs::makedev(hex(major)?, hex(minor)?), inode))
}

/// The name of the program a process runs, where it may be asked.
pub(super) fn program(process: &Path) -> Option<String> {
    let exe = fs::read_link(process.join("exe")).ok()?;
    Some(exe.file_name()?.to_string_lossy().into_owned())
}

/// The device (as `stat` sees it) and inode of an open descriptor.
pub(super) fn descriptor(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|meta| (meta.dev(), meta.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_read() {
        let stat = parse_stat(b"42 (a) b (c) S 1 42 42 0 -1 4194560 1 2").unwrap();
        assert_eq!(stat, Stat { comm: "a) b (c".into(), gone: false, kernel_thread: false });
        assert!(parse_stat(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0").unwrap().kernel_thread);
        assert!(parse_stat(b"9 (x) Z 1 9 9 0 -1 4228108 0").unwrap().gone);
        let lock = parse_lock("3: POSIX  ADVISORY  WRITE 812 fe:01:1234 0 EOF").unwrap();
        assert_eq!((lock.pid, lock.inode), (Some(812), 1234));
        assert_eq!(lock.device, rustix::fs::makedev(0xfe, 1));
        assert_eq!(parse_lock("3: -> OFDLCK ADVISORY READ -1 00:2a:7 0 0").unwrap().pid, None);
        let map = parse_map(b"7f00-7f01 r-xp 00000000 fe:00 99   /usr/lib/x y").unwrap();
        assert_eq!(map, (rustix::fs::makedev(0xfe, 0), 99));
        assert_eq!(parse_map(b"7f00-7f01 rw-p 00000000 00:00 0 [heap]"), None);
        let mounts = b"25 1 0:23 / /x rw - btrfs /dev/vdb rw\n26 1 254:0 / / rw - ext4 /dev/vda rw\n";
        assert_eq!(mount_device(mounts, 25), Some(rustix::fs::makedev(0, 23)));
    }

    #[test]
    fn broken_lines_are_nothing_rather_than_a_panic() {
        for text in ["", "(", ")(", "1 (x", "1 (x)", "1: POSIX", "1: A B C 1 zz:0:1", "a b c d e"] {
            assert_eq!(parse_stat(text.as_bytes()), None, "{text}");
            assert_eq!(parse_lock(text), None, "{text}");
            assert_eq!(parse_map(text.as_bytes()), None, "{text}");
        }
    }
}

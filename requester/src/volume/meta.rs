//! What the kernel says about one file, in one value.

use std::fmt;

use rustix::fd::AsFd;
use rustix::fs::{AtFlags, Mode, RawMode, Statx, StatxFlags, StatxTimestamp};
use serde::{Deserialize, Serialize};

/// What a name stands for; a link is a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// None of these.
    Unknown,
}

impl Kind {
    fn of(mode: RawMode) -> Self {
        use rustix::fs::FileType;
        match FileType::from_raw_mode(mode) {
            FileType::RegularFile => Self::File,
            FileType::Directory => Self::Directory,
            FileType::Symlink => Self::Symlink,
            FileType::Fifo => Self::Fifo,
            FileType::Socket => Self::Socket,
            FileType::BlockDevice => Self::BlockDevice,
            FileType::CharacterDevice => Self::CharDevice,
            FileType::Unknown => Self::Unknown,
        }
    }
}

impl Kind {
    /// As the calls take it.
    pub(crate) const fn file_type(self) -> rustix::fs::FileType {
        use rustix::fs::FileType;
        match self {
            Self::File => FileType::RegularFile,
            Self::Directory => FileType::Directory,
            Self::Symlink => FileType::Symlink,
            Self::Fifo => FileType::Fifo,
            Self::Socket => FileType::Socket,
            Self::BlockDevice => FileType::BlockDevice,
            Self::CharDevice => FileType::CharacterDevice,
            Self::Unknown => FileType::Unknown,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "a regular file",
            Self::Directory => "a folder",
            Self::Symlink => "a symbolic link",
            Self::Fifo => "a named pipe",
            Self::Socket => "a socket",
            Self::BlockDevice => "a block device",
            Self::CharDevice => "a character device",
            Self::Unknown => "of unknown type",
        })
    }
}

/// A moment as filesystems store it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

impl From<StatxTimestamp> for Time {
    fn from(time: StatxTimestamp) -> Self {
        Self { seconds: time.tv_sec, nanos: time.tv_nsec }
    }
}

/// Which file it is, whatever it is called: all hard links of one file have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Device number of the filesystem (on btrfs: of the subvolume).
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// Everything `statx` says that a backup keeps or compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// What it is.
    pub kind: Kind,
    /// Device number of the filesystem (on btrfs: of the subvolume).
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// The mount it was reached through; `None` before Linux 5.8.
    pub mnt_id: Option<u64>,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes allocated; fewer than [`Meta::size`] in a file with holes.
    pub allocated: u64,
    /// Device number of a device node.
    pub rdev: u64,
    /// Last access.
    pub atime: Time,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
}

impl Meta {
    /// Of a name in a folder, not following a link and not waking an automounter.
    pub(crate) fn at(dir: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        rustix::fs::statx(dir, name, flags, mask).map(|s| Self::from(&s))
    }

    /// Of what is open.
    pub(crate) fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
        rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, mask).map(|s| Self::from(&s))
    }

    /// Which file it is.
    pub fn id(&self) -> FileId {
        FileId { dev: self.dev, ino: self.ino }
    }

    /// Whether both are the same file.
    pub fn same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino, self.kind) == (other.dev, other.ino, other.kind)
    }

    /// Whether some of the file's length is not allocated.
    pub fn sparse(&self) -> bool {
        self.allocated < self.size
    }

    /// The permission bits as the calls take them.
    pub(crate) fn permissions(&self) -> Mode {
        Mode::from_raw_mode(self.mode)
    }
}

impl From<&Statx> for Meta {
    fn from(s: &Statx) -> Self {
        let mode = RawMode::from(s.stx_mode);
        let known_mount = s.stx_mask & StatxFlags::MNT_ID.bits() != 0;
        Self {
            kind: Kind::of(mode),
            dev: rustix::fs::makedev(s.stx_dev_major, s.stx_dev_minor),
            ino: s.stx_ino,
            mnt_id: known_mount.then_some(s.stx_mnt_id),
            mode: mode & 0o7777,
            uid: s.stx_uid,
            gid: s.stx_gid,
            links: s.stx_nlink,
            size: s.stx_size,
            allocated: s.stx_blocks.saturating_mul(512),
            rdev: rustix::fs::makedev(s.stx_rdev_major, s.stx_rdev_minor),
            atime: s.stx_atime.into(),
            mtime: s.stx_mtime.into(),
            ctime: s.stx_ctime.into(),
        }
    }
}

//! The five btrfs calls that are needed, and nothing else that is unsafe.
//! Source: `linux/btrfs.h`, kept stable by the kernel.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use rustix::fd::{AsFd, AsRawFd};
use rustix::io::{self, Errno};
use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

const MAGIC: u8 = 0x94;
const READ_ONLY: u64 = 1 << 1;
const MAX_NAME: usize = 255;

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgsV2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct SubvolInfo {
    treeid: u64,
    name: [u8; 256],
    parent_id: u64,
    dirid: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    transids: [u64; 4],
    times: [[u64; 2]; 4],
    reserved: [u64; 8],
}

const _: () = assert!(size_of::<VolArgsV2>() == 4096 && size_of::<VolArgs>() == 4096);
const _: () = assert!(size_of::<SubvolInfo>() == 504);

const SNAP_DESTROY: Opcode = opcode::write::<VolArgs>(MAGIC, 15);
const SNAP_CREATE_V2: Opcode = opcode::write::<VolArgsV2>(MAGIC, 23);
const SUBVOL_GETFLAGS: Opcode = opcode::read::<u64>(MAGIC, 25);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(MAGIC, 26);
const GET_SUBVOL_INFO: Opcode = opcode::read::<SubvolInfo>(MAGIC, 60);

/// What tells a subvolume from all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Its own.
    pub uuid: uuid::Uuid,
    /// That of the subvolume it is a snapshot of; nil if it is none.
    pub parent: uuid::Uuid,
}

/// Takes a read-only snapshot of the subvolume `source` as `name` in the folder `into`.
pub(super) fn snapshot(source: impl AsFd, into: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut args = VolArgsV2 {
        fd: source.as_fd().as_raw_fd().into(),
        transid: 0,
        flags: READ_ONLY,
        unused: [0; 4],
        name: [0; 4040],
    };
    put_name(&mut args.name, name)?;
    // SAFETY: the opcode carries the size of this struct, which the kernel only reads.
    unsafe { ioctl(into, Setter::<SNAP_CREATE_V2, VolArgsV2>::new(args)) }
}

/// Deletes the subvolume `name` in the folder `dir`.
pub(super) fn destroy(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut args = VolArgs { fd: 0, name: [0; 4088] };
    put_name(&mut args.name, name)?;
    // SAFETY: as above.
    unsafe { ioctl(dir, Setter::<SNAP_DESTROY, VolArgs>::new(args)) }
}

/// Whether a subvolume, given by its root folder, is read-only.
pub(super) fn read_only(subvolume: impl AsFd) -> io::Result<bool> {
    // SAFETY: the kernel writes one u64.
    let flags = unsafe { ioctl(subvolume, Getter::<SUBVOL_GETFLAGS, u64>::new())? };
    Ok(flags & READ_ONLY != 0)
}

/// Makes a subvolume writable again, which deleting it needs where one is not root.
pub(super) fn make_writable(subvolume: impl AsFd) -> io::Result<()> {
    // SAFETY: the kernel reads one u64.
    unsafe { ioctl(subvolume, Setter::<SUBVOL_SETFLAGS, u64>::new(0)) }
}

/// Who a subvolume is, given by its root folder.
pub(super) fn identity(subvolume: impl AsFd) -> io::Result<Identity> {
    // SAFETY: the opcode carries the size of this struct, which the kernel fills; any bytes are valid in it.
    let info = unsafe { ioctl(subvolume, Getter::<GET_SUBVOL_INFO, SubvolInfo>::new())? };
    Ok(Identity { uuid: uuid::Uuid::from_bytes(info.uuid), parent: uuid::Uuid::from_bytes(info.parent_uuid) })
}

fn put_name(field: &mut [u8], name: &OsStr) -> io::Result<()> {
    let name = name.as_bytes();
    if name.is_empty() || name.len() > MAX_NAME || name.iter().any(|b| matches!(b, 0 | b'/')) {
        return Err(Errno::INVAL);
    }
    field[..name.len()].copy_from_slice(name);
    Ok(())
}

//! The least that a snapshot can cost: `syncfs` and the btrfs ioctl, with nobody held.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd},
    path::Path,
    time::{Duration, Instant},
};

use holdfast_tests::process::{command, run};
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

use crate::error::BenchError;

/// `struct btrfs_ioctl_vol_args_v2` of `linux/btrfs.h`.
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

const SNAP_CREATE_V2: Opcode = opcode::write::<VolArgsV2>(0x94, 23);
const SNAP_DESTROY: Opcode = opcode::write::<VolArgs>(0x94, 15);
const READ_ONLY: u64 = 1 << 1;
const NAME: &[u8] = b"bare";

/// How long the kernel may take to clean up after a deleted snapshot.
const PATIENCE: Duration = Duration::from_secs(60);

/// Returns once the kernel has cleaned up after deleted snapshots, which it would do at the next one's expense.
///
/// The `sync` before is what wakes the thread that cleans; by itself it does so every 30 s.
pub fn cleaned(volume: &Path) -> Result<(), BenchError> {
    for arguments in [["filesystem", "sync"], ["subvolume", "sync"]] {
        run(command("btrfs").args(arguments).arg(volume), PATIENCE)?;
    }
    Ok(())
}

/// How long the two calls took.
pub struct Took {
    pub syncfs: Duration,
    pub snapshot: Duration,
}

/// Takes a read-only snapshot of `subvolume` into the folder `into` of the same volume, and deletes it again.
pub fn snapshot(subvolume: &Path, into: &Path) -> Result<Took, BenchError> {
    let source = File::open(subvolume).map_err(BenchError::io("open the subvolume"))?;
    let folder = File::open(into).map_err(BenchError::io("open the folder of snapshots"))?;
    let mut args = VolArgsV2 {
        fd: source.as_fd().as_raw_fd().into(),
        transid: 0,
        flags: READ_ONLY,
        unused: [0; 4],
        name: [0; 4040],
    };
    args.name[..NAME.len()].copy_from_slice(NAME);
    let begun = Instant::now();
    rustix::fs::syncfs(&source).map_err(BenchError::io("syncfs"))?;
    let synced = Instant::now();
    // SAFETY: the opcode carries the size of this struct, which the kernel only reads.
    unsafe { ioctl(&folder, Setter::<SNAP_CREATE_V2, VolArgsV2>::new(args)) }
        .map_err(BenchError::io("take a snapshot"))?;
    let took = Took { syncfs: synced - begun, snapshot: synced.elapsed() };
    let mut args = VolArgs { fd: 0, name: [0; 4088] };
    args.name[..NAME.len()].copy_from_slice(NAME);
    // SAFETY: as above.
    unsafe { ioctl(&folder, Setter::<SNAP_DESTROY, VolArgs>::new(args)) }
        .map_err(BenchError::io("delete the snapshot"))?;
    Ok(took)
}

//! File descriptors passed beside a message (SCM_RIGHTS).
//!
//! Owns: that no descriptor of a stranger stays open here unless it was asked for and is what it should be.

use std::io::{self, IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::fs::{FileType, OFlags};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::codec::{self, FrameError};

/// Most descriptors taken in at a time; what is beyond, the kernel closes.
const ROOM: usize = 4;

/// Writes one message to a blocking socket, `descriptor` beside its first byte.
pub fn send<T: Serialize>(
    mut to: &UnixStream,
    message: &T,
    descriptor: Option<&OwnedFd>,
) -> Result<(), FrameError> {
    let bytes = codec::encode(message)?;
    let mut sent = 0;
    if let Some(descriptor) = descriptor {
        let fds = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        // There is room for one: `space` was made for it.
        beside.push(SendAncillaryMessage::ScmRights(&fds));
        sent = loop {
            match sendmsg(to, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other.map_err(|error| FrameError::Io(error.into()))?,
            }
        };
    }
    to.write_all(&bytes[sent..]).map_err(FrameError::Io)
}

/// A descriptor whose readability can be awaited.
///
/// # Errors
/// There are no descriptors left, or no runtime.
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, and is the same descriptor, until it is dropped.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// What one read brought.
pub struct Received {
    /// How many bytes; none at the end.
    pub bytes: usize,
    /// More descriptors than were asked for came with them. They are closed.
    pub unasked: bool,
}

/// Reads once from a socket without blocking. Descriptors go to `taken`, `wanted` in all at most.
///
/// # Errors
/// `WouldBlock` when there is nothing to be read; any other error of the socket.
pub fn receive(
    from: impl AsFd,
    into: &mut [u8],
    taken: &mut Vec<OwnedFd>,
    wanted: usize,
) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(ROOM))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = recvmsg(from, &mut [IoSliceMut::new(into)], &mut beside, flags)?;
    let mut unasked = received.flags.contains(ReturnFlags::CTRUNC);
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            for fd in fds {
                // What is not kept is closed right here.
                if taken.len() < wanted { taken.push(fd) } else { unasked = true }
            }
        }
    }
    Ok(Received { bytes: received.bytes, unasked })
}

/// The one descriptor of a stream, looked at.
///
/// # Errors
/// [`FrameError::Descriptors`]: none, or not one that can be read as a stream. It is closed.
pub fn stream(taken: Vec<OwnedFd>) -> Result<OwnedFd, FrameError> {
    let mut taken = taken.into_iter();
    let (Some(fd), None) = (taken.next(), taken.next()) else {
        return Err(FrameError::Descriptors("it passed no file descriptor beside its answer"));
    };
    let kind = rustix::fs::fstat(&fd).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if !matches!(kind, Ok(FileType::Fifo | FileType::Socket | FileType::RegularFile)) {
        return Err(FrameError::Descriptors(
            "it passed a file descriptor of no pipe, socket or regular file",
        ));
    }
    let flags = rustix::fs::fcntl_getfl(&fd).map_err(|error| FrameError::Io(error.into()))?;
    if flags.contains(OFlags::PATH) || flags & OFlags::ACCMODE == OFlags::WRONLY {
        return Err(FrameError::Descriptors("it passed a file descriptor that cannot be read from"));
    }
    Ok(fd)
}

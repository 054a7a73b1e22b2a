//! The plain socket: messages in, and out whatever is wanted, right or wrong.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use holdfast_writer_api::protocol::wire::{Answer, Request};
use holdfast_writer_api::protocol::{Decoder, FrameError, encode};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};

use crate::script::MAX_DESCRIPTORS;

/// The requester's socket.
#[derive(Debug)]
pub struct Wire {
    socket: UnixStream,
    decoder: Decoder,
}

/// What came.
pub enum Came {
    Request(Request),
    /// Nothing, up to the moment that was waited for.
    Nothing,
    /// The end of the socket.
    End,
    /// No message, or no call that is spoken here.
    Nonsense(FrameError),
}

impl Wire {
    /// # Errors
    /// It is no socket.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let socket = UnixStream::from(socket);
        // Anything else, a terminal or a file, fails here.
        socket.peer_addr()?;
        Ok(Self { socket, decoder: Decoder::default() })
    }

    /// Waits for the next call, no longer than `until`.
    pub fn next(&mut self, until: Option<Instant>) -> Came {
        let mut chunk = [0; 16 << 10];
        loop {
            match self.decoder.message::<Request>() {
                Ok(Some(request)) if request.oneway || request.upgrade => {
                    return Came::Nonsense(FrameError::OneWay);
                }
                Ok(Some(request)) => return Came::Request(request),
                Ok(None) => {}
                Err(error) => return Came::Nonsense(error),
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Came::Nothing;
            }
            if let Err(error) = self.socket.set_read_timeout(left) {
                return Came::Nonsense(FrameError::Io(error));
            }
            match self.socket.read(&mut chunk) {
                Ok(0) => {
                    let end = self.decoder.end();
                    return if matches!(end, FrameError::Closed) { Came::End } else { Came::Nonsense(end) };
                }
                Ok(n) => self.decoder.push(&chunk[..n]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => return Came::Nothing,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody is there any more, not even to close it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Came::End,
                Err(error) => return Came::Nonsense(FrameError::Io(error)),
            }
        }
    }

    /// Whether something has come that nobody asked for yet.
    pub fn is_ahead(&self) -> bool {
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let waiting = recv(&self.socket, &mut [0; 1][..], peek);
        !self.decoder.is_empty() || matches!(waiting, Ok((_, 1..)))
    }

    /// Whether the requester will say nothing any more.
    pub fn is_hung_up(&self) -> bool {
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        matches!(recv(&self.socket, &mut [0; 1][..], peek), Ok((_, 0)))
    }

    /// Sends an answer.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn answer(&mut self, answer: &Answer, beside: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = encode(answer).map_err(io::Error::other)?;
        self.bytes(&bytes, beside)
    }

    /// Sends bytes, with descriptors beside the first of them.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub fn bytes(&mut self, bytes: &[u8], beside: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut sent = 0;
        if !beside.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut buffer = SendAncillaryBuffer::new(&mut space);
            // There is room for as many as a script may ask for.
            buffer.push(SendAncillaryMessage::ScmRights(beside));
            sent = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut buffer, SendFlags::NOSIGNAL)?;
        }
        self.socket.write_all(&bytes[sent..])
    }

    /// The socket itself.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

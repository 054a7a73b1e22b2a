//! The requester's end of the socket: one call, one answer, and nothing else.

use std::os::fd::OwnedFd;

use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;

use super::codec::{self, Decoder, FrameError};
use super::descriptors::{self, Received};
use super::message::Call;
use super::wire::{Answer, Request};

/// How much is read at a time.
const CHUNK: usize = 16 << 10;

/// Said of descriptors that came where none, or fewer, were to come.
const UNASKED: FrameError = FrameError::Descriptors("it passed file descriptors that nobody asked for");

/// A socket with a writer on its other end. After any error the conversation is over.
pub struct Conversation {
    socket: UnixStream,
    decoder: Decoder,
}

impl Conversation {
    /// # Errors
    /// The socket cannot be used as one.
    pub fn new(socket: std::os::unix::net::UnixStream) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UnixStream::from_std(socket)?, decoder: Decoder::default() })
    }

    /// One call and its answer, with the `wanted` descriptors at most that came beside it.
    ///
    /// # Errors
    /// [`FrameError`]: the other side ended, spoke nonsense, or spoke out of turn.
    pub async fn exchange(
        &mut self,
        call: &Call,
        wanted: usize,
    ) -> Result<(Answer, Vec<OwnedFd>), FrameError> {
        self.is_quiet()?;
        let bytes = codec::encode(&Request::new(call))?;
        self.socket.write_all(&bytes).await.map_err(FrameError::Io)?;
        let mut taken = Vec::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            if let Some(answer) = self.decoder.message::<Answer>()? {
                if answer.continues || !self.decoder.is_empty() {
                    return Err(FrameError::OutOfTurn);
                }
                return Ok((answer, taken));
            }
            let read = || descriptors::receive(&self.socket, &mut chunk, &mut taken, wanted);
            let received = self.socket.async_io(Interest::READABLE, read).await.map_err(FrameError::Io)?;
            self.take(received, &chunk)?;
        }
    }

    /// Nothing may have arrived before the call: whoever answers early, or twice, is out of turn.
    fn is_quiet(&mut self) -> Result<(), FrameError> {
        let mut chunk = [0; 1];
        match descriptors::receive(&self.socket, &mut chunk, &mut Vec::new(), 0) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(FrameError::Io(error)),
            Ok(received) => self.take(received, &chunk).and(Err(FrameError::OutOfTurn)),
        }
    }

    fn take(&mut self, received: Received, chunk: &[u8]) -> Result<(), FrameError> {
        match received {
            Received { unasked: true, .. } => Err(UNASKED),
            Received { bytes: 0, .. } => Err(self.decoder.end()),
            Received { bytes, .. } => {
                self.decoder.push(&chunk[..bytes]);
                Ok(())
            }
        }
    }

    /// Tells the writer that there will be no more calls: it releases by itself, and ends.
    pub fn hang_up(&self) {
        // Its own end may be gone already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
    }

    /// Whether nobody has the other end any more.
    pub fn is_closed(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut ends = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = rustix::time::Timespec::default();
        poll(&mut ends, Some(&now)).is_ok() && ends[0].revents().contains(PollFlags::HUP)
    }
}

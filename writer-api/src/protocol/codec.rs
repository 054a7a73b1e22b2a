//! Frames of the protocol: JSON objects ended by NUL, of bounded length. Anyone who speaks the protocol from Rust may use them.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message either side accepts: sealed keys and metadata of many components fit.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The other side closed the socket.
    #[error("the other side closed the connection")]
    Closed,
    /// It closed in the middle of a message.
    #[error("the connection ended in the middle of a message")]
    Truncated,
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("a message of more than {MAX_MESSAGE_BYTES} bytes")]
    TooLong,
    /// Not JSON, or not a message we know.
    #[error("a message that is not understood")]
    Malformed(#[source] serde_json::Error),
    /// A call before the answer to the last one, a second answer to one call, or an answer that nobody asked for.
    #[error("a message out of turn")]
    OutOfTurn,
    /// A call that wants no answer, or another protocol: neither is spoken here.
    #[error("a call of a kind that is not spoken here")]
    OneWay,
    /// File descriptors that were not asked for, too few of them, or of a kind that is no stream.
    #[error("{0}")]
    Descriptors(&'static str),
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] io::Error),
}

/// The message as it goes over the wire, NUL included.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = serde_json::to_vec(message).map_err(FrameError::Malformed)?;
    if bytes.len() >= MAX_MESSAGE_BYTES {
        return Err(FrameError::TooLong);
    }
    bytes.push(0);
    Ok(bytes)
}

/// Collects bytes until a message is whole.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` known to hold no NUL: each byte is looked at once.
    searched: usize,
}

impl Decoder {
    /// Adds what was read. Take out what is whole before adding more: that is where the bound is kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// - [`FrameError::Malformed`]; the bytes of that message are consumed.
    /// - [`FrameError::TooLong`] as soon as a message has passed the bound, whole or not. What follows it cannot
    ///   be told from it: the conversation is over.
    pub fn message<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let found = self.buffer[self.searched..].iter().position(|byte| *byte == 0);
        let end = self.searched + found.unwrap_or(self.buffer.len() - self.searched);
        if end > MAX_MESSAGE_BYTES {
            return Err(FrameError::TooLong);
        }
        self.searched = end;
        if found.is_none() {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.buffer[..end]).map_err(FrameError::Malformed);
        self.buffer.drain(..=end);
        self.searched = 0;
        message.map(Some)
    }

    /// Whether nothing is left: the other side is not in the middle of a message, nor ahead of its turn.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// What the end of the stream means here.
    pub fn end(&self) -> FrameError {
        if self.buffer.is_empty() { FrameError::Closed } else { FrameError::Truncated }
    }
}

/// Reads one message from a blocking stream.
pub fn read<T: DeserializeOwned>(from: &mut impl Read, decoder: &mut Decoder) -> Result<T, FrameError> {
    let mut chunk = [0; 16 << 10];
    loop {
        if let Some(message) = decoder.message()? {
            return Ok(message);
        }
        match from.read(&mut chunk) {
            Ok(0) => return Err(decoder.end()),
            Ok(n) => decoder.push(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(FrameError::Io(error)),
        }
    }
}

/// Writes one message to a blocking stream.
pub fn write<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    to.write_all(&encode(message)?).map_err(FrameError::Io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(bytes: &[u8], step: usize) -> Vec<Result<serde_json::Value, FrameError>> {
        let mut decoder = Decoder::default();
        let mut out = Vec::new();
        for chunk in bytes.chunks(step) {
            decoder.push(chunk);
            while let Some(item) = decoder.message().transpose() {
                out.push(item);
            }
        }
        out
    }

    #[test]
    fn messages_come_out_whole_however_the_bytes_arrive() {
        let bytes = b"{\"a\":1}\0[2]\0\"three\"\0{\"half";
        for step in 1..bytes.len() {
            let got: Vec<_> = decode_all(bytes, step).into_iter().map(Result::unwrap).collect();
            assert_eq!(got, [serde_json::json!({"a":1}), serde_json::json!([2]), serde_json::json!("three")]);
        }
    }

    #[test]
    fn garbage_is_a_named_error_and_the_next_message_is_still_read() {
        let got = decode_all(b"\xff\xfe\0\0{}\0", 3);
        assert!(matches!(got[0], Err(FrameError::Malformed(_))));
        assert!(matches!(got[1], Err(FrameError::Malformed(_))));
        assert!(got[2].is_ok());
    }

    #[test]
    fn a_message_without_end_is_refused_before_it_fills_the_memory() {
        let mut decoder = Decoder::default();
        let chunk = vec![b'x'; 1 << 20];
        let refused = (0..1000).find_map(|_| {
            decoder.push(&chunk);
            decoder.message::<serde_json::Value>().err()
        });
        assert!(matches!(refused, Some(FrameError::TooLong)));
        assert!(decoder.buffer.len() <= MAX_MESSAGE_BYTES + chunk.len());
    }

    #[test]
    fn a_cut_off_message_differs_from_a_closed_connection() {
        let mut decoder = Decoder::default();
        assert!(matches!(read::<u8>(&mut &b""[..], &mut decoder), Err(FrameError::Closed)));
        assert!(matches!(read::<u8>(&mut &b"1"[..], &mut decoder), Err(FrameError::Truncated)));
    }
}

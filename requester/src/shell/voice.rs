//! What scripts say, passed on to whoever listens to the writer, and to nobody if nobody does.
//!
//! Owns: that a script never waits for a listener, and never dies of one that is gone. Its requester may have been
//! killed, and then `thaw` counts, not what it prints.

use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

/// A pipe that has a place for this many bytes takes them without waiting (`PIPE_BUF`).
const AT_ONCE: usize = 4096;
/// How much is passed on before something else gets its turn.
const TURN: usize = 64 * AT_ONCE;

/// The pipe that scripts have as standard error.
#[derive(Debug)]
pub struct Voice {
    /// Does not wait.
    hear: PipeReader,
    /// Kept, so that the pipe has no end however many scripts have ended.
    speak: PipeWriter,
}

impl Voice {
    /// # Errors
    /// There are no descriptors left.
    pub fn new() -> io::Result<Self> {
        let (hear, speak) = io::pipe()?;
        rustix::fs::fcntl_setfl(&hear, OFlags::NONBLOCK)?;
        Ok(Self { hear, speak })
    }

    /// For a script.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn speak(&self) -> io::Result<OwnedFd> {
        self.speak.as_fd().try_clone_to_owned()
    }

    /// Readable when something was said.
    pub fn hear(&self) -> &PipeReader {
        &self.hear
    }

    /// Passes on what was said. Never waits.
    pub fn relay(&self) {
        let mut bytes = [0; AT_ONCE];
        for _ in 0..TURN / AT_ONCE {
            match rustix::io::read(&self.hear, &mut bytes) {
                Ok(read) if read > 0 => say(&bytes[..read]),
                _ => return,
            }
        }
    }
}

/// Says it on standard error, or drops it if that would mean waiting.
pub fn say(bytes: &[u8]) {
    let errors = io::stderr();
    for piece in bytes.chunks(AT_ONCE) {
        let mut watched = [PollFd::new(&errors, PollFlags::OUT)];
        match poll(&mut watched, Some(&Timespec::default())) {
            Ok(1) if watched[0].revents().contains(PollFlags::OUT) => {
                let _ = rustix::io::write(&errors, piece);
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_speaks_is_never_kept_waiting() {
        let voice = Voice::new().unwrap();
        let mut speak = PipeWriter::from(voice.speak().unwrap());
        let talk = std::thread::spawn(move || {
            for _ in 0..1000 {
                io::Write::write_all(&mut speak, &[b'\n'; 1000]).unwrap();
            }
        });
        // What it says goes to the standard error of this test, or nowhere.
        while !talk.is_finished() {
            voice.relay();
        }
        talk.join().unwrap();
    }
}

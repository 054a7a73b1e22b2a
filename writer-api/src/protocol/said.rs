//! What a writer's process says on its standard error, kept in bounded memory until somebody wants to know.
//!
//! Owns: that a chatty writer is never blocked for long, that its talk never grows, and that nothing is written
//! anywhere: the disk may be the very one that is held.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;

use super::descriptors;
use super::text::shown;

/// How much is kept of one writer, and …
const KEPT_BYTES: usize = 64 << 10;
/// … how long a line may be before its rest is cut.
const LINE_BYTES: usize = 2 << 10;
/// How much is read before somebody else gets his turn.
const READ_AT_ONCE: usize = 256 << 10;

/// What a line costs beside its text.
const LINE_COST: usize = 48;

/// A line, fit to be shown: control characters are written out, what is no UTF-8 is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaidLine {
    /// When it was read, in nanoseconds of the machine's monotonic clock.
    pub at_ns: u64,
    /// Its text.
    pub text: String,
}

/// What the processes of one writer said. Clones are the same memory.
#[derive(Debug, Clone, Default)]
pub struct Said(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<SaidLine>,
    bytes: usize,
    /// How many of the last lines nobody has taken yet.
    fresh: usize,
    /// How many were dropped before anybody took them.
    lost: u64,
}

impl Said {
    /// The lines said since the last call, and how many more were dropped because nobody asked in time.
    pub fn take(&self) -> (Vec<SaidLine>, u64) {
        let mut ring = self.ring();
        let from = ring.lines.len() - ring.fresh;
        ring.fresh = 0;
        (ring.lines.range(from..).cloned().collect(), std::mem::take(&mut ring.lost))
    }

    /// The last `count` lines, taken or not.
    pub fn last(&self, count: usize) -> Vec<String> {
        let ring = self.ring();
        let from = ring.lines.len().saturating_sub(count);
        ring.lines.range(from..).map(|line| line.text.clone()).collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Lines are whole or absent, whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn add(&mut self, text: String) {
        let now = clock_gettime(ClockId::Monotonic);
        let at_ns =
            u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0);
        self.bytes += text.len() + LINE_COST;
        self.lines.push_back(SaidLine { at_ns, text });
        self.fresh += 1;
        while self.bytes > KEPT_BYTES
            && let Some(dropped) = self.lines.pop_front()
        {
            self.bytes -= dropped.text.len() + LINE_COST;
            if self.fresh > self.lines.len() {
                self.fresh = self.lines.len();
                self.lost += 1;
            }
        }
    }
}

/// Cuts what was read into lines.
#[derive(Debug)]
struct Lines {
    said: Said,
    line: Vec<u8>,
    cut: usize,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ended) = match piece.split_last() {
                Some((b'\n', text)) => (text, true),
                _ => (piece, false),
            };
            let room = LINE_BYTES - self.line.len();
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            self.cut += text.len().saturating_sub(room);
            if ended {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        let line = std::mem::take(&mut self.line);
        let cut = std::mem::take(&mut self.cut);
        let mut text = shown(String::from_utf8_lossy(&line).trim_end());
        if cut > 0 {
            text.push_str(&format!(" … ({cut} more bytes)"));
        }
        if !text.is_empty() {
            self.said.ring().add(text);
        }
    }
}

/// Listens to one process.
#[derive(Debug)]
pub struct Ear {
    /// The same pipe that the task reads, to read what is left when the process has ended.
    pipe: OwnedFd,
    lines: Arc<Mutex<Lines>>,
    task: JoinHandle<()>,
}

impl Ear {
    /// A pipe for a process's standard error.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn pipe() -> io::Result<(PipeReader, PipeWriter)> {
        let (ours, theirs) = io::pipe()?;
        // On our end alone: what the process writes waits for us, a moment, when the pipe is full.
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        Ok((ours, theirs))
    }

    /// Reads from `pipe` into `said` until it ends or this is dropped.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn listen(pipe: PipeReader, said: Said) -> io::Result<Self> {
        let lines = Arc::new(Mutex::new(Lines { said, line: Vec::new(), cut: 0 }));
        let pipe = OwnedFd::from(pipe);
        let watched = descriptors::watched(pipe.try_clone()?)?;
        let into = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            while let Ok(mut ready) = watched.readable().await {
                match drain(watched.get_ref(), &into) {
                    Ok(Drained::Empty) => ready.clear_ready(),
                    Ok(Drained::More) => tokio::task::yield_now().await,
                    Ok(Drained::Ended) | Err(_) => return,
                }
            }
        });
        Ok(Self { pipe, lines, task })
    }

    /// Takes in what has been said and not been read yet. Called when the process has ended.
    pub fn finish(&self) {
        // Bounded by what a pipe holds, unless somebody else goes on writing.
        let _ = drain(&self.pipe, &self.lines);
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if !lines.line.is_empty() {
            lines.end();
        }
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.task.abort();
    }
}

enum Drained {
    Empty,
    More,
    Ended,
}

fn drain(pipe: &OwnedFd, lines: &Mutex<Lines>) -> io::Result<Drained> {
    let mut chunk = [0; 16 << 10];
    let mut left = READ_AT_ONCE;
    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    while left > 0 {
        match rustix::io::read(pipe, &mut chunk) {
            Ok(0) => return Ok(Drained::Ended),
            Ok(n) => {
                lines.push(&chunk[..n]);
                left = left.saturating_sub(n);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(Drained::Empty),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Drained::More)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> (Said, Lines) {
        let said = Said::default();
        (said.clone(), Lines { said, line: Vec::new(), cut: 0 })
    }

    #[test]
    fn lines_come_out_whole_and_fit_to_be_shown_however_the_bytes_arrive() {
        let (said, mut lines) = lines();
        for byte in b"one\n\ntw\x1b[31mo\r\n\xff\nunfinished" {
            lines.push(&[*byte]);
        }
        assert_eq!(said.last(9), ["one", "tw\\u{1b}[31mo", "\u{fffd}"]);
        let (taken, lost) = said.take();
        assert_eq!((taken.len(), lost), (3, 0));
        assert_eq!(said.take(), (vec![], 0), "taken once");
        assert_eq!(said.last(1), ["\u{fffd}"], "and still to be shown");
    }

    #[test]
    fn memory_is_bounded_and_what_was_dropped_is_counted() {
        let (said, mut lines) = lines();
        lines.push(&vec![b'x'; 10 << 20]);
        lines.push(b"\n");
        let long = said.last(1).remove(0);
        assert!(long.len() < LINE_BYTES + 64 && long.ends_with("more bytes)"), "{}", long.len());
        for n in 0..100_000 {
            lines.push(format!("line {n}\n").as_bytes());
        }
        assert!(said.ring().bytes <= KEPT_BYTES);
        let (taken, lost) = said.take();
        assert_eq!(taken.len() as u64 + lost, 100_001);
        assert_eq!(taken.last().unwrap().text, "line 99999");
        // What had been taken is not lost when it is dropped.
        for n in 0..100_000 {
            lines.push(format!("line {n}\n").as_bytes());
            said.take();
        }
        assert_eq!(said.take(), (vec![], 0));
    }

    #[tokio::test]
    async fn a_chatty_process_is_never_blocked_and_its_last_words_are_kept() {
        let said = Said::default();
        let (ours, mut theirs) = Ear::pipe().unwrap();
        let ear = Ear::listen(ours, said.clone()).unwrap();
        let talk = tokio::task::spawn_blocking(move || {
            use std::io::Write;
            for n in 0..200_000 {
                writeln!(theirs, "line {n}").unwrap();
            }
            write!(theirs, "last words").unwrap();
        });
        tokio::time::timeout(std::time::Duration::from_secs(20), talk).await.unwrap().unwrap();
        ear.finish();
        let last = said.last(1);
        // The task may be in the middle of its own turn; then it has read all of it but the unfinished line.
        assert!(last == ["last words"] || last == ["line 199999"], "{last:?}");
    }
}

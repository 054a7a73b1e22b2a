//! The hold: a lock on a file, from `Freeze` to `Thaw`, and not beyond its budget.
//!
//! Owns: that the kernel releases it with the process, and that it ends at its deadline. Where the script names no file,
//! the time is kept all the same.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use holdfast_writer_api::{Cause, Thawed, WriterError};
use rustix::fs::{FlockOperation, flock};

/// How often a lock that somebody else has is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(2);

/// What holds the application, or does not.
#[derive(Debug)]
pub struct Hold {
    writer: String,
    path: Option<PathBuf>,
    lock: Option<File>,
    budget: Duration,
    until: Option<Instant>,
    /// It was taken, and ended by its own deadline.
    ended_by_itself: bool,
}

impl Hold {
    pub fn new(writer: &str, path: Option<PathBuf>) -> Self {
        let writer = writer.to_owned();
        Self { writer, path, lock: None, budget: Duration::ZERO, until: None, ended_by_itself: false }
    }

    /// Takes it for `budget`, counted from now.
    ///
    /// # Errors
    /// [`WriterError::Busy`]: somebody else has the lock. [`WriterError::Denied`]: it cannot be opened.
    pub fn take(&mut self, budget: Duration) -> Result<(), WriterError> {
        let until = Instant::now() + budget;
        if let Some(path) = &self.path {
            let writer = || self.writer.clone();
            let denied = |error: io::Error| WriterError::Denied {
                writer: writer(),
                cause: Cause::new(format!("cannot open {}: {error}", path.display())),
            };
            let lock = File::options().read(true).write(true).open(path).map_err(denied)?;
            while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                if Instant::now() + TRY_AGAIN >= until {
                    let cause = Cause::new(format!("somebody else has {}", path.display()));
                    return Err(WriterError::Busy { writer: writer(), cause });
                }
                std::thread::sleep(TRY_AGAIN);
            }
            self.lock = Some(lock);
        }
        (self.budget, self.until, self.ended_by_itself) = (budget, Some(until), false);
        Ok(())
    }

    /// When it ends by itself.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Ends it if its time is over; whether it did.
    pub fn keep_deadline(&mut self) -> bool {
        let over = self.until.is_some_and(|until| until <= Instant::now());
        if over {
            self.release();
            self.ended_by_itself = true;
        }
        over
    }

    /// The lock, to be handed to another process.
    pub fn lock(&self) -> Option<BorrowedFd<'_>> {
        self.lock.as_ref().map(AsFd::as_fd)
    }

    /// How it can be seen.
    pub fn proof(&self) -> String {
        match &self.path {
            Some(path) => format!("pid {} has the lock of {}", std::process::id(), path.display()),
            None => String::new(),
        }
    }

    /// Ends it.
    pub fn release(&mut self) -> Thawed {
        self.lock = None;
        self.until.take().map_or(Thawed::WasNotHeld, |_| Thawed::Released)
    }

    /// Ends it when it is asked to.
    ///
    /// # Errors
    /// [`WriterError::TimedOut`]: it had ended by itself before; said once.
    pub fn thaw(&mut self) -> Result<Thawed, WriterError> {
        if !std::mem::take(&mut self.ended_by_itself) {
            return Ok(self.release());
        }
        let budget_ms = u64::try_from(self.budget.as_millis()).unwrap_or(u64::MAX);
        Err(WriterError::TimedOut { writer: self.writer.clone(), action: "thaw".into(), budget_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_when_it_is_asked_to_or_by_itself_and_says_which() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let is_free = || {
            let other = File::open(file.path()).unwrap();
            flock(&other, FlockOperation::NonBlockingLockExclusive).is_ok()
        };
        let mut hold = Hold::new("w", Some(file.path().into()));
        assert_eq!(hold.thaw(), Ok(Thawed::WasNotHeld));
        hold.take(Duration::from_secs(60)).unwrap();
        assert!(!is_free() && !hold.keep_deadline());
        assert_eq!(hold.thaw(), Ok(Thawed::Released));
        assert!(is_free());
        hold.take(Duration::ZERO).unwrap();
        assert!(!is_free() && hold.keep_deadline() && is_free());
        assert!(matches!(hold.thaw(), Err(WriterError::TimedOut { .. })));
        assert_eq!(hold.thaw(), Ok(Thawed::WasNotHeld));
    }
}

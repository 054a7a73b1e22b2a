//! The process that thaws what a writer held, seen from the requester: it is waited for, and never ended.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

/// A guardian, by a descriptor that stays its own when its number does not.
pub struct Guardian {
    pid: u32,
    process: OwnedFd,
    /// How it ended, once that is known.
    ended: Option<Fate>,
}

/// What became of a guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is at work, or waits for work.
    AtWork,
    /// It has ended: nothing is held.
    Done,
    /// It was ended, how in words, before it was done.
    Killed(String),
}

impl Guardian {
    /// The living process `pid`.
    ///
    /// # Errors
    /// There is none, or it is a child of ours, which no guardian is: we would take its end away from its owner.
    pub fn of(pid: u32) -> std::io::Result<Self> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let process = pidfd_open(number, PidfdFlags::empty())?;
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        match waitid(WaitId::PidFd(process.as_fd()), look) {
            Err(Errno::CHILD) => Ok(Self { pid, process, ended: None }),
            Ok(_) => Err(std::io::Error::other("it is a child of the requester")),
            Err(error) => Err(error.into()),
        }
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What has become of it. To be asked once its writer is gone.
    ///
    /// A process that has lost its parent becomes a child of a requester that asked the kernel for that
    /// (`PR_SET_CHILD_SUBREAPER`): only then is one that was killed told from one that was done.
    pub fn fate(&mut self) -> Fate {
        if let Some(known) = &self.ended {
            return known.clone();
        }
        let mut watched = [PollFd::new(&self.process, PollFlags::IN)];
        if !poll(&mut watched, Some(&rustix::event::Timespec::default())).is_ok_and(|ready| ready > 0) {
            return Fate::AtWork;
        }
        let ended =
            waitid(WaitId::PidFd(self.process.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        let status = ended.ok().flatten();
        let fate = match status.map(|status| (status.exit_status(), status.terminating_signal())) {
            Some((Some(code), _)) if code != 0 => Fate::Killed(format!("ended with exit status {code}")),
            Some((None, Some(signal))) => Fate::Killed(format!("was ended by signal {signal}")),
            // Somebody else's child: who has buried it, knows.
            None | Some(_) => Fate::Done,
        };
        self.ended.insert(fate).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_of_ours_and_a_process_that_is_gone_are_nobodys_guardian() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        assert!(Guardian::of(child.id()).is_err());
        child.wait().unwrap();
        assert!(Guardian::of(child.id()).is_err());
        assert!(Guardian::of(u32::MAX).is_err());
        let mut parent =
            Guardian::of(rustix::process::getppid().unwrap().as_raw_pid().cast_unsigned()).unwrap();
        assert_eq!(parent.fate(), Fate::AtWork);
    }
}

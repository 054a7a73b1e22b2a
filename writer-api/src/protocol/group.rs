//! The end of a writer's process: of its whole group, and of whoever left the group and kept the socket.
//!
//! Owns: that "released" is a fact and not a hope (promise P1). It is said only when the kernel says that
//! nobody is left.

use std::os::fd::OwnedFd;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, pidfd_send_signal,
    test_kill_process_group, waitid,
};

use super::conversation::Conversation;
use super::proc;

/// How long the process gets to release and end by itself once the socket was closed. P1 leaves 100 ms for all.
const GRACE: Duration = Duration::from_millis(40);

/// A process, its group, and the socket it was given.
pub struct Group {
    child: Child,
    pid: Pid,
    their_inode: u64,
    owner: proc::Owner,
    stage: Stage,
    pause: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// It may work.
    Alive,
    /// The socket was closed; it gets until then.
    Asked { until: Instant },
    /// SIGKILL was sent to all of the group.
    Killed,
    /// Its first process is gone, and was waited for.
    Reaped,
    /// Nobody is left.
    Gone,
}

/// What is to be done next.
pub enum Step {
    /// Nothing: nobody is left.
    Gone,
    /// Try again after this long.
    Wait(Duration),
}

impl Group {
    /// The group of a child that was just started as the leader of one.
    pub fn new(child: Child, their_inode: u64) -> Self {
        let pid = Pid::from_child(&child);
        let owner = proc::Owner::of(pid);
        Self { child, pid, their_inode, owner, stage: Stage::Alive, pause: Duration::ZERO }
    }

    /// The first process of it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable once the first process has ended.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn watch(&self) -> std::io::Result<OwnedFd> {
        Ok(pidfd_open(self.pid, PidfdFlags::empty())?)
    }

    /// How the first process ended, if it did. It stays a zombie, and its number its own.
    pub fn ended(&self) -> Option<String> {
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = waitid(WaitId::Pid(self.pid), how).ok()??;
        Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "it is gone".into(),
        })
    }

    /// Ends it at once, without a word: it was never spoken to.
    pub fn kill(&mut self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = self.child.wait();
    }

    /// One step on the way to its end; never waits. Begin with it as often as you like.
    ///
    /// # Errors
    /// Somebody holds the socket whom we may not end: who, as a sentence.
    pub fn step(&mut self, socket: &Conversation) -> Result<Step, String> {
        loop {
            match self.stage {
                Stage::Alive => {
                    socket.hang_up();
                    self.stage = Stage::Asked { until: Instant::now() + GRACE };
                }
                Stage::Asked { until } if self.ended().is_none() && Instant::now() < until => break,
                Stage::Asked { .. } => {
                    // Its number is its own until it is waited for. ESRCH: nobody is left in it.
                    let _ = kill_process_group(self.pid, Signal::KILL);
                    self.stage = Stage::Killed;
                    self.pause = Duration::ZERO;
                }
                Stage::Killed => match self.child.try_wait() {
                    Ok(None) => break,
                    // An error: somebody else has waited for it.
                    Ok(Some(_)) | Err(_) => self.stage = Stage::Reaped,
                },
                Stage::Reaped if test_kill_process_group(self.pid).is_ok() && proc::lives_in(self.pid) => {
                    break;
                }
                Stage::Reaped if !socket.is_closed() => {
                    let holders = proc::holders_of_socket(self.their_inode);
                    if holders.is_empty() {
                        self.stage = Stage::Gone;
                        continue;
                    }
                    for holder in holders {
                        self.end_holder(holder)?;
                    }
                    break;
                }
                Stage::Reaped => self.stage = Stage::Gone,
                Stage::Gone => return Ok(Step::Gone),
            }
        }
        self.pause = (self.pause * 2).clamp(Duration::from_micros(50), Duration::from_millis(2));
        Ok(Step::Wait(self.pause))
    }

    /// Ends a process that left the group and kept the socket: if it came from our child. A socket can be handed to
    /// anyone; a stranger is not killed for having it.
    fn end_holder(&self, holder: Pid) -> Result<(), String> {
        // From here on the number cannot become somebody else's.
        let Ok(process) = pidfd_open(holder, PidfdFlags::empty()) else { return Ok(()) };
        if !proc::has_socket(holder, self.their_inode) {
            return Ok(());
        }
        if !self.owner.may_be_of(holder) {
            return Err(format!("process {} has its socket, and is none of its own", holder.as_raw_pid()));
        }
        match pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => {
                Err(format!("process {} has its socket, and cannot be ended: {error}", holder.as_raw_pid()))
            }
        }
    }
}

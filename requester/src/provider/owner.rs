//! Who owns a shadow copy while it exists: one process of one boot, told apart by pid and start time.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::process::start_time;

/// A process that a later one with the same pid is not taken for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Process id.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start_ticks: u64,
    /// Which boot, as the kernel names it.
    pub boot_id: String,
}

impl Owner {
    /// This process. Without `/proc` it cannot be told from a later one, and then counts as dead.
    pub fn current() -> Self {
        let pid = std::process::id();
        Self { pid, start_ticks: start_time(pid).unwrap_or(0), boot_id: boot_id() }
    }

    /// Whether it still runs. A process that ended and was not waited for does not.
    pub fn alive(&self) -> bool {
        self.start_ticks != 0 && self.boot_id == boot_id() && start_time(self.pid) == Some(self.start_ticks)
    }
}

fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_neither_its_successor_nor_a_zombie_is() {
        let us = Owner::current();
        assert!(us.alive());
        assert!(!Owner { start_ticks: us.start_ticks + 1, ..us.clone() }.alive());
        assert!(!Owner { boot_id: "other".into(), ..us.clone() }.alive());

        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let other = Owner { pid: child.id(), start_ticks: start_time(child.id()).unwrap(), ..us };
        assert!(other.alive());
        drop(child.stdin.take());
        // Ended, not yet waited for: waitid with WNOWAIT leaves the zombie in place.
        let pid = rustix::process::Pid::from_child(&child);
        let how = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), how).unwrap();
        assert!(!other.alive());
        child.wait().unwrap();
        assert!(!other.alive());
    }
}

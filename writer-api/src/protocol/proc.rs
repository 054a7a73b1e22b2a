//! What `/proc` tells of other processes: who is in a group, who has a socket.

use std::fs;

use rustix::process::Pid;

/// Whose process it is, and since when: what its children share with it or come after.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    uid: Option<u32>,
    started: u64,
}

impl Owner {
    /// Of a living process.
    pub fn of(pid: Pid) -> Self {
        Self { uid: real_user(pid), started: stat(pid).map_or(0, |stat| stat.started) }
    }

    /// Whether `other` can be a child of it: the same user's, and no older.
    pub fn may_be_of(&self, other: Pid) -> bool {
        self.uid.is_some()
            && real_user(other) == self.uid
            && stat(other).is_some_and(|stat| stat.started >= self.started)
    }
}

/// Whether anybody in the process group is alive. Zombies hold nothing.
pub fn lives_in(group: Pid) -> bool {
    processes().any(|pid| stat(pid).is_some_and(|stat| stat.group == group.as_raw_pid() && !stat.dead))
}

/// Everybody but us who has the socket.
pub fn holders_of_socket(inode: u64) -> Vec<Pid> {
    let us = rustix::process::getpid();
    processes().filter(|pid| *pid != us && has_socket(*pid, inode)).collect()
}

/// Whether `pid` has the socket, as far as we may look.
pub fn has_socket(pid: Pid, inode: u64) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())) else { return false };
    let wanted = format!("socket:[{inode}]");
    descriptors
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == &*wanted))
}

fn processes() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
}

struct Stat {
    dead: bool,
    group: i32,
    started: u64,
}

/// The name in the second field may contain anything, `)` too.
fn stat(pid: Pid) -> Option<Stat> {
    let text = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    let end_of_name = text.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(text.get(end_of_name + 1..)?).ok()?.split_ascii_whitespace();
    // State is field 3, the group field 5, the number of threads field 20, the start time field 22.
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    let group = fields.nth(1)?.parse().ok()?;
    let threads: u32 = fields.nth(14)?.parse().ok()?;
    let started = fields.nth(1)?.parse().ok()?;
    // The first thread can end before the others do; what they hold is held.
    Some(Stat { dead: ended && threads <= 1, group, started })
}

fn real_user(pid: Pid) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

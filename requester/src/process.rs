//! Whether a process still is what it was: told by pid and start time, and by its last thread.

use std::fs;
use std::path::PathBuf;

/// When process `pid` started, in clock ticks since boot; `None` once it is gone.
///
/// A process whose first thread has ended is a zombie and yet not gone while another thread lives: its locks
/// and descriptors stand until the last one ends, which may wait in the kernel.
pub fn start_time(pid: u32) -> Option<u64> {
    let (state, started) = read_stat(PathBuf::from(format!("/proc/{pid}/stat")))?;
    let gone = is_gone(&state) && !has_live_thread(pid);
    (!gone).then_some(started)
}

fn is_gone(state: &str) -> bool {
    matches!(state, "Z" | "X" | "x")
}

fn has_live_thread(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads
        .flatten()
        .any(|thread| read_stat(thread.path().join("stat")).is_some_and(|(state, _)| !is_gone(&state)))
}

/// State and start time. The name in the second field may contain anything, `)` too.
fn read_stat(path: PathBuf) -> Option<(String, u64)> {
    let stat = fs::read(path).ok()?;
    let end_of_name = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(stat.get(end_of_name + 1..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?.to_owned();
    // State is field 3; the start time is field 22.
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_there_until_it_has_ended_and_a_zombie_is_gone() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        assert!(start_time(child.id()).is_some());
        drop(child.stdin.take());
        // Ended, not yet waited for: waitid with WNOWAIT leaves the zombie in place.
        let pid = rustix::process::Pid::from_child(&child);
        let how = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), how).unwrap();
        assert_eq!(start_time(child.id()), None);
        child.wait().unwrap();
        assert_eq!(start_time(child.id()), None);
    }

    #[test]
    fn a_process_whose_first_thread_ended_is_there_while_another_lives() {
        // The first thread leaves by the bare system call; the second waits for its input to end.
        let script = "import ctypes, threading, sys\n\
                      threading.Thread(target=sys.stdin.read).start()\n\
                      ctypes.CDLL(None).syscall(60, 0)\n";
        let spawned = std::process::Command::new("python3")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else { return };
        let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let leader_ended = || {
            let stat = PathBuf::from(format!("/proc/{}/stat", child.id()));
            read_stat(stat).is_some_and(|(state, _)| is_gone(&state))
        };
        while !leader_ended() && std::time::Instant::now() < until {
            std::thread::yield_now();
        }
        // On another architecture the number of the call is another one, and the first thread lives.
        assert!(start_time(child.id()).is_some());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

//! A requester stopped at a named point of its session, to be killed, stopped or let go on there.
//! Owns: the pause files, its children (the holders) and signals to it alone. Debug builds only have such points.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    error::FixtureError,
    holdfast::{Holdfast, Run, Running},
    process::{pause, send},
};

/// Every point of a `backup`, in order.
pub const BACKUP_POINTS: [&str; 12] = [
    "identify",
    "preflight",
    "prepare-backup",
    "prepare-snapshot",
    "freeze",
    "frozen",
    "committed",
    "thawed",
    "post-snapshot",
    "store",
    "stored",
    "backup-complete",
];

/// How long a busy machine may take to reach a point.
const LIMIT: Duration = Duration::from_secs(60);

/// A process that another one with the same number is not taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    started: u64,
}

impl Process {
    /// Whether it still runs; a zombie without a living thread holds nothing and does not count.
    #[must_use]
    pub fn is_running(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started)
    }

    /// Whether one of its threads waits in the kernel where no signal reaches it, as for a frozen disk.
    #[must_use]
    pub fn waits_in_the_kernel(self) -> bool {
        self.is_running() && thread_states(self.pid).contains(&'D')
    }

    /// Sends it a signal; nothing happens if it is gone.
    pub fn signal(self, signal: Signal) {
        if self.is_running() {
            send(self.pid, signal);
        }
    }
}

/// The command, waiting at a point until [`go_on`](Self::go_on). Killed when dropped.
#[derive(Debug)]
pub struct Paused {
    running: Running,
    runtime: PathBuf,
    children: Vec<Process>,
    /// When the point was seen to be reached.
    reached: Instant,
}

impl Holdfast {
    /// Starts the command and waits until it has reached `point`.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] with all it said if it ends before; [`FixtureError::Deadline`] after a minute.
    pub fn pause_at(
        &self,
        point: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Paused, FixtureError> {
        let runtime = self.runtime_dir();
        let marker = runtime.join(format!("paused-at-{point}"));
        for old in [&marker, &runtime.join("go-on")] {
            // Most often there is none.
            let _ = fs::remove_file(old);
        }
        let mut command = self.command(arguments)?;
        command.env("HOLDFAST_PAUSE_AT", point);
        let mut running = Self::spawn_command(command)?;
        let deadline = Instant::now() + LIMIT;
        while !marker.exists() {
            if !running.is_running() {
                let run = running.wait(LIMIT)?;
                let said = format!("ended before `{point}` ({:?}):\n{}{}", run.code, run.stderr, run.stdout);
                return Err(FixtureError::answer("holdfast", said));
            }
            if Instant::now() > deadline {
                return Err(FixtureError::Deadline { what: format!("holdfast at `{point}`"), after: LIMIT });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let reached = Instant::now();
        let children = children(running.pid());
        Ok(Paused { running, runtime, children, reached })
    }
}

impl Paused {
    /// Its child processes when it reached the point: one for each writer that takes part.
    #[must_use]
    pub fn children(&self) -> &[Process] {
        &self.children
    }

    /// Time since the point was seen to be reached.
    #[must_use]
    pub fn since(&self) -> Duration {
        self.reached.elapsed()
    }

    /// A signal to the requester alone.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// kill -9 of the requester alone. Gives the children that it leaves behind.
    #[must_use]
    pub fn kill(mut self) -> Vec<Process> {
        self.running.kill();
        std::mem::take(&mut self.children)
    }

    /// Lets it go on, and waits for its end.
    ///
    /// # Errors
    /// [`FixtureError::Io`]; [`FixtureError::Deadline`] after a minute.
    pub fn go_on(self) -> Result<Run, FixtureError> {
        self.release()?;
        self.wait()
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// [`FixtureError::Io`].
    pub fn release(&self) -> Result<(), FixtureError> {
        let path = self.runtime.join("go-on");
        fs::write(&path, "").map_err(FixtureError::io(format!("write {}", path.display())))
    }

    /// Waits for its end, once it was [released](Self::release).
    ///
    /// # Errors
    /// [`FixtureError::Deadline`] after a minute.
    pub fn wait(self) -> Result<Run, FixtureError> {
        self.running.wait(LIMIT)
    }
}

/// Waits until none of `processes` runs.
///
/// # Errors
/// [`FixtureError::Deadline`] after `limit`, naming those that are left.
pub fn all_gone(processes: &[Process], limit: Duration) -> Result<(), FixtureError> {
    let deadline = Instant::now() + limit;
    loop {
        let left: Vec<_> = processes.iter().filter(|process| process.is_running()).collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(FixtureError::Deadline { what: format!("the end of {left:?}"), after: limit });
        }
        pause();
    }
}

/// The running children of a process.
#[must_use]
pub fn children(parent: u32) -> Vec<Process> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter_map(|pid| {
        let stat = stat(pid)?;
        (stat.parent == parent).then_some(Process { pid, started: stat.started })
    });
    children.collect::<BTreeSet<_>>().into_iter().collect()
}

struct Stat {
    parent: u32,
    started: u64,
}

/// `None` for what is gone, or is a zombie. A zombie of which another thread still lives is not: it holds what it held.
fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    let mut fields = after_name(&text)?.split_whitespace();
    let is_gone = |state: char| matches!(state, 'Z' | 'X');
    let state = fields.next()?.chars().next()?;
    if is_gone(state) && thread_states(pid).into_iter().all(is_gone) {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { parent, started: fields.nth(17)?.parse().ok()? })
}

/// The letters that the kernel gives the states of a process's threads.
fn thread_states(pid: u32) -> Vec<char> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| fs::read_to_string(thread.path().join("stat")).ok());
    stats.filter_map(|stat| after_name(&stat)?.trim_start().chars().next()).collect()
}

/// The second field is the name in parentheses, and may contain anything.
fn after_name(stat: &str) -> Option<&str> {
    stat.rsplit_once(')').map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::{Process, children, stat};

    #[test]
    fn a_child_is_seen_while_it_runs_and_not_after() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep");
        let us = std::process::id();
        let seen = children(us).into_iter().find(|process| process.pid == child.id());
        let seen = seen.expect("our child");
        assert!(seen.is_running());
        assert!(!Process { started: seen.started + 1, ..seen }.is_running());
        assert_eq!(stat(seen.pid).map(|stat| stat.parent), Some(us));
        seen.signal(rustix::process::Signal::KILL);
        child.wait().expect("its end");
        assert!(!seen.is_running());
    }
}

//! The processes that hold applications, recorded before they do: what `thaw --all` ends.
//!
//! Needs no configuration, no repository and no disk but the runtime folder's, which is memory.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::process::start_time;

const SCHEMA: &str = "holdfast.holders/1";
const FILE: &str = "holders.json";

/// How long `thaw --all` waits for a killed holder to be gone.
const PATIENCE: Duration = Duration::from_millis(1500);

/// A process that may hold an application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The writer.
    pub writer: String,
    /// Its process, which leads a process group of its own.
    pub pid: u32,
    /// When that process started, in clock ticks since boot: another process of that number is not it.
    pub started: u64,
    /// The process that releases the application once that one is gone, and then ends. Never ended by us.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guardian: Option<Guardian>,
}

/// A process that thaws after a holder's end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guardian {
    /// Its number.
    pub pid: u32,
    /// When it started, as for the holder.
    pub started: u64,
    /// Its session saw that it was killed before it had thawed.
    #[serde(default)]
    pub killed: bool,
}

impl Guardian {
    fn of(pid: u32) -> Option<Self> {
        start_time(pid).map(|started| Self { pid, started, killed: false })
    }

    fn is_there(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// The holders of the session that runs, or of the last one that died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    schema: String,
    /// The set they were begun for.
    pub set: Uuid,
    /// The processes.
    pub holders: Vec<Holder>,
}

/// What became of one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Released {
    /// It was ended now; the kernel released what it held.
    Released,
    /// It was gone before.
    WasNotHeld,
    /// It was killed and is still there: it waits in the kernel. Its application may be held.
    StillHeld,
    /// It belongs to another user, and we may not end it. Its application may be held.
    NotPermitted,
    /// It is gone, and its guardian still tries to thaw the application.
    NotThawed,
    /// It is gone, and its guardian was killed before it had thawed: the application may be held, and nobody is left who
    /// would release it.
    Lost,
}

impl Released {
    /// Whether the application may still be held.
    pub const fn may_be_held(self) -> bool {
        match self {
            Self::Released | Self::WasNotHeld => false,
            Self::StillHeld | Self::NotPermitted | Self::NotThawed | Self::Lost => true,
        }
    }
}

impl Holder {
    /// Whether the process is there, and not another one of that number.
    fn is_there(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }

    /// Whether its guardian is at work.
    fn is_guarded(&self) -> bool {
        self.guardian.as_ref().is_some_and(Guardian::is_there)
    }

    /// Ends it if it is there.
    fn end(&self) -> Released {
        match (self.is_there(), self.is_guarded()) {
            (true, _) => self.kill(),
            (false, true) => Released::NotThawed,
            (false, false) if self.guardian.as_ref().is_some_and(|guardian| guardian.killed) => {
                Released::Lost
            }
            (false, false) => Released::WasNotHeld,
        }
    }

    /// What killing it came to so far.
    fn kill(&self) -> Released {
        use rustix::process::{Pid, Signal, kill_process, kill_process_group};
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Released::StillHeld;
        };
        let killed = [kill_process_group(pid, Signal::KILL), kill_process(pid, Signal::KILL)];
        match killed.iter().all(|killed| *killed == Err(Errno::PERM)) {
            true => Released::NotPermitted,
            false => Released::StillHeld,
        }
    }
}

impl Holders {
    /// The holders of `set`: each writer, its process, and its guardian's if it has one.
    pub fn new(set: Uuid, processes: impl IntoIterator<Item = (String, u32, Option<u32>)>) -> Self {
        let holders = processes
            .into_iter()
            .filter_map(|(writer, pid, guardian)| {
                let guardian = guardian.and_then(Guardian::of);
                start_time(pid).map(|started| Holder { writer, pid, started, guardian })
            })
            .collect();
        Self { schema: SCHEMA.into(), set, holders }
    }

    /// Where they are recorded.
    pub fn file(runtime_dir: &Path) -> PathBuf {
        runtime_dir.join(FILE)
    }

    /// Records them, in place of those of the session before.
    ///
    /// # Errors
    /// The runtime folder cannot be written: no freeze may follow.
    pub fn record(&self, runtime_dir: &Path) -> io::Result<()> {
        let path = Self::file(runtime_dir);
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(self)?)?;
        std::fs::rename(temporary, path)
    }

    /// Those on record, if any.
    ///
    /// # Errors
    /// The record is there and cannot be read.
    pub fn recorded(runtime_dir: &Path) -> io::Result<Option<Self>> {
        let bytes = match std::fs::read(Self::file(runtime_dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let damaged = |error: holdfast_writer_api::schema::DocumentError| io::Error::other(error);
        holdfast_writer_api::schema::parse(&bytes, SCHEMA).map(Some).map_err(damaged)
    }

    /// Removes the record of `set`: nothing is held by its session. That of another one, which has begun meanwhile, stays.
    pub fn forget(runtime_dir: &Path, set: Uuid) {
        if matches!(Self::recorded(runtime_dir), Ok(Some(recorded)) if recorded.set == set) {
            let _ = std::fs::remove_file(Self::file(runtime_dir));
        }
    }

    /// Takes note of guardians that are gone while their writers are `stuck`: they were killed. Records that.
    pub fn lost_guardians<'a>(&mut self, stuck: impl IntoIterator<Item = &'a str>, runtime_dir: &Path) {
        let mut lost = false;
        for writer in stuck {
            for holder in self.holders.iter_mut().filter(|holder| holder.writer == writer) {
                if let Some(guardian) = holder.guardian.as_mut().filter(|guardian| !guardian.is_there()) {
                    (guardian.killed, lost) = (true, true);
                }
            }
        }
        if lost {
            // The person is told in any case.
            let _ = self.record(runtime_dir);
        }
    }

    /// Ends them all, and waits at most 1.5 s until each is gone, and its guardian after it.
    pub fn end(&self) -> Vec<(Holder, Released)> {
        let mut outcome: Vec<_> = self.holders.iter().map(|holder| (holder.clone(), holder.end())).collect();
        let until = Instant::now() + PATIENCE;
        loop {
            let mut waiting = false;
            for (holder, released) in outcome.iter_mut() {
                if matches!(released, Released::Released | Released::WasNotHeld | Released::Lost) {
                    continue;
                }
                match (holder.is_there(), holder.is_guarded()) {
                    (false, false) => *released = Released::Released,
                    (false, true) => (waiting, *released) = (true, Released::NotThawed),
                    (true, _) => waiting = true,
                }
            }
            if !waiting || Instant::now() >= until {
                return outcome;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Kills holders when it is dropped, all of them before anybody waits for one: participants that are given up are dropped
/// one after the other, and each waits for the end of its own process.
pub(super) struct KillOnDrop(Option<Holders>);

impl KillOnDrop {
    pub fn new(holders: Holders) -> Self {
        Self(Some(holders))
    }

    /// They were thawed, or told to.
    pub fn disarm(mut self) -> Option<Holders> {
        self.0.take()
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        for holder in self.0.iter().flat_map(|holders| &holders.holders).filter(|holder| holder.is_there()) {
            holder.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recorded_holder_is_ended_and_a_stranger_of_the_same_number_is_not() {
        use std::os::unix::process::CommandExt;
        let dir = tempfile::tempdir().unwrap();
        let sleeper = || std::process::Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let (mut ours, mut stranger) = (sleeper(), sleeper());
        let mut holders =
            Holders::new(Uuid::nil(), [("a".into(), ours.id(), None), ("b".into(), stranger.id(), None)]);
        holders.holders[1].started += 1;
        holders.record(dir.path()).unwrap();
        let ended = Holders::recorded(dir.path()).unwrap().unwrap().end();
        let outcomes: Vec<_> = ended.iter().map(|(_, released)| *released).collect();
        assert_eq!(outcomes, [Released::Released, Released::WasNotHeld]);
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger still runs");
        stranger.kill().unwrap();
        let _ = (ours.wait(), stranger.wait());
        Holders::forget(dir.path(), Uuid::nil());
        assert_eq!(Holders::recorded(dir.path()).unwrap(), None);
    }

    /// `thaw --all` takes no lock: a session may begin while it works on the record of a dead one.
    #[test]
    fn the_record_of_a_session_that_began_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let [dead, next] = [Uuid::now_v7(), Uuid::now_v7()];
        let holders = |set| Holders::new(set, [("a".into(), std::process::id(), None)]);
        holders(dead).record(dir.path()).unwrap();
        holders(next).record(dir.path()).unwrap();
        Holders::forget(dir.path(), dead);
        assert_eq!(Holders::recorded(dir.path()).unwrap(), Some(holders(next)));
        Holders::forget(dir.path(), next);
        assert_eq!(Holders::recorded(dir.path()).unwrap(), None);
    }
}

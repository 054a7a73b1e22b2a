//! How a script is run: with which words, which surroundings, and what its exit code means.

use std::io::{self, BufRead, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use holdfast_writer_api::protocol::dies_with_us;
use rustix::fs::OFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use serde::{Deserialize, Serialize};

use super::voice::Voice;

/// "I take no part."
const SKIP: i32 = 75;
/// Most bytes of `describe` that are read.
const MAX_OUTPUT: usize = 1 << 20;

/// Names and values that a script finds in its environment.
pub type Environment = Vec<(String, String)>;

/// A script.
#[derive(Debug, Clone)]
pub struct Script {
    path: PathBuf,
    /// Its own first line names this very command, so that its shell has to be named.
    by_shell: bool,
}

/// What an exit code says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// 0.
    Done,
    /// 75.
    Skipped,
    /// Anything else.
    Failed {
        /// The exit code, if that was how it ended.
        code: Option<i32>,
        /// In words.
        how: String,
    },
}

impl Script {
    pub fn at(path: &Path) -> Self {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut first = String::new();
        if let Ok(file) = std::fs::File::open(&path) {
            // One that is no text has no such line.
            let _ = io::BufReader::new(file.take(256)).read_line(&mut first);
        }
        let by_shell = first.starts_with("#!") && first.contains(" writer shell");
        Self { path, by_shell }
    }

    /// What the script calls itself, by its file.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The script with one word, in a process group of its own. What it prints goes where its errors go.
    fn command(&self, word: &str, environment: &Environment, voice: &Voice) -> io::Result<Command> {
        let mut command = if self.by_shell {
            let mut shell = Command::new("/bin/sh");
            shell.arg(&self.path);
            shell
        } else {
            Command::new(&self.path)
        };
        command.arg(word).envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(voice.speak()?).stderr(voice.speak()?).process_group(0);
        Ok(command)
    }

    /// Starts `word`, which goes on also if we are killed.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, word: &str, environment: &Environment, voice: &Voice) -> io::Result<Run> {
        Run::of(self.command(word, environment, voice)?)
    }

    /// Starts `word`, which dies with us.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_bound(&self, word: &str, environment: &Environment, voice: &Voice) -> io::Result<Run> {
        Run::of(bound(self.command(word, environment, voice)?))
    }

    /// The same, and what it prints is kept for [`Run::printed`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn ask(&self, word: &str, environment: &Environment, voice: &Voice) -> io::Result<Run> {
        let (ours, theirs) = io::pipe()?;
        rustix::fs::fcntl_setfl(&ours, OFlags::NONBLOCK)?;
        let mut command = bound(self.command(word, environment, voice)?);
        command.stdout(theirs);
        Ok(Run { output: Some(ours), ..Run::of(command)? })
    }
}

fn bound(mut command: Command) -> Command {
    dies_with_us(&mut command);
    command
}

/// A script at work, the leader of a process group. Its number stays its own until this is dropped.
#[derive(Debug)]
pub struct Run {
    child: Child,
    process: OwnedFd,
    /// Where what it prints comes from, until there is too much of it.
    output: Option<PipeReader>,
    printed: Vec<u8>,
}

impl Run {
    fn of(mut command: Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(process) => Ok(Self { child, process, output: None, printed: Vec::new() }),
            Err(error) => {
                let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
                let _ = child.wait();
                Err(error.into())
            }
        }
    }

    /// The number of it and of its group.
    pub fn group(&self) -> u32 {
        self.child.id()
    }

    /// Readable once it has ended.
    pub fn process(&self) -> &OwnedFd {
        &self.process
    }

    /// Readable when it has printed something.
    pub fn output(&self) -> Option<&PipeReader> {
        self.output.as_ref()
    }

    /// Takes in what it has printed. Never waits.
    pub fn take_in(&mut self) {
        let mut bytes = [0; 4096];
        while let Some(output) = &self.output {
            match rustix::io::read(output, &mut bytes) {
                Ok(read) if read > 0 && self.printed.len() < MAX_OUTPUT => {
                    self.printed.extend_from_slice(&bytes[..read]);
                }
                Err(rustix::io::Errno::AGAIN) => return,
                // The end, or more than anybody reads: whoever goes on printing fails by it.
                _ => self.output = None,
            }
        }
    }

    /// What it has printed, if it was asked.
    pub fn printed(&self) -> String {
        String::from_utf8_lossy(&self.printed).into_owned()
    }

    /// How it ended; `None` if it has not.
    pub fn verdict(&self) -> Option<Verdict> {
        // Left a zombie: its number is that of its group, which is ended by it later.
        let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let status = match waitid(WaitId::Pid(Pid::from_child(&self.child)), how) {
            Ok(Some(status)) => status,
            Ok(None) => return None,
            Err(error) => return Some(Verdict::Failed { code: None, how: error.to_string() }),
        };
        Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(0), _) => Verdict::Done,
            (Some(SKIP), _) => Verdict::Skipped,
            (Some(code), _) => Verdict::Failed { code: Some(code), how: format!("exit status {code}") },
            (None, Some(signal)) => Verdict::Failed { code: None, how: format!("signal {signal}") },
            (None, None) => Verdict::Failed { code: None, how: "it is gone".into() },
        })
    }

    /// Lets go of it: whatever it has left in the background lives on.
    pub fn leave(mut self) {
        let _ = self.child.wait();
    }

    /// Ends it and all that it has left in its group.
    pub fn end(mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, Instant};

    use super::*;

    fn script(text: &str) -> (tempfile::TempDir, Script) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a-script");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let script = Script::at(&path);
        (folder, script)
    }

    fn ended(run: &mut Run) -> Verdict {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            run.take_in();
            if let Some(verdict) = run.verdict() {
                run.take_in();
                return verdict;
            }
            assert!(Instant::now() < until, "it does not end");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_script_whose_first_line_is_this_command_is_run_by_a_shell() {
        let (_folder, script) =
            script("#!/usr/bin/env -S holdfast writer shell\necho \"$1 for $WHOM\"\nexit 75\n");
        assert!(script.by_shell);
        let environment = vec![("WHOM".into(), "Ada".into())];
        let mut run = script.ask("describe", &environment, &Voice::new().unwrap()).unwrap();
        assert_eq!((ended(&mut run), &*run.printed()), (Verdict::Skipped, "describe for Ada\n"));
        assert_eq!(script.name(), "a-script");
        run.end();
    }

    #[test]
    fn a_script_that_prints_without_end_is_read_to_a_bound_and_fails() {
        let (_folder, script) = script("#!/bin/sh\nexec yes\n");
        let mut run = script.ask("describe", &vec![], &Voice::new().unwrap()).unwrap();
        assert!(matches!(ended(&mut run), Verdict::Failed { .. }));
        assert!(run.printed.len() <= MAX_OUTPUT + 4096);
        run.end();
    }

    #[test]
    fn what_a_script_leaves_in_its_group_is_ended_with_it() {
        let (folder, script) = script("#!/bin/sh\nsleep 600 &\necho $! >\"$FILE\"\n");
        let file = folder.path().join("pid");
        let environment = vec![("FILE".into(), file.display().to_string())];
        let mut run = script.start_bound("freeze", &environment, &Voice::new().unwrap()).unwrap();
        assert_eq!(ended(&mut run), Verdict::Done);
        let left: u32 = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        assert!(crate::process::start_time(left).is_some(), "still there, the script's end does not end it");
        run.end();
        let until = Instant::now() + Duration::from_secs(10);
        while crate::process::start_time(left).is_some() {
            assert!(Instant::now() < until, "process {left} lives on");
            std::thread::yield_now();
        }
    }
}

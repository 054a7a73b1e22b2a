//! How a writer's process is started, and with how little.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::said::{Ear, Said};
use crate::{Cause, WriterError};

/// What a child keeps of our environment.
const KEPT: [&str; 7] = ["PATH", "LANG", "LC_ALL", "HOME", "TMPDIR", "TZ", "RUST_BACKTRACE"];

/// One at a time, until the program runs and their end of its socket is closed here. Between its fork and its exec a child
/// has all that we have open: one that is started meanwhile would have the other's socket, and be ended with it.
static STARTING: Mutex<()> = Mutex::new(());

/// How to start a writer's process.
#[derive(Debug, Clone)]
pub struct Launcher {
    /// The program, absolute; it finds the socket as its standard input.
    pub program: PathBuf,
    /// Its arguments. Never secrets: anyone can read them.
    pub arguments: Vec<String>,
    /// Run it as this user and group, without supplementary groups. Only root can become another.
    pub run_as: Option<(u32, u32)>,
    /// What its processes say on standard error.
    pub said: Said,
}

/// A started process.
pub(super) struct Started {
    pub child: Child,
    /// Our end of the socket.
    pub socket: UnixStream,
    /// The number of the other end, by which whoever holds it is found.
    pub their_inode: u64,
    pub ear: Ear,
}

impl Launcher {
    /// Starts `program` with `arguments`, as ourselves.
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            run_as: None,
            said: Said::default(),
        }
    }

    /// Starts the process, in a process group of its own.
    ///
    /// # Errors
    /// [`WriterError::Denied`]: it is to run as another user, and we are not root.
    /// [`WriterError::NotResponding`]: it could not be started.
    pub(super) fn start(&self, writer: &str) -> Result<Started, WriterError> {
        let us = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let run_as = self.run_as.filter(|user| *user != us);
        if run_as.is_some() && us.0 != 0 {
            let cause = Cause::new("it is to run as another user (`run-as`), and only root can become one");
            return Err(WriterError::Denied { writer: writer.to_owned(), cause });
        }
        self.spawn(run_as).map_err(|error| {
            WriterError::not_responding(writer, format!("cannot start {}: {error}", self.program.display()))
        })
    }

    fn spawn(&self, run_as: Option<(u32, u32)>) -> std::io::Result<Started> {
        let _turn = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let (ours, theirs) = UnixStream::pair()?;
        let their_inode = rustix::fs::fstat(&theirs)?.st_ino;
        let (hear, speak) = Ear::pipe()?;
        let ear = Ear::listen(hear, self.said.clone())?;
        let mut command = Command::new(&self.program);
        // Nothing of our surroundings, secrets least of all, but what a program needs to run. Another user's
        // home is not ours.
        let kept = |name: &std::ffi::OsStr| {
            KEPT.iter().any(|kept| name == *kept) && !(run_as.is_some() && name == "HOME")
        };
        command
            .args(&self.arguments)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| kept(name)))
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(OwnedFd::from(speak)))
            .process_group(0);
        if let Some((uid, gid)) = run_as {
            // As root, `uid` takes the supplementary groups away too.
            command.uid(uid).gid(gid);
        }
        // The socket's end tells the child too; this also catches one that does not look.
        dies_with_us(&mut command);
        let child = command.spawn()?;
        Ok(Started { child, socket: ours, their_inode, ear })
    }
}

/// Has the kernel kill what `command` starts once the thread that starts it is gone.
pub fn dies_with_us(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: system calls only, which are async-signal-safe; nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // It may have died before that.
            if libc::getppid() as u32 != parent {
                libc::_exit(libc::EXIT_FAILURE);
            }
            Ok(())
        });
    }
}

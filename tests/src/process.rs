//! Programs that the fixtures run: to their end under a deadline, or beside the test until dropped.
//! Owns: deadlines, process groups, and that nothing started here outlives its handle.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::{error::FixtureError, require::find_program};

/// What a program left behind.
#[derive(Debug)]
pub struct Output {
    /// Exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error, made readable.
    pub stderr: String,
    /// Wall clock from start to end.
    pub took: Duration,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// A command for `program`, looked up also where Debian keeps tools for root; without standard input.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let program = program.as_ref();
    let found = program.to_str().filter(|name| !name.contains('/')).and_then(find_program);
    let mut command = match found {
        Some(path) => Command::new(path),
        None => Command::new(program),
    };
    command.stdin(Stdio::null());
    command
}

/// Runs to the end and captures everything, whatever the exit code.
///
/// # Errors
/// [`FixtureError::Io`] if it cannot be started; [`FixtureError::Deadline`] if it was still running after `limit`:
/// it and its whole process group have been killed then.
pub fn capture(command: &mut Command, limit: Duration) -> Result<Output, FixtureError> {
    let shown = show(command);
    let begun = Instant::now();
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(FixtureError::io(format!("run `{shown}`")))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    // The pipes' ends are awaited too: a grandchild that keeps them open counts as still running.
    let left = |begun: Instant| limit.saturating_sub(begun.elapsed());
    let late = |child: &mut Child| {
        kill_group(child);
        FixtureError::Deadline { what: format!("`{shown}`"), after: limit }
    };
    let Ok(stdout) = stdout.recv_timeout(left(begun)) else { return Err(late(&mut child)) };
    let Ok(stderr) = stderr.recv_timeout(left(begun)) else { return Err(late(&mut child)) };
    let Some(status) = wait_until(&mut child, begun + limit) else { return Err(late(&mut child)) };
    Ok(Output {
        status,
        stdout,
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
        took: begun.elapsed(),
    })
}

/// Like [`capture`], and a failure of the program is an error too.
///
/// # Errors
/// As [`capture`], and [`FixtureError::Command`] for any exit code but 0.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output, FixtureError> {
    let shown = show(command);
    let output = capture(command, limit)?;
    if output.status.success() {
        return Ok(output);
    }
    let mut told = output.stderr.clone();
    // Writing to a String cannot fail.
    let _ = write!(told, "{}", output.text());
    Err(FixtureError::Command { command: shown, status: output.status.to_string(), output: told })
}

/// A server that runs beside the test and is killed, with its process group, when dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: tempfile::NamedTempFile,
}

impl Server {
    /// Starts `command`; what it prints goes to a log outside of anything a test backs up.
    ///
    /// # Errors
    /// [`FixtureError::Io`] if it cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self, FixtureError> {
        let what = format!("start {name}");
        let log = tempfile::NamedTempFile::new().map_err(FixtureError::io(&*what))?;
        let handle = || -> io::Result<File> { log.as_file().try_clone() };
        let child = command
            .stdin(Stdio::null())
            .stdout(handle().map_err(FixtureError::io(&*what))?)
            .stderr(handle().map_err(FixtureError::io(&*what))?)
            .process_group(0)
            .spawn()
            .map_err(FixtureError::io(what))?;
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Asks `ready` every 20 ms until it says yes.
    ///
    /// # Errors
    /// [`FixtureError::Command`] with the log if the server ends first; [`FixtureError::Deadline`] after `limit`.
    pub fn wait_ready(&mut self, limit: Duration, ready: impl Fn() -> bool) -> Result<(), FixtureError> {
        let begun = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(FixtureError::Command {
                    command: self.name.clone(),
                    status: status.to_string(),
                    output: self.log(),
                });
            }
            if ready() {
                return Ok(());
            }
            if begun.elapsed() > limit {
                let what = format!("{} to be ready; it said:\n{}", self.name, self.log());
                return Err(FixtureError::Deadline { what, after: limit });
            }
            pause();
        }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.log.path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Ends it as its administrator would (SIGTERM), and by SIGKILL after `patience`.
    pub fn stop(mut self, patience: Duration) {
        signal_group(&self.child, Signal::TERM);
        wait_until(&mut self.child, Instant::now() + patience);
        // Drop kills what is left.
    }

    /// Sends a signal to its whole process group: `Signal::STOP`, `Signal::CONT`, `Signal::KILL`.
    pub fn signal(&self, signal: Signal) {
        signal_group(&self.child, signal);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill_group(&mut self.child);
    }
}

/// A port on 127.0.0.1 that was free a moment ago. Somebody else may take it first: be ready to ask again.
///
/// # Errors
/// [`FixtureError::Io`] if there is none.
pub fn free_port() -> Result<u16, FixtureError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(FixtureError::io("find a free port on 127.0.0.1"))
}

/// Starts a server on a free port, again on another one if it ends at once (the port was taken meanwhile).
pub(crate) fn start_on_free_port(
    start: impl Fn(u16) -> Result<Server, FixtureError>,
) -> Result<(Server, u16), FixtureError> {
    let mut last = None;
    for _ in 0..3 {
        let port = free_port()?;
        match start(port) {
            Ok(server) => return Ok((server, port)),
            Err(error @ FixtureError::Command { .. }) if error.to_string().contains("in use") => {
                last = Some(error)
            }
            Err(error) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| FixtureError::answer("free ports", "none")))
}

/// Polls until the child has ended; `None` if it has not by `deadline`.
pub(crate) fn wait_until(child: &mut Child, deadline: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => pause(),
            Ok(None) | Err(_) => return None,
        }
    }
}

/// SIGKILL to the process group the child leads, then reaps it. Harmless when it has ended.
pub(crate) fn kill_group(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        signal_group(child, Signal::KILL);
        // It cannot refuse SIGKILL; only a process stuck in the kernel would make this wait.
        let _ = child.wait();
    }
}

/// Not after the child was reaped: its id may then belong to somebody else. `Child` is only reaped here.
pub(crate) fn signal_group(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // ESRCH: the group has ended by itself.
        let _ = kill_process_group(pid, signal);
    }
}

/// A signal to one process.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // ESRCH: it ended by itself, which whoever asked will notice.
        let _ = kill_process(pid, signal);
    }
}

/// Sets permission bits.
pub(crate) fn chmod(path: &Path, mode: u32) -> Result<(), FixtureError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(FixtureError::io(format!("set the mode of {}", path.display())))
}

/// Makes sure that a folder exists.
pub(crate) fn create_dir(path: &Path) -> Result<(), FixtureError> {
    std::fs::create_dir_all(path).map_err(FixtureError::io(format!("create {}", path.display())))
}

/// Writes a whole file.
pub(crate) fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<(), FixtureError> {
    std::fs::write(path, content).map_err(FixtureError::io(format!("write {}", path.display())))
}

/// One step of polling something that cannot be waited for.
pub(crate) fn pause() {
    thread::sleep(Duration::from_millis(20));
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (done, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        // Nobody listens any more after a deadline.
        let _ = done.send(bytes);
    });
    receiver
}

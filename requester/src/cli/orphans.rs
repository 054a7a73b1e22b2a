//! Processes that were started while a writer is tested, and lost their parent.
//!
//! A supervisor becomes the parent of whoever loses its own, however it was detached, and buries it; the tester is its
//! child. When the tester ends, however it ends, the supervisor ends all the others.
//! Owns: that none of them is left, whatever a writer or a fixture has started.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, getppid, kill_process, set_child_subreaper,
    set_parent_process_death_signal, wait,
};

/// How long they may take to be gone. Those that are not, wait in the kernel.
const LIMIT: Duration = Duration::from_secs(5);

/// The tester's number, for the handler.
static TESTER: AtomicI32 = AtomicI32::new(0);

/// Runs `test` in a process of its own, and answers with its exit code once nobody is left of all that it has started.
/// Call it before there is a second thread.
///
/// # Errors
/// There is no such process.
pub fn supervised(test: impl FnOnce() -> ExitCode) -> io::Result<ExitCode> {
    set_child_subreaper(Some(getpid()))?;
    let us = getpid();
    // SAFETY: there is no other thread that could hold a lock which the child needs.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // As if somebody had asked it to end.
            set_parent_process_death_signal(Some(Signal::TERM))?;
            if getppid() != Some(us) {
                return Ok(ExitCode::FAILURE);
            }
            Ok(test())
        }
        tester => {
            TESTER.store(tester, Ordering::SeqCst);
            // SAFETY: the handler makes one system call, which is async-signal-safe.
            unsafe {
                // A terminal sends it to the tester as well.
                libc::signal(libc::SIGINT, libc::SIG_IGN);
                libc::signal(libc::SIGTERM, pass_on as *const () as libc::sighandler_t);
            }
            Ok(supervise(tester))
        }
    }
}

extern "C" fn pass_on(signal: libc::c_int) {
    let tester = TESTER.load(Ordering::SeqCst);
    if tester > 0 {
        // SAFETY: one system call; the number is the tester's until it is waited for.
        unsafe { libc::kill(tester, signal) };
    }
}

/// Buries whoever ends, until the tester does; then ends the others.
fn supervise(tester: i32) -> ExitCode {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid() == tester => {
                TESTER.store(0, Ordering::SeqCst);
                bury_all();
                return code(status);
            }
            Ok(_) | Err(Errno::INTR) => {}
            // Somebody else has waited for it, which nobody does.
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

fn code(status: WaitStatus) -> ExitCode {
    let signal = || status.terminating_signal().map_or(1, |signal| 128 + signal);
    ExitCode::from(u8::try_from(status.exit_status().unwrap_or_else(signal)).unwrap_or(1))
}

fn bury_all() {
    let until = Instant::now() + LIMIT;
    while Instant::now() < until {
        for child in children_of(getpid()) {
            // Ours until it is waited for: its number cannot become somebody else's.
            let _ = kill_process(child.pid, Signal::KILL);
        }
        match wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => return,
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Ok(Some(_)) | Err(_) => {}
        }
    }
}

/// Ends everybody who has lost his parent, and returns the names. For the tester, when it has no children itself.
pub fn end_all() -> Vec<String> {
    let Some(supervisor) = getppid() else { return Vec::new() };
    let mut ended = BTreeMap::new();
    let until = Instant::now() + LIMIT;
    loop {
        let others: Vec<_> =
            children_of(supervisor).into_iter().filter(|child| child.pid != getpid()).collect();
        if others.is_empty() || Instant::now() >= until {
            return ended.into_values().collect();
        }
        for child in others.into_iter().filter(|child| child.alive) {
            let _ = kill_process(child.pid, Signal::KILL);
            ended.insert(child.pid.as_raw_pid(), child.name);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Child {
    pid: Pid,
    name: String,
    alive: bool,
}

fn children_of(parent: Pid) -> Vec<Child> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    numbers.filter_map(|pid| child_of(parent, pid)).collect()
}

/// The name in the second field may contain anything, `)` too.
fn child_of(parent: Pid, pid: Pid) -> Option<Child> {
    let text = fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    let text = String::from_utf8_lossy(&text);
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let alive = fields.next()? != "Z";
    (fields.next()?.parse() == Ok(parent.as_raw_pid())).then(|| Child { pid, name: name.to_owned(), alive })
}

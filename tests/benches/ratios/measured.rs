//! A program, its wall clock and its peak memory.

use std::{
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Instant,
};

use crate::error::BenchError;

/// What one run cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Wall clock, in seconds.
    pub seconds: f64,
    /// The most memory that the program, or one of its children, had resident at once, in MiB.
    pub peak_mib: f64,
    /// Processor time of the program and its children, in seconds.
    pub cpu: f64,
}

/// Runs `command` to its end; `after` counts as part of it.
pub fn run(
    command: &mut Command,
    after: impl FnOnce() -> Result<(), BenchError>,
) -> Result<Cost, BenchError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let begun = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(BenchError::io(format!("start {program}")))?;
    let pid = libc::pid_t::try_from(child.id()).unwrap_or(-1);
    let mut status = 0;
    // SAFETY: all zeros is a valid value of this plain struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals that outlive the call. The child is ours and is waited for nowhere else.
    let waited = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if waited != pid {
        return Err(BenchError::io("wait for it")(std::io::Error::last_os_error()));
    }
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        return Err(BenchError::Program { program, status: format!("wait status {status:#x}") });
    }
    after()?;
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(Cost {
        seconds: begun.elapsed().as_secs_f64(),
        // Linux counts in KiB.
        peak_mib: usage.ru_maxrss as f64 / 1024.0,
        cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime),
    })
}

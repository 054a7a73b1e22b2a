//! What a pid file, systemd, a socket or a command say about an application. Each look has its own time limit.

use std::{
    fs::File,
    io::{self, Read},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};

use super::{offline::Findings, proc};

/// For a connection.
const CONNECT: Duration = Duration::from_secs(1);
/// For a program.
const PROGRAM: Duration = Duration::from_secs(5);
/// Addresses of one host that are tried.
const MAX_ADDRESSES: usize = 4;

pub(super) fn pid_file(path: &Path, findings: &mut Findings) {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_string(&mut text));
    let shown = path.display();
    match read {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            findings.down.push(format!("pid file `{shown}` does not exist"));
        }
        Err(error) => findings.unknown.push(format!("pid file `{shown}` cannot be read: {error}")),
        Ok(_) => {
            let Ok(pid) = text.trim().parse::<u32>() else {
                findings.unknown.push(format!("pid file `{shown}` contains no process id"));
                return;
            };
            let stat = proc::read(Path::new(&format!("/proc/{pid}/stat")));
            match stat.ok().and_then(|text| proc::parse_stat(&text)).filter(|stat| !stat.gone) {
                Some(stat) => {
                    findings.running(
                        Some(pid),
                        Some(stat.comm),
                        format!("is named by the pid file `{shown}`"),
                    );
                }
                None => findings.down.push(format!("process {pid} of pid file `{shown}` is gone")),
            }
        }
    }
}

/// Without systemd, or where it does not run this machine, the question is skipped with a note.
pub(super) fn systemd(unit: &str, findings: &mut Findings) {
    if !Path::new("/run/systemd/system").is_dir() {
        findings.down.push(format!("unit `{unit}` not asked about: systemd does not run here"));
        return;
    }
    let mut command = Command::new("systemctl");
    command.args(["show", "--property=LoadState,ActiveState,MainPID", "--", unit]);
    match run(command) {
        Ok((status, text)) if status.success() => judge_unit(unit, &text, findings),
        Ok((status, _)) => {
            findings.unknown.push(format!("systemctl could not tell the state of `{unit}` ({status})"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            findings.down.push(format!("unit `{unit}` not asked about: there is no systemctl"));
        }
        Err(error) => findings.unknown.push(format!("systemctl did not answer for `{unit}`: {error}")),
    }
}

fn judge_unit(unit: &str, text: &str, findings: &mut Findings) {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    match (value("LoadState"), value("ActiveState")) {
        (Some("not-found"), _) => findings.unknown.push(format!("systemd knows no unit `{unit}`")),
        (_, Some(state @ ("inactive" | "failed"))) => findings.down.push(format!("unit `{unit}` is {state}")),
        (_, Some(state)) => {
            let pid = value("MainPID").and_then(|pid| pid.parse().ok()).filter(|pid| *pid > 0);
            findings.running(pid, None, format!("unit `{unit}` is {state}"));
        }
        (_, None) => findings.unknown.push(format!("systemctl did not tell the state of `{unit}`")),
    }
}

pub(super) fn tcp(shown: &str, addresses: &[SocketAddr], findings: &mut Findings) {
    let mut unsure = None;
    for address in addresses.iter().take(MAX_ADDRESSES) {
        match TcpStream::connect_timeout(address, CONNECT) {
            Ok(_) => {
                findings.running(None, None, format!("{shown} accepts connections"));
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => unsure = Some(error),
        }
    }
    match unsure {
        None if addresses.is_empty() => findings.unknown.push(format!("{shown} has no address")),
        None => findings.down.push(format!("{shown} refuses connections")),
        Some(error) => findings.unknown.push(format!("{shown} could not be asked: {error}")),
    }
}

pub(super) fn http(url: &str, findings: &mut Findings) {
    let Some((host, port)) = authority(url) else {
        findings.unknown.push(format!("`{url}` is not a http or https URL with a host"));
        return;
    };
    match (host, port).to_socket_addrs() {
        Ok(addresses) => tcp(url, &addresses.collect::<Vec<_>>(), findings),
        Err(error) => findings.unknown.push(format!("the host of {url} was not found: {error}")),
    }
}

/// Host and port of a URL.
fn authority(url: &str) -> Option<(&str, u16)> {
    let (scheme, rest) = url.split_once("://")?;
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(default), |port| port.parse().ok())?;
    (!host.is_empty()).then_some((host, port))
}

pub(super) fn unix(path: &Path, findings: &mut Findings) {
    let shown = path.display();
    match connect_unix(path) {
        // A full queue is a living listener.
        Ok(()) | Err(rustix::io::Errno::AGAIN) => {
            findings.running(None, None, format!("`{shown}` accepts connections"));
        }
        Err(rustix::io::Errno::NOENT) => findings.down.push(format!("socket `{shown}` does not exist")),
        Err(rustix::io::Errno::CONNREFUSED) => {
            findings.down.push(format!("socket `{shown}` refuses connections"));
        }
        Err(errno) => {
            let error = io::Error::from(errno);
            findings.unknown.push(format!("socket `{shown}` could not be asked: {error}"));
        }
    }
}

/// Does not block: a local connection is made at once or not at all.
fn connect_unix(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let address = SocketAddrUnix::new(path)?;
    let connect = |kind| {
        rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
            .and_then(|socket| rustix::net::connect(&socket, &address))
    };
    match connect(SocketType::STREAM) {
        Err(rustix::io::Errno::PROTOTYPE) => connect(SocketType::DGRAM),
        answer => answer,
    }
}

pub(super) fn command(argv: &[String], findings: &mut Findings) {
    let Some((program, args)) = argv.split_first() else {
        findings.unknown.push("the probe command is empty".to_owned());
        return;
    };
    let mut command = Command::new(program);
    command.args(args);
    match run(command) {
        Ok((status, _)) if status.success() => {
            findings.running(None, None, format!("`{program}` says that it runs"));
        }
        Ok((status, _)) if status.code().is_some() => {
            findings.down.push(format!("`{program}` says that it does not run ({status})"));
        }
        Ok((status, _)) => findings.unknown.push(format!("`{program}` did not answer ({status})")),
        Err(error) => findings.unknown.push(format!("`{program}` did not answer: {error}")),
    }
}

/// Runs a program to its end, or kills it at its limit. Gives at most 64 KiB of what it printed.
fn run(mut command: Command) -> io::Result<(ExitStatus, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + PROGRAM;
    let read = child.stdout.take().map_or(Ok(String::new()), |out| read_until(out, deadline));
    let status = read.and_then(|text| Ok((wait_until(&mut child, deadline)?, text)));
    if status.is_err() {
        // Already gone is fine; either way it must not stay behind as a zombie.
        let _ = child.kill();
        let _ = child.wait();
    }
    status
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", PROGRAM.as_secs()))
}

/// Waits until `fd` has something to say.
fn wait_for(fd: impl std::os::fd::AsFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| timed_out())?;
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    if rustix::event::poll(&mut fds, Some(&left))? == 0 { Err(timed_out()) } else { Ok(()) }
}

fn read_until(mut out: std::process::ChildStdout, deadline: Instant) -> io::Result<String> {
    let (mut text, mut buffer) = (Vec::new(), [0_u8; 4096]);
    loop {
        wait_for(&out, deadline)?;
        match out.read(&mut buffer)? {
            0 => break,
            n if text.len() < 64 << 10 => text.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            _ => {}
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn wait_until(child: &mut std::process::Child, deadline: Instant) -> io::Result<ExitStatus> {
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    wait_for(&pidfd, deadline)?;
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restore::offline::Evidence;

    #[test]
    fn a_urls_host_and_port_are_found() {
        assert_eq!(authority("http://ca.example/api?x#y"), Some(("ca.example", 80)));
        assert_eq!(authority("https://u:p@[::1]:8443/"), Some(("::1", 8443)));
        assert_eq!(authority("https://host"), Some(("host", 443)));
        for bad in ["host:80", "http://", "http://h:x/", "http://[::1/", "unix:///x"] {
            assert_eq!(authority(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_inactive_and_failed_units_are_down() {
        let judge = |text: &str| {
            let mut findings = Findings::default();
            judge_unit("ca.service", text, &mut findings);
            findings
        };
        for state in ["inactive", "failed"] {
            assert_eq!(judge(&format!("LoadState=loaded\nActiveState={state}\n")).down.len(), 1);
        }
        for state in ["active", "activating", "deactivating", "reloading", "maintenance"] {
            let found = judge(&format!("MainPID=12\nLoadState=loaded\nActiveState={state}\n")).running;
            assert!(matches!(&*found, [Evidence { pid: Some(12), .. }]), "{state}");
        }
        assert_eq!(judge("LoadState=not-found\nActiveState=inactive\n").unknown.len(), 1);
        assert_eq!(judge("").unknown.len(), 1);
    }

    #[test]
    fn a_program_that_closes_its_output_and_stays_is_ended_at_the_limit() {
        let mut command = Command::new("sh");
        command.args(["-c", "exec >&-; sleep 60"]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let error = wait_until(&mut child, Instant::now()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

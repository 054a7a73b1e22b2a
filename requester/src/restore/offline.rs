//! Is the application down? Three answers, each with what it rests on; only "down" lets live data be moved (design §5).
//!
//! Rests on: open descriptors, mappings and locks of the live files (`holders`), processes by name, and what a pid file,
//! systemd and a probe say (`probe`). Any sign of life wins over any number of silences, and what could not be looked
//! into is "unknown", never "down".
//!
//! Not seen: descriptors on their way through a socket, files held by another machine, and processes that start after
//! the look. Ask again right before the swap; from then on the blocker keeps everyone out.

use std::{net::SocketAddr, path::PathBuf};

use super::{holders, probe};

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct OfflineCheck {
    /// Live files, side files, and folders with everything beneath. Missing ones are skipped.
    pub files: Vec<PathBuf>,
    /// A systemd unit, such as `cfssl.service`.
    pub unit: Option<String>,
    /// A file with the application's process id.
    pub pid_file: Option<PathBuf>,
    /// A question the application answers only while it runs.
    pub probe: Option<Probe>,
    /// Names of its programs, as in `/proc/PID/comm` or as the last name of the executable.
    pub match_processes: Vec<String>,
    /// Processes that do not count, such as helpers of this restore. This process never counts.
    pub ignore_processes: Vec<u32>,
}

/// A question the application answers only while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// Something accepts connections there, within 1 s.
    Tcp(SocketAddr),
    /// As [`Tcp`](Self::Tcp), for the host and port of a URL: whatever listens counts, not what it answers.
    Http(String),
    /// Something accepts connections at that socket, within 1 s.
    Unix(PathBuf),
    /// A program that exits with 0 while the application runs, and otherwise with another code, within 5 s.
    Command(Vec<String>),
}

/// One sign of life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The process, where one is known.
    pub pid: Option<u32>,
    /// Its name.
    pub comm: Option<String>,
    /// What it does, for example "has `/srv/ca/certs.db` open".
    pub what: String,
}

/// Whether the application is down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offline {
    /// Every question was answered, and none showed it running.
    Down {
        /// What was asked, and what could not be asked on this machine.
        evidence: Vec<String>,
    },
    /// It runs.
    Running {
        /// At most [`MAX_EVIDENCE`] signs of life.
        evidence: Vec<Evidence>,
    },
    /// No sign of life, but not everything could be looked at.
    Unknown {
        /// What could not be looked at, and what would help.
        reason: String,
    },
}

/// More signs of life than this tell nobody more.
pub const MAX_EVIDENCE: usize = 64;

/// What the single looks found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub running: Vec<Evidence>,
    pub unknown: Vec<String>,
    pub down: Vec<String>,
}

impl Findings {
    pub fn running(&mut self, pid: Option<u32>, comm: Option<String>, what: String) {
        let evidence = Evidence { pid, comm, what };
        if self.running.len() < MAX_EVIDENCE && !self.running.contains(&evidence) {
            self.running.push(evidence);
        }
    }

    fn answer(self) -> Offline {
        if !self.running.is_empty() {
            Offline::Running { evidence: self.running }
        } else if !self.unknown.is_empty() {
            Offline::Unknown { reason: self.unknown.join("; ") }
        } else {
            Offline::Down { evidence: self.down }
        }
    }
}

impl OfflineCheck {
    /// Looks. Blocks for at most a few seconds: each probe has its own limit.
    pub fn run(&self) -> Offline {
        let mut findings = Findings::default();
        holders::look(self, &mut findings);
        if let Some(path) = &self.pid_file {
            probe::pid_file(path, &mut findings);
        }
        if let Some(unit) = &self.unit {
            probe::systemd(unit, &mut findings);
        }
        match &self.probe {
            Some(Probe::Tcp(address)) => probe::tcp(&address.to_string(), &[*address], &mut findings),
            Some(Probe::Http(url)) => probe::http(url, &mut findings),
            Some(Probe::Unix(path)) => probe::unix(path, &mut findings),
            Some(Probe::Command(argv)) => probe::command(argv, &mut findings),
            None => {}
        }
        findings.answer()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::{self, File},
        io::{BufRead, BufReader, Write},
        net::TcpListener,
        os::unix::net::UnixListener,
        path::Path,
        process::{Child, Command, Stdio},
    };

    /// A process that does something with a file and says so.
    struct Holder(Child);

    impl Holder {
        fn new(script: &str, path: &Path) -> Self {
            let mut child = Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            Self(child)
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            self.0.stdin.take();
            let _ = self.0.wait();
        }
    }

    fn files(files: &[&Path]) -> OfflineCheck {
        OfflineCheck { files: files.iter().map(|path| path.to_path_buf()).collect(), ..Default::default() }
    }

    fn signs(check: &OfflineCheck) -> Vec<Evidence> {
        match check.run() {
            Offline::Running { evidence } => evidence,
            other @ (Offline::Down { .. } | Offline::Unknown { .. }) => panic!("not seen running: {other:?}"),
        }
    }

    /// Down, as far as this user may look: processes closed to it (others' without root, more privileged ones in a
    /// container) make every look "unknown", which `holders` tests, and are left out here.
    fn assert_down(check: &OfflineCheck) {
        let closed = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| {
            let refused = File::open(entry.path().join("maps")).err()?.kind();
            let pid = entry.file_name().to_str()?.parse().ok()?;
            (refused == std::io::ErrorKind::PermissionDenied).then_some(pid)
        });
        let ignore_processes = check.ignore_processes.iter().copied().chain(closed).collect();
        let answer = OfflineCheck { ignore_processes, ..check.clone() }.run();
        assert!(matches!(answer, Offline::Down { .. }), "{answer:?}");
    }

    #[test]
    fn an_open_descriptor_of_a_file_or_of_anything_beneath_a_folder_is_a_sign_of_life() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("keys/deep")).unwrap();
        let file = top.path().join("keys/deep/ca.pem");
        fs::write(&file, "x").unwrap();
        assert_down(&files(&[top.path()]));
        let holder = Holder::new("exec 7<\"$1\"; echo ready; read x", &file);
        for path in [&file, &top.path().join("keys")] {
            let signs = signs(&files(&[path]));
            assert_eq!(signs[0].pid, Some(holder.0.id()), "{signs:?}");
            assert_eq!(signs[0].comm.as_deref(), Some("sh"));
            assert!(signs[0].what.contains("ca.pem") && signs[0].what.contains("open"), "{signs:?}");
        }
        let ignoring = OfflineCheck { ignore_processes: vec![holder.0.id()], ..files(&[&file]) };
        assert_down(&ignoring);
        drop(holder);
        assert_down(&files(&[&file]));
    }

    #[test]
    fn a_mapping_without_a_descriptor_is_a_sign_of_life() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("program");
        fs::copy("/bin/sleep", &file).unwrap();
        // The program itself is the mapped file; nothing has it open.
        let mut child = Command::new(&file).arg("60").spawn().unwrap();
        let mut seen = Vec::new();
        // spawn() returns once the exec has happened, so the mapping is there.
        if let Offline::Running { evidence } = files(&[&file]).run() {
            seen = evidence;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(seen.iter().any(|sign| sign.what.contains("mapped")), "{seen:?}");
    }

    #[test]
    fn a_lock_is_seen_even_where_descriptors_may_not_be_looked_at() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("db");
        fs::write(&path, "x").unwrap();
        let holder = Holder::new("exec 7<\"$1\"; flock 7; echo ready; read x", &path);
        let signs = signs(&files(&[&path]));
        assert!(signs.iter().any(|sign| sign.what.contains("lock")), "{signs:?}");
        drop(holder);
    }

    #[test]
    fn own_descriptors_and_missing_files_are_no_signs_of_life() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join("db");
        fs::write(&path, "x").unwrap();
        let _mine = File::open(&path).unwrap();
        assert_down(&files(&[&path]));
        // Nothing there that anyone could hold: whose processes may be looked into does not matter.
        assert!(matches!(files(&[&top.path().join("none")]).run(), Offline::Down { .. }));
    }

    #[test]
    fn a_process_is_found_by_name() {
        let holder = Holder::new("echo ready; read x", Path::new("/"));
        let program = fs::read_link(format!("/proc/{}/exe", holder.0.id())).unwrap();
        for name in ["sh", program.file_name().unwrap().to_str().unwrap()] {
            let check = OfflineCheck { match_processes: vec![name.to_owned()], ..Default::default() };
            assert!(signs(&check).iter().any(|sign| sign.pid == Some(holder.0.id())), "{name}");
        }
    }

    #[test]
    fn whatever_listens_is_running_and_a_refused_connection_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let top = tempfile::tempdir().unwrap();
        let socket = top.path().join("s");
        let unix = UnixListener::bind(&socket).unwrap();
        let probes =
            [Probe::Tcp(address), Probe::Http(format!("http://{address}/health")), Probe::Unix(socket)];
        let check = |probe: &Probe| OfflineCheck { probe: Some(probe.clone()), ..Default::default() };
        for probe in &probes {
            assert_eq!(signs(&check(probe)).len(), 1, "{probe:?}");
        }
        drop((listener, unix));
        for probe in &probes {
            assert!(matches!(check(probe).run(), Offline::Down { .. }), "{probe:?}");
        }
    }

    #[test]
    fn a_command_answers_by_its_exit_code_and_one_that_cannot_run_answers_nothing() {
        let run = |argv: &[&str]| {
            let probe = Probe::Command(argv.iter().map(|arg| (*arg).to_owned()).collect());
            OfflineCheck { probe: Some(probe), ..Default::default() }.run()
        };
        assert!(matches!(run(&["true"]), Offline::Running { .. }));
        assert!(matches!(run(&["false"]), Offline::Down { .. }));
        assert!(matches!(run(&["/no/such/program"]), Offline::Unknown { .. }));
        assert!(matches!(run(&["sh", "-c", "kill -9 $$"]), Offline::Unknown { .. }));
        assert!(matches!(run(&[]), Offline::Unknown { .. }));
    }

    #[test]
    fn a_pid_file_counts_while_its_process_lives() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let check = OfflineCheck { pid_file: Some(file.path().to_owned()), ..Default::default() };
        assert!(matches!(check.run(), Offline::Unknown { .. }), "an empty pid file says nothing");
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        write!(file, "{}", child.id()).unwrap();
        assert!(matches!(check.run(), Offline::Down { .. }));
        let holder = Holder::new("echo ready; read x", Path::new("/"));
        fs::write(file.path(), format!("{}\n", holder.0.id())).unwrap();
        assert_eq!(signs(&check)[0].pid, Some(holder.0.id()));
        fs::remove_file(file.path()).unwrap();
        assert!(matches!(check.run(), Offline::Down { .. }));
    }

    #[test]
    fn a_url_without_a_host_is_unknown() {
        for url in ["", "cfssl", "http://", "ftp://host/"] {
            let check = OfflineCheck { probe: Some(Probe::Http(url.to_owned())), ..Default::default() };
            assert!(matches!(check.run(), Offline::Unknown { .. }), "{url}");
        }
    }
}

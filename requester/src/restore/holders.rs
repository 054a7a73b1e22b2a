//! Who has the live files open, mapped or locked, or runs under a given name: one pass over `/proc`.
//! Owns: the set of inodes looked for, and its limit. Leaves to others: what the findings add up to (`offline`).

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    offline::{Findings, OfflineCheck},
    proc,
};

/// Files beneath the given folders that are looked for; with more the answer is "unknown".
const MAX_FILES: usize = 1_000_000;
/// The kernel cuts process names here.
const COMM_BYTES: usize = 15;

/// The inodes looked for, by the two numbers a filesystem goes by.
#[derive(Default)]
struct Wanted {
    /// By device as `stat` says it, for descriptors.
    by_stat: HashMap<(u64, u64), usize>,
    /// By device as the kernel says it, for mappings and locks. Differs on btrfs only.
    by_kernel: HashMap<(u64, u64), usize>,
    kernel_device: HashMap<u64, u64>,
}

impl Wanted {
    fn add(&mut self, path: &Path, meta: &fs::Metadata, root: usize) {
        let device = *self
            .kernel_device
            .entry(meta.dev())
            .or_insert_with(|| proc::filesystem_of(path).unwrap_or(meta.dev()));
        self.by_stat.insert((meta.dev(), meta.ino()), root);
        self.by_kernel.insert((device, meta.ino()), root);
    }

    fn add_tree(&mut self, root: &Path, index: usize) -> io::Result<bool> {
        let meta = match fs::metadata(root) {
            Ok(meta) => meta,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        self.add(root, &meta, index);
        let mut folders: Vec<PathBuf> = meta.is_dir().then(|| root.to_owned()).into_iter().collect();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let meta = match entry.metadata() {
                    Ok(meta) => meta,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                };
                let path = entry.path();
                self.add(&path, &meta, index);
                if self.by_stat.len() > MAX_FILES {
                    return Ok(false);
                }
                if meta.is_dir() {
                    folders.push(path);
                }
            }
        }
        Ok(true)
    }
}

pub(super) fn look(check: &OfflineCheck, findings: &mut Findings) {
    let mut wanted = Wanted::default();
    for (index, root) in check.files.iter().enumerate() {
        match wanted.add_tree(root, index) {
            Ok(true) => {}
            Ok(false) => findings.unknown.push(format!(
                "`{}` holds more than {MAX_FILES} files, too many to look for in every process; confirm with --assume-stopped",
                root.display()
            )),
            Err(error) => findings.unknown.push(format!("`{}` cannot be looked at: {error}", root.display())),
        }
    }
    let count = wanted.by_stat.len();
    if count == 0 && check.match_processes.is_empty() {
        findings.down.push("none of its files exists".to_owned());
        return;
    }
    let scan = Scan { check, wanted, own: std::process::id() };
    if count > 0 {
        scan.locks(findings);
    }
    scan.processes(findings);
}

struct Scan<'a> {
    check: &'a OfflineCheck,
    wanted: Wanted,
    own: u32,
}

impl Scan<'_> {
    fn counts(&self, pid: u32) -> bool {
        pid != self.own && !self.check.ignore_processes.contains(&pid)
    }

    fn root(&self, index: usize) -> String {
        self.check.files.get(index).map(|path| format!("`{}`", path.display())).unwrap_or_default()
    }

    fn locks(&self, findings: &mut Findings) {
        let text = match proc::read(Path::new("/proc/locks")) {
            Ok(text) => text,
            Err(error) => {
                findings.unknown.push(format!("/proc/locks cannot be read: {error}"));
                return;
            }
        };
        for lock in String::from_utf8_lossy(&text).lines().filter_map(proc::parse_lock) {
            let Some(root) = self.wanted.by_kernel.get(&(lock.device, lock.inode)) else { continue };
            // A lock of an open file description names no process; if it is ours, our own descriptor is all there is.
            let Some(pid) = lock.pid.filter(|pid| self.counts(*pid)) else { continue };
            let comm = proc::read(Path::new(&format!("/proc/{pid}/stat")));
            let comm = comm.ok().and_then(|text| proc::parse_stat(&text)).map(|stat| stat.comm);
            findings.running(
                Some(pid),
                comm,
                format!("has a lock ({}) on a file of {}", lock.kind, self.root(*root)),
            );
        }
    }

    fn processes(&self, findings: &mut Findings) {
        let entries = match fs::read_dir("/proc") {
            Ok(entries) => entries,
            Err(error) => {
                findings.unknown.push(format!("/proc cannot be read: {error}"));
                return;
            }
        };
        let (mut seen, mut closed) = (0_usize, 0_usize);
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if !self.counts(pid) {
                continue;
            }
            let process = entry.path();
            // Gone between the listing and now: nothing to see.
            let Ok(text) = proc::read(&process.join("stat")) else { continue };
            let Some(stat) = proc::parse_stat(&text) else { continue };
            if stat.gone || stat.kernel_thread {
                continue;
            }
            seen += 1;
            self.name(pid, &process, &stat.comm, findings);
            if self.wanted.by_stat.is_empty() {
                continue;
            }
            let looked = self
                .descriptors(pid, &process, &stat.comm, findings)
                .and_then(|()| self.mappings(pid, &process, &stat.comm, findings));
            match looked {
                Ok(()) => {}
                // It ended while being looked at, and let go of everything.
                Err(error) if error.kind() == io::ErrorKind::NotFound || is_gone(&error) => {}
                Err(_) => closed += 1,
            }
        }
        let root = rustix::process::geteuid().is_root();
        if let Some(reason) = blind_spot(proc::hides_processes(Path::new("/proc")), closed, seen, root) {
            findings.unknown.push(reason);
        } else {
            findings
                .down
                .push(format!("none of {seen} processes holds any of {} files", self.wanted.by_stat.len()));
        }
    }

    fn name(&self, pid: u32, process: &Path, comm: &str, findings: &mut Findings) {
        if self.check.match_processes.is_empty() {
            return;
        }
        let program = proc::program(process);
        let hit = self.check.match_processes.iter().find(|name| {
            let cut = name.as_bytes().get(..COMM_BYTES).unwrap_or(name.as_bytes());
            cut == comm.as_bytes() || program.as_deref() == Some(name.as_str())
        });
        if let Some(name) = hit {
            findings.running(Some(pid), Some(comm.to_owned()), format!("runs as `{name}`"));
        }
    }

    fn descriptors(&self, pid: u32, process: &Path, comm: &str, findings: &mut Findings) -> io::Result<()> {
        for entry in fs::read_dir(process.join("fd"))? {
            let path = entry?.path();
            let id = match proc::descriptor(&path) {
                Ok(id) => id,
                // Closed meanwhile, or a descriptor of a server that no longer answers: no file of ours.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
                Err(_) => continue,
            };
            if self.wanted.by_stat.contains_key(&id) {
                let shown = fs::read_link(&path).unwrap_or_default();
                findings.running(Some(pid), Some(comm.to_owned()), format!("has `{}` open", shown.display()));
            }
        }
        Ok(())
    }

    fn mappings(&self, pid: u32, process: &Path, comm: &str, findings: &mut Findings) -> io::Result<()> {
        let text = proc::read(&process.join("maps"))?;
        for id in text.split(|byte| *byte == b'\n').filter_map(proc::parse_map) {
            if let Some(root) = self.wanted.by_kernel.get(&id) {
                findings.running(
                    Some(pid),
                    Some(comm.to_owned()),
                    format!("has a file of {} mapped", self.root(*root)),
                );
            }
        }
        Ok(())
    }
}

/// What keeps this look from being complete, and what would help. Process 1 is no exception: in a container it often is
/// the application.
fn blind_spot(hidden: bool, closed: usize, seen: usize, root: bool) -> Option<String> {
    // Root without all capabilities, as in a container, is refused too and cannot be told to become root.
    let help = if root {
        "root lacks the capabilities for it here: run with them, or confirm with --assume-stopped"
    } else {
        "run as root, or confirm with --assume-stopped"
    };
    if hidden {
        Some(format!("this /proc hides other users' processes; {help}"))
    } else if closed > 0 {
        Some(format!("{closed} of {seen} processes may not be looked into; {help}"))
    } else {
        None
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::blind_spot;

    #[test]
    fn a_process_that_may_not_be_looked_into_is_counted_and_the_advice_fits_the_user() {
        assert_eq!(blind_spot(false, 0, 50, false), None);
        let user = blind_spot(false, 3, 50, false).unwrap();
        assert!(user.starts_with("3 of 50 processes") && user.contains("run as root"), "{user}");
        for (hidden, closed) in [(false, 1), (true, 0)] {
            let root = blind_spot(hidden, closed, 50, true).unwrap();
            assert!(!root.contains("run as root") && root.contains("--assume-stopped"), "{root}");
        }
    }
}

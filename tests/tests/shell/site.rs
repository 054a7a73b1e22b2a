//! A visitors' book that is signed all the time, its writer in shell, and a world that backs it up.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_tests::FixtureError;
use holdfast_tests::clock::monotonic_ns;
use holdfast_tests::holdfast::{Holdfast, Run, Table, binary};
use holdfast_tests::load::{Ack, Acks, Load, Refused};
use holdfast_tests::paused::{Paused, Process, children};
use holdfast_tests::require::{require_tool, workspace_root};
use rustix::fs::{FlockOperation, flock};

pub type Tested = Result<(), FixtureError>;

/// What an administrator may expect of an application whose backup died.
pub const SOON: Duration = Duration::from_secs(1);
/// For what is only slow on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Site {
    pub world: Holdfast,
    place: tempfile::TempDir,
    visitors: Load,
}

impl Site {
    /// A site whose writer has no fault. `None` if the machine has no `flock`: said aloud.
    pub fn new() -> Result<Option<Self>, FixtureError> {
        if require_tool("flock").is_none() {
            return Ok(None);
        }
        let place = tempfile::tempdir().expect("a scratch folder");
        let mut world = Holdfast::new()?;
        for folder in ["writers", "temporary"] {
            fs::create_dir(place.path().join(folder)).expect("a folder");
        }
        // Copies, which belong to whoever runs the tests.
        for (from, name) in [
            ("writers/examples/shell/holdfast-writer-visitors", "visitors"),
            ("tests/fixtures/faulty-writer", "faulty"),
        ] {
            let to = place.path().join("writers").join(name);
            fs::copy(workspace_root().join(from), &to).expect("a script");
            fs::set_permissions(&to, Permissions::from_mode(0o755)).expect("a mode");
        }
        let paths = place.path().join("writers").display().to_string();
        world.config().append(&format!("[plugins]\npaths = [{paths:?}]\n"));
        // The scripts' first line finds the command by it.
        let programs = binary().parent().expect("a folder").display().to_string();
        let path = std::env::var("PATH").unwrap_or_default();
        world.set_environment("PATH", &format!("{programs}:{path}"));
        // Every process of a session keeps this, and is found by it.
        world.set_environment("TMPDIR", &place.path().join("temporary").display().to_string());
        let folder = place.path().join("application");
        fs::create_dir(&folder).expect("a folder");
        for file in ["book", "lock"] {
            File::create(folder.join(file)).expect("a file");
        }
        let visitors = Load::in_thread(move |number| sign(&folder, number));
        visitors.acks().wait_for(1, PATIENCE)?;
        let mut site = Self { world, place, visitors };
        site.writer("visitors");
        Ok(Some(site))
    }

    /// The same with a fault.
    pub fn faulty(fault: &str) -> Result<Option<Self>, FixtureError> {
        let Some(mut site) = Self::new()? else { return Ok(None) };
        site.with_fault(fault);
        Ok(Some(site))
    }

    pub fn with_fault(&mut self, fault: &str) -> &mut Table {
        let script = self.place.path().join("writers/visitors");
        self.writer("faulty").set("fault", fault).set("writer", script)
    }

    fn writer(&mut self, kind: &str) -> &mut Table {
        let folder = self.application();
        self.world.config().clear_writers().writer("book", kind).set("folder", folder)
    }

    /// Everything is another user's, who can reach what he needs.
    pub fn given_to(&mut self, user: u32) {
        let place = self.place.path();
        let programs = place.join("programs");
        fs::create_dir(&programs).expect("a folder");
        fs::copy(binary(), programs.join("holdfast")).expect("a copy");
        for (folder, mode) in [("", 0o755), ("writers", 0o755), ("programs", 0o755), ("temporary", 0o1777)] {
            fs::set_permissions(place.join(folder), Permissions::from_mode(mode)).expect("a mode");
        }
        for name in ["application", "application/book", "application/lock"] {
            chown(place.join(name), Some(user), Some(user)).expect("another owner");
        }
        let path = std::env::var("PATH").unwrap_or_default();
        self.world.set_environment("PATH", &format!("{}:{path}", programs.display()));
    }

    pub fn application(&self) -> PathBuf {
        self.place.path().join("application")
    }

    pub fn script(&self, name: &str) -> PathBuf {
        self.place.path().join("writers").join(name)
    }

    pub fn visitors(&self) -> &Acks {
        self.visitors.acks()
    }

    /// Nobody signs any more.
    pub fn closes(self) -> (Holdfast, tempfile::TempDir, Vec<u64>) {
        let signed = self.visitors.stop();
        let numbers = signed.iter().map(|ack| ack.name.parse().expect("a number")).collect();
        (self.world, self.place, numbers)
    }

    pub fn sets(&self) -> Result<usize, FixtureError> {
        Ok(self.world.json(["list", "backups"])?["backups"].as_array().expect("an array").len())
    }

    /// A second writer, which has nothing to hold.
    pub fn and_other(&mut self) {
        let other = self.place.path().join("other");
        fs::write(&other, "of the other one").expect("a file");
        self.world.config().writer("other", "files").set("paths", vec![other.to_string_lossy().as_ref()]);
    }

    /// Waits for a file that the script makes.
    #[track_caller]
    pub fn wait_for(&self, name: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.application().join(name).exists() {
            assert!(Instant::now() < until, "there is no `{name}`");
            std::thread::yield_now();
        }
    }

    /// That nobody signs.
    #[track_caller]
    pub fn assert_held(&self) {
        // What was under way may still be told.
        let _ = self.visitors().wrote_again_within(Duration::from_millis(30));
        assert!(self.visitors().wrote_again_within(Duration::from_millis(100)).is_err(), "it is not held");
    }

    /// That it is signed again, and goes on to be.
    #[track_caller]
    pub fn assert_released(&self, when: &str) {
        let again = self.visitors().wrote_again_within(SOON);
        again.unwrap_or_else(|error| panic!("{when}: {error}"));
        assert!(!self.application().join("closed").exists(), "{when}: closed again");
    }

    /// Nobody of any session is left: shims, guardians, scripts and what they started.
    #[track_caller]
    pub fn assert_alone(&self, when: &str) {
        let until = Instant::now() + SOON;
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "{when}: {left:?}");
            std::thread::yield_now();
        }
    }

    fn processes(&self) -> Vec<String> {
        let marker = self.place.path().join("temporary").display().to_string();
        let ours = |environment: Vec<u8>| environment.windows(marker.len()).any(|w| w == marker.as_bytes());
        let all = fs::read_dir("/proc").expect("the processes").flatten();
        let left = all.filter(|process| ours(fs::read(process.path().join("environ")).unwrap_or_default()));
        left.map(|process| {
            let command = fs::read_to_string(process.path().join("cmdline")).unwrap_or_default();
            format!("{} {}", process.file_name().display(), command.replace('\0', " "))
        })
        .collect()
    }
}

/// A visitor, who waits while the book is closed: the application, as it knows nothing of backups.
fn sign(folder: &Path, number: u64) -> Result<Ack, Refused> {
    let begun_ns = monotonic_ns();
    let signed = || -> std::io::Result<bool> {
        let lock = File::open(folder.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        if folder.join("closed").exists() {
            return Ok(false);
        }
        File::options()
            .append(true)
            .open(folder.join("book"))?
            .write_all(format!("{number}\n").as_bytes())?;
        Ok(true)
    };
    let message = match signed() {
        Ok(true) => {
            let name = number.to_string();
            let (serial, pem, acked_ns) = (String::new(), String::new(), monotonic_ns());
            return Ok(Ack { name, serial, pem, begun_ns, acked_ns });
        }
        Ok(false) => "closed".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Refused { begun_ns, refused_ns: monotonic_ns(), message })
}

/// The processes of a writer in a session that is paused: the one that speaks, and its guardian.
pub fn writer_of(paused: &Paused) -> (Process, Process) {
    let shim = *paused.children().last().expect("a writer");
    (shim, *children(shim.pid).first().expect("a guardian"))
}

#[track_caller]
pub fn assert_free(run: &Run, words: &[&str]) {
    let state: Vec<_> = words.iter().copied().chain(["no application is held"]).collect();
    run.assert_failed(5, &state);
}

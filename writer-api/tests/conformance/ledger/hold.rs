//! How the ledger is held: a good way, and four that look like one.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_writer_api::WriterError;
use rustix::fs::{FlockOperation, flock};

use super::defect::Defect;
use super::relay::SECONDS;
use super::writer::Common;

/// The ledger's lock, or a place for it. Dropping it releases.
#[derive(Default)]
pub struct Hold {
    lock: Arc<Mutex<Option<File>>>,
    child: Option<Child>,
    /// Whether the lock is handed over to somebody else when this is dropped.
    hands_over: bool,
}

impl Hold {
    pub async fn take(&mut self, common: &Common, budget: Duration) -> Result<(), WriterError> {
        let path = common.file("lock");
        match common.defect {
            Some(Defect::HoldsNothing) => return Ok(()),
            Some(Defect::HoldsInAChild) => self.child = Some(hold_in_a_child(&path, budget)),
            Some(Defect::TakesTheHoldLate) => self.child = Some(hold_late(&path).await),
            _ => {
                let lock = locked(common, &path, Instant::now() + budget / 2).await?;
                *self.lock.lock().unwrap() = Some(lock);
            }
        }
        self.hands_over = common.has(Defect::HandsTheHoldOver);
        match common.defect {
            Some(Defect::LetsGoEarly) => self.let_go_after(budget / 2),
            // Its server thinks in seconds, itself it does not.
            Some(Defect::KeepsQuietWhenLate) => self.let_go_after(budget / SECONDS),
            _ => {}
        }
        Ok(())
    }

    pub fn is_held(&self) -> bool {
        self.child.is_some() || self.lock.lock().unwrap().is_some()
    }

    pub fn release(&mut self) {
        *self.lock.lock().unwrap() = None;
        if let Some(mut child) = self.child.take() {
            // Its standard input ends; the one that does not listen to it is killed.
            drop(child.stdin.take());
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn let_go_after(&self, time: Duration) {
        let lock = Arc::clone(&self.lock);
        std::thread::spawn(move || {
            std::thread::sleep(time);
            *lock.lock().unwrap() = None;
        });
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // "Cleans up in the background."
        if let (true, Some(lock)) = (self.hands_over, self.lock.lock().unwrap().take()) {
            let _ =
                in_a_session_of_its_own(Command::new("sleep").arg("0.8").stdin(Stdio::from(lock))).spawn();
        }
        self.release();
    }
}

/// The good way: the lock of an open file of this process, which the kernel closes whatever happens.
async fn locked(common: &Common, path: &Path, until: Instant) -> Result<File, WriterError> {
    let lock = File::open(path).unwrap();
    while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() >= until {
            return Err(common.rejected("the ledger does not let go of its lock"));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(lock)
}

/// A child that holds the lock as long as it was told to, whoever is still there.
fn hold_in_a_child(lock: &Path, budget: Duration) -> Child {
    let holding = format!("echo held; exec sleep {}", budget.as_secs_f64());
    let mut command = Command::new("flock");
    let child =
        command.arg("--no-fork").arg(lock).args(["sh", "-c", &holding]).stdout(Stdio::piped()).spawn();
    let mut child = child.unwrap();
    wait_for_a_line(child.stdout.take().unwrap());
    child
}

/// A child, in a session of its own, that takes the lock when it gets to it. If nobody listens by then, it keeps it
/// nevertheless. Else it holds until its standard input ends.
async fn hold_late(lock: &Path) -> Child {
    let holding = "trap '' PIPE; if echo held; then read nothing; else sleep 1; fi";
    let script = format!("sleep 0.3; exec flock --no-fork \"$0\" sh -c \"{holding}\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .arg(lock)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = in_a_session_of_its_own(&mut command).spawn().unwrap();
    let output = child.stdout.take().unwrap();
    tokio::task::spawn_blocking(move || wait_for_a_line(output)).await.unwrap();
    child
}

fn wait_for_a_line(output: ChildStdout) {
    BufReader::new(output).read_line(&mut String::new()).unwrap();
}

fn in_a_session_of_its_own(command: &mut Command) -> &mut Command {
    // SAFETY: one system call, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        })
    }
}

//! The writer's end of the socket to its guardian; and another guardian, should that one be killed.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::{Deserialize, Serialize};

use super::script::{Environment, Verdict};

/// How long until it is tried again to start another guardian.
const PAUSE: Duration = Duration::from_millis(50);

/// What the guardian is asked, one JSON object a line.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Run a word that holds nothing.
    Run { word: String, environment: Environment },
    /// Run `freeze`, and `thaw` when the budget is over.
    Freeze { budget_ms: u64, environment: Environment },
    /// Run `thaw` now.
    Thaw,
    /// Run `thaw` for another guardian, which was killed.
    Undo(Debt),
}

/// A `thaw` that is owed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Debt {
    /// The process group of the `freeze`, as far as it was begun.
    pub group: Option<u32>,
    /// What the `freeze` was told.
    pub environment: Environment,
}

/// What it answers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    /// The word was run.
    Ended { verdict: Verdict, printed: String },
    /// `freeze` was begun; more follows.
    Started { group: u32 },
    /// `freeze` succeeded.
    Frozen,
    /// `freeze` takes no part; `thaw` was run.
    Skipped,
    /// It did not succeed, how in words; after a `freeze`, `thaw` was run.
    Failed(String),
    /// `thaw` succeeded.
    Released,
    /// The budget was over before: `thaw` had been run.
    Late,
    /// There was nothing to thaw.
    WasNotHeld,
}

/// Makes the command that becomes a guardian.
pub type Starter = Arc<dyn Fn() -> Command + Send + Sync>;

/// The socket, whose end means thaw.
#[derive(Debug)]
pub struct Link {
    guardian: u32,
    socket: BufReader<UnixStream>,
    account: Arc<Account>,
}

/// What the guardian owes, and what became of it.
#[derive(Debug, Default)]
struct Account {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    owed: Option<Debt>,
    /// The guardian is gone, and owes nothing any more.
    settled: bool,
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Starts the guardian.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(starter: &Starter) -> io::Result<Self> {
        let (child, socket) = spawn(starter)?;
        let (guardian, account) = (child.id(), Arc::new(Account::default()));
        let (starter, watched) = (Arc::clone(starter), Arc::clone(&account));
        // It outlives us, as a rule; one that does not was killed.
        std::thread::Builder::new().spawn(move || watch(child, &watched, &starter))?;
        Ok(Self { guardian, socket, account })
    }

    /// The guardian's process.
    pub fn guardian(&self) -> u32 {
        self.guardian
    }

    /// A word that holds nothing: how it ended, and what it printed.
    ///
    /// # Errors
    /// It could not be run.
    pub fn run(&mut self, word: &str, environment: Environment) -> io::Result<(Verdict, String)> {
        match self.ask(&Ask::Run { word: word.to_owned(), environment })? {
            Told::Ended { verdict, printed } => Ok((verdict, printed)),
            Told::Failed(how) => Err(io::Error::other(how)),
            other @ (Told::Started { .. }
            | Told::Frozen
            | Told::Skipped
            | Told::Released
            | Told::Late
            | Told::WasNotHeld) => Err(io::Error::other(format!("its guardian answered {other:?}"))),
        }
    }

    /// `freeze`. Returns when the script has ended, or its time is over.
    ///
    /// # Errors
    /// The guardian was killed; `thaw` has been run by another one.
    pub fn freeze(&mut self, budget: Duration, environment: Environment) -> io::Result<Told> {
        let budget_ms = holdfast_writer_api::duration::millis(budget);
        self.account.state().owed = Some(Debt { group: None, environment: environment.clone() });
        let mut told = self.ask(&Ask::Freeze { budget_ms, environment })?;
        if let Told::Started { group } = told {
            if let Some(debt) = &mut self.account.state().owed {
                debt.group = Some(group);
            }
            told = self.told()?;
        }
        if matches!(told, Told::Skipped | Told::Failed(_)) {
            self.account.state().owed = None;
        }
        Ok(told)
    }

    /// `thaw`. Returns when it has succeeded.
    ///
    /// # Errors
    /// The guardian was killed; `thaw` has been run by another one.
    pub fn thaw(&mut self) -> io::Result<Told> {
        let told = self.ask(&Ask::Thaw)?;
        self.account.state().owed = None;
        Ok(told)
    }

    fn ask(&mut self, ask: &Ask) -> io::Result<Told> {
        match send(&mut self.socket, ask) {
            Ok(()) => self.told(),
            Err(error) => Err(self.lost(error)),
        }
    }

    fn told(&mut self) -> io::Result<Told> {
        receive(&mut self.socket).map_err(|error| self.lost(error))
    }

    /// Waits until what was owed is paid. The requester waits no longer than it said.
    fn lost(&self, error: io::Error) -> io::Error {
        let mut state = self.account.state();
        while !state.settled {
            state = self.account.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        error
    }
}

fn spawn(starter: &Starter) -> io::Result<(Child, BufReader<UnixStream>)> {
    let (ours, theirs) = UnixStream::pair()?;
    let child = starter().stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null()).spawn()?;
    Ok((child, BufReader::new(ours)))
}

fn send(socket: &mut BufReader<UnixStream>, ask: &Ask) -> io::Result<()> {
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    socket.get_mut().write_all(&line)
}

fn receive(socket: &mut BufReader<UnixStream>) -> io::Result<Told> {
    let mut answer = String::new();
    if socket.read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(&answer)?)
}

/// Waits for a guardian's end, and has another one pay what it owed.
///
/// It is buried only then. If we are killed before, whoever becomes its parent sees that it was killed in debt.
fn watch(mut guardian: Child, account: &Account, starter: &Starter) {
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(Pid::from_child(&guardian)), how) {}
    let owed = account.state().owed.take();
    if let Some(debt) = owed {
        let ask = Ask::Undo(debt);
        let paid = || -> io::Result<()> {
            let (mut another, mut socket) = spawn(starter)?;
            send(&mut socket, &ask)?;
            let paid = receive(&mut socket).map(drop);
            drop(socket);
            another.wait()?;
            paid
        };
        while paid().is_err() {
            std::thread::sleep(PAUSE);
        }
    }
    let _ = guardian.wait();
    account.state().settled = true;
    account.changed.notify_all();
}

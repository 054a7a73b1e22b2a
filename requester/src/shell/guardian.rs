//! The process that runs the script, and `thaw` whatever happens: its writer killed, the requester killed, the script
//! hanging, failing, or killed, the time over.
//!
//! **Invariant:** from before `freeze` is started until `thaw` has succeeded this process does not end by itself.
//! **Invariant:** `thaw` is not begun while a `freeze` can still do anything.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::link::{Ask, Debt, Told};
use super::script::{Environment, Run, Script, Verdict};
use super::voice::{Voice, say};

/// How long the first `thaw` may take; each further one has twice the time, up to the longest.
const THAW: Duration = Duration::from_secs(2);
const LONGEST_THAW: Duration = Duration::from_secs(64);
/// How long it is waited after the first failure; twice that after the next, up to the longest.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// After this many failures the system's log is told as well: nobody else may be listening any more.
const PATIENCE: u32 = 3;

/// For `ps` and `killall`.
const NAME: &std::ffi::CStr = c"thaw-guardian";

pub fn run(script: Script) -> ExitCode {
    // Whoever ends the writer's session or its group does not mean us.
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(NAME);
    block_signals();
    let socket = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let (Ok(socket), Ok(voice)) = (socket, Voice::new()) else { return ExitCode::FAILURE };
    Guardian { script, socket, heard: Vec::new(), held: None, late: false, voice }.serve();
    ExitCode::SUCCESS
}

/// A signal that asks us to end comes too early: we end by ourselves once nothing is held. Blocked and not ignored, since
/// scripts would inherit that; a new process begins with none blocked.
fn block_signals() {
    // SAFETY: the set is initialised by `sigemptyset` before it is used; there is no other thread yet.
    unsafe {
        let mut signals = std::mem::zeroed();
        libc::sigemptyset(&raw mut signals);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(&raw mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, std::ptr::null_mut());
    }
}

struct Guardian {
    script: Script,
    socket: UnixStream,
    heard: Vec<u8>,
    held: Option<Held>,
    /// The last hold ended by its time.
    late: bool,
    voice: Voice,
}

/// What `thaw` is owed for.
struct Held {
    freeze: Run,
    environment: Environment,
    until: Instant,
}

/// What came first.
enum Event {
    Asked(Ask),
    /// The writer is gone, or speaks nonsense.
    Gone,
    /// The script has ended.
    Ended(Verdict),
    /// The time is over.
    Over,
}

impl Guardian {
    /// Returns when the writer is gone and nothing is held.
    fn serve(&mut self) {
        loop {
            let until = self.held.as_ref().map(|held| held.until);
            let told = match self.wait(None, until) {
                Event::Asked(Ask::Run { word, environment }) => self.question(&word, &environment),
                Event::Asked(Ask::Freeze { budget_ms, environment }) => {
                    self.freeze(Duration::from_millis(budget_ms), environment)
                }
                Event::Asked(Ask::Thaw) if std::mem::take(&mut self.late) => Told::Late,
                Event::Asked(Ask::Thaw) if self.held.is_none() => Told::WasNotHeld,
                Event::Asked(Ask::Thaw) => {
                    self.release();
                    Told::Released
                }
                Event::Asked(Ask::Undo(debt)) => {
                    self.undo(&debt);
                    Told::Released
                }
                Event::Over => {
                    self.release();
                    self.late = true;
                    continue;
                }
                Event::Gone | Event::Ended(_) => {
                    self.release();
                    return;
                }
            };
            self.answer(&told);
        }
    }

    /// A word that holds nothing.
    fn question(&mut self, word: &str, environment: &Environment) -> Told {
        let mut run = match self.script.ask(word, environment, &self.voice) {
            Ok(run) => run,
            Err(error) => return Told::Failed(not_started(&error)),
        };
        let event = self.wait(Some(&mut run), None);
        let printed = run.printed();
        run.end();
        match event {
            Event::Ended(verdict) => Told::Ended { verdict, printed },
            Event::Asked(_) | Event::Gone | Event::Over => Told::Failed("it was given up".into()),
        }
    }

    fn freeze(&mut self, budget: Duration, environment: Environment) -> Told {
        // A second one, without a thaw: never both.
        self.release();
        self.late = false;
        let until = Instant::now() + budget;
        let mut freeze = match self.script.start_bound("freeze", &environment, &self.voice) {
            Ok(run) => run,
            // Nothing was begun.
            Err(error) => return Told::Failed(not_started(&error)),
        };
        self.answer(&Told::Started { group: freeze.group() });
        let told = match self.wait(Some(&mut freeze), Some(until)) {
            Event::Ended(Verdict::Done) => {
                self.held = Some(Held { freeze, environment, until });
                return Told::Frozen;
            }
            Event::Ended(Verdict::Skipped) => Told::Skipped,
            Event::Ended(Verdict::Failed { how, .. }) => Told::Failed(how),
            Event::Over => Told::Failed(format!("it was not done within {} ms", budget.as_millis())),
            Event::Gone | Event::Asked(_) => Told::Failed("it was given up".into()),
        };
        freeze.end();
        self.thaw(&environment, 1);
        told
    }

    /// Thaws what is held.
    fn release(&mut self) {
        let Some(Held { freeze, environment, .. }) = self.held.take() else { return };
        let thawed = self.thaw_once(&environment, THAW);
        // What it left behind to hold the application does so no longer, even if `thaw` forgot it, or fails.
        freeze.end();
        if let Err(why) = thawed {
            tell(&self.script, 1, &why);
            std::thread::sleep(PAUSE);
            self.thaw(&environment, 2);
        }
    }

    /// What another guardian owed, which was killed.
    fn undo(&self, debt: &Debt) {
        let group = debt.group.and_then(|group| i32::try_from(group).ok()).and_then(Pid::from_raw);
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        self.thaw(&debt.environment, 1);
    }

    /// Until it succeeds. `from` is the number of the first attempt.
    fn thaw(&self, environment: &Environment, from: u32) {
        for attempt in from.. {
            let doubled = 1_u32 << (attempt - 1).min(16);
            let limit = (THAW * doubled).min(LONGEST_THAW);
            let Err(why) = self.thaw_once(environment, limit) else { return };
            tell(&self.script, attempt, &why);
            std::thread::sleep((PAUSE * doubled).min(LONGEST_PAUSE));
        }
    }

    /// One `thaw`, ended with all its group if it takes longer than `limit`.
    ///
    /// # Errors
    /// Why it did not succeed, in words.
    fn thaw_once(&self, environment: &Environment, limit: Duration) -> Result<(), String> {
        let until = Instant::now() + limit;
        // Not bound to us: an undoing that is on its way is to arrive.
        let run = self.script.start("thaw", environment, &self.voice).map_err(|error| not_started(&error))?;
        let verdict = loop {
            let mut watched =
                [PollFd::new(run.process(), PollFlags::IN), PollFd::new(self.voice.hear(), PollFlags::IN)];
            let polled = poll(&mut watched, left(Some(until)).as_ref());
            self.voice.relay();
            match (run.verdict(), polled) {
                (Some(verdict), _) => break verdict,
                (None, Ok(1..) | Err(rustix::io::Errno::INTR)) if Instant::now() < until => {}
                (None, _) => {
                    let how = format!("it was not done within {} ms", limit.as_millis());
                    break Verdict::Failed { code: None, how };
                }
            }
        };
        match verdict {
            Verdict::Done => {
                // What it started, a server perhaps, is to stay.
                run.leave();
                Ok(())
            }
            Verdict::Failed { how, .. } => {
                run.end();
                Err(how)
            }
            Verdict::Skipped => {
                run.end();
                Err("exit status 75, which is no answer to `thaw`".into())
            }
        }
    }

    fn wait(&mut self, mut run: Option<&mut Run>, until: Option<Instant>) -> Event {
        loop {
            let mut watched =
                vec![PollFd::new(&self.socket, PollFlags::IN), PollFd::new(self.voice.hear(), PollFlags::IN)];
            if let Some(run) = run.as_deref() {
                watched.push(PollFd::new(run.process(), PollFlags::IN));
                watched.extend(run.output().map(|output| PollFd::new(output, PollFlags::IN)));
            }
            let polled = poll(&mut watched, left(until).as_ref());
            let heard = !watched[0].revents().is_empty();
            self.voice.relay();
            // Before its output: all that it printed is there when it has ended.
            let ended = run.as_deref().and_then(Run::verdict);
            if let Some(run) = run.as_deref_mut() {
                run.take_in();
            }
            match polled {
                Err(rustix::io::Errno::INTR) => continue,
                // Without eyes, the safe direction.
                Err(_) => return Event::Gone,
                // The end of the writer counts more: nobody would use what was frozen.
                Ok(1..) if heard => {
                    if let Some(event) = self.hear() {
                        return event;
                    }
                }
                Ok(_) => {}
            }
            if let Some(verdict) = ended {
                return Event::Ended(verdict);
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Event::Over;
            }
        }
    }

    /// What was heard, once it is a whole line.
    fn hear(&mut self) -> Option<Event> {
        let mut bytes = [0; 4096];
        let read = self.socket.read(&mut bytes).unwrap_or(0);
        if read == 0 {
            return Some(Event::Gone);
        }
        self.heard.extend_from_slice(&bytes[..read]);
        let end = self.heard.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.heard.drain(..=end).collect();
        Some(serde_json::from_slice(&line).map_or(Event::Gone, Event::Asked))
    }

    fn answer(&mut self, told: &Told) {
        if let Ok(mut line) = serde_json::to_vec(told) {
            line.push(b'\n');
            // One that is gone is noticed by the next wait.
            let _ = self.socket.write_all(&line);
        }
    }
}

fn left(until: Option<Instant>) -> Option<Timespec> {
    Timespec::try_from(until?.saturating_duration_since(Instant::now())).ok()
}

fn not_started(error: &io::Error) -> String {
    format!("it cannot be started: {error}")
}

/// Says that the application may be held: to whoever listens to the writer, and at last to the system's log.
fn tell(script: &Script, attempt: u32, why: &str) {
    let name = script.name();
    let text =
        format!("`{name} thaw` failed, attempt {attempt}: {why}; the application may be held; trying again");
    say(format!("{text}\n").as_bytes());
    if attempt == PATIENCE || (attempt > PATIENCE && attempt.is_power_of_two()) {
        // Facility daemon, severity critical.
        let line = format!("<26>holdfast: {text}");
        let _ = UnixDatagram::unbound().and_then(|log| {
            log.set_nonblocking(true)?;
            log.send_to(line.as_bytes(), "/dev/log")
        });
    }
}

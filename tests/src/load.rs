//! An application under load: what it acknowledged and what it was refused, with times, while it goes on.
//! Owns: the shared record and how tests wait on it. Leaves to others: what is written (`cfssl`, `django_ca`, `watch`).

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    clock::monotonic_ns,
    error::FixtureError,
    process::{kill_group, wait_until},
};

/// One write that the application acknowledged.
#[derive(Debug, Clone)]
pub struct Ack {
    /// The certificate's common name, or the row's number.
    pub name: String,
    /// The serial as this CA writes it (cfssl: decimal; django-ca: upper-case hexadecimal); empty for plain rows.
    pub serial: String,
    /// The certificate; empty for plain rows.
    pub pem: String,
    /// `CLOCK_MONOTONIC` right before the request.
    pub begun_ns: u64,
    /// `CLOCK_MONOTONIC` right after the answer.
    pub acked_ns: u64,
}

/// One write that the application was refused, e.g. with `database is locked`.
#[derive(Debug, Clone)]
pub struct Refused {
    /// `CLOCK_MONOTONIC` right before the request.
    pub begun_ns: u64,
    /// `CLOCK_MONOTONIC` right after the refusal.
    pub refused_ns: u64,
    /// What the application said.
    pub message: String,
}

#[derive(Debug, Default)]
struct Record {
    acks: Vec<Ack>,
    refused: Vec<Refused>,
    /// Set once the load has ended: why, if not because it was told to.
    ended: Option<String>,
}

/// The record a load writes and tests read; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Acks(Arc<(Mutex<Record>, Condvar)>);

impl Acks {
    /// Everything acknowledged so far, in the order of acknowledgement.
    #[must_use]
    pub fn all(&self) -> Vec<Ack> {
        self.lock().acks.clone()
    }

    /// Everything refused so far.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        self.lock().refused.clone()
    }

    /// How many were acknowledged so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.lock().acks.len()
    }

    /// Waits until at least `count` are acknowledged.
    ///
    /// # Errors
    /// [`FixtureError::Deadline`] after `limit`; [`FixtureError::Answer`] if the load ends before.
    pub fn wait_for(&self, count: usize, limit: Duration) -> Result<Vec<Ack>, FixtureError> {
        self.wait(&format!("{count} acknowledged writes"), limit, |record| {
            (record.acks.len() >= count).then(|| record.acks.clone())
        })
    }

    /// Waits for a write acknowledged after this call: the application is not held (any more).
    ///
    /// # Errors
    /// [`FixtureError::Deadline`] after `limit`; [`FixtureError::Answer`] if the load ends before.
    pub fn wrote_again_within(&self, limit: Duration) -> Result<Ack, FixtureError> {
        let now = monotonic_ns();
        self.wait("a new acknowledged write", limit, |record| {
            record.acks.last().filter(|ack| ack.acked_ns > now).cloned()
        })
    }

    pub(crate) fn acknowledge(&self, ack: Ack) {
        self.lock().acks.push(ack);
        self.0.1.notify_all();
    }

    pub(crate) fn refuse(&self, refused: Refused) {
        self.lock().refused.push(refused);
        self.0.1.notify_all();
    }

    fn end(&self, why: String) {
        self.lock().ended.get_or_insert(why);
        self.0.1.notify_all();
    }

    fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(&Record) -> Option<T>,
    ) -> Result<T, FixtureError> {
        let deadline = Instant::now() + limit;
        let mut record = self.lock();
        loop {
            if let Some(found) = look(&record) {
                return Ok(found);
            }
            if let Some(why) = &record.ended {
                return Err(FixtureError::answer("the load", format!("ended before {what}: {why}")));
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let refused = record.refused.last().map_or("nothing", |refused| &refused.message);
                let what = format!("{what} (had {}; last refusal: {refused})", record.acks.len());
                return Err(FixtureError::Deadline { what, after: limit });
            };
            (record, _) = self.0.1.wait_timeout(record, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A load that runs until stopped or dropped.
#[derive(Debug)]
pub struct Load {
    acks: Acks,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Thread { stop: Arc<AtomicBool>, handle: Option<JoinHandle<()>> },
    Process { child: Child, reader: Option<JoinHandle<()>> },
}

impl Load {
    /// A thread of this process that calls `write(n)` for n = 1, 2, … . A refusal is recorded, and the loop goes on.
    pub fn in_thread(write: impl Fn(u64) -> Result<Ack, Refused> + Send + 'static) -> Self {
        let acks = Acks::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (record, stopped) = (acks.clone(), Arc::clone(&stop));
        let handle = thread::spawn(move || {
            for number in 1.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                match write(number) {
                    Ok(ack) => record.acknowledge(ack),
                    Err(refused) => {
                        record.refuse(refused);
                        // A server that is down refuses at once: do not spin on it.
                        thread::sleep(Duration::from_millis(5));
                    }
                }
            }
            record.end("stopped".to_owned());
        });
        Self { acks, source: Source::Thread { stop, handle: Some(handle) } }
    }

    /// A process that prints one JSON line per write and ends when its standard input is closed:
    /// `{"name","serial","pem","begun_ns","acked_ns"}` or `{"refused","begun_ns","refused_ns"}`.
    ///
    /// # Errors
    /// [`FixtureError::Io`] if it cannot be started.
    pub fn in_process(name: &str, command: &mut Command) -> Result<Self, FixtureError> {
        use std::os::unix::process::CommandExt;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(FixtureError::io(format!("start {name}")))?;
        let acks = Acks::default();
        let (record, name) = (acks.clone(), name.to_owned());
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let reader = thread::spawn(move || {
            let told = thread::spawn(move || stderr.map(last_lines).unwrap_or_default());
            for line in stdout.into_iter().flat_map(|pipe| BufReader::new(pipe).lines()) {
                let Ok(line) = line else { break };
                match parse(&line) {
                    Some(Ok(ack)) => record.acknowledge(ack),
                    Some(Err(refused)) => record.refuse(refused),
                    None => record.end(format!("{name} printed `{line}`")),
                }
            }
            record.end(format!("{name}: {}", told.join().unwrap_or_default()));
        });
        Ok(Self { acks, source: Source::Process { child, reader: Some(reader) } })
    }

    /// The record, to wait on or to keep.
    #[must_use]
    pub fn acks(&self) -> &Acks {
        &self.acks
    }

    /// The process that writes, if it is one.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        match &self.source {
            Source::Thread { .. } => None,
            Source::Process { child, .. } => Some(child.id()),
        }
    }

    /// Ends the load after the write under way (a process that does not end within 10 s is killed), and gives what
    /// was acknowledged.
    #[must_use]
    pub fn stop(mut self) -> Vec<Ack> {
        self.end(Duration::from_secs(10));
        self.acks.all()
    }

    /// Ends the load as a crash would: a process by SIGKILL, in the middle of whatever it does.
    #[must_use]
    pub fn kill(mut self) -> Vec<Ack> {
        self.end(Duration::ZERO);
        self.acks.all()
    }

    fn end(&mut self, patience: Duration) {
        match &mut self.source {
            Source::Thread { stop, handle } => {
                stop.store(true, Ordering::Relaxed);
                if let Some(handle) = handle.take() {
                    // A panic in it was already printed by the runtime.
                    let _ = handle.join();
                }
            }
            Source::Process { child, reader } => {
                drop(child.stdin.take());
                if !patience.is_zero() {
                    wait_until(child, Instant::now() + patience);
                }
                kill_group(child);
                if let Some(reader) = reader.take() {
                    let _ = reader.join();
                }
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

fn parse(line: &str) -> Option<Result<Ack, Refused>> {
    let line: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let begun_ns = line["begun_ns"].as_u64()?;
    if let Some(message) = line["refused"].as_str() {
        let refused_ns = line["refused_ns"].as_u64()?;
        return Some(Err(Refused { begun_ns, refused_ns, message: message.to_owned() }));
    }
    let acked_ns = line["acked_ns"].as_u64()?;
    Some(Ok(Ack { name: text("name"), serial: text("serial"), pem: text("pem"), begun_ns, acked_ns }))
}

/// The end of what a worker said on standard error: enough for a Python traceback.
fn last_lines(pipe: impl std::io::Read) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in BufReader::new(pipe).lines().map_while(Result::ok) {
        if lines.len() == 40 {
            lines.remove(0);
        }
        lines.push(line);
    }
    lines.join("\n")
}

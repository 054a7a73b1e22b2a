//! A requester of a few lines, on the plain socket: what it sees is what the program sends.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use holdfast_writer_api::protocol::wire::{Answer, INTERFACE};
use holdfast_writer_api::protocol::{Decoder, encode};
use holdfast_writer_test::journal::{self, Line, Record};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_holdfast-test-writer");
pub const SET: &str = "01890000-0000-7000-8000-000000000001";

/// Nobody waits longer for anything.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with a script and a journal.
pub struct Site {
    pub dir: tempfile::TempDir,
}

impl Site {
    /// With a script of one component, which is held, and `more` before it.
    pub fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let site = Self { dir };
        std::fs::create_dir(site.path("data")).unwrap();
        std::fs::write(site.path("data/file"), "content").unwrap();
        std::fs::write(site.path("lock"), "").unwrap();
        site.script(more);
        site
    }

    pub fn script(&self, more: &str) {
        let (data, lock) = (self.path("data"), self.path("lock"));
        let script = format!(
            r#"
            hold = {lock:?}
            {more}
            [metadata]
            freeze_budget_ms = 5000
            capabilities = {{ freeze = true, recover = true }}
            [[metadata.components]]
            kind = "file_group"
            name = "data"
            selectable = true
            held = true
            files = [{{ path = {data:?}, pattern = "*", recursive = true, role = "data" }}]
            "#
        );
        std::fs::write(self.path("script.toml"), script).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn settings(&self) -> Value {
        json!({"script": self.path("script.toml"), "journal": self.path("journal")})
    }

    pub fn journal(&self) -> Vec<Line> {
        journal::read(&self.path("journal")).unwrap()
    }

    /// Whether nobody holds the application.
    pub fn is_free(&self) -> bool {
        let file = std::fs::File::open(self.path("lock")).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
    }

    /// `holdfast-test-writer` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// `holdfast-test-writer check` of the journal: its exit code, and what it printed.
    pub fn check(&self) -> (Option<i32>, String) {
        let output = self.run(&["check", self.path("journal").to_str().unwrap()]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }
}

/// Waits until it is so.
pub fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The program, spoken to.
pub struct Spoken {
    pub child: Child,
    pub socket: UnixStream,
    decoder: Decoder,
    pub descriptors: Vec<OwnedFd>,
}

/// What came back.
#[derive(Debug)]
pub enum Back {
    Answer(Answer),
    /// What is no message.
    Nonsense,
    /// The socket was closed; there was something before that.
    Closed {
        half: bool,
    },
    /// Nothing, in the time that was waited.
    Nothing {
        half: bool,
    },
}

impl Spoken {
    /// Starts it.
    pub fn start() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(PROGRAM)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, socket: ours, decoder: Decoder::default(), descriptors: Vec::new() }
    }

    /// Starts and greets it.
    pub fn greeted(site: &Site) -> Self {
        let mut spoken = Self::start();
        let answer = spoken.hello(site.settings());
        assert!(answer.error.is_none(), "{answer:?}");
        spoken
    }

    /// Starts it, and begins a backup of the component `data`.
    pub fn begun(site: &Site) -> Self {
        let mut spoken = Self::greeted(site);
        let request = json!({"set": SET, "backup_type": "full", "components": [{"name": "data"}]});
        spoken.done("BeginBackup", request);
        spoken
    }

    pub fn hello(&mut self, settings: Value) -> Answer {
        let hello = json!({"protocol": "1.0", "features": ["descriptors"], "id": "w", "writer_type": "test",
                           "settings": settings});
        self.answer("Hello", hello)
    }

    pub fn send(&mut self, method: &str, parameters: Value) {
        let request = json!({"method": format!("{INTERFACE}.{method}"), "parameters": parameters});
        self.socket.write_all(&encode(&request).unwrap()).unwrap();
    }

    /// What comes back within `patience`.
    pub fn back(&mut self, patience: Duration) -> Back {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut chunk = vec![0; 1 << 16];
        loop {
            match self.decoder.message() {
                Ok(Some(answer)) => return Back::Answer(answer),
                Ok(None) => {}
                Err(_) => return Back::Nonsense,
            }
            let half = !self.decoder.is_empty();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let got =
                recvmsg(&self.socket, &mut [IoSliceMut::new(&mut chunk)], &mut beside, RecvFlags::empty());
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.descriptors.extend(fds);
                }
            }
            match got.map(|got| got.bytes) {
                Ok(0) => return Back::Closed { half },
                Ok(n) => self.decoder.push(&chunk[..n]),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Back::Nothing { half },
                Err(_) => return Back::Closed { half },
            }
        }
    }

    pub fn answer(&mut self, method: &str, parameters: Value) -> Answer {
        self.send(method, parameters);
        match self.back(PATIENCE) {
            Back::Answer(answer) => answer,
            other @ (Back::Nonsense | Back::Closed { .. } | Back::Nothing { .. }) => {
                let _ = self.child.kill();
                let mut said = String::new();
                let _ = self.child.stderr.take().map(|mut stderr| stderr.read_to_string(&mut said));
                panic!("{method}: {other:?}; it ended with {:?} and said: {said}", self.child.wait())
            }
        }
    }

    pub fn done(&mut self, method: &str, parameters: Value) -> Value {
        let answer = self.answer(method, parameters);
        assert!(answer.error.is_none(), "{method}: {answer:?}");
        answer.parameters
    }

    pub fn phase(&mut self, method: &str, budget_ms: u64) {
        self.send(method, json!({"set": SET, "budget_ms": budget_ms}));
    }

    /// Whether anything more is on its way.
    pub fn has_more(&mut self) -> bool {
        !self.decoder.is_empty() || matches!(self.back(Duration::from_millis(50)), Back::Answer(_))
    }

    /// Closes the socket, and waits for its end; gives its exit code and what it said.
    pub fn close(mut self) -> (Option<i32>, String) {
        drop(self.socket);
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }

    /// Ends it.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The kinds of lines, in order.
pub fn kinds(lines: &[Line]) -> Vec<String> {
    let kind = |line: &Line| match &line.record {
        Record::Started { .. } => "started".to_owned(),
        Record::Called { method, .. } => method.clone(),
        Record::Answered { error: Some(error), .. } => error.rsplit('.').next().unwrap().to_owned(),
        Record::Answered { .. } => "ok".to_owned(),
        Record::Misbehaved { how, .. } => how.clone(),
        Record::Nonsense { .. } => "nonsense".to_owned(),
        Record::Early {} => "early".to_owned(),
        Record::HungUp { .. } => "hung-up".to_owned(),
        Record::Released {} => "released".to_owned(),
        Record::Streamed { .. } => "streamed".to_owned(),
        Record::Ended { .. } => "ended".to_owned(),
    };
    lines.iter().map(kind).collect()
}

/// The numbers of the rules in the answer of `check`.
pub fn rules(printed: &str) -> Vec<&str> {
    printed.lines().filter(|line| line.starts_with('R')).filter_map(|line| line.split(' ').next()).collect()
}

/// A path as a text.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

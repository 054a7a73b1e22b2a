//! A writer that misbehaves as asked, for the tests of whoever speaks to it: `unruly-writer FAULT METHOD [MARKER]`.
//!
//! It speaks the protocol byte by byte, without Holdfast's own code. Its application is a folder with a file `lock`, on
//! which it holds a lock between freeze and thaw; its fault happens when METHOD is called. `MARKER` only makes its
//! processes findable.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};

/// Longer than any test waits.
const FOREVER: Duration = Duration::from_secs(600);
/// Longer than a budget of the tests, and than the pause between two calls.
const A_WHILE: Duration = Duration::from_millis(700);

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let fault = arguments.next().unwrap_or_default();
    let method = arguments.next().unwrap_or_default();
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    // As a careful program does: what it starts does not inherit the socket.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    let mut plugin = Plugin {
        socket,
        fault,
        method,
        folder: PathBuf::new(),
        hello: Value::Null,
        held: None,
        stream: None,
    };
    if plugin.method == "start" {
        plugin.send(b"{\"parameters\":{}}\0")?;
    }
    while let Some(call) = plugin.read()? {
        let name =
            call["method"].as_str().unwrap_or_default().rsplit('.').next().unwrap_or_default().to_owned();
        let answer = plugin.answer(&name, &call["parameters"])?;
        if name == plugin.method {
            plugin.misbehave(&name, answer)?;
        } else {
            plugin.send(&message(&answer))?;
        }
    }
    Ok(())
}

struct Plugin {
    socket: UnixStream,
    fault: String,
    method: String,
    folder: PathBuf,
    hello: Value,
    held: Option<File>,
    stream: Option<OwnedFd>,
}

fn message(answer: &Value) -> Vec<u8> {
    format!("{answer}\0").into_bytes()
}

impl Plugin {
    fn read(&mut self) -> io::Result<Option<Value>> {
        let mut bytes = Vec::new();
        let mut byte = [0];
        loop {
            match self.socket.read(&mut byte)? {
                0 => return Ok(None),
                _ if byte[0] == 0 => {
                    return serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from);
                }
                _ => bytes.push(byte[0]),
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    /// The right answer, and what has to be done for it.
    fn answer(&mut self, method: &str, parameters: &Value) -> io::Result<Value> {
        let reply = match method {
            "Hello" => {
                self.folder = parameters["settings"]["folder"].as_str().unwrap_or_default().into();
                self.hello = parameters.clone();
                json!({"protocol": "1.0", "features": ["descriptors"]})
            }
            "Identify" => json!({"metadata": self.metadata()}),
            "PrepareBackup" => json!({"backup_type": "full"}),
            "Freeze" => {
                let lock = File::open(self.folder.join("lock"))?;
                flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                self.held = Some(lock);
                json!({"mark": {"position": "1"}})
            }
            "Thaw" => json!({"thawed": if self.held.take().is_some() { "released" } else { "was_not_held" }}),
            "OpenStream" => json!({"descriptor": 0}),
            _ => json!({}),
        };
        Ok(json!({"parameters": reply}))
    }

    /// What a minimal writer says, and no more.
    fn metadata(&self) -> Value {
        json!({
            "schema": "holdfast.writer-metadata/1",
            "writer_type": self.hello["writer_type"],
            "id": self.hello["id"],
            "name": "a folder",
            "version": "1",
            "usage": "other",
            "source": "other",
            "restore": {"method": "if_can_replace", "rank": "applications"},
            "freeze_level": "front_end",
            "backup_types": {},
            "capabilities": {"freeze": true},
            "components": [{
                "kind": "file_group", "name": "folder", "selectable": true, "held": true,
                "files": [{"path": self.folder, "pattern": "*", "recursive": true, "role": "data"}],
            }],
        })
    }

    fn misbehave(&mut self, method: &str, mut answer: Value) -> io::Result<()> {
        let good = message(&answer);
        match self.fault.as_str() {
            "garbage" => self.send(b"\xff\xfe\xfd\0")?,
            "half-then-end" => {
                self.send(&good[..good.len() / 2])?;
                std::process::exit(0);
            }
            "half-then-nothing" => {
                self.send(&good[..good.len() / 2])?;
                std::thread::sleep(FOREVER);
            }
            "endless" => {
                for _ in 0..1024 {
                    self.send(&vec![b'x'; 1 << 20])?;
                }
            }
            "closes" => {
                self.socket = UnixStream::pair()?.0;
                std::thread::sleep(FOREVER);
            }
            "exits" => std::process::exit(3),
            "is-killed" => {
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?
            }
            "forks-and-exits" => {
                if fork() {
                    std::process::exit(0);
                }
                std::thread::sleep(FOREVER);
            }
            "becomes-a-daemon" => {
                if fork() {
                    std::process::exit(0);
                }
                rustix::process::setsid()?;
                if fork() {
                    std::process::exit(0);
                }
                std::thread::sleep(FOREVER);
            }
            "leaves-a-daemon" => {
                // One that keeps the socket, while the first process goes on as if nothing had happened.
                if !fork() {
                    rustix::process::setsid()?;
                    std::thread::sleep(FOREVER);
                }
                self.send(&good)?;
            }
            "silent" => std::thread::sleep(FOREVER),
            "late" => {
                std::thread::sleep(A_WHILE);
                self.send(&good)?;
            }
            "twice" => self.send(&good.repeat(2))?,
            "twice-later" => {
                self.send(&good)?;
                std::thread::sleep(Duration::from_millis(20));
                self.send(&good)?;
            }
            "continues" => {
                answer["continues"] = true.into();
                self.send(&message(&answer))?;
            }
            "wrong-id" => {
                answer["parameters"]["metadata"]["id"] = "other".into();
                self.send(&message(&answer))?;
            }
            "wrong-type" => {
                answer["parameters"]["metadata"]["writer_type"] = "other".into();
                self.send(&message(&answer))?;
            }
            "version" => {
                answer["parameters"]["protocol"] = "2.0".into();
                self.send(&message(&answer))?;
            }
            "no-version" => {
                answer["parameters"]["protocol"] = "one\u{1b}[2J".into();
                self.send(&message(&answer))?;
            }
            "mismatch" => self.error("io.holdfast.Writer.VersionMismatch", json!({"speaks": "7.3"}))?,
            "no-method" => self.error("org.varlink.service.MethodNotFound", json!({"method": method}))?,
            "no-order" => {
                self.error("io.holdfast.Writer.OutOfOrder", json!({"method": method, "state": "confused"}))?;
            }
            "foreign-error" => self.error("com.example.Oops", json!({"why": "\u{1b}]0;title\u{7}"}))?,
            "setting" => {
                let parameters = json!({"key": "folder", "problem": "there is no such folder"});
                self.error("io.holdfast.Writer.InvalidSetting", parameters)?;
            }
            "blames-another" => {
                let parameters = json!({"writer": "good", "cause": {"message": "it was him"}});
                self.error("io.holdfast.Writer.Rejected", parameters)?;
            }
            "long-error" => {
                let parameters = json!({"cause": {"message": "x".repeat(1 << 20)}});
                self.error("io.holdfast.Writer.Rejected", parameters)?;
            }
            "shouts" => {
                let mut out = io::stderr().lock();
                for n in 0..100_000 {
                    writeln!(out, "line {n} \u{1b}[31mof very many")?;
                }
                self.error("io.holdfast.Writer.Rejected", json!({"cause": {"message": "as asked"}}))?;
            }
            "says" => {
                let status = std::fs::read_to_string("/proc/self/status")?;
                let line = |name: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?");
                    line.split_whitespace().collect::<Vec<_>>().join(" ")
                };
                let home = std::env::var("HOME").unwrap_or_default();
                let told = [line("Uid:"), line("Gid:"), line("Groups:")];
                let mut out = io::stderr().lock();
                writeln!(out, "users {}; groups {}; others [{}]; home [{home}]", told[0], told[1], told[2])?;
                self.send(&good)?;
            }
            "wrong-shape" => {
                self.send(&message(
                    &json!({"parameters": {"mark": 7, "metadata": [], "thawed": "perhaps"}}),
                ))?;
            }
            "descriptors-unasked" => {
                let null = File::open("/dev/null")?;
                self.send_beside(&good, &[null.as_fd()])?;
            }
            "descriptors-very-many" => {
                let null = File::open("/dev/null")?;
                self.send_beside(&good, &vec![null.as_fd(); 200])?;
            }
            "streams" => {
                let (read, mut write) = io::pipe()?;
                self.send_beside(&good, &[read.as_fd()])?;
                write.write_all(b"stream")?;
            }
            "no-descriptor" => self.send(&good)?,
            "two-descriptors" => {
                let (read, _) = io::pipe()?;
                self.send_beside(&good, &[read.as_fd(), read.as_fd()])?;
            }
            "folder-descriptor" => {
                let folder = File::open("/")?;
                self.send_beside(&good, &[folder.as_fd()])?;
            }
            "write-descriptor" => {
                let (_, write) = io::pipe()?;
                self.send_beside(&good, &[write.as_fd()])?;
                self.stream = Some(write.into());
            }
            "descriptor-beside-an-error" => {
                let (read, _) = io::pipe()?;
                let error = json!({"error": "io.holdfast.Writer.Unsupported", "parameters": {"what": "it"}});
                self.send_beside(&message(&error), &[read.as_fd()])?;
            }
            other => panic!("`{other}` is no fault that I know"),
        }
        Ok(())
    }

    fn error(&mut self, name: &str, parameters: Value) -> io::Result<()> {
        self.send(&message(&json!({"error": name, "parameters": parameters})))
    }

    fn send_beside(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        assert!(beside.push(SendAncillaryMessage::ScmRights(descriptors)));
        let sent = sendmsg(&self.socket, &[IoSlice::new(bytes)], &mut beside, SendFlags::empty())?;
        self.send(&bytes[sent..])
    }
}

/// Whether this is the parent.
fn fork() -> bool {
    // SAFETY: this program has one thread.
    unsafe { libc::fork() > 0 }
}

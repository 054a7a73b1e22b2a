//! The writer's side of the protocol, spoken to byte by byte: what it answers to anyone, and what ends it.

mod common;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{application, is_free};
use serde_json::{Value, json};

/// Not a test: the child process of the others.
#[test]
#[ignore = "the child process of the other tests"]
fn writer_process() {
    common::serve_lock();
}

/// A writer's process, and our end of its socket.
struct Server {
    child: Child,
    socket: UnixStream,
}

impl Server {
    fn start() -> Self {
        let (socket, theirs) = UnixStream::pair().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["writer_process", "--exact", "--ignored", "--nocapture"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, socket }
    }

    /// One that has begun a backup of `file`, and holds it.
    fn holding(file: &std::path::Path) -> Self {
        let mut server = Self::start();
        server.hello(json!({"settings": {"file": file}}));
        server.ask(
            "io.holdfast.Writer.BeginBackup",
            json!({"set": NIL, "backup_type": "full", "components": []}),
        );
        let frozen = server.ask("io.holdfast.Writer.Freeze", json!({"set": NIL, "budget_ms": 20_000}));
        assert_eq!(frozen["parameters"]["mark"]["position"], "7", "{frozen}");
        assert!(!is_free(file));
        server
    }

    fn send(&mut self, bytes: &[u8]) {
        // Whoever is gone shows by what he does not answer.
        let _ = self.socket.write_all(bytes);
    }

    fn answer(&mut self) -> Value {
        let mut bytes = Vec::new();
        let mut byte = [0];
        loop {
            self.socket.read_exact(&mut byte).expect("an answer");
            if byte[0] == 0 {
                return serde_json::from_slice(&bytes).unwrap();
            }
            bytes.push(byte[0]);
        }
    }

    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.send(format!("{}\0", json!({"method": method, "parameters": parameters})).as_bytes());
        self.answer()
    }

    /// Hello, with some of its parameters changed.
    fn hello(&mut self, changes: Value) -> Value {
        let mut hello = json!({"protocol": "1.0", "id": "w", "writer_type": "lock", "settings": {}});
        for (key, value) in changes.as_object().unwrap() {
            hello[key] = value.clone();
        }
        self.ask("io.holdfast.Writer.Hello", hello)
    }

    /// Waits for its end, and gives what it said.
    fn ended(mut self) -> String {
        let until = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                self.child.kill().unwrap();
                panic!("it lives on");
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

const NIL: &str = "00000000-0000-0000-0000-000000000000";

#[track_caller]
fn assert_error(answer: &Value, name: &str, parameters: Value) {
    assert_eq!(*answer, json!({"error": name, "parameters": parameters}));
}

#[test]
fn it_introduces_itself_at_any_time_to_any_varlink_client() {
    let app = application();
    let mut server = Server::start();
    for _ in 0..2 {
        let info = server.ask("org.varlink.service.GetInfo", json!({}));
        assert_eq!(info["parameters"]["product"], "lock-test");
        assert_eq!(info["parameters"]["version"], "1.2");
        let interfaces = info["parameters"]["interfaces"].as_array().unwrap().clone();
        assert_eq!(interfaces, ["org.varlink.service", "io.holdfast.Writer"]);
        for interface in interfaces {
            let text =
                server.ask("org.varlink.service.GetInterfaceDescription", json!({"interface": interface}));
            let text = text["parameters"]["description"].as_str().unwrap();
            let parsed = varlink_parser::IDL::try_from(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(parsed.name, interface);
        }
        // The second time after the first call.
        server.hello(json!({"settings": {"file": app.path()}}));
    }
    // `parameters` may be left out.
    server.send(b"{\"method\":\"org.varlink.service.GetInfo\"}\0");
    assert_eq!(server.answer()["parameters"]["product"], "lock-test");
}

#[test]
fn what_cannot_be_answered_is_a_named_error_and_the_conversation_goes_on() {
    let mut server = Server::start();
    let early = server.ask("io.holdfast.Writer.Thaw", json!({}));
    let thaw = "io.holdfast.Writer.Thaw";
    assert_error(&early, "io.holdfast.Writer.OutOfOrder", json!({"method": thaw, "state": "nothing"}));
    let unknown = server.ask("io.holdfast.Writer.Sing", json!({}));
    assert_error(
        &unknown,
        "org.varlink.service.MethodNotFound",
        json!({"method": "io.holdfast.Writer.Sing"}),
    );
    let foreign = server.ask("com.example.Sing", json!({}));
    assert_error(&foreign, "org.varlink.service.InterfaceNotFound", json!({"interface": "com.example"}));
    let missing = server.ask("io.holdfast.Writer.Hello", json!({"protocol": "1.0"}));
    assert_error(&missing, "org.varlink.service.InvalidParameter", json!({"parameter": "id"}));
    let nowhere =
        server.ask("org.varlink.service.GetInterfaceDescription", json!({"interface": "com.example"}));
    assert_error(&nowhere, "org.varlink.service.InterfaceNotFound", json!({"interface": "com.example"}));
    let reply = server.hello(json!({}));
    assert_eq!(
        reply["parameters"],
        json!({"protocol": "1.0", "program": "lock-test", "version": "1.2", "features": ["descriptors"]})
    );
    let again = server.hello(json!({}));
    assert_eq!(again["error"], "io.holdfast.Writer.OutOfOrder");
    assert_eq!(again["parameters"]["state"], "writer");
}

#[test]
fn another_major_version_or_type_is_refused_and_another_minor_is_not() {
    let mut server = Server::start();
    let other = server.hello(json!({"protocol": "2.0"}));
    assert_error(&other, "io.holdfast.Writer.VersionMismatch", json!({"speaks": "1.0"}));
    let none = server.hello(json!({"protocol": "one"}));
    assert_error(&none, "org.varlink.service.InvalidParameter", json!({"parameter": "protocol"}));
    let kind = server.hello(json!({"writer_type": "other"}));
    assert_eq!(kind["error"], "io.holdfast.Writer.Rejected");
    let setting = server.hello(json!({"settings": {"surprise": 1}}));
    assert_error(
        &setting,
        "io.holdfast.Writer.InvalidSetting",
        json!({"key": "surprise", "problem": "there is no such setting"}),
    );
    let newer = server.hello(json!({"protocol": "1.9", "from_the_future": true, "requester": null}));
    assert_eq!(newer["parameters"]["protocol"], "1.0", "{newer}");
}

#[test]
fn a_requester_that_takes_no_descriptors_is_not_given_one() {
    let app = application();
    let mut server = Server::holding(app.path());
    let refused = server.ask("io.holdfast.Writer.OpenStream", json!({"name": "main"}));
    assert_eq!(refused["error"], "io.holdfast.Writer.Unsupported", "{refused}");
    let thawed = server.ask("io.holdfast.Writer.Thaw", json!({}));
    assert_eq!(thawed["parameters"], json!({"thawed": "released"}));
}

/// Goal: whatever nonsense the other side speaks, the writer releases, says why, and ends.
#[test]
fn nonsense_ends_the_writer_and_what_it_held() {
    let app = application();
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("garbage", b"\xff\xfe\0".to_vec(), "not understood"),
        ("no object", b"[1]\0".to_vec(), "not understood"),
        ("no method", b"{\"parameters\":{}}\0".to_vec(), "not understood"),
        ("an endless message", vec![b'x'; (16 << 20) + 1], "more than"),
        ("a call without an answer", b"{\"method\":\"a.b\",\"oneway\":true}\0".to_vec(), "not spoken here"),
        ("another protocol", b"{\"method\":\"a.b\",\"upgrade\":true}\0".to_vec(), "not spoken here"),
    ];
    for (what, bytes, why) in cases {
        let mut server = Server::holding(app.path());
        server.send(&bytes);
        let said = server.ended();
        assert!(said.contains(why), "{what}: {said}");
        assert!(is_free(app.path()), "{what}");
    }
    // The end in the middle of a message, and the end.
    for (bytes, why) in [(&b"{\"method\""[..], "middle of a message"), (b"", "")] {
        let mut server = Server::holding(app.path());
        server.send(bytes);
        server.socket.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(server.ended().contains(why));
        assert!(is_free(app.path()));
    }
}

#[test]
fn a_call_before_the_answer_to_the_last_one_ends_the_writer_and_what_it_was_taking() {
    let app = application();
    let mut server = Server::start();
    server.hello(json!({"settings": {"file": app.path(), "fault": "hang"}}));
    server
        .ask("io.holdfast.Writer.BeginBackup", json!({"set": NIL, "backup_type": "full", "components": []}));
    for method in ["Freeze", "Thaw"] {
        let call = json!({
            "method": format!("io.holdfast.Writer.{method}"),
            "parameters": {"set": NIL, "budget_ms": 20_000},
        });
        server.send(format!("{call}\0").as_bytes());
    }
    let said = server.ended();
    assert!(said.contains("out of turn"), "{said}");
    assert!(is_free(app.path()));
}

//! A journal as two writers keep it of a backup and a restore in which all is right, and how to spoil it.

use serde_json::{Value, json};

use crate::journal::{Line, Looked, Process, Record, Seen};

/// Processes of the writer `front`: identify, backup, restore.
pub const FRONT: [u32; 3] = [11, 12, 13];
/// Those of the writer `back`.
pub const BACK: [u32; 3] = [21, 22, 23];

pub const SET: &str = "01890000-0000-7000-8000-000000000001";
pub const OTHER_SET: &str = "01890000-0000-7000-8000-000000000002";

/// A journal in the making.
#[derive(Debug, Clone)]
pub struct Book {
    pub lines: Vec<Line>,
}

pub fn writer(pid: u32) -> &'static str {
    if pid < 20 { "front" } else { "back" }
}

fn line(pid: u32, record: Record) -> Line {
    Line { at_ns: 0, writer: writer(pid).into(), process: Process { pid, since: 7 }, record }
}

pub fn called(pid: u32, method: &str, parameters: Value) -> Line {
    let (method, seen, looked) = (method.to_owned(), Vec::new(), Vec::new());
    line(pid, Record::Called { method, parameters, refused: None, seen, looked })
}

pub fn answered(pid: u32, method: &str, parameters: Value) -> Line {
    line(pid, Record::Answered { method: method.into(), error: None, parameters })
}

pub fn failed(pid: u32, method: &str) -> Line {
    let (error, parameters) =
        (Some("io.holdfast.Writer.Busy".into()), json!({"cause": {"message": "planted"}}));
    line(pid, Record::Answered { method: method.into(), error, parameters })
}

pub fn loose(pid: u32, record: Record) -> Line {
    line(pid, record)
}

/// A call and its answer.
pub fn exchange(pid: u32, method: &str, parameters: Value, answer: Value) -> [Line; 2] {
    [called(pid, method, parameters), answered(pid, method, answer)]
}

/// What each writer says of itself.
pub fn metadata(writer: &str) -> Value {
    let is_front = writer == "front";
    let folder = format!("/srv/{writer}");
    let files = json!([{"path": folder, "pattern": "*", "recursive": true, "role": "data"}]);
    let mut components = vec![
        json!({"kind": "file_group", "name": "data", "selectable": true, "held": true, "files": files}),
        json!({"kind": "file_group", "path": "data", "name": "inner", "selectable": false, "held": true,
               "files": files}),
    ];
    if is_front {
        let keys = json!([{"path": "/srv/front.key", "purpose": "key"}]);
        components.push(json!({"kind": "keys", "name": "keys", "selectable": false, "keys": keys}));
    }
    json!({
        "schema": "holdfast.writer-metadata/1",
        "writer_type": "test",
        "id": writer,
        "name": writer,
        "version": "1",
        "usage": "other",
        "source": "other",
        "restore": {"method": "if_can_replace", "rank": "applications"},
        "freeze_level": if is_front { "front_end" } else { "system" },
        "freeze_budget_ms": 1000,
        "backup_types": {"incremental": true},
        "capabilities": {"freeze": true, "keys": is_front, "stream": !is_front, "logs": !is_front,
                         "recover": true, "post_restore": is_front},
        "components": components,
    })
}

pub fn components(writer: &str) -> Value {
    let mut named = vec![json!({"name": "data"}), json!({"path": "data", "name": "inner"})];
    if writer == "front" {
        named.push(json!({"name": "keys"}));
    }
    named.into()
}

impl Book {
    /// A backup and a restore in which all is right.
    pub fn right() -> Self {
        let mut book = Self { lines: Vec::new() };
        for pid in [FRONT[0], BACK[0]] {
            book.begin(pid, "Identify", json!({}), json!({"metadata": metadata(writer(pid))}));
            book.ended(pid);
        }
        let both = [FRONT[1], BACK[1]];
        for pid in both {
            let of = components(writer(pid));
            let request =
                json!({"set": SET, "backup_type": "full", "components": of, "previous_stamps": null});
            book.begin(pid, "BeginBackup", request, json!({}));
        }
        let phase = json!({"set": SET, "budget_ms": 1000});
        for pid in both {
            book.add(exchange(pid, "PrepareBackup", phase.clone(), json!({"backup_type": "full"})));
        }
        book.add(exchange(both[0], "SealKeys", json!({"recipients": ["age1x"]}), json!({"keys": []})));
        let stream =
            json!({"name": "s", "component": {"name": "data"}, "path": "/srv/back/s", "size_hint": 3});
        book.add(exchange(both[1], "ListStreams", json!({}), json!({"streams": [stream]})));
        book.add(exchange(both[1], "OpenStream", json!({"name": "s"}), json!({"descriptor": 0})));
        book.lines.push(called(both[1], "CloseStream", json!({"name": "s", "bytes": 3})));
        book.lines.push(loose(both[1], Record::Streamed { name: "s".into(), bytes: 3 }));
        book.lines.push(answered(both[1], "CloseStream", json!({})));
        let log = json!({"name": "log.1", "generation": 1, "path": "/srv/back/log.1"});
        book.add(exchange(both[1], "ListLogs", json!({}), json!({"logs": [log]})));
        for pid in both {
            book.add(exchange(pid, "PrepareSnapshot", phase.clone(), json!({})));
        }
        for pid in both {
            book.add(exchange(pid, "Freeze", phase.clone(), json!({"mark": {"position": "1"}})));
        }
        for pid in [both[1], both[0]] {
            book.add(exchange(pid, "Thaw", json!({}), json!({"thawed": "released"})));
        }
        for pid in both {
            let shadow = json!({"set": SET, "roots": [[format!("/srv/{}", writer(pid)), "/shadow"]]});
            book.add(exchange(pid, "PostSnapshot", shadow, json!({"stamps": {"data": "stamp"}})));
        }
        for pid in both {
            let logs = if pid == both[1] { json!(["log.1"]) } else { json!([]) };
            let outcome = json!({"set": SET, "backup_type": "full", "succeeded": components(writer(pid)),
                                 "stored_logs": logs});
            book.add(exchange(pid, "BackupComplete", outcome, json!({"logs": logs})));
        }
        for pid in both {
            book.ended(pid);
        }
        book.restore([FRONT[2], BACK[2]]);
        book.number();
        book
    }

    fn restore(&mut self, both: [u32; 2]) {
        for pid in both {
            let request = json!({"set": SET, "metadata": metadata(writer(pid)),
                                 "components": components(writer(pid)), "in_place": true});
            self.begin(pid, "BeginRestore", request, json!({}));
        }
        let staged = json!({"roots": [["/srv/x", "/staged/x"]]});
        for pid in both {
            self.add(exchange(pid, "OnlineState", json!({}), json!({"state": "down"})));
        }
        for pid in both {
            self.add(exchange(pid, "Check", staged.clone(), json!({"findings": []})));
        }
        for pid in both {
            self.add(exchange(pid, "Register", json!({"map": [], "marker": "/marker"}), json!({})));
        }
        for pid in both {
            self.add(exchange(pid, "RegisterComplete", json!({}), json!({})));
            let recover = json!({"staged": staged, "context": {}});
            self.add(exchange(pid, "Recover", recover, json!({"done": []})));
            self.add(exchange(pid, "Verify", staged.clone(), json!({"findings": []})));
        }
        let step =
            |name: &str| json!({"name": name, "description": "it", "timeout_ms": 100, "on_failure": "stop"});
        let steps = json!({"steps": [step("first"), step("second")]});
        self.add(exchange(both[0], "PostRestoreSteps", json!({}), steps));
        for name in ["first", "second"] {
            self.add(exchange(both[0], "RunStep", json!({"name": name}), json!({"outcome": "done"})));
        }
        for pid in both {
            self.add(exchange(pid, "Unregister", json!({}), json!({})));
            self.ended(pid);
        }
    }

    /// A process begins, is greeted, and is asked the first thing.
    pub fn begin(&mut self, pid: u32, method: &str, parameters: Value, answer: Value) {
        self.lines.push(loose(pid, Record::Started { requester: 5 }));
        let hello = json!({"protocol": "1.0", "id": writer(pid), "writer_type": "test", "settings": {}});
        self.add(exchange(pid, "Hello", hello, json!({"protocol": "1.0"})));
        self.add(exchange(pid, method, parameters, answer));
    }

    pub fn add(&mut self, lines: impl IntoIterator<Item = Line>) {
        self.lines.extend(lines);
    }

    pub fn ended(&mut self, pid: u32) {
        self.lines.push(loose(pid, Record::Ended { requester_gone: false }));
    }

    /// One millisecond from line to line.
    pub fn number(&mut self) {
        for (n, line) in self.lines.iter_mut().enumerate() {
            line.at_ns = (n as u64 + 1) * 1_000_000;
        }
    }

    /// The line of the first call of `method`.
    pub fn call(&self, pid: u32, method: &str) -> usize {
        let found = self.lines.iter().position(|line| {
            line.process.pid == pid
                && matches!(&line.record, Record::Called { method: of, .. } if of == method)
        });
        found.unwrap_or_else(|| panic!("no {method} of {pid}"))
    }

    /// The line of the first answer to `method`.
    pub fn answer(&self, pid: u32, method: &str) -> usize {
        let found = self.lines.iter().position(|line| {
            line.process.pid == pid
                && matches!(&line.record, Record::Answered { method: of, .. } if of == method)
        });
        found.unwrap_or_else(|| panic!("no answer to {method} of {pid}"))
    }

    /// The parameters of the first call of `method`.
    #[expect(clippy::wildcard_enum_match_arm, reason = "it is a call")]
    pub fn parameters(&mut self, pid: u32, method: &str) -> &mut Value {
        let at = self.call(pid, method);
        match &mut self.lines[at].record {
            Record::Called { parameters, .. } => parameters,
            other => panic!("{other:?}"),
        }
    }

    /// What the first answer to `method` was.
    #[expect(clippy::wildcard_enum_match_arm, reason = "it is an answer")]
    pub fn reply(&mut self, pid: u32, method: &str) -> &mut Value {
        let at = self.answer(pid, method);
        match &mut self.lines[at].record {
            Record::Answered { parameters, .. } => parameters,
            other => panic!("{other:?}"),
        }
    }

    /// What was seen and looked for at the first call of `method`.
    #[expect(clippy::wildcard_enum_match_arm, reason = "it is a call")]
    pub fn facts(&mut self, pid: u32, method: &str) -> (&mut Vec<Seen>, &mut Vec<Looked>) {
        let at = self.call(pid, method);
        match &mut self.lines[at].record {
            Record::Called { seen, looked, .. } => (seen, looked),
            other => panic!("{other:?}"),
        }
    }

    /// Makes the first answer to `method` an error.
    pub fn fail(&mut self, pid: u32, method: &str) {
        let at = self.answer(pid, method);
        self.lines[at] = failed(pid, method);
    }

    /// Takes the first `method` out, with its answer.
    pub fn without(&mut self, pid: u32, method: &str) {
        self.lines.remove(self.answer(pid, method));
        self.lines.remove(self.call(pid, method));
    }

    /// Takes out everything that `pid` wrote after its answer to `method`.
    pub fn cut_after(&mut self, pid: u32, method: &str) {
        let mut n = 0;
        let at = self.answer(pid, method);
        self.lines.retain(|line| {
            n += 1;
            n - 1 <= at || line.process.pid != pid
        });
    }

    /// Takes out everything that came from `line` on.
    pub fn cut(&mut self, line: usize) {
        self.lines.truncate(line);
    }

    /// Puts lines right after the answer to `method`.
    pub fn after(&mut self, pid: u32, method: &str, lines: impl IntoIterator<Item = Line>) {
        let at = self.answer(pid, method) + 1;
        self.lines.splice(at..at, lines);
    }

    /// Puts lines right before the call of `method`.
    pub fn before(&mut self, pid: u32, method: &str, lines: impl IntoIterator<Item = Line>) {
        let at = self.call(pid, method);
        self.lines.splice(at..at, lines);
    }

    /// Takes the first `method` with its answer to right after another's answer.
    pub fn move_after(&mut self, pid: u32, method: &str, other: u32, after: &str) {
        let at = [self.call(pid, method), self.answer(pid, method)];
        let moved = at.map(|at| self.lines[at].clone());
        self.lines.remove(at[1]);
        self.lines.remove(at[0]);
        self.after(other, after, moved);
    }
}

//! What is wrong in each planted journal.

use serde_json::json;

use super::book::{BACK, Book, FRONT, OTHER_SET, SET, called, components, exchange, failed, loose};
use crate::journal::{Line, Looked, Record, Seen};

/// Spoils a journal; the processes that are still there are added to the list.
type Spoil = fn(&mut Book, &mut Vec<u32>);

/// Ends a backup of both after a failure, as it should be.
pub fn give_up(book: &mut Book, writers: &[u32]) {
    for pid in writers {
        book.add(exchange(*pid, "Abort", json!({}), json!({})));
        book.ended(*pid);
    }
}

/// The journal up to the answer of `method`, and both given up.
fn given_up_after(book: &mut Book, pid: u32, method: &str) {
    book.cut(book.answer(pid, method) + 1);
    give_up(book, &[FRONT[1], BACK[1]]);
}

pub fn misbehaved(pid: u32, method: &str) -> Line {
    loose(pid, Record::Misbehaved { method: method.into(), how: "garbage".into() })
}

fn restored_by(book: &mut Book, pid: u32) {
    // From here on only what that one did.
    book.lines.retain(|line| line.process.pid != pid);
}

pub fn all() -> Vec<(u8, &'static str, Spoil)> {
    vec![
        (1, "garbage on the socket", |book, _| {
            book.after(FRONT[0], "Identify", [loose(FRONT[0], Record::Nonsense { why: "no JSON".into() })]);
        }),
        (1, "a method that is not there", |book, _| {
            let mut call = called(FRONT[0], "Explode", json!({}));
            if let Record::Called { refused, .. } = &mut call.record {
                *refused = Some("org.varlink.service.MethodNotFound".into());
            }
            book.after(FRONT[0], "Identify", [call]);
        }),
        (2, "a call before the answer", |book, _| {
            book.after(FRONT[1], "PrepareBackup", [loose(FRONT[1], Record::Early {})]);
        }),
        (3, "greeted twice", |book, _| {
            let hello = json!({"protocol": "1.0", "id": "front", "writer_type": "test", "settings": {}});
            book.after(FRONT[0], "Identify", exchange(FRONT[0], "Hello", hello, json!({"protocol": "1.0"})));
        }),
        (3, "not greeted", |book, _| book.without(FRONT[1], "Hello")),
        (3, "asked though the greeting was refused", |book, _| {
            book.reply(FRONT[0], "Hello")["protocol"] = json!("2.0");
        }),
        (3, "a restore's method in a backup", |book, _| {
            book.after(
                FRONT[1],
                "PrepareBackup",
                exchange(FRONT[1], "OnlineState", json!({}), json!({"state": "down"})),
            );
        }),
        (3, "asked to prepare what did not begin", |book, _| {
            book.cut(book.call(FRONT[1], "BeginBackup") + 1);
            book.add([failed(FRONT[1], "BeginBackup")]);
            let phase = json!({"set": SET, "budget_ms": 5});
            book.add(exchange(FRONT[1], "PrepareBackup", phase, json!({"backup_type": "full"})));
            book.ended(FRONT[1]);
        }),
        (4, "asked again after nonsense", |book, _| {
            book.cut(book.call(BACK[1], "PrepareBackup"));
            book.add([called(BACK[1], "PrepareBackup", json!({"set": SET, "budget_ms": 1000}))]);
            book.add([misbehaved(BACK[1], "PrepareBackup")]);
            give_up(book, &[FRONT[1], BACK[1]]);
        }),
        (4, "asked again after an answer that is none", |book, _| {
            given_up_after(book, BACK[1], "PrepareBackup");
            *book.reply(BACK[1], "PrepareBackup") = json!({"backup_type": "everything"});
        }),
        (5, "goes on after a preparation that came too late", |book, _| {
            let at = book.answer(FRONT[1], "PrepareBackup");
            book.lines[at..].iter_mut().for_each(|line| line.at_ns += 2_000_000_000);
        }),
        (5, "takes a freeze that came too late", |book, _| {
            let at = book.answer(BACK[1], "Freeze");
            book.lines[at..].iter_mut().for_each(|line| line.at_ns += 2_000_000_000);
        }),
        (6, "prepared twice", |book, _| {
            let phase = json!({"set": SET, "budget_ms": 5});
            let again = exchange(FRONT[1], "PrepareBackup", phase, json!({"backup_type": "full"}));
            book.after(FRONT[1], "PrepareBackup", again);
        }),
        (6, "keys are sealed before the preparation", |book, _| {
            book.move_after(FRONT[1], "SealKeys", FRONT[1], "BeginBackup");
        }),
        (6, "keys are sealed after the last preparation", |book, _| {
            book.move_after(FRONT[1], "SealKeys", FRONT[1], "PrepareSnapshot");
        }),
        (6, "completed without a look at the shadow copy", |book, _| {
            // Alone, so that nobody else waits for it.
            for pid in [BACK[1], BACK[2]] {
                restored_by(book, pid);
            }
            book.without(FRONT[1], "PostSnapshot");
        }),
        (6, "never frozen", |book, _| {
            for pid in [BACK[1], BACK[2]] {
                restored_by(book, pid);
            }
            book.without(FRONT[1], "Freeze");
        }),
        (7, "frozen though the last preparation failed", |book, _| {
            for pid in [BACK[1], BACK[2]] {
                restored_by(book, pid);
            }
            book.cut(book.answer(FRONT[1], "Thaw") + 1);
            give_up(book, &[FRONT[1]]);
            book.fail(FRONT[1], "PrepareSnapshot");
        }),
        (7, "goes on though the thaw came too late", |book, _| {
            for pid in [BACK[1], BACK[2]] {
                restored_by(book, pid);
            }
            book.fail(FRONT[1], "Thaw");
        }),
        (8, "given up without a thaw", |book, _| given_up_after(book, BACK[1], "Freeze")),
        (8, "left held", |book, _| {
            book.cut(book.answer(BACK[1], "Freeze") + 1);
            book.ended(FRONT[1]);
            book.ended(BACK[1]);
        }),
        (8, "held until it let go by itself", |book, _| {
            book.after(BACK[1], "Freeze", [loose(BACK[1], Record::Released {})]);
            book.fail(BACK[1], "Thaw");
            book.cut(book.answer(FRONT[1], "Thaw") + 1);
            give_up(book, &[FRONT[1], BACK[1]]);
        }),
        (9, "nothing is said to the other of a failure", |book, _| {
            book.cut(book.answer(BACK[1], "PrepareBackup") + 1);
            book.fail(BACK[1], "PrepareBackup");
            give_up(book, &[BACK[1]]);
            book.ended(FRONT[1]);
        }),
        (10, "given up after it was completed", |book, _| {
            book.after(FRONT[1], "BackupComplete", exchange(FRONT[1], "Abort", json!({}), json!({})));
        }),
        (10, "a list of logs after it was given up", |book, _| {
            book.cut(book.answer(BACK[1], "ListLogs") + 1);
            give_up(book, &[FRONT[1], BACK[1]]);
            book.after(BACK[1], "Abort", exchange(BACK[1], "ListLogs", json!({}), json!({"logs": []})));
        }),
        (11, "no time at all", |book, _| {
            book.parameters(FRONT[1], "PrepareBackup")["budget_ms"] = json!(0);
            // Then nothing is in time.
            let at = book.call(FRONT[1], "PrepareBackup");
            book.lines[at + 1].at_ns = book.lines[at].at_ns;
        }),
        (11, "a longer hold than the writer bears", |book, _| {
            book.parameters(FRONT[1], "Freeze")["budget_ms"] = json!(1001);
        }),
        (12, "another set at the freeze", |book, _| {
            book.parameters(FRONT[1], "Freeze")["set"] = json!(OTHER_SET);
        }),
        (13, "a component that was not declared", |book, _| {
            for (method, key) in [("BeginBackup", "components"), ("BackupComplete", "succeeded")] {
                let named = book.parameters(FRONT[1], method)[key].as_array_mut().unwrap();
                named.push(json!({"name": "more"}));
            }
        }),
        (13, "one without what belongs to it", |book, _| {
            let alone = json!([{"name": "data"}, {"name": "keys"}]);
            book.parameters(FRONT[1], "BeginBackup")["components"] = alone.clone();
            book.parameters(FRONT[1], "BackupComplete")["succeeded"] = alone.clone();
            book.parameters(FRONT[2], "BeginRestore")["components"] = alone;
        }),
        (13, "a kind that was not declared", |book, _| {
            book.parameters(FRONT[1], "BeginBackup")["backup_type"] = json!("differential");
        }),
        (13, "never asked what it is", |book, _| restored_by(book, FRONT[0])),
        (13, "begun though its description cannot be used", |book, _| {
            book.reply(FRONT[0], "Identify")["metadata"]["id"] = json!("somebody-else");
        }),
        (14, "a stamp that was never given", |book, _| {
            book.parameters(FRONT[1], "BeginBackup")["previous_stamps"] = json!({"data": "made up"});
        }),
        (15, "a component is missing at the end", |book, _| {
            book.parameters(BACK[1], "BackupComplete")["succeeded"] = json!([{"name": "data"}]);
        }),
        (15, "an increment where the writer made a full", |book, _| {
            book.parameters(BACK[1], "BeginBackup")["backup_type"] = json!("incremental");
            book.parameters(BACK[1], "BackupComplete")["backup_type"] = json!("incremental");
        }),
        (15, "a kind that nobody asked for", |book, _| {
            book.reply(BACK[1], "PrepareBackup")["backup_type"] = json!("log");
            book.parameters(BACK[1], "BackupComplete")["backup_type"] = json!("log");
            book.parameters(BACK[1], "BackupComplete")["stored_logs"] = json!([]);
        }),
        (15, "a log that was not listed", |book, _| {
            book.parameters(BACK[1], "BackupComplete")["stored_logs"] = json!(["log.2"]);
        }),
        (15, "logs of a kind that truncates none", |book, _| {
            for method in ["BeginBackup", "BackupComplete"] {
                book.parameters(BACK[1], method)["backup_type"] = json!("copy");
            }
            book.reply(BACK[1], "PrepareBackup")["backup_type"] = json!("copy");
        }),
        (16, "keys are asked of one that has none", |book, _| {
            let sealed = exchange(BACK[1], "SealKeys", json!({"recipients": ["age1x"]}), json!({"keys": []}));
            book.after(BACK[1], "PrepareBackup", sealed);
        }),
        (16, "recovered though it says that it cannot", |book, _| {
            for pid in [FRONT[0], FRONT[2]] {
                let said = if pid == FRONT[0] {
                    book.reply(pid, "Identify")
                } else {
                    book.parameters(pid, "BeginRestore")
                };
                said["metadata"]["capabilities"]["recover"] = json!(false);
            }
        }),
        (17, "frozen without its keys", |book, _| book.without(FRONT[1], "SealKeys")),
        (17, "keys are sealed to nobody", |book, _| {
            book.parameters(FRONT[1], "SealKeys")["recipients"] = json!([]);
        }),
        (18, "a stream that was not listed", |book, _| {
            book.reply(BACK[1], "ListStreams")["streams"] = json!([]);
        }),
        (18, "closed with another number of bytes", |book, _| {
            book.parameters(BACK[1], "CloseStream")["bytes"] = json!(2);
        }),
        (18, "left open", |book, _| {
            let streamed = |line: &Line| matches!(line.record, Record::Streamed { .. });
            book.without(BACK[1], "CloseStream");
            book.lines.retain(|line| !streamed(line));
        }),
        (19, "a file that is not in the shadow copy", |book, _| {
            let gone = Seen { original: "/srv/front".into(), at: Some("/shadow".into()), found: false };
            book.facts(FRONT[1], "PostSnapshot").0.push(gone);
        }),
        (19, "no marker at the registration", |book, _| {
            let gone = Seen { original: "/marker".into(), at: Some("/marker".into()), found: false };
            book.facts(FRONT[2], "Register").0.push(gone);
        }),
        (20, "the set is not there when logs are to be truncated", |book, _| {
            let looked = Looked { command: vec!["verify".into()], code: Some(1), said: "no set".into() };
            book.facts(FRONT[1], "BackupComplete").1.push(looked);
        }),
        (21, "a process is left", |_, alive| alive.push(FRONT[1])),
        (22, "one is frozen before another is ready", |book, _| {
            book.move_after(BACK[1], "PrepareSnapshot", FRONT[1], "Freeze");
        }),
        (22, "one completes before another has looked", |book, _| {
            book.move_after(FRONT[1], "BackupComplete", FRONT[1], "PostSnapshot");
        }),
        (22, "one goes on though another failed", |book, _| {
            book.fail(BACK[1], "PostSnapshot");
            book.without(BACK[1], "BackupComplete");
            book.after(BACK[1], "PostSnapshot", exchange(BACK[1], "Abort", json!({}), json!({})));
        }),
        (23, "the system is frozen first", |book, _| {
            book.move_after(FRONT[1], "Freeze", BACK[1], "Freeze");
        }),
        (23, "the front end is thawed first", |book, _| {
            book.move_after(BACK[1], "Thaw", FRONT[1], "Thaw");
        }),
        (23, "one after the other is held", |book, _| {
            book.move_after(FRONT[1], "Thaw", FRONT[1], "Freeze");
        }),
        (24, "two backups at once", |book, _| {
            let mut other = Book { lines: Vec::new() };
            let of = components("front");
            let request = json!({"set": OTHER_SET, "backup_type": "full", "components": of});
            other.begin(14, "BeginBackup", request, json!({}));
            give_up(&mut other, &[14]);
            book.after(FRONT[1], "PrepareBackup", other.lines);
        }),
        (25, "verified before it was recovered", |book, _| {
            book.move_after(FRONT[2], "Recover", FRONT[2], "Verify");
        }),
        (25, "checked twice", |book, _| {
            let staged = json!({"roots": [["/srv/x", "/staged/x"]]});
            book.after(FRONT[2], "Check", exchange(FRONT[2], "Check", staged, json!({"findings": []})));
        }),
        (25, "a step is left out", |book, _| book.without(FRONT[2], "RunStep")),
        (26, "verified though the recovery failed", |book, _| {
            book.fail(FRONT[2], "Recover");
            let steps = book.call(FRONT[2], "RunStep");
            book.lines.drain(steps..steps + 4);
        }),
        (26, "the next step after one that must not fail", |book, _| book.fail(FRONT[2], "RunStep")),
        (27, "registered without a check", |book, _| {
            book.lines.retain(|line| line.process.pid != BACK[2]);
            book.without(FRONT[2], "Check");
        }),
        (27, "recovered without a registration", |book, _| {
            book.lines.retain(|line| line.process.pid != BACK[2]);
            book.without(FRONT[2], "Register");
        }),
        (28, "goes on while the application runs", |book, _| {
            *book.reply(FRONT[2], "OnlineState") = json!({"state": "ready"});
        }),
        (29, "another description than the set's", |book, _| {
            book.parameters(FRONT[2], "BeginRestore")["metadata"]["freeze_level"] = json!("system");
        }),
        (29, "a component that is not in the set", |book, _| {
            book.parameters(FRONT[2], "BeginRestore")["components"] = json!([{"name": "more"}]);
        }),
        (30, "one is registered before the other was checked", |book, _| {
            book.move_after(FRONT[2], "Register", FRONT[2], "Check");
            book.move_after(BACK[2], "Check", FRONT[2], "Register");
        }),
        (30, "a step of one before the other is verified", |book, _| {
            let at = book.call(FRONT[2], "PostRestoreSteps");
            let steps: Vec<_> = book.lines.drain(at..at + 6).collect();
            book.after(FRONT[2], "Verify", steps);
        }),
    ]
}

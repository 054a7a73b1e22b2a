//! What is unusual in a journal, and breaks no rule.

use serde_json::json;

use super::book::{BACK, Book, FRONT, OTHER_SET, SET, answered, components, exchange, loose, metadata};
use super::planted::{give_up, misbehaved};
use crate::journal::Record;

/// Changes a journal so that it stays right.
type Change = fn(&mut Book);

/// What is unusual and yet right.
pub fn all() -> Vec<(&'static str, Change)> {
    vec![
        ("thawed again at any time", |book| {
            let thaw = || exchange(FRONT[1], "Thaw", json!({}), json!({"thawed": "was_not_held"}));
            book.after(FRONT[1], "BeginBackup", thaw());
            book.after(FRONT[1], "BackupComplete", thaw());
        }),
        ("a freeze that failed is thawed, and all are given up", |book| {
            book.cut(book.answer(BACK[1], "Freeze") + 1);
            book.fail(BACK[1], "Freeze");
            for pid in [BACK[1], FRONT[1]] {
                book.add(exchange(pid, "Thaw", json!({}), json!({"thawed": "released"})));
            }
            give_up(book, &[FRONT[1], BACK[1]]);
        }),
        ("a writer that broke off is left alone, the others are thawed and given up", |book| {
            book.cut(book.answer(BACK[1], "Freeze"));
            book.add([misbehaved(BACK[1], "Freeze")]);
            book.ended(BACK[1]);
            book.add(exchange(FRONT[1], "Thaw", json!({}), json!({"thawed": "released"})));
            give_up(book, &[FRONT[1]]);
        }),
        ("a writer that does not thaw is ended without another word", |book| {
            book.cut(book.answer(FRONT[1], "Thaw") + 1);
            book.fail(BACK[1], "Thaw");
            book.ended(BACK[1]);
            give_up(book, &[FRONT[1]]);
        }),
        ("the requester waits no longer for a freeze", |book| {
            let at = book.answer(BACK[1], "Freeze");
            book.cut(at + 1);
            book.lines.insert(at, loose(BACK[1], Record::HungUp { method: "Freeze".into() }));
            book.ended(BACK[1]);
            book.add(exchange(FRONT[1], "Thaw", json!({}), json!({"thawed": "released"})));
            give_up(book, &[FRONT[1]]);
        }),
        ("the requester died while it held", |book| {
            book.cut(book.answer(BACK[1], "Freeze") + 1);
            for pid in [FRONT[1], BACK[1]] {
                book.add([loose(pid, Record::Ended { requester_gone: true })]);
            }
        }),
        ("a writer that holds nothing is not frozen", |book| {
            book.reply(FRONT[0], "Identify")["metadata"]["capabilities"]["freeze"] = json!(false);
            book.parameters(FRONT[2], "BeginRestore")["metadata"]["capabilities"]["freeze"] = json!(false);
            book.without(FRONT[1], "Freeze");
            book.without(FRONT[1], "Thaw");
        }),
        ("an introspection before the greeting", |book| {
            let method = "org.varlink.service.GetInfo";
            book.before(FRONT[0], "Hello", exchange(FRONT[0], method, json!({}), json!({})));
        }),
        ("stamps of a backup that was completed", |book| {
            let mut next = Book { lines: Vec::new() };
            let (of, stamps) = (components("back"), json!({"data": "stamp"}));
            let request = json!({"set": OTHER_SET, "backup_type": "incremental", "components": of,
                                 "previous_stamps": stamps});
            next.begin(24, "BeginBackup", request, json!({}));
            give_up(&mut next, &[24]);
            book.add(next.lines);
        }),
        ("a restore that was registered before goes on with its recovery", |book| {
            book.cut(book.answer(BACK[2], "Register") + 1);
            for pid in [FRONT[2], BACK[2]] {
                book.ended(pid);
            }
            let mut again = Book { lines: Vec::new() };
            let request = json!({"set": SET, "metadata": metadata("front"), "components": components("front"),
                                 "in_place": true});
            again.begin(15, "BeginRestore", request, json!({}));
            let staged = json!({"roots": [["/srv/x", "/staged/x"]]});
            again.add(exchange(15, "RegisterComplete", json!({}), json!({})));
            let recover = json!({"staged": staged, "context": {}});
            again.add(exchange(15, "Recover", recover, json!({"done": []})));
            again.add(exchange(15, "Verify", staged, json!({"findings": []})));
            again.add(exchange(15, "Unregister", json!({}), json!({})));
            again.ended(15);
            book.add(again.lines);
        }),
        ("what the set holds is tried out elsewhere", |book| {
            for pid in [FRONT[2], BACK[2]] {
                book.parameters(pid, "BeginRestore")["in_place"] = json!(false);
                book.cut_after(pid, "Verify");
                book.without(pid, "RegisterComplete");
                book.without(pid, "Register");
                book.ended(pid);
            }
        }),
        ("a step whose failure lets go on", |book| {
            book.reply(FRONT[2], "PostRestoreSteps")["steps"][0]["on_failure"] = json!("continue");
            book.fail(FRONT[2], "RunStep");
        }),
        ("a writer that cannot tell whether its application runs", |book| book.fail(FRONT[2], "OnlineState")),
        ("a writer that has no registration of its own", |book| {
            for (pid, method) in [(FRONT[2], "Register"), (FRONT[2], "Unregister")] {
                let at = book.answer(pid, method);
                let mut answer = answered(pid, method, json!({"method": method}));
                if let Record::Answered { error, .. } = &mut answer.record {
                    *error = Some("org.varlink.service.MethodNotFound".into());
                }
                book.lines[at] = answer;
            }
        }),
        ("the application runs, and the restore is taken back", |book| {
            for pid in [FRONT[2], BACK[2]] {
                book.cut_after(pid, "Register");
            }
            book.add(exchange(FRONT[2], "OnlineState", json!({}), json!({"state": "ready"})));
            for pid in [FRONT[2], BACK[2]] {
                book.add(exchange(pid, "Unregister", json!({}), json!({})));
                book.ended(pid);
            }
        }),
    ]
}

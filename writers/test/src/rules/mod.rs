//! What a requester must do, and whether a journal shows that it did. Start reading at [`RULES`].
//!
//! Rules are numbered once; numbers are never given again. Each is one function over the story of a journal, which
//! sees nothing but what writers saw.

mod backup;
mod conversation;
mod exact;
mod facts;
mod restore;
mod story;
mod together;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::Serialize;

use crate::journal::{Line, Process};
use story::Story;

/// A rule.
#[derive(Debug)]
pub struct Rule {
    /// Its number: `R7` is 7.
    pub number: u8,
    /// What must be, in a sentence.
    pub must: &'static str,
    check: fn(&Story<'_>) -> Vec<Found>,
}

/// Where a rule is broken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The rule's number.
    pub rule: u8,
    /// The writer that saw it.
    pub writer: String,
    /// The line of the journal, from 1.
    pub line: usize,
    /// What was seen.
    pub seen: String,
    /// What must be.
    pub must: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rule, writer, line, seen, must } = self;
        write!(f, "R{rule} line {line}, `{writer}`: {seen}\n    {must}")
    }
}

/// A violation of the rule that found it.
struct Found {
    writer: String,
    line: usize,
    seen: String,
}

/// All rules, by number.
pub static RULES: &[Rule] = &[
    Rule {
        number: 1,
        must: "Every message MUST be whole and a call of the interface, with its parameters.",
        check: conversation::whole,
    },
    Rule {
        number: 2,
        must: "A call MUST NOT be sent before the answer to the last one.",
        check: conversation::in_turn,
    },
    Rule {
        number: 3,
        must: "`Hello` MUST come first and once, then `Identify` or one `BeginBackup` or `BeginRestore`, then only \
               methods of what was begun; nothing follows a `Hello` or a beginning that failed.",
        check: conversation::in_state,
    },
    Rule {
        number: 4,
        must: "A writer that broke the protocol MUST NOT be asked anything more.",
        check: conversation::not_after_nonsense,
    },
    Rule {
        number: 5,
        must: "An answer that came after its deadline MUST be taken as a failure.",
        check: conversation::not_after_deadline,
    },
    Rule {
        number: 6,
        must: "The phases of a backup MUST come in their order, each once and none left out: PrepareBackup, SealKeys, \
               PrepareSnapshot, Freeze, Thaw, PostSnapshot, BackupComplete.",
        check: backup::in_order,
    },
    Rule {
        number: 7,
        must: "After a phase of a backup failed, only `Thaw` and `Abort` MUST follow.",
        check: backup::not_after_failure,
    },
    Rule {
        number: 8,
        must: "A hold MUST be ended by `Thaw`, within the budget of its `Freeze`.",
        check: backup::thawed,
    },
    Rule {
        number: 9,
        must: "A backup that was begun and is not completed MUST be given up by `Abort`, as long as anything can be said to the \
               writer and its thaw did not fail.",
        check: backup::given_up,
    },
    Rule {
        number: 10,
        must: "After `BackupComplete` only `Thaw` MUST follow, after `Abort` only `Thaw` and `Abort`.",
        check: backup::not_after_end,
    },
    Rule {
        number: 11,
        must: "A budget MUST be more than nothing; that of `Freeze` no more than the writer and its application bear.",
        check: exact::budgets,
    },
    Rule { number: 12, must: "All calls of a conversation MUST be about one set.", check: exact::one_set },
    Rule {
        number: 13,
        must: "A backup MUST be begun with components that `Identify` declared before, each once and with all that \
               comes with them, and of a kind that was declared.",
        check: exact::declared,
    },
    Rule {
        number: 14,
        must: "`previous_stamps` MUST be stamps that this writer gave for that component in a backup that was completed.",
        check: exact::stamps,
    },
    Rule {
        number: 15,
        must: "`BackupComplete` MUST name exactly the components of the backup, the kind that was asked for \
               or the full that `PrepareBackup` answered in its place, and only logs that were listed, none if the kind \
               may not truncate.",
        check: exact::complete,
    },
    Rule {
        number: 16,
        must: "Methods of a capability that was not declared MUST NOT be called.",
        check: exact::capabilities,
    },
    Rule {
        number: 17,
        must: "Keys MUST be sealed, to somebody, before the freeze of a backup that has them.",
        check: exact::keys,
    },
    Rule {
        number: 18,
        must: "A stream MUST be one that was listed, and MUST be closed with its exact number of bytes before \
               `BackupComplete`.",
        check: exact::streams,
    },
    Rule {
        number: 19,
        must: "What a call names MUST be there: the files in the shadow copy, the staged files, the marker.",
        check: facts::there,
    },
    Rule { number: 20, must: "What the script looks for at a call MUST be true.", check: facts::looked },
    Rule {
        number: 21,
        must: "Every process of a writer MUST be gone when the requester has ended.",
        check: facts::gone,
    },
    Rule {
        number: 22,
        must: "A phase MUST NOT begin before all writers of the set have done the one before.",
        check: together::phase_by_phase,
    },
    Rule {
        number: 23,
        must: "Front ends MUST be frozen first and the system last, thawed the other way round, and all be held at one \
               moment.",
        check: together::by_level,
    },
    Rule {
        number: 24,
        must: "A writer MUST be in one backup at a time, and in none while a restore of it is registered.",
        check: together::one_at_a_time,
    },
    Rule {
        number: 25,
        must: "The phases of a restore MUST come in their order, each once: Check, Register, RegisterComplete, Recover, \
               Verify, the steps as they were listed, Unregister.",
        check: restore::in_order,
    },
    Rule {
        number: 26,
        must: "After a phase of a restore failed, only `Unregister` MUST follow, or the next step after one whose \
               failure lets go on. An `OnlineState` that fails is one that cannot tell.",
        check: restore::not_after_failure,
    },
    Rule {
        number: 27,
        must: "A restore MUST be registered only after its `Check`, recovered only when it is registered, and its steps \
               run only after `Verify`; in an earlier conversation or in this one. What is elsewhere and only tried \
               out needs no registration.",
        check: restore::only_after,
    },
    Rule {
        number: 28,
        must: "A restore MUST NOT go on while the application runs.",
        check: restore::not_while_running,
    },
    Rule {
        number: 29,
        must: "A restore MUST be begun with the description and with components that its set stored.",
        check: restore::as_stored,
    },
    Rule {
        number: 30,
        must: "All writers of a restore MUST be checked before one is registered, registered before one is recovered, \
               and verified before a step of one is run.",
        check: restore::together,
    },
];

/// What is wrong in `lines`, in the order of the journal. `is_alive` tells of the processes that are still there.
pub fn check(lines: &[Line], is_alive: impl Fn(Process) -> bool) -> Vec<Violation> {
    let story = Story::of(lines, is_alive);
    let mut violations: Vec<_> = RULES
        .iter()
        .flat_map(|rule| {
            (rule.check)(&story).into_iter().map(|Found { writer, line, seen }| Violation {
                rule: rule.number,
                writer,
                line,
                seen,
                must: rule.must,
            })
        })
        .collect();
    violations.sort_by_key(|violation| (violation.line, violation.rule));
    violations
}

/// How many conversations `lines` tell of.
pub fn conversations(lines: &[Line]) -> usize {
    Story::of(lines, |_| false).conversations.len()
}

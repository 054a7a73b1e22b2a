//! The rules, numbered once. `docs/writer-rules.md` says the same, and why; a test compares the two.

use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::bench::Bench;
use super::checks::{capabilities, files, hold, identify, keys, logs, release, restore, states, streams};
use super::outcome::Verdict;
use crate::Capabilities;

/// What a rule is about. `holdfast writer test --level` chooses by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// What every writer needs to take part in a backup: its description, its hold, its end.
    Freeze,
    /// Logs, stamps and streams.
    Log,
    /// The way back.
    Restore,
    /// Keys.
    Key,
}

impl Level {
    /// All, in the order of the rules.
    pub const ALL: [Self; 4] = [Self::Freeze, Self::Log, Self::Restore, Self::Key];

    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Log => "log",
            Self::Restore => "restore",
            Self::Key => "key",
        }
    }
}

impl std::str::FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::as_str).join(", ");
            format!("there is no level `{text}`; there are: {known}")
        })
    }
}

/// An optional part of the contract, as [`Capabilities`] has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Holds its application.
    Freeze,
    /// Streams files itself.
    Stream,
    /// Lists and truncates logs.
    Logs,
    /// Proves and seals keys.
    Keys,
    /// Recovers a restored copy.
    Recover,
    /// Has steps after a restore.
    PostRestore,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Freeze, Self::Stream, Self::Logs, Self::Keys, Self::Recover, Self::PostRestore];

    /// As the metadata write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Stream => "stream",
            Self::Logs => "logs",
            Self::Keys => "keys",
            Self::Recover => "recover",
            Self::PostRestore => "post_restore",
        }
    }

    /// Whether a writer declares it.
    pub const fn declared(self, capabilities: &Capabilities) -> bool {
        match self {
            Self::Freeze => capabilities.freeze,
            Self::Stream => capabilities.stream,
            Self::Logs => capabilities.logs,
            Self::Keys => capabilities.keys,
            Self::Recover => capabilities.recover,
            Self::PostRestore => capabilities.post_restore,
        }
    }
}

/// A check at work.
pub(super) type Running<'b> = Pin<Box<dyn Future<Output = Verdict> + Send + 'b>>;

/// One rule.
pub struct Rule {
    /// Its number, which it keeps: `W3`.
    pub id: &'static str,
    /// The check's name: a sentence that is true of a good writer.
    pub check: &'static str,
    /// What it is about.
    pub level: Level,
    /// It concerns writers that declare this; without, all.
    pub needs: Option<Part>,
    /// The rule itself.
    pub must: &'static str,
    pub(super) run: fn(&mut Bench) -> Running<'_>,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.check)
    }
}

impl Rule {
    /// Where to read more.
    pub fn more(&self) -> String {
        format!("docs/writer-rules.md#{}", self.id.to_lowercase())
    }
}

/// The rule of that number, in upper or lower case, or of that check.
pub fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.id.eq_ignore_ascii_case(name) || rule.check == name)
}

/// All of them, in order.
pub static RULES: [Rule; 19] = [
    Rule {
        id: "W1",
        check: "identify_is_pure_and_repeatable",
        level: Level::Freeze,
        needs: None,
        must: "A writer MUST describe its application without taking, changing or releasing anything, also while a \
               backup runs, and say the same while nothing changed.",
        run: |bench| Box::pin(identify::is_pure_and_repeatable(bench)),
    },
    Rule {
        id: "W2",
        check: "metadata_keep_the_rules_and_name_what_is_there",
        level: Level::Freeze,
        needs: None,
        must: "A writer's metadata MUST keep the rules of the contract, and every file that they name and do not call \
               optional MUST be there.",
        run: |bench| Box::pin(identify::metadata_keep_the_rules(bench)),
    },
    Rule {
        id: "W3",
        check: "held_means_held_until_thaw",
        level: Level::Freeze,
        needs: Some(Part::Freeze),
        must: "A writer that has answered `Freeze` MUST let no write through until `Thaw`, or until its budget is over.",
        run: |bench| Box::pin(hold::held_means_held(bench)),
    },
    Rule {
        id: "W4",
        check: "thaw_works_from_any_state_any_number_of_times",
        level: Level::Freeze,
        needs: None,
        must: "A writer MUST accept `Thaw` in any state and any number of times, release within 100 ms, and say \
               truthfully whether anything was held.",
        run: |bench| Box::pin(states::thaw_works_from_any_state(bench)),
    },
    Rule {
        id: "W5",
        check: "a_freeze_given_up_leaves_nothing_held_also_not_later",
        level: Level::Freeze,
        needs: Some(Part::Freeze),
        must: "A `Freeze` that was given up before its answer MUST leave nothing held once the writer has ended, and \
               nothing may take the hold later.",
        run: |bench| Box::pin(release::a_freeze_given_up_leaves_nothing_held(bench)),
    },
    Rule {
        id: "W6",
        check: "a_dropped_participant_releases_within_100_ms",
        level: Level::Freeze,
        needs: Some(Part::Freeze),
        must: "A writer that is dropped while it holds MUST have released within 100 ms.",
        run: |bench| Box::pin(release::a_dropped_participant_releases(bench)),
    },
    Rule {
        id: "W7",
        check: "death_releases",
        level: Level::Freeze,
        needs: Some(Part::Freeze),
        must: "The death of a writer's process MUST release what it holds: nobody else is left to do it.",
        run: |bench| Box::pin(release::death_releases(bench)),
    },
    Rule {
        id: "W8",
        check: "a_closed_socket_releases",
        level: Level::Freeze,
        needs: Some(Part::Freeze),
        must: "A writer whose socket is closed MUST release what it holds, and end, by itself.",
        run: |bench| Box::pin(release::a_closed_socket_releases(bench)),
    },
    Rule {
        id: "W9",
        check: "the_holder_keeps_the_deadline_and_a_late_thaw_says_so",
        level: Level::Freeze,
        needs: Some(Part::Freeze),
        must: "A hold MUST end by itself at its budget, counted in milliseconds from the call of `Freeze`, and a `Thaw` \
               after that MUST be an error.",
        run: |bench| Box::pin(hold::the_holder_keeps_the_deadline(bench)),
    },
    Rule {
        id: "W10",
        check: "abort_releases_from_any_state",
        level: Level::Freeze,
        needs: None,
        must: "A writer MUST accept `Abort` in any state but after `BackupComplete`, any number of times, and release \
               what it holds.",
        run: |bench| Box::pin(states::abort_releases_from_any_state(bench)),
    },
    Rule {
        id: "W11",
        check: "the_files_declared_are_the_files_needed",
        level: Level::Restore,
        needs: None,
        must: "The files that a writer declares MUST be enough: copied under its hold and restored to an empty place, \
               its application MUST open them and find every write acknowledged before the freeze, and none begun \
               after the thaw.",
        run: |bench| Box::pin(files::declared_are_needed(bench)),
    },
    Rule {
        id: "W12",
        check: "stamps_are_of_what_took_part_and_are_taken_back",
        level: Level::Log,
        needs: None,
        must: "A writer MUST give stamps to components that took part and to no others, and MUST take them back as the \
               stamps of a base.",
        run: |bench| Box::pin(logs::stamps_are_taken_back(bench)),
    },
    Rule {
        id: "W13",
        check: "logs_are_truncated_last_and_exactly",
        level: Level::Log,
        needs: Some(Part::Logs),
        must: "A writer MUST truncate logs in `BackupComplete` and nowhere else, and there exactly those that it is \
               given, and MUST answer with them.",
        run: |bench| Box::pin(logs::truncated_last_and_exactly(bench)),
    },
    Rule {
        id: "W14",
        check: "online_state_tells_the_truth",
        level: Level::Restore,
        needs: None,
        must: "A writer MUST NOT say of a running application that it is down, nor of one that is down that it runs, \
               however often it is asked.",
        run: |bench| Box::pin(restore::online_state_tells_the_truth(bench)),
    },
    Rule {
        id: "W15",
        check: "a_registered_restore_keeps_the_application_down",
        level: Level::Restore,
        needs: None,
        must: "Where an application has a registration of its own, `Register` MUST keep it from starting until \
               `Unregister`, whatever ends in between.",
        run: |bench| Box::pin(restore::a_registration_is_honoured(bench)),
    },
    Rule {
        id: "W16",
        check: "what_is_declared_is_had_and_the_rest_is_unsupported",
        level: Level::Freeze,
        needs: None,
        must: "A writer MUST have every part of the contract that it declares, and MUST answer `Unsupported` for those \
               that it does not.",
        run: |bench| Box::pin(capabilities::declared_is_had(bench)),
    },
    Rule {
        id: "W17",
        check: "keys_leave_sealed_and_in_no_other_form",
        level: Level::Key,
        needs: Some(Part::Keys),
        must: "A writer MUST seal every declared key, whole, to every recipient, and no other part of an answer, an \
               error, its standard error or its files may contain the key.",
        run: |bench| Box::pin(keys::leave_sealed(bench)),
    },
    Rule {
        id: "W18",
        check: "streams_are_whole_and_a_wrong_count_is_refused",
        level: Level::Log,
        needs: Some(Part::Stream),
        must: "A stream MUST be the file, whole, as often as it is opened, and a `CloseStream` with a wrong count MUST \
               be refused.",
        run: |bench| Box::pin(streams::are_whole(bench)),
    },
    Rule {
        id: "W19",
        check: "steps_after_a_restore_may_run_again",
        level: Level::Restore,
        needs: Some(Part::PostRestore),
        must: "A step after a restore MUST have a name of its own and MUST be safe to run again.",
        run: |bench| Box::pin(restore::steps_may_run_again(bench)),
    },
];

/// Hands the names of all checks, in order, to another macro: `[then] arguments` becomes
/// `then! { [names], arguments }`.
#[doc(hidden)]
#[macro_export]
macro_rules! __each_check {
    ([$($then:tt)+] $($arguments:tt)*) => {
        $($then)+! {
            [
                identify_is_pure_and_repeatable,
                metadata_keep_the_rules_and_name_what_is_there,
                held_means_held_until_thaw,
                thaw_works_from_any_state_any_number_of_times,
                a_freeze_given_up_leaves_nothing_held_also_not_later,
                a_dropped_participant_releases_within_100_ms,
                death_releases,
                a_closed_socket_releases,
                the_holder_keeps_the_deadline_and_a_late_thaw_says_so,
                abort_releases_from_any_state,
                the_files_declared_are_the_files_needed,
                stamps_are_of_what_took_part_and_are_taken_back,
                logs_are_truncated_last_and_exactly,
                online_state_tells_the_truth,
                a_registered_restore_keeps_the_application_down,
                what_is_declared_is_had_and_the_rest_is_unsupported,
                keys_leave_sealed_and_in_no_other_form,
                streams_are_whole_and_a_wrong_count_is_refused,
                steps_after_a_restore_may_run_again,
            ],
            $($arguments)*
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! names {
        ([$($name:ident,)*],) => { [$(stringify!($name)),*] };
    }

    #[test]
    fn rules_are_numbered_from_one_and_every_one_is_in_the_macro() {
        let numbers: Vec<_> = (1..=RULES.len()).map(|n| format!("W{n}")).collect();
        assert_eq!(RULES.iter().map(|rule| rule.id).collect::<Vec<_>>(), numbers);
        let names = __each_check!([names]);
        let checks: Vec<_> = RULES.iter().map(|rule| rule.check).collect();
        assert_eq!(names.to_vec(), checks);
    }

    #[test]
    fn the_documentation_has_every_rule_as_it_is() {
        let text = include_str!("../../../docs/writer-rules.md");
        let sections: Vec<&str> = text.split("\n### ").skip(1).collect();
        assert_eq!(sections.len(), RULES.len());
        for (rule, section) in RULES.iter().zip(sections) {
            let needs =
                rule.needs.map_or("all writers".to_owned(), |part| format!("capability `{}`", part.as_str()));
            // Lines are wrapped there as prose is.
            let words = section.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(section.starts_with(&format!("{}\n", rule.id)), "{rule:?}: {section}");
            for part in [
                format!("**{}**", rule.must),
                format!("`{}`", rule.check),
                format!("level {} · {needs}", rule.level.as_str()),
                "Why:".into(),
                "Seen by:".into(),
            ] {
                assert!(words.contains(&part), "{rule:?}: `{part}` is missing in: {section}");
            }
        }
    }

    #[test]
    fn a_rule_is_found_by_its_number_and_by_its_name() {
        assert_eq!(rule("w3").unwrap().check, "held_means_held_until_thaw");
        assert_eq!(rule("death_releases").unwrap().id, "W7");
        assert!(rule("W0").is_none());
    }
}

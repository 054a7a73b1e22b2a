//! What an author reads: a line a rule, and for each failure what was done, what was seen, what is demanded, and where to
//! read more.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::outcome::Outcome;
use super::rules::{Level, Part, RULES, Rule};
use super::steps::Step;
use crate::WriterMetadata;

/// The schema of [`Report`].
pub const REPORT_SCHEMA: &str = "holdfast.writer-test/1";

/// One rule with its result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// The rule's number.
    pub rule: String,
    /// The check's name.
    pub check: String,
    /// What it is about.
    pub level: Level,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// The rule itself.
    pub must: String,
    /// Where to read more.
    pub more: String,
    /// What was done, of a rule that is not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub did: Vec<Step>,
    /// The last lines of the writer's standard error, of a rule that is not kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<String>,
    /// What the writer said of itself meanwhile.
    #[serde(skip)]
    pub metadata: Option<WriterMetadata>,
}

impl Checked {
    pub(super) fn new(
        rule: &Rule,
        outcome: Outcome,
        took_ms: u64,
        did: Vec<Step>,
        said: Vec<String>,
        metadata: Option<WriterMetadata>,
    ) -> Self {
        Self {
            rule: rule.id.into(),
            check: rule.check.into(),
            level: rule.level,
            outcome,
            took_ms,
            must: rule.must.into(),
            more: rule.more(),
            did,
            said,
            metadata,
        }
    }

    /// The lines about it.
    pub fn text(&self) -> String {
        let Self { rule, check, .. } = self;
        let mut text = String::new();
        let mut line = |word: &str, rest: &str| {
            let _ = writeln!(text, "{rule:<4} {word:<14} {check}{rest}");
        };
        match &self.outcome {
            Outcome::Ok { note } => {
                line("ok", &note.as_ref().map_or(String::new(), |note| format!(": {note}")))
            }
            Outcome::NotApplicable { why } => line("not applicable", &format!(": {why}")),
            Outcome::NotChecked { why } => line("NOT CHECKED", &format!(": {why}")),
            Outcome::Failed { saw } => {
                line("FAILED", "");
                self.explain(&mut text, &[("saw", saw), ("rule", &self.must), ("more", &self.more)]);
            }
            Outcome::Blocked { why, see } => {
                line("BLOCKED", "");
                let see =
                    see.as_ref().map_or_else(String::new, |rule| format!(" (that is the matter of {rule})"));
                self.explain(&mut text, &[("why", &format!("{why}{see}")), ("more", &self.more)]);
            }
        }
        text
    }

    fn explain(&self, text: &mut String, parts: &[(&str, &str)]) {
        for (part, words) in parts {
            wrapped(text, &format!("{part}:"), words);
        }
        for (n, step) in self.did.iter().enumerate() {
            let name = if n == 0 { "did:" } else { "" };
            wrapped(text, name, &format!("{:>6} ms  {}", step.at_ms, step.text));
        }
        for (n, said) in self.said.iter().enumerate() {
            wrapped(text, if n == 0 { "stderr:" } else { "" }, said);
        }
    }
}

/// A part of an explanation, wrapped, below its name.
fn wrapped(text: &mut String, name: &str, words: &str) {
    const WIDTH: usize = 100;
    let mut name = name;
    let mut line = String::new();
    let mut put = |line: &str| {
        let _ = writeln!(text, "     {name:<7} {line}");
        name = "";
    };
    for word in words.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
            put(&line);
            line = word.to_owned();
        } else {
            if !line.is_empty() || word.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    put(&line);
}

/// The whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`REPORT_SCHEMA`].
    pub schema: String,
    /// What was tested: a program's path, or a writer's type.
    pub tested: String,
    /// What the writer says it is; absent where it said nothing.
    pub writer: Option<Writer>,
    /// The rules, in order.
    pub rules: Vec<Checked>,
    /// Capabilities that are declared and that no rule checked.
    pub unchecked: Vec<Part>,
    /// How many rules are kept.
    pub ok: usize,
    /// How many are broken.
    pub failed: usize,
    /// How many could not be checked since something before did not work.
    pub blocked: usize,
    /// How many the fixture cannot show.
    pub not_checked: usize,
    /// How many say nothing about this writer.
    pub not_applicable: usize,
}

/// A writer as it calls itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writer {
    /// Its registered name.
    pub writer_type: String,
    /// What a person calls it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The parts of the contract that it declares.
    pub capabilities: Vec<Part>,
}

impl Report {
    /// Sums up.
    pub fn new(tested: impl Into<String>, rules: Vec<Checked>) -> Self {
        let metadata = rules.iter().find_map(|checked| checked.metadata.as_ref());
        let writer = metadata.map(|metadata| Writer {
            writer_type: metadata.writer_type.clone(),
            name: metadata.name.clone(),
            version: metadata.version.clone(),
            capabilities: Part::ALL
                .into_iter()
                .filter(|part| part.declared(&metadata.capabilities))
                .collect(),
        });
        let declared = writer.as_ref().map_or(&[][..], |writer| &writer.capabilities);
        let seen: BTreeSet<Part> = rules.iter().flat_map(shows).collect();
        let count = |of: fn(&Outcome) -> bool| rules.iter().filter(|checked| of(&checked.outcome)).count();
        Self {
            schema: REPORT_SCHEMA.into(),
            tested: tested.into(),
            unchecked: declared.iter().copied().filter(|part| !seen.contains(part)).collect(),
            ok: count(|outcome| matches!(outcome, Outcome::Ok { .. })),
            failed: count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            blocked: count(|outcome| matches!(outcome, Outcome::Blocked { .. })),
            not_checked: count(|outcome| matches!(outcome, Outcome::NotChecked { .. })),
            not_applicable: count(|outcome| matches!(outcome, Outcome::NotApplicable { .. })),
            writer,
            rules,
        }
    }

    /// Whether a rule was broken, or could not be checked since something before it did not work.
    pub fn is_bad(&self) -> bool {
        self.failed + self.blocked > 0
    }

    /// The last lines: how many of each, and what was left unchecked.
    pub fn summary(&self) -> String {
        let mut text = format!("{} rules: {} ok", self.rules.len(), self.ok);
        for (count, word) in [
            (self.failed, "FAILED"),
            (self.blocked, "BLOCKED"),
            (self.not_checked, "NOT CHECKED"),
            (self.not_applicable, "not applicable"),
        ] {
            if count > 0 {
                let _ = write!(text, ", {count} {word}");
            }
        }
        text.push('\n');
        for part in &self.unchecked {
            let part = part.as_str();
            let _ = writeln!(
                text,
                "NOT CHECKED: the capability `{part}` is declared, and no rule has shown that it is had"
            );
        }
        text
    }

    /// All of it.
    pub fn text(&self) -> String {
        self.rules.iter().map(Checked::text).chain([self.summary()]).collect()
    }
}

/// The parts of the contract that this result says something about.
fn shows(checked: &Checked) -> Vec<Part> {
    if !matches!(checked.outcome, Outcome::Ok { .. } | Outcome::Failed { .. }) {
        return Vec::new();
    }
    let needs = RULES.iter().find(|rule| rule.id == checked.rule).and_then(|rule| rule.needs);
    match checked.rule.as_str() {
        // A recovery is shown by what comes back.
        "W11" => vec![Part::Recover],
        _ => needs.into_iter().collect(),
    }
}

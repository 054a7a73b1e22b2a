//! The only place that prints. A tired person reads this.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use holdfast::failure::Failure;
use holdfast::repository::{Progress, ProgressFn};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;

/// Where and how results go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// One JSON document on standard output, nothing else.
    pub json: bool,
    /// Nothing at all: the command runs inside another one, which tells.
    pub quiet: bool,
}

impl Output {
    /// A line of a result for people; nothing with `--json`.
    pub fn line(self, text: impl AsRef<str>) {
        if !self.json && !self.quiet {
            // A closed pipe (`| head`) is no failure of ours.
            let _ = writeln!(std::io::stdout().lock(), "{}", printable(text.as_ref()));
        }
    }

    /// The result for programs; nothing without `--json`.
    pub fn document(self, document: &impl Serialize) {
        if self.json && !self.quiet {
            let text = serde_json::to_string(document).unwrap_or_default();
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }

    /// What goes on meanwhile, to standard error.
    pub fn note(self, text: impl AsRef<str>) {
        if self.quiet {
            return;
        }
        let _ = writeln!(std::io::stderr().lock(), "{}", printable(text.as_ref()));
    }

    /// A failure: what, why, what state things are in, what to do next.
    ///
    /// `said` are the last lines of the writer's process by which it failed.
    pub fn failure(self, failure: &Failure, said: &[String]) {
        if self.json {
            self.document(&serde_json::json!({
                "schema": "holdfast.error/1",
                "error": failure.what,
                "causes": failure.causes(),
                "said": said,
                "state": failure.state,
                "help": failure.help,
                "exit": failure.exit as u8,
            }));
        }
        let mut text = format!("error: {}\n", failure.what);
        for cause in failure.causes() {
            text += &format!("cause: {cause}\n");
        }
        for line in said {
            text += &format!("said:  {line}\n");
        }
        text += &format!("state: {}\n", failure.state);
        if let Some(help) = &failure.help {
            text += &format!("help:  {help}\n");
        }
        let _ = std::io::stderr().lock().write_all(printable(&text).as_bytes());
    }

    /// Progress of a copy: a bar on a terminal, else nothing.
    pub fn progress(self, what: &'static str) -> ProgressLine {
        if self.json || self.quiet || !std::io::stderr().is_terminal() {
            return ProgressLine { bar: ProgressBar::hidden() };
        }
        let bar = ProgressBar::new_spinner();
        let style = ProgressStyle::with_template("{spinner} {prefix} {bytes} ({bytes_per_sec}), {msg} files");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        bar.set_prefix(what);
        bar.enable_steady_tick(Duration::from_millis(120));
        ProgressLine { bar }
    }
}

/// Names, paths and errors come from strangers: whatever could move the cursor is written out.
fn printable(text: &str) -> Cow<'_, str> {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if harmful(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// A progress bar that goes away when dropped.
pub struct ProgressLine {
    bar: ProgressBar,
}

impl ProgressLine {
    /// What the repository calls.
    pub fn callback(&self) -> ProgressFn {
        let bar = self.bar.clone();
        Arc::new(move |progress: Progress| {
            bar.set_position(progress.bytes);
            bar.set_message(progress.files.to_string());
        })
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Bytes as people read them.
pub fn bytes(n: u64) -> String {
    HumanBytes(n).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_stranger_wrote_moves_the_cursor() {
        assert_eq!(printable("a\tb\nc"), "a\tb\nc");
        assert_eq!(printable("\u{1b}[2J\r\u{9b}ü"), "\\u{1b}[2J\\r\\u{9b}ü");
    }
}

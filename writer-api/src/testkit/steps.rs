//! What the kit did, kept where a timeout or a panic cannot take it away.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// One thing that the kit did, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When it was over, in milliseconds since the check began.
    pub at_ms: u64,
    /// In words.
    pub text: String,
}

/// The steps of one check. Clones are the same list.
#[derive(Debug, Clone)]
pub struct Steps(Arc<Mutex<List>>);

#[derive(Debug)]
struct List {
    began: Instant,
    steps: Vec<Step>,
    /// Every answer in full, for the search after a key.
    heard: Vec<String>,
}

impl Steps {
    pub fn begin() -> Self {
        let list = List { began: Instant::now(), steps: Vec::new(), heard: Vec::new() };
        Self(Arc::new(Mutex::new(list)))
    }

    /// Adds one. What is said again and again is said once, with how often.
    pub fn did(&self, text: impl Into<String>) {
        let mut list = self.list();
        let text = text.into();
        let at_ms = u64::try_from(list.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        if let Some(last) = list.steps.last_mut() {
            let (said, times) = match last.text.rsplit_once(" (×") {
                Some((said, times)) => (said, times.trim_end_matches(')').parse().unwrap_or(1)),
                None => (last.text.as_str(), 1_u32),
            };
            if said == text {
                last.text = format!("{text} (×{})", times + 1);
                last.at_ms = at_ms;
                return;
            }
        }
        list.steps.push(Step { at_ms, text });
    }

    pub fn heard(&self, answer: String) {
        self.list().heard.push(answer);
    }

    /// All that was heard so far.
    pub fn all_heard(&self) -> Vec<String> {
        self.list().heard.clone()
    }

    pub fn all(&self) -> Vec<Step> {
        self.list().steps.clone()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        // Steps are whole or absent, whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_again_and_again_is_told_once() {
        let steps = Steps::begin();
        for text in ["a", "b", "b", "b", "a"] {
            steps.did(text);
        }
        let told: Vec<_> = steps.all().into_iter().map(|step| step.text).collect();
        assert_eq!(told, ["a", "b (×3)", "a"]);
    }
}

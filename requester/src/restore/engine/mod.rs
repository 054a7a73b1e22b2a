//! The restore engine: from a stored set to applications that may start again. Start reading at [`plan()`] and [`execute`].
//!
//! Owns: what is restored where and in which order, every check before anything changes (promise P7), the calls of the
//! writers, keys (promise P9), and going on after a crash ([`recover()`]: what a start gate runs).
//! Leaves to others: the moves of names and the marker ([`super::placement`]), bytes ([`crate::repository`]), what an
//! application's data mean (the writers), and what a person sees (the command line).
//!
//! ```text
//! plan      read documents · choose · order · targets · offline · space · keys        nothing changes
//! execute   stop · stage · check │ register │ block · recover · verify · publish · steps · settle       each step for all writers
//! recover   the right-hand part again, from wherever the marker says
//! ```
//!
//! **Invariant:** no writer's live path is touched before every writer's staged data were checked.
//! **Invariant:** every writer is registered before the first live path is blocked, and all have recovered before the
//! first is published: together they go forward or back, after a crash too.
//! **Invariant:** one function (`finish`) takes a restore from phase to phase, in a first run and after a crash.
//! **Invariant:** what a restore needs after its registration lies beside its marker: no repository, no set, no identity.

mod checks;
mod choose;
mod documents;
mod down;
mod fault;
mod finish;
mod keys;
mod plan;
mod recover;
mod report;
mod request;
mod run;
mod set;
mod stage;
mod stop;
mod units;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_store_keys::RecoveryIdentity;
use holdfast_writer_api::ComponentRef;

use super::site::Steps;
use super::target::TargetMap;
use crate::paths::Paths;
use crate::repository::{ProgressFn, StoredSet};
use crate::writers::ConfiguredWriter;

pub use keys::KeySource;
pub use plan::{Check, PlannedKey, PlannedUnit, PlannedWriter, Refusal, RestorePlan, plan};
pub use recover::{RecoverOptions, RecoverReport, Recovery, nothing_registered, recover};
pub use report::{RestoreReport, StepReport, WriterReport};
pub use run::execute;
pub use stop::StopReport;
pub use verify::{ComponentFindings, VerifyReport, verify};

/// What a restore works with.
pub struct RestoreEnvironment<'e> {
    /// Our folders.
    pub paths: &'e Paths,
    /// The writers of the configuration; empty on a bare machine.
    pub writers: &'e [ConfiguredWriter],
    /// Told of what goes on, one sentence at a time.
    pub note: &'e (dyn Fn(&str) + Sync),
    /// Told of bytes and files restored.
    pub progress: Option<ProgressFn>,
    /// Told of every single move on disk; [`super::NoSteps`] but in tests.
    pub steps: Arc<dyn Steps + Send + Sync>,
    /// Called at named points (`staged`, then for each writer `registered`, `blocked`, `recovered`, `published`), for
    /// tests that stop or kill a restore there.
    pub at: &'e (dyn Fn(&str) + Sync),
}

impl RestoreEnvironment<'_> {
    fn writer(&self, id: &str) -> Option<&ConfiguredWriter> {
        self.writers.iter().find(|writer| writer.entry.id == id)
    }
}

/// What the user wants restored.
#[derive(Clone)]
pub struct RestoreOptions {
    /// The set.
    pub set: StoredSet,
    /// Only these writers; empty for all of the set.
    pub writers: Vec<String>,
    /// Only these components, by writer id; empty for all.
    pub components: BTreeMap<String, Vec<ComponentRef>>,
    /// In place, `--to`, or `--map`.
    pub target: TargetMap,
    /// Run the configured stop commands first.
    pub stop: bool,
    /// The user's word that the application is down where that cannot be seen. Never covers what is seen to run.
    pub assume_stopped: bool,
    /// Go on without keys that are neither there nor can be opened.
    pub without_keys: bool,
    /// Keep the old data beside the new.
    pub keep_old: bool,
    /// Opens the sealed keys.
    pub identity: Option<Arc<RecoveryIdentity>>,
}

impl RestoreOptions {
    /// All of `set`, to its original place, with nothing assumed.
    pub fn new(set: StoredSet) -> Self {
        Self {
            set,
            writers: Vec::new(),
            components: BTreeMap::new(),
            target: TargetMap::default(),
            stop: false,
            assume_stopped: false,
            without_keys: false,
            keep_old: false,
            identity: None,
        }
    }
}

//! The demonstration: three small live applications, backed up at one instant, destroyed, brought back, and counted.
//!
//! Owns: the applications ([`app`]), the scratch folder they live in ([`scene`]), the proof by counting what each had
//! acknowledged ([`count`]) and the order of the story ([`story`]). Leaves to others: making and restoring a set
//! ([`story::Engine`], given by the command) and what a person sees (the command prints [`story::Line`]s).
//!
//! Nothing here is staged: the applications are processes of their own that know nothing of Holdfast, their certificates
//! and secrets are real, and they die by SIGKILL. The one thing they do for the demonstration is to write down, outside
//! what is backed up, what they told their clients ([`ack`]).

pub mod ack;
pub mod app;
pub mod count;
mod durable;
pub mod places;
pub mod scene;
pub mod story;
#[cfg(test)]
mod testing;

pub use count::{CountError, Hold, Verdict, verify};
pub use places::{APPLICATIONS, CA, DIRECTORY, ORCHESTRATOR, Places};
pub use scene::{Launcher, Scene, SceneError};
pub use story::{BackupFacts, DemoError, Engine, Line, Outcome, RestoreFacts, run};

//! The script: what the writer says of itself, and where it misbehaves. Start reading at [`Script::read`].
//!
//! Owns: the TOML, and that a script which cannot mean anything is refused with the place where it does not.

mod step;

use std::path::{Path, PathBuf};

use holdfast_writer_api::protocol::wire::INTERFACE_TEXT;
use holdfast_writer_api::{ComponentRef, HookStep, LogFile, OnlineState};
use serde::Deserialize;
use serde_json::{Map, Value};

pub(crate) use step::MAX_DESCRIPTORS;
pub use step::{ACTIONS, Action, Nonsense, Of, Silence, Step};

/// Longest script that is read.
const MAX_BYTES: u64 = 4 << 20;

/// Why a script cannot be played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScriptError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The script.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is no TOML, or has a key that means nothing.
    #[error("the script is not understood: {0}")]
    Toml(String),
    /// A step asks for something that cannot be done.
    #[error("[[{table}]] no. {number}: {problem}")]
    Step {
        /// `on` or `look`.
        table: &'static str,
        /// Its number, from 1.
        number: usize,
        /// What is wrong, and what was expected.
        problem: String,
    },
}

/// What the writer is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Script {
    /// Laid over a plain description of a writer without data; any of it, also what no requester may take.
    pub metadata: Map<String, Value>,
    /// A file on which `flock` is held from `Freeze` to `Thaw`.
    pub hold: Option<PathBuf>,
    /// What `OnlineState` answers.
    pub online: OnlineState,
    /// The files it streams.
    pub streams: Vec<StreamScript>,
    /// What `ListLogs` answers.
    pub logs: Vec<LogFile>,
    /// What `PostRestoreSteps` answers.
    pub steps: Vec<HookStep>,
    /// Where it misbehaves.
    pub on: Vec<Step>,
    /// What has to be true when it is called.
    pub look: Vec<Look>,
}

/// A file that is streamed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamScript {
    /// What `OpenStream` names.
    pub name: String,
    /// Full name of its component.
    pub component: String,
    /// The file whose bytes are streamed.
    pub path: PathBuf,
}

impl StreamScript {
    /// Its component.
    pub fn component(&self) -> ComponentRef {
        ComponentRef::from_full_name(&self.component)
    }
}

/// A command that must succeed when a method is called: how the requester's work is looked at from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The method, as the interface has it.
    pub method: String,
    /// Program and arguments; `{set}` in an argument is the set's id. Run without a shell.
    pub command: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    metadata: Map<String, Value>,
    hold: Option<PathBuf>,
    online: Option<String>,
    #[serde(default)]
    streams: Vec<StreamScript>,
    #[serde(default)]
    logs: Vec<LogFile>,
    #[serde(default)]
    steps: Vec<HookStep>,
    #[serde(default)]
    on: Vec<step::Raw>,
    #[serde(default)]
    look: Vec<RawLook>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLook {
    phase: String,
    command: Vec<String>,
}

impl Script {
    /// Reads the script at `path`.
    ///
    /// # Errors
    /// [`ScriptError`], with the line or the step.
    pub fn read(path: &Path) -> Result<Self, ScriptError> {
        let unreadable = |source| ScriptError::Unreadable { path: path.to_owned(), source };
        let size = std::fs::metadata(path).map_err(unreadable)?.len();
        if size > MAX_BYTES {
            return Err(unreadable(std::io::Error::other(format!("it has {size} bytes"))));
        }
        std::fs::read_to_string(path).map_err(unreadable)?.parse()
    }

    /// The step for the `nth` call (from 1) of `method`: the first that fits.
    pub fn step(&self, method: &str, nth: u64) -> Option<&Action> {
        let fits = |step: &&Step| step.method == method && step.nth.is_none_or(|wanted| wanted == nth);
        self.on.iter().find(fits).map(|step| &step.action)
    }
}

impl std::str::FromStr for Script {
    type Err = ScriptError;

    fn from_str(text: &str) -> Result<Self, ScriptError> {
        let raw: Raw = toml::from_str(text).map_err(|error| ScriptError::Toml(error.to_string()))?;
        let online = match raw.online.as_deref() {
            None | Some("down") => OnlineState::Down,
            Some("paused") => OnlineState::Paused,
            Some("ready") => OnlineState::Ready,
            Some("unknown") => OnlineState::Unknown,
            Some(other) => {
                let expected = "expected `down`, `paused`, `ready` or `unknown`";
                return Err(ScriptError::Toml(format!("`online` is `{other}`; {expected}")));
            }
        };
        let on = raw.on.into_iter().enumerate().map(|(n, step)| {
            Step::try_from(step).map_err(|problem| ScriptError::Step { table: "on", number: n + 1, problem })
        });
        let look = raw.look.into_iter().enumerate().map(|(n, look)| {
            let failed = |problem| ScriptError::Step { table: "look", number: n + 1, problem };
            let method = method(&look.phase).map_err(failed)?;
            if look.command.is_empty() {
                return Err(failed("`command` is empty".into()));
            }
            Ok(Look { method, command: look.command })
        });
        Ok(Self {
            metadata: raw.metadata,
            hold: raw.hold,
            online,
            streams: raw.streams,
            logs: raw.logs,
            steps: raw.steps,
            on: on.collect::<Result<_, _>>()?,
            look: look.collect::<Result<_, _>>()?,
        })
    }
}

/// The phases that a script may name, in the order of the interface: its methods, `backup-complete` for
/// `BackupComplete`.
pub fn phases() -> Vec<String> {
    methods().map(kebab).collect()
}

fn methods() -> impl Iterator<Item = &'static str> {
    let declared = INTERFACE_TEXT.lines().filter_map(|line| line.strip_prefix("method "));
    declared.filter_map(|line| line.split('(').next())
}

/// The method of a phase.
fn method(phase: &str) -> Result<String, String> {
    let found = methods().find(|method| kebab(method) == phase).map(str::to_owned);
    found.ok_or_else(|| format!("there is no phase `{phase}`; expected one of {}", phases().join(", ")))
}

/// `BackupComplete` → `backup-complete`.
pub fn kebab(method: &str) -> String {
    let mut text = String::new();
    for c in method.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> String {
        text.parse::<Script>().unwrap_err().to_string()
    }

    #[test]
    fn a_script_says_what_the_writer_is_and_where_it_fails() {
        let script: Script = r#"
            hold = "/srv/app/lock"
            online = "ready"
            [metadata]
            name = "an application"
            capabilities = { freeze = true }
            [[metadata.components]]
            kind = "file_group"
            name = "data"
            [[steps]]
            name = "restart"
            description = "starts it"
            timeout_ms = 500
            on_failure = "continue"
            [[on]]
            phase = "freeze"
            do = "fail"
            class = "busy"
            nth = 2
            [[on]]
            phase = "freeze"
            do = "delay"
            ms = 5
            [[look]]
            phase = "backup-complete"
            command = ["holdfast", "verify", "{set}"]
        "#
        .parse()
        .unwrap();
        assert_eq!(script.metadata["components"][0]["name"], "data");
        assert_eq!((script.online.clone(), script.steps.len()), (OnlineState::Ready, 1));
        assert_eq!(script.look[0].method, "BackupComplete");
        assert_eq!(script.step("Freeze", 1), Some(&Action::Delay { ms: 5 }));
        assert!(matches!(script.step("Freeze", 2), Some(Action::Fail { class, .. }) if class == "busy"));
        assert_eq!(script.step("Thaw", 1), None);
    }

    #[test]
    fn what_means_nothing_is_refused_with_its_place() {
        assert!(complaint("[[on]]\nphase = \"freez\"\ndo = \"hang\"\n").contains("no phase `freez`"));
        assert!(
            complaint("[[on]]\nphase = \"freeze\"\ndo = \"explode\"\n").contains("no `do = \"explode\"`")
        );
        assert!(complaint("wait = 7\n").contains("line 1"), "{}", complaint("wait = 7\n"));
        let extra = complaint("[[on]]\nphase = \"freeze\"\ndo = \"hang\"\nms = 4\n");
        assert!(extra.starts_with("[[on]] no. 1") && extra.contains("`ms`"), "{extra}");
        let missing = complaint("[[on]]\nphase = \"thaw\"\ndo = \"delay\"\n");
        assert!(missing.contains("needs `ms`"), "{missing}");
        let json = complaint("[[on]]\nphase = \"thaw\"\ndo = \"answer\"\njson = \"{\"\n");
        assert!(json.contains("`json`"), "{json}");
        assert!(complaint("online = \"maybe\"").contains("expected `down`"));
        assert!(complaint("[[look]]\nphase = \"thaw\"\ncommand = []\n").contains("[[look]] no. 1"));
    }

    #[test]
    fn every_method_of_the_interface_is_a_phase() {
        let phases = phases();
        assert_eq!(phases.len(), 25, "{phases:?}");
        assert!(phases.iter().all(|phase| method(phase).is_ok()));
        assert_eq!((phases[0].as_str(), method("begin-backup").unwrap().as_str()), ("hello", "BeginBackup"));
    }
}

//! Whether the application of a writer is down: the engine's own look, and the writer's word.
//!
//! Owns: what is asked of whom, and what "unknown" means here. Leaves to others: how one looks ([`crate::restore::offline`]).

use std::net::ToSocketAddrs;
use std::path::PathBuf;

use holdfast_writer_api::{OnlineState, RestoreParticipant};
use serde::{Deserialize, Serialize};

use super::fault::{blocking, guarded};
use crate::config::WriterCommon;
use crate::restore::{Offline, OfflineCheck, Probe};

/// What was found, and whether live data may be moved.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub may_move: bool,
    pub running: bool,
    pub result: String,
}

/// What of a writer's configuration the question needs. Saved with a restore: at boot the configuration may have changed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Signs {
    pub files: Vec<PathBuf>,
    #[serde(default)]
    pub unit: Option<String>,
    #[serde(default)]
    pub pid_file: Option<PathBuf>,
    #[serde(default)]
    pub probe: Option<String>,
}

impl Signs {
    pub fn new(common: Option<&WriterCommon>, files: Vec<PathBuf>) -> Self {
        Self {
            files,
            unit: common.and_then(|common| common.unit.clone()),
            pid_file: common.and_then(|common| common.pid_file.clone()),
            probe: common.and_then(|common| common.probe.clone()),
        }
    }

    /// Looks. `assume_stopped` covers what cannot be seen, never what is seen to run.
    pub async fn ask(
        &self,
        writer: &str,
        participant: Option<&mut Box<dyn RestoreParticipant>>,
        assume_stopped: bool,
    ) -> Answer {
        if let Some(participant) = participant {
            let said = guarded(writer, "tell whether it runs", participant.online_state()).await;
            if let Ok(OnlineState::Ready | OnlineState::Paused) = said {
                return Answer { may_move: false, running: true, result: "it runs, says its writer".into() };
            }
        }
        let signs = self.clone();
        blocking(move || signs.look(assume_stopped)).await
    }

    fn look(&self, assume_stopped: bool) -> Answer {
        let probe = match self.probe.as_deref().map(parse_probe).transpose() {
            Ok(probe) => probe,
            Err(result) => return Answer { may_move: false, running: false, result },
        };
        let check = OfflineCheck {
            files: self.files.clone(),
            unit: self.unit.clone().filter(|unit| !is_own_unit(unit)),
            pid_file: self.pid_file.clone(),
            probe,
            ..OfflineCheck::default()
        };
        match check.run() {
            Offline::Down { evidence } => Answer {
                may_move: true,
                running: false,
                result: format!("it is down: {}", evidence.join("; ")),
            },
            Offline::Running { evidence } => {
                let signs = evidence.iter().take(5).map(|sign| match (&sign.comm, sign.pid) {
                    (Some(comm), Some(pid)) => format!("{comm} ({pid}) {}", sign.what),
                    (None, Some(pid)) => format!("process {pid} {}", sign.what),
                    (_, None) => sign.what.clone(),
                });
                let result = format!("it runs: {}", signs.collect::<Vec<_>>().join("; "));
                Answer { may_move: false, running: true, result }
            }
            Offline::Unknown { reason } if assume_stopped => Answer {
                may_move: true,
                running: false,
                result: format!("taken to be down on the user's word; not seen: {reason}"),
            },
            Offline::Unknown { reason } => {
                Answer { may_move: false, running: false, result: format!("cannot be told: {reason}") }
            }
        }
    }
}

/// Whether we are a command of `unit` itself, such as its `ExecStartPre=`: systemd then calls it "activating", which
/// says nothing about the application.
fn is_own_unit(unit: &str) -> bool {
    let named = if unit.contains('.') { unit.to_owned() } else { format!("{unit}.service") };
    std::fs::read_to_string("/proc/self/cgroup")
        .is_ok_and(|text| text.lines().any(|line| line.split('/').any(|part| part == named)))
}

/// `tcp:HOST:PORT`, `http://…` or `unix:PATH`, as the configuration has it.
pub(super) fn parse_probe(text: &str) -> Result<Probe, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(Probe::Unix(path.into()));
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(Probe::Http(text.to_owned()));
    }
    let Some(address) = text.strip_prefix("tcp:") else {
        return Err(format!("`probe = \"{text}\"` is not `tcp:HOST:PORT`, `http://…` or `unix:PATH`"));
    };
    let mut found =
        address.to_socket_addrs().map_err(|error| format!("the probe `{text}` has no address: {error}"))?;
    found.next().map(Probe::Tcp).ok_or_else(|| format!("the probe `{text}` has no address"))
}

#[cfg(test)]
mod down_tests {
    use super::*;

    #[test]
    fn a_probe_is_read_as_the_configuration_documents_it() {
        assert_eq!(parse_probe("tcp:127.0.0.1:8888"), Ok(Probe::Tcp(([127, 0, 0, 1], 8888).into())));
        assert_eq!(parse_probe("unix:/run/x"), Ok(Probe::Unix("/run/x".into())));
        assert!(matches!(parse_probe("http://localhost:1/"), Ok(Probe::Http(_))));
        assert!(parse_probe("localhost:80").is_err());
    }

    #[test]
    fn what_listens_is_never_covered_by_the_users_word() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = Some(format!("tcp:{}", listener.local_addr().unwrap()));
        let answer = Signs { probe, ..Signs::default() }.look(true);
        assert!(!answer.may_move && answer.running, "{answer:?}");
    }
}

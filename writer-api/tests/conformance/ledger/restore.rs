//! One restore of the ledger.

use std::fs::{self, File};
use std::time::Duration;

use async_trait::async_trait;
use holdfast_writer_api::*;
use rustix::fs::{FlockOperation, flock};

use super::app::is_locked;
use super::defect::Defect;
use super::writer::{Common, in_copy};

pub struct Restore {
    common: Common,
    remembered: Option<OnlineState>,
    /// A registration that is only as good as its process.
    registered: Option<File>,
}

impl Restore {
    pub fn new(common: Common) -> Self {
        Self { common, remembered: None, registered: None }
    }

    fn has(&self, defect: Defect) -> bool {
        self.common.has(defect)
    }
}

#[async_trait]
impl RestoreParticipant for Restore {
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        if self.has(Defect::AlwaysDown) {
            return Ok(OnlineState::Down);
        }
        let runs = is_locked(&self.common.file("running"));
        let state = if runs { OnlineState::Ready } else { OnlineState::Down };
        if self.has(Defect::RemembersItsState) {
            return Ok(self.remembered.get_or_insert(state).clone());
        }
        Ok(state)
    }

    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        let book = in_copy(staged, &self.common.file("book"));
        if !book.exists() {
            return Err(self.common.rejected("the book was not staged"));
        }
        Ok(CheckReport::default())
    }

    async fn register(&mut self, _: &Registration) -> Result<(), WriterError> {
        if self.has(Defect::RegistersForItsLifetime) {
            let lock = File::create(self.common.file("restoring-lock")).unwrap();
            flock(&lock, FlockOperation::LockExclusive).unwrap();
            self.registered = Some(lock);
        } else if !self.has(Defect::RegistersNothing) {
            fs::write(self.common.file("restoring"), "").unwrap();
        }
        Ok(())
    }

    async fn recover(&mut self, staged: &StagedFiles, _: &RecoverContext) -> Result<Recovered, WriterError> {
        if self.has(Defect::RecoveryLosesAnEntry) {
            let book = in_copy(staged, &self.common.file("book"));
            let text = fs::read_to_string(&book).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            fs::write(&book, lines[..lines.len() - 1].join("\n") + "\n").unwrap();
        }
        Ok(Recovered::default())
    }

    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        if self.has(Defect::VerifyRefuses) {
            return Err(self.common.rejected("the sum of the accounts is not zero"));
        }
        self.check(staged).await
    }

    async fn post_restore_steps(&mut self) -> Result<Vec<HookStep>, WriterError> {
        Ok(vec![HookStep {
            name: "carry-over".into(),
            description: "carries the balance over".into(),
            host: String::new(),
            timeout: Duration::from_secs(10),
            on_failure: OnFailure::Stop,
        }])
    }

    async fn run_step(&mut self, name: &str) -> Result<HookOutcome, WriterError> {
        if name != "carry-over" {
            return Err(WriterError::unsupported(&self.common.id, format!("the step `{name}`")));
        }
        let done = self.common.file("carried-over");
        match (done.exists(), self.has(Defect::RunsAStepOnce)) {
            (true, true) => Err(self.common.rejected("the balance was carried over already")),
            (true, false) => Ok(HookOutcome::AlreadyDone),
            (false, _) => {
                fs::write(done, "").unwrap();
                Ok(HookOutcome::Done)
            }
        }
    }

    async fn unregister(&mut self) -> Result<(), WriterError> {
        if !self.has(Defect::ForgetsToUnregister) {
            let _ = fs::remove_file(self.common.file("restoring"));
        }
        Ok(())
    }
}

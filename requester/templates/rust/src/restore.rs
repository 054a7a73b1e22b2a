//! What comes back is checked before it is put in place.

use std::fs::{self, File, TryLockError};

use holdfast_writer_api::{
    CheckReport, Finding, OnlineState, RestoreParticipant, StagedFiles, WriterError, async_trait,
};

use crate::App;

/// One restore.
pub struct Restore {
    app: App,
}

impl Restore {
    pub fn new(app: App) -> Self {
        Self { app }
    }
}

#[async_trait]
impl RestoreParticipant for Restore {
    /// Whether the application runs; looked at anew each time (W14). Where that cannot be told, `Unknown`: the
    /// requester looks by itself who has the files open.
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        Ok(match File::open(self.app.folder.join("running")) {
            Ok(file) => match file.try_lock_shared() {
                Ok(()) => OnlineState::Down,
                Err(TryLockError::WouldBlock) => OnlineState::Ready,
                Err(TryLockError::Error(_)) => OnlineState::Unknown,
            },
            Err(_) => OnlineState::Unknown,
        })
    }

    /// The files as they lie in `staged`, before anything was changed. What forbids going on is an error.
    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        let Some(journal) = staged.locate(&self.app.journal()) else {
            return Err(self.app.rejected("the journal is not part of it".into()));
        };
        let text = fs::read_to_string(&journal).map_err(|error| {
            let why = format!("cannot read {}: {error}", journal.display());
            self.app.rejected(why)
        })?;
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(self.app.rejected("the last entry is torn".into()));
        }
        let finding = Finding {
            check: "the journal".into(),
            result: format!("{} entries", text.lines().count()),
            warning: false,
        };
        Ok(CheckReport {
            findings: vec![finding],
        })
    }

    /// The same once more, right before the files are put in place.
    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.check(staged).await
    }
}

//! What comes back: a book is whole if its last line is.

use holdfast_writer_api::{
    CheckReport, Finding, OnlineState, RestoreParticipant, StagedFiles, WriterError, async_trait,
};

use crate::GuestBook;

/// One run.
pub struct Restore {
    app: GuestBook,
}

impl Restore {
    pub fn new(app: GuestBook) -> Self {
        Self { app }
    }
}

#[async_trait]
impl RestoreParticipant for Restore {
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        // The requester looks by itself: who has the book open.
        Ok(OnlineState::Unknown)
    }

    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        let refused = |why: String| Err(WriterError::rejected(&self.app.id, why));
        let Some(book) = staged.locate(&self.app.book()) else {
            return refused("the book is not part of the restore".into());
        };
        match std::fs::read_to_string(&book) {
            Ok(text) if text.is_empty() || text.ends_with('\n') => {
                let result = format!("{} entries", text.lines().count());
                Ok(CheckReport {
                    findings: vec![Finding { check: "the book".into(), result, warning: false }],
                })
            }
            Ok(_) => refused("the last entry of the book is torn".into()),
            Err(error) => refused(format!("{} cannot be read: {error}", book.display())),
        }
    }

    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.check(staged).await
    }
}

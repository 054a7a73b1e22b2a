//! One backup of the CA: proves and seals its keys, holds its database, watches the files beside it.
//!
//! Certificates, configuration and CRLs have no lock that a stranger could take. They are *watched*: looked at once the
//! database is held and again right after it was released. Had anything changed in between, the cut could be torn, and
//! the backup fails; otherwise they stood as still as if they had been held.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast_store_sqlite::{
    Database, JournalFamily, Mark as SqliteMark, Proof, Retry, SqliteError, check_against_mark,
};
use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, BackupType, Cause, ComponentRef, FreezeContext, Mark, PhaseContext,
    PostSnapshot, Prepared, SealedKey, ShadowContext, Thawed, Truncated, WriterError, chain,
};

use crate::components::{DATABASE, KEYS, has, static_paths};
use crate::hold::{Ended, Holder, TakeError, Taken, Wanted};
use crate::installation::Installation;
use crate::keys;
use crate::walk::{self, Signature, WalkError};

/// A CA's part in one backup.
pub(crate) struct Backup {
    id: String,
    found: Installation,
    components: Vec<ComponentRef>,
    /// Open from `prepare_backup` until it is held.
    database: Option<Database>,
    holder: Option<Holder>,
    taken: Option<Taken>,
    budget: Duration,
    /// What was wrong with the hold or the watched files; told by `post_snapshot`.
    defect: Option<WriterError>,
}

impl Backup {
    pub(crate) fn new(id: String, found: Installation, components: Vec<ComponentRef>) -> Self {
        Self {
            id,
            found,
            components,
            database: None,
            holder: None,
            taken: None,
            budget: Duration::ZERO,
            defect: None,
        }
    }

    fn has(&self, name: &str) -> bool {
        has(&self.components, name)
    }

    fn watched(&self) -> Vec<PathBuf> {
        static_paths(&self.found, |name| self.has(name))
    }

    async fn release(&mut self) -> Option<Ended> {
        self.holder.take()?.release().await
    }

    fn inconsistent(&self, why: String) -> WriterError {
        WriterError::InconsistentSnapshot { writer: self.id.clone(), cause: Cause::new(why) }
    }

    fn torn(&self, ended: &Ended) -> Option<WriterError> {
        if let Err(error) = &ended.proven {
            return Some(self.inconsistent(chain(error)));
        }
        let before = self.taken.as_ref().map(|taken| &taken.signature);
        match (&ended.signature, before) {
            (Err(error), _) => Some(self.inconsistent(chain(error))),
            (Ok(after), Some(before)) => self.changed(before, after),
            (Ok(_), None) => None,
        }
    }

    fn changed(&self, before: &Signature, after: &Signature) -> Option<WriterError> {
        let path = before.difference(after)?;
        Some(self.inconsistent(format!(
            "`{}` was changed while the shadow copy was cut; try again",
            path.display()
        )))
    }
}

#[async_trait]
impl BackupParticipant for Backup {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        // Before the database is opened: what is opened here is closed again.
        let paths = self.watched();
        let (found, id) = (self.found.clone(), self.id.clone());
        let with_keys = self.has(KEYS);
        let warnings = blocking(&self.id, move || {
            walk::refuse_keys(&paths, &found.reserved(), &found.database)
                .map_err(|error| unsearchable(&id, &error))?;
            if with_keys { keys::prove_all(&id, &found) } else { Ok(Vec::new()) }
        })
        .await?;
        if self.has(DATABASE) {
            let (path, id) = (self.found.database.clone(), self.id.clone());
            let database =
                blocking(&self.id, move || Database::open(path).map_err(|error| sqlite(&id, error))).await?;
            self.database = Some(database);
        }
        Ok(Prepared { backup_type: BackupType::Full, warnings })
    }

    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        // Once more: it may have been replaced since, and a fresh connection reads the schema now, not under the hold.
        if self.has(DATABASE) {
            self.database = None;
            self.database =
                Some(Database::open(&self.found.database).map_err(|error| sqlite(&self.id, error))?);
        }
        Ok(())
    }

    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        let called = Instant::now();
        if self.holder.is_some() || self.taken.is_some() {
            return Err(WriterError::rejected(&self.id, "freeze was called twice"));
        }
        if self.has(DATABASE) && self.database.is_none() {
            return Err(WriterError::rejected(&self.id, "freeze was called before prepare_snapshot"));
        }
        self.budget = ctx.budget;
        let wanted = Wanted {
            database: self.database.take(),
            watched: self.watched(),
            reserved: self.found.reserved(),
            // The other half is for the cut.
            take_by: called + ctx.budget / 2,
            deadline: called + ctx.budget,
        };
        // In `self` before the first wait: dropping this future leaves it to `thaw` or to `drop`.
        let (holder, answer) = Holder::start(wanted);
        self.holder = Some(holder);
        let taken = answer.await.unwrap_or(Err(TakeError::Gone));
        match taken {
            Ok(taken) => {
                let mark =
                    taken.mark.as_ref().map_or_else(Mark::default, |(mark, proof)| describe(mark, *proof));
                self.taken = Some(taken);
                Ok(mark)
            }
            Err(error) => {
                self.holder = None;
                Err(self.not_taken(error))
            }
        }
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        let Some(ended) = self.release().await else { return Ok(Thawed::WasNotHeld) };
        if ended.late {
            let error = WriterError::timed_out(&self.id, "thaw", self.budget);
            self.defect = Some(error.clone());
            return Err(error);
        }
        self.defect = self.torn(&ended);
        Ok(Thawed::Released)
    }

    async fn post_snapshot(&mut self, ctx: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        if let Some(defect) = &self.defect {
            return Err(defect.clone());
        }
        // The cut has to show exactly what was there under the hold.
        let mark = self.taken.as_ref().and_then(|taken| taken.mark.as_ref()).map(|(mark, _)| mark.clone());
        if let Some(mark) = mark {
            let Some(copy) = ctx.locate(&self.found.database) else {
                return Err(self.inconsistent("the database is not in the shadow copy".into()));
            };
            let id = self.id.clone();
            let uncompared = blocking(&self.id, move || check_cut(&id, &copy, &mark)).await?;
            return Ok(PostSnapshot {
                warnings: uncompared.into_iter().collect(),
                ..PostSnapshot::default()
            });
        }
        Ok(PostSnapshot::default())
    }

    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        Ok(Truncated::default())
    }

    async fn abort(&mut self) -> Result<(), WriterError> {
        let _ = self.release().await;
        self.database = None;
        Ok(())
    }

    async fn seal_keys(&mut self, recipients: &[String]) -> Result<Vec<SealedKey>, WriterError> {
        if self.found.keys.is_empty() {
            return Err(WriterError::unsupported(&self.id, "keys: none are declared"));
        }
        if !self.has(KEYS) {
            return Ok(Vec::new());
        }
        let (found, id, recipients) = (self.found.clone(), self.id.clone(), recipients.to_vec());
        blocking(&self.id, move || keys::seal_all(&id, &found, &recipients)).await
    }
}

impl Backup {
    fn not_taken(&self, error: TakeError) -> WriterError {
        match error {
            TakeError::Sqlite(SqliteError::HoldTimeout { .. } | SqliteError::GivenUp { .. }) => {
                WriterError::timed_out(&self.id, "freeze", self.budget)
            }
            TakeError::Sqlite(error) => sqlite(&self.id, error),
            TakeError::Walk(error) => unsearchable(&self.id, &error),
            TakeError::Gone => WriterError::not_responding(&self.id, TakeError::Gone.to_string()),
        }
    }
}

/// Compares the cut with what was there under the hold. A cut that this process, which runs as the CA's user, may not
/// look at is said to be uncompared; it is not a wrong one.
fn check_cut(id: &str, copy: &Path, mark: &SqliteMark) -> Result<Option<String>, WriterError> {
    let inconsistent = |cause: Cause| WriterError::InconsistentSnapshot { writer: id.to_owned(), cause };
    let uncompared = |why: String| Ok(Some(format!("the shadow copy was not compared with the mark: {why}")));
    let denied = |error: &io::Error| error.kind() == io::ErrorKind::PermissionDenied;
    let (Some(folder), Some(name)) = (copy.parent(), copy.file_name()) else {
        return Err(inconsistent(Cause::new("the shadow copy of the database has no name")));
    };
    // The way to the shadow copy is the requester's own; what is refused are links inside.
    let copy = match folder.canonicalize() {
        Ok(folder) => folder.join(name),
        Err(error) if denied(&error) => return uncompared(error.to_string()),
        Err(error) => return Err(inconsistent(Cause::new(format!("`{}`: {error}", folder.display())))),
    };
    match check_against_mark(&copy, mark) {
        Ok(()) => Ok(None),
        Err(SqliteError::Io { source, .. }) if denied(&source) => uncompared(source.to_string()),
        Err(error @ SqliteError::InUse { .. }) => uncompared(error.to_string()),
        Err(error) => Err(inconsistent(Cause::from_error(&error))),
    }
}

/// The mark in words, with all of it as JSON for whoever checks a copy later.
fn describe(mark: &SqliteMark, proof: Proof) -> Mark {
    let position = match (&mark.journal, &mark.wal, mark.change_counter) {
        (JournalFamily::Wal, Some(log), _) => {
            format!("wal frame {} of {:08x}{:08x}", log.frames, log.salts[0], log.salts[1])
        }
        (JournalFamily::Wal, None, _) => "wal frame 0".to_owned(),
        (JournalFamily::Rollback, _, counter) => format!("change counter {}", counter.unwrap_or_default()),
    };
    let proof = match proof {
        Proof::Kernel => "the kernel names",
        Proof::Listed => "/proc/self/fdinfo lists",
    };
    let lock = match mark.journal {
        JournalFamily::Wal => "WRITE",
        JournalFamily::Rollback => "RESERVED",
    };
    let json = serde_json::to_string(mark).unwrap_or_default();
    Mark {
        position,
        details: BTreeMap::from([("sqlite".to_owned(), json)]),
        proof: format!("{proof} pid {} as the owner of {lock}", std::process::id()),
    }
}

/// What SQLite's refusal means in the contract's words.
pub(crate) fn sqlite(id: &str, error: SqliteError) -> WriterError {
    let writer = id.to_owned();
    let cause = Cause::from_error(&error);
    let denied_by_system =
        matches!(&error, SqliteError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied);
    if matches!(error, SqliteError::ReadOnly { .. }) || denied_by_system {
        WriterError::Denied { writer, cause }
    } else if error.retry() == Retry::WhenQuieter {
        WriterError::Busy { writer, cause }
    } else {
        WriterError::Rejected { writer, cause: Cause::new(format!("{}; {}", chain(&error), error.help())) }
    }
}

fn unsearchable(id: &str, error: &WalkError) -> WriterError {
    let (writer, cause) = (id.to_owned(), Cause::from_error(error));
    match error {
        WalkError::Key { .. } => WriterError::Key { writer, cause },
        _ if error.is_denied() => WriterError::Denied { writer, cause },
        WalkError::Look { .. }
        | WalkError::TooDeep { .. }
        | WalkError::TooMany { .. }
        | WalkError::Database { .. } => WriterError::Rejected { writer, cause },
    }
}

/// Runs what may wait for a disk where it stops nobody else.
pub(crate) async fn blocking<T: Send + 'static>(
    id: &str,
    work: impl FnOnce() -> Result<T, WriterError> + Send + 'static,
) -> Result<T, WriterError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(panic) => Err(WriterError::not_responding(id, format!("its work was cut off: {panic}"))),
    }
}

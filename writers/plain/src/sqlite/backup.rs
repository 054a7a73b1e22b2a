//! One backup of one application's SQLite databases.
//! Owns: opening all beforehand, holding all in the order of the settings, the mark, the comparison of the shadow copy
//! with it.
//! Leaves to others: the hold's end (`holder`), how SQLite is held and proved (`holdfast-store-sqlite`).
//!
//! Nothing here opens a component file but through SQLite: closing a descriptor of ours would drop SQLite's locks.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast_store_sqlite::{self as store, Hold, JournalFamily, Proof, SqliteError, check_against_mark};
use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, BackupType, FreezeContext, Mark, PhaseContext, PostSnapshot, Prepared,
    ShadowContext, Thawed, Truncated, WriterError,
};

use super::{Database, fault};
use crate::blocking;
use crate::holder::{Ended, Holder, NotTaken};

pub(super) struct SqliteBackup {
    id: String,
    databases: Vec<Database>,
    backup_type: BackupType,
    /// Open from `prepare_backup` to the freeze; in the order of `databases`.
    open: Vec<store::Database>,
    holder: Holder<Vec<Hold>>,
    /// Positions under the hold, in the order of `databases`; empty before the freeze.
    marks: Vec<store::Mark>,
    budget: Duration,
}

impl SqliteBackup {
    pub(super) fn new(id: &str, databases: Vec<Database>, backup_type: BackupType) -> Self {
        Self {
            id: id.to_owned(),
            databases,
            backup_type,
            open: Vec::new(),
            holder: Holder::new(),
            marks: Vec::new(),
            budget: Duration::ZERO,
        }
    }

    async fn open_all(&mut self) -> Result<(), WriterError> {
        let (id, databases) = (self.id.clone(), self.databases.clone());
        let open = blocking(&self.id, move || {
            let open = |database: &Database| {
                let open = store::Database::open(&database.path)?;
                // Reads once, so that a database that could not be read is found now.
                open.describe()?;
                Ok(open)
            };
            databases
                .iter()
                .map(open)
                .collect::<Result<Vec<_>, SqliteError>>()
                .map_err(|e| fault::live(&id, &e))
        });
        self.open = open.await?;
        Ok(())
    }

    fn not_taken(&self, budget: Duration, error: NotTaken<SqliteError>) -> WriterError {
        match error {
            NotTaken::Failed(error) => fault::live(&self.id, &error),
            NotTaken::Late => WriterError::timed_out(&self.id, "freeze", budget),
            NotTaken::NotFree => WriterError::rejected(&self.id, "freeze was called twice"),
            NotTaken::NoThread(error) => WriterError::OutOfResources {
                writer: self.id.clone(),
                cause: holdfast_writer_api::Cause::from_error(&error),
            },
            NotTaken::Panicked => WriterError::not_responding(&self.id, "its code panicked in freeze"),
        }
    }
}

/// The holds, and what was read and proved under them.
type Taken = (Vec<Hold>, Vec<(store::Mark, Proof)>);

/// Takes all or none: whatever was taken before a failure is dropped with it.
fn hold_all(
    open: Vec<store::Database>,
    deadline: Instant,
    give_up: &AtomicBool,
) -> Result<Taken, SqliteError> {
    let mut holds = Vec::with_capacity(open.len());
    for database in open {
        holds.push(database.hold(deadline, give_up)?);
    }
    // Once all are held: earlier, a position of the first would be proved for another instant.
    let marks =
        holds.iter().map(|hold| Ok((hold.mark()?, hold.prove()?))).collect::<Result<_, SqliteError>>()?;
    Ok((holds, marks))
}

#[async_trait]
impl BackupParticipant for SqliteBackup {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        self.open_all().await?;
        // Every kind but a copy is taken as a full.
        let backup_type = match self.backup_type {
            BackupType::Copy => BackupType::Copy,
            BackupType::Full | BackupType::Incremental | BackupType::Differential | BackupType::Log => {
                BackupType::Full
            }
        };
        Ok(Prepared { backup_type, warnings: vec![] })
    }

    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        // A database replaced meanwhile is found here, where nobody waits yet.
        let replaced = self.open.iter().any(|database| database.describe().is_err());
        if replaced || self.open.len() != self.databases.len() {
            self.open.clear();
            self.open_all().await?;
        }
        Ok(())
    }

    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        let called = Instant::now();
        self.budget = ctx.budget;
        if self.open.len() != self.databases.len() {
            return Err(WriterError::rejected(
                &self.id,
                "freeze was called without prepare-backup, or twice",
            ));
        }
        let open = std::mem::take(&mut self.open);
        // The other half is the cut's and the thaw's.
        let take_until = called + ctx.budget / 2;
        let taken =
            self.holder.take(called + ctx.budget, move |give_up| hold_all(open, take_until, give_up)).await;
        let marks = taken.map_err(|error| self.not_taken(ctx.budget, error))?;
        let mark = describe(&self.databases, &marks);
        self.marks = marks.into_iter().map(|(mark, _)| mark).collect();
        Ok(mark)
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        match self.holder.end() {
            Ended::Held(holds) => {
                // A hold that was lost meanwhile shows only here.
                let lost = holds.iter().find_map(|hold| hold.prove().err());
                drop(holds);
                match lost {
                    None => Ok(Thawed::Released),
                    Some(error) => Err(WriterError::InconsistentSnapshot {
                        writer: self.id.clone(),
                        cause: fault::cause(&error),
                    }),
                }
            }
            Ended::WasNotHeld => Ok(Thawed::WasNotHeld),
            Ended::Expired => Err(WriterError::timed_out(&self.id, "thaw", self.budget)),
            Ended::Stuck => Err(stuck(&self.id)),
        }
    }

    /// Compares the shadow copy with the mark: files of different instants lie beside each other without a word
    /// otherwise.
    async fn post_snapshot(&mut self, ctx: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        let mut copies = Vec::new();
        for (database, mark) in self.databases.iter().zip(&self.marks) {
            match ctx.locate(&database.path) {
                Some(copy) if copy != database.path => copies.push((copy, mark.clone())),
                // No shadow copy of it to look at: what is in the set is checked when it comes back.
                Some(_) | None => {}
            }
        }
        let id = self.id.clone();
        blocking(&self.id, move || {
            let mut finished = PostSnapshot::default();
            for (copy, mark) in copies {
                match check_against_mark(&copy, &mark) {
                    Ok(_) => {}
                    // This process runs as the data's owner, who may not look into the requester's folders.
                    Err(error) if fault::is_denied(&error) => finished.warnings.push(format!(
                        "the cut of `{}` could not be compared with its hold: {}",
                        copy.display(),
                        fault::cause(&error)
                    )),
                    Err(error) => {
                        let cause = fault::cause(&error);
                        return Err(WriterError::InconsistentSnapshot { writer: id, cause });
                    }
                }
            }
            Ok(finished)
        })
        .await
    }

    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        // The log belongs to the application, which truncates it by its own checkpoints.
        Ok(Truncated::default())
    }

    async fn abort(&mut self) -> Result<(), WriterError> {
        self.open.clear();
        match self.holder.end() {
            Ended::Held(_) | Ended::WasNotHeld | Ended::Expired => Ok(()),
            Ended::Stuck => Err(stuck(&self.id)),
        }
    }
}

fn stuck(id: &str) -> WriterError {
    let why = "the thread that takes the hold does not answer; the end of its process releases";
    WriterError::StuckFrozen { writer: id.to_owned(), cause: holdfast_writer_api::Cause::new(why) }
}

/// The mark as a person reads it.
fn describe(databases: &[Database], marks: &[(store::Mark, Proof)]) -> Mark {
    let mut positions = Vec::new();
    let mut proofs = Vec::new();
    let mut details = BTreeMap::new();
    let process = std::process::id();
    for (database, (mark, proof)) in databases.iter().zip(marks) {
        let name = database.component.full_name();
        let position = match (&mark.wal, mark.change_counter) {
            (Some(wal), _) => format!("wal {} frame {}", wal.checkpoint_sequence, wal.frames),
            (None, Some(counter)) => format!("change {counter}"),
            (None, None) => "empty wal".into(),
        };
        positions.push(if databases.len() == 1 { position } else { format!("{name}: {position}") });
        let lock = match mark.journal {
            JournalFamily::Wal => "WRITE",
            JournalFamily::Rollback => "RESERVED",
        };
        let witness = match proof {
            Proof::Kernel => "asked of the kernel",
            Proof::Listed => "seen in its list of locks",
        };
        proofs.push(format!("process {process} holds {lock} of `{}`, {witness}", database.path.display()));
        let mut detail = |what: &str, value: String| details.insert(format!("{name} {what}"), value);
        detail("pages", mark.page_count.to_string());
        detail("page size", mark.page_size.to_string());
        detail("schema cookie", mark.schema_cookie.to_string());
        let journal = match mark.journal {
            JournalFamily::Wal => "wal",
            JournalFamily::Rollback => "rollback",
        };
        detail("journal", journal.into());
        if let Some(counter) = mark.change_counter {
            detail("change counter", counter.to_string());
        }
        if let Some(wal) = &mark.wal {
            detail("wal frames", wal.frames.to_string());
            detail("wal salts", format!("{:08x} {:08x}", wal.salts[0], wal.salts[1]));
        }
    }
    Mark { position: positions.join("; "), details, proof: proofs.join("; ") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use holdfast_writer_api::{BackupRequest, Writer, WriterConfig};
    use uuid::Uuid;

    use super::*;
    use crate::sqlite::testing::{Application, database, rows};

    const PHASE: PhaseContext = PhaseContext { set: Uuid::nil(), budget: Duration::from_secs(10) };

    fn context(budget_ms: u64) -> FreezeContext {
        FreezeContext { set: Uuid::nil(), budget: Duration::from_millis(budget_ms) }
    }

    fn writer(settings: serde_json::Value) -> Box<dyn Writer> {
        crate::sqlite::build(WriterConfig { id: "shop".into(), settings }).unwrap()
    }

    /// Ready to be frozen.
    async fn prepared(writer: &dyn Writer) -> Box<dyn BackupParticipant> {
        let components = writer.identify().await.unwrap().components.iter().map(|c| c.reference()).collect();
        let request = BackupRequest {
            set: Uuid::nil(),
            backup_type: BackupType::Incremental,
            components,
            previous_stamps: BTreeMap::new(),
        };
        let mut run = writer.begin_backup(request).await.unwrap();
        assert_eq!(run.prepare_backup(&PHASE).await.unwrap().backup_type, BackupType::Full);
        run.prepare_snapshot(&PHASE).await.unwrap();
        run
    }

    /// Goal: held means held, thawed means free, told by another process; in both journal families.
    #[tokio::test]
    async fn no_write_reaches_the_database_between_freeze_and_thaw() {
        for mode in ["WAL", "DELETE"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("shop.db");
            let _kept = database(&path, mode);
            let mut application = Application::start(&path);
            assert!(application.writes());
            let mut run = prepared(&*writer(serde_json::json!({"database": path}))).await;
            assert!(application.writes(), "{mode}: preparing must not hold");
            let mark = run.freeze(&context(30_000)).await.unwrap();
            for _ in 0..3 {
                assert!(!application.writes(), "{mode}: written under the hold");
            }
            assert!(mark.proof.contains(&format!("process {} holds", std::process::id())), "{mark:?}");
            assert!(!mark.position.is_empty() && !mark.details.is_empty());
            assert_eq!(run.thaw().await.unwrap(), Thawed::Released);
            assert!(application.writes(), "{mode}: still held after thaw");
            assert_eq!(run.thaw().await.unwrap(), Thawed::WasNotHeld);
            run.abort().await.unwrap();
        }
    }

    #[tokio::test]
    async fn dropping_the_participant_releases_within_100_ms() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let _kept = database(&path, "WAL");
        let mut application = Application::start(&path);
        let mut run = prepared(&*writer(serde_json::json!({"database": path}))).await;
        run.freeze(&context(30_000)).await.unwrap();
        assert!(!application.writes());
        let asked = Instant::now();
        drop(run);
        assert!(asked.elapsed() < Duration::from_millis(100));
        assert!(application.writes());
    }

    /// Goal: a freeze that was given up while the application wrote never takes hold when the application ends its write.
    #[tokio::test]
    async fn a_freeze_that_was_given_up_never_holds_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let _kept = database(&path, "WAL");
        let mut application = Application::start(&path);
        let mut other = Application::start(&path);
        let mut run = prepared(&*writer(serde_json::json!({"database": path}))).await;
        assert!(application.can("BEGIN IMMEDIATE"));
        let freeze = tokio::time::timeout(Duration::from_millis(50), run.freeze(&context(60_000))).await;
        assert!(freeze.is_err(), "frozen beside a writer");
        assert!(application.can("COMMIT"));
        for _ in 0..20 {
            assert!(other.writes(), "taken after it was given up");
        }
        assert_eq!(run.thaw().await.unwrap(), Thawed::WasNotHeld);
    }

    #[tokio::test]
    async fn a_database_that_does_not_come_free_is_busy_and_named_within_half_the_budget() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let _kept = database(&path, "DELETE");
        let mut application = Application::start(&path);
        let mut run = prepared(&*writer(serde_json::json!({"database": path}))).await;
        assert!(application.can("BEGIN IMMEDIATE"));
        let asked = Instant::now();
        let error = run.freeze(&context(400)).await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_millis(400));
        assert!(
            matches!(&error, WriterError::Busy { cause, .. } if cause.to_string().contains("shop.db")),
            "{error:?}"
        );
        assert!(application.can("COMMIT"));
        assert!(application.writes());
        assert_eq!(run.thaw().await.unwrap(), Thawed::WasNotHeld);
    }

    #[tokio::test]
    async fn a_hold_nobody_thaws_ends_at_its_budget_and_thaw_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        let _kept = database(&path, "WAL");
        let mut application = Application::start(&path);
        let mut run = prepared(&*writer(serde_json::json!({"database": path}))).await;
        let called = Instant::now();
        run.freeze(&context(300)).await.unwrap();
        while !application.writes() {
            assert!(called.elapsed() < Duration::from_secs(10), "the hold does not end");
        }
        assert!(called.elapsed() >= Duration::from_millis(290), "ended early: {:?}", called.elapsed());
        assert!(matches!(run.thaw().await, Err(WriterError::TimedOut { .. })));
        run.abort().await.unwrap();
    }

    #[tokio::test]
    async fn several_databases_are_held_together_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.db"), folder.path().join("b.db"));
        let _kept = (database(&a, "WAL"), database(&b, "DELETE"));
        let (mut on_a, mut on_b) = (Application::start(&a), Application::start(&b));
        let writer = writer(serde_json::json!({"databases": [a, b]}));
        let mut run = prepared(&*writer).await;
        let mark = run.freeze(&context(30_000)).await.unwrap();
        assert!(mark.position.contains("a.db: ") && mark.position.contains("; b.db: "), "{mark:?}");
        assert!(!on_a.writes() && !on_b.writes());
        assert_eq!(run.thaw().await.unwrap(), Thawed::Released);
        assert!(on_a.writes() && on_b.writes());
        let mut run = prepared(&*writer).await;
        assert!(on_b.can("BEGIN IMMEDIATE"));
        assert!(run.freeze(&context(200)).await.is_err());
        assert!(on_a.writes(), "the first is held though the second failed");
    }

    /// Copies what the metadata declare, and nothing else, as a provider does; in another process, for the locks' sake.
    fn copy_declared(files: &[holdfast_writer_api::FileSet], to: &Path) {
        for file in files {
            let from = file.path.join(&file.pattern);
            if std::fs::symlink_metadata(&from).is_ok() {
                assert!(std::process::Command::new("cp").arg(&from).arg(to).status().unwrap().success());
            } else {
                assert!(file.optional, "{} is missing", file.pattern);
            }
        }
    }

    #[tokio::test]
    async fn the_files_declared_are_the_files_needed_and_a_copy_of_another_instant_is_noticed() {
        for mode in ["WAL", "DELETE"] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("shop.db");
            let _kept = database(&path, mode);
            let mut application = Application::start(&path);
            assert!((0..5).all(|_| application.writes()));
            let writer = writer(serde_json::json!({"database": path}));
            let metadata = writer.identify().await.unwrap();
            let mut run = prepared(&*writer).await;
            let (good, late) = (folder.path().join("good"), folder.path().join("late"));
            std::fs::create_dir(&good).unwrap();
            std::fs::create_dir(&late).unwrap();
            run.freeze(&context(30_000)).await.unwrap();
            copy_declared(&metadata.components[0].files, &good);
            assert!(!application.writes(), "{mode}: copying has dropped the hold");
            run.thaw().await.unwrap();
            assert!(application.writes());
            copy_declared(&metadata.components[0].files, &late);
            let shadow = |to: &Path| ShadowContext {
                set: Uuid::nil(),
                roots: vec![(folder.path().to_owned(), to.to_owned())],
            };
            run.post_snapshot(&shadow(&good)).await.unwrap();
            let torn = run.post_snapshot(&shadow(&late)).await;
            assert!(matches!(torn, Err(WriterError::InconsistentSnapshot { .. })), "{mode}: {torn:?}");
            holdfast_store_sqlite::fold_in(&good.join("shop.db")).unwrap();
            assert_eq!(rows(&good.join("shop.db")), 5, "{mode}");
        }
    }

    /// An application that replaces its database under the hold is no longer held by it.
    #[tokio::test]
    async fn a_database_replaced_under_the_hold_spoils_the_backup() {
        let folder = tempfile::tempdir().unwrap();
        let (path, new) = (folder.path().join("shop.db"), folder.path().join("new.db"));
        let _kept = database(&path, "DELETE");
        drop(database(&new, "DELETE"));
        let mut run = prepared(&*writer(serde_json::json!({"database": path}))).await;
        run.freeze(&context(30_000)).await.unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert!(matches!(run.thaw().await, Err(WriterError::InconsistentSnapshot { .. })));
        assert_eq!(run.thaw().await.unwrap(), Thawed::WasNotHeld);
    }
}

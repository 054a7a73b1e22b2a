//! One restore of SQLite databases, working on staged copies only.
//! Owns: which databases come back, their checks before and after recovery, folding the logs in.
//! Leaves to others: putting files in place, and removing the old database's logs there (the requester).

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use holdfast_store_sqlite::{
    self as store, HolderKind, Level, SqliteError, VerifyReport, fold_in, verify_copy, who_has_it_open,
};
use holdfast_writer_api::{
    CheckReport, FileRole, Finding, Mark, OnlineState, RecoverContext, Recovered, RestoreParticipant,
    RestoreRequest, StagedFiles, WriterError,
};

use super::fault;
use crate::blocking;

/// Most findings of one kind that are told; the store keeps more.
const MOST_TOLD: usize = 5;

pub(super) struct SqliteRestore {
    id: String,
    /// Where the databases were when the set was made: the stored document counts, not the settings of today.
    databases: Vec<PathBuf>,
}

impl SqliteRestore {
    pub(super) fn new(id: &str, request: &RestoreRequest) -> Result<Self, WriterError> {
        let mut databases = Vec::new();
        for wanted in &request.components {
            let component = request.metadata.component(wanted).ok_or_else(|| {
                WriterError::rejected(id, format!("the set's metadata has no component `{wanted}`"))
            })?;
            let before = databases.len();
            let files = component.files.iter().filter(|file| file.role == FileRole::Database);
            databases.extend(files.map(|file| file.path.join(&file.pattern)));
            if databases.len() == before {
                let why = format!("component `{wanted}` of the set names no database file");
                return Err(WriterError::rejected(id, why));
            }
        }
        Ok(Self { id: id.to_owned(), databases })
    }

    /// Original path and staged path of each database.
    fn staged(&self, staged: &StagedFiles) -> Result<Vec<(PathBuf, PathBuf)>, WriterError> {
        let find = |original: &PathBuf| {
            staged.locate(original).map(|copy| (original.clone(), copy)).ok_or_else(|| {
                let why = format!("`{}` is not among the staged files", original.display());
                WriterError::rejected(&self.id, why)
            })
        };
        self.databases.iter().map(find).collect()
    }

    async fn verify_all(
        &self,
        staged: &StagedFiles,
        level: Level,
        refuse: fn(&str, holdfast_writer_api::Cause) -> WriterError,
    ) -> Result<CheckReport, WriterError> {
        let (id, copies) = (self.id.clone(), self.staged(staged)?);
        blocking(&self.id, move || {
            let mut report = CheckReport::default();
            for (original, copy) in copies {
                let check = match level {
                    Level::Quick => format!("quick_check of {}", original.display()),
                    Level::Full => format!("integrity_check of {}", original.display()),
                };
                match verify_copy(&copy, level) {
                    Ok(found) if found.is_sound() => tell(&mut report, check, &found),
                    Ok(found) => {
                        let problems = found.problems.iter().take(MOST_TOLD).cloned().collect::<Vec<_>>();
                        let why = format!(
                            "the copy of `{}` is damaged: {}",
                            original.display(),
                            problems.join("; ")
                        );
                        return Err(refuse(&id, holdfast_writer_api::Cause::new(why)));
                    }
                    // Not the copy's fault, and no reason to keep the application from its data.
                    Err(error @ SqliteError::NotCheckable { .. }) => {
                        report.findings.push(Finding { check, result: error.to_string(), warning: true });
                    }
                    Err(error) => return Err(refuse(&id, fault::cause(&error))),
                }
            }
            Ok(report)
        })
        .await
    }
}

fn tell(report: &mut CheckReport, check: String, found: &VerifyReport) {
    let mut result = format!("ok, {} pages of {} bytes", found.page_count, found.page_size);
    if found.level == Level::Full {
        let rows: u64 = found.tables.iter().filter_map(|table| table.rows).sum();
        result.push_str(&format!(", {rows} rows in {} tables", found.tables.len()));
    }
    report.findings.push(Finding { check: check.clone(), result, warning: false });
    if !found.foreign_keys.is_empty() {
        let more = if found.more_foreign_keys { "more than " } else { "" };
        let result = format!("{more}{} rows refer to missing ones", found.foreign_keys.len());
        report.findings.push(Finding {
            check: check.replace("integrity_check", "foreign_key_check"),
            result,
            warning: true,
        });
    }
}

fn rejected(id: &str, cause: holdfast_writer_api::Cause) -> WriterError {
    WriterError::Rejected { writer: id.to_owned(), cause }
}

fn recovery_failed(id: &str, cause: holdfast_writer_api::Cause) -> WriterError {
    WriterError::RecoveryFailed { writer: id.to_owned(), cause }
}

/// Whether anybody uses the live database. A process that we may not look into could.
fn online(id: &str, databases: &[PathBuf]) -> Result<OnlineState, WriterError> {
    let mut unknown = false;
    for database in databases {
        // On a bare machine there is not even the folder, and nobody who uses it.
        if !folder_exists(database) {
            continue;
        }
        let openers = who_has_it_open(database).map_err(|error| fault::live(id, &error))?;
        if in_use(&openers) {
            return Ok(OnlineState::Ready);
        }
        unknown |= !openers.certainly_none();
    }
    Ok(if unknown { OnlineState::Unknown } else { OnlineState::Down })
}

fn folder_exists(database: &Path) -> bool {
    database.parent().is_some_and(|folder| std::fs::symlink_metadata(folder).is_ok())
}

fn in_use(openers: &store::Openers) -> bool {
    openers.holders.iter().any(|holder| match holder.kind {
        HolderKind::Writer | HolderKind::Reader | HolderKind::WalIndex | HolderKind::Descriptor => true,
    })
}

#[async_trait]
impl RestoreParticipant for SqliteRestore {
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        let (id, databases) = (self.id.clone(), self.databases.clone());
        blocking(&self.id, move || online(&id, &databases)).await
    }

    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.verify_all(staged, Level::Full, rejected).await
    }

    async fn recover(
        &mut self,
        staged: &StagedFiles,
        ctx: &RecoverContext,
    ) -> Result<Recovered, WriterError> {
        if ctx.until.is_some() || ctx.generations.is_some() {
            return Err(WriterError::unsupported(&self.id, "recovery to a point other than the set's own"));
        }
        let (id, copies) = (self.id.clone(), self.staged(staged)?);
        let several = copies.len() > 1;
        blocking(&self.id, move || {
            let mut done = Vec::new();
            let mut positions = Vec::new();
            for (original, copy) in copies {
                let folded = fold_in(&copy).map_err(|error| recovery_failed(&id, fault::cause(&error)))?;
                let original = original.display();
                match (folded.wal_frames, folded.rolled_back) {
                    (0, false) => done.push(format!("`{original}` was whole; it had no log to fold in")),
                    (0, true) => done.push(format!("the transaction begun in `{original}` was rolled back")),
                    (frames, _) => done.push(format!("{frames} WAL frames were folded into `{original}`")),
                }
                let pages = format!("{} pages", folded.page_count);
                positions.push(if several { format!("{original}: {pages}") } else { pages });
            }
            Ok(Recovered { done, mark: Mark { position: positions.join("; "), ..Mark::default() } })
        })
        .await
    }

    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.verify_all(staged, Level::Quick, recovery_failed).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use holdfast_writer_api::WriterConfig;
    use uuid::Uuid;

    use super::*;
    use crate::sqlite::testing::{Application, database, rows};

    struct Case {
        folder: tempfile::TempDir,
        live: PathBuf,
        copy: PathBuf,
        staged: StagedFiles,
        run: Box<dyn RestoreParticipant>,
    }

    /// A live WAL database with rows, and a copy of it in which they are still in the log.
    async fn case() -> Case {
        let folder = tempfile::tempdir().unwrap();
        let live = folder.path().join("shop.db");
        let stage = folder.path().join("stage");
        fs::create_dir(&stage).unwrap();
        let application = database(&live, "WAL");
        for _ in 0..300 {
            application
                .execute("INSERT INTO entry VALUES ('a row that takes some place in the file')", ())
                .unwrap();
        }
        for name in ["shop.db", "shop.db-wal"] {
            fs::copy(folder.path().join(name), stage.join(name)).unwrap();
        }
        drop(application);
        let config = WriterConfig { id: "shop".into(), settings: serde_json::json!({"database": live}) };
        let writer = crate::sqlite::build(config).unwrap();
        let metadata = writer.identify().await.unwrap();
        let components = metadata.components.iter().map(|c| c.reference()).collect();
        let request = RestoreRequest { set: Uuid::nil(), metadata, components, in_place: true };
        let run = writer.begin_restore(request).await.unwrap();
        let copy = stage.join("shop.db");
        let staged = StagedFiles { roots: vec![(folder.path().to_owned(), stage)], keys: vec![] };
        Case { folder, live, copy, staged, run }
    }

    #[tokio::test]
    async fn a_staged_copy_comes_back_as_one_clean_file_with_every_row_and_recovery_may_run_again() {
        let mut case = case().await;
        let report = case.run.check(&case.staged).await.unwrap();
        assert!(report.findings[0].result.contains("300 rows"), "{report:?}");
        let recovered = case.run.recover(&case.staged, &RecoverContext::default()).await.unwrap();
        assert!(recovered.done[0].contains("WAL frames were folded"), "{recovered:?}");
        assert!(!case.copy.with_file_name("shop.db-wal").exists());
        let again = case.run.recover(&case.staged, &RecoverContext::default()).await.unwrap();
        assert!(again.done[0].contains("no log"), "{again:?}");
        case.run.verify(&case.staged).await.unwrap();
        assert_eq!(rows(&case.copy), 300);
    }

    #[tokio::test]
    async fn a_corrupted_copy_is_refused_by_check_and_by_verify() {
        let mut case = case().await;
        case.run.recover(&case.staged, &RecoverContext::default()).await.unwrap();
        let mut bytes = fs::read(&case.copy).unwrap();
        // The table's pages, not the header: it still opens.
        let size = bytes.len();
        bytes[8192..size.min(8192 + 4096)].fill(0x5a);
        fs::write(&case.copy, bytes).unwrap();
        let refused = case.run.check(&case.staged).await;
        assert!(
            matches!(&refused, Err(WriterError::Rejected { cause, .. }) if cause.to_string().contains("shop.db")),
            "{refused:?}"
        );
        assert!(matches!(case.run.verify(&case.staged).await, Err(WriterError::RecoveryFailed { .. })));
    }

    #[tokio::test]
    async fn what_is_not_staged_or_no_database_is_refused() {
        let mut case = case().await;
        let none = case.run.check(&StagedFiles::default()).await;
        assert!(matches!(none, Err(WriterError::Rejected { .. })), "{none:?}");
        // With its log beside it, SQLite would rightly read all of it from there.
        fs::remove_file(case.copy.with_file_name("shop.db-wal")).unwrap();
        fs::write(&case.copy, "not a database").unwrap();
        assert!(matches!(case.run.check(&case.staged).await, Err(WriterError::Rejected { .. })));
        let until = RecoverContext { until: Some("yesterday".into()), ..RecoverContext::default() };
        assert!(matches!(case.run.recover(&case.staged, &until).await, Err(WriterError::Unsupported { .. })));
    }

    #[tokio::test]
    async fn an_application_with_the_database_open_is_online_and_a_bare_machine_is_not() {
        let mut case = case().await;
        // Only root can look into every process.
        let offline = |state| {
            state == OnlineState::Down
                || (state == OnlineState::Unknown && !rustix::process::geteuid().is_root())
        };
        assert!(offline(case.run.online_state().await.unwrap()));
        let mut application = Application::start(&case.live);
        assert!(application.writes());
        assert_eq!(case.run.online_state().await.unwrap(), OnlineState::Ready);
        drop(application);
        assert!(offline(case.run.online_state().await.unwrap()));
        drop(case.folder);
        assert_eq!(case.run.online_state().await.unwrap(), OnlineState::Down);
    }
}

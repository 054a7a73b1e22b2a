//! One restore of the CA: checks what was staged, folds the logs in, proves the keys against the restored certificates.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use holdfast_store_keys::read_key_file;
use holdfast_store_sqlite::{Level, VerifyReport, fold_in, verify_copy, who_has_it_open};
use holdfast_writer_api::{
    Cause, CheckReport, Component, ComponentKind, FileRole, Finding, KeyFile, KeySeal, Mark, OnlineState,
    RecoverContext, Recovered, RestoreParticipant, RestoreRequest, StagedFiles, WriterError, chain,
};

use crate::backup::{blocking, sqlite};
use crate::components::{CERTIFICATES, path_of};
use crate::installation::{CertificateSource, Key, Passphrase};
use crate::issued::{self, Issued};
use crate::keys;
use crate::settings::Settings;

/// A CA's part in one restore.
#[derive(Clone)]
pub(crate) struct Restore {
    id: String,
    request: RestoreRequest,
    /// Passphrase files of the settings, for keys that are at the same path.
    passphrases: Vec<(PathBuf, PathBuf)>,
}

impl Restore {
    pub(crate) fn new(id: String, request: RestoreRequest, settings: &Settings) -> Self {
        let passphrases = settings
            .private_keys
            .iter()
            .filter_map(|key| Some((key.path.clone(), key.passphrase_file.clone()?)))
            .collect();
        Self { id, request, passphrases }
    }

    fn chosen(&self) -> impl Iterator<Item = &Component> {
        self.request.components.iter().filter_map(|name| self.request.metadata.component(name))
    }

    /// Where the database was.
    fn database(&self) -> Option<PathBuf> {
        let sets = self.chosen().filter(|component| component.kind == ComponentKind::Database);
        sets.flat_map(|component| &component.files).find(|set| set.role == FileRole::Database).map(path_of)
    }

    fn staged_database(&self, staged: &StagedFiles) -> Result<Option<PathBuf>, WriterError> {
        let Some(original) = self.database() else { return Ok(None) };
        let missing = || WriterError::rejected(&self.id, format!("`{}` was not staged", original.display()));
        let path = staged.locate(&original).ok_or_else(missing)?;
        // The store refuses links in a path; the way to the staging folder is the requester's own.
        let folder = path.parent().and_then(|folder| folder.canonicalize().ok()).ok_or_else(missing)?;
        path.file_name().map(|name| Some(folder.join(name))).ok_or_else(missing)
    }

    fn check_all(&self, staged: &StagedFiles, level: Level) -> Result<CheckReport, WriterError> {
        let mut report = CheckReport::default();
        let mut issued = None;
        if let Some(database) = self.staged_database(staged)? {
            let found = verify_copy(&database, level).map_err(|error| self.unusable(&chain(&error)))?;
            remove_empty_log(&database);
            report.findings.push(self.judge(&database, &found)?);
            match issued::read(&database) {
                Ok(read) => {
                    report.findings.extend(facts(&read));
                    issued = Some(read);
                }
                Err(error) => report.findings.push(Finding {
                    check: "certificates in the database".into(),
                    result: format!("cannot be read: {error}"),
                    warning: true,
                }),
            }
        }
        self.check_keys(staged, issued.as_ref(), &mut report)?;
        Ok(report)
    }

    fn unusable(&self, why: &str) -> WriterError {
        WriterError::InconsistentSnapshot { writer: self.id.clone(), cause: Cause::new(why) }
    }

    fn judge(&self, database: &Path, found: &VerifyReport) -> Result<Finding, WriterError> {
        let name = database.file_name().unwrap_or_default().to_string_lossy();
        if let Some(problem) = found.problems.first() {
            return Err(self.unusable(&format!("`{name}` is damaged: {problem}")));
        }
        let check = match found.level {
            Level::Quick => format!("quick_check of {name}"),
            Level::Full => format!("integrity_check of {name}"),
        };
        let broken = found.foreign_keys.len();
        let result =
            if broken == 0 { "ok".into() } else { format!("ok, but {broken} rows refer to missing ones") };
        Ok(Finding { check, result, warning: broken > 0 })
    }

    fn check_keys(
        &self,
        staged: &StagedFiles,
        issued: Option<&Issued>,
        report: &mut CheckReport,
    ) -> Result<(), WriterError> {
        for declared in self.chosen().flat_map(|component| &component.keys) {
            let check = format!("{} {}", declared.purpose, declared.path.display());
            let plain = staged.keys.iter().find(|(original, _)| *original == declared.path);
            let Some((_, plain)) = plain else {
                let result = "stays sealed: without the recovery identity it cannot be proved".to_owned();
                report.findings.push(Finding { check, result, warning: true });
                continue;
            };
            report.findings.push(match self.prove(declared, plain, staged, issued)? {
                KeySeal::Proved { algorithm } => {
                    Finding { check, result: format!("fits its certificate ({algorithm})"), warning: false }
                }
                KeySeal::NotProved { why } => {
                    Finding { check, result: format!("not proved: {why}"), warning: true }
                }
            });
        }
        Ok(())
    }

    /// Proves a restored key against the *restored* certificate.
    fn prove(
        &self,
        declared: &KeyFile,
        plain: &Path,
        staged: &StagedFiles,
        issued: Option<&Issued>,
    ) -> Result<KeySeal, WriterError> {
        let not_proved = |why: &str| Ok(KeySeal::NotProved { why: why.into() });
        let named = declared.certificate.iter().cloned();
        let wanted: Vec<PathBuf> = if declared.certificate.is_some() {
            named.collect()
        } else {
            let sets =
                self.request.metadata.components.iter().filter(|component| component.name == CERTIFICATES);
            sets.flat_map(|component| &component.files).map(path_of).collect()
        };
        // A certificate may lie in the key's own file.
        let locate = |path: &PathBuf| {
            if *path == declared.path { Some(plain.to_owned()) } else { staged.locate(path) }
        };
        let present: Vec<PathBuf> = wanted.iter().filter_map(locate).collect();
        let of_database = issued.map(|issued| issued.own_certificates.as_slice()).unwrap_or_default();
        let of_database = if declared.certificate.is_some() { &[] } else { of_database };
        if present.is_empty() && of_database.is_empty() {
            return not_proved("no certificate of it is part of this restore");
        }
        let content = read_key_file(plain).map_err(|error| keys::unreadable(&self.id, &error))?.content;
        let certificates = keys::read_certificates(&self.id, &present, of_database)?;
        let key = Key::new(declared.path.clone(), &declared.purpose, CertificateSource::Declared);
        let file = self.passphrases.iter().find(|(path, _)| *path == declared.path);
        // django-ca keeps those of its OCSP keys in the database, by the path within its storage.
        let mut known = issued.into_iter().flat_map(|issued| &issued.passphrases);
        let known = known.find(|(path, _)| declared.path.ends_with(path)).map(|(_, known)| known.clone());
        let from = file.map(|(_, file)| Passphrase::File(file.clone())).or(known.map(Passphrase::Known));
        let passphrase = keys::passphrase(&self.id, from.as_ref())?;
        if !holdfast_store_keys::contains_private_key(&content) {
            return not_proved("an opaque secret");
        }
        keys::prove(
            &self.id,
            &key,
            &content,
            &certificates,
            passphrase.as_ref().map(|bytes| bytes.as_slice()),
        )
        .map(|proved| proved.seal)
    }
}

/// Opening a database in WAL mode makes a log; nothing is in it, and it must not be put in place with the database.
fn remove_empty_log(database: &Path) {
    let mut log = database.as_os_str().to_owned();
    log.push("-wal");
    let log = PathBuf::from(log);
    if std::fs::symlink_metadata(&log).is_ok_and(|found| found.is_file() && found.len() == 0) {
        // If it cannot be removed it stays an empty log, which SQLite takes for none.
        let _ = std::fs::remove_file(&log);
    }
}

fn facts(issued: &Issued) -> Vec<Finding> {
    let fact = |check: &str, result: String| Finding { check: check.into(), result, warning: false };
    let mut facts = Vec::new();
    if let Some((table, number)) = issued.issued {
        facts.push(fact(
            "certificates issued",
            format!("{number} in {table}, {} of them revoked", issued.revoked),
        ));
    }
    if let Some(number) = issued.crl_number {
        facts.push(Finding {
            check: "CRL number".into(),
            result: format!("{number}; raise it if a later CRL was published before the restore"),
            warning: true,
        });
    }
    facts
}

#[async_trait]
impl RestoreParticipant for Restore {
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        let Some(database) = self.database() else { return Ok(OnlineState::Unknown) };
        let id = self.id.clone();
        blocking(&self.id, move || {
            // A link in place of the database is refused elsewhere, and leads to nothing that could be asked.
            let users = who_has_it_open(&database).map_err(|error| sqlite(&id, error))?;
            Ok(match (users.holders.is_empty(), users.certainly_none()) {
                (false, _) => OnlineState::Ready,
                (true, true) => OnlineState::Down,
                (true, false) => OnlineState::Unknown,
            })
        })
        .await
    }

    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        let (this, staged) = (self.clone(), staged.clone());
        blocking(&self.id, move || this.check_all(&staged, Level::Quick)).await
    }

    async fn recover(
        &mut self,
        staged: &StagedFiles,
        ctx: &RecoverContext,
    ) -> Result<Recovered, WriterError> {
        if ctx.generations.is_some() || ctx.logs.is_some() || ctx.until.is_some() {
            return Err(WriterError::unsupported(&self.id, "replaying log generations"));
        }
        let Some(database) = self.staged_database(staged)? else { return Ok(Recovered::default()) };
        let id = self.id.clone();
        let folded = blocking(&self.id, move || {
            fold_in(&database)
                .map_err(|error| WriterError::RecoveryFailed { writer: id, cause: Cause::from_error(&error) })
        })
        .await?;
        let mut done = vec![format!("{} WAL frames folded in", folded.wal_frames)];
        if folded.rolled_back {
            done.push("an unfinished transaction was rolled back".into());
        }
        let position = format!("{} pages of {} bytes", folded.page_count, folded.page_size);
        Ok(Recovered { done, mark: Mark { position, ..Mark::default() } })
    }

    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        let (this, staged) = (self.clone(), staged.clone());
        blocking(&self.id, move || this.check_all(&staged, Level::Full)).await
    }
}

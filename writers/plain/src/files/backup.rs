//! One backup of one application's files.
//! Owns: the search for keys in plain form, the lock file's hold, the mark.
//! Leaves to others: the hold's end (`holder`), sealing (`keys`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use holdfast_writer_api::{
    BackupOutcome, BackupParticipant, BackupType, Cause, Component, ComponentKind, FreezeContext, Mark,
    PhaseContext, PostSnapshot, Prepared, SealedKey, ShadowContext, Thawed, Truncated, WriterError,
};

use super::keys;
use super::lock::{LockError, LockFile, Locked};
use super::scan::plain_keys;
use crate::blocking;
use crate::holder::{Ended, Holder, NotTaken};

pub(super) struct FilesBackup {
    id: String,
    /// Those that take part.
    components: Vec<Component>,
    /// Whether the writer declares keys, taking part or not.
    has_keys: bool,
    lock_file: Option<PathBuf>,
    /// Files that may be stored though they contain a private key.
    allowed: Vec<PathBuf>,
    backup_type: BackupType,
    /// Open from `prepare_snapshot` to the freeze.
    open: Option<LockFile>,
    holder: Holder<Locked>,
    budget: Duration,
}

impl FilesBackup {
    pub(super) fn new(
        id: &str,
        components: Vec<Component>,
        has_keys: bool,
        lock_file: Option<PathBuf>,
        allowed: Vec<PathBuf>,
        backup_type: BackupType,
    ) -> Self {
        Self {
            id: id.to_owned(),
            components,
            has_keys,
            lock_file,
            allowed,
            backup_type,
            open: None,
            holder: Holder::new(),
            budget: Duration::ZERO,
        }
    }

    /// Refuses keys in plain form, and says which were allowed.
    async fn search_keys(&self) -> Result<Vec<String>, WriterError> {
        let (id, components, allowed) = (self.id.clone(), self.components.clone(), self.allowed.clone());
        blocking(&self.id, move || {
            let mut warnings = Vec::new();
            for component in components {
                for path in plain_keys(&id, &component.files, &component.exclude)? {
                    let shown = path.display();
                    if !allowed.contains(&path) {
                        let why = format!(
                            "`{shown}` contains a private key: declare it in `keys`, so that it is sealed, or exclude it; \
                             to store it as it is, name it in `allow-plain-keys`"
                        );
                        return Err(WriterError::Key { writer: id.clone(), cause: Cause::new(why) });
                    }
                    warnings.push(format!("`{shown}` contains a private key and is stored unsealed, as allowed"));
                }
            }
            Ok(warnings)
        })
        .await
    }

    fn timed_out(&self, action: &str) -> WriterError {
        WriterError::timed_out(&self.id, action, self.budget)
    }

    fn not_taken(&self, error: NotTaken<LockError>) -> WriterError {
        let writer = self.id.clone();
        match error {
            NotTaken::Failed(error) => {
                let cause = Cause::from_error(&error);
                match error {
                    LockError::Busy { .. } | LockError::GivenUp { .. } | LockError::Replaced { .. } => {
                        WriterError::Busy { writer, cause }
                    }
                    LockError::Io { .. } => WriterError::Rejected { writer, cause },
                }
            }
            NotTaken::Late => self.timed_out("freeze"),
            NotTaken::NotFree => WriterError::rejected(writer, "freeze was called twice"),
            NotTaken::NoThread(error) => {
                WriterError::OutOfResources { writer, cause: Cause::from_error(&error) }
            }
            NotTaken::Panicked => WriterError::not_responding(writer, "its code panicked in freeze"),
        }
    }

    fn stuck(&self) -> WriterError {
        let why = "the thread that takes the lock does not answer; the end of its process releases";
        WriterError::StuckFrozen { writer: self.id.clone(), cause: Cause::new(why) }
    }
}

#[async_trait]
impl BackupParticipant for FilesBackup {
    async fn prepare_backup(&mut self, _: &PhaseContext) -> Result<Prepared, WriterError> {
        if let Some(path) = &self.lock_file {
            // A missing right is found now; the file that counts is opened right before the freeze.
            LockFile::open(&self.id, path)?;
        }
        let warnings = self.search_keys().await?;
        // Every kind but a copy is taken as a full.
        let backup_type = match self.backup_type {
            BackupType::Copy => BackupType::Copy,
            BackupType::Full | BackupType::Incremental | BackupType::Differential | BackupType::Log => {
                BackupType::Full
            }
        };
        Ok(Prepared { backup_type, warnings })
    }

    async fn prepare_snapshot(&mut self, _: &PhaseContext) -> Result<(), WriterError> {
        self.open = self.lock_file.as_ref().map(|path| LockFile::open(&self.id, path)).transpose()?;
        Ok(())
    }

    /// Without a lock file nothing is held, and the mark says nothing.
    async fn freeze(&mut self, ctx: &FreezeContext) -> Result<Mark, WriterError> {
        let called = Instant::now();
        self.budget = ctx.budget;
        let Some(path) = self.lock_file.clone() else { return Ok(Mark::default()) };
        let Some(lock) = self.open.take() else {
            return Err(WriterError::rejected(
                &self.id,
                "freeze was called without prepare-snapshot, or twice",
            ));
        };
        // The other half is the cut's and the thaw's.
        let take_until = called + ctx.budget / 2;
        let taken = self.holder.take(called + ctx.budget, move |give_up| {
            let locked = lock.hold(take_until, give_up)?;
            let proof = locked.proof();
            Ok((locked, proof))
        });
        let proof = taken.await.map_err(|error| self.not_taken(error))?;
        let details = BTreeMap::from([("lock file".to_owned(), path.display().to_string())]);
        Ok(Mark { position: "lock file held".into(), details, proof })
    }

    async fn thaw(&mut self) -> Result<Thawed, WriterError> {
        match self.holder.end() {
            Ended::Held(locked) => {
                // The application may have replaced its lock file and gone on writing.
                let lost = locked.prove().err();
                drop(locked);
                match lost {
                    None => Ok(Thawed::Released),
                    Some(error) => Err(WriterError::InconsistentSnapshot {
                        writer: self.id.clone(),
                        cause: Cause::from_error(&error),
                    }),
                }
            }
            Ended::WasNotHeld => Ok(Thawed::WasNotHeld),
            Ended::Expired => Err(self.timed_out("thaw")),
            Ended::Stuck => Err(self.stuck()),
        }
    }

    async fn post_snapshot(&mut self, _: &ShadowContext) -> Result<PostSnapshot, WriterError> {
        Ok(PostSnapshot::default())
    }

    async fn backup_complete(&mut self, _: &BackupOutcome) -> Result<Truncated, WriterError> {
        Ok(Truncated::default())
    }

    async fn abort(&mut self) -> Result<(), WriterError> {
        self.open = None;
        match self.holder.end() {
            Ended::Held(_) | Ended::WasNotHeld | Ended::Expired => Ok(()),
            Ended::Stuck => Err(self.stuck()),
        }
    }

    async fn seal_keys(&mut self, recipients: &[String]) -> Result<Vec<SealedKey>, WriterError> {
        if !self.has_keys {
            return Err(WriterError::unsupported(&self.id, "keys: none are declared in its settings"));
        }
        let (id, recipients) = (self.id.clone(), recipients.to_vec());
        let components: Vec<_> =
            self.components.iter().filter(|c| c.kind == ComponentKind::Keys).cloned().collect();
        blocking(&self.id, move || {
            let mut sealed = Vec::new();
            for component in components {
                sealed.extend(keys::seal_all(&id, &component.reference(), &component.keys, &recipients)?);
            }
            Ok(sealed)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use holdfast_store_keys::{RecoveryIdentity, open};
    use holdfast_writer_api::{BackupRequest, KeySeal};
    use rustix::fs::{FlockOperation, flock};
    use uuid::Uuid;

    use super::*;
    use crate::files::tests::built;

    const PHASE: PhaseContext = PhaseContext { set: Uuid::nil(), budget: Duration::from_secs(10) };
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n";

    fn context(budget_ms: u64) -> FreezeContext {
        FreezeContext { set: Uuid::nil(), budget: Duration::from_millis(budget_ms) }
    }

    async fn begun(settings: serde_json::Value) -> Box<dyn BackupParticipant> {
        let writer = built(settings).unwrap();
        let components = writer.identify().await.unwrap().components.iter().map(|c| c.reference()).collect();
        let request = BackupRequest {
            set: Uuid::nil(),
            backup_type: BackupType::Full,
            components,
            previous_stamps: BTreeMap::new(),
        };
        writer.begin_backup(request).await.unwrap()
    }

    async fn prepared(settings: serde_json::Value) -> Box<dyn BackupParticipant> {
        let mut run = begun(settings).await;
        run.prepare_backup(&PHASE).await.unwrap();
        run.prepare_snapshot(&PHASE).await.unwrap();
        run
    }

    /// A folder with data and a lock file beside it.
    fn place() -> (tempfile::TempDir, PathBuf, serde_json::Value) {
        let folder = tempfile::tempdir().unwrap();
        let (data, lock) = (folder.path().join("data"), folder.path().join("lock"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("a"), "a").unwrap();
        fs::write(&lock, "").unwrap();
        let settings = serde_json::json!({"paths": [data], "lock-file": lock});
        (folder, lock, settings)
    }

    /// The application's side: whether it gets its lock now. `flock` belongs to an open file, so this is an outsider.
    fn application_may_write(lock: &std::path::Path) -> bool {
        flock(File::open(lock).unwrap(), FlockOperation::NonBlockingLockShared).is_ok()
    }

    #[tokio::test]
    async fn the_lock_is_held_between_freeze_and_thaw_and_at_no_other_time() {
        let (_folder, lock, settings) = place();
        let mut run = prepared(settings).await;
        assert!(application_may_write(&lock));
        let mark = run.freeze(&context(30_000)).await.unwrap();
        assert!(!application_may_write(&lock));
        assert!(mark.proof.contains("flock"), "{mark:?}");
        assert_eq!(run.thaw().await.unwrap(), Thawed::Released);
        assert!(application_may_write(&lock));
        assert_eq!(run.thaw().await.unwrap(), Thawed::WasNotHeld);
    }

    #[tokio::test]
    async fn dropping_the_participant_releases() {
        let (_folder, lock, settings) = place();
        let mut run = prepared(settings).await;
        run.freeze(&context(30_000)).await.unwrap();
        assert!(!application_may_write(&lock));
        drop(run);
        assert!(application_may_write(&lock));
    }

    #[tokio::test]
    async fn a_freeze_that_was_given_up_never_holds_afterwards() {
        let (_folder, lock, settings) = place();
        let application = File::open(&lock).unwrap();
        flock(&application, FlockOperation::LockExclusive).unwrap();
        let mut run = prepared(settings).await;
        let freeze = tokio::time::timeout(Duration::from_millis(30), run.freeze(&context(60_000))).await;
        assert!(freeze.is_err());
        drop(application);
        assert!((0..100).all(|_| application_may_write(&lock)));
        assert_eq!(run.thaw().await.unwrap(), Thawed::WasNotHeld);
    }

    #[tokio::test]
    async fn a_lock_that_does_not_come_free_is_busy_within_the_budget_and_a_hold_ends_at_it() {
        let (_folder, lock, settings) = place();
        let application = File::open(&lock).unwrap();
        flock(&application, FlockOperation::LockExclusive).unwrap();
        let mut run = prepared(settings.clone()).await;
        let asked = Instant::now();
        let error = run.freeze(&context(200)).await.unwrap_err();
        assert!(asked.elapsed() < Duration::from_millis(200));
        assert!(matches!(error, WriterError::Busy { .. }), "{error:?}");
        drop(application);
        let mut run = prepared(settings).await;
        let called = Instant::now();
        run.freeze(&context(100)).await.unwrap();
        while !application_may_write(&lock) {
            assert!(called.elapsed() < Duration::from_secs(10), "the hold does not end");
        }
        assert!(called.elapsed() >= Duration::from_millis(95));
        assert!(matches!(run.thaw().await, Err(WriterError::TimedOut { .. })));
        run.abort().await.unwrap();
    }

    #[tokio::test]
    async fn a_lock_file_replaced_under_the_hold_spoils_the_backup() {
        let (folder, lock, settings) = place();
        let mut run = prepared(settings).await;
        run.freeze(&context(30_000)).await.unwrap();
        fs::write(folder.path().join("new"), "").unwrap();
        fs::rename(folder.path().join("new"), &lock).unwrap();
        assert!(matches!(run.thaw().await, Err(WriterError::InconsistentSnapshot { .. })));
        assert!(application_may_write(&lock));
    }

    #[tokio::test]
    async fn without_a_lock_file_nothing_is_held_and_nothing_is_claimed() {
        let (folder, lock, _) = place();
        let mut run = prepared(serde_json::json!({"paths": [folder.path()]})).await;
        assert_eq!(run.freeze(&context(1000)).await.unwrap(), Mark::default());
        assert!(application_may_write(&lock));
        assert_eq!(run.thaw().await.unwrap(), Thawed::WasNotHeld);
    }

    #[tokio::test]
    async fn a_private_key_among_the_files_is_refused_by_name_unless_it_is_allowed_or_declared() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("tls.key");
        fs::write(&key, KEY).unwrap();
        let paths = [folder.path()];
        let refused =
            begun(serde_json::json!({"paths": paths})).await.prepare_backup(&PHASE).await.unwrap_err();
        assert!(
            matches!(&refused, WriterError::Key { cause, .. }
            if cause.to_string().contains("tls.key") && cause.to_string().contains("declare it")),
            "{refused:?}"
        );
        let allowed = serde_json::json!({"paths": paths, "allow-plain-keys": [key]});
        let warnings = begun(allowed).await.prepare_backup(&PHASE).await.unwrap().warnings;
        assert!(warnings[0].contains("unsealed"), "{warnings:?}");
        for settings in [
            serde_json::json!({"paths": paths, "keys": [{"path": key, "purpose": "TLS key"}]}),
            serde_json::json!({"paths": paths, "exclude": ["*.key"]}),
        ] {
            let prepared = begun(settings).await.prepare_backup(&PHASE).await.unwrap();
            assert_eq!(prepared.warnings, Vec::<String>::new());
        }
    }

    #[tokio::test]
    async fn a_declared_key_is_sealed_and_proved_and_a_wrong_one_makes_no_set() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let pair = rcgen::generate_simple_self_signed(["www.example.org".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["other.example.org".to_owned()]).unwrap();
        fs::write(path("tls.key"), pair.signing_key.serialize_pem()).unwrap();
        fs::write(path("tls.crt"), pair.cert.pem()).unwrap();
        fs::write(path("other.crt"), other.cert.pem()).unwrap();
        let settings = |certificate: &str| {
            serde_json::json!({"paths": [folder.path()], "keys": [
                {"path": path("tls.key"), "purpose": "TLS key", "certificate": path(certificate)}]})
        };
        let identity = RecoveryIdentity::generate();
        let recipients = [identity.recipient().to_string()];
        let mut run = begun(settings("tls.crt")).await;
        run.prepare_backup(&PHASE).await.unwrap();
        let sealed = run.seal_keys(&recipients).await.unwrap();
        assert_eq!(sealed.len(), 1);
        assert!(matches!(&sealed[0].proof, KeySeal::Proved { algorithm } if algorithm.contains("P-256")));
        assert!(sealed[0].fingerprint.starts_with("SHA256:"));
        assert_eq!(
            open(&sealed[0].sealed, &identity).unwrap().as_slice(),
            fs::read(path("tls.key")).unwrap()
        );
        let wrong = begun(settings("other.crt")).await.seal_keys(&recipients).await;
        assert!(matches!(wrong, Err(WriterError::Key { .. })), "{wrong:?}");
        let nobody = begun(settings("tls.crt")).await.seal_keys(&[]).await;
        assert!(matches!(nobody, Err(WriterError::Key { .. })), "{nobody:?}");
        fs::remove_file(path("tls.key")).unwrap();
        let missing = begun(settings("tls.crt")).await.seal_keys(&recipients).await;
        assert!(matches!(missing, Err(WriterError::Key { .. })), "{missing:?}");
    }
}

//! Restores of a CA: what is checked on the staged files, and what is refused.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Ca, cut, freeze, issue, prepared, restore, run, staged};
use holdfast_writer_api::{OnlineState, RestoreParticipant, StagedFiles, WriterError, chain};

const KEYS: [&str; 2] = ["ca-key.pem", "tls-key.pem"];

struct Staged {
    ca: Ca,
    _guard: tempfile::TempDir,
    folder: PathBuf,
    restore: Box<dyn RestoreParticipant>,
}

impl Staged {
    /// A CA, backed up under a hold with a log that is not folded in.
    async fn new() -> Option<Self> {
        let ca = Ca::new("wal")?;
        let application = ca.open();
        issue(&application, 2).unwrap();
        let writer = ca.writer();
        let mut backup = prepared(&*writer).await;
        backup.freeze(&freeze(10_000)).await.unwrap();
        let guard = tempfile::tempdir().unwrap();
        let folder = guard.path().join("staged");
        cut(&ca, &folder);
        backup.thaw().await.unwrap();
        let restore = restore(&*writer, writer.identify().await.unwrap()).await;
        Some(Self { ca, _guard: guard, folder, restore })
    }

    fn files(&self, keys: &[&str]) -> StagedFiles {
        staged(&self.ca, &self.folder, keys)
    }
}

#[tokio::test]
async fn a_whole_restore_is_checked_recovered_and_verified() {
    let Some(mut at) = Staged::new().await else { return };
    let files = at.files(&KEYS);
    assert!(fs::metadata(at.folder.join("certs.db-wal")).unwrap().len() > 0);
    let report = at.restore.check(&files).await.unwrap();
    assert!(report.findings.iter().all(|finding| !finding.warning), "{report:?}");
    let recovered = at.restore.recover(&files, &Default::default()).await.unwrap();
    assert!(recovered.done[0].contains("WAL frames folded in"), "{recovered:?}");
    let report = at.restore.verify(&files).await.unwrap();
    let text: Vec<String> = report.findings.iter().map(|f| format!("{}: {}", f.check, f.result)).collect();
    assert_eq!(text[0], "integrity_check of certs.db: ok");
    assert_eq!(text[1], "certificates issued: 2 in certificates, 0 of them revoked");
    assert!(text[2].contains("fits its certificate (EC P-256)"), "{text:?}");
    for suffix in ["-wal", "-shm", "-journal"] {
        assert!(
            !at.folder.join(format!("certs.db{suffix}")).exists(),
            "{suffix} would be put in place with it"
        );
    }
    // Cut off and started again.
    at.restore.recover(&files, &Default::default()).await.unwrap();
    at.restore.verify(&files).await.unwrap();
}

#[tokio::test]
async fn a_key_that_does_not_fit_the_restored_certificate_is_refused() {
    let Some(mut at) = Staged::new().await else { return };
    fs::copy(at.folder.join("tls-key.pem"), at.folder.join("ca-key.pem")).unwrap();
    let error = at.restore.check(&at.files(&KEYS)).await.unwrap_err();
    assert!(matches!(error, WriterError::Key { .. }) && chain(&error).contains("CA key"), "{error:?}");
}

#[tokio::test]
async fn keys_that_stay_sealed_are_a_warning_and_no_refusal() {
    let Some(mut at) = Staged::new().await else { return };
    let report = at.restore.check(&at.files(&[])).await.unwrap();
    let sealed = report.findings.iter().filter(|f| f.warning && f.result.contains("stays sealed")).count();
    assert_eq!(sealed, 2, "{report:?}");
}

#[tokio::test]
async fn damage_in_the_staged_database_is_refused() {
    let Some(mut at) = Staged::new().await else { return };
    let database = at.folder.join("certs.db");
    let mut bytes = fs::read(&database).unwrap();
    bytes[100..].fill(0x5a);
    fs::write(&database, &bytes).unwrap();
    fs::remove_file(at.folder.join("certs.db-wal")).unwrap();
    let error = at.restore.check(&at.files(&KEYS)).await.unwrap_err();
    assert!(matches!(error, WriterError::InconsistentSnapshot { .. }), "{error:?}");
}

#[tokio::test]
async fn a_missing_or_linked_staged_database_is_refused() {
    let Some(mut at) = Staged::new().await else { return };
    let error = at.restore.check(&StagedFiles::default()).await.unwrap_err();
    assert!(matches!(error, WriterError::Rejected { .. }), "{error:?}");
    run(&at.folder, "mv certs.db real.db; ln -s real.db certs.db");
    let error = at.restore.check(&at.files(&KEYS)).await.unwrap_err();
    assert!(chain(&error).contains("symbolic link"), "{}", chain(&error));
}

#[tokio::test]
async fn an_application_that_has_the_database_open_is_online() {
    let Some(mut at) = Staged::new().await else { return };
    let before = at.restore.online_state().await.unwrap();
    assert!(matches!(before, OnlineState::Down | OnlineState::Unknown), "{before:?}");
    let application = at.ca.open();
    application.query_row("SELECT count(*) FROM certificates", (), |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(at.restore.online_state().await.unwrap(), OnlineState::Ready);
}

//! Backups of a CA, watched from the application's side.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{Ca, begin, cut, freeze, issue, phase, prepared, run, writer};
use holdfast_store_keys::{RecoveryIdentity, open};
use holdfast_writer_api::{
    BackupRequest, BackupType, ComponentKind, ComponentRef, KeySeal, Thawed, Writer, WriterError, chain,
};
use serde_json::json;

#[tokio::test]
async fn a_discovered_cfssl_is_described_whole_and_its_keys_are_in_no_file_set() {
    let Some(ca) = Ca::new("delete") else { return };
    let metadata = ca.writer().identify().await.unwrap();
    assert_eq!(metadata.busy_timeout_ms, Some(5000));
    let names: Vec<&str> = metadata.components.iter().map(|component| component.name.as_str()).collect();
    assert_eq!(names, ["database", "keys", "certificates", "configuration", "dynamic-files"]);
    let keys: Vec<&Path> = metadata.components[1].keys.iter().map(|key| key.path.as_path()).collect();
    assert_eq!(keys, [ca.file("ca-key.pem"), ca.file("tls-key.pem")]);
    for component in &metadata.components {
        assert_eq!(component.held, component.kind != ComponentKind::Keys, "{}", component.name);
        for set in &component.files {
            assert!(set.recursive || !set.pattern.contains("key"), "{set:?}");
        }
    }
    assert_eq!(ca.writer().identify().await.unwrap(), metadata, "says the same while nothing changed");
}

#[tokio::test]
async fn a_folder_that_holds_everything_leaves_out_the_database_and_the_keys_by_name() {
    let Some(ca) = Ca::new("delete") else { return };
    let settings = json!({
        "database": ca.file("certs.db"), "certificate": ca.file("ca.pem"), "configuration": [&ca.path],
        "private-keys": [ca.file("ca-key.pem"), {"path": ca.file("tls-key.pem"), "certificate": ca.file("tls.pem")}],
    });
    let writer = writer(settings);
    let metadata = writer.identify().await.unwrap();
    let configuration =
        metadata.components.iter().find(|component| component.name == "configuration").unwrap();
    for name in ["ca-key.pem", "tls-key.pem", "certs.db", "certs.db-wal", "certs.db-shm", "certs.db-journal"]
    {
        assert!(configuration.exclude.contains(&ca.file(name).display().to_string()), "{name}");
    }
    prepared(&*writer).await;
}

#[tokio::test]
async fn the_database_is_held_between_freeze_and_thaw_in_both_journal_families() {
    for mode in ["delete", "wal"] {
        let Some(ca) = Ca::new(mode) else { return };
        let application = ca.open();
        let mut backup = prepared(&*ca.writer()).await;
        issue(&application, 2).unwrap();
        let mark = backup.freeze(&freeze(10_000)).await.unwrap();
        assert!(mark.proof.contains(&format!("pid {}", std::process::id())), "{mark:?}");
        assert!(issue(&application, 3).is_err(), "{mode}: nothing is written while it is held");
        let folder = tempfile::tempdir().unwrap();
        let shadow = cut(&ca, &folder.path().join("shadow"));
        assert!(issue(&application, 3).is_err(), "{mode}: still held after the cut");
        assert_eq!(backup.thaw().await.unwrap(), Thawed::Released);
        issue(&application, 3).unwrap();
        assert_eq!(backup.thaw().await.unwrap(), Thawed::WasNotHeld);
        backup.post_snapshot(&shadow).await.unwrap();
    }
}

#[tokio::test]
async fn a_cut_of_another_instant_is_noticed() {
    let Some(ca) = Ca::new("delete") else { return };
    let application = ca.open();
    let mut backup = prepared(&*ca.writer()).await;
    backup.freeze(&freeze(10_000)).await.unwrap();
    backup.thaw().await.unwrap();
    issue(&application, 2).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let shadow = cut(&ca, &folder.path().join("shadow"));
    let error = backup.post_snapshot(&shadow).await.unwrap_err();
    assert!(matches!(error, WriterError::InconsistentSnapshot { .. }), "{error:?}");
}

#[tokio::test]
async fn a_crl_written_during_the_cut_fails_the_backup_and_names_the_file() {
    let Some(ca) = Ca::new("delete") else { return };
    let mut backup = prepared(&*ca.writer()).await;
    backup.freeze(&freeze(10_000)).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let shadow = cut(&ca, &folder.path().join("shadow"));
    fs::write(ca.file("crl/ca.crl"), "crl 2").unwrap();
    backup.thaw().await.unwrap();
    let error = backup.post_snapshot(&shadow).await.unwrap_err();
    assert!(chain(&error).contains("ca.crl"), "{error:?}");
}

#[tokio::test]
async fn a_dropped_participant_releases_at_once() {
    let Some(ca) = Ca::new("wal") else { return };
    let application = ca.open();
    let mut backup = prepared(&*ca.writer()).await;
    backup.freeze(&freeze(60_000)).await.unwrap();
    assert!(issue(&application, 2).is_err());
    let dropped = Instant::now();
    drop(backup);
    issue(&application, 2).unwrap();
    assert!(dropped.elapsed() < Duration::from_millis(100), "{:?}", dropped.elapsed());
}

#[tokio::test]
async fn a_hold_ends_at_its_deadline_by_itself_and_the_thaw_says_so() {
    let Some(ca) = Ca::new("delete") else { return };
    let application = ca.open();
    application.busy_timeout(Duration::from_secs(20)).unwrap();
    let mut backup = prepared(&*ca.writer()).await;
    let called = Instant::now();
    backup.freeze(&freeze(300)).await.unwrap();
    issue(&application, 2).unwrap();
    assert!(called.elapsed() >= Duration::from_millis(290), "held until then: {:?}", called.elapsed());
    let error = backup.thaw().await.unwrap_err();
    assert!(matches!(error, WriterError::TimedOut { budget_ms: 300, .. }), "{error:?}");
    assert_eq!(backup.thaw().await.unwrap(), Thawed::WasNotHeld);
}

#[tokio::test]
async fn a_freeze_given_up_while_it_waits_never_takes_hold() {
    let Some(ca) = Ca::new("delete") else { return };
    let (busy, application) = (ca.open(), ca.open());
    let writer = ca.writer();
    let mut backup = prepared(&*writer).await;
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(100), backup.freeze(&freeze(60_000))).await;
    assert!(given_up.is_err(), "it waits as long as somebody writes");
    assert_eq!(backup.thaw().await.unwrap(), Thawed::WasNotHeld);
    busy.execute_batch("ROLLBACK").unwrap();
    issue(&application, 2).unwrap();

    // The same without a thaw: dropping is enough.
    let mut backup = prepared(&*writer).await;
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let given_up = tokio::time::timeout(Duration::from_millis(100), backup.freeze(&freeze(60_000))).await;
    assert!(given_up.is_err());
    drop(backup);
    busy.execute_batch("ROLLBACK").unwrap();
    issue(&application, 3).unwrap();
}

#[tokio::test]
async fn a_freeze_that_gets_no_turn_times_out_and_holds_nothing() {
    let Some(ca) = Ca::new("delete") else { return };
    let busy = ca.open();
    let mut backup = prepared(&*ca.writer()).await;
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = backup.freeze(&freeze(200)).await.unwrap_err();
    assert!(matches!(error, WriterError::TimedOut { .. }), "{error:?}");
    busy.execute_batch("ROLLBACK").unwrap();
    issue(&busy, 2).unwrap();
}

#[tokio::test]
async fn keys_are_proved_sealed_and_open_for_the_recovery_identity_alone() {
    let Some(ca) = Ca::new("delete") else { return };
    let identity = RecoveryIdentity::generate();
    let mut backup = prepared(&*ca.writer()).await;
    let keys = backup.seal_keys(&[identity.recipient().to_string()]).await.unwrap();
    assert_eq!(keys.len(), 2);
    for key in keys {
        assert_eq!(key.proof, KeySeal::Proved { algorithm: "EC P-256".into() });
        assert!(key.fingerprint.starts_with("SHA256:"));
        assert_eq!(key.mode, 0o600);
        let plain = fs::read(&key.path).unwrap();
        assert_eq!(open(&key.sealed, &identity).unwrap().as_slice(), plain);
        assert!(!serde_json::to_string(&key).unwrap().contains("PRIVATE KEY"));
    }
    let mut again = prepared(&*ca.writer()).await;
    let error = again.seal_keys(&["age1nonsense".into()]).await.unwrap_err();
    assert!(matches!(error, WriterError::Key { .. }), "{error:?}");
}

#[tokio::test]
async fn keys_that_are_not_declared_are_unsupported_and_declared_ones_that_do_not_take_part_are_none() {
    let Some(ca) = Ca::new("delete") else { return };
    let recipient = [RecoveryIdentity::generate().recipient().to_string()];
    let mut without = prepared(&*writer(json!({"database": ca.file("certs.db")}))).await;
    let error = without.seal_keys(&recipient).await.unwrap_err();
    assert!(matches!(error, WriterError::Unsupported { .. }), "{error:?}");
    let request = BackupRequest {
        set: Default::default(),
        backup_type: BackupType::Full,
        components: vec![ComponentRef::from_full_name("database")],
        previous_stamps: Default::default(),
    };
    let mut backup = ca.writer().begin_backup(request).await.unwrap();
    backup.prepare_backup(&phase()).await.unwrap();
    assert_eq!(backup.seal_keys(&recipient).await.unwrap(), []);
}

async fn refused(writer: &dyn Writer) -> WriterError {
    match begin(writer).await {
        Err(error) => error,
        Ok(mut backup) => backup.prepare_backup(&phase()).await.unwrap_err(),
    }
}

#[tokio::test]
async fn a_key_of_another_ca_refuses_the_backup_before_anything_is_held() {
    let Some(ca) = Ca::new("delete") else { return };
    fs::copy(ca.file("tls-key.pem"), ca.file("ca-key.pem")).unwrap();
    let error = refused(&*ca.writer()).await;
    assert!(
        matches!(error, WriterError::Key { .. }) && chain(&error).contains("is not the certificate's"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_key_among_the_configuration_refuses_the_backup_and_is_named() {
    let Some(ca) = Ca::new("delete") else { return };
    run(&ca.path, "mkdir conf && cp ca-key.pem conf/innocent.txt");
    let mut settings = ca.settings();
    settings["configuration"] = json!([ca.file("conf")]);
    let error = refused(&*writer(settings)).await;
    assert!(matches!(error, WriterError::Key { .. }) && chain(&error).contains("innocent.txt"), "{error:?}");
}

#[tokio::test]
async fn encrypted_and_opaque_keys_are_sealed_and_said_to_be_unproved() {
    let Some(ca) = Ca::new("delete") else { return };
    run(
        &ca.path,
        "openssl pkcs8 -topk8 -in ca-key.pem -passout pass:geheim -out enc.pem; mv enc.pem ca-key.pem; chmod 600 ca-key.pem; echo hunter2 > secret; echo geheim > pass; chmod 600 pass",
    );
    let mut settings = ca.settings();
    settings["private-keys"] = json!([{"path": ca.file("secret"), "opaque": true}]);
    let mut backup = begin(&*writer(settings.clone())).await.unwrap();
    let warnings = backup.prepare_backup(&phase()).await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("encrypted with a passphrase")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("open to every user")), "{warnings:?}");
    let recipient = RecoveryIdentity::generate().recipient().to_string();
    for key in backup.seal_keys(std::slice::from_ref(&recipient)).await.unwrap() {
        assert!(matches!(key.proof, KeySeal::NotProved { .. }));
        assert!(key.fingerprint.starts_with("SEALED-SHA256:"));
    }
    // With its passphrase it is proved.
    settings["private-keys"] = json!([{"path": ca.file("ca-key.pem"), "certificate": ca.file("ca.pem"), "passphrase-file": ca.file("pass")}]);
    let mut backup = prepared(&*writer(settings)).await;
    let keys = backup.seal_keys(&[recipient]).await.unwrap();
    assert!(matches!(keys[0].proof, KeySeal::Proved { .. }));
}

#[tokio::test]
async fn missing_linked_and_empty_parts_are_refused_by_name() {
    type Damage = fn(&Ca);
    let cases: [(&str, Damage); 6] = [
        ("certs.db", |ca| fs::remove_file(ca.file("certs.db")).unwrap()),
        ("is empty", |ca| fs::write(ca.file("certs.db"), "").unwrap()),
        ("symbolic link", |ca| {
            fs::rename(ca.file("certs.db"), ca.file("other.db")).unwrap();
            symlink(ca.file("other.db"), ca.file("certs.db")).unwrap();
        }),
        ("crl", |ca| fs::remove_dir_all(ca.file("crl")).unwrap()),
        ("ca-key.pem", |ca| fs::remove_file(ca.file("ca-key.pem")).unwrap()),
        ("not a SQLite database", |ca| fs::write(ca.file("certs.db"), vec![7; 8192]).unwrap()),
    ];
    for (expected, damage) in cases {
        let Some(ca) = Ca::new("delete") else { return };
        damage(&ca);
        let error = refused(&*ca.writer()).await;
        assert!(chain(&error).contains(expected), "{expected}: {}", chain(&error));
    }
}

#[tokio::test]
async fn unknown_components_are_refused() {
    let Some(ca) = Ca::new("delete") else { return };
    let request = holdfast_writer_api::BackupRequest {
        set: Default::default(),
        backup_type: Default::default(),
        components: vec![holdfast_writer_api::ComponentRef::from_full_name("nonsense")],
        previous_stamps: Default::default(),
    };
    assert!(matches!(ca.writer().begin_backup(request).await, Err(WriterError::Rejected { .. })));
}

/// Goal: what `django_ca.py` prints is understood, and every key of a real installation is proved.
#[tokio::test]
async fn a_real_django_ca_is_discovered_and_its_keys_are_proved() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let deps = std::env::var_os("HOLDFAST_DEPS").map_or_else(|| root.join(".deps"), PathBuf::from);
    let python = deps.join("django-ca/bin/python");
    if !python.exists() {
        assert!(std::env::var_os("CI").is_none(), "django-ca must be installed in CI");
        eprintln!("skipped: {} is not there; run `make deps`", python.display());
        return;
    }
    let guard = tempfile::tempdir().unwrap();
    let folder = guard.path().canonicalize().unwrap();
    let script = format!(
        r#"{0} -m django startproject mysite pki 2>/dev/null || {{ mkdir pki; {0} -m django startproject mysite pki; }}
cd pki
cat >> mysite/settings.py <<'END'
INSTALLED_APPS += ["django_object_actions", "django_ca"]
STORAGES = {{
    "default": {{"BACKEND": "django.core.files.storage.FileSystemStorage"}},
    "staticfiles": {{"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}},
    "django-ca": {{"BACKEND": "django.core.files.storage.FileSystemStorage",
                  "OPTIONS": {{"location": BASE_DIR / "keys", "file_permissions_mode": 0o600}}}},
}}
CA_DEFAULT_HOSTNAME = "localhost"
END
printf 'from django.urls import include, path\nurlpatterns = [path("django_ca/", include("django_ca.urls"))]\n' > mysite/urls.py
chmod -R go-w .
{0} manage.py migrate > /dev/null
{0} manage.py init_ca --path-length=0 --key-type EC --algorithm SHA-256 root CN=root
{0} manage.py generate_ocsp_keys > /dev/null 2>&1 || true"#,
        python.display()
    );
    run(&folder, &script);
    let project = folder.join("pki");
    let writer = writer(json!({"discover": {"django-ca": project, "python": python}}));
    let metadata = writer.identify().await.unwrap();
    let database = &metadata.components[0];
    assert_eq!(database.files[0].path.join(&database.files[0].pattern), project.join("db.sqlite3"));
    let purposes: Vec<&str> = metadata.components[1].keys.iter().map(|key| key.purpose.as_str()).collect();
    assert_eq!(purposes, ["CA key", "OCSP key", "settings with secrets"]);

    let mut backup = prepared(&*writer).await;
    let recipient = RecoveryIdentity::generate().recipient().to_string();
    let keys = backup.seal_keys(&[recipient]).await.unwrap();
    for key in &keys[..2] {
        assert_eq!(key.proof, KeySeal::Proved { algorithm: "EC P-256".into() }, "{}", key.purpose);
    }
    assert!(matches!(keys[2].proof, KeySeal::NotProved { .. }), "settings.py holds SECRET_KEY");

    // Restored: the database's own certificates prove the CA key; the OCSP key's passphrase lies in the database.
    backup.freeze(&freeze(10_000)).await.unwrap();
    run(&folder, "cp -a pki staged");
    backup.thaw().await.unwrap();
    let mut restore = common::restore(&*writer, metadata.clone()).await;
    let staged = holdfast_writer_api::StagedFiles {
        roots: vec![(project.clone(), folder.join("staged"))],
        keys: metadata.components[1]
            .keys
            .iter()
            .map(|key| {
                (key.path.clone(), folder.join("staged").join(key.path.strip_prefix(&project).unwrap()))
            })
            .collect(),
    };
    let report = restore.check(&staged).await.unwrap();
    let of =
        |purpose: &str| report.findings.iter().find(|f| f.check.starts_with(purpose)).unwrap().result.clone();
    assert!(of("CA key").contains("fits its certificate"), "{report:?}");
    assert!(of("OCSP key").contains("fits its certificate"), "{report:?}");
    assert!(of("certificates issued").contains("django_ca_certificate"), "{report:?}");
    restore.recover(&staged, &Default::default()).await.unwrap();
    restore.verify(&staged).await.unwrap();
}

//! A small CA as cfssl lays it out, and the calls that a requester would make.

#![allow(dead_code, reason = "each test file uses its part")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use holdfast_writer_api::{
    BackupParticipant, BackupRequest, BackupType, FreezeContext, PhaseContext, RestoreParticipant,
    RestoreRequest, ShadowContext, StagedFiles, Writer, WriterConfig, WriterError, WriterMetadata,
};
use holdfast_writer_certificate_authority::DESCRIPTOR;
use serde_json::{Value, json};

/// cfssl's own schema.
const SCHEMA: &str = "CREATE TABLE certificates (serial_number blob NOT NULL, authority_key_identifier blob NOT NULL, \
    ca_label blob, status blob NOT NULL, reason int, expiry timestamp, revoked_at timestamp, pem blob NOT NULL, \
    PRIMARY KEY(serial_number, authority_key_identifier));";

/// Whether `program` can be run here; in CI it must.
pub fn available(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", "command -v \"$0\" > /dev/null", program]).status();
    if found.is_ok_and(|status| status.success()) {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "`{program}` must be installed in CI");
    eprintln!("skipped: `{program}` is not installed");
    false
}

/// Runs a shell script in `folder`, which must succeed.
#[track_caller]
pub fn run(folder: &Path, script: &str) {
    let output = Command::new("sh").args(["-ec", script]).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
}

pub struct Ca {
    _guard: tempfile::TempDir,
    pub path: PathBuf,
}

impl Ca {
    /// `None` without openssl.
    pub fn new(journal_mode: &str) -> Option<Self> {
        if !available("openssl") {
            return None;
        }
        let guard = tempfile::tempdir().unwrap();
        let path = guard.path().canonicalize().unwrap();
        for name in ["ca", "tls"] {
            run(
                &path,
                &format!(
                    "openssl ecparam -name prime256v1 -genkey -noout -out {name}-key.pem
                     openssl req -x509 -new -key {name}-key.pem -subj /CN={name} -days 3650 -out {name}.pem
                     chmod 600 {name}-key.pem"
                ),
            );
        }
        fs::write(path.join("db.json"), r#"{"driver":"sqlite3","data_source":"certs.db"}"#).unwrap();
        fs::write(path.join("config.json"), r#"{"signing":{"default":{"expiry":"8760h"}}}"#).unwrap();
        fs::create_dir(path.join("crl")).unwrap();
        fs::write(path.join("crl/ca.crl"), "crl 1").unwrap();
        let ca = Self { _guard: guard, path };
        let database = ca.open();
        database.pragma_update(None, "journal_mode", journal_mode).unwrap();
        database.execute_batch(SCHEMA).unwrap();
        issue(&database, 1).unwrap();
        Some(ca)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub fn open(&self) -> rusqlite::Connection {
        let database = rusqlite::Connection::open(self.file("certs.db")).unwrap();
        database.busy_timeout(Duration::ZERO).unwrap();
        database
    }

    /// Discovered settings, with the folder of CRLs.
    pub fn settings(&self) -> Value {
        json!({
            "discover": {
                "cfssl": self.file("db.json"), "ca": self.file("ca.pem"),
                "ca-key": self.file("ca-key.pem"), "config": self.file("config.json"),
            },
            "private-keys": [{"path": self.file("tls-key.pem"), "purpose": "TLS key", "certificate": self.file("tls.pem")}],
            "dynamic-files": [self.file("crl")],
        })
    }

    pub fn writer(&self) -> Box<dyn Writer> {
        writer(self.settings())
    }
}

pub fn writer(settings: Value) -> Box<dyn Writer> {
    (DESCRIPTOR.build)(WriterConfig { id: "ca".into(), settings }).unwrap()
}

/// One more certificate.
pub fn issue(database: &rusqlite::Connection, serial: u32) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem) VALUES (?1, '', 'good', 'PEM')";
    database.execute(sql, [serial.to_string()])
}

pub fn phase() -> PhaseContext {
    PhaseContext { set: Default::default(), budget: Duration::from_secs(60) }
}

pub fn freeze(milliseconds: u64) -> FreezeContext {
    FreezeContext { set: Default::default(), budget: Duration::from_millis(milliseconds) }
}

/// Begins a backup of everything.
pub async fn begin(writer: &dyn Writer) -> Result<Box<dyn BackupParticipant>, WriterError> {
    let components = writer.identify().await?.components.iter().map(|c| c.reference()).collect();
    let request = BackupRequest {
        set: Default::default(),
        backup_type: BackupType::Full,
        components,
        previous_stamps: Default::default(),
    };
    writer.begin_backup(request).await
}

/// A backup that is ready to freeze.
pub async fn prepared(writer: &dyn Writer) -> Box<dyn BackupParticipant> {
    let mut backup = begin(writer).await.unwrap();
    backup.prepare_backup(&phase()).await.unwrap();
    backup.prepare_snapshot(&phase()).await.unwrap();
    backup
}

/// Copies as a provider would, in another process: closing a descriptor here would drop the hold.
pub fn cut(ca: &Ca, to: &Path) -> ShadowContext {
    run(&ca.path, &format!("mkdir -p {0} && cp -a . {0} && rm -f {0}/certs.db-shm", to.display()));
    ShadowContext { set: Default::default(), roots: vec![(ca.path.clone(), to.to_owned())] }
}

/// Begins a restore of everything that `metadata` describes.
pub async fn restore(writer: &dyn Writer, metadata: WriterMetadata) -> Box<dyn RestoreParticipant> {
    let components = metadata.components.iter().map(|c| c.reference()).collect();
    let request = RestoreRequest { set: Default::default(), metadata, components, in_place: true };
    writer.begin_restore(request).await.unwrap()
}

/// What `cut` made, as staged files with plain keys.
pub fn staged(ca: &Ca, at: &Path, keys: &[&str]) -> StagedFiles {
    StagedFiles {
        roots: vec![(ca.path.clone(), at.to_owned())],
        keys: keys.iter().map(|key| (ca.file(key), at.join(key))).collect(),
    }
}

//! A real django-ca project on SQLite: made, loaded with certificates in-process, asked through its own commands.
//! What it keeps where and how it behaves under a hold: `ca-and-orchestrator-targets`, sections 2 and 3.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Journal,
    error::FixtureError,
    http,
    load::Load,
    openssl,
    process::{self, Server, command, run},
    require::deps_dir,
};

/// A Django command takes 1.5 s to start and may wait 30 s for a lock (`timeout` in the WAL settings).
const LIMIT: Duration = Duration::from_secs(90);
const START_LIMIT: Duration = Duration::from_secs(30);

const SETTINGS: &str = include_str!("../scripts/django_settings.py");
const ISSUE_LOOP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/django_issue.py");
/// What its documentation recommends for SQLite in WAL mode.
const WAL_OPTIONS: &str = r#"{
            "timeout": 30,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        }"#;
const MANAGE: &str = r#"import os
import sys

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
from django.core.management import execute_from_command_line

execute_from_command_line(sys.argv)
"#;
const URLS: &str = r#"from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls), path("django_ca/", include("django_ca.urls"))]
"#;

/// A django-ca project in one folder.
#[derive(Debug)]
pub struct DjangoCa {
    dir: PathBuf,
    serial: String,
}

impl DjangoCa {
    /// Makes a project in `dir` (`manage.py`, `project/settings.py`, `db.sqlite3`, `keys/ca/SERIAL.key`) with one EC
    /// root CA. Its paths are relative to the folder, so a restored copy works in any other place. Takes about 6 s.
    ///
    /// # Errors
    /// Whatever Django or the file system says.
    pub fn create(dir: &Path, journal: Journal) -> Result<Self, FixtureError> {
        let project = dir.join("project");
        process::create_dir(&project)?;
        let options = match journal {
            Journal::Delete => "{}",
            Journal::Wal => WAL_OPTIONS,
        };
        let secret = format!("holdfast-test-{}", uuid::Uuid::new_v4());
        let settings = SETTINGS.replace("@SECRET_KEY@", &secret).replace("@OPTIONS@", options);
        process::write_file(&project.join("settings.py"), settings)?;
        process::chmod(&project.join("settings.py"), 0o600)?;
        process::write_file(&project.join("__init__.py"), "")?;
        process::write_file(&project.join("urls.py"), URLS)?;
        process::write_file(&dir.join("manage.py"), MANAGE)?;
        manage(dir, &["migrate", "--verbosity=0"])?;
        let key = ["--key-type=EC", "--algorithm=SHA-256", "--path-length=0"];
        manage(dir, &[&["init_ca"], &key[..], &["root", "CN=Holdfast Test Root"]].concat())?;
        Self::open(dir)
    }

    /// A project that is already there, e.g. a restored one; asks it for its CA's serial.
    ///
    /// # Errors
    /// [`FixtureError::Command`] if Django cannot read it; [`FixtureError::Answer`] if it has no CA.
    pub fn open(dir: &Path) -> Result<Self, FixtureError> {
        let dir = dir.canonicalize().map_err(FixtureError::io(format!("resolve {}", dir.display())))?;
        let listed = manage(&dir, &["list_cas"])?;
        let serial = listed.lines().find_map(|line| {
            let serial = line.split_whitespace().next()?.replace(':', "");
            let hex = !serial.is_empty() && serial.bytes().all(|byte| byte.is_ascii_hexdigit());
            // Listed padded to whole bytes; named without the padding in the database and in the key's file name.
            hex.then(|| serial.trim_start_matches('0').to_owned())
        });
        let serial = serial.ok_or_else(|| FixtureError::answer("manage.py list_cas", listed))?;
        Ok(Self { dir, serial })
    }

    /// The folder everything lies in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `db.sqlite3`.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.dir.join("db.sqlite3")
    }

    /// `project/settings.py`.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.dir.join("project/settings.py")
    }

    /// The CA's private key, `keys/ca/SERIAL.key`.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.dir.join("keys/ca").join(format!("{}.key", self.serial))
    }

    /// The CA's serial, upper-case hexadecimal without leading zeros, as in the database and in file names.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The CA's certificate, as django-ca shows it.
    ///
    /// # Errors
    /// [`FixtureError::Command`].
    pub fn certificate(&self) -> Result<String, FixtureError> {
        let told = self.manage(&["view_ca", &self.serial])?;
        certificate_in(&told).ok_or_else(|| FixtureError::answer("manage.py view_ca", told))
    }

    /// Runs `manage.py` with these arguments, under a deadline of 90 s, and gives its standard output.
    ///
    /// # Errors
    /// [`FixtureError::Command`] with Django's words, e.g. `database is locked`.
    pub fn manage(&self, arguments: &[&str]) -> Result<String, FixtureError> {
        manage(&self.dir, arguments)
    }

    /// Serials of all certificates that django-ca lists, upper-case hexadecimal; expired and revoked ones too.
    ///
    /// # Errors
    /// [`FixtureError::Command`].
    pub fn list_certs(&self) -> Result<Vec<String>, FixtureError> {
        let listed = self.manage(&["list_certs", "--expired", "--revoked"])?;
        // "61:2E:… - name (expires: …)"; without the colons and the padding zero.
        let serials = listed.lines().filter_map(|line| line.split(" - ").next());
        Ok(serials.map(|serial| serial.replace(':', "").trim_start_matches('0').to_owned()).collect())
    }

    /// Makes a new CRL, stores it in the database, and gives it as PEM.
    ///
    /// # Errors
    /// [`FixtureError::Command`].
    pub fn dump_crl(&self) -> Result<String, FixtureError> {
        self.manage(&["dump_crl", "--ca", &self.serial])
    }

    /// Revokes a certificate.
    ///
    /// # Errors
    /// [`FixtureError::Command`], e.g. for a serial it does not know.
    pub fn revoke(&self, serial: &str) -> Result<(), FixtureError> {
        self.manage(&["revoke_cert", serial, "--reason=superseded"]).map(drop)
    }

    /// Signs one certificate for `cn` the way an administrator does, and gives it as PEM.
    ///
    /// # Errors
    /// [`FixtureError::Command`], e.g. `Private key file not found`.
    pub fn sign_csr(&self, cn: &str) -> Result<String, FixtureError> {
        let folder = tempfile::tempdir().map_err(FixtureError::io("make a scratch folder"))?;
        let csr = openssl::request(folder.path(), cn)?;
        let (csr, subject) = (csr.display().to_string(), format!("--subject=CN={cn}"));
        let told = self.manage(&["sign_cert", "--ca", &self.serial, "--csr", &csr, &subject])?;
        certificate_in(&told).ok_or_else(|| FixtureError::answer("manage.py sign_cert", told))
    }

    /// Issues certificates named `PREFIX-1`, … in a loop, in a process of django-ca's own, until stopped.
    /// The first one is acknowledged after the 1.5 s that Django takes to start.
    ///
    /// # Errors
    /// [`FixtureError::Io`] if it cannot be started.
    pub fn issue_loop(&self, prefix: &str) -> Result<Load, FixtureError> {
        let mut python = python(&self.dir);
        Load::in_process("django-ca", python.args([ISSUE_LOOP, &self.serial, prefix]))
    }

    /// Starts Django's server on 127.0.0.1, and waits until it has answered from its database.
    ///
    /// # Errors
    /// [`FixtureError::Command`] or [`FixtureError::Deadline`] with its log if it cannot serve.
    pub fn serve(&self) -> Result<DjangoServer, FixtureError> {
        serve(&self.dir, &self.serial, START_LIMIT)
    }
}

/// Starts the server of a project that cannot be opened with [`DjangoCa::open`] because its database is not there
/// (restored, but not recovered). Waits for `limit` until it answers from its database for the CA `serial`.
///
/// # Errors
/// [`FixtureError::Command`] or [`FixtureError::Deadline`] with its log if it cannot serve.
pub fn serve(dir: &Path, serial: &str, limit: Duration) -> Result<DjangoServer, FixtureError> {
    let (server, port) = process::start_on_free_port(|port| {
        let mut server = Server::start(
            "django-ca runserver",
            python(dir).args(["manage.py", "runserver", "--noreload", &format!("127.0.0.1:{port}")]),
        )?;
        server.wait_ready(limit, || answers_from_database(port, serial))?;
        Ok(server)
    })?;
    Ok(DjangoServer { server, port, serial: serial.to_owned() })
}

/// Django's server, until dropped.
#[derive(Debug)]
pub struct DjangoServer {
    server: Server,
    port: u16,
    serial: String,
}

impl DjangoServer {
    /// The port of 127.0.0.1 it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Whether it answers from its database right now.
    pub fn is_serving(&mut self) -> bool {
        self.server.is_running() && answers_from_database(self.port, &self.serial)
    }

    /// Ends it by SIGTERM.
    pub fn stop(self) {
        self.server.stop(Duration::from_secs(5));
    }
}

/// The issuer's certificate comes out of the database: the project caches nothing.
fn answers_from_database(port: u16, serial: &str) -> bool {
    let path = format!("/django_ca/issuer/{serial}.der");
    http::request(port, "GET", &path, b"", Duration::from_secs(10))
        .is_ok_and(|answer| answer.status == 200 && !answer.body.is_empty())
}

/// The first PEM certificate in what a command printed.
fn certificate_in(told: &str) -> Option<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let begin = told.find("-----BEGIN CERTIFICATE-----")?;
    let end = begin + told[begin..].find(END)? + END.len();
    Some(told[begin..end].to_owned() + "\n")
}

fn manage(dir: &Path, arguments: &[&str]) -> Result<String, FixtureError> {
    run(python(dir).arg("manage.py").args(arguments), LIMIT).map(|output| output.text())
}

fn python(dir: &Path) -> Command {
    let mut python = command(deps_dir().join("django-ca/bin/python"));
    // No __pycache__: the folder must hold only what a CA's folder holds.
    python.current_dir(dir).env("PYTHONDONTWRITEBYTECODE", "1").env_remove("DJANGO_SETTINGS_MODULE");
    python
}

//! A real cfssl server on SQLite: made, started, used over HTTP, stopped.
//! What it keeps where and how it behaves under a hold: `ca-and-orchestrator-targets`, sections 2 and 4.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    Journal,
    clock::monotonic_ns,
    error::FixtureError,
    http,
    load::{Ack, Load, Refused},
    openssl,
    process::{self, Server, command},
};

/// cfssl waits 5 s for SQLite's lock before it refuses: an answer may take that long.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
const START_LIMIT: Duration = Duration::from_secs(15);

/// The package ships no schema; this is the one its accessor expects.
const SCHEMA: &str = "
CREATE TABLE certificates (serial_number blob NOT NULL, authority_key_identifier blob NOT NULL, ca_label blob, status blob NOT NULL,
  reason int, expiry timestamp, revoked_at timestamp, pem blob NOT NULL, PRIMARY KEY(serial_number, authority_key_identifier));
CREATE TABLE ocsp_responses (serial_number blob NOT NULL, authority_key_identifier blob NOT NULL, body blob NOT NULL, expiry timestamp,
  PRIMARY KEY(serial_number, authority_key_identifier),
  FOREIGN KEY(serial_number, authority_key_identifier) REFERENCES certificates(serial_number, authority_key_identifier));";

/// A certificate that cfssl has answered with.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Decimal, as cfssl keeps it.
    pub serial: String,
    /// The certificate.
    pub pem: String,
}

/// A cfssl installation in one folder, and the server on it while started.
#[derive(Debug)]
pub struct Cfssl {
    dir: PathBuf,
    server: Option<(Server, Client)>,
}

impl Cfssl {
    /// Makes a CA in `dir`: `ca.pem`, `ca-key.pem` (0600), `config.json`, `db.json` (absolute `data_source`), `certs.db`.
    ///
    /// # Errors
    /// Whatever cfssl, openssl or the file system says.
    pub fn create(dir: &Path, journal: Journal) -> Result<Self, FixtureError> {
        process::create_dir(dir)?;
        let dir = dir.canonicalize().map_err(FixtureError::io(format!("resolve {}", dir.display())))?;
        let ca = Self { dir, server: None };
        let request = json!({"CN": "Holdfast Test CA", "key": {"algo": "ecdsa", "size": 256}, "names": [{"O": "Holdfast"}]});
        let request_file = ca.dir.join("ca-csr.json");
        process::write_file(&request_file, request.to_string())?;
        let made = process::run(
            command("cfssl").args(["gencert", "-initca"]).arg(&request_file),
            Duration::from_secs(30),
        )?;
        let made: Value = serde_json::from_slice(&made.stdout)
            .map_err(|error| FixtureError::answer("cfssl gencert -initca", error.to_string()))?;
        for (key, name) in [("cert", "ca.pem"), ("key", "ca-key.pem")] {
            let pem = made[key].as_str().ok_or_else(|| FixtureError::answer("cfssl gencert -initca", key))?;
            process::write_file(&ca.dir.join(name), pem)?;
        }
        process::chmod(&ca.key(), 0o600)?;
        let usages = ["signing", "key encipherment", "server auth", "client auth"];
        let config = json!({"signing": {"default": {"expiry": "8760h", "usages": usages}}});
        process::write_file(&ca.dir.join("config.json"), config.to_string())?;
        ca.repoint()?;
        let database = Connection::open(ca.database());
        database
            .and_then(|database| {
                database.pragma_update(None, "journal_mode", journal.pragma())?;
                database.execute_batch(SCHEMA)
            })
            .map_err(|error| FixtureError::answer("certs.db", error.to_string()))?;
        Ok(ca)
    }

    /// An installation that is already there, e.g. a restored one. Nothing is read or changed.
    #[must_use]
    pub fn open(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf(), server: None }
    }

    /// Writes `db.json` so that it names the database in this folder: what an administrator does after a restore to
    /// another place.
    ///
    /// # Errors
    /// [`FixtureError::Io`].
    pub fn repoint(&self) -> Result<(), FixtureError> {
        let content = json!({"driver": "sqlite3", "data_source": self.database()});
        process::write_file(&self.dir.join("db.json"), content.to_string())
    }

    /// The folder everything lies in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `certs.db`.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.dir.join("certs.db")
    }

    /// `ca.pem`.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// `ca-key.pem`.
    #[must_use]
    pub fn key(&self) -> PathBuf {
        self.dir.join("ca-key.pem")
    }

    /// Starts the server on a free port of 127.0.0.1 and waits until it answers.
    ///
    /// # Errors
    /// [`FixtureError::Command`] with its log if it ends at once; [`FixtureError::Answer`] with its log if it runs but
    /// cannot sign: without its key cfssl starts all the same, with every endpoint that needs the key disabled.
    pub fn start(&mut self) -> Result<(), FixtureError> {
        self.stop();
        let (server, port) = process::start_on_free_port(|port| {
            let mut server = Server::start(
                "cfssl serve",
                command("cfssl")
                    .arg("serve")
                    .args(["-address", "127.0.0.1", "-port", &port.to_string()])
                    .args([
                        "-ca".as_ref(),
                        self.certificate().as_os_str(),
                        "-ca-key".as_ref(),
                        self.key().as_os_str(),
                        "-config".as_ref(),
                        self.dir.join("config.json").as_os_str(),
                        "-db-config".as_ref(),
                        self.dir.join("db.json").as_os_str(),
                    ]),
            )?;
            server.wait_ready(START_LIMIT, || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
            if !(Client { port }).answers() {
                return Err(FixtureError::answer("cfssl serve", server.log()));
            }
            Ok(server)
        })?;
        self.server = Some((server, Client { port }));
        Ok(())
    }

    /// Starts the server and says whether it is of any use: it answers, can sign, and reaches its database.
    pub fn starts_and_serves(&mut self) -> bool {
        self.start().is_ok() && self.is_serving()
    }

    /// Ends the server by SIGTERM, as an administrator would. cfssl leaves `-wal` behind.
    pub fn stop(&mut self) {
        if let Some((server, _)) = self.server.take() {
            server.stop(Duration::from_secs(5));
        }
    }

    /// The server's process id while it is started.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(|(server, _)| server.pid())
    }

    /// A handle to talk to the server with, also from other threads.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] if it is not started.
    pub fn client(&self) -> Result<Client, FixtureError> {
        let client = self.server.as_ref().map(|(_, client)| client.clone());
        client.ok_or_else(|| FixtureError::answer("cfssl", "not started"))
    }

    /// Whether the server runs, answers, and reaches its database.
    pub fn is_serving(&mut self) -> bool {
        let running = self.server.as_mut().is_some_and(|(server, _)| server.is_running());
        running && self.client().is_ok_and(|client| client.reaches_database())
    }

    /// Asks for a certificate for `cn`.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] with cfssl's own words, e.g. `database is locked`.
    pub fn issue(&self, cn: &str) -> Result<Issued, FixtureError> {
        self.client()?.issue(cn)
    }

    /// Revokes a certificate by its decimal serial.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] with cfssl's own words.
    pub fn revoke(&self, serial: &str) -> Result<(), FixtureError> {
        self.client()?.revoke(serial)
    }

    /// What the database says of a serial: `good`, `revoked`, or nothing. Opens the database only to read.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] with SQLite's words.
    pub fn status_of(&self, serial: &str) -> Result<Option<String>, FixtureError> {
        let rows = self.rows("SELECT serial_number, status FROM certificates")?;
        Ok(rows.into_iter().find(|(number, _)| number == serial).map(|(_, status)| status))
    }

    /// All certificates in the database: decimal serial and PEM.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] with SQLite's words.
    pub fn certificates(&self) -> Result<Vec<(String, String)>, FixtureError> {
        self.rows("SELECT serial_number, pem FROM certificates")
    }

    /// Issues certificates named `PREFIX-1`, `PREFIX-2`, … one after the other until stopped.
    ///
    /// # Errors
    /// [`FixtureError::Answer`] if the server is not started.
    pub fn issue_loop(&self, prefix: &str) -> Result<Load, FixtureError> {
        let client = self.client()?;
        let prefix = prefix.to_owned();
        Ok(Load::in_thread(move |number| {
            let name = format!("{prefix}-{number}");
            let begun_ns = monotonic_ns();
            match client.issue(&name) {
                Ok(Issued { serial, pem }) => {
                    Ok(Ack { name, serial, pem, begun_ns, acked_ns: monotonic_ns() })
                }
                Err(error) => {
                    Err(Refused { begun_ns, refused_ns: monotonic_ns(), message: error.to_string() })
                }
            }
        }))
    }

    fn rows(&self, query: &str) -> Result<Vec<(String, String)>, FixtureError> {
        let open = || {
            let database =
                Connection::open_with_flags(self.database(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let mut statement = database.prepare(query)?;
            // Go's driver stores strings in BLOB columns as either type.
            let text = |value: rusqlite::types::ValueRef<'_>| {
                String::from_utf8_lossy(value.as_bytes().unwrap_or_default()).into_owned()
            };
            let rows = statement.query_map([], |row| Ok((text(row.get_ref(0)?), text(row.get_ref(1)?))))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        open().map_err(|error| FixtureError::answer("certs.db", error.to_string()))
    }
}

/// Talks to a started server.
#[derive(Debug, Clone)]
pub struct Client {
    port: u16,
}

impl Client {
    /// The port of 127.0.0.1 it listens on.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// See [`Cfssl::issue`]. The serial is read after the answer, so it costs the acknowledgement's time a little.
    ///
    /// # Errors
    /// As there.
    pub fn issue(&self, cn: &str) -> Result<Issued, FixtureError> {
        let request = json!({"request": {"CN": cn, "hosts": [cn], "key": {"algo": "ecdsa", "size": 256}}});
        let result = self.post("newcert", &request)?;
        let pem = result["certificate"]
            .as_str()
            .ok_or_else(|| FixtureError::answer("cfssl newcert", "no certificate in the answer"))?
            .to_owned();
        let serial = openssl::serial(&pem)?.decimal();
        Ok(Issued { serial, pem })
    }

    /// See [`Cfssl::revoke`].
    ///
    /// # Errors
    /// As there.
    pub fn revoke(&self, serial: &str) -> Result<(), FixtureError> {
        let request = json!({"serial": serial, "authority_key_id": "", "reason": "superseded"});
        self.post("revoke", &request).map(drop)
    }

    /// Whether the server answers at all; says nothing about its database.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.post("info", &json!({"label": ""})).is_ok()
    }

    /// Whether the server reaches its database, without changing it: it must know that serial 0 does not exist.
    /// It asks by an `UPDATE` of no row, so under a hold the answer waits as an issue would.
    #[must_use]
    pub fn reaches_database(&self) -> bool {
        match self.revoke("0") {
            Err(FixtureError::Answer { answer, .. }) => answer.contains(NO_SUCH_CERTIFICATE),
            Ok(()) | Err(_) => false,
        }
    }

    fn post(&self, endpoint: &str, request: &Value) -> Result<Value, FixtureError> {
        let path = format!("/api/v1/cfssl/{endpoint}");
        let answer = http::request(self.port, "POST", &path, request.to_string().as_bytes(), ANSWER_LIMIT)?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status == 200 && body["success"] == json!(true) {
            return Ok(body["result"].clone());
        }
        let told = String::from_utf8_lossy(&answer.body);
        Err(FixtureError::answer(format!("cfssl {endpoint}"), format!("{} {told}", answer.status)))
    }
}

/// cfssl's words for a serial its database does not hold.
const NO_SUCH_CERTIFICATE: &str = "certificate not found";

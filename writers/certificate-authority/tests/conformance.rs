//! The writer keeps the rules for writers: a CA as cfssl lays it out, whose application issues certificates.

mod common;

#[path = "../../plain/tests/application/mod.rs"]
mod application;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use application::Application;
use async_trait::async_trait;
use common::{Ca, available};
use holdfast_writer_api::testkit::{Fixture, FixtureError, Poke, Subject, below};
use holdfast_writer_certificate_authority::DESCRIPTOR;

/// Not a test: the application of the others.
#[test]
#[ignore = "the application of the other tests"]
fn application_process() {
    application::serve();
}

/// A CA that issues certificates, and signs nothing without its key.
struct Issuing {
    ca: Ca,
    running: Option<Application>,
    serial: u32,
}

impl Issuing {
    async fn start(journal_mode: &str) -> Result<Self, FixtureError> {
        if !available("openssl") {
            return Err(FixtureError::Missing { what: "openssl".into() });
        }
        let ca = Ca::new(journal_mode).expect("openssl is installed");
        let running = Some(open(&ca.path).await?);
        Ok(Self { ca, running, serial: 1 })
    }
}

async fn open(folder: &Path) -> Result<Application, FixtureError> {
    Application::start(&folder.join("certs.db"), "application_process").await
}

async fn issued(application: &mut Application) -> Result<Vec<String>, FixtureError> {
    application.finds("SELECT CAST(serial_number AS TEXT) FROM certificates").await
}

/// Signs with the key of the CA at `folder`, and verifies with its certificate.
fn signs(folder: &Path) -> Result<(), FixtureError> {
    let script = "openssl dgst -sha256 -sign ca-key.pem -out signature config.json
        openssl x509 -in ca.pem -pubkey -noout > public
        openssl dgst -sha256 -verify public -signature signature config.json";
    let run = Command::new("sh").args(["-ec", script]).current_dir(folder).output();
    let output = run.map_err(|error| FixtureError::failed("sign", &error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(FixtureError::because("sign with its key", String::from_utf8_lossy(&output.stderr)))
}

#[async_trait]
impl Fixture for Issuing {
    fn writer(&self) -> Subject {
        Subject::linked(&DESCRIPTOR, self.ca.settings())
    }

    async fn poke(&mut self, patience: Duration) -> Result<Poke, FixtureError> {
        let down = || FixtureError::because("issue a certificate", "the CA is down");
        let application = self.running.as_mut().ok_or_else(down)?;
        self.serial += 1;
        let serial = self.serial;
        let insert = format!(
            "INSERT INTO certificates (serial_number, authority_key_identifier, status, pem) \
             VALUES ('{serial}', '', 'good', 'PEM')"
        );
        Ok(match application.runs(&insert, patience).await? {
            true => Poke::Written(serial.to_string()),
            false => Poke::Held,
        })
    }

    async fn contents(&mut self) -> Result<Vec<String>, FixtureError> {
        match &mut self.running {
            Some(application) => issued(application).await,
            None => issued(&mut open(&self.ca.path).await?).await,
        }
    }

    async fn contents_of(&mut self, root: &Path) -> Result<Vec<String>, FixtureError> {
        let folder = below(root, &self.ca.path);
        signs(&folder)?;
        issued(&mut open(&folder).await?).await
    }

    async fn stop(&mut self) -> Result<(), FixtureError> {
        match self.running.take() {
            Some(application) => application.stop().await,
            None => Ok(()),
        }
    }

    async fn start(&mut self) -> Result<bool, FixtureError> {
        if self.running.is_none() {
            self.running = Some(open(&self.ca.path).await?);
        }
        Ok(true)
    }
}

mod wal {
    holdfast_writer_api::conformance!(|| super::Issuing::start("wal"));
}

mod rollback {
    holdfast_writer_api::conformance!(|| super::Issuing::start("delete"));
}

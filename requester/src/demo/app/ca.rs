//! A certificate authority: issues X.509 certificates into a SQLite database in WAL mode, revokes some, publishes a CRL.
//!
//! A revocation and the CRL that shows it are made inside one write transaction: whoever holds the database holds the CRL.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevocationReason, RevokedCertParams, SerialNumber,
};
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use serde::Deserialize;

use super::{AppError, Application, Written, create_database, integer, open_database, random};
use crate::demo::ack::{digest, hex};
use crate::demo::durable;
use crate::demo::places::{CA, Places};

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL;
    CREATE TABLE certificates (
        serial   TEXT PRIMARY KEY,
        number   INTEGER NOT NULL UNIQUE,
        subject  TEXT NOT NULL,
        pem      TEXT NOT NULL,
        begun_ns INTEGER NOT NULL,
        revoked  INTEGER NOT NULL DEFAULT 0
    ) STRICT;";

const CONFIGURATION: &str = r#"# The demonstration's certificate authority.
common-name = "Holdfast demonstration CA"
days = 90          # how long a certificate is valid
crl-every = 25     # certificates issued between two revocations
"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Configuration {
    common_name: String,
    days: u16,
    crl_every: u64,
}

/// A running authority.
pub(super) struct Ca {
    places: Places,
    configuration: Configuration,
    issuer: Issuer<'static, KeyPair>,
    connection: Connection,
}

pub(super) fn create(places: &Places) -> Result<(), AppError> {
    let folder = places.application(CA);
    durable::private_folder(&folder).map_err(AppError::io("create", &folder))?;
    let put = |path: std::path::PathBuf, text: &str, mode| {
        durable::write(&path, text.as_bytes(), mode).map_err(AppError::io("write", &path))
    };
    put(places.ca_configuration(), CONFIGURATION, 0o644)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let configuration = read_configuration(places)?;
    let certificate = authority(&configuration)?.self_signed(&key)?;
    put(places.ca_key(), &key.serialize_pem(), 0o600)?;
    put(places.ca_certificate(), &certificate.pem(), 0o644)?;
    let mut connection = create_database(CA, &places.ca_database(), SCHEMA)?;
    let failed = AppError::database(CA);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
    publish_crl(&transaction, &Issuer::new(authority(&configuration)?, key), places)?;
    transaction.commit().map_err(&failed)
}

impl Ca {
    pub(super) fn open(places: &Places) -> Result<Self, AppError> {
        let configuration = read_configuration(places)?;
        let path = places.ca_key();
        let pem =
            zeroize::Zeroizing::new(std::fs::read_to_string(&path).map_err(AppError::io("read", &path))?);
        let issuer = Issuer::new(authority(&configuration)?, KeyPair::from_pem(&pem)?);
        let connection = open_database(CA, &places.ca_database())?;
        Ok(Self { places: places.clone(), configuration, issuer, connection })
    }
}

impl Application for Ca {
    fn next(&self) -> Result<u64, AppError> {
        self.connection
            .query_row("SELECT coalesce(max(number), 0) + 1 FROM certificates", [], |row| {
                row.get::<_, i64>(0)
            })
            .map(i64::unsigned_abs)
            .map_err(AppError::database(CA))
    }

    fn write(&mut self, n: u64, begun_ns: u64) -> Result<Written, AppError> {
        let subject = format!("host-{n:06}.demo.example");
        let serial = serial()?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut leaf = CertificateParams::new(vec![subject.clone()])?;
        leaf.distinguished_name.push(DnType::CommonName, subject.as_str());
        leaf.serial_number = Some(SerialNumber::from_slice(&serial));
        leaf.not_before = day(-1);
        leaf.not_after = day(i64::from(self.configuration.days));
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.use_authority_key_identifier_extension = true;
        // Signed before the database is locked, as any CA of some size does.
        let pem = leaf.signed_by(&key, &self.issuer)?.pem();
        let serial = hex(&serial);

        let failed = AppError::database(CA);
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&failed)?;
        transaction
            .execute(
                "INSERT INTO certificates (serial, number, subject, pem, begun_ns) VALUES (?, ?, ?, ?, ?)",
                params![serial, integer(n), subject, pem, integer(begun_ns)],
            )
            .map_err(&failed)?;
        if n.is_multiple_of(self.configuration.crl_every.max(1)) {
            transaction
                .execute("UPDATE certificates SET revoked = 1 WHERE number = ?", [integer(n / 2)])
                .map_err(&failed)?;
            publish_crl(&transaction, &self.issuer, &self.places)?;
        }
        transaction.commit().map_err(&failed)?;
        Ok(Written { digest: digest(&[pem.as_bytes()]), id: serial })
    }
}

/// Replaces the CRL by one that names every revoked certificate `transaction` sees. If the commit fails afterwards, the
/// CRL names one too many, never one too few.
fn publish_crl(
    transaction: &Transaction<'_>,
    issuer: &Issuer<'_, KeyPair>,
    places: &Places,
) -> Result<(), AppError> {
    let failed = AppError::database(CA);
    let mut statement = transaction
        .prepare("SELECT serial FROM certificates WHERE revoked ORDER BY number")
        .map_err(&failed)?;
    let serials = statement
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(&failed)?;
    let revoked_certs = serials
        .iter()
        .filter_map(|serial| serial_bytes(serial))
        .map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: day(0),
            reason_code: Some(RevocationReason::Superseded),
            invalidity_date: None,
        })
        .collect();
    let list = CertificateRevocationListParams {
        this_update: day(0),
        next_update: day(7),
        // RFC 5280 asks for a number that grows, also after a restore: not the count of an older database.
        crl_number: SerialNumber::from(jiff::Timestamp::now().as_millisecond().unsigned_abs()),
        issuing_distribution_point: None,
        revoked_certs,
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let path = places.ca_crl();
    let pem = list.signed_by(issuer)?.pem()?;
    durable::write(&path, pem.as_bytes(), 0o644).map_err(AppError::io("write", &path))
}

fn read_configuration(places: &Places) -> Result<Configuration, AppError> {
    let path = places.ca_configuration();
    let text = std::fs::read_to_string(&path).map_err(AppError::io("read", &path))?;
    toml::from_str(&text).map_err(|error| AppError::Unusable { path, problem: error.message().to_owned() })
}

/// What is said of the CA in its own certificate and, as issuer, in all others.
fn authority(configuration: &Configuration) -> Result<CertificateParams, AppError> {
    let mut authority = CertificateParams::default();
    authority.distinguished_name = rcgen::DistinguishedName::new();
    authority.distinguished_name.push(DnType::CommonName, configuration.common_name.as_str());
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.serial_number = Some(SerialNumber::from_slice(&serial()?));
    authority.not_before = day(-1);
    authority.not_after = day(3650);
    Ok(authority)
}

/// 16 bytes, positive and without a leading zero: the same in DER and in the database.
fn serial() -> Result<[u8; 16], AppError> {
    let mut serial = random::<16>()?;
    serial[0] = serial[0] & 0x3f | 0x40;
    Ok(serial)
}

/// The bytes of a serial as the database has it.
pub(in crate::demo) fn serial_bytes(hex: &str) -> Option<Vec<u8>> {
    if !hex.is_ascii() || !hex.len().is_multiple_of(2) || hex.len() > 40 {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

/// The start of the day so many days from today, UTC.
fn day(from_today: i64) -> time::OffsetDateTime {
    let today = jiff::Timestamp::now().as_second().div_euclid(86_400);
    time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(today + from_today)
}

//! What a stranger with the `openssl` program would say of certificates, keys and CRLs.

use std::{fmt::Write as _, path::Path, time::Duration};

use x509_cert::{Certificate, der::DecodePem};

use crate::{
    error::FixtureError,
    process::{self, command, run},
};

const LIMIT: Duration = Duration::from_secs(60);
/// Certificates handed to one `openssl verify`.
const BATCH: usize = 200;

/// A certificate's serial number.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Upper-case hexadecimal without leading zeros: openssl's and django-ca's way.
    #[must_use]
    pub fn hex(&self) -> String {
        let mut text = String::new();
        for byte in &self.0 {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02X}");
        }
        let trimmed = text.trim_start_matches('0');
        if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() }
    }

    /// Decimal: cfssl's way.
    #[must_use]
    pub fn decimal(&self) -> String {
        // Base 10, least digit first; 20 bytes at most, so the square of it does not matter.
        let mut digits = vec![0_u8];
        for byte in &self.0 {
            let mut carry = u32::from(*byte);
            for digit in &mut digits {
                let value = u32::from(*digit) * 256 + carry;
                *digit = (value % 10) as u8;
                carry = value / 10;
            }
            while carry > 0 {
                digits.push((carry % 10) as u8);
                carry /= 10;
            }
        }
        digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect()
    }
}

/// The serial number of a PEM certificate.
///
/// # Errors
/// [`FixtureError::Answer`] if it is not one.
pub fn serial(pem: &str) -> Result<Serial, FixtureError> {
    Certificate::from_pem(pem)
        .map(|certificate| Serial(certificate.tbs_certificate.serial_number.as_bytes().to_vec()))
        .map_err(|error| FixtureError::answer("certificate", error.to_string()))
}

/// `openssl verify` of every certificate against one CA certificate.
///
/// # Errors
/// [`FixtureError::Command`] with openssl's words if it refuses any.
pub fn verify_all<'a>(ca: &Path, pems: impl IntoIterator<Item = &'a str>) -> Result<(), FixtureError> {
    verify_with(ca, pems, &["-CAfile"])
}

/// `openssl verify` of one certificate against one CA certificate.
///
/// # Errors
/// As [`verify_all`].
pub fn verify(ca: &Path, pem: &str) -> Result<(), FixtureError> {
    verify_all(ca, [pem])
}

/// `openssl verify -crl_check`: not only signed, but also not revoked by this CRL.
///
/// # Errors
/// As [`verify_all`]; a revoked certificate gives `certificate revoked`.
pub fn verify_against_crl(ca: &Path, crl: &str, pem: &str) -> Result<(), FixtureError> {
    let folder = scratch()?;
    let file = folder.path().join("crl.pem");
    process::write_file(&file, crl)?;
    let crl_file = file.display().to_string();
    verify_with(ca, [pem], &["-crl_check", "-CRLfile", &crl_file, "-CAfile"])
}

fn verify_with<'a>(
    ca: &Path,
    pems: impl IntoIterator<Item = &'a str>,
    options: &[&str],
) -> Result<(), FixtureError> {
    let folder = scratch()?;
    let mut files = Vec::new();
    for (number, pem) in pems.into_iter().enumerate() {
        let file = folder.path().join(format!("{number}.pem"));
        process::write_file(&file, pem)?;
        files.push(file);
    }
    for batch in files.chunks(BATCH) {
        run(command("openssl").arg("verify").args(options).arg(ca).args(batch), LIMIT)?;
    }
    Ok(())
}

/// What a CRL says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crl {
    /// Its number; grows with every CRL of a CA. `None` without the extension.
    pub number: Option<u64>,
    /// Serials it revokes, upper-case hexadecimal without leading zeros.
    pub revoked: Vec<String>,
}

/// Reads a PEM CRL, and checks its signature against the CA certificate.
///
/// # Errors
/// [`FixtureError::Command`] if openssl cannot read it, [`FixtureError::Answer`] if the CA did not sign it.
pub fn crl(ca: &Path, pem: &str) -> Result<Crl, FixtureError> {
    let folder = scratch()?;
    let file = folder.path().join("crl.pem");
    process::write_file(&file, pem)?;
    // Exit code 0 even if the signature is wrong: only the text tells.
    let checked =
        run(command("openssl").args(["crl", "-noout", "-CAfile"]).arg(ca).arg("-in").arg(&file), LIMIT)?;
    let verdict = format!("{}{}", checked.stderr, checked.text());
    if !verdict.contains("verify OK") {
        return Err(FixtureError::answer("openssl crl", verdict));
    }
    let told = run(command("openssl").args(["crl", "-noout", "-text", "-in"]).arg(&file), LIMIT)?.text();
    let mut lines = told.lines().map(str::trim);
    let mut found = Crl { number: None, revoked: Vec::new() };
    while let Some(line) = lines.next() {
        if line.starts_with("X509v3 CRL Number") {
            found.number = lines.next().and_then(|number| number.parse().ok());
        } else if let Some(serial) = line.strip_prefix("Serial Number: ") {
            found.revoked.push(serial.trim_start_matches('0').to_owned());
        }
    }
    Ok(found)
}

/// Whether a private key belongs to a certificate: openssl derives the same public key from both.
///
/// # Errors
/// [`FixtureError::Command`] if openssl cannot read one of them.
pub fn key_fits(key: &Path, certificate: &Path) -> Result<bool, FixtureError> {
    let of_key = run(command("openssl").args(["pkey", "-pubout", "-in"]).arg(key), LIMIT)?;
    let of_certificate =
        run(command("openssl").args(["x509", "-noout", "-pubkey", "-in"]).arg(certificate), LIMIT)?;
    Ok(of_key.stdout == of_certificate.stdout)
}

/// Makes a key (0600) and a certificate request for `cn`: `CN.key` and `CN.csr` in `folder`. Gives the request's path.
///
/// # Errors
/// [`FixtureError::Command`] with openssl's words.
pub fn request(folder: &Path, cn: &str) -> Result<std::path::PathBuf, FixtureError> {
    let (key, csr) = (folder.join(format!("{cn}.key")), folder.join(format!("{cn}.csr")));
    run(
        command("openssl")
            .args(["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"])
            .arg(format!("/CN={cn}"))
            .arg("-keyout")
            .arg(&key)
            .arg("-out")
            .arg(&csr),
        LIMIT,
    )?;
    Ok(csr)
}

fn scratch() -> Result<tempfile::TempDir, FixtureError> {
    tempfile::tempdir().map_err(FixtureError::io("make a scratch folder"))
}

#[cfg(test)]
mod tests {
    use super::Serial;

    #[test]
    fn serials_read_the_same_in_both_notations() {
        let serial = Serial(vec![0x00, 0xff, 0x01, 0x00]);
        assert_eq!(serial.hex(), "FF0100");
        assert_eq!(serial.decimal(), "16711936");
        assert_eq!(Serial(vec![0]).hex(), "0");
        assert_eq!(Serial(vec![0]).decimal(), "0");
    }
}

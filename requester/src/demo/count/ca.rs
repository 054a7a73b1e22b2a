//! Reads the certificate authority's database, and verifies every certificate and the CRL under the CA's own key.

use std::collections::HashSet;
use std::path::Path;

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use x509_cert::Certificate;
use x509_cert::crl::CertificateList;
use x509_cert::der::{Decode, Encode, pem};

use super::{Check, CountError, Found, Item, open_checked};
use crate::demo::ack::digest;
use crate::demo::app::serial_bytes;
use crate::demo::places::Places;

pub(super) fn read(places: &Places) -> Result<Found, CountError> {
    let slurp = |path: &Path| std::fs::read(path).map_err(CountError::unreadable(path));
    let own = slurp(&places.ca_certificate())?;
    let key = zeroize::Zeroizing::new(slurp(&places.ca_key())?);
    slurp(&places.ca_configuration())?;

    let mut pair = Check::new("private keys belong to their certificate");
    let proved = holdfast_store_keys::prove_pair(&key, &own, None);
    pair.note(proved.is_ok(), || proved.err().map(|error| error.to_string()).unwrap_or_default());

    let authority = certificate(&own).ok_or_else(|| {
        CountError::unreadable::<&str>(&places.ca_certificate())("it is no X.509 certificate in PEM")
    })?;

    let path = places.ca_database();
    let (connection, integrity) = open_checked(&path)?;
    let failed = CountError::unreadable::<rusqlite::Error>(&path);
    let mut statement =
        connection.prepare("SELECT serial, pem, begun_ns, revoked FROM certificates").map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut signed = Check::new("certificates verify against the CA");
    let (mut items, mut revoked) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next().map_err(&failed)? {
        let id: String = row.get(0).map_err(&failed)?;
        let pem: String = row.get(1).map_err(&failed)?;
        let begun_ns = row.get::<_, i64>(2).map_err(&failed)?.unsigned_abs();
        if row.get(3).map_err(&failed)? {
            revoked.push(id.clone());
        }
        let problem = issued(&authority, &id, pem.as_bytes()).err();
        signed.note(problem.is_none(), || format!("{id}: {}", problem.unwrap_or_default()));
        items.push(Item { digest: digest(&[pem.as_bytes()]), id, begun_ns });
    }

    let listed = listed(&authority, &slurp(&places.ca_crl())?);
    let mut list = Check::new("revocation lists verify against the CA");
    list.note(listed.is_ok(), || listed.as_ref().err().copied().unwrap_or_default().to_owned());
    let listed = listed.unwrap_or_default();
    let mut named = Check::new("revoked certificates are on the revocation list");
    for serial in revoked {
        named.note(serial_bytes(&serial).is_some_and(|bytes| listed.contains(&bytes)), || serial.clone());
    }
    Ok(Found { items, checks: vec![integrity, pair, signed, list, named] })
}

fn certificate(text: &[u8]) -> Option<Certificate> {
    let (label, der) = pem::decode_vec(text).ok()?;
    (label == "CERTIFICATE").then(|| Certificate::from_der(&der).ok()).flatten()
}

/// Whether `text` is the certificate `serial`, issued by `authority`.
fn issued(authority: &Certificate, serial: &str, text: &[u8]) -> Result<(), &'static str> {
    let certificate = certificate(text).ok_or("no X.509 certificate")?;
    let tbs = &certificate.tbs_certificate;
    if serial_bytes(serial).as_deref() != Some(tbs.serial_number.as_bytes()) {
        return Err("another certificate's serial");
    }
    if tbs.issuer != authority.tbs_certificate.subject {
        return Err("issued by someone else");
    }
    let signed = tbs.to_der().map_err(|_| "not in DER")?;
    verify(authority, &signed, certificate.signature.raw_bytes())
}

/// The serials on the CRL in `text`, which `authority` has signed.
fn listed(authority: &Certificate, text: &[u8]) -> Result<HashSet<Vec<u8>>, &'static str> {
    let (label, der) = pem::decode_vec(text).map_err(|_| "not in PEM")?;
    if label != "X509 CRL" {
        return Err("no revocation list");
    }
    let list = CertificateList::from_der(&der).map_err(|_| "no revocation list in DER")?;
    if list.tbs_cert_list.issuer != authority.tbs_certificate.subject {
        return Err("issued by someone else");
    }
    let signed = list.tbs_cert_list.to_der().map_err(|_| "not in DER")?;
    verify(authority, &signed, list.signature.raw_bytes())?;
    let serials = list.tbs_cert_list.revoked_certificates.unwrap_or_default();
    Ok(serials.iter().map(|revoked| revoked.serial_number.as_bytes().to_vec()).collect())
}

fn verify(authority: &Certificate, signed: &[u8], signature: &[u8]) -> Result<(), &'static str> {
    let key = authority.tbs_certificate.subject_public_key_info.subject_public_key.raw_bytes();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key)
        .verify(signed, signature)
        .map_err(|_| "the CA's signature does not verify")
}

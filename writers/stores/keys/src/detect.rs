//! Says whether a file holds a private key at all, so that one is never stored in the clear by oversight.
//! Errs towards yes: a container that may hold a key counts as one. Knows forms, not meanings: an opaque secret such
//! as a password in a configuration file is not found here.

use std::fmt;

use x509_cert::der::{Decode, Reader, SliceReader};

use crate::pem;

/// In which form a private key was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrivateKeyKind {
    /// A PEM block, wherever in the file it stands (a bundle, a line of JSON).
    Pem,
    /// PKCS#8, PKCS#1 or SEC1 in DER, encrypted or not.
    Der,
    /// A PKCS#12 container.
    Pkcs12,
    /// A Java key store.
    JavaKeyStore,
    /// A PuTTY key.
    Putty,
    /// An `age` identity.
    AgeIdentity,
}

impl fmt::Display for PrivateKeyKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pem => "a private key in PEM form",
            Self::Der => "a private key in DER form",
            Self::Pkcs12 => "a PKCS#12 container",
            Self::JavaKeyStore => "a Java key store",
            Self::Putty => "a PuTTY private key",
            Self::AgeIdentity => "an age identity",
        })
    }
}

/// Whether these bytes are, or contain, a private key. See [`find_private_key`].
pub fn contains_private_key(bytes: &[u8]) -> bool {
    find_private_key(bytes).is_some()
}

/// The form of the private key that these bytes are or contain; `None` when there is none to be seen.
///
/// PEM, PuTTY and `age` keys are found anywhere; the binary forms only when the whole is one.
pub fn find_private_key(bytes: &[u8]) -> Option<PrivateKeyKind> {
    if pem::labels(bytes).any(|label| label.ends_with("PRIVATE KEY") || label == "PGP PRIVATE KEY BLOCK") {
        return Some(PrivateKeyKind::Pem);
    }
    if pem::find(bytes, b"AGE-SECRET-KEY-").is_some() {
        return Some(PrivateKeyKind::AgeIdentity);
    }
    if pem::find(bytes, b"PuTTY-User-Key-File-").is_some() {
        return Some(PrivateKeyKind::Putty);
    }
    if bytes.starts_with(&[0xfe, 0xed, 0xfe, 0xed]) || bytes.starts_with(&[0xce, 0xce, 0xce, 0xce]) {
        return Some(PrivateKeyKind::JavaKeyStore);
    }
    if is_der_key(bytes) {
        return Some(PrivateKeyKind::Der);
    }
    is_pkcs12(bytes).then_some(PrivateKeyKind::Pkcs12)
}

fn is_der_key(bytes: &[u8]) -> bool {
    pkcs8::PrivateKeyInfo::try_from(bytes).is_ok()
        || pkcs8::EncryptedPrivateKeyInfo::try_from(bytes).is_ok()
        || is_encrypted_pkcs8(bytes)
        || pkcs1::RsaPrivateKey::from_der(bytes).is_ok()
        || sec1::EcPrivateKey::from_der(bytes).is_ok()
}

/// EncryptedPrivateKeyInfo with any algorithm, also those that we cannot decrypt: a PKCS#5 or PKCS#12 OID first.
fn is_encrypted_pkcs8(bytes: &[u8]) -> bool {
    const PKCS5: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05];
    const PKCS12_PBE: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x0c, 0x01];
    let Some((first, rest)) = sequence(bytes).and_then(element) else { return false };
    let oid = (first.tag == 0x30).then(|| element(first.content)).flatten();
    let pbe = oid.is_some_and(|(oid, _)| {
        oid.tag == 0x06 && (oid.content.starts_with(&PKCS5) || oid.content.starts_with(&PKCS12_PBE))
    });
    pbe && element(rest).is_some_and(|(data, after)| data.tag == 0x04 && after.is_empty())
}

/// PFX: version 3, then a ContentInfo of PKCS#7 data or signed data.
fn is_pkcs12(bytes: &[u8]) -> bool {
    const PKCS7: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07];
    // Written with indefinite length by some: the outer header is then not DER, the inside still looks the same.
    let content = match bytes {
        [0x30, 0x80, content @ ..] => Some(content),
        bytes => sequence(bytes),
    };
    let Some((version, rest)) = content.and_then(element) else { return false };
    version.tag == 0x02
        && version.content == [3]
        && rest.first() == Some(&0x30)
        && pem::find(&rest[..rest.len().min(32)], &PKCS7).is_some()
}

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
}

/// The content of a file that is exactly one DER SEQUENCE.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    let (outer, after) = element(bytes)?;
    (outer.tag == 0x30 && after.is_empty()).then_some(outer.content)
}

fn element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let mut reader = SliceReader::new(bytes).ok()?;
    let whole = reader.tlv_bytes().ok()?;
    let header = x509_cert::der::Header::decode(&mut SliceReader::new(whole).ok()?).ok()?;
    let length = usize::try_from(header.length).ok()?;
    let content = whole.get(whole.len().checked_sub(length)?..)?;
    Some((Element { tag: *whole.first()?, content }, &bytes[whole.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_keys_are_found_in_bundles_and_inside_json() {
        for text in [
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\n",
            "{\"key\":\"-----BEGIN PRIVATE KEY-----\\nMC4C\"}",
            "x -----BEGIN OPENSSH PRIVATE KEY-----",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----",
            "-----BEGIN PGP PRIVATE KEY BLOCK-----",
        ] {
            assert_eq!(find_private_key(text.as_bytes()), Some(PrivateKeyKind::Pem), "{text}");
        }
        assert_eq!(find_private_key(b"# AGE-SECRET-KEY-1QQ"), Some(PrivateKeyKind::AgeIdentity));
        assert_eq!(find_private_key(b"PuTTY-User-Key-File-3: x"), Some(PrivateKeyKind::Putty));
    }

    #[test]
    fn public_things_and_noise_are_not_taken_for_keys() {
        let noise: Vec<u8> = (0..=255).cycle().take(4096).collect();
        for bytes in [
            b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----".as_slice(),
            b"-----BEGIN PUBLIC KEY-----",
            b"a PRIVATE KEY is mentioned",
            b"",
            b"\x30",
            b"\x30\x80",
            b"SQLite format 3\0",
            &noise,
        ] {
            assert_eq!(find_private_key(bytes), None);
        }
    }
}

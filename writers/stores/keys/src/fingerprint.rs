//! Fingerprints that may stand in a document: they tell keys apart and give nothing away.
//!
//! - A key whose public half can be derived: SHA-256 over its SubjectPublicKeyInfo DER, `SHA256:<hex>`. Anybody who
//!   has the certificate can compute it; it says nothing that the certificate does not.
//! - Any other secret (a Fernet key, a password, a key file that is itself encrypted): HMAC-SHA-256 under a random
//!   [`FingerprintKey`], `HMAC-SHA256:<hex>`. **Never** a plain or merely salted hash: a password of few bits could be
//!   found from it by trying. The key is itself a secret; keep it sealed or on the machine, beside neither document.

use std::fmt;
use std::fmt::Write as _;

use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use zeroize::Zeroizing;

/// The key under which opaque secrets are fingerprinted: 32 random bytes, wiped when dropped, never shown.
#[derive(Clone)]
pub struct FingerprintKey(Zeroizing<[u8; 32]>);

impl FingerprintKey {
    /// A new random key.
    ///
    /// # Panics
    /// When the operating system has no random numbers.
    pub fn generate() -> Self {
        let mut bytes = Zeroizing::new([0; 32]);
        SystemRandom::new().fill(bytes.as_mut_slice()).expect("the operating system gives random numbers");
        Self(bytes)
    }

    /// The key that was stored by [`as_bytes`](Self::as_bytes).
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret bytes, for sealing or keeping in a file of mode 0600.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("FingerprintKey(..)")
    }
}

/// `HMAC-SHA256:<hex>` of an opaque secret: equal for equal secrets under the same key, useless without the key.
pub fn fingerprint_secret(key: &FingerprintKey, secret: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.0.as_slice());
    labelled("HMAC-SHA256:", hmac::sign(&key, secret).as_ref())
}

/// `SEALED-SHA256:<hex>` of a sealed key: names this one sealing of a key about which nothing else may be said. Two
/// sealings of the same key differ.
pub fn fingerprint_sealed(sealed: &[u8]) -> String {
    labelled("SEALED-SHA256:", digest::digest(&digest::SHA256, sealed).as_ref())
}

/// `SHA256:<hex>` of a SubjectPublicKeyInfo in DER.
pub(crate) fn fingerprint_public(spki_der: &[u8]) -> String {
    labelled("SHA256:", digest::digest(&digest::SHA256, spki_der).as_ref())
}

fn labelled(label: &str, bytes: &[u8]) -> String {
    bytes.iter().fold(label.to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secrets_fingerprint_depends_on_secret_and_key_and_shows_neither() {
        let key = FingerprintKey::from_bytes([7; 32]);
        let print = fingerprint_secret(&key, b"hunter2");
        assert_eq!(print, fingerprint_secret(&FingerprintKey::from_bytes(*key.as_bytes()), b"hunter2"));
        assert_ne!(print, fingerprint_secret(&key, b"hunter3"));
        assert_ne!(print, fingerprint_secret(&FingerprintKey::generate(), b"hunter2"));
        assert_ne!(print[12..], fingerprint_public(b"hunter2")[7..]);
        assert!(print.starts_with("HMAC-SHA256:") && print.len() == 12 + 64);
        assert_eq!(format!("{key:?}"), "FingerprintKey(..)");
    }
}

//! Proves that a private key belongs to a certificate: equal public halves, and a fresh signature that verifies.
//!
//! Exit codes and "it issued one" prove nothing: a CA with a foreign key goes on issuing certificates that nobody can
//! verify. So the public half derived from the private key must equal the certificate's, **and** a message of this
//! moment, signed with the private key, must verify under the certificate's key.

use std::fmt;

use ring::rand::{SecureRandom, SystemRandom};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::file::MAX_KEY_FILE;
use crate::fingerprint::fingerprint_public;
use crate::pem;
use crate::private::private_key;
use crate::public::PublicKey;

/// Most certificates of one file that are looked at.
const MAX_CERTIFICATES: usize = 64;

/// What was proved about a private key. All of it is public.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyProof {
    /// Kind and size of the key.
    pub algorithm: KeyAlgorithm,
    /// `SHA256:<hex>` over its SubjectPublicKeyInfo in DER.
    pub fingerprint: String,
}

/// Kind and size of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyAlgorithm {
    /// RSA.
    Rsa {
        /// Bits of the modulus.
        bits: usize,
    },
    /// ECDSA on P-256 (prime256v1).
    EcP256,
    /// ECDSA on P-384 (secp384r1).
    EcP384,
    /// ECDSA on P-521 (secp521r1).
    EcP521,
    /// Ed25519.
    Ed25519,
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rsa { bits } => write!(formatter, "RSA {bits}"),
            Self::EcP256 => formatter.write_str("EC P-256"),
            Self::EcP384 => formatter.write_str("EC P-384"),
            Self::EcP521 => formatter.write_str("EC P-521"),
            Self::Ed25519 => formatter.write_str("Ed25519"),
        }
    }
}

/// Why a key is not proved. Never contains a part of the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Over the bound.
    #[error("{bytes} bytes are too many for a key or certificate file; at most {limit} are accepted")]
    TooLarge {
        /// Bytes given.
        bytes: usize,
        /// The bound, in bytes.
        limit: usize,
    },
    /// No private key is in the file.
    #[error("there is no private key in the file")]
    NoPrivateKey,
    /// More than one: which one is meant cannot be guessed.
    #[error("there are {count} private keys in the file; exactly one is expected")]
    SeveralKeys {
        /// How many.
        count: usize,
    },
    /// Encrypted, and no passphrase was given. It can be sealed as it is, but not proved.
    #[error("the private key is encrypted with a passphrase and cannot be proved without it")]
    Encrypted,
    /// Encrypted in a way that is not read here, or that demands unreasonable work.
    #[error("the private key is encrypted with {scheme}, which is not supported")]
    UnsupportedEncryption {
        /// What it is encrypted with.
        scheme: String,
    },
    /// The passphrase given is not the key's.
    #[error("the passphrase does not decrypt the private key")]
    WrongPassphrase,
    /// A good key perhaps, of an algorithm, size or form that is not read here.
    #[error("private keys of this kind cannot be proved: {what}")]
    Unsupported {
        /// What was found.
        what: String,
    },
    /// Cut off, changed, or inconsistent in itself.
    #[error("the private key is damaged: {part}")]
    Damaged {
        /// Where.
        part: &'static str,
    },
    /// No certificate is in the file.
    #[error("there is no certificate in the file")]
    NoCertificate,
    /// Not readable as an X.509 certificate.
    #[error("the certificate is damaged: {part}")]
    BadCertificate {
        /// Where.
        part: &'static str,
    },
    /// The key of something else. Certificates signed with it would not verify.
    #[error("the private key ({key}) is not the certificate's ({certificate})")]
    Mismatch {
        /// Fingerprint of the key's public half.
        key: String,
        /// Fingerprint of the certificate's key (the first one of a bundle).
        certificate: String,
    },
    /// The public halves agree and yet the signature does not verify: the private half is damaged.
    #[error("a message signed with the private key does not verify under the certificate's {algorithm} key")]
    SignatureRejected {
        /// Kind of key.
        algorithm: KeyAlgorithm,
    },
    /// The operating system gave no random numbers.
    #[error("there are no random numbers to sign")]
    NoRandom,
}

impl KeyError {
    /// Whether the key may nevertheless be good: it can be sealed, with the set saying that it is not proved.
    pub const fn is_unproven(&self) -> bool {
        match self {
            Self::Encrypted | Self::UnsupportedEncryption { .. } | Self::Unsupported { .. } => true,
            Self::TooLarge { .. }
            | Self::NoPrivateKey
            | Self::SeveralKeys { .. }
            | Self::WrongPassphrase
            | Self::Damaged { .. }
            | Self::NoCertificate
            | Self::BadCertificate { .. }
            | Self::Mismatch { .. }
            | Self::SignatureRejected { .. }
            | Self::NoRandom => false,
        }
    }
}

/// Proves that the one private key in `key` is that of a certificate in `certificate`.
///
/// `key`: PKCS#8 (also encrypted, then `passphrase` is needed), PKCS#1 or SEC1; `certificate`: one or a bundle, of
/// which any may match. Each PEM, with whatever text around, or DER. RSA of 2048 to 8192 bits, P-256, P-384, P-521,
/// Ed25519. Up to a second for the largest RSA keys.
///
/// # Errors
/// [`KeyError`]; [`KeyError::is_unproven`] tells "could not be proved" from "is wrong".
pub fn prove_pair(key: &[u8], certificate: &[u8], passphrase: Option<&[u8]>) -> Result<KeyProof, KeyError> {
    let certificates = certificate_keys(certificate)?;
    let private = private_key(key, passphrase)?;
    let spki = private.public()?.spki_der()?;
    let fingerprint = fingerprint_public(&spki);
    let mut first = None;
    let mut unreadable = None;
    let mut matching = None;
    for public in certificates {
        match public.and_then(|public| public.spki_der().map(|der| (public, der))) {
            Ok((public, der)) if der == spki => {
                matching = Some(public);
                break;
            }
            Ok((_, der)) => first = first.or(Some(fingerprint_public(&der))),
            Err(error) => unreadable = unreadable.or(Some(error)),
        }
    }
    let Some(public) = matching else {
        return Err(match (first, unreadable) {
            (Some(certificate), _) => KeyError::Mismatch { key: fingerprint, certificate },
            // Its key is of a kind that ours is not.
            (None, Some(KeyError::Unsupported { what })) => {
                KeyError::Mismatch { key: fingerprint, certificate: what }
            }
            (None, Some(error)) => error,
            (None, None) => KeyError::NoCertificate,
        });
    };
    let mut message = *b"holdfast key proof, never shown to anyone: --------------------------------";
    let (_, random) = message.split_at_mut(43);
    SystemRandom::new().fill(random).map_err(|_| KeyError::NoRandom)?;
    let algorithm = public.algorithm();
    if public.verifies(&message, &private.sign(&message)?) {
        Ok(KeyProof { algorithm, fingerprint })
    } else {
        Err(KeyError::SignatureRejected { algorithm })
    }
}

/// `SHA256:<hex>` over the SubjectPublicKeyInfo of a private key, without any certificate. The same as
/// `openssl pkey -pubout -outform DER | sha256sum` prints.
///
/// # Errors
/// [`KeyError`]: when no public half can be derived.
pub fn key_fingerprint(key: &[u8], passphrase: Option<&[u8]>) -> Result<String, KeyError> {
    Ok(fingerprint_public(&private_key(key, passphrase)?.public()?.spki_der()?))
}

fn certificate_keys(bytes: &[u8]) -> Result<Vec<Result<PublicKey, KeyError>>, KeyError> {
    if bytes.len() > MAX_KEY_FILE {
        return Err(KeyError::TooLarge { bytes: bytes.len(), limit: MAX_KEY_FILE });
    }
    let bad = |part| KeyError::BadCertificate { part };
    let read = |der: &[u8]| {
        let certificate = Certificate::from_der(der).map_err(|_| bad("X.509"))?;
        PublicKey::from_spki(&certificate.tbs_certificate.subject_public_key_info)
    };
    let keys: Vec<_> = pem::blocks(bytes)
        .iter()
        .filter(|block| matches!(block.label, "CERTIFICATE" | "X509 CERTIFICATE"))
        .take(MAX_CERTIFICATES)
        .map(|block| block.decode().ok_or(bad("base64")).and_then(|der| read(&der)))
        .collect();
    if !keys.is_empty() {
        return Ok(keys);
    }
    // No PEM: DER, or nothing at all.
    if bytes.first() == Some(&0x30) { Ok(vec![read(bytes)]) } else { Err(KeyError::NoCertificate) }
}

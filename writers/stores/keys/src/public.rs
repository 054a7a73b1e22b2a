//! Public keys: read out of a certificate, written as SubjectPublicKeyInfo, and used to verify a signature.

use pkcs8::{EncodePublicKey, ObjectIdentifier};
use ring::signature;
use x509_cert::der::asn1::{AnyRef, BitStringRef, UintRef};
use x509_cert::der::{Decode, Encode};
use x509_cert::spki::{AlgorithmIdentifier, SubjectPublicKeyInfoOwned, SubjectPublicKeyInfoRef};

use crate::proof::{KeyAlgorithm, KeyError};

pub(crate) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
pub(crate) const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// A public key of a supported algorithm.
pub(crate) enum PublicKey {
    /// Both without leading zeros.
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
    P256(p256::PublicKey),
    P384(p384::PublicKey),
    P521(p521::PublicKey),
    Ed25519(Vec<u8>),
}

impl PublicKey {
    /// Reads the key of a certificate; points may be compressed.
    pub(crate) fn from_spki(spki: &SubjectPublicKeyInfoOwned) -> Result<Self, KeyError> {
        let unreadable = || KeyError::BadCertificate { part: "public key" };
        let der = spki.to_der().map_err(|_| unreadable())?;
        let info = SubjectPublicKeyInfoRef::from_der(&der).map_err(|_| unreadable())?;
        let bytes = info.subject_public_key.as_bytes().ok_or_else(unreadable)?;
        match info.algorithm.oid {
            RSA => {
                let key = pkcs1::RsaPublicKey::from_der(bytes).map_err(|_| unreadable())?;
                let (modulus, exponent) =
                    (key.modulus.as_bytes().to_vec(), key.public_exponent.as_bytes().to_vec());
                Ok(Self::Rsa { modulus, exponent })
            }
            ED25519 if bytes.len() == 32 => Ok(Self::Ed25519(bytes.to_vec())),
            ED25519 => Err(unreadable()),
            oid => p256::PublicKey::try_from(info.clone())
                .map(Self::P256)
                .or_else(|_| p384::PublicKey::try_from(info.clone()).map(Self::P384))
                .or_else(|_| p521::PublicKey::try_from(info.clone()).map(Self::P521))
                .map_err(|_| KeyError::Unsupported {
                    what: format!("a certificate key of algorithm {oid}, or its curve"),
                }),
        }
    }

    /// SubjectPublicKeyInfo in its one canonical form: what is compared and fingerprinted.
    pub(crate) fn spki_der(&self) -> Result<Vec<u8>, KeyError> {
        let bad = || KeyError::Damaged { part: "public half" };
        let document = match self {
            Self::P256(key) => key.to_public_key_der(),
            Self::P384(key) => key.to_public_key_der(),
            Self::P521(key) => key.to_public_key_der(),
            Self::Rsa { .. } => {
                let key = self.pkcs1_der().ok_or_else(bad)?;
                return spki(RSA, Some(AnyRef::NULL), &key).ok_or_else(bad);
            }
            Self::Ed25519(key) => return spki(ED25519, None, key).ok_or_else(bad),
        };
        document.map(|document| document.as_bytes().to_vec()).map_err(|_| bad())
    }

    /// Whether this key made `signature` over `message` (forms as in `PrivateKey::sign`).
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        use p256::ecdsa::signature::Verifier;
        let ring = |algorithm: &'static dyn signature::VerificationAlgorithm, key: &[u8]| {
            signature::UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
        };
        match self {
            Self::Rsa { .. } => {
                self.pkcs1_der().is_some_and(|key| ring(&signature::RSA_PKCS1_2048_8192_SHA256, &key))
            }
            Self::Ed25519(key) => ring(&signature::ED25519, key),
            Self::P256(key) => p256::ecdsa::Signature::from_der(signature).is_ok_and(|signature| {
                p256::ecdsa::VerifyingKey::from(key).verify(message, &signature).is_ok()
            }),
            Self::P384(key) => p384::ecdsa::Signature::from_der(signature).is_ok_and(|signature| {
                p384::ecdsa::VerifyingKey::from(key).verify(message, &signature).is_ok()
            }),
            Self::P521(key) => p521::ecdsa::Signature::from_der(signature).is_ok_and(|signature| {
                p521::ecdsa::VerifyingKey::from_affine(*key.as_affine())
                    .is_ok_and(|verifier| verifier.verify(message, &signature).is_ok())
            }),
        }
    }

    pub(crate) fn algorithm(&self) -> KeyAlgorithm {
        match self {
            Self::Rsa { modulus, .. } => KeyAlgorithm::Rsa { bits: bits(modulus) },
            Self::P256(_) => KeyAlgorithm::EcP256,
            Self::P384(_) => KeyAlgorithm::EcP384,
            Self::P521(_) => KeyAlgorithm::EcP521,
            Self::Ed25519(_) => KeyAlgorithm::Ed25519,
        }
    }

    fn pkcs1_der(&self) -> Option<Vec<u8>> {
        let Self::Rsa { modulus, exponent } = self else { return None };
        let (modulus, public_exponent) = (UintRef::new(modulus).ok()?, UintRef::new(exponent).ok()?);
        pkcs1::RsaPublicKey { modulus, public_exponent }.to_der().ok()
    }
}

/// Significant bits of a number in big-endian bytes without leading zeros.
pub(crate) fn bits(number: &[u8]) -> usize {
    number.first().map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

fn spki(oid: ObjectIdentifier, parameters: Option<AnyRef<'_>>, key: &[u8]) -> Option<Vec<u8>> {
    let subject_public_key = BitStringRef::from_bytes(key).ok()?;
    SubjectPublicKeyInfoRef { algorithm: AlgorithmIdentifier { oid, parameters }, subject_public_key }
        .to_der()
        .ok()
}

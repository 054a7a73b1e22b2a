//! Reads a private key out of a key file: PKCS#8 (also encrypted), PKCS#1, SEC1; RSA, P-256, P-384, P-521, Ed25519.

use pkcs8::pkcs5::{EncryptionScheme, pbes2};
use pkcs8::{EncryptedPrivateKeyInfo, ObjectIdentifier, PrivateKeyInfo};
use x509_cert::der::{Decode, Encode};
use zeroize::Zeroizing;

use crate::file::MAX_KEY_FILE;
use crate::pem;
use crate::proof::KeyError;
use crate::public::{ED25519, PublicKey, RSA};
use crate::rsa::{RsaPrivate, rsa_private};

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");
/// Bounds on what an encrypted key may demand: openssl's defaults are 2,048 and 2^14 (16 MiB).
const MAX_PBKDF2_ROUNDS: u32 = 10_000_000;
const MAX_SCRYPT_BYTES: u64 = 256 * 1024 * 1024;
const MAX_SCRYPT_PARALLEL: u16 = 16;

/// A private key, ready to sign. Each kind wipes itself when dropped.
pub(crate) enum PrivateKey {
    Rsa(Box<RsaPrivate>),
    P256(p256::SecretKey),
    P384(p384::SecretKey),
    P521(p521::SecretKey),
    Ed25519(Ed25519Seed),
}

pub(crate) struct Ed25519Seed(pub Zeroizing<[u8; 32]>);

/// Reads the one private key of a file, PEM or DER.
pub(crate) fn private_key(bytes: &[u8], passphrase: Option<&[u8]>) -> Result<PrivateKey, KeyError> {
    if bytes.len() > MAX_KEY_FILE {
        return Err(KeyError::TooLarge { bytes: bytes.len(), limit: MAX_KEY_FILE });
    }
    let blocks = pem::blocks(bytes);
    let mut keys = blocks.iter().filter(|block| block.label.ends_with("PRIVATE KEY"));
    let (Some(block), rest) = (keys.next(), keys.count()) else {
        return from_der(bytes, passphrase);
    };
    if rest > 0 {
        return Err(KeyError::SeveralKeys { count: rest + 1 });
    }
    if block.encrypted {
        // The traditional form derives its key with one round of MD5; no maintained library of ours reads it.
        return Err(match passphrase {
            None => KeyError::Encrypted,
            Some(_) => {
                KeyError::UnsupportedEncryption { scheme: "traditional PEM encryption (Proc-Type)".into() }
            }
        });
    }
    let der = || block.decode().ok_or(KeyError::Damaged { part: "base64" });
    match block.label {
        "PRIVATE KEY" => from_pkcs8(&der()?),
        "ENCRYPTED PRIVATE KEY" => from_encrypted(&der()?, passphrase),
        "RSA PRIVATE KEY" => from_pkcs1(&der()?),
        "EC PRIVATE KEY" => {
            let parameters =
                blocks.iter().find(|block| block.label == "EC PARAMETERS").and_then(pem::Block::decode);
            let curve = parameters.and_then(|der| ObjectIdentifier::from_der(&der).ok());
            from_sec1(&der()?, curve)
        }
        other => Err(KeyError::Unsupported { what: other.to_owned() }),
    }
}

fn from_der(bytes: &[u8], passphrase: Option<&[u8]>) -> Result<PrivateKey, KeyError> {
    if PrivateKeyInfo::try_from(bytes).is_ok() {
        from_pkcs8(bytes)
    } else if EncryptedPrivateKeyInfo::try_from(bytes).is_ok() {
        from_encrypted(bytes, passphrase)
    } else if pkcs1::RsaPrivateKey::from_der(bytes).is_ok() {
        from_pkcs1(bytes)
    } else if sec1::EcPrivateKey::from_der(bytes).is_ok() {
        from_sec1(bytes, None)
    } else {
        Err(KeyError::NoPrivateKey)
    }
}

fn from_encrypted(der: &[u8], passphrase: Option<&[u8]>) -> Result<PrivateKey, KeyError> {
    let Some(passphrase) = passphrase else { return Err(KeyError::Encrypted) };
    let unsupported = |scheme: String| KeyError::UnsupportedEncryption { scheme };
    let info = EncryptedPrivateKeyInfo::try_from(der).map_err(|_| unsupported("an unknown scheme".into()))?;
    let EncryptionScheme::Pbes2(parameters) = &info.encryption_algorithm else {
        return Err(unsupported("PBES1".into()));
    };
    bounded(&parameters.kdf).map_err(unsupported)?;
    // Wrong passphrases show as bad padding, or as something that is no key.
    let wrong = |_| KeyError::WrongPassphrase;
    let document = info.decrypt(passphrase).map_err(wrong)?;
    PrivateKeyInfo::try_from(document.as_bytes()).map_err(wrong)?;
    from_pkcs8(document.as_bytes())
}

/// Refuses demands that would hold a machine for minutes or take its memory.
fn bounded(kdf: &pbes2::Kdf<'_>) -> Result<(), String> {
    match kdf {
        pbes2::Kdf::Pbkdf2(parameters) if parameters.iteration_count <= MAX_PBKDF2_ROUNDS => Ok(()),
        pbes2::Kdf::Pbkdf2(parameters) => Err(format!("PBKDF2 with {} rounds", parameters.iteration_count)),
        pbes2::Kdf::Scrypt(parameters) => {
            let memory = parameters.cost_parameter.saturating_mul(128 * u64::from(parameters.block_size));
            if memory <= MAX_SCRYPT_BYTES && parameters.parallelization <= MAX_SCRYPT_PARALLEL {
                Ok(())
            } else {
                Err(format!("scrypt with {memory} bytes of memory"))
            }
        }
        _ => Err("an unknown key derivation".into()),
    }
}

fn from_pkcs8(der: &[u8]) -> Result<PrivateKey, KeyError> {
    let info = PrivateKeyInfo::try_from(der).map_err(|_| KeyError::Damaged { part: "PKCS#8" })?;
    match info.algorithm.oid {
        RSA => from_pkcs1(info.private_key),
        EC => {
            let curve =
                info.algorithm.parameters_oid().map_err(|_| unsupported_curve("explicit parameters"))?;
            from_sec1(info.private_key, Some(curve))
        }
        // RFC 8410: an OCTET STRING within the OCTET STRING.
        ED25519 => match info.private_key {
            [0x04, 0x20, seed @ ..] if seed.len() == 32 => {
                let mut bytes = Zeroizing::new([0; 32]);
                bytes.copy_from_slice(seed);
                let seed = Ed25519Seed(bytes);
                // A stored public half that differs would make some programs sign with garbage.
                if info.public_key.is_some_and(|public| seed.public().as_deref() != Some(public)) {
                    return Err(KeyError::Damaged { part: "Ed25519 public half" });
                }
                Ok(PrivateKey::Ed25519(seed))
            }
            _ => Err(KeyError::Damaged { part: "Ed25519 seed" }),
        },
        other => Err(KeyError::Unsupported { what: format!("algorithm {other}") }),
    }
}

fn from_pkcs1(der: &[u8]) -> Result<PrivateKey, KeyError> {
    rsa_private(der).map(|key| PrivateKey::Rsa(Box::new(key)))
}

/// `curve`: what stands outside the structure, in PKCS#8 or a preceding `EC PARAMETERS` block.
fn from_sec1(der: &[u8], curve: Option<ObjectIdentifier>) -> Result<PrivateKey, KeyError> {
    let damaged = KeyError::Damaged { part: "SEC1" };
    let Ok(key) = sec1::EcPrivateKey::from_der(der) else { return Err(damaged) };
    let inside = key.parameters.and_then(sec1::EcParameters::named_curve);
    if inside.zip(curve).is_some_and(|(inside, outside)| inside != outside) {
        return Err(KeyError::Damaged { part: "EC parameters" });
    }
    let curve = inside.or(curve).ok_or_else(|| unsupported_curve("without a name"))?;
    // `try_from` also checks that the public half, when it is stored, belongs to the private one.
    match curve {
        P256 => p256::SecretKey::try_from(key).map(PrivateKey::P256).map_err(|_| damaged),
        P384 => p384::SecretKey::try_from(key).map(PrivateKey::P384).map_err(|_| damaged),
        P521 => p521::SecretKey::try_from(key).map(PrivateKey::P521).map_err(|_| damaged),
        other => Err(unsupported_curve(&other.to_string())),
    }
}

fn unsupported_curve(name: &str) -> KeyError {
    KeyError::Unsupported { what: format!("elliptic curve {name}") }
}

impl PrivateKey {
    /// The public half, derived from the private one alone.
    pub(crate) fn public(&self) -> Result<PublicKey, KeyError> {
        match self {
            Self::Rsa(key) => {
                Ok(PublicKey::Rsa { modulus: key.modulus_bytes(), exponent: key.exponent_bytes() })
            }
            Self::P256(key) => Ok(PublicKey::P256(key.public_key())),
            Self::P384(key) => Ok(PublicKey::P384(key.public_key())),
            Self::P521(key) => Ok(PublicKey::P521(key.public_key())),
            Self::Ed25519(seed) => {
                seed.public().map(PublicKey::Ed25519).ok_or(KeyError::Damaged { part: "Ed25519 seed" })
            }
        }
    }

    /// Signs `message` as the algorithm's users do: PKCS#1 v1.5 with SHA-256, ECDSA in DER, Ed25519.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        use p256::ecdsa::signature::Signer;
        let bad = |part| move |_| KeyError::Damaged { part };
        match self {
            Self::Rsa(key) => key.sign(message),
            Self::P256(key) => {
                let signature: p256::ecdsa::Signature = p256::ecdsa::SigningKey::from(key).sign(message);
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::Signature = p384::ecdsa::SigningKey::from(key).sign(message);
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Self::P521(key) => {
                let bytes = Zeroizing::new(key.to_bytes());
                let signer = p521::ecdsa::SigningKey::from_bytes(&bytes).map_err(bad("P-521 scalar"))?;
                let signature: p521::ecdsa::Signature = signer.sign(message);
                signature.to_der().to_der().map_err(|_| KeyError::Damaged { part: "P-521 signature" })
            }
            Self::Ed25519(seed) => seed
                .pair()
                .map(|pair| pair.sign(message).as_ref().to_vec())
                .ok_or(KeyError::Damaged { part: "Ed25519 seed" }),
        }
    }
}

impl Ed25519Seed {
    fn pair(&self) -> Option<ring::signature::Ed25519KeyPair> {
        // Unchecked: there is no second public half to check the seed against here.
        ring::signature::Ed25519KeyPair::from_seed_unchecked(self.0.as_slice()).ok()
    }

    fn public(&self) -> Option<Vec<u8>> {
        use ring::signature::KeyPair;
        self.pair().map(|pair| pair.public_key().as_ref().to_vec())
    }
}

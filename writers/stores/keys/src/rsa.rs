//! RSA private keys of 2048 to 8192 bits: read, checked for consistency by use, and made to sign one test message.
//!
//! `ring` signs with keys of up to 4096 bits only and refuses small exponents; CAs have both. The `rsa` crate carries
//! RUSTSEC-2023-0071 without a released fix. So the two modular powers are computed here with `crypto-bigint`'s
//! constant-time residues. The signature never leaves this process: it is verified (by `ring`) and forgotten. Signing
//! twice, once through d and once through the Chinese remainder values, uses every number of the key file, so that a
//! damaged one is noticed whichever of them the CA's own software uses.

use crypto_bigint::modular::runtime_mod::{DynResidue, DynResidueParams};
use crypto_bigint::{Encoding, NonZero, U8192};
use ring::digest;
use x509_cert::der::Decode;
use zeroize::{Zeroize, Zeroizing};

use crate::proof::KeyError;
use crate::public::bits;

const MIN_BITS: usize = 2048;
const MAX_BITS: usize = 8192;
const LIMBS: usize = U8192::LIMBS;
/// DigestInfo of SHA-256 up to the digest itself (RFC 8017, 9.2).
const SHA256_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];

/// The numbers of PKCS#1, wiped when dropped.
pub(crate) struct RsaPrivate {
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    private_exponent: U8192,
    prime1: U8192,
    prime2: U8192,
    exponent1: U8192,
    exponent2: U8192,
    coefficient: U8192,
}

impl Drop for RsaPrivate {
    fn drop(&mut self) {
        for secret in [
            &mut self.private_exponent,
            &mut self.prime1,
            &mut self.prime2,
            &mut self.exponent1,
            &mut self.exponent2,
            &mut self.coefficient,
        ] {
            secret.zeroize();
        }
    }
}

/// Reads PKCS#1's RSAPrivateKey.
pub(crate) fn rsa_private(der: &[u8]) -> Result<RsaPrivate, KeyError> {
    let key = pkcs1::RsaPrivateKey::from_der(der).map_err(|_| KeyError::Damaged { part: "PKCS#1" })?;
    if key.other_prime_infos.is_some() {
        return Err(KeyError::Unsupported { what: "RSA with more than two primes".into() });
    }
    let size = bits(key.modulus.as_bytes());
    if !(MIN_BITS..=MAX_BITS).contains(&size) {
        return Err(KeyError::Unsupported { what: format!("RSA of {size} bits") });
    }
    let secret = |number: &[u8], part| {
        let mut padded = Zeroizing::new([0_u8; MAX_BITS / 8]);
        let start = padded.len().checked_sub(number.len()).ok_or(KeyError::Damaged { part })?;
        padded[start..].copy_from_slice(number);
        Ok(U8192::from_be_slice(padded.as_slice()))
    };
    Ok(RsaPrivate {
        modulus: key.modulus.as_bytes().to_vec(),
        exponent: key.public_exponent.as_bytes().to_vec(),
        private_exponent: secret(key.private_exponent.as_bytes(), "private exponent")?,
        prime1: secret(key.prime1.as_bytes(), "first prime")?,
        prime2: secret(key.prime2.as_bytes(), "second prime")?,
        exponent1: secret(key.exponent1.as_bytes(), "first exponent")?,
        exponent2: secret(key.exponent2.as_bytes(), "second exponent")?,
        coefficient: secret(key.coefficient.as_bytes(), "coefficient")?,
    })
}

impl RsaPrivate {
    pub(crate) fn modulus_bytes(&self) -> Vec<u8> {
        self.modulus.clone()
    }

    pub(crate) fn exponent_bytes(&self) -> Vec<u8> {
        self.exponent.clone()
    }

    /// PKCS#1 v1.5 with SHA-256.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let encoded = padded_digest(message, self.modulus.len());
        let number = widen(&encoded);
        let modulus = odd(widen(&self.modulus), "modulus")?;
        let plain = power(&number, &self.private_exponent, &modulus);
        if plain != self.sign_by_primes(&number)? {
            return Err(KeyError::Damaged { part: "RSA numbers" });
        }
        let bytes = plain.to_be_bytes();
        Ok(bytes[bytes.len() - self.modulus.len()..].to_vec())
    }

    /// RFC 8017, 5.2.1, 2b: what nearly every implementation does.
    fn sign_by_primes(&self, number: &U8192) -> Result<U8192, KeyError> {
        let (p, q) = (odd(self.prime1, "first prime")?, odd(self.prime2, "second prime")?);
        let mod_p = DynResidueParams::new(&p);
        let one = power(&number.rem(&p), &self.exponent1, &p);
        let two = power(&number.rem(&q), &self.exponent2, &q);
        let difference = residue(&one, mod_p) - residue(&two.rem(&p), mod_p);
        let factor = (difference * residue(&self.coefficient.rem(&p), mod_p)).retrieve();
        // With true primes this is below the modulus and cannot wrap; with others the comparison above fails.
        Ok(two.wrapping_add(&q.wrapping_mul(&factor)))
    }
}

fn power(base: &U8192, exponent: &U8192, modulus: &NonZero<U8192>) -> U8192 {
    let parameters = DynResidueParams::new(modulus);
    // The bound is a length, as public as the modulus itself; it spares small keys the work of the largest.
    residue(base, parameters).pow_bounded_exp(exponent, exponent.bits_vartime()).retrieve()
}

fn residue(number: &U8192, parameters: DynResidueParams<LIMBS>) -> DynResidue<LIMBS> {
    DynResidue::new(number, parameters)
}

fn odd(number: U8192, part: &'static str) -> Result<NonZero<U8192>, KeyError> {
    let odd = bool::from(number.bit(0));
    Option::from(NonZero::new(number)).filter(|_| odd).ok_or(KeyError::Damaged { part })
}

/// A number of at most 1024 bytes (checked when the key was read).
fn widen(number: &[u8]) -> U8192 {
    let mut padded = [0_u8; MAX_BITS / 8];
    let start = padded.len() - number.len();
    padded[start..].copy_from_slice(number);
    U8192::from_be_slice(&padded)
}

/// EMSA-PKCS1-v1_5: `00 01 ff … ff 00 DigestInfo`. `length` is at least 256 bytes here.
fn padded_digest(message: &[u8], length: usize) -> Vec<u8> {
    let digest = digest::digest(&digest::SHA256, message);
    let tail = SHA256_INFO.len() + digest.as_ref().len();
    let mut encoded = vec![0xff; length - tail];
    (encoded[0], encoded[1]) = (0, 1);
    encoded[length - tail - 1] = 0;
    encoded.extend_from_slice(&SHA256_INFO);
    encoded.extend_from_slice(digest.as_ref());
    encoded
}

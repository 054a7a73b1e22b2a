//! restic's encryption of one stored piece: AES-256-CTR with Poly1305-AES, 16 bytes of nonce before, 16 of tag after.
//! Owns: opening and sealing with the repository's master key, where the library does not let us (locks, restore).

use aes256ctr_poly1305aes::{Aes256CtrPoly1305Aes, Key, Nonce, Tag, aead::AeadInPlace};
use rustic_core::repofile::MasterKey;
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

const NONCE: usize = 16;
const TAG: usize = 16;

/// The most a compressed unpacked file (a lock) may decompress to.
const UNPACKED_LIMIT: usize = 1 << 20;

/// The master key, ready for use.
pub(super) struct Cipher(Key);

impl Drop for Cipher {
    fn drop(&mut self) {
        self.0.as_mut_slice().zeroize();
    }
}

impl Cipher {
    /// `None` if the parts have not the lengths of the format.
    pub(super) fn new(master: &MasterKey) -> Option<Self> {
        let mut key = Key::default();
        let parts: [(&[u8], std::ops::Range<usize>); 3] =
            [(&master.encrypt, 0..32), (&master.mac.k, 32..48), (&master.mac.r, 48..64)];
        for (part, range) in parts {
            let place = key.get_mut(range)?;
            if place.len() != part.len() {
                return None;
            }
            place.copy_from_slice(part);
        }
        Some(Self(key))
    }

    /// Decrypts `nonce ‖ ciphertext ‖ tag`. `None` if it was not sealed with this key or was changed.
    pub(super) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let body = sealed.len().checked_sub(NONCE + TAG)?;
        let (nonce, rest) = sealed.split_at(NONCE);
        let (ciphertext, tag) = rest.split_at(body);
        let mut plain = ciphertext.to_vec();
        Aes256CtrPoly1305Aes::new(&self.0)
            .decrypt_in_place_detached(Nonce::from_slice(nonce), &[], &mut plain, Tag::from_slice(tag))
            .ok()?;
        Some(plain)
    }

    /// Encrypts to `nonce ‖ ciphertext ‖ tag` with a fresh nonce. `None` if the system has no randomness to give.
    pub(super) fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = vec![0; NONCE];
        getrandom::fill(&mut sealed).ok()?;
        let nonce = *Nonce::from_slice(&sealed);
        sealed.extend_from_slice(plain);
        let tag = Aes256CtrPoly1305Aes::new(&self.0)
            .encrypt_in_place_detached(&nonce, &[], sealed.get_mut(NONCE..)?)
            .ok()?;
        sealed.extend_from_slice(&tag);
        Some(sealed)
    }

    /// As [`Cipher::open`] for a file outside packs, which format 2 may compress (a first byte of 2 says so).
    pub(super) fn open_unpacked(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let plain = self.open(sealed)?;
        match plain.split_first() {
            Some((2, compressed)) => zstd::bulk::decompress(compressed, UNPACKED_LIMIT).ok(),
            _ => Some(plain),
        }
    }
}

/// The name restic gives to content: SHA-256 in hex.
pub(super) fn name_of(content: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut name = String::with_capacity(64);
    for byte in Sha256::digest(content) {
        // Writing to a string cannot fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cipher() -> Cipher {
        Cipher::new(&MasterKey::new()).expect("a fresh key has the right lengths")
    }

    #[test]
    fn what_is_sealed_opens_again_and_only_with_the_same_key() {
        let cipher = cipher();
        let sealed = cipher.seal(b"a lock").expect("sealed");
        assert_eq!(cipher.open(&sealed).expect("opened"), b"a lock");
        assert!(self::cipher().open(&sealed).is_none());
    }

    #[test]
    fn a_changed_byte_or_a_short_piece_does_not_open() {
        let cipher = cipher();
        let mut sealed = cipher.seal(b"a lock").expect("sealed");
        sealed[20] ^= 1;
        assert!(cipher.open(&sealed).is_none());
        for length in 0..32 {
            assert!(cipher.open(&sealed[..length]).is_none());
        }
    }

    #[test]
    fn compressed_files_open_and_a_bomb_does_not() {
        let cipher = cipher();
        let compressed = |plain: &[u8]| {
            let mut file = vec![2];
            file.extend(zstd::bulk::compress(plain, 3).expect("compressed"));
            cipher.seal(&file).expect("sealed")
        };
        assert_eq!(cipher.open_unpacked(&compressed(b"{}")).expect("opened"), b"{}");
        assert!(cipher.open_unpacked(&compressed(&vec![0; UNPACKED_LIMIT + 1])).is_none());
    }

    #[test]
    fn names_are_sha_256_in_hex() {
        assert_eq!(name_of(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}

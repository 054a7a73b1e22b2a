//! Private keys that travel: sealed to a recovery identity, and proved against their certificate.
//!
//! Owns: the recovery identity and its password-encrypted file, sealing and opening, the fingerprints that may be
//! published, the proof that a private key belongs to a certificate, and how a key file is read.
//! Leaves to others: where sealed keys are stored, which keys exist, and what a missing proof means for a backup set.
//!
//! Everything written here is plain `age` (X25519 recipients, scrypt for the identity's file): stock `age -d` opens a
//! sealed key, and this crate is not needed to get a key back.
//!
//! ```
//! use holdfast_store_keys::{RecoveryIdentity, open, seal};
//!
//! let identity = RecoveryIdentity::generate();
//! let sealed = seal(b"-----BEGIN PRIVATE KEY-----...", &[identity.recipient()])?;
//! assert_eq!(open(&sealed, &identity)?.as_slice(), b"-----BEGIN PRIVATE KEY-----...");
//! # Ok::<(), holdfast_store_keys::SealError>(())
//! ```

mod detect;
mod file;
mod fingerprint;
mod identity;
mod passphrase;
mod pem;
mod private;
mod proof;
mod public;
mod recipient;
mod rsa;
mod seal;

pub use detect::{PrivateKeyKind, contains_private_key, find_private_key};
pub use file::{KeyFile, KeyFileError, KeyFileWarning, MAX_KEY_FILE, read_key_file};
pub use fingerprint::{FingerprintKey, fingerprint_sealed, fingerprint_secret};
pub use identity::{IdentityError, RecoveryIdentity};
pub use passphrase::{WeakPassphrase, check_passphrase, generate_passphrase};
pub use proof::{KeyAlgorithm, KeyError, KeyProof, key_fingerprint, prove_pair};
pub use recipient::{Recipient, RecipientError};
pub use seal::{MAX_SEALED, SealError, open, seal, sealed_to};

//! The recovery identity: the one secret that opens every sealed key, and the password-encrypted file it is kept in.
//!
//! The file is an `age` file encrypted with a passphrase (scrypt); inside is an ordinary identity file, so that
//! `age -d recovery.age > identity && age -d -i identity sealed.age` works with nothing of ours installed.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::secrecy::{ExposeSecret, SecretString};
use zeroize::Zeroizing;

use crate::file::{KeyFileError, create_private, read_bounded};
use crate::passphrase::{WeakPassphrase, check_passphrase};
use crate::recipient::Recipient;

/// Largest identity file, in bytes.
const MAX_FILE: usize = 64 * 1024;
/// log2 of scrypt's cost for new files: as stock `age`; about a second and 256 MiB.
const WORK_FACTOR: u8 = 18;
/// Highest accepted when loading, as stock `age`: a file must not demand more memory than a machine has.
const MAX_WORK_FACTOR: u8 = 22;

/// The private half of a recovery identity. Never shown by `Debug`, wiped when dropped.
pub struct RecoveryIdentity {
    secret: age::x25519::Identity,
    created: Option<String>,
}

/// Why an identity could not be kept or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The passphrase would not protect it.
    #[error("the passphrase is too weak for a recovery identity")]
    Weak {
        /// Why.
        #[source]
        source: WeakPassphrase,
    },
    /// Something is there already, and an identity is never replaced: sealed keys may depend on it.
    #[error("{path} exists already; a recovery identity is never replaced")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Not written.
    #[error("the recovery identity could not be written to {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Not read.
    #[error("the recovery identity could not be read")]
    Read {
        /// What was wrong with the file.
        #[source]
        source: KeyFileError,
    },
    /// An identity in the clear. It should be encrypted, and can be given as text where a person insists.
    #[error("{path} is not encrypted with a passphrase")]
    NotEncrypted {
        /// The file.
        path: PathBuf,
    },
    /// `age` cannot tell a wrong passphrase from a changed header.
    #[error("the passphrase does not open {path} (wrong, or the file's header is damaged)")]
    WrongPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// Asks for more memory and time than is reasonable.
    #[error("{path} demands a work factor of 2^{required}; at most 2^{MAX_WORK_FACTOR} is accepted")]
    ExcessiveWork {
        /// The file.
        path: PathBuf,
        /// log2 of what it demands.
        required: u8,
    },
    /// Cut off, changed, or something else.
    #[error("{path} is damaged or no encrypted recovery identity")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where reading it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No `AGE-SECRET-KEY-1…` line, or one that is mistyped.
    #[error("there is no readable secret key (`AGE-SECRET-KEY-1…`) in the identity")]
    NoKey,
    /// More than one: which one is meant cannot be guessed.
    #[error("there are {count} secret keys in the identity; exactly one is expected")]
    SeveralKeys {
        /// How many.
        count: usize,
    },
}

impl RecoveryIdentity {
    /// A new identity from the operating system's random numbers.
    pub fn generate() -> Self {
        Self {
            secret: age::x25519::Identity::generate(),
            created: Some(jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
        }
    }

    /// The public half: what configurations name.
    pub fn recipient(&self) -> Recipient {
        Recipient::from_age(self.secret.to_public())
    }

    /// An identity file in the clear, as `age-keygen` writes it: for paper. The caller decides where it may go.
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = self.secret.to_string();
        let created = self.created.as_deref().unwrap_or("unknown");
        // One allocation of sufficient size: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(512));
        for part in [
            "# created: ",
            created,
            "\n# public key: ",
            &self.recipient().to_string(),
            "\n",
            secret.expose_secret(),
            "\n",
        ] {
            text.push_str(part);
        }
        text
    }

    /// Reads an identity file in the clear, or only its secret line: what was typed in from paper.
    ///
    /// # Errors
    /// [`IdentityError::NoKey`], [`IdentityError::SeveralKeys`].
    pub fn from_text(text: &str) -> Result<Self, IdentityError> {
        let mut created = None;
        let mut keys = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix('#') {
                let time =
                    comment.trim().strip_prefix("created:").map(str::trim).filter(|time| time.len() <= 40);
                created = created.or(time.map(str::to_owned));
            } else if !line.is_empty() {
                keys.push(line);
            }
        }
        match keys.as_slice() {
            [] => Err(IdentityError::NoKey),
            [key] => {
                let secret = age::x25519::Identity::from_str(key).map_err(|_| IdentityError::NoKey)?;
                Ok(Self { secret, created })
            }
            keys => Err(IdentityError::SeveralKeys { count: keys.len() }),
        }
    }

    /// Writes the identity, encrypted with `passphrase`, to a new file of mode 0600, durably.
    ///
    /// Takes about a second and 256 MiB by design of the encryption. Stock `age -d` opens the file.
    ///
    /// # Errors
    /// [`IdentityError::Weak`], [`IdentityError::Exists`] (nothing is ever replaced), [`IdentityError::Write`].
    pub fn save_encrypted(&self, path: &Path, passphrase: &str) -> Result<(), IdentityError> {
        check_passphrase(passphrase).map_err(|source| IdentityError::Weak { source })?;
        self.save(path, passphrase, WORK_FACTOR)
    }

    fn save(&self, path: &Path, passphrase: &str, work_factor: u8) -> Result<(), IdentityError> {
        let failed = |source: io::Error| IdentityError::Write { path: path.to_owned(), source };
        let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase));
        recipient.set_work_factor(work_factor);
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient))
            .map_err(|source| failed(io::Error::other(source)))?;
        let mut content = Vec::new();
        let mut output = encryptor.wrap_output(&mut content).map_err(failed)?;
        output.write_all(self.to_text().as_bytes()).map_err(failed)?;
        output.finish().map_err(failed)?;
        create_private(path, &content).map_err(|source| {
            if source.kind() == io::ErrorKind::AlreadyExists {
                IdentityError::Exists { path: path.to_owned() }
            } else {
                failed(source)
            }
        })
    }

    /// Reads what [`save_encrypted`](Self::save_encrypted), or `age -p` on an identity file, wrote (binary form).
    ///
    /// # Errors
    /// [`IdentityError::Read`], [`IdentityError::NotEncrypted`], [`IdentityError::WrongPassphrase`],
    /// [`IdentityError::ExcessiveWork`], [`IdentityError::Damaged`], [`IdentityError::NoKey`],
    /// [`IdentityError::SeveralKeys`].
    pub fn load(path: &Path, passphrase: &str) -> Result<Self, IdentityError> {
        let (content, _) = read_bounded(path, MAX_FILE).map_err(|source| IdentityError::Read { source })?;
        let damaged = |source: Box<dyn std::error::Error + Send + Sync>| IdentityError::Damaged {
            path: path.to_owned(),
            source,
        };
        if content.windows(16).any(|window| window == b"AGE-SECRET-KEY-1") {
            return Err(IdentityError::NotEncrypted { path: path.to_owned() });
        }
        let decryptor =
            age::Decryptor::new_buffered(content.as_slice()).map_err(|source| damaged(Box::new(source)))?;
        if !decryptor.is_scrypt() {
            return Err(IdentityError::NotEncrypted { path: path.to_owned() });
        }
        let mut key = age::scrypt::Identity::new(SecretString::from(passphrase));
        key.set_max_work_factor(MAX_WORK_FACTOR);
        let stream = decryptor.decrypt(std::iter::once(&key as &dyn age::Identity)).map_err(|error| {
            #[expect(clippy::wildcard_enum_match_arm, reason = "the library's list differs by its features")]
            match error {
                age::DecryptError::ExcessiveWork { required, .. } => {
                    IdentityError::ExcessiveWork { path: path.to_owned(), required }
                }
                age::DecryptError::DecryptionFailed
                | age::DecryptError::KeyDecryptionFailed
                | age::DecryptError::NoMatchingKeys => {
                    IdentityError::WrongPassphrase { path: path.to_owned() }
                }
                other => damaged(Box::new(other)),
            }
        })?;
        let mut text = Zeroizing::new(String::with_capacity(content.len()));
        stream.take(MAX_FILE as u64).read_to_string(&mut text).map_err(|source| damaged(Box::new(source)))?;
        Self::from_text(&text)
    }

    pub(crate) const fn as_age(&self) -> &age::x25519::Identity {
        &self.secret
    }
}

impl fmt::Debug for RecoveryIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "RecoveryIdentity({}, secret not shown)", self.recipient())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{open, seal};
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    const PASSPHRASE: &str = "lantern gravel oboe thirty maple quiet";

    #[test]
    fn a_saved_identity_loads_again_and_opens_what_was_sealed_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recovery.age");
        let identity = RecoveryIdentity::generate();
        let sealed = seal(b"key", &[identity.recipient()]).unwrap();
        identity.save(&path, PASSPHRASE, 10).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let loaded = RecoveryIdentity::load(&path, PASSPHRASE).unwrap();
        assert_eq!(loaded.recipient(), identity.recipient());
        assert_eq!(*loaded.to_text(), *identity.to_text());
        assert_eq!(open(&sealed, &loaded).unwrap().as_slice(), b"key");
        assert!(matches!(identity.save(&path, PASSPHRASE, 10), Err(IdentityError::Exists { .. })));
    }

    #[test]
    fn a_weak_passphrase_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recovery.age");
        let result = RecoveryIdentity::generate().save_encrypted(&path, "aaaaaaaaaaaaaaa");
        assert!(matches!(result, Err(IdentityError::Weak { source: WeakPassphrase::Repetitive })));
        assert!(!path.exists());
    }

    #[test]
    fn wrong_passphrase_damage_and_plain_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recovery.age");
        let identity = RecoveryIdentity::generate();
        identity.save(&path, PASSPHRASE, 10).unwrap();
        assert!(matches!(RecoveryIdentity::load(&path, "wrong"), Err(IdentityError::WrongPassphrase { .. })));
        let mut content = fs::read(&path).unwrap();
        fs::write(&path, &content[..content.len() - 1]).unwrap();
        assert!(matches!(RecoveryIdentity::load(&path, PASSPHRASE), Err(IdentityError::Damaged { .. })));
        let last = content.len() - 1;
        content[last] ^= 1;
        fs::write(&path, &content).unwrap();
        assert!(matches!(RecoveryIdentity::load(&path, PASSPHRASE), Err(IdentityError::Damaged { .. })));
        fs::write(&path, b"something else").unwrap();
        assert!(matches!(RecoveryIdentity::load(&path, PASSPHRASE), Err(IdentityError::Damaged { .. })));
        fs::write(&path, identity.to_text().as_bytes()).unwrap();
        assert!(matches!(RecoveryIdentity::load(&path, PASSPHRASE), Err(IdentityError::NotEncrypted { .. })));
        fs::write(&path, seal(b"x", &[identity.recipient()]).unwrap()).unwrap();
        assert!(matches!(RecoveryIdentity::load(&path, PASSPHRASE), Err(IdentityError::NotEncrypted { .. })));
    }

    #[test]
    fn a_file_cannot_demand_unbounded_work() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recovery.age");
        RecoveryIdentity::generate().save(&path, PASSPHRASE, 10).unwrap();
        let content = fs::read(&path).unwrap();
        let header = content.windows(3).position(|window| window == b" 10").unwrap();
        let changed = [&content[..header], b" 40", &content[header + 3..]].concat();
        fs::write(&path, changed).unwrap();
        assert!(matches!(
            RecoveryIdentity::load(&path, PASSPHRASE),
            Err(IdentityError::ExcessiveWork { required: 40, .. })
        ));
    }

    #[test]
    fn text_from_paper_needs_exactly_one_key() {
        let identity = RecoveryIdentity::generate();
        let text = identity.to_text();
        let line = text.lines().last().unwrap();
        assert_eq!(RecoveryIdentity::from_text(line).unwrap().recipient(), identity.recipient());
        assert!(matches!(RecoveryIdentity::from_text("# nothing\n"), Err(IdentityError::NoKey)));
        assert!(matches!(RecoveryIdentity::from_text(&line[..70]), Err(IdentityError::NoKey)));
        let two = format!("{line}\n{line}\n");
        assert!(matches!(RecoveryIdentity::from_text(&two), Err(IdentityError::SeveralKeys { count: 2 })));
    }

    #[test]
    fn debug_shows_the_public_half_only() {
        let identity = RecoveryIdentity::generate();
        let shown = format!("{identity:?}");
        assert!(shown.contains(&identity.recipient().to_string()));
        assert!(!shown.contains("SECRET-KEY"));
    }
}

//! Seals a key to recovery recipients and opens it again. The result is a plain binary `.age` file.
//!
//! `age` hides for whom a file is sealed, and so cannot tell a wrong identity from a damaged header. A sealed key
//! therefore carries one more stanza, `holdfast-recipients`, naming the (public) recipients under a checksum. Stock
//! `age` skips stanzas of types it does not know; without ours a file still opens, only the diagnosis is coarser.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{Read, Write};

use age_core::format::{FileKey, Stanza};
use ring::digest;
use zeroize::Zeroizing;

use crate::file::MAX_KEY_FILE;
use crate::identity::RecoveryIdentity;
use crate::recipient::Recipient;

/// Largest sealed key accepted, in bytes: the largest key file and room for `age`'s header.
pub const MAX_SEALED: usize = MAX_KEY_FILE + 64 * 1024;
/// Most recipients of one sealed key.
const MAX_RECIPIENTS: usize = 64;
/// Type of the stanza that names the recipients.
const NAMES_TAG: &str = "holdfast-recipients";

/// Why a key could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Nobody to seal for.
    #[error("there is no recovery recipient to seal to")]
    NoRecipients,
    /// More recipients than one sealed key may have.
    #[error("{count} recovery recipients are too many; at most {MAX_RECIPIENTS} are allowed")]
    TooManyRecipients {
        /// How many were given.
        count: usize,
    },
    /// Over the bound: not a key file, or not a sealed key.
    #[error("{bytes} bytes are too many for a key; at most {limit} are accepted")]
    TooLarge {
        /// Bytes given.
        bytes: usize,
        /// The bound, in bytes.
        limit: usize,
    },
    /// The encryption itself failed.
    #[error("the key could not be sealed")]
    Seal {
        /// What the encryption said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Intact as far as can be seen, but sealed to somebody else.
    #[error("the recovery identity {identity} does not open this key; it is sealed to {sealed_to}")]
    WrongIdentity {
        /// Public half of the identity that was tried.
        identity: String,
        /// The recipients it names, or `others` when it names none.
        sealed_to: String,
    },
    /// Cut off, changed, or no sealed key at all.
    #[error("the sealed key is damaged")]
    Damaged {
        /// Where reading it failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Seals `plaintext` so that each of `recipients` alone can open it. The result is a binary `.age` file.
///
/// # Errors
/// [`SealError::NoRecipients`], [`SealError::TooManyRecipients`], [`SealError::TooLarge`] (over 1 MiB),
/// [`SealError::Seal`].
pub fn seal(plaintext: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>, SealError> {
    if recipients.is_empty() {
        return Err(SealError::NoRecipients);
    }
    if recipients.len() > MAX_RECIPIENTS {
        return Err(SealError::TooManyRecipients { count: recipients.len() });
    }
    if plaintext.len() > MAX_KEY_FILE {
        return Err(SealError::TooLarge { bytes: plaintext.len(), limit: MAX_KEY_FILE });
    }
    let names = Names(recipients.iter().map(Recipient::to_string).collect());
    let all = recipients
        .iter()
        .map(|recipient| recipient.as_age() as &dyn age::Recipient)
        .chain(std::iter::once(&names as &dyn age::Recipient));
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| SealError::Seal { source };
    let encryptor = age::Encryptor::with_recipients(all).map_err(|source| failed(Box::new(source)))?;
    let mut sealed = Vec::with_capacity(plaintext.len() + 4096);
    let mut output = encryptor.wrap_output(&mut sealed).map_err(|source| failed(Box::new(source)))?;
    output.write_all(plaintext).map_err(|source| failed(Box::new(source)))?;
    output.finish().map_err(|source| failed(Box::new(source)))?;
    Ok(sealed)
}

/// Opens what [`seal`], or stock `age -r`, sealed to this identity. The plaintext is wiped when dropped.
///
/// # Errors
/// [`SealError::WrongIdentity`]: sealed to others. [`SealError::Damaged`]: cut off or changed; nothing of the content
/// is given out. [`SealError::TooLarge`].
pub fn open(sealed: &[u8], identity: &RecoveryIdentity) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let decryptor = parse(sealed)?;
    let reader = NamesReader::default();
    let identities = [identity.as_age() as &dyn age::Identity, &reader as &dyn age::Identity];
    let stream =
        decryptor.decrypt(identities.into_iter()).map_err(|error| diagnose(error, identity, &reader))?;
    // The buffer never grows, so that no copy of a part of the key is left behind in freed memory.
    let mut plaintext = Zeroizing::new(Vec::with_capacity(sealed.len()));
    let limit = MAX_KEY_FILE as u64 + 1;
    stream.take(limit).read_to_end(&mut plaintext).map_err(damaged)?;
    if plaintext.len() > MAX_KEY_FILE {
        return Err(SealError::TooLarge { bytes: plaintext.len(), limit: MAX_KEY_FILE });
    }
    Ok(plaintext)
}

/// The recipients a sealed key names, without opening it: what to look for in the safe. Empty when it names none.
///
/// What it says is not authenticated until the key is opened.
///
/// # Errors
/// [`SealError::Damaged`], [`SealError::TooLarge`].
pub fn sealed_to(sealed: &[u8]) -> Result<Vec<Recipient>, SealError> {
    let reader = NamesReader::default();
    match parse(sealed)?.decrypt(std::iter::once(&reader as &dyn age::Identity)) {
        Ok(_) | Err(age::DecryptError::NoMatchingKeys) => {}
        Err(error) => return Err(damaged(error)),
    }
    match reader.0.into_inner() {
        NamesFound::Good(names) => Ok(names),
        NamesFound::None => Ok(Vec::new()),
        NamesFound::Bad => Err(damaged(BadNames)),
    }
}

fn parse(sealed: &[u8]) -> Result<age::Decryptor<&[u8]>, SealError> {
    if sealed.len() > MAX_SEALED {
        return Err(SealError::TooLarge { bytes: sealed.len(), limit: MAX_SEALED });
    }
    age::Decryptor::new_buffered(sealed).map_err(damaged)
}

fn diagnose(error: age::DecryptError, identity: &RecoveryIdentity, reader: &NamesReader) -> SealError {
    if !matches!(error, age::DecryptError::NoMatchingKeys) {
        return damaged(error);
    }
    let own = identity.recipient();
    match &*reader.0.borrow() {
        // It names us, and yet no stanza of it opens: the stanza was changed.
        NamesFound::Good(names) if names.contains(&own) => damaged(error),
        NamesFound::Good(names) => {
            let names: Vec<String> = names.iter().map(Recipient::to_string).collect();
            SealError::WrongIdentity { identity: own.to_string(), sealed_to: names.join(", ") }
        }
        NamesFound::None => {
            SealError::WrongIdentity { identity: own.to_string(), sealed_to: "others".into() }
        }
        NamesFound::Bad => damaged(BadNames),
    }
}

fn damaged(source: impl std::error::Error + Send + Sync + 'static) -> SealError {
    SealError::Damaged { source: Box::new(source) }
}

#[derive(Debug, thiserror::Error)]
#[error("its list of recipients does not match its checksum")]
struct BadNames;

/// Writes the stanza that names the recipients; it wraps no key.
struct Names(Vec<String>);

impl age::Recipient for Names {
    fn wrap_file_key(&self, _: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        let stanza = Stanza { tag: NAMES_TAG.to_owned(), args: self.0.clone(), body: checksum(&self.0) };
        Ok((vec![stanza], HashSet::new()))
    }
}

#[derive(Default)]
enum NamesFound {
    #[default]
    None,
    Good(Vec<Recipient>),
    Bad,
}

/// Opens nothing; remembers what the stanza says while the library shows it around.
#[derive(Default)]
struct NamesReader(RefCell<NamesFound>);

impl age::Identity for NamesReader {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, age::DecryptError>> {
        if stanza.tag == NAMES_TAG {
            let names: Result<Vec<_>, _> = stanza.args.iter().map(|name| Recipient::parse(name)).collect();
            *self.0.borrow_mut() = match names {
                Ok(names) if stanza.body == checksum(&stanza.args) => NamesFound::Good(names),
                Ok(_) | Err(_) => NamesFound::Bad,
            };
        }
        None
    }
}

fn checksum(names: &[String]) -> Vec<u8> {
    digest::digest(&digest::SHA256, names.join("\n").as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &[u8] = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n";

    #[test]
    fn what_is_sealed_opens_for_each_recipient_alone() {
        let (one, two) = (RecoveryIdentity::generate(), RecoveryIdentity::generate());
        let sealed = seal(KEY, &[one.recipient(), two.recipient()]).unwrap();
        assert_eq!(open(&sealed, &one).unwrap().as_slice(), KEY);
        assert_eq!(open(&sealed, &two).unwrap().as_slice(), KEY);
        assert_eq!(sealed_to(&sealed).unwrap(), [one.recipient(), two.recipient()]);
        assert!(!sealed.windows(8).any(|window| KEY.windows(8).any(|part| part == window)));
    }

    #[test]
    fn another_identity_is_told_for_whom_the_key_is_sealed() {
        let (owner, stranger) = (RecoveryIdentity::generate(), RecoveryIdentity::generate());
        let sealed = seal(KEY, &[owner.recipient()]).unwrap();
        let error = open(&sealed, &stranger).unwrap_err();
        assert!(
            matches!(&error, SealError::WrongIdentity { sealed_to, .. } if *sealed_to == owner.recipient().to_string())
        );
    }

    #[test]
    fn every_flipped_byte_and_every_cut_is_damage_and_never_a_wrong_identity() {
        let identity = RecoveryIdentity::generate();
        let sealed = seal(KEY, &[identity.recipient()]).unwrap();
        for index in 0..sealed.len() {
            for bit in [0x01, 0x10, 0x80] {
                let mut changed = sealed.clone();
                changed[index] ^= bit;
                let result = open(&changed, &identity);
                assert!(
                    matches!(result, Err(SealError::Damaged { .. })),
                    "byte {index}, bit {bit:#x}: {result:?}"
                );
            }
            assert!(
                matches!(open(&sealed[..index], &identity), Err(SealError::Damaged { .. })),
                "cut at {index}"
            );
        }
        let mut longer = sealed.clone();
        longer.push(0);
        assert!(matches!(open(&longer, &identity), Err(SealError::Damaged { .. })));
    }

    #[test]
    fn sizes_and_recipients_are_bounded() {
        let identity = RecoveryIdentity::generate();
        assert!(matches!(seal(KEY, &[]), Err(SealError::NoRecipients)));
        assert!(matches!(
            seal(KEY, &vec![identity.recipient(); 65]),
            Err(SealError::TooManyRecipients { count: 65 })
        ));
        let largest = vec![7; MAX_KEY_FILE];
        assert_eq!(*open(&seal(&largest, &[identity.recipient()]).unwrap(), &identity).unwrap(), largest);
        assert!(matches!(
            seal(&[largest, vec![0]].concat(), &[identity.recipient()]),
            Err(SealError::TooLarge { .. })
        ));
        assert!(matches!(open(&vec![0; MAX_SEALED + 1], &identity), Err(SealError::TooLarge { .. })));
    }
}

//! What is known of a repository's sets, from their own documents.
//!
//! Owns: telling a set that cannot be read from a repository that cannot.
//! Leaves to others: the lock, under which nothing changes meanwhile.

use std::fmt;

use holdfast_writer_api::document::{BackupSet, KeyRecord, KeysState};
use holdfast_writer_api::schema::{DocumentError, MAX_DOCUMENT_BYTES};
use uuid::Uuid;

use crate::repository::keep::{Group, SetInfo};
use crate::repository::{Repository, RepositoryError, StoredSet};
use crate::session::record::SET_DOCUMENT;

/// The sets, and those of which nothing is known.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub sets: Vec<SetInfo>,
    pub unreadable: Vec<Unreadable>,
}

/// What a set is called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Name {
    /// A set, by its id.
    Set(Uuid),
    /// A snapshot that cannot be read, by its id: of a set, a part of one, or of another program.
    Snapshot(String),
}

impl Name {
    /// The id alone.
    pub fn id(&self) -> String {
        match self {
            Self::Set(set) => set.to_string(),
            Self::Snapshot(snapshot) => snapshot.clone(),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(set) => write!(f, "set {set}"),
            Self::Snapshot(snapshot) => write!(f, "snapshot {snapshot}"),
        }
    }
}

/// A set of which nobody knows what it builds on and what it has.
#[derive(Debug, thiserror::Error)]
#[error("{name} cannot be read")]
pub struct Unreadable {
    /// Which.
    pub name: Name,
    /// Why.
    #[source]
    pub why: Why,
}

/// Why a set cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Why {
    /// Its snapshot or its document is damaged, or there is none.
    #[error(transparent)]
    Repository(RepositoryError),
    /// Its document cannot be understood.
    #[error(transparent)]
    Document(DocumentError),
    /// Its document speaks of another set.
    #[error("its document is that of set {set}")]
    OfAnother {
        /// Which.
        set: Uuid,
    },
}

impl Facts {
    /// Reads every set's document. Blocks.
    ///
    /// # Errors
    /// Whatever keeps all sets from being read: the storage's failures, a damaged index.
    pub fn read(repository: &Repository) -> Result<Self, RepositoryError> {
        let (stored, snapshots) = repository.sets_and_unreadable()?;
        let mut facts = Self::default();
        for bad in snapshots {
            let (name, why) = (Name::Snapshot(bad.snapshot), Why::Repository(bad.error));
            facts.unreadable.push(Unreadable { name, why });
        }
        for stored in stored {
            match document(repository, &stored)? {
                Ok(set) => facts.sets.push(info(stored, &set)),
                Err(why) => facts.unreadable.push(Unreadable { name: Name::Set(stored.set), why }),
            }
        }
        Ok(facts)
    }
}

/// The set's document, or why it is none; the outer error is not about this set.
fn document(repository: &Repository, stored: &StoredSet) -> Result<Result<BackupSet, Why>, RepositoryError> {
    // Apart from the document: a damaged index is no fault of the set.
    repository.reader(stored)?;
    let bytes = match repository.read_document(stored, SET_DOCUMENT.as_ref(), MAX_DOCUMENT_BYTES as u64) {
        Ok(bytes) => bytes,
        Err(
            error @ (RepositoryError::Damaged { .. }
            | RepositoryError::NoSuchPath { .. }
            | RepositoryError::TooLarge { .. }),
        ) => return Ok(Err(Why::Repository(error))),
        Err(other) => return Err(other),
    };
    Ok(match BackupSet::parse(&bytes) {
        Ok(set) if set.set == stored.set => Ok(set),
        Ok(other) => Err(Why::OfAnother { set: other.set }),
        Err(error) => Err(Why::Document(error)),
    })
}

fn info(stored: StoredSet, set: &BackupSet) -> SetInfo {
    let keys = set.writers.iter().flat_map(|writer| {
        let keys: &[KeyRecord] = match &writer.keys {
            KeysState::Sealed { keys } => keys,
            KeysState::NoneDeclared | KeysState::Inside | KeysState::Missing { .. } => &[],
        };
        keys.iter().map(|key| known_as(&stored.hostname, &writer.id, key))
    });
    let keys = keys.collect();
    let components = set.writers.iter().flat_map(|writer| {
        let whole = writer.components.iter().filter(|component| component.succeeded);
        whole.map(|component| format!("{}/{}", writer.id, component.reference))
    });
    SetInfo {
        set: stored.set,
        group: Group { host: stored.hostname, components: components.collect() },
        time: stored.time,
        tags: stored.tags,
        base: set.base,
        keys,
    }
}

/// What a sealed key is known by: its public identity, wherever it lies. One that has none, such as a password, by its
/// place: its fingerprint names a single sealing, and no two sets would ever have the same.
fn known_as(host: &str, writer: &str, key: &KeyRecord) -> String {
    if PUBLIC.iter().any(|label| key.fingerprint.starts_with(label)) {
        return key.fingerprint.clone();
    }
    format!("{} of {writer} on {host}", key.path.display())
}

/// How fingerprints begin that are equal for equal keys: a digest of the public half, and a keyed one of a secret.
const PUBLIC: [&str; 2] = ["SHA256:", "HMAC-SHA256:"];

#[cfg(test)]
mod tests {
    use holdfast_writer_api::{ComponentRef, KeySeal};

    use super::*;

    fn key(path: &str, fingerprint: &str) -> KeyRecord {
        KeyRecord {
            component: ComponentRef::from_full_name("keys"),
            path: path.into(),
            purpose: String::new(),
            fingerprint: fingerprint.into(),
            proof: KeySeal::NotProved { why: String::new() },
            stored: String::new(),
            mode: 0o600,
            uid: 0,
            gid: 0,
        }
    }

    /// Goal: a set whose opaque secret was sealed again later is not kept for ever as the last one with that sealing.
    #[test]
    fn a_secret_without_a_public_half_is_known_by_its_place_and_a_key_pair_wherever_it_lies() {
        let known = |path, fingerprint| known_as("host", "ca", &key(path, fingerprint));
        assert_eq!(known("/secret", "SEALED-SHA256:01"), known("/secret", "SEALED-SHA256:02"));
        assert_ne!(known("/secret", "SEALED-SHA256:01"), known("/other", "SEALED-SHA256:01"));
        assert_ne!(known("/secret", "unknown"), known("/other", "unknown"));
        assert_eq!(known("/old", "SHA256:01"), known("/new", "SHA256:01"));
        assert_ne!(known("/key", "SHA256:01"), known("/key", "SHA256:02"));
    }
}

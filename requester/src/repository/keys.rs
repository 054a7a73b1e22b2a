//! Key files, looked at before the library does.
//! Owns: bounds on what a key file may make us compute, and key files that a cut-off `init` left.

use serde::Deserialize;

use super::{
    error::RepositoryError,
    storage::{FileKind, Storage},
};

/// A key file is a few hundred bytes of JSON.
const KEY_FILE_LIMIT: u64 = 64 << 10;

/// The most memory scrypt may be told to use, in bytes; restic and rustic ask for 32 to 128 MiB.
const SCRYPT_MEMORY: u64 = 1 << 30;

/// The most passes over it.
const SCRYPT_PASSES: u64 = 64;

#[derive(Deserialize)]
struct KeyFile {
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u64,
    p: u64,
}

/// Refuses key files that would exhaust the machine, or make the library panic.
pub(super) fn check_bounds(storage: &dyn Storage, location: &str) -> Result<(), RepositoryError> {
    let keys = storage.list(FileKind::Key).map_err(|e| RepositoryError::from_storage(location, e))?;
    if keys.is_empty() {
        return Err(RepositoryError::damaged(location, "it has no key file"));
    }
    for (name, size) in keys {
        let damaged = |what| Err(RepositoryError::damaged(location, format!("key file {name} {what}")));
        if size > KEY_FILE_LIMIT {
            return damaged("is larger than any key file");
        }
        let content =
            storage.read(FileKind::Key, &name).map_err(|e| RepositoryError::from_storage(location, e))?;
        let Ok(key) = serde_json::from_slice::<KeyFile>(&content) else {
            return damaged("cannot be parsed");
        };
        let memory = key.n.saturating_mul(key.r).saturating_mul(128);
        let sane = key.kdf == "scrypt"
            && key.n.is_power_of_two()
            && key.r > 0
            && memory <= SCRYPT_MEMORY
            && (1..=SCRYPT_PASSES).contains(&key.p);
        if !sane {
            return damaged("asks for a key derivation outside of all bounds");
        }
    }
    Ok(())
}

/// Makes way for a new repository. Refuses if anything but keys is there.
pub(super) fn clear_for_init(storage: &dyn Storage, location: &str) -> Result<(), RepositoryError> {
    let of_storage = |e| RepositoryError::from_storage(location, e);
    for kind in [FileKind::Config, FileKind::Snapshot, FileKind::Index, FileKind::Pack] {
        if !storage.list(kind).map_err(of_storage)?.is_empty() {
            return Err(RepositoryError::AlreadyExists { location: location.to_owned() });
        }
    }
    // The config is written last: keys without one are of an `init` that was cut off. Left in place, such a key could
    // open with the same password and hide the real one.
    for (name, _) in storage.list(FileKind::Key).map_err(of_storage)? {
        storage.remove(FileKind::Key, &name).map_err(of_storage)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::storage::LocalStorage;

    #[test]
    fn key_files_that_would_exhaust_the_machine_are_refused() {
        let place = tempfile::tempdir().expect("scratch folder");
        let storage = LocalStorage::new(place.path().to_owned());
        storage.create().expect("folders");
        let name = "0".repeat(64);
        for (content, fine) in [
            (r#"{"kdf":"scrypt","N":32768,"r":8,"p":5,"data":"","salt":""}"#, true),
            (r#"{"kdf":"scrypt","N":0,"r":8,"p":5}"#, false),
            (r#"{"kdf":"scrypt","N":32768,"r":0,"p":5}"#, false),
            (r#"{"kdf":"scrypt","N":4294967296,"r":8,"p":1}"#, false),
            (r#"{"kdf":"scrypt","N":32768,"r":8,"p":1000000}"#, false),
            (r#"{"kdf":"argon","N":32768,"r":8,"p":1}"#, false),
            ("{", false),
        ] {
            storage.write(FileKind::Key, &name, &[content.into()]).expect("written");
            assert_eq!(check_bounds(&storage, "x").is_ok(), fine, "{content}");
        }
    }
}

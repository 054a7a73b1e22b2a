//! A repository in memory: making one on disk for every test would take long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::repository::{FileKind, Password, Repository, Storage, StorageError, StorageErrorKind};

/// A repository's files in memory.
#[derive(Debug, Default)]
pub struct InMemoryStorage(Mutex<HashMap<(FileKind, String), Bytes>>);

impl InMemoryStorage {
    pub fn repository() -> (Repository, Arc<Self>) {
        let storage = Arc::new(Self::default());
        (Repository::init_on(storage.clone(), &Password::new("secret")).unwrap(), storage)
    }

    /// Flips a bit in every pack.
    pub fn damage(&self) {
        for ((kind, _), bytes) in self.0.lock().unwrap().iter_mut() {
            if *kind == FileKind::Pack {
                let mut changed = bytes.to_vec();
                changed[10] ^= 1;
                *bytes = changed.into();
            }
        }
    }

    fn get(&self, kind: FileKind, name: &str) -> Result<Bytes, StorageError> {
        self.0.lock().unwrap().get(&(kind, name.to_owned())).cloned().ok_or_else(|| StorageError {
            kind: StorageErrorKind::NotFound,
            path: name.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        })
    }
}

impl Storage for InMemoryStorage {
    fn location(&self) -> String {
        "memory".into()
    }
    fn create(&self) -> Result<(), StorageError> {
        Ok(())
    }
    fn list(&self, kind: FileKind) -> Result<Vec<(String, u64)>, StorageError> {
        let files = self.0.lock().unwrap();
        let found = files.iter().filter(|((other, _), _)| *other == kind);
        Ok(found.map(|((_, name), bytes)| (name.clone(), bytes.len() as u64)).collect())
    }
    fn read(&self, kind: FileKind, name: &str) -> Result<Bytes, StorageError> {
        self.get(kind, name)
    }
    fn read_range(
        &self,
        kind: FileKind,
        name: &str,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, StorageError> {
        let from = usize::try_from(offset).unwrap();
        Ok(self.get(kind, name)?.slice(from..from + length))
    }
    fn write(&self, kind: FileKind, name: &str, content: &[Bytes]) -> Result<(), StorageError> {
        self.0.lock().unwrap().insert((kind, name.to_owned()), content.concat().into());
        Ok(())
    }
    fn remove(&self, kind: FileKind, name: &str) -> Result<(), StorageError> {
        self.get(kind, name)?;
        self.0.lock().unwrap().remove(&(kind, name.to_owned()));
        Ok(())
    }
    fn remove_leftovers(&self) -> Result<u64, StorageError> {
        Ok(0)
    }
}

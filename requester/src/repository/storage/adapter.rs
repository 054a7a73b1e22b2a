//! Hands a [`Storage`] to the repository library, and remembers the first failure below it.
//! Owns: the translation between the library's backend traits and ours.
//!
//! The library turns a full disk into a warning or a panic in another thread; the note kept here says what it was.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustic_core::{BytesList, ErrorKind, FileType, Id, ReadBackend, RusticError, RusticResult, WriteBackend};

use super::{FileKind, Storage, StorageError};

/// One operation's view of the storage.
#[derive(Debug)]
pub struct Adapter {
    storage: Arc<dyn Storage>,
    first_fault: Mutex<Option<StorageError>>,
}

impl Adapter {
    /// One per operation, so that a fault belongs to the operation that met it.
    pub fn new(storage: Arc<dyn Storage>) -> Arc<Self> {
        Arc::new(Self { storage, first_fault: Mutex::new(None) })
    }

    /// The first failure since the last call.
    pub fn take_fault(&self) -> Option<StorageError> {
        self.first_fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn noted<T>(&self, result: Result<T, StorageError>) -> RusticResult<T> {
        result.map_err(|fault| {
            let text = format!("{fault}: {}", fault.source);
            self.first_fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(fault);
            RusticError::new(ErrorKind::Backend, text)
        })
    }
}

fn kind_of(kind: FileType) -> FileKind {
    match kind {
        FileType::Config => FileKind::Config,
        FileType::Index => FileKind::Index,
        FileType::Key => FileKind::Key,
        FileType::Snapshot => FileKind::Snapshot,
        FileType::Pack => FileKind::Pack,
    }
}

fn name_of(kind: FileType, id: &Id) -> String {
    match kind {
        FileType::Config => "config".to_owned(),
        FileType::Index | FileType::Key | FileType::Snapshot | FileType::Pack => {
            id.to_hex().as_str().to_owned()
        }
    }
}

impl ReadBackend for Adapter {
    fn location(&self) -> String {
        self.storage.location()
    }

    fn list_with_size(&self, kind: FileType) -> RusticResult<Vec<(Id, u32)>> {
        let found = self.noted(self.storage.list(kind_of(kind)))?;
        let listed = found.into_iter().filter_map(|(name, size)| {
            let id = if kind == FileType::Config { Some(Id::default()) } else { Id::parse_some(&name, kind) };
            // Larger than any file of the format: the size check of the library then reports it.
            id.map(|id| (id, u32::try_from(size).unwrap_or(u32::MAX)))
        });
        Ok(listed.collect())
    }

    fn read_full(&self, kind: FileType, id: &Id) -> RusticResult<Bytes> {
        self.noted(self.storage.read(kind_of(kind), &name_of(kind, id)))
    }

    fn read_partial(
        &self,
        kind: FileType,
        id: &Id,
        _: bool,
        offset: u32,
        length: u32,
    ) -> RusticResult<Bytes> {
        self.noted(self.storage.read_range(kind_of(kind), &name_of(kind, id), offset.into(), length as usize))
    }

    fn warmup_path(&self, kind: FileType, id: &Id) -> String {
        name_of(kind, id)
    }
}

impl WriteBackend for Adapter {
    fn create(&self) -> RusticResult<()> {
        self.noted(self.storage.create())
    }

    fn write_bytes(&self, kind: FileType, id: &Id, _: bool, content: BytesList) -> RusticResult<()> {
        self.noted(self.storage.write(kind_of(kind), &name_of(kind, id), content.slice()))
    }

    fn remove(&self, kind: FileType, id: &Id, _: bool) -> RusticResult<()> {
        self.noted(self.storage.remove(kind_of(kind), &name_of(kind, id)))
    }
}

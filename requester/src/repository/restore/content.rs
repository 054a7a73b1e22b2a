//! File content of a restore, by parallel workers with bounded memory and bounded open files.
//! Owns: batches of pieces, reads that join neighbours in a pack, holes, and the end of each file.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{Scope, available_parallelism},
};

use super::{
    super::{
        error::RepositoryError,
        read::{BlobPlace, SetReader},
        source::{EntryMetadata, Ledger, Progress, ProgressFn},
        storage::FileKind,
    },
    place::Attributes,
};

/// Content of a batch, in bytes; one blob may be more.
const BATCH_BYTES: u64 = 4 << 20;
/// Files of a batch. All batches under way together hold this times three times the workers open.
const BATCH_FILES: usize = 32;
/// Most workers; beyond, the target disk is the limit.
const WORKERS: usize = 8;
/// Bytes of other blobs read along to spare a second read.
const GAP: u32 = 32 << 10;
/// Bytes of one read of several blobs.
const READ: u32 = 8 << 20;
/// Zeros shorter than a block of any file system save nothing.
const BLOCK: usize = 4096;
/// A blob of zeros that is worth remembering.
const LARGE: usize = 64 << 10;

/// A blob and where it goes.
pub(super) struct Piece {
    pub(super) offset: u64,
    pub(super) place: BlobPlace,
}

/// A file being filled.
struct Target {
    file: File,
    path: PathBuf,
    metadata: EntryMetadata,
    /// Pieces not written yet; whoever writes the last one finishes the file.
    missing: AtomicUsize,
}

type Batch = Vec<(Arc<Target>, Piece)>;

/// The workers and what they share.
pub(super) struct Pool<'a> {
    reader: &'a SetReader,
    attributes: &'a Attributes,
    ledger: Arc<Ledger>,
    queue: Mutex<Option<SyncSender<Batch>>>,
    batches: Mutex<Receiver<Batch>>,
    open: Mutex<(Batch, u64, usize)>,
    failed: AtomicBool,
    failure: Mutex<Option<RepositoryError>>,
    /// Blobs known to be all zero: a sparse disk image consists of one such blob, thousands of times.
    zeros: RwLock<HashSet<String>>,
    workers: usize,
}

impl<'a> Pool<'a> {
    pub(super) fn new(
        reader: &'a SetReader,
        attributes: &'a Attributes,
        progress: Option<ProgressFn>,
    ) -> Self {
        let workers = available_parallelism().map_or(2, usize::from).clamp(2, WORKERS);
        let (queue, batches) = sync_channel(workers * 2);
        Self {
            reader,
            attributes,
            ledger: Ledger::new(progress),
            queue: Mutex::new(Some(queue)),
            batches: Mutex::new(batches),
            open: Mutex::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
            zeros: RwLock::default(),
            workers,
        }
    }

    pub(super) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        for _ in 0..self.workers {
            scope.spawn(|| {
                loop {
                    let next = self.batches.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(batch) = next else { break };
                    // After a failure batches are only taken, so that the planner is not kept waiting.
                    if !self.failed.load(Ordering::Relaxed)
                        && let Err(error) = self.write(batch)
                    {
                        self.fail(error);
                    }
                }
            });
        }
    }

    fn fail(&self, error: RepositoryError) {
        self.failed.store(true, Ordering::Relaxed);
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Takes a file that was just created, to be filled.
    pub(super) fn add(
        &self,
        file: File,
        path: PathBuf,
        metadata: EntryMetadata,
        pieces: Vec<Piece>,
    ) -> Result<(), RepositoryError> {
        let missing = AtomicUsize::new(pieces.len());
        let target = Arc::new(Target { file, path, metadata, missing });
        if pieces.is_empty() {
            return self.end_of(&target);
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.2 += 1;
        for piece in pieces {
            open.1 += u64::from(piece.place.size());
            open.0.push((target.clone(), piece));
            if open.1 >= BATCH_BYTES {
                self.send(&mut open);
            }
        }
        if open.2 >= BATCH_FILES {
            self.send(&mut open);
        }
        if self.failed.load(Ordering::Relaxed) {
            // Replaced by the worker's own error; see `finish`.
            return Err(RepositoryError::target(
                "continue at",
                &target.path,
                io::ErrorKind::Interrupted.into(),
            ));
        }
        Ok(())
    }

    fn send(&self, open: &mut (Batch, u64, usize)) {
        let (batch, ..) = std::mem::take(open);
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(queue), false) = (queue.as_ref(), batch.is_empty()) {
            // Fails only when all workers are gone, and then one of them has left its error.
            let _ = queue.send(batch);
        }
    }

    /// No more files: the workers end when all batches are done.
    pub(super) fn close(&self) {
        self.send(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner));
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// After the workers ended.
    pub(super) fn finish(&self) -> Result<Progress, RepositoryError> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error),
            None => Ok(self.ledger.done()),
        }
    }

    fn end_of(&self, target: &Target) -> Result<(), RepositoryError> {
        self.attributes.of_open(&target.file, &target.path, &target.metadata)?;
        self.ledger.add_file();
        Ok(())
    }

    fn write(&self, mut batch: Batch) -> Result<(), RepositoryError> {
        batch.sort_by(|(_, a), (_, b)| (&a.place.pack, a.place.offset).cmp(&(&b.place.pack, b.place.offset)));
        let mut rest = batch.as_slice();
        while let Some(count) = neighbours(rest) {
            let (run, after) = rest.split_at(count);
            rest = after;
            self.write_run(run)?;
        }
        Ok(())
    }

    /// Pieces whose blobs lie side by side in one pack: one read.
    fn write_run(&self, run: &[(Arc<Target>, Piece)]) -> Result<(), RepositoryError> {
        let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else { return Ok(()) };
        let start = first.place.offset;
        let known_zero = |place: &BlobPlace| {
            self.zeros.read().unwrap_or_else(PoisonError::into_inner).contains(&place.name)
        };
        let sealed = if run.iter().all(|(_, piece)| known_zero(&piece.place)) {
            None
        } else {
            let end = last.place.offset.saturating_add(last.place.length);
            let storage = &self.reader.repository.inner.storage;
            let read =
                storage.read_range(FileKind::Pack, &first.place.pack, start.into(), (end - start) as usize);
            Some(read.map_err(|e| self.reader.repository.storage_error(e))?)
        };
        // Sorted, so that pieces of the same blob follow each other.
        let mut opened: Option<(&str, Vec<u8>)> = None;
        for (target, piece) in run {
            let place = &piece.place;
            if let Some(sealed) = sealed.as_ref().filter(|_| !known_zero(place)) {
                if opened.as_ref().is_none_or(|(name, _)| *name != place.name) {
                    let from = (place.offset - start) as usize;
                    let sealed = sealed.get(from..from + place.length as usize).unwrap_or_default();
                    let plain = self.reader.open_blob(place, sealed)?;
                    if plain.len() >= LARGE && is_zero(&plain) {
                        self.zeros.write().unwrap_or_else(PoisonError::into_inner).insert(place.name.clone());
                    }
                    opened = Some((&place.name, plain));
                }
                if let Some((_, plain)) = &opened {
                    write_with_holes(&target.file, piece.offset, plain)
                        .map_err(|e| RepositoryError::target("write", &target.path, e))?;
                }
            }
            self.ledger.add_bytes(place.size().into());
            self.ledger.report();
            if target.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.end_of(target)?;
            }
        }
        Ok(())
    }
}

/// How many of these sorted pieces one read serves; `None` at the end.
fn neighbours(pieces: &[(Arc<Target>, Piece)]) -> Option<usize> {
    let (_, first) = pieces.first()?;
    let mut end = first.place.offset.saturating_add(first.place.length);
    let mut count = 1;
    for (_, next) in &pieces[1..] {
        let next = &next.place;
        let next_end = next.offset.saturating_add(next.length);
        let near = next.pack == first.place.pack
            && next.offset <= end.saturating_add(GAP)
            && next_end - first.place.offset <= READ.max(first.place.length);
        if !near {
            break;
        }
        end = end.max(next_end);
        count += 1;
    }
    Some(count)
}

fn is_zero(bytes: &[u8]) -> bool {
    static ZEROS: [u8; BLOCK] = [0; BLOCK];
    bytes.chunks(BLOCK).all(|block| block == &ZEROS[..block.len()])
}

/// Writes everything but blocks of zeros, which are holes already; blocks as they lie in the file.
fn write_with_holes(file: &File, offset: u64, content: &[u8]) -> io::Result<()> {
    let mut position = 0;
    let mut unwritten = 0;
    while position < content.len() {
        let in_block = usize::try_from((offset + position as u64) % BLOCK as u64).unwrap_or(0);
        let end = content.len().min(position + BLOCK - in_block);
        if is_zero(&content[position..end]) {
            if unwritten < position {
                file.write_all_at(&content[unwritten..position], offset + unwritten as u64)?;
            }
            unwritten = end;
        }
        position = end;
    }
    if unwritten < content.len() {
        file.write_all_at(&content[unwritten..], offset + unwritten as u64)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn holes_lie_on_blocks_of_the_file_and_content_around_them_is_kept() {
        let mut content = vec![0; 20 * BLOCK];
        content[0] = 1;
        content[10 * BLOCK - 1] = 2;
        content[20 * BLOCK - 1] = 3;
        for offset in [0, 1, 100, 4096] {
            let file = tempfile::tempfile().expect("a file");
            file.set_len(offset + content.len() as u64).expect("room");
            write_with_holes(&file, offset, &content).expect("written");
            let mut read = vec![9; content.len()];
            file.read_exact_at(&mut read, offset).expect("read");
            assert!(read == content, "offset {offset}");
            let blocks = file.metadata().expect("stat").blocks() * 512;
            assert!(blocks <= 6 * BLOCK as u64, "offset {offset}: {blocks} bytes on disk");
        }
    }
}

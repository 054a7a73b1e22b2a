//! `copy`: plain copies of files, made while their application is held. Works everywhere, costs the time it
//! takes to copy, and is refused beforehand where that is longer than the hold may last.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::budget::Limits;
use super::error::{NotSupported, ProviderError};
use super::mirror::{self, Source, Transfer, open_unless_gone};
use super::record::ShadowRecord;
use super::registry::ProviderDescriptor;
use super::{Atomicity, PreparedShadow, Provider, ShadowArea, ShadowRequest};
use crate::volume::{FileSelection, FoundFile, Meta, Root, Volume};

const NAME: &str = "copy";
/// Between two looks at the deadline; a slow disk needs some ten milliseconds for it.
const CHUNK: u64 = 1 << 20;
/// How much is copied to learn how fast the disk is.
const SAMPLE: u64 = 32 << 20;
/// What is held back for folders and the filesystem's own needs, per file.
const PER_FILE: u64 = 4096;

inventory::submit! {
    ProviderDescriptor {
        name: NAME,
        atomicity: Atomicity::None,
        summary: "plain copy of the files while they are held",
        build: || Box::new(CopyProvider),
    }
}

/// The provider.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyProvider;

impl Provider for CopyProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn atomicity(&self) -> Atomicity {
        Atomicity::None
    }

    fn supports(&self, volume: &Volume, files: &[FileSelection], _: &ShadowArea) -> Result<(), NotSupported> {
        if let Some(unheld) = files.iter().find(|f| volume.network && !f.held) {
            // Its attributes are cached for seconds: unchanged ones prove nothing.
            let (path, fs) = (unheld.path.display(), &volume.fs_type);
            return Err(NotSupported::new(format!(
                "{path} is on {fs}, where other hosts write, and nobody holds it"
            )));
        }
        mirror::check_owners(files)
    }

    fn prepare(&self, request: ShadowRequest) -> Result<Box<dyn PreparedShadow>, ProviderError> {
        self.supports(&request.volume, &request.files, &request.area).map_err(|source| {
            ProviderError::NotSupported { provider: NAME.into(), volume: request.volume.id.clone(), source }
        })?;
        let folder = request.area.dir.as_deref().unwrap_or(&request.area.state_dir);
        mirror::prepare(NAME, folder, &request, Copying)
    }

    fn delete(&self, record: &ShadowRecord) -> Result<(), ProviderError> {
        mirror::delete(record)
    }
}

struct Copying;

impl Transfer for Copying {
    fn transfer(&self, source: &Source<'_>, limits: Limits<'_>) -> Result<(), ProviderError> {
        let size = source.meta.size;
        let mut at = 0;
        while at < size {
            let Some((data, hole)) = next_data(source.from, at, size)
                .map_err(|e| ProviderError::io("find the holes of", source.path, e))?
            else {
                break;
            };
            at = data;
            while at < hole {
                limits.check()?;
                let copied = chunk(source, at, (hole - at).min(CHUNK))?;
                if copied == 0 {
                    // Shorter than it was: the verification of the size says so.
                    return Ok(());
                }
                at += copied;
            }
        }
        // What ends with a hole has its length from here.
        source.to.set_len(size).map_err(|e| ProviderError::io("write", source.shadow, e))
    }

    fn reserve(&self, to: &File, meta: &Meta, shadow: &Path) -> Result<(), ProviderError> {
        if meta.size == 0 || meta.sparse() {
            return Ok(());
        }
        match rustix::fs::fallocate(to, FallocateFlags::KEEP_SIZE, 0, meta.size) {
            // Some filesystems cannot; there the space was at least counted.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(e) => Err(ProviderError::io("reserve space for", shadow, e)),
        }
    }

    fn rehearse(&self, files: &[(&Root, &FoundFile)], shadow: &Root) -> Result<Duration, ProviderError> {
        let total: u64 = files.iter().map(|(_, f)| bytes(&f.meta)).sum();
        if total == 0 {
            return Ok(Duration::ZERO);
        }
        let mut largest: Vec<_> = files.iter().collect();
        largest.sort_by_key(|(_, f)| std::cmp::Reverse(bytes(&f.meta)));
        let (to, path) = scratch_file(shadow)?;
        let begun = Instant::now();
        let mut sampled = 0;
        for (root, file) in largest {
            if sampled >= SAMPLE {
                break;
            }
            let Some((from, meta)) = open_unless_gone(root, file)? else { continue };
            let meta = Meta { size: meta.size.min(SAMPLE - sampled), ..meta };
            let source = Source { from: &from, meta: &meta, path: &file.path, to: &to, shadow: &path };
            self.transfer(&source, Limits::default())?;
            sampled += bytes(&meta).max(1);
        }
        // A disk takes some of it into its memory and then becomes slow; what it really takes counts.
        rustix::fs::fdatasync(&to).map_err(|e| ProviderError::io("flush", &path, e))?;
        if sampled == 0 {
            return Ok(Duration::ZERO);
        }
        Ok(scale(begun.elapsed(), total, sampled))
    }

    fn check_space(&self, files: &[(&Root, &FoundFile)], area: &Root) -> Result<(), ProviderError> {
        let needed = files.iter().map(|(_, f)| bytes(&f.meta) + PER_FILE).sum();
        let mut available = available(area)?;
        if needed > available {
            // What was deleted a moment ago counts as free only once the journal is written.
            rustix::fs::syncfs(area.as_fd()).map_err(|e| ProviderError::io("flush", area.path(), e))?;
            available = self::available(area)?;
        }
        if needed > available {
            let (needed, available) = (Some(needed), Some(available));
            return Err(ProviderError::NoSpace { path: area.path().into(), needed, available });
        }
        Ok(())
    }
}

/// Bytes free to us where the copies go.
fn available(area: &Root) -> Result<u64, ProviderError> {
    let stat = rustix::fs::fstatvfs(area.as_fd())
        .map_err(|e| ProviderError::io("ask for the space in", area.path(), e))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// What copying a file moves.
fn bytes(meta: &Meta) -> u64 {
    meta.size.min(meta.allocated.max(PER_FILE))
}

/// Half as much again: writers that wait for their thaw pay for every guess that was too low.
fn scale(measured: Duration, total: u64, sampled: u64) -> Duration {
    let nanos = measured.as_nanos().saturating_mul(total.into()) / u128::from(sampled.max(1));
    Duration::from_nanos(u64::try_from(nanos / 2 * 3).unwrap_or(u64::MAX))
}

/// The next range with content at or after `at`; `None` if only a hole follows.
fn next_data(from: &File, at: u64, size: u64) -> rustix::io::Result<Option<(u64, u64)>> {
    let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
        Ok(data) => data,
        Err(Errno::NXIO) => return Ok(None),
        // The filesystem does not say where holes are.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(e) => return Err(e),
    };
    if data >= size {
        return Ok(None);
    }
    let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?;
    Ok(Some((data, hole.clamp(data, size))).filter(|(data, hole)| data < hole))
}

/// Copies up to `length` bytes at `at`, in the kernel where it can. Zero at the end of the file.
fn chunk(source: &Source<'_>, at: u64, length: u64) -> Result<u64, ProviderError> {
    let wanted = usize::try_from(length).unwrap_or(usize::MAX);
    let (mut from_at, mut to_at) = (at, at);
    match rustix::fs::copy_file_range(source.from, Some(&mut from_at), source.to, Some(&mut to_at), wanted) {
        Ok(copied) if copied > 0 => return Ok(copied as u64),
        // Some filesystems answer nothing where there is something; reading tells.
        Ok(_) | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {}
        Err(Errno::INTR) => return chunk(source, at, length),
        // The call does not say which side failed, but only one side can be full.
        Err(e) => return Err(ProviderError::io("copy to", source.shadow, e)),
    }
    let mut buffer = vec![0_u8; wanted];
    let read = loop {
        match source.from.read_at(&mut buffer, at) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other.map_err(|e| ProviderError::io("read", source.path, e))?,
        }
    };
    source.to.write_all_at(&buffer[..read], at).map_err(|e| ProviderError::io("write", source.shadow, e))?;
    Ok(read as u64)
}

/// A file without a name, gone when it is closed.
pub(super) fn scratch_file(folder: &Root) -> Result<(File, std::path::PathBuf), ProviderError> {
    let path = folder.path().join("rehearsal");
    let fail = |e| ProviderError::io("create", &path, e);
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::openat(folder.as_fd(), ".", flags | OFlags::TMPFILE, mode) {
        Ok(file) => return Ok((file.into(), path)),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
        Err(e) => return Err(fail(e)),
    }
    let name = ".rehearsal";
    let flags = flags | OFlags::CREATE | OFlags::EXCL;
    let file = rustix::fs::openat(folder.as_fd(), name, flags, mode).map_err(fail)?;
    rustix::fs::unlinkat(folder.as_fd(), name, rustix::fs::AtFlags::empty()).map_err(fail)?;
    Ok((file.into(), path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_grows_with_the_bytes_and_never_overflows() {
        assert_eq!(scale(Duration::from_millis(100), 400, 100), Duration::from_millis(600));
        assert_eq!(scale(Duration::from_secs(1000), u64::MAX, 1), Duration::from_nanos(u64::MAX));
        assert_eq!(scale(Duration::from_millis(2), 10, 0), Duration::from_millis(30));
    }
}

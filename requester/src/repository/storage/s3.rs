//! A repository in a bucket that speaks S3, in restic's layout.
//! Owns: requests, retries, and what an answer of the server means for us.
//!
//! An object appears whole or not at all, and is listed as soon as its write is answered: nothing else is needed for
//! [`Storage`]'s contract.

use std::{
    error::Error as _,
    fmt, io,
    sync::{Mutex, Once, OnceLock, PoisonError, mpsc},
    time::Duration,
};

use bytes::Bytes;
use opendal::{
    Buffer, EntryMode, Error, ErrorKind, Operator,
    layers::{RetryLayer, TimeoutLayer},
    services::S3,
};
use tokio::runtime::{Builder, Runtime};

use super::{
    super::{
        error::RepositoryError,
        location::{S3Options, S3Place},
    },
    FileKind, Storage, StorageError, StorageErrorKind,
};

/// For one request without content, and for one step of a transfer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests are made on threads of its own: callers may be on any.
const THREADS: usize = 2;

/// A bucket, or a prefix in it.
pub struct S3Storage {
    operator: Operator,
    location: String,
    runtime: &'static Runtime,
}

impl fmt::Debug for S3Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Storage({})", self.location)
    }
}

/// One runtime for the process, never shut down: the HTTP client keeps its connections on the one that first used it.
fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    static MAKING: Mutex<()> = Mutex::new(());
    // One at a time: a second one would have to be dropped, which panics on a thread that drives a runtime.
    let _one_at_a_time = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let new = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .thread_name("repository-s3")
        .enable_all()
        .build()?;
    Ok(RUNTIME.get_or_init(|| new))
}

impl S3Storage {
    /// Contacts nobody yet.
    pub fn new(location: &str, place: &S3Place, options: &S3Options) -> Result<Self, RepositoryError> {
        // The client takes the process's provider of cryptography; one that is set already is as good.
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
            opendal_http_transport_reqwest::install_default();
        });
        let invalid =
            |reason: String| RepositoryError::InvalidLocation { location: location.to_owned(), reason };
        let mut service = S3::default()
            .endpoint(&place.endpoint)
            .bucket(&place.bucket)
            .root(&place.prefix)
            .region(&options.region)
            // Only what the caller gave: no environment, no files of a home folder, no questions to a cloud's host.
            .disable_config_load()
            .disable_ec2_metadata();
        if options.access_key_id.is_empty() {
            service = service.skip_signature();
        } else {
            service =
                service.access_key_id(&options.access_key_id).secret_access_key(&options.secret_access_key);
        }
        if let Some(token) = &options.session_token {
            service = service.session_token(token);
        }
        let operator = Operator::new(service).map_err(|error| invalid(error.to_string()))?;
        let operator = operator
            .layer(TimeoutLayer::new().with_timeout(PATIENCE).with_io_timeout(PATIENCE))
            .layer(RetryLayer::new().with_max_times(5).with_jitter());
        let runtime = runtime().map_err(|error| invalid(error.to_string()))?;
        Ok(Self { operator, location: location.to_owned(), runtime })
    }

    /// Makes a request and waits for its answer.
    ///
    /// Not by `block_on`: a session gives its lock back on a thread that drives a runtime already, and no thread can
    /// drive two.
    fn wait<T: Send + 'static, F>(
        &self,
        path: &str,
        request: impl FnOnce(Operator, String) -> F,
    ) -> Result<T, StorageError>
    where
        F: Future<Output = opendal::Result<T>> + Send + 'static,
    {
        let (sender, answer) = mpsc::sync_channel(1);
        let request = request(self.operator.clone(), path.to_owned());
        self.runtime.spawn(async move {
            // Whoever asked waits for it below.
            let _ = sender.send(request.await);
        });
        let ended = || io::Error::other("the request ended without an answer");
        let answer = answer.recv().map_err(|_| StorageError::new(path, ended()))?;
        answer.map_err(|error| failed(path, &error))
    }
}

fn failed(path: &str, error: &Error) -> StorageError {
    let source = to_io(error);
    // Told apart from an object that is missing: there is no place at all to put one.
    if error.message().contains("NoSuchBucket") {
        return StorageError { kind: StorageErrorKind::NoBucket, path: path.to_owned(), source };
    }
    StorageError::new(path, source)
}

/// What the server said and why, without the request that it answers.
fn words(error: &Error) -> String {
    let mut words = error.kind().to_string();
    let mut add = |more: String| {
        if !more.is_empty() && !words.contains(&more) {
            words = format!("{words}: {more}");
        }
    };
    add(error.message().to_owned());
    let mut cause = error.source();
    while let Some(error) = cause {
        add(error.to_string());
        cause = error.source();
    }
    words
}

fn to_io(error: &Error) -> io::Error {
    let text = words(error);
    // Servers have codes of their own for a full disk; they reach us as text only.
    let is_full =
        ["StorageFull", "QuotaExceeded", "InsufficientStorage"].iter().any(|code| text.contains(code));
    let is = |kind| error.kind() == kind;
    let kind = if is(ErrorKind::NotFound) {
        io::ErrorKind::NotFound
    } else if is(ErrorKind::PermissionDenied) {
        io::ErrorKind::PermissionDenied
    } else if is(ErrorKind::RangeNotSatisfied) {
        io::ErrorKind::UnexpectedEof
    } else if is_full {
        io::ErrorKind::StorageFull
    } else {
        io::ErrorKind::Other
    };
    io::Error::new(kind, text)
}

fn folder(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Config => "",
        FileKind::Key => "keys/",
        FileKind::Lock => "locks/",
        FileKind::Snapshot => "snapshots/",
        FileKind::Index => "index/",
        FileKind::Pack => "data/",
    }
}

fn path(kind: FileKind, name: &str) -> String {
    match (kind, name.get(..2)) {
        (FileKind::Pack, Some(shard)) => format!("data/{shard}/{name}"),
        _ => format!("{}{name}", folder(kind)),
    }
}

fn short(path: &str, wanted: usize, got: usize) -> StorageError {
    let text = format!("{wanted} bytes were asked for, {got} came");
    StorageError::new(path, io::Error::new(io::ErrorKind::UnexpectedEof, text))
}

impl Storage for S3Storage {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn create(&self) -> Result<(), StorageError> {
        Ok(())
    }

    fn list(&self, kind: FileKind) -> Result<Vec<(String, u64)>, StorageError> {
        if kind == FileKind::Config {
            let stat = self.wait("config", |bucket, path| async move { bucket.stat(&path).await });
            return match stat {
                Ok(found) => Ok(vec![("config".to_owned(), found.content_length())]),
                Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(error) => Err(error),
            };
        }
        let folder = folder(kind);
        let found = self
            .wait(folder, |bucket, folder| async move { bucket.list_with(&folder).recursive(true).await })?;
        let files = found.into_iter().filter(|entry| entry.metadata().mode() == EntryMode::FILE);
        let named = files.map(|entry| (entry.name().to_owned(), entry.metadata().content_length()));
        Ok(named.filter(|(name, _)| super::local::is_name(name)).collect())
    }

    fn read(&self, kind: FileKind, name: &str) -> Result<Bytes, StorageError> {
        let content = self.wait(&path(kind, name), |bucket, path| async move { bucket.read(&path).await })?;
        Ok(content.to_bytes())
    }

    fn read_range(
        &self,
        kind: FileKind,
        name: &str,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, StorageError> {
        let path = path(kind, name);
        if length == 0 {
            return Ok(Bytes::new());
        }
        let range = offset..offset.saturating_add(length as u64);
        let read = self.wait(&path, |bucket, path| async move { bucket.read_with(&path).range(range).await });
        let content = read?.to_bytes();
        if content.len() != length {
            return Err(short(&path, length, content.len()));
        }
        Ok(content)
    }

    fn write(&self, kind: FileKind, name: &str, content: &[Bytes]) -> Result<(), StorageError> {
        let content = Buffer::from(content.to_vec());
        let written =
            self.wait(&path(kind, name), |bucket, path| async move { bucket.write(&path, content).await });
        written.map(drop)
    }

    fn remove(&self, kind: FileKind, name: &str) -> Result<(), StorageError> {
        self.wait(&path(kind, name), |bucket, path| async move {
            // S3 answers a removal of nothing with success.
            bucket.stat(&path).await?;
            bucket.delete(&path).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{ptr, sync::Barrier, thread};

    use super::*;

    #[test]
    fn threads_that_drive_runtimes_of_their_own_may_all_be_the_first() {
        const THREADS: usize = 8;
        let together = Barrier::new(THREADS);
        let first = || {
            let own = Builder::new_current_thread().build().expect("a runtime");
            own.block_on(async {
                together.wait();
                runtime().expect("the runtime")
            })
        };
        let all: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(first)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(all.iter().all(|one| ptr::eq(*one, all[0])));
    }
}

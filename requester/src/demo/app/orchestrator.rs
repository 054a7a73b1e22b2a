//! An orchestrator: secrets and workflows as files, the secrets encrypted with a key file, every write under a lock.
//!
//! A workflow is written after the secret it names and runs as an account that the directory had acknowledged before.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Instant;

use base64ct::{Base64, Encoding};
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::{AppError, Application, BUSY_TIMEOUT, Written, random};
use crate::demo::ack::{self, digest};
use crate::demo::durable;
use crate::demo::places::{DIRECTORY, ORCHESTRATOR, Places};

/// Every so manieth secret comes with a workflow.
const WORKFLOW_EVERY: u64 = 5;
/// Between two tries for the lock.
const LOCK_RETRY: std::time::Duration = std::time::Duration::from_millis(1);

/// A secret as it lies on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SecretFile {
    n: u64,
    begun_ns: u64,
    /// Base64.
    nonce: String,
    /// Base64: ChaCha20-Poly1305 over the secret, bound to the file's name.
    sealed: String,
}

/// A running orchestrator.
pub(super) struct Orchestrator {
    places: Places,
    cipher: ChaCha20Poly1305,
}

pub(super) fn create(places: &Places) -> Result<(), AppError> {
    for folder in [places.application(ORCHESTRATOR), places.secrets(), places.workflows()] {
        durable::private_folder(&folder).map_err(AppError::io("create", &folder))?;
    }
    let (path, key) = (places.encryption_key(), Zeroizing::new(random::<32>()?));
    let text = Zeroizing::new(format!("{}\n", &*Zeroizing::new(Base64::encode_string(key.as_slice()))));
    durable::write(&path, text.as_bytes(), 0o600).map_err(AppError::io("write", &path))?;
    open_lock(&places.orchestrator_lock()).map(drop)
}

impl Orchestrator {
    pub(super) fn open(places: &Places) -> Result<Self, AppError> {
        let key = read_key(&places.encryption_key())?;
        let orchestrator =
            Self { places: places.clone(), cipher: ChaCha20Poly1305::new(Key::from_slice(key.as_slice())) };
        Ok(orchestrator)
    }

    /// Opened anew for every write: after a restore the file at that path is another one.
    fn lock(&self) -> Result<File, AppError> {
        let path = self.places.orchestrator_lock();
        let file = open_lock(&path)?;
        let deadline = Instant::now() + BUSY_TIMEOUT;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(AppError::Busy { what: "the lock file" }),
                Err(error) => return Err(AppError::io("lock", &path)(error.into())),
            }
        }
    }
}

impl Application for Orchestrator {
    fn next(&self) -> Result<u64, AppError> {
        let folder = self.places.secrets();
        let _lock = self.lock()?;
        let mut greatest = 0;
        for entry in std::fs::read_dir(&folder).map_err(AppError::io("list", &folder))? {
            let path = entry.map_err(AppError::io("list", &folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with(durable::UNFINISHED) {
                // Left by a kill. Nobody was told of it.
                std::fs::remove_file(&path).map_err(AppError::io("remove", &path))?;
            } else if let Some(number) = name.strip_suffix(".json").and_then(|name| name.parse().ok()) {
                greatest = greatest.max(number);
            }
        }
        Ok(greatest + 1)
    }

    fn write(&mut self, n: u64, begun_ns: u64) -> Result<Written, AppError> {
        let id = format!("{n:06}.json");
        let nonce = random::<12>()?;
        let secret = Zeroizing::new(json!({"token": ack::hex(&random::<16>()?)}).to_string());
        let sealed = self
            .cipher
            .encrypt(Nonce::from_slice(&nonce), Payload { msg: secret.as_bytes(), aad: id.as_bytes() })
            .map_err(|_| unusable(&self.places.encryption_key(), "it does not encrypt"))?;
        let file = SecretFile {
            n,
            begun_ns,
            nonce: Base64::encode_string(&nonce),
            sealed: Base64::encode_string(&sealed),
        };
        let secret = to_json(&file, &self.places.secrets())?;
        let workflow = n.is_multiple_of(WORKFLOW_EVERY).then(|| {
            json!({
                "name": format!("nightly-{n:06}"),
                "secret": id,
                "runs-as": ack::latest(&self.places.acks(), DIRECTORY).map(|ack| ack.id),
            })
            .to_string()
        });

        let _lock = self.lock()?;
        let put = |folder: &Path, bytes: &[u8]| {
            let path = folder.join(&id);
            durable::write(&path, bytes, 0o600).map_err(AppError::io("write", &path))
        };
        put(&self.places.secrets(), &secret)?;
        if let Some(workflow) = &workflow {
            put(&self.places.workflows(), workflow.as_bytes())?;
        }
        Ok(Written { digest: digest(&[&secret, workflow.unwrap_or_default().as_bytes()]), id })
    }
}

/// Whether write `n` comes with a workflow.
pub(in crate::demo) fn workflow_for(n: u64) -> bool {
    n.is_multiple_of(WORKFLOW_EVERY)
}

/// Reads the key file.
///
/// # Errors
/// [`AppError::Io`], [`AppError::Unusable`].
pub(in crate::demo) fn read_key(path: &Path) -> Result<Zeroizing<[u8; 32]>, AppError> {
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(AppError::io("read", path))?);
    let mut key = Zeroizing::new([0; 32]);
    match Base64::decode(text.trim_end(), key.as_mut_slice()) {
        Ok(bytes) if bytes.len() == 32 => Ok(key),
        Ok(_) | Err(_) => Err(unusable(path, "expected 32 bytes in base64")),
    }
}

/// The number of the secret `name` and when it was begun, if `bytes` are that secret and it decrypts under `key`.
pub(in crate::demo) fn open_secret(key: &[u8; 32], name: &str, bytes: &[u8]) -> Option<(u64, u64)> {
    let file: SecretFile = serde_json::from_slice(bytes).ok()?;
    let nonce: [u8; 12] = Base64::decode_vec(&file.nonce).ok()?.try_into().ok()?;
    let sealed = Base64::decode_vec(&file.sealed).ok()?;
    let payload = Payload { msg: &sealed, aad: name.as_bytes() };
    ChaCha20Poly1305::new(Key::from_slice(key)).decrypt(Nonce::from_slice(&nonce), payload).ok()?;
    Some((file.n, file.begun_ns))
}

fn open_lock(path: &Path) -> Result<File, AppError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(AppError::io("open", path))
}

fn to_json(file: &SecretFile, folder: &Path) -> Result<Vec<u8>, AppError> {
    serde_json::to_vec(file).map_err(|error| AppError::io("write", folder)(error.into()))
}

fn unusable(path: &Path, problem: &str) -> AppError {
    AppError::Unusable { path: path.to_owned(), problem: problem.to_owned() }
}

//! Seals the declared keys and proves that they fit (promise P9).
//! Owns: reading a key file with its certificate, what a failure means for the set.
//! Leaves to others: reading, sealing and proving themselves (`holdfast-store-keys`).

use std::path::{Path, PathBuf};

use holdfast_store_keys::{KeyError, Recipient, key_fingerprint, prove_pair, read_key_file, seal};
use holdfast_writer_api::{Cause, ComponentRef, KeyFile, KeySeal, SealedKey, WriterError};

/// What is said of a key whose public half cannot be derived.
const UNKNOWN: &str = "unknown";

/// Seals each of `keys` to `recipients`. None is left out: the first that cannot be sealed ends it.
pub(super) fn seal_all(
    writer: &str,
    component: &ComponentRef,
    keys: &[KeyFile],
    recipients: &[String],
) -> Result<Vec<SealedKey>, WriterError> {
    let recipients: Vec<_> = recipients
        .iter()
        .map(|text| Recipient::parse(text))
        .collect::<Result<_, _>>()
        .map_err(|error| key_error(writer, &error))?;
    keys.iter().map(|key| seal_one(writer, component, key, &recipients)).collect()
}

fn seal_one(
    writer: &str,
    component: &ComponentRef,
    key: &KeyFile,
    recipients: &[Recipient],
) -> Result<SealedKey, WriterError> {
    let file = read_key_file(&key.path).map_err(|error| key_error(writer, &error))?;
    let (fingerprint, proof) = prove(writer, &key.path, &file.content, key.certificate.as_deref())?;
    let sealed = seal(&file.content, recipients).map_err(|error| key_error(writer, &error))?;
    Ok(SealedKey {
        component: component.clone(),
        path: key.path.clone(),
        purpose: key.purpose.clone(),
        fingerprint,
        proof,
        mode: file.mode,
        uid: file.uid,
        gid: file.gid,
        sealed,
    })
}

/// Fingerprint and proof of a key. A key that is certainly wrong is an error; one that merely cannot be judged is not.
pub(super) fn prove(
    writer: &str,
    path: &Path,
    key: &[u8],
    certificate: Option<&Path>,
) -> Result<(String, KeySeal), WriterError> {
    let Some(certificate) = certificate else {
        // Not every secret is a key pair: what has no public half has no fingerprint that could be published.
        let fingerprint = key_fingerprint(key, None).unwrap_or_else(|_| UNKNOWN.into());
        return Ok((fingerprint, KeySeal::NotProved { why: "no certificate is named for it".into() }));
    };
    let public = read_key_file(certificate).map_err(|error| key_error(writer, &error))?;
    match prove_pair(key, &public.content, None) {
        Ok(proof) => Ok((proof.fingerprint, KeySeal::Proved { algorithm: proof.algorithm.to_string() })),
        Err(error) if error.is_unproven() => {
            let fingerprint = key_fingerprint(key, None).unwrap_or_else(|_| UNKNOWN.into());
            Ok((fingerprint, KeySeal::NotProved { why: error.to_string() }))
        }
        Err(error) => Err(key_error(writer, &Named { path: path.to_owned(), source: error })),
    }
}

/// Which key it is about.
#[derive(Debug, thiserror::Error)]
#[error("the key `{}` does not fit", path.display())]
struct Named {
    path: PathBuf,
    source: KeyError,
}

fn key_error(writer: &str, error: &(dyn std::error::Error + 'static)) -> WriterError {
    WriterError::Key { writer: writer.to_owned(), cause: Cause::from_error(error) }
}

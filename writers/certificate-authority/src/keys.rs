//! Proves and seals the CA's keys, at backup and again at restore (promise P9).
//! Owns: which certificate a key is proved against, where its passphrase comes from, what is said of it in the set.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_store_keys::{
    KeyError, KeyFile, KeyFileError, Recipient, fingerprint_sealed, key_fingerprint, prove_pair,
    read_key_file, seal,
};
use holdfast_writer_api::{Cause, ComponentRef, KeySeal, SealedKey, WriterError};
use zeroize::Zeroizing;

use crate::components::KEYS;
use crate::installation::{CertificateSource, Installation, Key, Passphrase};

/// What came of proving a key.
#[derive(Debug)]
pub(crate) struct Proved {
    pub(crate) seal: KeySeal,
    /// Of its public half, when that could be derived.
    pub(crate) fingerprint: Option<String>,
}

/// Reads and proves every key; what an administrator should know of them.
pub(crate) fn prove_all(id: &str, found: &Installation) -> Result<Vec<String>, WriterError> {
    let mut warnings = Vec::new();
    for key in &found.keys {
        let file = read(id, key)?;
        warnings.extend(file.warning.as_ref().map(ToString::to_string));
        let proved = prove_file(id, found, key, &file)?;
        // That an opaque secret is not proved is what its entry says already.
        if let (KeySeal::NotProved { why }, false) = (&proved.seal, key.is_opaque()) {
            warnings.push(format!(
                "{} `{}` is sealed but not proved: {why}",
                key.purpose,
                key.path.display()
            ));
        }
    }
    Ok(warnings)
}

/// Proves every key once more, as it is now, and seals it.
pub(crate) fn seal_all(
    id: &str,
    found: &Installation,
    recipients: &[String],
) -> Result<Vec<SealedKey>, WriterError> {
    let fails = |why: String, source: &dyn std::error::Error| WriterError::Key {
        writer: id.into(),
        cause: Cause::new(format!("{why}: {source}")),
    };
    let recipients: Vec<Recipient> = recipients
        .iter()
        .map(|text| Recipient::parse(text).map_err(|error| fails("recipient".into(), &error)))
        .collect::<Result<_, _>>()?;
    let mut sealed = Vec::with_capacity(found.keys.len());
    for key in &found.keys {
        let file = read(id, key)?;
        let proved = prove_file(id, found, key, &file)?;
        let bytes = seal(&file.content, &recipients)
            .map_err(|error| fails(format!("{} `{}`", key.purpose, key.path.display()), &error))?;
        sealed.push(SealedKey {
            component: ComponentRef { path: String::new(), name: KEYS.into() },
            path: key.path.clone(),
            purpose: key.purpose.clone(),
            // Of an opaque secret nothing may be published that could be found again by trying.
            fingerprint: proved.fingerprint.unwrap_or_else(|| fingerprint_sealed(&bytes)),
            proof: proved.seal,
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
            sealed: bytes,
        });
    }
    Ok(sealed)
}

fn read(id: &str, key: &Key) -> Result<KeyFile, WriterError> {
    read_key_file(&key.path).map_err(|error| unreadable(id, &error))
}

pub(crate) fn unreadable(id: &str, error: &KeyFileError) -> WriterError {
    let denied = matches!(error, KeyFileError::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied);
    let (writer, cause) = (id.to_owned(), Cause::from_error(error));
    if denied { WriterError::Denied { writer, cause } } else { WriterError::Key { writer, cause } }
}

fn prove_file(id: &str, found: &Installation, key: &Key, file: &KeyFile) -> Result<Proved, WriterError> {
    let certificates = match &key.certificate {
        CertificateSource::Known(pem) => pem.clone(),
        CertificateSource::File(path) => read_certificates(id, std::slice::from_ref(path), &[])?,
        CertificateSource::Declared => read_certificates(id, &found.certificates, &found.known_certificates)?,
        CertificateSource::None => {
            return Ok(Proved {
                seal: KeySeal::NotProved { why: "an opaque secret".into() },
                fingerprint: None,
            });
        }
    };
    let passphrase = passphrase(id, key.passphrase.as_ref())?;
    prove(id, key, &file.content, &certificates, passphrase.as_ref().map(|bytes| bytes.as_slice()))
}

/// Proves one key against any of `certificates`.
pub(crate) fn prove(
    id: &str,
    key: &Key,
    content: &[u8],
    certificates: &[u8],
    passphrase: Option<&[u8]>,
) -> Result<Proved, WriterError> {
    match prove_pair(content, certificates, passphrase) {
        Ok(proof) => Ok(Proved {
            seal: KeySeal::Proved { algorithm: proof.algorithm.to_string() },
            fingerprint: Some(proof.fingerprint),
        }),
        Err(error) if error.is_unproven() => Ok(Proved {
            seal: KeySeal::NotProved { why: error.to_string() },
            fingerprint: key_fingerprint(content, passphrase).ok(),
        }),
        Err(error) => Err(does_not_fit(id, key, &error)),
    }
}

fn does_not_fit(id: &str, key: &Key, error: &KeyError) -> WriterError {
    let none = *error == KeyError::NoPrivateKey;
    let hint = if none { "; if it is a secret of another kind, say `opaque = true`" } else { "" };
    let cause = Cause::new(format!("{} `{}`: {error}{hint}", key.purpose, key.path.display()));
    WriterError::Key { writer: id.into(), cause }
}

/// All certificates of `paths`, PEM blocks after one another, or one in DER.
pub(crate) fn read_certificates(id: &str, paths: &[PathBuf], more: &[u8]) -> Result<Vec<u8>, WriterError> {
    let mut all = Vec::new();
    for path in paths {
        // The same rules as for keys: regular, bounded, no link.
        let file = read_key_file(path).map_err(|error| unreadable(id, &error))?;
        all.extend_from_slice(&file.content);
        all.push(b'\n');
    }
    all.extend_from_slice(more);
    // DER ends where it ends.
    if all.first() == Some(&0x30) && all.last() == Some(&b'\n') && paths.len() == 1 {
        all.pop();
    }
    Ok(all)
}

/// The passphrase, from a file that nobody else can read or change.
pub(crate) fn passphrase(
    id: &str,
    from: Option<&Passphrase>,
) -> Result<Option<Zeroizing<Vec<u8>>>, WriterError> {
    match from {
        None => Ok(None),
        Some(Passphrase::Known(bytes)) => Ok(Some(bytes.clone())),
        Some(Passphrase::File(path)) => read_passphrase(id, path).map(Some),
    }
}

fn read_passphrase(id: &str, path: &Path) -> Result<Zeroizing<Vec<u8>>, WriterError> {
    let refused = |why: &str| WriterError::Key {
        writer: id.into(),
        cause: Cause::new(format!("passphrase file `{}` {why}", path.display())),
    };
    let mut file = read_key_file(path).map_err(|error| unreadable(id, &error))?;
    let folder = path.parent().and_then(|folder| std::fs::metadata(folder).ok());
    let own = rustix::process::geteuid().as_raw();
    let foreign = |uid: u32| uid != 0 && uid != own;
    if foreign(file.uid)
        || folder.is_none_or(|folder| foreign(folder.uid()) || folder.mode() & 0o1022 == 0o022)
    {
        return Err(refused("or its folder can be changed by somebody else"));
    }
    if file.mode & 0o077 != 0 {
        return Err(refused("is open to others; make it 0600"));
    }
    while file.content.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        file.content.pop();
    }
    Ok(file.content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_passphrase_file_that_others_could_read_or_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pass");
        fs::write(&path, "geheim\r\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let from = Passphrase::File(path.clone());
        assert_eq!(passphrase("ca", Some(&from)).unwrap().unwrap().as_slice(), b"geheim");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(passphrase("ca", Some(&from)), Err(WriterError::Key { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o722)).unwrap();
        assert!(matches!(passphrase("ca", Some(&from)), Err(WriterError::Key { .. })));
        assert!(passphrase("ca", None).unwrap().is_none());
    }
}

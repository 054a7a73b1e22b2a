//! What one certificate authority consists of: the settings, and what was discovered, brought together.
//! Owns: which files are keys and therefore nowhere else; whether what is named exists and is what it should be.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_writer_api::{Cause, WriterError};
use zeroize::Zeroizing;

use crate::discover::{DiscoverError, cfssl, django_ca};
use crate::settings::{Discovery, Settings, plain_path};

/// Names beside a SQLite database that belong to it.
pub(crate) const SIDE_FILES: [&str; 3] = ["-wal", "-shm", "-journal"];

/// Which product it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Product {
    /// Described by the settings alone.
    #[default]
    Plain,
    Cfssl,
    DjangoCa,
}

/// A certificate authority's parts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Installation {
    pub(crate) product: Product,
    pub(crate) database: PathBuf,
    /// Files with its certificates.
    pub(crate) certificates: Vec<PathBuf>,
    /// Its certificates where they lie in the database, in PEM.
    pub(crate) known_certificates: Vec<u8>,
    pub(crate) keys: Vec<Key>,
    pub(crate) configuration: Vec<PathBuf>,
    pub(crate) dynamic_files: Vec<PathBuf>,
    /// How long it waits for a locked database.
    pub(crate) busy_timeout: Option<Duration>,
    pub(crate) warnings: Vec<String>,
}

/// A key and how to prove it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Key {
    pub(crate) path: PathBuf,
    pub(crate) purpose: String,
    pub(crate) certificate: CertificateSource,
    pub(crate) passphrase: Option<Passphrase>,
}

/// Against what a key is proved.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum CertificateSource {
    /// Any of the CA's certificates.
    Declared,
    /// The one in this file.
    File(PathBuf),
    /// This one, in PEM.
    Known(Vec<u8>),
    /// Nothing: sealed as it is.
    None,
}

/// A key's passphrase. Never shown.
#[derive(Clone, PartialEq)]
pub(crate) enum Passphrase {
    File(PathBuf),
    Known(Zeroizing<Vec<u8>>),
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Known(_) => f.write_str("Known(..)"),
        }
    }
}

impl Key {
    pub(crate) fn new(path: PathBuf, purpose: &str, certificate: CertificateSource) -> Self {
        Self { path, purpose: purpose.to_owned(), certificate, passphrase: None }
    }

    /// A secret in no known form.
    pub(crate) fn opaque(path: PathBuf, purpose: &str) -> Self {
        Self::new(path, purpose, CertificateSource::None)
    }

    pub(crate) fn is_opaque(&self) -> bool {
        self.certificate == CertificateSource::None
    }
}

impl Installation {
    /// Brings the settings and what is discovered together, and looks whether all of it is there.
    ///
    /// # Errors
    /// [`WriterError::Denied`], [`WriterError::Rejected`], and [`WriterError::Key`] for a key that is missing.
    pub(crate) async fn resolve(settings: &Settings, id: &str) -> Result<Self, WriterError> {
        let mut found = match settings.discover.as_ref().map(crate::settings::Discover::discovery).transpose()
        {
            Err(error) => return Err(WriterError::rejected(id, error.to_string())),
            Ok(None) => Self::default(),
            Ok(Some(Discovery::Cfssl(hints))) => {
                cfssl::discover(&hints).map_err(|error| undiscovered(id, &error))?
            }
            Ok(Some(Discovery::DjangoCa { project, python, timeout })) => {
                django_ca::discover(&project, python.as_deref(), timeout)
                    .await
                    .map_err(|error| undiscovered(id, &error))?
            }
        };
        found.add(settings);
        found.settle();
        found.check(id)?;
        Ok(found)
    }

    fn add(&mut self, settings: &Settings) {
        self.database = settings.database.clone().unwrap_or_else(|| std::mem::take(&mut self.database));
        self.certificates.extend(settings.certificate.iter().cloned());
        self.configuration.extend(settings.configuration.iter().cloned());
        self.dynamic_files.extend(settings.dynamic_files.iter().cloned());
        self.busy_timeout = settings.busy_timeout.or(self.busy_timeout);
        for setting in &settings.private_keys {
            let certificate = match (&setting.certificate, setting.opaque) {
                (_, true) => CertificateSource::None,
                (Some(path), false) => CertificateSource::File(path.clone()),
                (None, false) => CertificateSource::Declared,
            };
            let purpose =
                setting.purpose.as_deref().unwrap_or(if setting.opaque { "secret" } else { "CA key" });
            let passphrase = setting.passphrase_file.clone().map(Passphrase::File);
            let key = Key { passphrase, ..Key::new(setting.path.clone(), purpose, certificate) };
            // What a person wrote knows better than what was discovered.
            self.keys.retain(|other| other.path != key.path);
            self.keys.push(key);
        }
    }

    /// A key is a key and nothing else; every file is named once.
    fn settle(&mut self) {
        let mut seen: BTreeSet<PathBuf> = self.keys.iter().map(|key| key.path.clone()).collect();
        // A key in the same file as its certificate: sealed whole, so the certificate travels with it.
        self.certificates.dedup();
        let certificates = self.certificates.clone();
        for list in [&mut self.certificates, &mut self.configuration, &mut self.dynamic_files] {
            list.retain(|path| seen.insert(path.clone()));
        }
        for key in &mut self.keys {
            if key.certificate == CertificateSource::Declared && certificates.contains(&key.path) {
                key.certificate = CertificateSource::File(key.path.clone());
            }
        }
    }

    fn check(&self, id: &str) -> Result<(), WriterError> {
        let named = std::iter::once(&self.database)
            .chain(&self.certificates)
            .chain(&self.configuration)
            .chain(&self.dynamic_files)
            .chain(self.keys.iter().map(|key| &key.path));
        for path in named {
            plain_path(path)
                .map_err(|why| WriterError::rejected(id, format!("`{}` {why}", path.display())))?;
        }
        let database = existing(id, &self.database, "the database")?;
        if !database.is_file() {
            return Err(WriterError::rejected(
                id,
                format!("the database `{}` is not a regular file", self.database.display()),
            ));
        }
        if database.len() == 0 {
            return Err(WriterError::rejected(
                id,
                format!("the database `{}` is empty", self.database.display()),
            ));
        }
        for (paths, what) in [
            (&self.certificates, "the certificate"),
            (&self.configuration, "the configuration"),
            (&self.dynamic_files, "the dynamic files"),
        ] {
            for path in paths {
                let found = existing(id, path, what)?;
                if !(found.is_file() || (found.is_dir() && what != "the certificate")) {
                    return Err(WriterError::rejected(
                        id,
                        format!("{what} `{}`: neither file nor folder", path.display()),
                    ));
                }
            }
        }
        for key in &self.keys {
            let problem = match fs::symlink_metadata(&key.path) {
                Ok(found) if found.is_file() => continue,
                Ok(_) => "is not a regular file; name the key file itself".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    return Err(denied(id, &key.path, &error));
                }
                Err(error) => format!("cannot be found: {error}"),
            };
            let why = format!("{} `{}` {problem}", key.purpose, key.path.display());
            return Err(WriterError::Key { writer: id.into(), cause: Cause::new(why) });
        }
        Ok(())
    }

    /// Files that no file set may contain: the keys, and the database with what belongs to it.
    pub(crate) fn reserved(&self) -> Vec<PathBuf> {
        let beside = |suffix: &str| {
            let mut name = self.database.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let mut reserved: Vec<PathBuf> = self.keys.iter().map(|key| key.path.clone()).collect();
        reserved.push(self.database.clone());
        reserved.extend(SIDE_FILES.map(beside));
        reserved
    }
}

/// A file's or folder's metadata, a link being none.
fn existing(id: &str, path: &Path, what: &str) -> Result<fs::Metadata, WriterError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => Err(WriterError::rejected(
            id,
            format!(
                "{what} `{}` is a symbolic link, which could lead to another user's file",
                path.display()
            ),
        )),
        Ok(found) => Ok(found),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(denied(id, path, &error)),
        Err(error) => Err(WriterError::Rejected {
            writer: id.into(),
            cause: Cause::new(format!("{what} `{}` cannot be found: {error}", path.display())),
        }),
    }
}

pub(crate) fn denied(id: &str, path: &Path, error: &io::Error) -> WriterError {
    WriterError::Denied { writer: id.into(), cause: Cause::new(format!("`{}`: {error}", path.display())) }
}

fn undiscovered(id: &str, error: &DiscoverError) -> WriterError {
    let cause = Cause::from_error(error);
    if error.is_denied() {
        WriterError::Denied { writer: id.into(), cause }
    } else {
        WriterError::Rejected { writer: id.into(), cause }
    }
}

//! Says what an installation is in the contract's words: components, file sets, keys, limits.

use std::path::{Path, PathBuf};

use holdfast_store_sqlite::{DEFAULT_BUDGET, FileRole as SqliteRole, component_files};
use holdfast_writer_api::{
    Capabilities, Component, ComponentKind, ComponentRef, DataSource, FileRole, FileSet, FreezeLevel,
    KeyFile, RestoreMethod, RestorePolicy, RestoreRank, Usage, WriterMetadata, duration::millis,
};

use crate::TYPE;
use crate::installation::{CertificateSource, Installation, Product};
use crate::settings::Settings;
use crate::walk;

/// The names of the components.
pub(crate) const DATABASE: &str = "database";
pub(crate) const KEYS: &str = "keys";
pub(crate) const CERTIFICATES: &str = "certificates";
pub(crate) const CONFIGURATION: &str = "configuration";
pub(crate) const DYNAMIC_FILES: &str = "dynamic-files";

/// The metadata document.
pub(crate) fn metadata(id: &str, settings: &Settings, found: &Installation) -> WriterMetadata {
    let mut warnings = found.warnings.clone();
    if found.keys.is_empty() {
        warnings.push("no private keys are declared: this backup alone cannot bring the CA back".into());
    }
    let watched = watchable(found);
    if let Err(why) = &watched {
        warnings.push(format!(
            "the files beside the database cannot be watched during the cut ({why}): they are cut unheld"
        ));
    }
    let product = match found.product {
        Product::Plain => "certificate authority",
        Product::Cfssl => "cfssl",
        Product::DjangoCa => "django-ca",
    };
    WriterMetadata {
        name: settings.name.clone().unwrap_or_else(|| product.into()),
        version: env!("CARGO_PKG_VERSION").into(),
        usage: Usage::SystemService,
        source: DataSource::TransactedDb,
        restore: RestorePolicy {
            method: RestoreMethod::StopRestoreStart,
            rank: RestoreRank::Services,
            service: settings.service.clone(),
        },
        freeze_level: FreezeLevel::BackEnd,
        freeze_budget_ms: Some(millis(DEFAULT_BUDGET)),
        busy_timeout_ms: found.busy_timeout.map(millis),
        capabilities: Capabilities {
            freeze: true,
            keys: !found.keys.is_empty(),
            recover: true,
            ..Capabilities::default()
        },
        components: components(found, watched.is_ok()),
        warnings,
        ..WriterMetadata::new(TYPE, id)
    }
}

fn components(found: &Installation, watched: bool) -> Vec<Component> {
    let database = Component {
        caption: "the CA's database".into(),
        held: true,
        files: component_files(&found.database)
            .into_iter()
            .map(|file| {
                let role = match file.role {
                    SqliteRole::Database => FileRole::Database,
                    SqliteRole::Wal | SqliteRole::Journal => FileRole::Log,
                };
                FileSet { optional: file.optional, ..FileSet::file(&file.path, role) }
            })
            .collect(),
        ..Component::new(ComponentKind::Database, DATABASE)
    };
    let keys = Component {
        caption: "private keys, sealed".into(),
        keys: found
            .keys
            .iter()
            .map(|key| KeyFile {
                path: key.path.clone(),
                purpose: key.purpose.clone(),
                certificate: match &key.certificate {
                    CertificateSource::File(path) => Some(path.clone()),
                    CertificateSource::Declared | CertificateSource::Known(_) | CertificateSource::None => {
                        None
                    }
                },
            })
            .collect(),
        ..Component::new(ComponentKind::Keys, KEYS)
    };
    let mut components = vec![database];
    if !found.keys.is_empty() {
        components.push(keys);
    }
    let reserved = found.reserved();
    for (name, caption, paths) in [
        (CERTIFICATES, "certificates of the CA", &found.certificates),
        (CONFIGURATION, "configuration", &found.configuration),
        (DYNAMIC_FILES, "files that the CA makes and serves", &found.dynamic_files),
    ] {
        if paths.is_empty() {
            continue;
        }
        let inside = |path: &&PathBuf| paths.iter().any(|set| path.starts_with(set));
        components.push(Component {
            caption: caption.into(),
            held: watched,
            files: paths.iter().map(|path| file_set(path)).collect(),
            exclude: reserved.iter().filter(inside).map(|path| path.display().to_string()).collect(),
            ..Component::new(ComponentKind::FileGroup, name)
        });
    }
    components
}

/// Whether the files beside the database are few enough to be looked at while it is held.
fn watchable(found: &Installation) -> Result<(), walk::WalkError> {
    walk::signature(&static_paths(found, |_| true), &found.reserved()).map(|_| ())
}

/// What lies beside the database, of the components that `chosen` names.
pub(crate) fn static_paths(found: &Installation, chosen: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    [
        (CERTIFICATES, &found.certificates),
        (CONFIGURATION, &found.configuration),
        (DYNAMIC_FILES, &found.dynamic_files),
    ]
    .into_iter()
    .filter(|(name, _)| chosen(name))
    .flat_map(|(_, paths)| paths.iter().cloned())
    .collect()
}

/// A file by name, or a folder with all that is in it.
fn file_set(path: &Path) -> FileSet {
    if path.is_dir() { FileSet::tree(path, FileRole::Data) } else { FileSet::file(path, FileRole::Data) }
}

/// Where a named file of a stored component was.
pub(crate) fn path_of(set: &FileSet) -> PathBuf {
    if set.recursive { set.path.clone() } else { set.path.join(&set.pattern) }
}

/// Whether `name` is among the components of a request.
pub(crate) fn has(components: &[ComponentRef], name: &str) -> bool {
    components.iter().any(|component| component.path.is_empty() && component.name == name)
}

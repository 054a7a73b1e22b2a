//! The writer `files`: files and folders of an application that Holdfast knows nothing else about.
//! Owns: its settings and its metadata.
//! Leaves to others: the hold (`lock`, `backup`), keys (`keys`, `scan`), what comes back (`restore`).

mod backup;
mod keys;
mod lock;
mod restore;
mod scan;

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use holdfast_writer_api::{
    BackupParticipant, BackupRequest, Capabilities, Component, ComponentKind, ComponentRef, DataSource,
    FileRole, FileSet, FreezeLevel, KeyFile, RestoreMethod, RestoreParticipant, RestorePolicy, RestoreRank,
    RestoreRequest, SettingsError, Usage, Writer, WriterConfig, WriterError, WriterMetadata, budget,
    duration::millis, pattern::Exclude,
};
use serde::Deserialize;

use crate::{io_error, settings};

/// The component with the files.
const FILES: &str = "files";
/// The component with the keys.
const KEYS: &str = "keys";

/// The settings of the writer `files`.
///
/// ```toml
/// [[writer]]
/// id = "www"
/// type = "files"
/// paths = ["/srv/www", "/etc/nginx/nginx.conf"]
/// exclude = ["*.tmp", "/srv/www/cache"]
/// keys = [{ path = "/srv/www/tls.key", purpose = "TLS key", certificate = "/srv/www/tls.crt" }]
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FilesSettings {
    /// What a person calls it; default: the writer's id.
    pub name: Option<String>,
    /// Files and folders, absolute; none inside another.
    #[serde(default)]
    pub paths: Vec<PathBuf>,
    /// What to leave out, with `?` and `*` inside a name: a name at any depth (`*.tmp`), a path below each folder
    /// (`cache/*.tmp`), or a whole path (`/srv/www/cache`). A folder that matches is left out with all in it.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// Folders below as well; default: true.
    pub recursive: Option<bool>,
    /// The application takes `flock` on this file around its writes (shared or exclusive). It is held while the files are
    /// cut. Without it they are cut as they are. Locks made with `fcntl` are of another kind, and not held by this.
    pub lock_file: Option<PathBuf>,
    /// How long the application itself waits for its lock before it fails, such as `5s`.
    #[serde(default, deserialize_with = "budget::busy_timeout")]
    pub busy_timeout: Option<Duration>,
    /// When it is frozen among other writers; default: `front-end`.
    pub freeze_level: Option<FreezeLevel>,
    /// The service an administrator has to stop for a restore, as he calls it.
    pub service: Option<String>,
    /// Private keys: sealed, proved, and kept out of the files.
    #[serde(default)]
    pub keys: Vec<KeySettings>,
    /// Files that contain a private key and may be stored as they are, each by its path.
    #[serde(default)]
    pub allow_plain_keys: Vec<PathBuf>,
}

/// A private key among [`FilesSettings::keys`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KeySettings {
    /// The key file, absolute.
    pub path: PathBuf,
    /// What it is for, in a word or two.
    pub purpose: String,
    /// The certificate it must fit.
    pub certificate: Option<PathBuf>,
}

pub(crate) fn build(config: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
    let settings: FilesSettings = config.settings()?;
    let recursive = settings.recursive.unwrap_or(true);
    if settings.paths.is_empty() {
        return Err(SettingsError::new("paths", "missing or empty; expected at least one file or folder"));
    }
    for (n, path) in settings.paths.iter().enumerate() {
        settings::absolute("paths", path)?;
        for other in &settings.paths[..n] {
            let nested = path.starts_with(other) || other.starts_with(path);
            if path == other || (recursive && nested) {
                let problem =
                    format!("`{}` and `{}` overlap; name the outer one", other.display(), path.display());
                return Err(SettingsError::new("paths", problem));
            }
        }
    }
    for key in &settings.keys {
        settings::absolute("keys", &key.path)?;
        key.certificate.as_deref().map_or(Ok(()), |path| settings::absolute("keys", path))?;
        if key.path.as_os_str().to_string_lossy().contains(['*', '?']) {
            // It is excluded from the files by its name, which must not name others.
            let problem = format!("`{}` has `*` or `?` in it", key.path.display());
            return Err(SettingsError::new("keys", problem));
        }
        if settings.paths.contains(&key.path) {
            let problem = format!("`{}` is in `paths` too; a key is sealed instead", key.path.display());
            return Err(SettingsError::new("keys", problem));
        }
        if key.purpose.trim().is_empty() {
            return Err(SettingsError::new(
                "keys",
                format!("the purpose of `{}` is empty", key.path.display()),
            ));
        }
    }
    settings.allow_plain_keys.iter().try_for_each(|path| settings::absolute("allow-plain-keys", path))?;
    settings.lock_file.as_deref().map_or(Ok(()), |path| settings::absolute("lock-file", path))?;
    for path in &settings.paths {
        Exclude::all(&settings.exclude, path)
            .map_err(|error| SettingsError::new("exclude", error.to_string()))?;
    }
    let mut exclude = settings.exclude.clone();
    // Sealed, and nowhere else (promise P9). A key elsewhere needs no exclusion, and without any a folder is whole.
    let inside = |key: &&KeySettings| settings.paths.iter().any(|path| key.path.starts_with(path));
    exclude.extend(settings.keys.iter().filter(inside).map(|key| key.path.to_string_lossy().into_owned()));
    Ok(Box::new(FilesWriter { id: config.id, recursive, exclude, settings }))
}

#[derive(Debug)]
struct FilesWriter {
    id: String,
    recursive: bool,
    /// The settings' and the keys'.
    exclude: Vec<String>,
    settings: FilesSettings,
}

impl FilesWriter {
    /// A folder is taken whole; a file by its name.
    fn file_set(&self, path: &Path) -> Result<FileSet, WriterError> {
        let found =
            std::fs::symlink_metadata(path).map_err(|error| io_error(&self.id, path, "find", &error))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if found.is_dir() {
            Ok(FileSet { recursive: self.recursive, ..FileSet::tree(path, FileRole::Data) })
        } else if !found.is_file() {
            let why =
                format!("`{}` is neither a file nor a folder; name what a link leads to", path.display());
            Err(WriterError::rejected(&self.id, why))
        } else if name.contains(['*', '?']) {
            let why = format!("`{}` has `*` or `?` in its name; name its folder instead", path.display());
            Err(WriterError::rejected(&self.id, why))
        } else {
            Ok(FileSet::file(path, FileRole::Data))
        }
    }

    fn components(&self) -> Result<Vec<Component>, WriterError> {
        let files = self.settings.paths.iter().map(|path| self.file_set(path)).collect::<Result<_, _>>()?;
        let mut components = vec![Component {
            caption: "files and folders".to_owned(),
            held: self.settings.lock_file.is_some(),
            files,
            exclude: self.exclude.clone(),
            ..Component::new(ComponentKind::FileGroup, FILES)
        }];
        if !self.settings.keys.is_empty() {
            let key = |key: &KeySettings| KeyFile {
                path: key.path.clone(),
                purpose: key.purpose.clone(),
                certificate: key.certificate.clone(),
            };
            components.push(Component {
                caption: "private keys, sealed".to_owned(),
                keys: self.settings.keys.iter().map(key).collect(),
                ..Component::new(ComponentKind::Keys, KEYS)
            });
        }
        Ok(components)
    }
}

#[async_trait]
impl Writer for FilesWriter {
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        if let Some(path) = &self.settings.lock_file {
            lock::look(&self.id, path)?;
        }
        Ok(WriterMetadata {
            name: self.settings.name.clone().unwrap_or_else(|| self.id.clone()),
            version: env!("CARGO_PKG_VERSION").into(),
            usage: Usage::UserData,
            source: DataSource::Other,
            restore: RestorePolicy {
                method: RestoreMethod::IfCanReplace,
                rank: RestoreRank::Applications,
                service: self.settings.service.clone(),
            },
            freeze_level: self.settings.freeze_level.unwrap_or_default(),
            busy_timeout_ms: self.settings.busy_timeout.map(millis),
            capabilities: Capabilities {
                freeze: self.settings.lock_file.is_some(),
                keys: !self.settings.keys.is_empty(),
                recover: true,
                ..Capabilities::default()
            },
            components: self.components()?,
            ..WriterMetadata::new(crate::FILES.name, &self.id)
        })
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        let components = self.components()?;
        for wanted in &request.components {
            if !components.iter().any(|component| component.is(wanted)) {
                return Err(WriterError::rejected(&self.id, format!("there is no component `{wanted}`")));
            }
        }
        let wants = |name: &str| {
            request.components.contains(&ComponentRef { path: String::new(), name: name.to_owned() })
        };
        let taken = components.into_iter().filter(|component| wants(&component.name)).collect();
        let lock_file = self.settings.lock_file.clone().filter(|_| wants(FILES));
        let allowed = self.settings.allow_plain_keys.clone();
        let has_keys = !self.settings.keys.is_empty();
        let backup_type = request.backup_type;
        Ok(Box::new(backup::FilesBackup::new(&self.id, taken, has_keys, lock_file, allowed, backup_type)))
    }

    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Ok(Box::new(restore::FilesRestore::new(&self.id, &request)?))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    pub(super) fn built(settings: serde_json::Value) -> Result<Box<dyn Writer>, SettingsError> {
        build(WriterConfig { id: "www".into(), settings })
    }

    #[test]
    fn every_bad_setting_is_refused_by_its_key() {
        let cases = [
            (serde_json::json!({}), "paths"),
            (serde_json::json!({"paths": "/srv"}), "paths"),
            (serde_json::json!({"paths": ["srv"]}), "paths"),
            (serde_json::json!({"paths": ["/srv", "/srv/www"]}), "paths"),
            (serde_json::json!({"paths": ["/srv", "/srv"], "recursive": false}), "paths"),
            (serde_json::json!({"paths": ["/srv"], "exclude": ["a/../b"]}), "exclude"),
            (serde_json::json!({"paths": ["/srv"], "exclude": ["/"]}), "exclude"),
            (serde_json::json!({"paths": ["/a", "/srv"], "exclude": ["/srv"]}), "exclude"),
            (serde_json::json!({"paths": ["/srv"], "lock-file": "lock"}), "lock-file"),
            (serde_json::json!({"paths": ["/srv"], "busy-timeout": "long"}), "busy-timeout"),
            (serde_json::json!({"paths": ["/srv"], "allow-plain-keys": ["x.key"]}), "allow-plain-keys"),
            (serde_json::json!({"paths": ["/srv"], "keys": [{"path": "/k"}]}), "keys"),
            (serde_json::json!({"paths": ["/srv"], "keys": [{"path": "k", "purpose": "x"}]}), "keys"),
            (serde_json::json!({"paths": ["/srv"], "keys": [{"path": "/k", "purpose": " "}]}), "keys"),
            (serde_json::json!({"paths": ["/srv"], "keys": [{"path": "/*", "purpose": "x"}]}), "keys"),
            (serde_json::json!({"paths": ["/k"], "keys": [{"path": "/k", "purpose": "x"}]}), "keys"),
            (serde_json::json!({"paths": ["/srv"], "lock": "/x"}), "lock"),
        ];
        for (settings, key) in cases {
            let error = built(settings.clone()).err().unwrap();
            assert_eq!(error.key.as_deref(), Some(key), "{settings}: {error}");
        }
    }

    #[tokio::test]
    async fn identify_is_repeatable_and_keeps_keys_out_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, file, key) =
            (folder.path().join("tree"), folder.path().join("one.conf"), folder.path().join("tree/tls.key"));
        fs::create_dir(&tree).unwrap();
        fs::write(&file, "").unwrap();
        let settings = serde_json::json!({
            "paths": [tree, file], "exclude": ["*.tmp"], "keys": [{"path": key, "purpose": "TLS key"}],
        });
        let writer = built(settings).unwrap();
        let metadata = writer.identify().await.unwrap();
        metadata.check().unwrap();
        assert_eq!(writer.identify().await.unwrap(), metadata);
        let [files, keys] = &metadata.components[..] else { panic!("{metadata:?}") };
        assert!(!files.held && !metadata.capabilities.freeze && metadata.capabilities.keys);
        let sets: Vec<_> = files.files.iter().map(|f| (f.path.clone(), &*f.pattern, f.recursive)).collect();
        assert_eq!(sets, [(tree, "*", true), (folder.path().to_owned(), "one.conf", false)]);
        assert_eq!(files.exclude, ["*.tmp", key.to_str().unwrap()]);
        assert_eq!((keys.kind, &keys.keys[0].path), (ComponentKind::Keys, &key));
    }

    #[tokio::test]
    async fn what_is_missing_or_a_link_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let gone = folder.path().join("gone");
        for settings in [
            serde_json::json!({"paths": [gone]}),
            serde_json::json!({"paths": [link]}),
            serde_json::json!({"paths": [file], "lock-file": gone}),
            serde_json::json!({"paths": [file], "lock-file": link}),
        ] {
            let error = built(settings.clone()).unwrap().identify().await.unwrap_err();
            assert!(matches!(error, WriterError::Rejected { .. }), "{settings}: {error:?}");
        }
    }
}

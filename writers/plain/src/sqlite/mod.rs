//! The writer `sqlite`: databases of an application that Holdfast knows nothing else about.
//! Owns: its settings and its metadata.
//! Leaves to others: the hold (`backup`), what comes back (`restore`), SQLite itself (`holdfast-store-sqlite`).

mod backup;
mod fault;
mod restore;
#[cfg(test)]
mod testing;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use holdfast_store_sqlite::{DEFAULT_BUDGET, FileRole as StoreRole, component_files};
use holdfast_writer_api::{
    BackupParticipant, BackupRequest, Capabilities, Component, ComponentKind, ComponentRef, DataSource,
    FileRole, FileSet, FreezeLevel, RestoreMethod, RestoreParticipant, RestorePolicy, RestoreRank,
    RestoreRequest, SettingsError, Usage, Writer, WriterConfig, WriterError, WriterMetadata, budget,
    duration::millis,
};
use serde::Deserialize;

use crate::{io_error, settings};

/// The settings of the writer `sqlite`.
///
/// ```toml
/// [[writer]]
/// id = "shop"
/// type = "sqlite"
/// database = "/var/lib/shop/shop.db"
/// busy-timeout = "5s"
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SqliteSettings {
    /// What a person calls it; default: the writer's id.
    pub name: Option<String>,
    /// The database file, absolute. Either this or `databases`.
    pub database: Option<PathBuf>,
    /// Several of them, held together, in this order. If the application writes to two in one transaction (`ATTACH`),
    /// name them in the order in which it does: two who lock in different orders wait for each other.
    pub databases: Option<Vec<PathBuf>>,
    /// How long the application itself waits for the database before it fails (`PRAGMA busy_timeout`), such as `5s`. The
    /// hold ends before that.
    #[serde(default, deserialize_with = "budget::busy_timeout")]
    pub busy_timeout: Option<Duration>,
    /// When it is frozen among other writers; default: `back-end`.
    pub freeze_level: Option<FreezeLevel>,
    /// The service an administrator has to stop for a restore, as he calls it.
    pub service: Option<String>,
}

pub(crate) fn build(config: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
    let settings: SqliteSettings = config.settings()?;
    let (key, paths) = match (settings.database, settings.databases) {
        (Some(one), None) => ("database", vec![one]),
        (None, Some(several)) => ("databases", several),
        (Some(_), Some(_)) => {
            return Err(SettingsError::new("database", "either `database` or `databases`, not both"));
        }
        (None, None) => {
            return Err(SettingsError::new("database", "missing; expected the path of the database file"));
        }
    };
    if paths.is_empty() {
        return Err(SettingsError::new(key, "empty; expected at least one database"));
    }
    for (n, path) in paths.iter().enumerate() {
        settings::absolute(key, path)?;
        if path.file_name().is_none() || path.as_os_str().to_string_lossy().contains(['*', '?']) {
            let problem = format!("`{}` is no file; expected one, without `*` and `?`", path.display());
            return Err(SettingsError::new(key, problem));
        }
        if paths[..n].contains(path) {
            return Err(SettingsError::new(key, format!("`{}` is named twice", path.display())));
        }
    }
    Ok(Box::new(SqliteWriter {
        name: settings.name.unwrap_or_else(|| config.id.clone()),
        id: config.id,
        databases: name_all(&paths),
        busy_timeout: settings.busy_timeout,
        freeze_level: settings.freeze_level.unwrap_or(FreezeLevel::BackEnd),
        service: settings.service,
    }))
}

/// A database and the component that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Database {
    component: ComponentRef,
    path: PathBuf,
}

/// Components are called after their files; where two have one name, after their folders as well.
fn name_all(paths: &[PathBuf]) -> Vec<Database> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unique = paths.iter().map(|path| name(path)).collect::<BTreeSet<_>>().len() == paths.len();
    let logical = |path: &Path| {
        let folder = path.parent().unwrap_or(Path::new("/")).to_string_lossy().into_owned();
        if unique { String::new() } else { folder.trim_start_matches('/').to_owned() }
    };
    let named = |path: &PathBuf| ComponentRef { path: logical(path), name: name(path) };
    paths.iter().map(|path| Database { component: named(path), path: path.clone() }).collect()
}

#[derive(Debug)]
struct SqliteWriter {
    id: String,
    name: String,
    databases: Vec<Database>,
    busy_timeout: Option<Duration>,
    freeze_level: FreezeLevel,
    service: Option<String>,
}

impl SqliteWriter {
    fn component(&self, database: &Database) -> Component {
        let file = |file: holdfast_store_sqlite::ComponentFile| {
            let role = match file.role {
                StoreRole::Database => FileRole::Database,
                StoreRole::Wal | StoreRole::Journal => FileRole::Log,
            };
            FileSet { optional: file.optional, ..FileSet::file(&file.path, role) }
        };
        Component {
            path: database.component.path.clone(),
            caption: format!("SQLite database {}", database.path.display()),
            held: true,
            files: component_files(&database.path).into_iter().map(file).collect(),
            ..Component::new(ComponentKind::Database, &database.component.name)
        }
    }
}

#[async_trait]
impl Writer for SqliteWriter {
    /// Looks at names only: opening a database here would drop the locks of a hold in this process.
    async fn identify(&self) -> Result<WriterMetadata, WriterError> {
        for database in &self.databases {
            let found = std::fs::symlink_metadata(&database.path)
                .map_err(|error| io_error(&self.id, &database.path, "find", &error))?;
            if !found.is_file() {
                let why =
                    format!("`{}` is not a regular file; name the database itself", database.path.display());
                return Err(WriterError::rejected(&self.id, why));
            }
        }
        Ok(WriterMetadata {
            name: self.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            usage: Usage::UserData,
            source: DataSource::TransactedDb,
            restore: RestorePolicy {
                method: RestoreMethod::StopRestoreStart,
                rank: RestoreRank::Applications,
                service: self.service.clone(),
            },
            freeze_level: self.freeze_level,
            freeze_budget_ms: Some(millis(DEFAULT_BUDGET)),
            busy_timeout_ms: self.busy_timeout.map(millis),
            capabilities: Capabilities { freeze: true, recover: true, ..Capabilities::default() },
            components: self.databases.iter().map(|database| self.component(database)).collect(),
            ..WriterMetadata::new(crate::SQLITE.name, &self.id)
        })
    }

    async fn begin_backup(&self, request: BackupRequest) -> Result<Box<dyn BackupParticipant>, WriterError> {
        for wanted in &request.components {
            if !self.databases.iter().any(|database| database.component == *wanted) {
                return Err(WriterError::rejected(&self.id, format!("there is no component `{wanted}`")));
            }
        }
        // In the order of the settings, which is the order of locking.
        let databases =
            self.databases.iter().filter(|d| request.components.contains(&d.component)).cloned().collect();
        Ok(Box::new(backup::SqliteBackup::new(&self.id, databases, request.backup_type)))
    }

    async fn begin_restore(
        &self,
        request: RestoreRequest,
    ) -> Result<Box<dyn RestoreParticipant>, WriterError> {
        Ok(Box::new(restore::SqliteRestore::new(&self.id, &request)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(settings: serde_json::Value) -> Result<Box<dyn Writer>, SettingsError> {
        build(WriterConfig { id: "shop".into(), settings })
    }

    #[test]
    fn every_bad_setting_is_refused_by_its_key() {
        let cases = [
            (serde_json::json!({}), "database"),
            (serde_json::json!({"database": "relative.db"}), "database"),
            (serde_json::json!({"database": "/"}), "database"),
            (serde_json::json!({"database": "/srv/*.db"}), "database"),
            (serde_json::json!({"database": 5}), "database"),
            (serde_json::json!({"database": "/a", "databases": ["/b"]}), "database"),
            (serde_json::json!({"databases": []}), "databases"),
            (serde_json::json!({"databases": ["/a", "/a"]}), "databases"),
            (serde_json::json!({"databases": ["/a", "/srv/../b"]}), "databases"),
            (serde_json::json!({"database": "/a", "busy-timeout": "5"}), "busy-timeout"),
            (serde_json::json!({"database": "/a", "busy-timeout": 5000}), "busy-timeout"),
            (serde_json::json!({"database": "/a", "busy-timeout": "0s"}), "busy-timeout"),
            (serde_json::json!({"database": "/a", "freeze-level": "first"}), "freeze-level"),
            (serde_json::json!({"database": "/a", "databse": "/b"}), "databse"),
        ];
        for (settings, key) in cases {
            let error = built(settings.clone()).err().unwrap();
            assert_eq!(error.key.as_deref(), Some(key), "{settings}: {error}");
        }
    }

    #[tokio::test]
    async fn identify_says_the_same_each_time_and_leaves_the_folder_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("shop.db");
        drop(testing::database(&path, "WAL"));
        let writer = built(serde_json::json!({"database": path, "busy-timeout": "2s"})).unwrap();
        let listing = || {
            std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<BTreeSet<_>>()
        };
        let before = listing();
        let first = writer.identify().await.unwrap();
        first.check().unwrap();
        assert_eq!(writer.identify().await.unwrap(), first);
        assert_eq!(listing(), before);
        assert_eq!((first.freeze_budget_ms, first.busy_timeout_ms), (Some(1000), Some(2000)));
        let files: Vec<_> =
            first.components[0].files.iter().map(|f| (&*f.pattern, f.optional, f.role)).collect();
        assert_eq!(
            files,
            [
                ("shop.db", false, FileRole::Database),
                ("shop.db-wal", true, FileRole::Log),
                ("shop.db-journal", true, FileRole::Log)
            ]
        );
    }

    #[tokio::test]
    async fn a_missing_or_linked_database_is_named_and_not_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.db"), folder.path().join("link.db"));
        let missing = built(serde_json::json!({"database": real})).unwrap().identify().await.unwrap_err();
        assert!(
            matches!(&missing, WriterError::Rejected { cause, .. } if cause.to_string().contains("real.db"))
        );
        drop(testing::database(&real, "DELETE"));
        std::os::unix::fs::symlink(&real, &link).unwrap();
        let linked = built(serde_json::json!({"database": link})).unwrap().identify().await.unwrap_err();
        assert!(matches!(linked, WriterError::Rejected { .. }));
    }

    #[test]
    fn two_databases_of_one_file_name_are_told_apart() {
        let names = |paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(PathBuf::from).collect();
            name_all(&paths).iter().map(|d| d.component.full_name()).collect::<Vec<_>>()
        };
        assert_eq!(names(&["/a/x.db", "/b/y.db"]), ["x.db", "y.db"]);
        assert_eq!(names(&["/a/x.db", "/b/x.db", "/x.db"]), ["a/x.db", "b/x.db", "x.db"]);
    }
}

//! What a writer says of its application: the writer metadata document.
//!
//! The terms and rules are VSS's (`IVssExamineWriterMetadata`), less what only Windows has.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::WriterError;
use crate::pattern::Pattern;
use crate::schema::{self, DocumentError};

/// The schema of [`WriterMetadata`].
pub const METADATA_SCHEMA: &str = "holdfast.writer-metadata/1";

/// Most components one writer may declare, and most file sets one component may.
const MAX_COMPONENTS: usize = 10_000;

/// A writer's description of its application. Stored in every set: at restore the *stored* document
/// counts, never what a live writer says then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WriterMetadata {
    /// [`METADATA_SCHEMA`].
    pub schema: String,
    /// The registered name of the writer: the same for all instances.
    pub writer_type: String,
    /// The instance: the configuration's `id`, unique on this machine.
    pub id: String,
    /// What a person calls it.
    pub name: String,
    /// Version of the writer.
    pub version: String,
    /// What the data are for.
    pub usage: Usage,
    /// What the data are.
    pub source: DataSource,
    /// How the data come back.
    pub restore: RestorePolicy,
    /// When this writer is frozen among others.
    pub freeze_level: FreezeLevel,
    /// The longest hold its engine bears, in milliseconds; absent: [`crate::budget::DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze_budget_ms: Option<u64>,
    /// How long the application itself waits for a lock before it fails, in milliseconds, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_timeout_ms: Option<u64>,
    /// The backup types it takes part in. A type it lacks is taken as a full.
    pub backup_types: BackupTypes,
    /// The optional parts of the contract it implements.
    pub capabilities: Capabilities,
    /// Its data.
    pub components: Vec<Component>,
    /// Plain sentences for the administrator: what weakens this backup and can be mended.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl WriterMetadata {
    /// A description with nothing in it yet: no component, no capability, no limit, restored by its own means. A writer
    /// says what is true of its application instead: `WriterMetadata { components, ..WriterMetadata::new(TYPE, id) }`.
    pub fn new(writer_type: &str, id: &str) -> Self {
        Self {
            schema: METADATA_SCHEMA.to_owned(),
            writer_type: writer_type.to_owned(),
            id: id.to_owned(),
            name: id.to_owned(),
            version: String::new(),
            usage: Usage::Other,
            source: DataSource::Other,
            restore: RestorePolicy {
                method: RestoreMethod::Custom,
                rank: RestoreRank::Applications,
                service: None,
            },
            freeze_level: FreezeLevel::default(),
            freeze_budget_ms: None,
            busy_timeout_ms: None,
            backup_types: BackupTypes::default(),
            capabilities: Capabilities::default(),
            components: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Reads a stored or received document and checks its rules.
    ///
    /// # Errors
    /// [`DocumentError`] when it is not such a document; [`WriterError::Rejected`] has its place in
    /// [`WriterMetadata::check`], which is called on every document before use.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        schema::parse(bytes, METADATA_SCHEMA)
    }

    /// Checks what types cannot: at least one component, unique names, absolute and plain paths,
    /// patterns without folders, keys only in key components and only of who can seal them, dependencies outside
    /// the writer.
    ///
    /// # Errors
    /// [`WriterError::Rejected`], naming the component and the rule.
    pub fn check(&self) -> Result<(), WriterError> {
        let reject = |why: String| Err(WriterError::rejected(&self.id, format!("metadata: {why}")));
        if self.schema != METADATA_SCHEMA {
            // Stored, nobody could read it again.
            return reject(format!(
                "its schema is `{}`; this version reads `{METADATA_SCHEMA}`",
                self.schema
            ));
        }
        if self.components.is_empty() {
            return reject("no component is declared".into());
        }
        if self.components.len() > MAX_COMPONENTS {
            return reject(format!("more than {MAX_COMPONENTS} components"));
        }
        let mut names = std::collections::HashSet::new();
        for component in &self.components {
            let full = component.reference();
            if let Err(why) = component.check() {
                return reject(format!("component `{full}`: {why}"));
            }
            if !component.keys.is_empty() && !self.capabilities.keys {
                return reject(format!(
                    "component `{full}` has keys, and the capability `keys` is not declared"
                ));
            }
            if component.dependencies.iter().any(|d| d.writer == self.id) {
                return reject(format!("component `{full}` depends on its own writer"));
            }
            if !names.insert(full.clone()) {
                return reject(format!("component `{full}` is declared twice"));
            }
        }
        Ok(())
    }

    /// The component of that name, if there is one.
    pub fn component(&self, reference: &ComponentRef) -> Option<&Component> {
        self.components.iter().find(|c| c.is(reference))
    }
}

/// What the data are for (`VSS_USAGE_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Usage {
    /// Needed to boot.
    BootableSystemState,
    /// A system service's state.
    SystemService,
    /// A user's data.
    UserData,
    /// Anything else.
    Other,
}

/// What the data are (`VSS_SOURCE_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSource {
    /// A database with transactions.
    TransactedDb,
    /// A database without.
    NonTransactedDb,
    /// Files.
    Other,
}

/// The order of freezes: front-ends first, so that nothing new reaches the back-ends behind them
/// (`VSS_APPLICATION_LEVEL`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum FreezeLevel {
    /// Talks to users; frozen first, thawed last.
    #[default]
    #[serde(alias = "front-end")] // as the configuration writes it
    FrontEnd,
    /// Serves front-ends.
    #[serde(alias = "back-end")]
    BackEnd,
    /// Everything stands on it; frozen last, thawed first.
    System,
}

impl FreezeLevel {
    /// In the order of freezing.
    pub const ALL: [Self; 3] = [Self::FrontEnd, Self::BackEnd, Self::System];
}

/// How the data come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePolicy {
    /// What has to be true of the application and the old files.
    pub method: RestoreMethod,
    /// The place in the order of a restore of several writers.
    pub rank: RestoreRank,
    /// The service an administrator has to stop, as he calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Restore methods (`VSS_RESTOREMETHOD_ENUM`; those of a reboot have no counterpart here).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreMethod {
    /// Only where no target file exists.
    IfNotThere,
    /// Where every target file can be replaced.
    IfCanReplace,
    /// Stop the application, restore, start it: the usual one.
    StopRestoreStart,
    /// To another place only.
    ToAlternateLocation,
    /// By the application's own means; the docs of the writer say which.
    Custom,
}

/// The order of a restore (design §5); inside a rank, dependencies decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreRank {
    /// What the machine starts from.
    BootFiles,
    /// SysVol, CA, cluster and the like.
    Services,
    /// The directory database.
    Directory,
    /// Orchestrators and everything else.
    Applications,
    /// The configuration registry.
    Registry,
}

/// The kinds of backup (`VSS_BACKUP_SCHEMA`). Full and copy go without saying.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BackupTypes {
    /// Changes since the last full or incremental.
    #[serde(default)]
    pub incremental: bool,
    /// Changes since the last full.
    #[serde(default)]
    pub differential: bool,
    /// Log files only.
    #[serde(default)]
    pub log: bool,
    /// Incremental and differential must not be mixed.
    #[serde(default)]
    pub exclusive: bool,
}

/// The optional parts of the contract. What is not declared answers [`WriterError::Unsupported`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Capabilities {
    /// Holds its application; without it, its components are cut unheld.
    pub freeze: bool,
    /// Streams its files itself (`list_streams`, `open_stream`).
    pub stream: bool,
    /// Lists and truncates log files.
    pub logs: bool,
    /// Proves and seals keys.
    pub keys: bool,
    /// Recovers a restored copy itself.
    pub recover: bool,
    /// Has steps to run after a restore.
    pub post_restore: bool,
}

/// Names a component of a writer: logical path and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ComponentRef {
    /// `/`-separated, `""` for the root.
    #[serde(default)]
    pub path: String,
    /// The last element; no `/`.
    pub name: String,
}

impl ComponentRef {
    /// From the full name as a person types it: `path/to/name`.
    pub fn from_full_name(full: &str) -> Self {
        let (path, name) = full.rsplit_once('/').unwrap_or(("", full));
        Self { path: path.to_owned(), name: name.to_owned() }
    }

    /// Path and name as one text.
    pub fn full_name(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for ComponentRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.path, self.name) }
    }
}

/// A unit of data that is backed up and restored as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Component {
    /// What it is.
    pub kind: ComponentKind,
    /// Where it stands among the writer's components.
    #[serde(default)]
    pub path: String,
    /// Its name, unique with the path.
    pub name: String,
    /// What a person calls it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub caption: String,
    /// May be chosen for a backup (see [`crate::selection`]).
    pub selectable: bool,
    /// May be chosen alone at a restore though it came in with another.
    #[serde(default)]
    pub selectable_for_restore: bool,
    /// The writer's freeze holds exactly these files still. `false`: they are cut unheld, and the set
    /// says so.
    #[serde(default)]
    pub held: bool,
    /// Components of *other* writers that have to be there first at a restore.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dependencies: Vec<Dependency>,
    /// The files.
    #[serde(default)]
    pub files: Vec<FileSet>,
    /// Names at any depth, or paths below a file set's folder, `?` and `*` allowed; each with all that lies
    /// below it. They beat every file set of this component.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The keys, for [`ComponentKind::Keys`]: sealed by the writer, never read by the requester.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyFile>,
}

impl Component {
    /// A component with nothing in it yet, selectable for backup and restore, not held. What is different is said with
    /// `..Component::new(kind, name)`.
    pub fn new(kind: ComponentKind, name: &str) -> Self {
        Self {
            kind,
            path: String::new(),
            name: name.to_owned(),
            caption: String::new(),
            selectable: true,
            selectable_for_restore: true,
            held: false,
            dependencies: Vec::new(),
            files: Vec::new(),
            exclude: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Its name.
    pub fn reference(&self) -> ComponentRef {
        ComponentRef { path: self.path.clone(), name: self.name.clone() }
    }

    /// Whether `reference` names it.
    pub fn is(&self, reference: &ComponentRef) -> bool {
        self.path == reference.path && self.name == reference.name
    }

    fn check(&self) -> Result<(), String> {
        let plain = |element: &str| !element.is_empty() && element != "." && element != "..";
        if !plain(&self.name) || self.name.contains(['/', '\\', '\0']) {
            return Err("the name must be one plain path element".into());
        }
        if !self.path.is_empty() && !self.path.split('/').all(plain) {
            return Err(format!("logical path `{}` is not plain", self.path));
        }
        if self.files.len() > MAX_COMPONENTS || self.exclude.len() > MAX_COMPONENTS {
            return Err("too many file sets".into());
        }
        match self.kind {
            ComponentKind::Keys if !self.files.is_empty() => {
                return Err("a key component has keys, not files: keys travel sealed".into());
            }
            ComponentKind::Database | ComponentKind::FileGroup if !self.keys.is_empty() => {
                return Err("only a key component has keys".into());
            }
            ComponentKind::Keys | ComponentKind::Database | ComponentKind::FileGroup => {}
        }
        self.files.iter().try_for_each(FileSet::check)?;
        self.keys.iter().try_for_each(|key| absolute(&key.path))
    }
}

fn absolute(path: &Path) -> Result<(), String> {
    use std::path::Component as Part;
    let plain = path.components().all(|part| matches!(part, Part::RootDir | Part::Normal(_)));
    if path.is_absolute() && plain && path.to_str().is_some_and(|text| !text.contains('\0')) {
        return Ok(());
    }
    Err(format!("`{}` must be an absolute UTF-8 path without `.` and `..`", path.display()))
}

/// What a component is (`VSS_COMPONENT_TYPE`, and keys, which VSS does not have).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ComponentKind {
    /// Database and log files.
    Database,
    /// Any other files.
    FileGroup,
    /// Private keys, sealed before they enter the set (promise P9).
    Keys,
}

/// A component of another writer that this one needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// The other writer's id.
    pub writer: String,
    /// Its component.
    pub component: ComponentRef,
}

/// Files of a component: everything in `path` that `pattern` matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSet {
    /// The folder, absolute, without wildcards.
    pub path: PathBuf,
    /// A file name with `?` and `*`; no folders. A name without wildcards must exist unless
    /// [`FileSet::optional`]; a pattern may match none.
    pub pattern: String,
    /// Folders below as well, empty ones too.
    #[serde(default)]
    pub recursive: bool,
    /// A named file that may be absent, such as SQLite's `-wal`.
    #[serde(default)]
    pub optional: bool,
    /// What part the files play.
    pub role: FileRole,
}

impl FileSet {
    /// The one file at `path`, which must be absolute and UTF-8, its name without `?` and `*`.
    pub fn file(path: &Path, role: FileRole) -> Self {
        Self {
            path: path.parent().unwrap_or(Path::new("/")).to_owned(),
            pattern: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            recursive: false,
            optional: false,
            role,
        }
    }

    /// The folder at `path` with everything below it.
    pub fn tree(path: &Path, role: FileRole) -> Self {
        Self { path: path.to_owned(), pattern: "*".to_owned(), recursive: true, optional: false, role }
    }

    fn check(&self) -> Result<(), String> {
        absolute(&self.path)?;
        Pattern::new(&self.pattern).map(|_| ()).map_err(|error| error.to_string())
    }
}

/// What part a file plays; incremental and log backups choose by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRole {
    /// A database file.
    Database,
    /// A log (journal, WAL) that the database needs to be consistent.
    Log,
    /// Anything else.
    Data,
}

/// A key of the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// Where the application keeps it.
    pub path: PathBuf,
    /// What it is for, in a word or two: `CA key`, `OCSP key`.
    pub purpose: String,
    /// The certificate whose public half it must equal, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> WriterMetadata {
        WriterMetadata {
            components: vec![Component {
                files: vec![FileSet::tree(Path::new("/srv/www"), FileRole::Data)],
                ..Component::new(ComponentKind::FileGroup, "files")
            }],
            ..WriterMetadata::new("files", "www")
        }
    }

    #[test]
    fn a_document_survives_its_own_text() {
        let before = metadata();
        before.check().unwrap();
        assert_eq!(WriterMetadata::parse(&schema::to_bytes(&before)).unwrap(), before);
    }

    #[test]
    fn a_file_is_a_set_of_its_own_and_a_new_description_lacks_only_its_components() {
        let set = FileSet::file(Path::new("/srv/www/index.html"), FileRole::Data);
        assert_eq!(
            (set.path.to_str(), &*set.pattern, set.recursive),
            (Some("/srv/www"), "index.html", false)
        );
        set.check().unwrap();
        let new = WriterMetadata::new("files", "www");
        assert!(new.check().unwrap_err().to_string().contains("www"));
        let component = Component { files: vec![set], ..Component::new(ComponentKind::FileGroup, "files") };
        WriterMetadata { components: vec![component], ..new }.check().unwrap();
    }

    #[test]
    fn paths_patterns_and_names_that_could_lead_astray_are_rejected() {
        let broken: [fn(&mut Component); 8] = [
            |c| c.name = "a/b".into(),
            |c| c.name = "..".into(),
            |c| c.path = "a//b".into(),
            |c| c.files[0].path = "relative".into(),
            |c| c.files[0].path = "/srv/../etc".into(),
            |c| c.files[0].pattern = "../x".into(),
            |c| c.kind = ComponentKind::Keys,
            |c| c.dependencies = vec![Dependency { writer: "www".into(), component: c.reference() }],
        ];
        for (n, damage) in broken.iter().enumerate() {
            let mut document = metadata();
            damage(&mut document.components[0]);
            assert!(matches!(document.check(), Err(WriterError::Rejected { .. })), "case {n}");
        }
        let mut cannot_seal = metadata();
        cannot_seal.components[0].kind = ComponentKind::Keys;
        cannot_seal.components[0].files.clear();
        cannot_seal.components[0].keys =
            vec![KeyFile { path: "/key".into(), purpose: "key".into(), certificate: None }];
        assert!(matches!(cannot_seal.check(), Err(WriterError::Rejected { .. })));
        cannot_seal.capabilities.keys = true;
        cannot_seal.check().unwrap();
        let mut twice = metadata();
        twice.components.push(twice.components[0].clone());
        assert!(twice.check().is_err());
        let mut none = metadata();
        none.components.clear();
        assert!(none.check().is_err());
        let foreign = WriterMetadata { schema: "holdfast.writer-metadata/9".into(), ..metadata() };
        assert!(foreign.check().is_err());
    }
}

//! One file per shadow copy, written before the copy exists and removed after it is gone: what a dead
//! session left is found by these, and nothing else is ever deleted.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::owner::Owner;
use crate::volume::Volume;

/// The schema that this program writes. Readers ignore fields they do not know.
pub const SCHEMA: &str = "holdfast.shadow/1";
const FOLDER: &str = "shadows";
const MAX_BYTES: u64 = 256 << 10;

/// Why a record could not be written or believed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A call failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone else may have written it (promise P10).
    #[error("{} can be written by others than root and the running user", path.display())]
    Untrusted {
        /// The file or folder.
        path: PathBuf,
    },
    /// It is no record.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A newer program wrote it.
    #[error("{} has the schema `{schema}`, and this program reads `{SCHEMA}`", path.display())]
    OtherSchema {
        /// The file.
        path: PathBuf,
        /// What it says.
        schema: String,
    },
    /// The file is not named after the shadow copy in it.
    #[error("{} is the record of another shadow copy, {id}", path.display())]
    Misnamed {
        /// The file.
        path: PathBuf,
        /// What it says.
        id: Uuid,
    },
    /// Too large to be one.
    #[error("{} is larger than a record may be", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

/// What is known of a shadow copy without its provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowRecord {
    schema: String,
    /// The shadow copy.
    pub id: Uuid,
    /// The snapshot set that it belongs to.
    pub set: Uuid,
    /// The provider that made it and can delete it.
    pub provider: String,
    /// What it is a copy of.
    pub volume: Volume,
    /// Where it lies: `…/.holdfast-shadows/<id>`.
    pub path: PathBuf,
    /// When making it began.
    pub created: jiff::Timestamp,
    /// The process that needs it.
    pub owner: Owner,
    /// What the provider needs to know it again.
    #[serde(default)]
    pub details: BTreeMap<String, String>,
    #[serde(skip)]
    state_dir: PathBuf,
}

/// All records of a state directory.
#[derive(Debug, Default)]
pub struct Records {
    /// Those that could be read, oldest first.
    pub records: Vec<ShadowRecord>,
    /// Why the others could not.
    pub damaged: Vec<RecordError>,
}

impl ShadowRecord {
    /// The record of a shadow copy that this process is about to make. Nothing is written yet.
    pub fn new(state_dir: &Path, set: Uuid, provider: &str, volume: &Volume, area: &Path) -> Self {
        let id = Uuid::now_v7();
        Self {
            schema: SCHEMA.to_owned(),
            id,
            set,
            provider: provider.to_owned(),
            volume: volume.clone(),
            path: area.join(id.to_string()),
            created: jiff::Timestamp::now(),
            owner: Owner::current(),
            details: BTreeMap::new(),
            state_dir: state_dir.to_path_buf(),
        }
    }

    /// The state directory it was read from or belongs to.
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Whether the process that needs this shadow copy is gone.
    pub fn orphaned(&self) -> bool {
        !self.owner.alive()
    }

    /// Puts the record down, durable before this returns.
    ///
    /// # Errors
    /// [`RecordError::Io`], [`RecordError::Untrusted`].
    pub fn write(&self) -> Result<(), RecordError> {
        let folder = self.state_dir.join(FOLDER);
        if let Err(source) = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder) {
            return Err(RecordError::Io { action: "create", path: folder, source });
        }
        trusted(&folder, &fs::symlink_metadata(&folder).map_err(|e| failed("look at", &folder, e))?)?;
        let target = self.file();
        let fresh = folder.join(format!(".{}.new", self.id));
        let text = serde_json::to_vec_pretty(self)
            .map_err(|source| RecordError::Damaged { path: target.clone(), source })?;
        let written =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).and_then(|mut file| {
                file.write_all(&text)?;
                file.sync_all()
            });
        let placed = written.and_then(|()| fs::rename(&fresh, &target));
        if let Err(source) = placed {
            let _ = fs::remove_file(&fresh);
            return Err(failed("write", &target, source));
        }
        sync_folder(&folder)
    }

    /// Removes the record, after what it describes is gone. Repeating it is harmless.
    ///
    /// # Errors
    /// [`RecordError::Io`].
    pub fn remove(&self) -> Result<(), RecordError> {
        match fs::remove_file(self.file()) {
            Ok(()) => sync_folder(&self.state_dir.join(FOLDER)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed("remove", &self.file(), e)),
        }
    }

    fn file(&self) -> PathBuf {
        self.state_dir.join(FOLDER).join(format!("{}.json", self.id))
    }
}

/// All shadow copies that were made from this state directory, of living sessions and of dead ones.
///
/// # Errors
/// [`RecordError::Io`], [`RecordError::Untrusted`] about the folder; a single bad record is in
/// [`Records::damaged`].
pub fn list(state_dir: &Path) -> Result<Records, RecordError> {
    let folder = state_dir.join(FOLDER);
    let meta = match fs::symlink_metadata(&folder) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Records::default()),
        Err(e) => return Err(failed("look at", &folder, e)),
    };
    trusted(&folder, &meta)?;
    let mut records = Records::default();
    for entry in fs::read_dir(&folder).map_err(|e| failed("list", &folder, e))? {
        let path = entry.map_err(|e| failed("list", &folder, e))?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        match read(&path) {
            Ok(record) => records.records.push(ShadowRecord { state_dir: state_dir.to_path_buf(), ..record }),
            // Removed by the session that owns it, meanwhile.
            Err(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(e) => records.damaged.push(e),
        }
    }
    records.records.sort_by_key(|r| (r.created, r.id));
    Ok(records)
}

/// As [`list`], only those whose session is dead.
///
/// # Errors
/// As [`list`].
pub fn orphans(state_dir: &Path) -> Result<Records, RecordError> {
    let mut records = list(state_dir)?;
    records.records.retain(ShadowRecord::orphaned);
    Ok(records)
}

fn read(path: &Path) -> Result<ShadowRecord, RecordError> {
    use rustix::fs::OFlags;
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|e| failed("open", path, e))?;
    trusted(path, &file.metadata().map_err(|e| failed("look at", path, e))?)?;
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| failed("read", path, e))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(RecordError::TooLarge { path: path.into() });
    }
    let damaged = |source| RecordError::Damaged { path: path.to_path_buf(), source };
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    // The schema first: a newer record may lack what this one must have.
    if let Some(schema) = value.get("schema").and_then(|s| s.as_str()).filter(|s| *s != SCHEMA) {
        return Err(RecordError::OtherSchema {
            path: path.into(),
            schema: schema.chars().take(80).collect(),
        });
    }
    let record: ShadowRecord = serde_json::from_value(value).map_err(damaged)?;
    if path.file_stem().is_none_or(|name| name != record.id.to_string().as_str()) {
        return Err(RecordError::Misnamed { path: path.into(), id: record.id });
    }
    Ok(record)
}

fn trusted(path: &Path, meta: &fs::Metadata) -> Result<(), RecordError> {
    let ours = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
    let plain = meta.is_file() || meta.is_dir();
    if ours && plain && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(RecordError::Untrusted { path: path.into() })
}

fn sync_folder(folder: &Path) -> Result<(), RecordError> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(|e| failed("sync", folder, e))
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> RecordError {
    RecordError::Io { action, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::volume::VolumeMap;

    fn record(state: &Path) -> ShadowRecord {
        let volume = VolumeMap::read().unwrap().resolve(state).unwrap();
        ShadowRecord::new(state, Uuid::now_v7(), "copy", &volume, &state.join(".holdfast-shadows"))
    }

    #[test]
    fn a_record_is_found_until_it_is_removed_and_removing_twice_is_harmless() {
        let state = tempfile::tempdir().unwrap();
        assert!(list(&state.path().join("none")).unwrap().records.is_empty());
        let record = record(state.path());
        record.write().unwrap();
        assert_eq!(list(state.path()).unwrap().records, std::slice::from_ref(&record));
        assert!(orphans(state.path()).unwrap().records.is_empty());
        record.remove().unwrap();
        record.remove().unwrap();
        assert!(list(state.path()).unwrap().records.is_empty());
    }

    #[test]
    fn the_record_of_a_dead_process_is_an_orphan() {
        let state = tempfile::tempdir().unwrap();
        let mut record = record(state.path());
        record.owner.start_ticks += 1;
        record.write().unwrap();
        assert_eq!(orphans(state.path()).unwrap().records, [record]);
    }

    #[test]
    fn one_bad_record_is_named_and_hides_no_other() {
        let state = tempfile::tempdir().unwrap();
        let good = record(state.path());
        good.write().unwrap();
        let folder = state.path().join(FOLDER);
        let put = |name: &str, text: &str| {
            fs::write(folder.join(name), text).unwrap();
            fs::set_permissions(folder.join(name), PermissionsExt::from_mode(0o600)).unwrap();
        };
        put("torn.json", "{\"schema\":\"holdfast.shadow/1\",");
        put("new.json", "{\"schema\":\"holdfast.shadow/2\"}");
        put("big.json", &" ".repeat(300 << 10));
        put(&format!("{}.json", Uuid::nil()), &serde_json::to_string(&good).unwrap());
        symlink(good.file(), folder.join("link.json")).unwrap();
        put("open.json", "{}");
        fs::set_permissions(folder.join("open.json"), PermissionsExt::from_mode(0o666)).unwrap();

        let found = list(state.path()).unwrap();
        assert_eq!(found.records, [good]);
        let mut kinds: Vec<&str> = found
            .damaged
            .iter()
            .map(|e| match e {
                RecordError::Io { .. } => "io",
                RecordError::Untrusted { .. } => "untrusted",
                RecordError::Damaged { .. } => "damaged",
                RecordError::OtherSchema { .. } => "schema",
                RecordError::Misnamed { .. } => "misnamed",
                RecordError::TooLarge { .. } => "large",
            })
            .collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["damaged", "io", "large", "misnamed", "schema", "untrusted"]);
    }
}

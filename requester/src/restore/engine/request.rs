//! What a restore needs after its registration, durable beside its marker: at boot there may be no repository.
//!
//! Owns: `<state>/restores/<restore>.request.json`, and `<state>/full-required/<writer>.json`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use holdfast_writer_api::{RestoreRequest, StagedFiles, schema};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::down::Signs;
use crate::paths::Paths;

const SCHEMA: &str = "holdfast.restore-request/1";
const FULL_SCHEMA: &str = "holdfast.full-required/1";

/// All that going on with a restore takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedRequest {
    pub schema: String,
    pub restore: Uuid,
    /// What the writer is asked, with the stored description of its data.
    pub request: RestoreRequest,
    pub staged: StagedFiles,
    /// Original path → target.
    pub map: Vec<(PathBuf, PathBuf)>,
    /// Whether a writer took part: then nothing goes on without it.
    pub with_writer: bool,
    /// Why the old data are kept, if they are.
    #[serde(default)]
    pub keep_old: Option<String>,
    /// The user's word that the application is down.
    #[serde(default)]
    pub assume_stopped: bool,
    /// Something was at a target: whether its application is down has to be asked.
    pub replaces: bool,
    pub signs: Signs,
}

/// Why a saved request cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// Not there, or not readable.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could have written it (promise P10).
    #[error("{} does not belong to this user alone", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
    },
    /// Damaged, or of another version.
    #[error("{} is no request that this version can go on with", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: schema::DocumentError,
    },
}

impl SavedRequest {
    pub fn new(restore: Uuid, request: RestoreRequest, signs: Signs) -> Self {
        Self {
            schema: SCHEMA.into(),
            restore,
            request,
            staged: StagedFiles::default(),
            map: Vec::new(),
            with_writer: false,
            keep_old: None,
            assume_stopped: false,
            replaces: true,
            signs,
        }
    }

    fn path(paths: &Paths, restore: Uuid) -> PathBuf {
        paths.restores().join(format!("{restore}.request.json"))
    }

    /// Makes it durable. Blocks.
    pub fn save(&self, paths: &Paths) -> io::Result<()> {
        write_durably(&Self::path(paths, self.restore), &schema::to_bytes(self))
    }

    /// Reads it back. Blocks.
    pub fn load(paths: &Paths, restore: Uuid) -> Result<Self, RequestError> {
        let path = Self::path(paths, restore);
        let unreadable = |source| RequestError::Unreadable { path: path.clone(), source };
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(flags).open(&path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        let euid = rustix::process::geteuid().as_raw();
        if !meta.is_file() || (meta.uid() != 0 && meta.uid() != euid) || meta.mode() & 0o022 != 0 {
            return Err(RequestError::NotOurs { path });
        }
        let mut bytes = Vec::new();
        file.take(schema::MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        schema::parse(&bytes, SCHEMA).map_err(|source| RequestError::Unusable { path: path.clone(), source })
    }

    /// Removes requests whose markers are gone: a death between the two removals left them. Blocks.
    pub fn sweep(paths: &Paths) {
        let Ok(entries) = fs::read_dir(paths.restores()) else { return };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".request.json"));
            let Some(restore) = id.and_then(|id| Uuid::try_parse(id).ok()) else { continue };
            if !paths.restores().join(format!("{restore}.json")).exists() {
                Self::remove(paths, restore);
            }
        }
    }

    /// Removes it; nothing there is fine.
    pub fn remove(paths: &Paths, restore: Uuid) {
        // Left behind it is a few kilobytes that nothing reads: its marker is gone.
        let _ = fs::remove_file(Self::path(paths, restore));
    }
}

/// Notes that the next backup of `writer` has to be a full one: a recovery begins a new history (promise P6).
///
/// The session that makes it removes the file. Blocks.
pub(super) fn require_full(paths: &Paths, writer: &str, set: Uuid, restore: Uuid) -> io::Result<()> {
    #[derive(Serialize)]
    struct Note<'n> {
        schema: &'static str,
        writer: &'n str,
        restored_set: Uuid,
        restore: Uuid,
        since: String,
    }
    let folder = paths.full_required();
    match DirBuilder::new().mode(0o700).create(&folder) {
        Ok(()) => sync_dir(&paths.state)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let since = jiff::Timestamp::now().to_string();
    let note = Note { schema: FULL_SCHEMA, writer, restored_set: set, restore, since };
    write_durably(&folder.join(format!("{writer}.json")), &schema::to_bytes(&note))
}

/// Writes a private file so that it is there whole or not at all, whenever the power fails.
pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".draft");
    let draft = folder.join(hidden);
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_dir(folder)
}

pub(super) fn sync_dir(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

//! The marker of a restore: what it says, and how it becomes durable.
//! Owns: schema `holdfast.restore-marker/1`, its folder, its checks on reading.
//! Leaves to others: what the phases mean on disk (`placement`).

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    disk::{Identity, Kind},
    error::Problem,
    phase::Phase,
    walk,
};

/// The schema this version writes, and the only one it reads.
pub const SCHEMA: &str = "holdfast.restore-marker/1";
/// A marker larger than this is not ours.
const MAX_BYTES: u64 = 16 << 20;

/// The durable record of one restore.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Marker {
    /// [`SCHEMA`].
    pub schema: String,
    /// This restore.
    pub restore: Uuid,
    /// The backup set the data come from.
    pub set: String,
    /// The writer whose components are restored.
    pub writer: String,
    /// The restore of several writers that this one is a part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<Together>,
    /// Their logical paths.
    pub components: Vec<String>,
    /// What the user confirmed by name, for example that an application is stopped.
    pub confirmations: Vec<String>,
    /// How far the restore is.
    pub phase: Phase,
    /// The phase in which the rollback began, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_from: Option<Phase>,
    /// Until when the old data are kept, once settled. `None`: until told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_old_until: Option<Timestamp>,
    /// The folders that hold targets.
    pub sites: Vec<SiteRecord>,
    /// What is replaced.
    pub units: Vec<UnitRecord>,
    /// When each phase was entered.
    pub history: Vec<PhaseEntered>,
}

/// A restore of one or more writers, each with a marker of its own: they go forward together, or back together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Together {
    /// The same in the markers of all its writers.
    pub id: Uuid,
    /// All its writers, in the order in which their data are put in place.
    pub writers: Vec<String>,
}

/// When a phase was entered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseEntered {
    /// The phase.
    pub phase: Phase,
    /// Wall clock.
    pub at: Timestamp,
}

/// One folder that holds targets, and the hidden folder beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteRecord {
    /// The folder, as given.
    #[serde(with = "path_text")]
    pub parent: PathBuf,
    /// Which folder that is; `None` until it is made.
    pub identity: Option<Identity>,
    /// How many of the last names of `parent` this restore makes, and removes again if it is undone.
    pub created: usize,
    /// The hidden folder; `None` until it is made.
    pub hidden: Option<Identity>,
}

/// One live path that is replaced as a whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnitRecord {
    /// Index into [`Marker::sites`].
    pub site: usize,
    /// The live path.
    #[serde(with = "path_text")]
    pub live: PathBuf,
    /// Where the new data are staged.
    #[serde(with = "path_text")]
    pub staged: PathBuf,
    /// Where the old data lie while the live path is not theirs.
    #[serde(with = "path_text")]
    pub aside: PathBuf,
    /// What the application expects here; the blocker is the other kind.
    pub kind: Kind,
    /// What was live when the restore was planned.
    pub old: Option<Identity>,
    /// What is staged; final once publishing has begun.
    pub new: Option<Identity>,
    /// The thing that keeps the application out.
    pub blocker: Option<Identity>,
    /// True in a rollback for a unit that was the new data already.
    #[serde(default)]
    pub was_published: bool,
    /// Side files that come and go with it.
    pub companions: Vec<CompanionRecord>,
}

/// A name that must go away together with a unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompanionRecord {
    /// The live path.
    #[serde(with = "path_text")]
    pub live: PathBuf,
    /// What was moved aside.
    pub old: Option<Identity>,
    /// What is staged, once publishing has begun.
    pub new: Option<Identity>,
}

impl Marker {
    /// The folder name of this restore beside its targets.
    pub fn hidden_name(&self) -> OsString {
        hidden_name(self.restore)
    }

    /// Where this writer comes in the order of its restore.
    pub fn position(&self) -> usize {
        let writers = self.together.iter().flat_map(|together| &together.writers);
        writers.take_while(|writer| **writer != self.writer).count()
    }

    fn check(&self, path: &Path) -> Result<(), Problem> {
        let bad = |why| Problem::MarkerDamaged { path: path.to_owned(), why };
        if self.units.is_empty() {
            return Err(bad("it names no target"));
        }
        for site in &self.sites {
            // The parent may be the root folder itself; everything else must be a plain absolute path.
            if site.parent != Path::new("/")
                && walk::clean(&site.parent).is_ok_and(|clean| clean == site.parent).eq(&false)
            {
                return Err(bad("a folder is not a plain absolute path"));
            }
            if site.created > site.parent.iter().count() {
                return Err(bad("more folders were made than there are"));
            }
        }
        for unit in &self.units {
            let site = self.sites.get(unit.site).ok_or_else(|| bad("a target names no folder"))?;
            if !walk::clean(&unit.live).is_ok_and(|clean| clean == unit.live)
                || unit.live.parent() != Some(&site.parent)
            {
                return Err(bad("a target does not lie in its folder"));
            }
            let hidden = site.parent.join(self.hidden_name());
            let name = unit.live.file_name().unwrap_or_default();
            if unit.staged != hidden.join("new").join(name) || unit.aside != hidden.join("old").join(name) {
                return Err(bad("a target's other paths do not belong to this restore"));
            }
            if unit.companions.iter().any(|companion| {
                companion.live.parent() != Some(&site.parent) || companion.live.file_name().is_none()
            }) {
                return Err(bad("a side file does not lie beside its target"));
            }
        }
        Ok(())
    }
}

/// `.holdfast-restore-<short>`: the last 12 digits, since the first ones of a v7 id are the time.
pub(super) fn hidden_name(restore: Uuid) -> OsString {
    let id = restore.simple().to_string();
    let short = id.get(20..).unwrap_or(&id);
    OsString::from(format!("{HIDDEN_PREFIX}{short}"))
}

/// How every hidden folder's name begins; file sets must not contain it.
pub const HIDDEN_PREFIX: &str = ".holdfast-restore-";

/// The folder of all markers, `<state>/restores`.
#[derive(Debug, Clone)]
pub struct Registry {
    folder: PathBuf,
}

impl Registry {
    /// Opens the folder of markers below `state`, making it when absent.
    ///
    /// # Errors
    /// [`Problem::StateNotOurs`] when others could write there; [`Problem::Io`].
    pub fn open(state: &Path) -> Result<Self, Problem> {
        let folder = state.join("restores");
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => sync_dir(state)?,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Problem::std_io("create", &folder)(error)),
        }
        let meta = fs::symlink_metadata(&folder).map_err(Problem::std_io("look at", &folder))?;
        if !meta.is_dir() || !is_ours(&meta) {
            return Err(Problem::StateNotOurs { path: folder });
        }
        Ok(Self { folder })
    }

    /// Where the marker of `restore` lies.
    pub fn path(&self, restore: Uuid) -> PathBuf {
        self.folder.join(format!("{restore}.json"))
    }

    /// Every marker, oldest first. One that cannot be read is an error of its own: a start gate must then hold.
    ///
    /// # Errors
    /// [`Problem::Io`] when the folder itself cannot be listed.
    pub fn list(&self) -> Result<Vec<Result<Marker, Problem>>, Problem> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Problem::std_io("list", &self.folder))? {
            let name = entry.map_err(Problem::std_io("list", &self.folder))?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(".json"));
            ids.extend(id.and_then(|id| Uuid::try_parse(id).ok()));
        }
        let mut markers: Vec<_> = ids.into_iter().map(|id| self.load(id)).collect();
        markers.sort_by_key(|marker| {
            marker.as_ref().ok().and_then(|marker| Some((marker.history.first()?.at, marker.restore)))
        });
        Ok(markers)
    }

    /// Reads one marker.
    ///
    /// # Errors
    /// [`Problem::NoSuchRestore`], `Marker…`, [`Problem::StateNotOurs`], [`Problem::Io`].
    pub fn load(&self, restore: Uuid) -> Result<Marker, Problem> {
        let path = self.path(restore);
        let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Problem::NoSuchRestore { restore });
            }
            Err(error) => return Err(Problem::std_io("open", &path)(error)),
        };
        let meta = file.metadata().map_err(Problem::std_io("look at", &path))?;
        if !meta.is_file() || !is_ours(&meta) {
            return Err(Problem::StateNotOurs { path });
        }
        if meta.len() > MAX_BYTES {
            return Err(Problem::MarkerDamaged { path, why: "it is larger than any marker" });
        }
        let mut text = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut text).map_err(Problem::std_io("read", &path))?;
        /// Read first: a newer marker need not parse as ours.
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let unreadable = |source| Problem::MarkerUnreadable { path: path.clone(), source };
        let head: Head = serde_json::from_slice(&text).map_err(unreadable)?;
        if head.schema != SCHEMA {
            return Err(Problem::MarkerNewer { path, schema: head.schema });
        }
        let marker: Marker = serde_json::from_slice(&text).map_err(unreadable)?;
        if marker.restore != restore {
            return Err(Problem::MarkerDamaged { path, why: "it names another restore" });
        }
        marker.check(&path)?;
        Ok(marker)
    }

    /// Makes `marker` durable: on `Ok`, it survives a power cut.
    ///
    /// # Errors
    /// [`Problem::Io`]; the marker that was there before is then still whole.
    pub fn save(&self, marker: &Marker) -> Result<(), Problem> {
        let path = self.path(marker.restore);
        let draft = self.folder.join(format!(".{}.draft", marker.restore));
        let text = serde_json::to_vec_pretty(marker)
            .map_err(|source| Problem::MarkerUnreadable { path: path.clone(), source })?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&draft)
            .map_err(Problem::std_io("create", &draft))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(Problem::std_io("write", &draft))?;
        fs::rename(&draft, &path).map_err(Problem::std_io("put in place", &path))?;
        sync_dir(&self.folder)
    }

    /// Removes the marker of `restore`, durably. Absent is fine.
    ///
    /// # Errors
    /// [`Problem::Io`].
    pub fn remove(&self, restore: Uuid) -> Result<(), Problem> {
        let path = self.path(restore);
        match fs::remove_file(&path) {
            Ok(()) => sync_dir(&self.folder),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Problem::std_io("remove", &path)(error)),
        }
    }
}

fn is_ours(meta: &fs::Metadata) -> bool {
    let euid = rustix::process::geteuid().as_raw();
    (meta.uid() == 0 || meta.uid() == euid) && meta.mode() & 0o022 == 0
}

fn sync_dir(folder: &Path) -> Result<(), Problem> {
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(Problem::std_io("sync", folder))
}

/// Paths in JSON: text where they are UTF-8, else their bytes as hexadecimal digits in `{"bytes": "…"}`.
mod path_text {
    use super::*;
    use serde::{Deserializer, Serializer, de::Error as _};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Text {
        Utf8(String),
        Raw { bytes: String },
    }

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => Text::Utf8(text.to_owned()),
            None => Text::Raw {
                bytes: path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect(),
            },
        }
        .serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        match Text::deserialize(from)? {
            Text::Utf8(text) => Ok(PathBuf::from(text)),
            Text::Raw { bytes } => {
                let digit =
                    |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let pairs = bytes.as_bytes().chunks(2).map(|pair| match *pair {
                    [high, low] => Some(digit(high)? << 4 | digit(low)?),
                    _ => None,
                });
                let raw: Option<Vec<u8>> = pairs.collect();
                raw.map(|raw| PathBuf::from(OsString::from_vec(raw)))
                    .ok_or_else(|| D::Error::custom("a path's bytes are not hexadecimal digits"))
            }
        }
    }
}

//! Keys on their way back (promise P9): opened with the recovery identity, or proved to be there already.
//!
//! Owns: where each key of the set comes from, and putting it into the staging; plain keys live in wiped memory and in
//! the staged file alone. Leaves to others: sealing and fingerprints (`holdfast-store-keys`).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use holdfast_store_keys::{MAX_KEY_FILE, RecoveryIdentity, key_fingerprint, open, read_key_file, sealed_to};
use holdfast_writer_api::document::KeyRecord;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::Serialize;
use zeroize::Zeroizing;

use super::plan::Check;
use super::set::SetContents;
use crate::failure::{Exit, Failure, NOTHING_CHANGED};
use crate::restore::{Kind, UnitSpec};

/// Where the key of a restored application comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeySource {
    /// Out of the set, opened with the recovery identity.
    Opened,
    /// It is where it belongs, its fingerprint is the set's, and it is not touched.
    Present,
    /// It lies in a folder that is replaced, and is taken over into the new one.
    CarriedOver,
    /// It stays sealed: the restore goes on without it.
    Sealed,
}

/// A key of the restore.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub record: KeyRecord,
    pub target: PathBuf,
    /// The folder unit it lies in, by its target.
    pub inside: Option<PathBuf>,
    pub source: KeySource,
    /// What stands there now is another key, or cannot be told: it is never removed.
    pub replaces_other: bool,
}

/// What was decided about a key.
pub(super) struct Decision {
    pub key: Key,
    pub check: Check,
    pub help: Option<String>,
}

/// Decides where `record`'s key comes from. Blocks.
///
/// # Errors
/// The sealed key cannot be read from the set.
pub(super) fn decide(
    contents: &SetContents,
    record: &KeyRecord,
    target: PathBuf,
    inside: Option<PathBuf>,
    identity: Option<&RecoveryIdentity>,
    may_lack: bool,
) -> Result<Decision, Failure> {
    let sealed = contents.sealed(&record.stored)?;
    let live = read_key_file(&target).ok();
    let there = target.symlink_metadata().is_ok();
    let same = live.as_ref().is_some_and(|file| fits(&file.content, record) == Some(true));
    let mut help = None;
    let (source, result, ok) = match identity.map(|identity| open(&sealed, identity)) {
        Some(Err(error)) => {
            help = Some("pass the recovery identity that the keys are sealed to".to_owned());
            (KeySource::Sealed, super::fault::chain(&error), false)
        }
        Some(Ok(plain)) if fits(&plain, record) == Some(false) => {
            (KeySource::Sealed, "the sealed key is another than the set says".to_owned(), false)
        }
        Some(Ok(_)) if same && inside.is_none() => {
            (KeySource::Present, "is there and is the set's".to_owned(), true)
        }
        Some(Ok(_)) => (KeySource::Opened, "opens with the recovery identity".to_owned(), true),
        None if same && inside.is_some() => {
            (KeySource::CarriedOver, "is there, is the set's, and is taken over".to_owned(), true)
        }
        None if same => (KeySource::Present, "is there and is the set's".to_owned(), true),
        None if may_lack && live.is_some() && inside.is_some() => {
            (KeySource::CarriedOver, "not proved: the key that is there is taken over".to_owned(), true)
        }
        None if may_lack => (KeySource::Sealed, "stays sealed".to_owned(), true),
        None => {
            let recipients: Vec<_> =
                sealed_to(&sealed).unwrap_or_default().iter().map(ToString::to_string).collect();
            let to = if recipients.is_empty() {
                String::new()
            } else {
                format!(" (sealed to {})", recipients.join(", "))
            };
            help = Some(format!(
                "pass the recovery identity{to} with --identity FILE --identity-passphrase-file FILE, put the key back \
                 by hand, or go on without it by --without-keys"
            ));
            let why = if there {
                "what is there is not the set's key, or cannot be told"
            } else {
                "it is not there"
            };
            (KeySource::Sealed, format!("{why}, and no recovery identity was given to open it"), false)
        }
    };
    let what = format!("key {} ({})", record.path.display(), record.purpose);
    let replaces_other = there && !same && source == KeySource::Opened;
    let key = Key { record: record.clone(), target, inside, source, replaces_other };
    Ok(Decision { key, check: Check { what, result, ok }, help })
}

/// Whether `bytes` are the key of `record`; `None` when no fingerprint can be told, as of an encrypted one.
fn fits(bytes: &[u8], record: &KeyRecord) -> Option<bool> {
    if !record.fingerprint.starts_with("SHA256:") {
        return None;
    }
    Some(key_fingerprint(bytes, None).ok()? == record.fingerprint)
}

impl Key {
    /// The key as a unit of its own, where it is one.
    pub fn spec(&self) -> Option<UnitSpec> {
        let own = self.source == KeySource::Opened && self.inside.is_none();
        own.then(|| UnitSpec { live: self.target.clone(), kind: Kind::File, companions: Vec::new() })
    }

    /// Where its plain form lies once staged: for the writer's checks.
    pub fn plain_at(&self, staged: impl Fn(&Path) -> Option<PathBuf>) -> Option<PathBuf> {
        match (self.source, &self.inside) {
            (KeySource::Present, _) => Some(self.target.clone()),
            (KeySource::Sealed, _) => None,
            (KeySource::Opened | KeySource::CarriedOver, None) => staged(&self.target),
            (KeySource::Opened | KeySource::CarriedOver, Some(folder)) => {
                Some(staged(folder)?.join(self.target.strip_prefix(folder).ok()?))
            }
        }
    }

    /// Puts the plain key into the staging: below `base`, a staged folder of our own, at `relative`. Blocks.
    ///
    /// # Errors
    /// [`Exit::Key`] when it no longer opens or is no longer there; the system's.
    pub fn stage(
        &self,
        contents: &SetContents,
        identity: Option<&RecoveryIdentity>,
        base: &Path,
        relative: &Path,
        may_lose_owner: bool,
    ) -> Result<(), Failure> {
        let shown = self.record.path.display();
        let lost = |why: &dyn std::fmt::Display| {
            Failure::refused(Exit::Key, format!("the key {shown} cannot be brought back: {why}"))
        };
        let (plain, mode, uid, gid) = match self.source {
            KeySource::Present | KeySource::Sealed => return Ok(()),
            KeySource::Opened => {
                let identity = identity.ok_or_else(|| lost(&"there is no recovery identity"))?;
                let plain =
                    open(&contents.sealed(&self.record.stored)?, identity).map_err(|error| lost(&error))?;
                (plain, self.record.mode, self.record.uid, self.record.gid)
            }
            KeySource::CarriedOver => {
                let file = read_key_file(&self.target).map_err(|error| lost(&error))?;
                (file.content, file.mode, file.uid, file.gid)
            }
        };
        let placed = place(base, relative, &plain, (mode & 0o7777, uid, gid), may_lose_owner);
        placed.map_err(|error| {
            Failure::new(Exit::Failed, format!("the key {shown} cannot be staged"), error, NOTHING_CHANGED)
        })?;
        let again = read_key_file(&base.join(relative)).map_err(|error| lost(&error))?;
        if again.content != plain
            || (self.source == KeySource::Opened && fits(&again.content, &self.record) == Some(false))
        {
            return Err(lost(&"what was staged is not what was opened"));
        }
        Ok(())
    }
}

/// Writes a key below `base` without following any link: the stored tree may contain one that leads elsewhere.
fn place(
    base: &Path,
    relative: &Path,
    plain: &Zeroizing<Vec<u8>>,
    (mode, uid, gid): (u32, u32, u32),
    may_lose_owner: bool,
) -> io::Result<()> {
    debug_assert!(plain.len() <= MAX_KEY_FILE, "bounded where it was read");
    let folder = rustix::fs::openat(
        CWD,
        base,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let name = relative.file_name().ok_or(Errno::INVAL)?;
    let folder =
        walk_or_make(folder, relative.parent().unwrap_or(Path::new("")), (uid, gid), may_lose_owner)?;
    match rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(&folder, name, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(plain)?;
    own(&file, uid, gid, may_lose_owner)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    file.sync_all()?;
    rustix::fs::fsync(&folder)?;
    Ok(())
}

fn walk_or_make(
    mut folder: OwnedFd,
    path: &Path,
    (uid, gid): (u32, u32),
    may_lose_owner: bool,
) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for name in path.iter() {
        let opened = match rustix::fs::openat2(
            &folder,
            name,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        ) {
            // A folder that held nothing but keys was not stored.
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o700))?;
                let made = rustix::fs::openat(&folder, name, flags, Mode::empty())?;
                own(&made, uid, gid, may_lose_owner)?;
                rustix::fs::fsync(&folder)?;
                made
            }
            opened => opened?,
        };
        folder = opened;
    }
    Ok(folder)
}

fn own(file: &impl std::os::fd::AsFd, uid: u32, gid: u32, may_lose: bool) -> io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    if (stat.st_uid, stat.st_gid) == (uid, gid) {
        return Ok(());
    }
    let owner = (rustix::process::Uid::from_raw(uid), rustix::process::Gid::from_raw(gid));
    match rustix::fs::fchown(file, Some(owner.0), Some(owner.1)) {
        Err(Errno::PERM) if may_lose => Ok(()),
        done => Ok(done?),
    }
}

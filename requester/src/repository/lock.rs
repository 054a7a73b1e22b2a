//! Locks in restic's form, respected and written, so that stock restic and Holdfast keep out of each other's way.
//! Owns: taking, refreshing and giving back a lock, and who holds one.
//!
//! A lock is a small encrypted file in `locks/`. Shared ones let others read and add; an exclusive one keeps everybody
//! out. Both sides write first and look then: of two that start at once, at least one sees the other.

use std::{
    fmt,
    sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    Repository,
    crypto::{self, Cipher},
    error::RepositoryError,
    storage::{FileKind, Storage, StorageErrorKind},
};

/// How often a lock is written anew, as restic does.
const REFRESH: Duration = Duration::from_secs(5 * 60);
/// A lock not refreshed for so long is nobody's any more: restic's rule.
const STALE_AFTER: SignedDuration = SignedDuration::from_mins(30);
/// Our own is given up earlier, before others may take it for stale.
const LOST_AFTER: SignedDuration = SignedDuration::from_mins(25);
/// A lock file is some 200 bytes.
const LOCK_LIMIT: u64 = 64 << 10;

/// What a lock keeps out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Whoever needs the repository alone: for backup, restore and checks.
    Shared,
    /// Everybody: for removing what others may be using.
    Exclusive,
}

/// Who holds a lock, as written in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockOwner {
    /// Host name.
    pub host: String,
    /// User name.
    pub user: String,
    /// Process on that host.
    pub pid: u32,
    /// When the lock was taken or last refreshed.
    pub since: Timestamp,
    /// Whether it is exclusive.
    pub exclusive: bool,
}

impl fmt::Display for LockOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, user, pid, since, exclusive } = self;
        let kind = if *exclusive { "exclusively " } else { "" };
        write!(f, "{user}@{host}, process {pid}, {kind}since {since}")
    }
}

/// A lock file's content. Field names are restic's.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LockFile {
    time: Timestamp,
    #[serde(default)]
    exclusive: bool,
    #[serde(default)]
    hostname: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

impl LockFile {
    fn ours(kind: LockKind) -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self {
            time: Timestamp::now(),
            exclusive: kind == LockKind::Exclusive,
            hostname: hostname(),
            username: if uid == 0 { "root".to_owned() } else { format!("uid {uid}") },
            pid: std::process::id(),
            uid,
            gid: rustix::process::getgid().as_raw(),
        }
    }

    fn owner(&self) -> LockOwner {
        LockOwner {
            host: self.hostname.clone(),
            user: self.username.clone(),
            pid: self.pid,
            since: self.time,
            exclusive: self.exclusive,
        }
    }

    fn state(&self, now: Timestamp, our_host: &str, alive: impl Fn(u32) -> bool) -> LockState {
        if self.hostname == our_host && !alive(self.pid) {
            LockState::Orphaned
        } else if now.duration_since(self.time) > STALE_AFTER {
            LockState::Stale
        } else {
            LockState::Held
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum LockState {
    Held,
    /// Too old. Ignored, not removed: its owner's clock may be wrong.
    Stale,
    /// Its process on this host is gone. Removed.
    Orphaned,
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn is_alive(pid: u32) -> bool {
    // Not permitted to signal it: it lives. A number no process can have: it does not.
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// `restic unlock` finds out whether a lock's process lives by sending it SIGHUP, which ends whoever does not expect it.
/// From the first lock on, SIGHUP does nothing, as in restic itself; a disposition that is not the default stays.
fn survive_unlock() {
    extern "C" fn nothing(_: libc::c_int) {}
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A handler, not SIG_IGN, which our children would inherit.
        // SAFETY: `sigaction` is a plain struct for which all zeros is valid; the handler touches nothing, so it may
        // run at any point of any thread; both pointers are valid for the calls.
        unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGHUP, std::ptr::null(), &raw mut now) == 0
                && now.sa_sigaction == libc::SIG_DFL
            {
                let mut new: libc::sigaction = std::mem::zeroed();
                new.sa_sigaction = nothing as *const () as libc::sighandler_t;
                new.sa_flags = libc::SA_RESTART;
                libc::sigaction(libc::SIGHUP, &raw const new, std::ptr::null_mut());
            }
        }
    });
}

/// The lock of one open repository; shared by its clones, and by the thread that refreshes it.
pub(super) struct Locks {
    storage: Arc<dyn Storage>,
    cipher: Arc<Cipher>,
    location: String,
    refresh: Duration,
    state: Mutex<State>,
    /// Wakes the refreshing thread when the lock is given back.
    given_back: Condvar,
}

#[derive(Default)]
struct State {
    held: Option<Held>,
}

struct Held {
    kind: LockKind,
    users: usize,
    name: String,
    refreshed: Timestamp,
    lost: bool,
    refresher: Option<JoinHandle<()>>,
}

/// Holds the repository's lock; several may, and the last one gives it back.
#[must_use = "the lock is given back when this is dropped"]
pub struct LockGuard {
    locks: Arc<Locks>,
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockGuard")
    }
}

impl LockGuard {
    /// Whether the lock is still ours.
    ///
    /// # Errors
    /// [`RepositoryError::LockLost`] if it could not be refreshed for 25 minutes, or somebody removed it.
    pub fn check(&self) -> Result<(), RepositoryError> {
        let state = self.locks.state();
        let expired = |held: &Held| Timestamp::now().duration_since(held.refreshed) > LOST_AFTER;
        match &state.held {
            Some(held) if !held.lost && !expired(held) => Ok(()),
            _ => Err(RepositoryError::LockLost { location: self.locks.location.clone() }),
        }
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.locks.release();
    }
}

impl Repository {
    /// Takes the lock, or shares one that this repository holds already; refreshed in the background until dropped.
    /// Operations take what they need themselves: a session holds one so that nobody gets between its steps.
    ///
    /// # Errors
    /// [`RepositoryError::Locked`] if another process, or for an exclusive one this process itself, holds a lock that
    /// excludes it; the storage's failures.
    pub fn lock(&self, kind: LockKind) -> Result<LockGuard, RepositoryError> {
        self.inner.locks.acquire(kind)
    }

    /// Who else is at work on the repository: the owners of all locks but the one that this repository and its clones
    /// hold. Left out, as in restic, is what was not refreshed for half an hour, or names a process of this host that
    /// is gone; another machine of the same name is not told apart there, and loses its lock the same way.
    ///
    /// # Errors
    /// [`RepositoryError::Damaged`] for a lock that cannot be read; the storage's failures.
    pub fn others_at_work(&self) -> Result<Vec<LockOwner>, RepositoryError> {
        self.inner.locks.others()
    }

    /// A shared lock, or none where the storage cannot be written: a restore from read-only media must work.
    pub(crate) fn lock_for_reading(&self) -> Result<Option<LockGuard>, RepositoryError> {
        match self.lock(LockKind::Shared) {
            Err(RepositoryError::Denied { path, .. }) => {
                tracing::warn!(path, "the repository cannot be written: reading it without a lock");
                Ok(None)
            }
            other => other.map(Some),
        }
    }
}

impl Locks {
    pub(super) fn new(storage: Arc<dyn Storage>, cipher: Arc<Cipher>) -> Arc<Self> {
        Self::refreshed_every(REFRESH, storage, cipher)
    }

    fn refreshed_every(refresh: Duration, storage: Arc<dyn Storage>, cipher: Arc<Cipher>) -> Arc<Self> {
        let location = storage.location();
        Arc::new(Self {
            storage,
            cipher,
            location,
            refresh,
            state: Mutex::default(),
            given_back: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn locked_by(&self, lock: &LockFile) -> RepositoryError {
        RepositoryError::Locked { location: self.location.clone(), owner: Box::new(lock.owner()) }
    }

    pub(super) fn acquire(self: &Arc<Self>, kind: LockKind) -> Result<LockGuard, RepositoryError> {
        let mut state = self.state();
        if let Some(held) = &mut state.held {
            if kind == LockKind::Exclusive && held.kind == LockKind::Shared {
                let ours = LockFile { time: held.refreshed, ..LockFile::ours(held.kind) };
                return Err(self.locked_by(&ours));
            }
            held.users += 1;
            return Ok(LockGuard { locks: self.clone() });
        }
        self.look_for_others(kind, None)?;
        survive_unlock();
        let lock = LockFile::ours(kind);
        let name = self.write(&lock)?;
        if let Err(error) = self.look_for_others(kind, Some(&name)) {
            self.remove(&name);
            return Err(error);
        }
        let refresher = {
            let locks = self.clone();
            let thread = std::thread::Builder::new().name("repository-lock".to_owned());
            thread.spawn(move || locks.keep_fresh())
        };
        let refresher = refresher.map_err(|source| {
            self.remove(&name);
            RepositoryError::Unreachable { path: "the thread that refreshes the lock".to_owned(), source }
        })?;
        state.held = Some(Held {
            kind,
            users: 1,
            name,
            refreshed: lock.time,
            lost: false,
            refresher: Some(refresher),
        });
        Ok(LockGuard { locks: self.clone() })
    }

    fn release(&self) {
        let mut state = self.state();
        let Some(held) = &mut state.held else { return };
        held.users -= 1;
        if held.users > 0 {
            return;
        }
        let Some(held) = state.held.take() else { return };
        drop(state);
        self.given_back.notify_all();
        if let Some(refresher) = held.refresher {
            // It panics nowhere; if it did, the lock is still to be removed.
            let _ = refresher.join();
        }
        self.remove(&held.name);
    }

    fn write(&self, lock: &LockFile) -> Result<String, RepositoryError> {
        let sealed = serde_json::to_vec(lock).ok().and_then(|plain| self.cipher.seal(&plain));
        let sealed = sealed.ok_or_else(|| RepositoryError::Library {
            operation: "sealing a lock",
            source: "the system gave no randomness".into(),
        })?;
        let name = crypto::name_of(&sealed);
        let written = self.storage.write(FileKind::Lock, &name, &[sealed.into()]);
        written.map_err(|e| RepositoryError::from_storage(&self.location, e))?;
        Ok(name)
    }

    /// Best effort: a lock that stays is known as orphaned as soon as this process is gone.
    fn remove(&self, name: &str) {
        if let Err(error) = self.storage.remove(FileKind::Lock, name)
            && error.kind != StorageErrorKind::NotFound
        {
            tracing::warn!(path = error.path, cause = %error.source, "a lock could not be removed");
        }
    }

    fn look_for_others(&self, kind: LockKind, ours: Option<&str>) -> Result<(), RepositoryError> {
        let held = self.held_by_others(ours)?;
        let excludes = held.iter().find(|lock| kind == LockKind::Exclusive || lock.exclusive);
        excludes.map_or(Ok(()), |lock| Err(self.locked_by(lock)))
    }

    fn others(&self) -> Result<Vec<LockOwner>, RepositoryError> {
        // Under the mutex, so that our own is not written anew, under another name, while we look.
        let state = self.state();
        let ours = state.held.as_ref().map(|held| &*held.name);
        Ok(self.held_by_others(ours)?.iter().map(LockFile::owner).collect())
    }

    /// The locks that count, without ours; those of the dead are removed.
    fn held_by_others(&self, ours: Option<&str>) -> Result<Vec<LockFile>, RepositoryError> {
        let of_storage = |e| RepositoryError::from_storage(&self.location, e);
        let host = hostname();
        let mut held = Vec::new();
        for (name, size) in self.storage.list(FileKind::Lock).map_err(of_storage)? {
            if ours == Some(&*name) {
                continue;
            }
            let unreadable = || {
                let what = format!("lock {name} cannot be read; `restic unlock --remove-all` removes it");
                RepositoryError::damaged(&self.location, what)
            };
            if size > LOCK_LIMIT {
                return Err(unreadable());
            }
            let sealed = match self.storage.read(FileKind::Lock, &name) {
                // Given back since it was listed.
                Err(error) if error.kind == StorageErrorKind::NotFound => continue,
                other => other.map_err(of_storage)?,
            };
            let plain = self.cipher.open_unpacked(&sealed).ok_or_else(unreadable)?;
            let lock: LockFile = serde_json::from_slice(&plain).map_err(|_| unreadable())?;
            match lock.state(Timestamp::now(), &host, is_alive) {
                LockState::Held => held.push(lock),
                LockState::Stale => tracing::warn!(owner = %lock.owner(), "ignoring a stale lock"),
                LockState::Orphaned => {
                    tracing::warn!(owner = %lock.owner(), "removing the lock of a dead process");
                    self.remove(&name);
                }
            }
        }
        Ok(held)
    }

    /// The refreshing thread. Ends when the lock is given back or lost.
    fn keep_fresh(&self) {
        let mut state = self.state();
        // Looked at before each wait: the lock may be given back before this thread first runs.
        while state.held.is_some() {
            let (back, timeout) =
                self.given_back.wait_timeout(state, self.refresh).unwrap_or_else(PoisonError::into_inner);
            state = back;
            let Some(held) = &mut state.held else { return };
            if !timeout.timed_out() {
                continue;
            }
            let lock = LockFile::ours(held.kind);
            // The new one is there before the old one goes. Under the mutex, so that it cannot be given back between.
            match self.write(&lock) {
                Err(error) => tracing::warn!(%error, "the repository's lock could not be refreshed"),
                Ok(name) => {
                    let old = std::mem::replace(&mut held.name, name);
                    held.refreshed = lock.time;
                    match self.storage.remove(FileKind::Lock, &old) {
                        // Somebody removed it, and may have had the repository alone since.
                        Err(error) if error.kind == StorageErrorKind::NotFound => held.lost = true,
                        Err(error) => tracing::warn!(path = error.path, "an old lock could not be removed"),
                        Ok(()) => {}
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustic_core::repofile::MasterKey;

    use super::*;
    use crate::repository::storage::LocalStorage;

    fn place() -> (tempfile::TempDir, Arc<dyn Storage>, Arc<Cipher>) {
        let place = tempfile::tempdir().expect("scratch folder");
        let storage = LocalStorage::new(place.path().to_owned());
        storage.create().expect("folders");
        let cipher = Cipher::new(&MasterKey::new()).expect("a fresh key");
        (place, Arc::new(storage), Arc::new(cipher))
    }

    fn count(storage: &Arc<dyn Storage>) -> usize {
        storage.list(FileKind::Lock).expect("listed").len()
    }

    #[test]
    fn shared_locks_coexist_and_an_exclusive_one_is_alone() {
        let (_place, storage, cipher) = place();
        // Two repositories of one process stand for two processes: locks know files, not threads.
        let one = Locks::new(storage.clone(), cipher.clone());
        let two = Locks::new(storage.clone(), cipher);
        let shared =
            [one.acquire(LockKind::Shared).expect("free"), two.acquire(LockKind::Shared).expect("shared")];
        assert_eq!(count(&storage), 2);
        let Err(RepositoryError::Locked { owner, .. }) = two.acquire(LockKind::Exclusive) else {
            panic!("an exclusive lock beside a shared one");
        };
        assert_eq!((owner.pid, owner.exclusive), (std::process::id(), false));
        drop(shared);
        assert_eq!(count(&storage), 0);
        let exclusive = one.acquire(LockKind::Exclusive).expect("free");
        let again = one.acquire(LockKind::Shared).expect("the same repository");
        for kind in [LockKind::Shared, LockKind::Exclusive] {
            let refused = two.acquire(kind);
            assert!(matches!(refused, Err(RepositoryError::Locked { owner, .. }) if owner.exclusive));
        }
        drop(exclusive);
        assert!(two.acquire(LockKind::Shared).is_err(), "still held by the other guard");
        drop(again);
        drop(two.acquire(LockKind::Exclusive).expect("free"));
        assert_eq!(count(&storage), 0);
    }

    #[test]
    fn a_lock_is_orphaned_with_its_process_and_stale_after_half_an_hour() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().expect("a time");
        let minutes = |m| now - SignedDuration::from_mins(m);
        let lock =
            |host: &str, time| LockFile { hostname: host.into(), time, ..LockFile::ours(LockKind::Shared) };
        for (lock, alive, state) in [
            (lock("here", minutes(0)), true, LockState::Held),
            (lock("here", minutes(29)), true, LockState::Held),
            (lock("here", minutes(31)), true, LockState::Stale),
            (lock("here", minutes(0)), false, LockState::Orphaned),
            (lock("there", minutes(29)), false, LockState::Held),
            (lock("there", minutes(31)), false, LockState::Stale),
        ] {
            assert_eq!(lock.state(now, "here", |_| alive), state, "{lock:?}");
        }
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(0) && !is_alive(u32::MAX));
    }

    #[test]
    fn the_lock_of_a_dead_process_on_this_host_is_removed() {
        let (_place, storage, cipher) = place();
        let locks = Locks::new(storage.clone(), cipher);
        // Above the highest pid the kernel gives out.
        let dead = LockFile { pid: 1 << 23, ..LockFile::ours(LockKind::Exclusive) };
        locks.write(&dead).expect("written");
        drop(locks.acquire(LockKind::Exclusive).expect("the dead do not lock"));
        assert_eq!(count(&storage), 0);
    }

    #[test]
    fn others_at_work_are_all_that_hold_a_lock_but_ourselves_and_the_dead() {
        let (_place, storage, cipher) = place();
        let ours = Locks::new(storage.clone(), cipher.clone());
        let theirs = Locks::new(storage.clone(), cipher);
        assert_eq!(ours.others().expect("listed"), []);
        let guards = [&ours, &theirs].map(|locks| locks.acquire(LockKind::Shared).expect("shared"));
        // Same process, another lock: what decides is the lock, since a container may have our host name and our pid.
        let others = ours.others().expect("listed");
        assert_eq!(others.iter().map(|owner| owner.pid).collect::<Vec<_>>(), [std::process::id()]);
        theirs
            .write(&LockFile { hostname: "elsewhere".into(), ..LockFile::ours(LockKind::Shared) })
            .expect("written");
        theirs.write(&LockFile { pid: 1 << 23, ..LockFile::ours(LockKind::Shared) }).expect("written");
        assert_eq!(
            ours.others().expect("listed").len(),
            2,
            "one here, one elsewhere; the dead one does not count"
        );
        drop(guards);
        let hosts: Vec<_> = ours.others().expect("listed").into_iter().map(|owner| owner.host).collect();
        assert_eq!(hosts, ["elsewhere"]);
    }

    #[test]
    fn a_lock_is_refreshed_and_knows_when_somebody_removed_it() {
        let (_place, storage, cipher) = place();
        let locks = Locks::refreshed_every(Duration::from_millis(1), storage.clone(), cipher);
        let guard = locks.acquire(LockKind::Shared).expect("free");
        let first = locks.state().held.as_ref().map(|held| held.name.clone());
        while locks.state().held.as_ref().map(|held| held.name.clone()) == first {
            std::thread::yield_now();
        }
        guard.check().expect("refreshed, still ours");
        {
            // The mutex keeps the refresher away while the file goes.
            let state = locks.state();
            let name = state.held.as_ref().map(|held| held.name.clone()).expect("held");
            storage.remove(FileKind::Lock, &name).expect("removed");
        }
        while guard.check().is_ok() {
            std::thread::yield_now();
        }
        assert!(matches!(guard.check(), Err(RepositoryError::LockLost { .. })));
        drop(guard);
        assert_eq!(count(&storage), 0);
    }

    #[test]
    fn a_lock_that_cannot_be_read_is_damage_and_says_how_to_go_on() {
        let (_place, storage, cipher) = place();
        storage.write(FileKind::Lock, &"ab".repeat(32), &["rubbish".into()]).expect("written");
        let refused = Locks::new(storage, cipher).acquire(LockKind::Shared);
        assert!(matches!(refused, Err(RepositoryError::Damaged { what, .. }) if what.contains("unlock")));
    }
}

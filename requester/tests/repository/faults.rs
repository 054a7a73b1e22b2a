//! A damaged, full or failing storage gives a typed error, and never half a set.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use holdfast::repository::{
    FileKind, LocalStorage, Options, Password, Repository, RepositoryError, RestoreOptions, Storage,
    StorageError, StorageErrorKind,
};

use crate::support::{Bench, PASSWORD, about, document, entries, noise, utf8};

/// Fails the write with the number in `fuse`, and all after it.
#[derive(Debug)]
struct Fused {
    inner: LocalStorage,
    fuse: Arc<AtomicUsize>,
    kind: StorageErrorKind,
}

impl Fused {
    fn burn(&self, path: &str) -> Result<(), StorageError> {
        let left =
            self.fuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(1)));
        if left == Ok(0) {
            let source = std::io::Error::other("the fuse is burnt");
            return Err(StorageError { kind: self.kind, path: path.to_owned(), source });
        }
        Ok(())
    }
}

impl Storage for Fused {
    fn location(&self) -> String {
        self.inner.location()
    }
    fn create(&self) -> Result<(), StorageError> {
        self.inner.create()
    }
    fn list(&self, kind: FileKind) -> Result<Vec<(String, u64)>, StorageError> {
        self.inner.list(kind)
    }
    fn read(&self, kind: FileKind, name: &str) -> Result<Bytes, StorageError> {
        self.inner.read(kind, name)
    }
    fn read_range(
        &self,
        kind: FileKind,
        name: &str,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, StorageError> {
        self.inner.read_range(kind, name, offset, length)
    }
    fn write(&self, kind: FileKind, name: &str, content: &[Bytes]) -> Result<(), StorageError> {
        self.burn(name)?;
        self.inner.write(kind, name, content)
    }
    fn remove(&self, kind: FileKind, name: &str) -> Result<(), StorageError> {
        self.burn(name)?;
        self.inner.remove(kind, name)
    }
}

/// Goal: whichever write or removal fails, there is the whole set or none, and a typed error.
/// Method: the same backup over and over, failing access 0, then 1, … until it succeeds.
#[test]
fn a_failure_at_any_write_leaves_a_whole_set_or_none() {
    for kind in [StorageErrorKind::Other, StorageErrorKind::NoSpace] {
        let bench = Bench::new();
        let tree = bench.folder("tree");
        fs::write(tree.join("one"), noise(1 << 20, 1)).expect("written");
        fs::write(tree.join("two"), "2").expect("written");
        let fuse = Arc::new(AtomicUsize::new(usize::MAX));
        let storage = Fused { inner: LocalStorage::new(bench.path()), fuse: fuse.clone(), kind };
        let repository = Repository::open_on(Arc::new(storage), &Password::new(PASSWORD)).expect("opened");
        let mut failures = 0;
        for step in 0.. {
            // Another content each time, or nothing would be left to write.
            fs::write(tree.join("changed"), noise(100_000, step as u64 + 10)).expect("written");
            let about = about();
            fuse.store(step, Ordering::SeqCst);
            let result = repository
                .archive(&about, entries(&tree, "/data/files"), None)
                .and_then(|partial| repository.commit(&about, &[partial], vec![document("set.json", b"{}")]));
            let burnt = fuse.swap(usize::MAX, Ordering::SeqCst) == 0;
            let there = repository.sets().expect("listed").into_iter().find(|set| set.set == about.set);
            if let Some(set) = &there {
                repository.read_document(set, Path::new("set.json"), 10).expect("a listed set is whole");
                let reader = repository.reader(set).expect("reader");
                let changed = reader.read_file(Path::new("/data/files/changed"), 1 << 20).expect("whole");
                assert_eq!(changed, fs::read(tree.join("changed")).expect("read"));
            }
            match result {
                Ok(_) => {
                    assert!(there.is_some(), "step {step}: stored, but not listed");
                    if !burnt {
                        break;
                    }
                }
                Err(RepositoryError::NoSpace { .. }) if kind == StorageErrorKind::NoSpace => failures += 1,
                Err(RepositoryError::Unreachable { .. }) if kind == StorageErrorKind::Other => failures += 1,
                Err(other) => panic!("step {step}: {other:?}"),
            }
        }
        assert!(failures >= 8, "only {failures} accesses failed: the fuse was not reached");
        repository.remove_partials(None).expect("removed");
        repository.check(true).expect("whole");
    }
}

fn packs(bench: &Bench) -> Vec<PathBuf> {
    let shards = fs::read_dir(bench.path().join("data")).expect("listed");
    let mut packs: Vec<PathBuf> = shards
        .flat_map(|shard| fs::read_dir(shard.expect("listed").path()).expect("listed"))
        .map(|pack| pack.expect("listed").path())
        .collect();
    packs.sort_by_key(|pack| std::cmp::Reverse(fs::metadata(pack).expect("stat").len()));
    packs
}

#[test]
fn a_flipped_byte_is_damage_to_a_full_check_and_to_a_restore() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), noise(2 << 20, 1)).expect("written");
    let set = bench.store(&tree);
    bench.repository.check(true).expect("whole");
    let pack = packs(&bench).swap_remove(0);
    let mut content = fs::read(&pack).expect("read");
    content[1000] ^= 1;
    fs::remove_file(&pack).expect("removed");
    fs::write(&pack, content).expect("written");
    bench.repository.check(false).expect("sizes are as before");
    let found = bench.repository.check(true);
    assert!(matches!(found, Err(RepositoryError::Damaged { .. })), "{found:?}");
    let selection = [("/data/files".into(), bench.place.path().join("back"))];
    let refused = bench.repository.restore_files(&set, &selection, &RestoreOptions::default());
    assert!(matches!(refused, Err(RepositoryError::Damaged { .. })), "{refused:?}");
    fs::remove_file(&pack).expect("removed");
    for read_data in [false, true] {
        let found = bench.repository.check(read_data);
        assert!(matches!(found, Err(RepositoryError::Damaged { .. })), "{found:?}");
    }
}

#[test]
fn two_packs_of_one_layout_exchanged_by_a_stranger_are_noticed() {
    let bench = Bench::new();
    let mut sets = Vec::new();
    for number in 0..2 {
        let tree = bench.folder(&format!("tree{number}"));
        fs::write(tree.join("file"), noise(300_000, number + 20)).expect("written");
        sets.push(bench.store(&tree));
    }
    let packs = packs(&bench);
    let [one, two] = [&packs[0], &packs[1]];
    assert_eq!(fs::metadata(one).expect("stat").len(), fs::metadata(two).expect("stat").len());
    let aside = bench.place.path().join("aside");
    fs::rename(one, &aside)
        .and_then(|()| fs::rename(two, one))
        .and_then(|()| fs::rename(&aside, two))
        .expect("moved");
    // Every blob decrypts; only its name tells.
    for (number, set) in sets.iter().enumerate() {
        let selection = [("/data/files".into(), bench.place.path().join(format!("back{number}")))];
        let refused = bench.repository.restore_files(set, &selection, &RestoreOptions::default());
        let Err(RepositoryError::Damaged { what, .. }) = refused else { panic!("{refused:?}") };
        assert!(what.contains("holds the content of another"), "{what}");
    }
}

#[test]
fn damaged_snapshots_indexes_keys_and_config_are_damage() {
    for kind in ["snapshots", "index", "keys", "config"] {
        let bench = Bench::new();
        bench.store(&bench.folder("tree"));
        let files: Vec<PathBuf> = match fs::read_dir(bench.path().join(kind)) {
            Ok(entries) => entries.map(|entry| entry.expect("listed").path()).collect(),
            Err(_) => vec![bench.path().join(kind)],
        };
        for file in files {
            let mut content = fs::read(&file).expect("read");
            let middle = content.len() / 2;
            content[middle] ^= 0x55;
            content.truncate(middle + 1);
            fs::remove_file(&file).expect("removed");
            fs::write(&file, content).expect("written");
        }
        let result = bench.open().and_then(|repository| repository.check(false));
        assert!(matches!(result, Err(RepositoryError::Damaged { .. })), "{kind}: {result:?}");
    }
}

/// A small file system of its own; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    fn new(path: PathBuf) -> Option<Self> {
        use rustix::mount::{MountFlags, mount};
        fs::create_dir(&path).expect("a folder");
        if !rustix::process::geteuid().is_root() {
            println!("skipped: not root");
            return None;
        }
        match mount("none", &path, "tmpfs", MountFlags::empty(), Some(c"size=8m")) {
            Ok(()) => Some(Self(path)),
            Err(error) => {
                println!("skipped: no tmpfs here: {error}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    }
}

#[test]
fn a_full_disk_under_the_repository_is_named_and_leaves_no_set() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    for number in 0..20 {
        fs::write(tree.join(number.to_string()), noise(1 << 20, number)).expect("written");
    }
    let Some(small) = Small::new(bench.place.path().join("small")) else { return };
    let location = small.0.join("repository");
    let open = Repository::init(utf8(&location), &Password::new(PASSWORD), &Options::default());
    let repository = open.expect("a new repository");
    let full = repository.archive(&about(), entries(&tree, "/data/files"), None);
    assert!(matches!(full, Err(RepositoryError::NoSpace { .. })), "{full:?}");
    assert_eq!(repository.sets().expect("listed"), []);
    assert_eq!(repository.partials().expect("listed"), []);
    repository.check(true).expect("what is there is whole");
    // And it is of use again once there is room.
    repository.prune(false).expect("pruned");
    fs::remove_dir_all(&tree).and_then(|()| fs::create_dir(&tree)).expect("emptied");
    let partial = repository.archive(&about(), entries(&tree, "/data/files"), None).expect("archived");
    repository.commit(&about(), &[partial], Vec::new()).expect("committed");
}

#[test]
fn a_full_disk_under_the_target_of_a_restore_is_named() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    for number in 0..20 {
        fs::write(tree.join(number.to_string()), noise(1 << 20, number)).expect("written");
    }
    let set = bench.store(&tree);
    let Some(small) = Small::new(bench.place.path().join("small")) else { return };
    let selection = [("/data/files".into(), small.0.join("back"))];
    let full = bench.repository.restore_files(&set, &selection, &RestoreOptions::default());
    assert!(matches!(full, Err(RepositoryError::NoSpace { .. })), "{full:?}");
}

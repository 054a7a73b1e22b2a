//! What comes back is what was stored: content, holes, links, owners, modes, times, attributes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use holdfast::repository::{Progress, RepositoryError, RestoreOptions, Restored};
use rustix::fs::{CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::support::{Bench, noise, utf8, xattrs_of};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Everything about an entry that a restore has to bring back; times in nanoseconds.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    size: u64,
    link: Option<PathBuf>,
    content: Option<Vec<u8>>,
    xattrs: Vec<(String, Vec<u8>)>,
    links: u64,
}

fn see(root: &Path) -> BTreeMap<PathBuf, Seen> {
    fn walk(root: &Path, folder: &Path, seen: &mut BTreeMap<PathBuf, Seen>) {
        for entry in fs::read_dir(folder).expect("listed") {
            let path = entry.expect("listed").path();
            let stat = path.symlink_metadata().expect("stat");
            let entry = Seen {
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                mtime: (stat.mtime(), stat.mtime_nsec()),
                size: if stat.is_dir() { 0 } else { stat.len() },
                link: stat.is_symlink().then(|| fs::read_link(&path).expect("a link")),
                content: stat.is_file().then(|| fs::read(&path).expect("read")),
                xattrs: xattrs_of(&path),
                links: if stat.is_dir() { 0 } else { stat.nlink() },
            };
            seen.insert(path.strip_prefix(root).expect("below").to_owned(), entry);
            if stat.is_dir() {
                walk(root, &path, seen);
            }
        }
    }
    let mut seen = BTreeMap::new();
    walk(root, root, &mut seen);
    seen
}

fn restore(bench: &Bench, tree: &Path, target: &Path) -> Restored {
    let set = bench.store(tree);
    let selection = [("/data/files".into(), target.into())];
    bench.repository.restore_files(&set, &selection, &RestoreOptions::default()).expect("restored")
}

/// `user::rw-,user:1:r--,group::r--,mask::r--,other::---` as the kernel stores it.
fn acl() -> Vec<u8> {
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in
        [(1_u16, 6_u16, u32::MAX), (2, 4, 1), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)]
    {
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

#[test]
fn every_kind_of_entry_comes_back_with_all_of_its_attributes() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::create_dir_all(tree.join("a/b/empty")).expect("folders");
    fs::write(tree.join("a/b/big"), noise(11 << 20, 3)).expect("written");
    for number in 0..100 {
        fs::write(tree.join(format!("a/{number}")), noise(number * 37, number as u64 + 9)).expect("written");
    }
    fs::hard_link(tree.join("a/b/big"), tree.join("second name")).expect("linked");
    fs::hard_link(tree.join("a/7"), tree.join("a/b/seven")).expect("linked");
    symlink("../nowhere", tree.join("a/dangling")).expect("a link");
    rustix::fs::mknodat(CWD, tree.join("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    fs::set_permissions(tree.join("a/9"), fs::Permissions::from_mode(0o400)).expect("mode");
    let set_xattr = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::lsetxattr(tree.join(name), key, value, XattrFlags::empty())
    };
    let xattrs = set_xattr("a/9", "user.note", b"\0binary\xff").is_ok()
        && set_xattr("a/b", "user.folder", b"").is_ok()
        && set_xattr("a/10", "system.posix_acl_access", &acl()).is_ok();
    if !xattrs {
        println!("skipped: no extended attributes or ACLs here");
    }
    if is_root() {
        let chown = |name: &str, uid, gid| {
            std::os::unix::fs::lchown(tree.join(name), Some(uid), Some(gid)).expect("owner");
        };
        chown("a/11", 1234, 2345);
        chown("a/b", 1, 2);
        chown("a/dangling", 3, 4);
        chown("pipe", 5, 6);
        chown("a/12", 7, 8);
        set_xattr("a/13", "trusted.secret", b"x").expect("a trusted attribute");
    } else {
        println!("skipped: owners, not root");
    }
    fs::set_permissions(tree.join("a/12"), fs::Permissions::from_mode(0o6755)).expect("mode");
    fs::set_permissions(tree.join("a/b/empty"), fs::Permissions::from_mode(0o1777)).expect("mode");
    fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o550)).expect("mode");
    for (name, tv_sec) in [("a/14", -5), ("a/dangling", 99), ("pipe", 77), ("a/b", 1_000_000_000)] {
        let time = Timespec { tv_sec, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, tree.join(name), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .expect("times");
    }

    let target = bench.place.path().join("back");
    let restored = restore(&bench, &tree, &target);
    let (before, after) = (see(&tree), see(&target));
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
    for (path, entry) in &before {
        assert!(after[path] == *entry, "{}: {:?} became {:?}", path.display(), entry.mode, after[path].mode);
    }
    assert_eq!(restored.done.files, 101);
    assert_eq!(restored.lost, []);
    let inode = |name: &str| target.join(name).metadata().expect("stat").ino();
    assert_eq!(inode("a/b/big"), inode("second name"));
    assert_eq!(inode("a/7"), inode("a/b/seven"));
}

#[test]
fn holes_stay_holes_and_what_lies_between_them_is_kept() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    let file = File::create(tree.join("disk.img")).expect("created");
    let size = 200 << 20;
    file.set_len(size).expect("room");
    file.write_all_at(b"start", 0).expect("written");
    file.write_all_at(&noise(100_000, 5), 90_000_001).expect("written");
    file.write_all_at(b"end", size - 3).expect("written");
    let target = bench.place.path().join("back");
    let restored = restore(&bench, &tree, &target);
    assert_eq!(restored.done, Progress { bytes: size, files: 1 });
    let stat = target.join("disk.img").metadata().expect("stat");
    assert_eq!(stat.size(), size);
    assert!(stat.blocks() * 512 < 1 << 20, "{} bytes on disk", stat.blocks() * 512);
    let back = File::open(target.join("disk.img")).expect("opened");
    let (mut one, mut two) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for offset in (0..size).step_by(1 << 20) {
        file_read(&tree.join("disk.img"), offset, &mut one);
        back.read_exact_at(&mut two, offset).expect("read");
        assert!(one == two, "differs in the MiB at {offset}");
    }
}

fn file_read(path: &Path, offset: u64, buffer: &mut [u8]) {
    File::open(path).and_then(|file| file.read_exact_at(buffer, offset)).expect("read");
}

#[test]
fn single_files_and_folders_go_where_the_selection_says() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::create_dir(tree.join("sub")).expect("a folder");
    fs::write(tree.join("sub/one"), "1").expect("written");
    fs::write(tree.join("two"), "2").expect("written");
    let set = bench.store(&tree);
    let place = bench.place.path();
    fs::create_dir(place.join("prepared")).expect("a folder");
    let reports = Arc::new(Mutex::new(Vec::new()));
    let keep = reports.clone();
    let options = RestoreOptions {
        progress: Some(Arc::new(move |progress| keep.lock().expect("a lock").push(progress))),
        ..RestoreOptions::default()
    };
    let selection = [
        ("/data/files/two".into(), place.join("renamed")),
        ("/data/files/sub".into(), place.join("prepared")),
        ("/holdfast/set.json".into(), place.join("set.json")),
    ];
    let restored = bench.repository.restore_files(&set, &selection, &options).expect("restored");
    assert_eq!(restored.done, Progress { bytes: 4, files: 3 });
    assert_eq!(reports.lock().expect("a lock").last(), Some(&restored.done));
    assert_eq!(fs::read(place.join("renamed")).expect("read"), b"2");
    assert_eq!(fs::read(place.join("prepared/one")).expect("read"), b"1");
    assert_eq!(fs::read(place.join("set.json")).expect("read"), b"{}");
}

#[test]
fn nothing_that_exists_is_overwritten_or_followed() {
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), "new").expect("written");
    let set = bench.store(&tree);
    let place = bench.folder("target");
    fs::write(place.join("there"), "old").expect("written");
    fs::create_dir(place.join("full")).expect("a folder");
    fs::write(place.join("full/x"), "old").expect("written");
    fs::create_dir(place.join("real")).expect("a folder");
    symlink("there", place.join("link")).expect("a link");
    symlink("real", place.join("folder-link")).expect("a link");
    for (from, to) in [
        ("/data/files/file", "there"),
        ("/data/files/file", "link"),
        ("/data/files/file", "folder-link/file"),
        ("/data/files", "full"),
        ("/data/files", "folder-link"),
        ("/data/files", "there"),
        ("/data/files", "missing/parent"),
    ] {
        let selection = [(from.into(), place.join(to))];
        let refused = bench.repository.restore_files(&set, &selection, &RestoreOptions::default());
        assert!(matches!(refused, Err(RepositoryError::Target { .. })), "{to}: {refused:?}");
    }
    assert_eq!(fs::read(place.join("there")).expect("read"), b"old");
    assert_eq!(fs::read_dir(place.join("real")).expect("listed").count(), 0);
    let missing = bench.repository.restore_files(
        &set,
        &[("/data/nothing".into(), place.join("new"))],
        &RestoreOptions::default(),
    );
    assert!(matches!(missing, Err(RepositoryError::NoSuchPath { .. })));
}

#[test]
fn an_unprivileged_restore_fails_on_a_foreign_owner_or_says_what_it_lost() {
    if !is_root() {
        println!("skipped: not root");
        return;
    }
    let bench = Bench::new();
    let tree = bench.folder("tree");
    fs::write(tree.join("theirs"), "x").expect("written");
    std::os::unix::fs::lchown(tree.join("theirs"), Some(1234), Some(1234)).expect("owner");
    fs::set_permissions(tree.join("theirs"), fs::Permissions::from_mode(0o4755)).expect("mode");
    let set = bench.store(&tree);
    let target = bench.folder("target");
    std::os::unix::fs::lchown(&target, Some(65534), Some(65534)).expect("owner");
    fs::set_permissions(bench.place.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    let repository = bench.repository.clone();
    // A thread with its own user, as the kernel allows; its workers inherit it.
    let nobody = std::thread::spawn(move || {
        rustix::thread::set_thread_res_gid(Gid::from_raw(65534), Gid::from_raw(65534), Gid::from_raw(65534))
            .and_then(|()| {
                let nobody = Uid::from_raw(65534);
                rustix::thread::set_thread_res_uid(nobody, nobody, nobody)
            })
            .expect("another user");
        // The lock cannot be written by this user: read without.
        let file = |to: &str| [(PathBuf::from("/data/files/theirs"), target.join(to))];
        let strict = repository.restore_files(&set, &file("strict"), &RestoreOptions::default());
        let lenient = RestoreOptions { allow_lost_attributes: true, ..RestoreOptions::default() };
        let lenient = repository.restore_files(&set, &file("lenient"), &lenient);
        (strict, lenient, target.join("lenient"))
    });
    let (strict, lenient, path) = nobody.join().expect("no panic");
    // What is tested is the target; whether the repository can be read by others is its owner's choice.
    if matches!(strict, Err(RepositoryError::Denied { .. })) {
        println!("the repository's files are closed to others, as they should be");
        return;
    }
    assert!(matches!(strict, Err(RepositoryError::Target { action: "set the owner of", .. })), "{strict:?}");
    let lost = lenient.expect("restored").lost;
    assert_eq!(lost.iter().map(|lost| lost.what.as_str()).collect::<Vec<_>>(), ["owner"]);
    assert_eq!(path.metadata().expect("stat").mode() & 0o7777, 0o755, "no setuid with a wrong owner");
    assert!(utf8(&path).ends_with("lenient"));
}

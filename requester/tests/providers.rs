//! Providers on real filesystems: btrfs, XFS and ext4 on loop devices of their own.
//!
//! Needs root and the mkfs tools; says `skipped` without, and fails instead where `CI` is set.

#![expect(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast::provider::{
    Atomicity, PreparedShadow, Provider, ProviderError, Providers, ShadowArea, ShadowCopy, ShadowRecord,
    ShadowRequest, check_contained, choose, delete, group, list, orphans,
};
use holdfast::volume::{FileSelection, Kind, VolumeError, VolumeMap};
use uuid::Uuid;

/// A filesystem of its own on a loop device, mounted in a private folder and gone when dropped.
struct LoopVolume {
    dir: tempfile::TempDir,
    mounts: Vec<PathBuf>,
}

impl LoopVolume {
    /// `None` where it cannot be made, said aloud; a failure where `CI` is set.
    fn new(fs: &str, megabytes: u64) -> Option<Self> {
        let reason = if !rustix::process::geteuid().is_root() {
            "needs root"
        } else if Command::new(format!("mkfs.{fs}")).arg("-V").output().is_err() {
            "needs the mkfs tools"
        } else {
            return Some(Self::make(fs, megabytes));
        };
        assert!(std::env::var_os("CI").is_none(), "mkfs.{fs}: {reason}");
        println!("skipped: {reason}");
        None
    }

    fn make(fs: &str, megabytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("image");
        File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        let options: &[&str] = match fs {
            "xfs" => &["-q", "-m", "reflink=1"],
            _ => &["-q"],
        };
        run(Command::new(format!("mkfs.{fs}")).args(options).arg(&image));
        let at = dir.path().canonicalize().unwrap().join("mnt");
        fs::create_dir(&at).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&at));
        Self { dir, mounts: vec![at] }
    }

    fn path(&self) -> &Path {
        &self.mounts[0]
    }

    fn mount(&mut self, options: &[&str], what: &Path, at: &Path) {
        fs::create_dir_all(at).unwrap();
        run(Command::new("mount").args(options).arg(what).arg(at));
        self.mounts.push(at.to_path_buf());
    }

    fn subvolume(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&path));
        path
    }

    /// A place outside of the volume.
    fn outside(&self, name: &str) -> PathBuf {
        let path = self.dir.path().canonicalize().unwrap().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for LoopVolume {
    fn drop(&mut self) {
        for at in self.mounts.iter().rev() {
            let unmounted = Command::new("umount").arg(at).stderr(Stdio::null()).status();
            if !unmounted.is_ok_and(|s| s.success()) {
                let _ = Command::new("umount").arg("-l").arg(at).status();
            }
        }
    }
}

/// A scope waits for its threads, also when it panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn run(command: &mut Command) {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
}

fn providers() -> Vec<Box<dyn Provider>> {
    Providers::linked(&[]).unwrap().build()
}

fn provider(name: &str) -> Box<dyn Provider> {
    providers().into_iter().find(|p| p.name() == name).unwrap()
}

fn request(area: &ShadowArea, files: Vec<FileSelection>) -> ShadowRequest {
    let groups = group(&VolumeMap::read().unwrap(), &files).unwrap();
    assert_eq!(groups.len(), 1, "one volume");
    ShadowRequest {
        set: Uuid::now_v7(),
        volume: groups[0].volume.clone(),
        files,
        area: area.clone(),
        budget: Duration::from_secs(30),
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn cut(mut prepared: Box<dyn PreparedShadow>) -> ShadowCopy {
    prepared.commit(soon(), &AtomicBool::new(false)).unwrap();
    prepared.finish().unwrap()
}

fn read(copy: &ShadowCopy, original: &Path) -> Vec<u8> {
    let (root, rel) = copy.locate(original).unwrap();
    let mut bytes = Vec::new();
    root.open_file(&rel).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Neither records nor copies are left of anything.
fn assert_nothing_left(area: &ShadowArea, folders: &[&Path]) {
    let records = list(&area.state_dir).unwrap();
    assert!(records.records.is_empty() && records.damaged.is_empty(), "{records:?}");
    for folder in folders {
        let left = folder.join(".holdfast-shadows");
        let left = fs::read_dir(&left).map_or(0, Iterator::count);
        assert_eq!(left, 0, "in {}", folder.display());
    }
}

#[test]
fn a_btrfs_snapshot_of_a_live_tree_is_one_instant_of_what_is_synced_or_held() {
    let Some(volume) = LoopVolume::new("btrfs", 400) else { return };
    let sub = volume.subvolume("data");
    let area = ShadowArea::new(volume.outside("state"));
    let (a, b) = (sub.join("a"), sub.join("b"));
    let (stop, hold) = (AtomicBool::new(false), Mutex::new(0));
    // Each round writes its number to both files, the second after the first. Without syncing, only a hold
    // keeps the order: as after a power cut, what nobody synced may be there or not.
    let round = |sync: bool| {
        let mut number = hold.lock().unwrap();
        *number += 1;
        for path in [&a, &b] {
            let file = OpenOptions::new().create(true).write(true).truncate(false).open(path).unwrap();
            file.write_all_at(&u64::to_le_bytes(*number), 0).unwrap();
            if sync {
                file.sync_data().unwrap();
            }
        }
    };
    round(true);
    for held in [false, true] {
        stop.store(false, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let _stop_even_on_panic = StopOnDrop(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    round(!held);
                    std::thread::yield_now();
                }
            });
            for _ in 0..5 {
                let selection = FileSelection { held, ..FileSelection::tree(&sub) };
                let mut prepared =
                    provider("btrfs").prepare(request(&area, vec![selection.clone()])).unwrap();
                let holding = held.then(|| hold.lock().unwrap());
                prepared.commit(soon(), &AtomicBool::new(false)).unwrap();
                let expected = holding.map(|number| *number);
                let copy = prepared.finish().unwrap();

                let number = |path| u64::from_le_bytes(read(&copy, path).try_into().unwrap());
                let (first, second) = (number(&a), number(&b));
                match expected {
                    Some(expected) => assert_eq!((first, second), (expected, expected)),
                    None => assert!(first == second || first == second + 1, "{first} {second}"),
                }
                assert_eq!(number(&a), first, "it does not change");

                let (root, found) = copy.files(&selection).unwrap();
                let names: Vec<_> = found.iter().map(|f| f.rel.to_str().unwrap()).collect();
                assert_eq!(names, ["", "a", "b"]);
                assert_eq!(found[1].path, a);
                let refused = File::create(root.path().join("new")).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
                assert_eq!(list(&area.state_dir).unwrap().records, std::slice::from_ref(&copy.record));
                let path = copy.record.path.clone();
                copy.delete().unwrap();
                assert!(!path.exists());
            }
        });
    }
    assert_nothing_left(&area, &[&sub]);
}

#[test]
fn the_cut_of_a_btrfs_snapshot_takes_no_longer_for_a_thousand_files() {
    let Some(volume) = LoopVolume::new("btrfs", 600) else { return };
    let area = ShadowArea::new(volume.outside("state"));
    for n in 0..1000 {
        fs::write(volume.path().join(format!("file-{n}")), vec![7; 100 << 10]).unwrap();
    }
    let mut prepared =
        provider("btrfs").prepare(request(&area, vec![FileSelection::tree(volume.path())])).unwrap();
    let begun = Instant::now();
    prepared.commit(soon(), &AtomicBool::new(false)).unwrap();
    let took = begun.elapsed();
    println!("cut in {took:?}, estimated {:?}", prepared.estimate());
    assert!(took < Duration::from_secs(1), "{took:?}");
    prepared.finish().unwrap().delete().unwrap();
    assert_nothing_left(&area, &[volume.path()]);
}

#[test]
fn each_volume_gets_the_strongest_provider_that_serves_it() {
    for (fs, expected, weaker) in
        [("btrfs", "btrfs", "reflink"), ("xfs", "reflink", "copy"), ("ext4", "copy", "none")]
    {
        let Some(volume) = LoopVolume::new(fs, 400) else { return };
        fs::write(volume.path().join("file"), "x").unwrap();
        let files = [FileSelection::file(volume.path().join("file"))];
        let area = ShadowArea::new(volume.outside("state"));
        let on = VolumeMap::read().unwrap().resolve(volume.path()).unwrap();
        assert_eq!(on.fs_type, fs);
        let providers = providers();
        assert_eq!(choose(&on, &files, &area, &providers, None).unwrap().name(), expected);
        match choose(&on, &files, &area, &providers, Some(weaker)) {
            Ok(chosen) => assert_eq!(chosen.name(), weaker),
            Err(none) => assert_eq!(none.refused, [("none".into(), "is not registered".into())]),
        }
        if fs == "ext4" {
            let refused = choose(&on, &files, &area, &providers, Some("reflink")).err().unwrap();
            assert!(refused.to_string().contains("ext4 does not clone files"), "{refused}");
            let refused = choose(&on, &files, &area, &providers, Some("btrfs")).err().unwrap();
            assert!(refused.to_string().contains("is ext4, not btrfs"), "{refused}");
        }
        assert_nothing_left(&area, &[volume.path()]);
    }
}

#[test]
fn a_held_file_is_cloned_as_it_was_held_with_files_that_appear_and_without_those_that_go() {
    for fs in ["btrfs", "xfs", "ext4"] {
        let Some(volume) = LoopVolume::new(fs, 400) else { return };
        let name = if fs == "ext4" { "copy" } else { "reflink" };
        let base = volume.path().join("srv/db");
        fs::create_dir_all(&base).unwrap();
        let area = ShadowArea::new(volume.outside("state"));
        fs::write(base.join("main.db"), vec![1; 3 << 20]).unwrap();
        fs::write(base.join("main.db-journal"), "gone before the cut").unwrap();
        let selections = vec![
            FileSelection::matching(&base, "main.db"),
            FileSelection { optional: true, ..FileSelection::matching(&base, "main.db-journal") },
            FileSelection { optional: true, ..FileSelection::file(base.join("main.db-wal")) },
        ];
        let mut prepared = provider(name).prepare(request(&area, selections.clone())).unwrap();

        // Written after prepare, before the hold, and not flushed.
        let db = OpenOptions::new().write(true).open(base.join("main.db")).unwrap();
        db.write_all_at(&[2; 1 << 20], 1 << 20).unwrap();
        fs::write(base.join("main.db-wal"), vec![3; 70_000]).unwrap();
        fs::remove_file(base.join("main.db-journal")).unwrap();
        let held = fs::read(base.join("main.db")).unwrap();
        prepared.commit(soon(), &AtomicBool::new(false)).unwrap();
        // After the thaw.
        db.write_all_at(&[9; 2 << 20], 0).unwrap();
        fs::write(base.join("main.db-wal"), "restarted").unwrap();

        let copy = prepared.finish().unwrap();
        assert!(read(&copy, &base.join("main.db")) == held, "{fs}");
        assert!(read(&copy, &base.join("main.db-wal")) == vec![3; 70_000], "{fs}");
        let outcome = copy.locate(&base.join("main.db-journal")).unwrap();
        assert!(matches!(outcome.0.stat(&outcome.1), Err(VolumeError::Missing { .. })));
        let listed: Vec<usize> = selections.iter().map(|s| copy.files(s).unwrap().1.len()).collect();
        assert_eq!(listed, [1, 0, 1]);
        assert!(matches!(copy.locate(Path::new("/etc")), Err(ProviderError::NotInShadow { .. })));
        copy.delete().unwrap();
        assert_nothing_left(&area, &[volume.path(), &area.state_dir]);
    }
}

#[test]
fn a_copied_tree_keeps_what_a_backup_keeps() {
    for (fs, name) in [("xfs", "reflink"), ("btrfs", "reflink"), ("ext4", "copy")] {
        let Some(volume) = LoopVolume::new(fs, 400) else { return };
        let base = volume.path().join("tree");
        fs::create_dir_all(base.join("shut/empty")).unwrap();
        let file = File::create(base.join("shut/holes")).unwrap();
        file.write_all_at(b"end", 40 << 20).unwrap();
        file.set_len(50 << 20).unwrap();
        fs::write(base.join("two-names"), "one file").unwrap();
        fs::hard_link(base.join("two-names"), base.join("two-names-2")).unwrap();
        symlink("/nowhere", base.join("link")).unwrap();
        run(Command::new("mkfifo").arg(base.join("pipe")));
        run(Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(base.join("two-names")));
        run(Command::new("setfacl").args(["-m", "u:1234:rw"]).arg(base.join("two-names")));
        chown(base.join("shut/holes"), Some(1234), Some(2345)).unwrap();
        fs::set_permissions(base.join("shut/holes"), PermissionsExt::from_mode(0o4750)).unwrap();
        run(Command::new("touch").args(["-d", "2001-02-03 04:05:06.789"]).arg(base.join("shut")));
        fs::set_permissions(base.join("shut"), PermissionsExt::from_mode(0o500)).unwrap();

        let area = ShadowArea::new(volume.outside("state"));
        let tree = FileSelection::tree(&base);
        let copy = cut(provider(name).prepare(request(&area, vec![tree.clone()])).unwrap());
        let (root, copied) = copy.files(&tree).unwrap();
        let (original, expected) = {
            let root = holdfast::volume::Root::open(&base).unwrap();
            let found = holdfast::volume::resolve(&root, &tree).unwrap();
            (root, found)
        };
        assert_eq!(copied.len(), expected.len());
        assert_eq!(expected.len(), 8);
        for (is, was) in copied.iter().zip(&expected) {
            assert_eq!((&is.path, is.meta.kind), (&was.path, was.meta.kind));
            let kept = |m: &holdfast::volume::Meta| (m.mode, m.uid, m.gid, m.links, m.mtime);
            assert_eq!(kept(&is.meta), kept(&was.meta), "{fs} {}", is.path.display());
            assert_eq!(root.xattrs(&is.rel).unwrap(), original.xattrs(&was.rel).unwrap());
            if is.meta.kind == Kind::File {
                assert_eq!(is.meta.size, was.meta.size);
                assert!(is.meta.allocated <= was.meta.allocated + (1 << 20), "holes stay holes");
            }
            if is.meta.kind == Kind::Symlink {
                assert_eq!(root.read_link(&is.rel).unwrap(), Path::new("/nowhere"));
            }
        }
        let acl = root.xattrs(Path::new("two-names")).unwrap();
        assert!(acl.iter().any(|(name, _)| name == "system.posix_acl_access"));
        let same = |name: &str| root.stat(Path::new(name)).unwrap().ino;
        assert_eq!(same("two-names"), same("two-names-2"));
        assert!(read(&copy, &base.join("shut/holes")).ends_with(&[0; 100]));
        copy.delete().unwrap();
        assert_nothing_left(&area, &[volume.path(), &area.state_dir]);
    }
}

/// By this a session knows a key under whatever name, though neither device nor inode number is the live file's.
#[test]
fn each_file_of_a_copy_is_known_by_the_live_file_that_it_shows() {
    for (fs, name) in [("btrfs", "btrfs"), ("btrfs", "reflink"), ("xfs", "reflink"), ("ext4", "copy")] {
        let Some(volume) = LoopVolume::new(fs, 400) else { return };
        let (held, unheld) = (volume.path().join("held"), volume.path().join("unheld"));
        for folder in [&held, &unheld] {
            fs::create_dir_all(folder.join("deep")).unwrap();
            for file in ["a", "deep/b", "replaced"] {
                fs::write(folder.join(file), file).unwrap();
            }
        }
        fs::hard_link(held.join("a"), held.join("deep/a-too")).unwrap();
        fs::hard_link(held.join("a"), unheld.join("a-too")).unwrap();
        let area = ShadowArea::new(volume.outside("state"));
        let selections =
            [FileSelection::tree(&held), FileSelection { held: false, ..FileSelection::tree(&unheld) }];
        let prepared = provider(name).prepare(request(&area, selections.to_vec())).unwrap();
        // What is held may still change: the file that was cut counts, not the one that was looked at before.
        fs::write(held.join("new"), "new").unwrap();
        fs::rename(held.join("new"), held.join("replaced")).unwrap();
        let copy = cut(prepared);
        for selection in &selections {
            let live = holdfast::volume::Root::open(&selection.path).unwrap();
            let (_, copied) = copy.files(selection).unwrap();
            let files: Vec<_> = copied.iter().filter(|found| found.meta.kind == Kind::File).collect();
            assert_eq!(files.len(), 4, "{fs} {name}");
            for found in files {
                let was = live.stat(&found.rel).unwrap();
                assert_ne!(
                    (found.meta.dev, found.meta.ino),
                    (was.dev, was.ino),
                    "{fs} {name}: it is the live file"
                );
                assert_eq!(copy.original(&found.meta), was.id(), "{fs} {name} {}", found.path.display());
            }
        }
        copy.delete().unwrap();
    }
}

#[test]
fn a_file_without_copy_on_write_is_cloned_on_btrfs() {
    let Some(volume) = LoopVolume::new("btrfs", 400) else { return };
    let path = volume.path().join("database");
    File::create(&path).unwrap();
    run(Command::new("chattr").arg("+C").arg(&path));
    fs::write(&path, vec![5; 1 << 20]).unwrap();
    let area = ShadowArea::new(volume.outside("state"));
    let copy = cut(provider("reflink").prepare(request(&area, vec![FileSelection::file(&path)])).unwrap());
    assert!(read(&copy, &path) == vec![5; 1 << 20]);
    copy.delete().unwrap();
}

#[test]
fn a_copy_that_would_take_longer_than_the_hold_may_last_is_refused_with_both_numbers() {
    let Some(volume) = LoopVolume::new("ext4", 400) else { return };
    fs::write(volume.path().join("large"), vec![1; 100 << 20]).unwrap();
    let area = ShadowArea::new(volume.outside("state"));
    let mut request = request(&area, vec![FileSelection::file(volume.path().join("large"))]);
    request.budget = Duration::from_millis(2);
    let refused = provider("copy").prepare(request.clone()).err().unwrap();
    let ProviderError::EstimateExceedsBudget { estimate_ms, budget_ms } = refused else {
        panic!("{refused}")
    };
    assert!(budget_ms == 2 && estimate_ms > 2);
    assert_nothing_left(&area, &[volume.path(), &area.state_dir]);

    // The same file costs nothing under the hold if nobody has to hold it.
    request.files[0].held = false;
    request.budget = Duration::from_secs(5);
    let prepared = provider("copy").prepare(request).unwrap();
    assert!(prepared.estimate() < Duration::from_millis(estimate_ms), "{:?}", prepared.estimate());
    cut(prepared).delete().unwrap();
}

#[test]
fn a_copy_cancelled_or_late_in_the_middle_of_a_file_leaves_nothing() {
    let Some(volume) = LoopVolume::new("ext4", 1200) else { return };
    let large = volume.path().join("large");
    fs::write(&large, vec![1; 400 << 20]).unwrap();
    let mut area = ShadowArea::new(volume.outside("state"));
    area.dir = Some(volume.path().to_path_buf());
    for by_deadline in [false, true] {
        let mut request = request(&area, vec![FileSelection::file(&large)]);
        request.budget = Duration::from_secs(600);
        let mut prepared = provider("copy").prepare(request).unwrap();
        let record = list(&area.state_dir).unwrap().records.remove(0);
        let copied = record.path.join(large.strip_prefix("/").unwrap());
        let cancel = AtomicBool::new(false);
        let deadline = if by_deadline { Instant::now() + Duration::from_millis(30) } else { soon() };
        let error = std::thread::scope(|scope| {
            scope.spawn(|| {
                while fs::metadata(&copied).unwrap().len() == 0 && !by_deadline {
                    std::thread::yield_now();
                }
                cancel.store(!by_deadline, Ordering::Relaxed);
            });
            prepared.commit(deadline, &cancel).unwrap_err()
        });
        if by_deadline {
            assert!(matches!(error, ProviderError::DeadlineExceeded { late_ms: ..500 }), "{error}");
        } else {
            assert!(matches!(error, ProviderError::Cancelled), "{error}");
        }
        let size = fs::metadata(&copied).unwrap().len();
        assert!(size > 0 && size < 400 << 20, "in the middle: {size}");
        assert!(matches!(
            prepared.commit(soon(), &AtomicBool::new(false)),
            Err(ProviderError::OutOfOrder { .. })
        ));
        prepared.abort().unwrap();
        assert_nothing_left(&area, &[volume.path()]);
    }
}

#[test]
fn whatever_ends_a_prepared_copy_nothing_is_left() {
    for (fs, name) in [("btrfs", "btrfs"), ("xfs", "reflink"), ("ext4", "copy")] {
        let Some(volume) = LoopVolume::new(fs, 400) else { return };
        fs::write(volume.path().join("file"), "x").unwrap();
        let area = ShadowArea::new(volume.outside("state"));
        let prepare =
            || provider(name).prepare(request(&area, vec![FileSelection::tree(volume.path())])).unwrap();
        let left = || assert_nothing_left(&area, &[volume.path(), &area.state_dir]);
        let running = AtomicBool::new(false);

        drop(prepare());
        left();
        prepare().abort().unwrap();
        left();
        assert!(matches!(prepare().finish(), Err(ProviderError::OutOfOrder { .. })));
        left();
        let mut late = prepare();
        let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert!(matches!(late.commit(past, &running), Err(ProviderError::DeadlineExceeded { .. })));
        late.abort().unwrap();
        left();
        let mut committed = prepare();
        committed.commit(soon(), &running).unwrap();
        drop(committed);
        left();
        let mut cancelled = prepare();
        assert!(matches!(cancelled.commit(soon(), &AtomicBool::new(true)), Err(ProviderError::Cancelled)));
        drop(cancelled);
        left();
        // Not dropped: a set keeps its copies until it deletes them.
        let kept = cut(prepare());
        let record = kept.record.clone();
        drop(kept);
        assert!(record.path.exists());
        delete(&record, &providers()).unwrap();
        delete(&record, &providers()).unwrap();
        left();
    }
}

#[test]
fn a_file_or_folder_exchanged_for_a_link_between_prepare_and_commit_is_refused() {
    for (fs, name) in [("xfs", "reflink"), ("ext4", "copy")] {
        let Some(volume) = LoopVolume::new(fs, 400) else { return };
        let secret = volume.path().join("secret");
        fs::create_dir(&secret).unwrap();
        fs::write(secret.join("ca.db"), "someone else's").unwrap();
        let base = volume.path().join("ca");
        let area = ShadowArea::new(volume.outside("state"));
        let reset = || {
            let _ = fs::remove_file(&base);
            let _ = fs::remove_dir_all(&base);
            fs::create_dir(&base).unwrap();
            fs::write(base.join("ca.db"), "ours").unwrap();
            chown(&base, Some(1234), None).unwrap();
        };
        let swap_file = || {
            fs::remove_file(base.join("ca.db")).unwrap();
            symlink(secret.join("ca.db"), base.join("ca.db")).unwrap();
        };
        let swap_folder = || {
            fs::remove_dir_all(&base).unwrap();
            symlink(&secret, &base).unwrap();
            std::os::unix::fs::lchown(&base, Some(1234), None).unwrap();
        };
        for held in [true, false] {
            for (swap, by) in [(&swap_file as &dyn Fn(), base.join("ca.db")), (&swap_folder, base.clone())] {
                reset();
                let selection = FileSelection { held, ..FileSelection::file(base.join("ca.db")) };
                // The state directory does not care; the change must be seen even if nobody holds the file.
                let mut prepared = provider(name).prepare(request(&area, vec![selection])).unwrap();
                swap();
                let error = prepared.commit(soon(), &AtomicBool::new(false)).unwrap_err();
                let ProviderError::Files { source: VolumeError::SymlinkRefused { path } } = error else {
                    panic!("{error}")
                };
                assert_eq!(path, by);
                prepared.abort().unwrap();
            }
        }
        assert_nothing_left(&area, &[volume.path(), &area.state_dir]);
    }
}

#[test]
fn files_that_nobody_holds_are_proven_unchanged_across_the_cut() {
    for (fs, name) in [("xfs", "reflink"), ("ext4", "copy")] {
        let Some(volume) = LoopVolume::new(fs, 400) else { return };
        let base = volume.path().join("conf");
        fs::create_dir(&base).unwrap();
        fs::write(base.join("a.toml"), "one").unwrap();
        fs::write(volume.path().join("held.db"), "db").unwrap();
        let area = ShadowArea::new(volume.outside("state"));
        let unheld = FileSelection { held: false, ..FileSelection::tree(&base) };
        let selections = vec![unheld, FileSelection::file(volume.path().join("held.db"))];
        let prepare = || provider(name).prepare(request(&area, selections.clone())).unwrap();

        let copy = cut(prepare());
        assert_eq!(read(&copy, &base.join("a.toml")), b"one");
        assert_eq!(read(&copy, &volume.path().join("held.db")), b"db");
        copy.delete().unwrap();

        let changes: [(&str, &dyn Fn()); 3] = [
            ("a.toml", &|| fs::write(base.join("a.toml"), "two").unwrap()),
            ("b.toml", &|| fs::write(base.join("b.toml"), "new").unwrap()),
            ("b.toml", &|| fs::remove_file(base.join("b.toml")).unwrap()),
        ];
        for (changed, change) in changes {
            let mut prepared = prepare();
            change();
            // A held file may change until it is held.
            fs::write(volume.path().join("held.db"), changed).unwrap();
            let error = prepared.commit(soon(), &AtomicBool::new(false)).unwrap_err();
            assert!(error.retryable());
            let ProviderError::ChangedDuringCut { path } = error else { panic!("{error}") };
            assert_eq!(path, base.join(changed));
            prepared.abort().unwrap();
        }
        assert_nothing_left(&area, &[volume.path(), &area.state_dir]);
    }
}

#[test]
fn a_held_file_inside_a_tree_that_nobody_holds_may_change_until_it_is_held() {
    let (data, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let area = ShadowArea::new(state.path());
    let base = data.path().canonicalize().unwrap();
    for file in ["conf", "db", "db-journal"] {
        fs::write(base.join(file), "before").unwrap();
    }
    let selections = vec![
        FileSelection { held: false, ..FileSelection::tree(&base) },
        FileSelection::file(base.join("db")),
        FileSelection { optional: true, ..FileSelection::matching(&base, "db-journal") },
        FileSelection { optional: true, ..FileSelection::matching(&base, "db-wal") },
    ];
    let mut prepared = provider("copy").prepare(request(&area, selections.clone())).unwrap();
    fs::write(base.join("db"), "after").unwrap();
    fs::write(base.join("db-wal"), "appeared").unwrap();
    fs::remove_file(base.join("db-journal")).unwrap();
    prepared.commit(soon(), &AtomicBool::new(false)).unwrap();
    let copy = prepared.finish().unwrap();
    let listed: Vec<_> = copy.files(&selections[0]).unwrap().1.into_iter().map(|f| f.rel).collect();
    assert_eq!(listed, ["", "conf", "db", "db-wal"].map(PathBuf::from));
    assert_eq!(read(&copy, &base.join("db")), b"after");
    copy.delete().unwrap();
    assert_nothing_left(&area, &[&base, &area.state_dir]);
}

#[test]
fn without_root_ones_own_files_are_copied_and_the_copy_is_removed() {
    let (data, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let area = ShadowArea::new(state.path());
    let shut = data.path().join("shut");
    fs::create_dir(&shut).unwrap();
    fs::write(shut.join("file"), "ours").unwrap();
    fs::set_permissions(&shut, PermissionsExt::from_mode(0o500)).unwrap();
    let files = vec![FileSelection::tree(data.path())];
    let copy = cut(provider("copy").prepare(request(&area, files.clone())).unwrap());
    assert_eq!(read(&copy, &shut.join("file")), b"ours");
    copy.delete().unwrap();
    assert_nothing_left(&area, &[&area.state_dir]);
    fs::set_permissions(&shut, PermissionsExt::from_mode(0o700)).unwrap();

    if !rustix::process::geteuid().is_root() {
        // What belongs to someone else is refused by name before anything is held.
        let others = [FileSelection::file("/etc/hostname")];
        let on = VolumeMap::read().unwrap().resolve(Path::new("/etc")).unwrap();
        let refused = provider("copy").supports(&on, &others, &area).unwrap_err();
        assert!(refused.reason.contains("/etc/hostname belongs to user 0"), "{refused}");
    }
}

#[test]
fn nested_subvolumes_and_mounts_are_refused_by_name_and_excluding_them_helps() {
    let Some(mut volume) = LoopVolume::new("btrfs", 400) else { return };
    let base = volume.subvolume("data");
    let nested = volume.subvolume("data/nested");
    fs::create_dir(base.join("plain")).unwrap();
    let tree = FileSelection::tree(&base);
    let map = VolumeMap::read().unwrap();
    assert_eq!(map.nested(&base).unwrap(), std::slice::from_ref(&nested));
    let refused = group(&map, std::slice::from_ref(&tree)).unwrap_err();
    assert!(matches!(refused, VolumeError::Subvolume { path } if path == nested));

    let mounted = base.join("plain/mounted");
    volume.mount(&["-t", "tmpfs"], Path::new("none"), &mounted);
    let map = VolumeMap::read().unwrap();
    assert_eq!(map.nested(&base).unwrap(), [nested, mounted.clone()]);
    let excluded = FileSelection { exclude: vec!["nested".into()], ..tree.clone() };
    let refused = group(&map, std::slice::from_ref(&excluded)).unwrap_err();
    assert!(matches!(refused, VolumeError::MountPoint { path } if path == mounted));
    let both = FileSelection { exclude: vec!["nested".into(), "plain/mounted".into()], ..tree };
    let groups = group(&map, std::slice::from_ref(&both)).unwrap();
    assert_eq!(groups[0].volume.subvolume_root.as_deref(), Some(base.as_path()));

    // Another volume than those of the set.
    let other = [map.resolve(volume.path()).unwrap()];
    let outside = check_contained(&map, &other, std::slice::from_ref(&both)).unwrap_err();
    assert!(matches!(outside, VolumeError::MountPoint { path } if path == base));
    check_contained(&map, &[groups[0].volume.clone()], &[both]).unwrap();
}

#[test]
fn a_bind_mount_of_a_folder_is_snapshot_through_its_subvolume() {
    let Some(mut volume) = LoopVolume::new("btrfs", 400) else { return };
    let sub = volume.subvolume("data");
    fs::create_dir_all(sub.join("app/deep")).unwrap();
    fs::write(sub.join("app/deep/db"), "content").unwrap();
    let bound = volume.outside("bound");
    volume.mount(&["--bind"], &sub.join("app"), &bound);
    let map = VolumeMap::read().unwrap();
    let place = map.place(&bound.join("deep")).unwrap();
    assert_eq!(place.volume.id, map.resolve(&sub).unwrap().id);
    assert_ne!(place.volume.id, map.resolve(volume.path()).unwrap().id);
    assert_eq!(place.volume.subvolume_root, Some(sub.clone()));
    assert_eq!(place.inside.as_deref(), Some(Path::new("app/deep")));

    let area = ShadowArea::new(volume.outside("state"));
    let files = vec![FileSelection::tree(bound.join("deep")), FileSelection::file(sub.join("app/deep/db"))];
    let copy = cut(provider("btrfs").prepare(request(&area, files.clone())).unwrap());
    assert_eq!(read(&copy, &bound.join("deep/db")), b"content");
    assert_eq!(read(&copy, &sub.join("app/deep/db")), b"content");
    assert_eq!(copy.files(&files[0]).unwrap().1.len(), 2);
    assert_eq!(copy.files(&files[1]).unwrap().1[0].path, sub.join("app/deep/db"));
    copy.delete().unwrap();
}

#[test]
fn overlay_is_named_and_copied() {
    let Some(mut volume) = LoopVolume::new("ext4", 400) else { return };
    for folder in ["lower", "upper", "work"] {
        fs::create_dir(volume.path().join(folder)).unwrap();
    }
    fs::write(volume.path().join("lower/file"), "below").unwrap();
    let at = volume.outside("merged");
    let p = volume.path().display();
    let options = format!("lowerdir={p}/lower,upperdir={p}/upper,workdir={p}/work");
    volume.mount(&["-t", "overlay", "-o", &options], Path::new("overlay"), &at);
    let area = ShadowArea::new(volume.outside("state"));
    let files = vec![FileSelection::tree(&at)];
    let request = request(&area, files.clone());
    assert_eq!(request.volume.fs_type, "overlay");
    let providers = providers();
    let chosen = choose(&request.volume, &files, &area, &providers, None).unwrap();
    assert_eq!((chosen.name(), chosen.atomicity()), ("copy", Atomicity::None));
    let copy = cut(chosen.prepare(request).unwrap());
    assert_eq!(read(&copy, &at.join("file")), b"below");
    copy.delete().unwrap();
}

#[test]
fn a_full_shadow_area_is_a_named_error_before_the_hold_and_under_it() {
    let Some(volume) = LoopVolume::new("ext4", 400) else { return };
    let Some(small) = LoopVolume::new("ext4", 24) else { return };
    let db = volume.path().join("db");
    fs::write(&db, vec![1; 40 << 20]).unwrap();
    let mut area = ShadowArea::new(volume.outside("state"));
    area.dir = Some(small.path().to_path_buf());
    let full = provider("copy").prepare(request(&area, vec![FileSelection::file(&db)])).err().unwrap();
    let ProviderError::NoSpace { needed: Some(needed), available: Some(available), .. } = full else {
        panic!("{full}")
    };
    assert!(needed >= 40 << 20 && available < 24 << 20);
    assert_nothing_left(&area, &[small.path()]);

    // It grows after it was counted.
    fs::write(&db, vec![1; 4 << 20]).unwrap();
    let mut prepared = provider("copy").prepare(request(&area, vec![FileSelection::file(&db)])).unwrap();
    fs::write(&db, vec![1; 40 << 20]).unwrap();
    let full = prepared.commit(soon(), &AtomicBool::new(false)).unwrap_err();
    assert!(matches!(full, ProviderError::NoSpace { .. }), "{full}");
    prepared.abort().unwrap();
    assert_nothing_left(&area, &[small.path()]);
}

#[test]
fn a_forged_record_deletes_neither_a_subvolume_nor_a_mount_of_someone_else() {
    let Some(mut volume) = LoopVolume::new("btrfs", 400) else { return };
    let state = volume.outside("state");
    let area = ShadowArea::new(&state);
    fs::write(volume.path().join("file"), "x").unwrap();
    let copy =
        cut(provider("btrfs").prepare(request(&area, vec![FileSelection::tree(volume.path())])).unwrap());
    let good = copy.record.clone();
    let shadows = good.path.parent().unwrap().to_path_buf();
    let precious = |at: &Path| fs::write(at.join("precious"), "").unwrap();
    let refused = |record: &ShadowRecord| {
        record.write().unwrap();
        let error = delete(record, &providers()).unwrap_err();
        assert!(matches!(error, ProviderError::DeleteRefused { .. }), "{error}");
        assert!(list(&state).unwrap().records.contains(record), "the record stays");
        record.remove().unwrap();
    };
    let named = |name: Uuid| {
        let mut record = good.clone();
        (record.id, record.path) = (name, shadows.join(name.to_string()));
        record
    };

    // A subvolume that is no snapshot, in the right place under the right name.
    let own = named(Uuid::now_v7());
    run(Command::new("btrfs").args(["-q", "subvolume", "create"]).arg(&own.path));
    precious(&own.path);
    refused(&own);
    // A snapshot of another subvolume.
    let foreign = named(Uuid::now_v7());
    run(Command::new("btrfs").args(["-q", "subvolume", "snapshot"]).arg(&own.path).arg(&foreign.path));
    refused(&foreign);
    // A plain folder, by the provider that deletes subvolumes; and a snapshot, by the one that deletes folders.
    let folder = named(Uuid::now_v7());
    fs::create_dir(&folder.path).unwrap();
    precious(&folder.path);
    refused(&folder);
    for provider in ["copy", "reflink"] {
        let mut other = good.clone();
        provider.clone_into(&mut other.provider);
        refused(&other);
    }
    // Something mounted in a folder of ours.
    let mut mounted = named(Uuid::now_v7());
    "copy".clone_into(&mut mounted.provider);
    volume.mount(&["-t", "tmpfs"], Path::new("none"), &mounted.path.join("below"));
    precious(&mounted.path.join("below"));
    refused(&mounted);
    // No provider of that name.
    let mut unknown = good.clone();
    "lvm".clone_into(&mut unknown.provider);
    assert!(matches!(delete(&unknown, &providers()), Err(ProviderError::NoSuchProvider { .. })));

    for kept in [&own.path, &foreign.path, &folder.path, &mounted.path.join("below")] {
        assert!(kept.join("precious").exists(), "{}", kept.display());
    }
    good.write().unwrap();
    copy.delete().unwrap();
    assert!(!good.path.exists());
}

/// The process that dies: makes a shadow copy, says so, and waits to be killed.
#[test]
fn helper_that_is_killed() {
    let (Some(state), Some(data)) = (std::env::var_os("TEST_STATE"), std::env::var_os("TEST_DATA")) else {
        return;
    };
    let area = ShadowArea::new(state);
    let name = std::env::var("TEST_PROVIDER").unwrap();
    let mut prepared =
        provider(&name).prepare(request(&area, vec![FileSelection::tree(PathBuf::from(data))])).unwrap();
    prepared.commit(soon(), &AtomicBool::new(false)).unwrap();
    println!("\ncommitted");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::mem::forget(prepared);
}

#[test]
fn what_a_killed_session_left_is_found_and_deleted_and_a_living_ones_is_not() {
    for (fs, name) in [("btrfs", "btrfs"), ("xfs", "reflink"), ("ext4", "copy")] {
        let Some(volume) = LoopVolume::new(fs, 400) else { return };
        let data = volume.path().to_path_buf();
        fs::write(data.join("file"), "x").unwrap();
        let area = ShadowArea::new(volume.outside("state"));
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper_that_is_killed", "--nocapture"])
            .envs([("TEST_STATE", area.state_dir.as_os_str()), ("TEST_DATA", data.as_os_str())])
            .env("TEST_PROVIDER", name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|l| l == "committed"));
        assert_eq!(list(&area.state_dir).unwrap().records.len(), 1);
        assert!(orphans(&area.state_dir).unwrap().records.is_empty(), "its owner lives");
        child.kill().unwrap();
        child.wait().unwrap();

        let left = orphans(&area.state_dir).unwrap().records;
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].provider.as_str(), left[0].owner.pid), (name, child.id()));
        assert!(left[0].path.exists());
        assert!(fs::metadata(left[0].path.parent().unwrap()).unwrap().mode() & 0o777 == 0o700);
        delete(&left[0], &providers()).unwrap();
        assert_nothing_left(&area, &[volume.path(), &area.state_dir]);
    }
}

//! kill -9 in the middle of a backup leaves a repository that is whole, without a set, and free for the next.

use std::{
    env, fs,
    io::{self, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use holdfast::repository::{
    EntryKind, EntryMetadata, Options, Password, Repository, RestoreOptions, SourceEntry,
};

use crate::support::{Bench, PASSWORD, about, document, entries, noise, utf8};

const LOCATION: &str = "HOLDFAST_TEST_DYING_AT";

/// Content without end, none of it twice.
struct Endless(u64);

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 += 1;
        buffer.copy_from_slice(&noise(buffer.len(), self.0));
        Ok(buffer.len())
    }
}

/// Not a test of its own: what the killed process does.
#[test]
fn the_one_that_is_killed() {
    let Some(location) = env::var_os(LOCATION) else { return };
    let location = location.into_string().expect("plain");
    let options = options(&location);
    let repository = Repository::open(&location, &Password::new(PASSWORD), &options).expect("opened");
    let entries = vec![SourceEntry {
        save_as: "/endless".into(),
        kind: EntryKind::File(Box::new(|| Ok(Box::new(Endless(0))))),
        metadata: EntryMetadata { size: u64::MAX, ..EntryMetadata::default() },
    }];
    repository.archive(&about(), entries, None).expect("it never ends");
}

#[cfg(not(feature = "s3"))]
fn options(_: &str) -> Options {
    Options::default()
}

#[cfg(feature = "s3")]
fn options(location: &str) -> Options {
    if location.starts_with("s3:") { crate::s3::options() } else { Options::default() }
}

pub fn start_dying(location: &str) -> Child {
    Command::new(env::current_exe().expect("this test"))
        .args(["--exact", "death::the_one_that_is_killed", "--nocapture"])
        .env(LOCATION, location)
        .stdout(Stdio::null())
        .spawn()
        .expect("started")
}

/// After the death: nothing shows, the next backup succeeds, and what was left is pruned away.
pub fn survives(bench: &Bench) {
    let repository = &bench.repository;
    assert_eq!(repository.sets().expect("listed"), []);
    assert_eq!(repository.partials().expect("listed"), []);
    let tree = bench.folder("tree");
    fs::write(tree.join("file"), noise(100_000, 1)).expect("written");
    let about = about();
    let partial = repository.archive(&about, entries(&tree, "/data/files"), None).expect("archived");
    let set = repository.commit(&about, &[partial], vec![document("set.json", b"{}")]).expect("committed");
    let pruned = repository.prune(false).expect("the dead hold no lock");
    assert!(pruned.packs_removed > 0, "{pruned:?}");
    repository.check(true).expect("whole");
    let selection = [("/data/files".into(), bench.place.path().join("back"))];
    repository.restore_files(&set, &selection, &RestoreOptions::default()).expect("restored");
    assert_eq!(fs::read(bench.place.path().join("back/file")).expect("read"), noise(100_000, 1));
}

#[test]
fn killed_in_the_middle_of_a_backup_the_repository_is_whole_and_free() {
    let bench = Bench::new();
    let mut child = start_dying(utf8(&bench.path()));
    let packs = |path: &Path| {
        let shards =
            fs::read_dir(path.join("data")).expect("listed").map(|shard| shard.expect("listed").path());
        shards.map(|shard| fs::read_dir(shard).expect("listed").count()).sum::<usize>()
    };
    while packs(&bench.path()) < 2 {
        assert!(child.try_wait().expect("asked").is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("reaped");
    assert_eq!(fs::read_dir(bench.path().join("locks")).expect("listed").count(), 1);
    survives(&bench);
}

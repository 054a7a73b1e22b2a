//! Backup and restore of a tree of 20,000 files against stock restic: wall clock and peak memory.
//!
//! Both write a fresh repository of the same format with the same compression on the same disk, and neither keeps a
//! cache of its own. Each backup is measured with the kernel's page cache emptied, as a nightly run finds it, and with the
//! tree read just before. Both restores end when everything is on the disk: Holdfast's does so by itself, restic's is
//! followed by a `syncfs`.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use holdfast::{
    repository::{Options, Password, Repository, RestoreOptions},
    session::stored_path,
};
use holdfast_tests::{
    holdfast::Holdfast,
    process::{command, run as run_command},
    volumes::LoopVolume,
};

use crate::{
    INIT, RESTORE, bare,
    error::BenchError,
    measured::{self, Cost},
    stats::{Samples, verdict},
    tree,
};

const ROUNDS: usize = 3;
/// The tree twice, and room.
const VOLUME: u64 = 8 << 30;
const PATIENCE: Duration = Duration::from_secs(600);
const WRITER: &str = "tree";

/// What is in memory when a measurement begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// Nothing.
    Cold,
    /// The tree.
    Warm,
}

impl Cache {
    const BOTH: [Self; 2] = [Self::Cold, Self::Warm];

    const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
        }
    }
}

#[derive(Default)]
struct Side {
    /// In the order of [`Cache::BOTH`].
    backup: [Measured; 2],
    restore: Measured,
    repository_mib: f64,
}

#[derive(Default)]
struct Measured {
    seconds: Samples,
    peak_mib: Samples,
    cpu: Samples,
}

impl Measured {
    fn push(&mut self, what: &str, cost: Cost) {
        eprintln!(
            "{what}: {:.1} s, {:.1} s of processor time, {:.0} MiB",
            cost.seconds, cost.cpu, cost.peak_mib
        );
        self.seconds.push(cost.seconds);
        self.peak_mib.push(cost.peak_mib);
        self.cpu.push(cost.cpu);
    }
}

pub fn run() -> Result<String, BenchError> {
    let volume = LoopVolume::btrfs(VOLUME)?;
    let root = volume.subvolume("tree")?;
    let bytes = tree::make(&root)?;
    let (mut restic, mut ours) = (Side::default(), Side::default());
    for round in 0..ROUNDS {
        // Whoever comes second finds the disk as the first one left it: in turn.
        if round % 2 == 0 {
            round_of_restic(&volume, &root, &mut restic)?;
            round_of_holdfast(&volume, &root, &mut ours)?;
        } else {
            round_of_holdfast(&volume, &root, &mut ours)?;
            round_of_restic(&volume, &root, &mut restic)?;
        }
    }
    let mb = bytes as f64 / 1e6;
    let mut text = format!(
        "## Backup and restore\n\n\
         {} files, {mb:.0} MB, half of the files compressible, on btrfs; new repositories of format 2 with the usual \
         compression on the disk below; {ROUNDS} rounds in turn. *Cold*: the page cache is empty. *Warm*: the tree has \
         been read just before, which is of use to restic alone: Holdfast reads from its snapshot, which shares no page \
         cache with the tree. Holdfast's backup is all of `holdfast backup`: session, search for private keys in plain, \
         snapshot, storing with a check that every compressed and sealed piece opens to what was read (this version of \
         restic has none), re-reading, removal of the snapshot. A restore ends when everything is on the disk. Peak \
         memory is that of the largest process. Goal: throughput ≥ 1.0 × restic.\n\n\
         | page cache | restic MB/s | Holdfast MB/s | ratio | goal | restic CPU s | Holdfast CPU s | restic peak MiB | Holdfast peak MiB |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        tree::FILES,
    );
    let backups = Cache::BOTH.iter().zip(restic.backup.iter().zip(&ours.backup));
    let mut rows: Vec<_> =
        backups.map(|(cache, (theirs, ours))| (format!("backup, {}", cache.name()), theirs, ours)).collect();
    rows.push(("restore, cold".to_owned(), &restic.restore, &ours.restore));
    for (name, theirs, ours) in rows {
        let rate = |measured: &Measured| {
            let of = |q| mb / measured.seconds.quantile(q);
            format!("{:.0} ({:.0}–{:.0})", of(0.5), of(0.9), of(0.1))
        };
        let ratio = theirs.seconds.median() / ours.seconds.median();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {name} | {} | {} | {ratio:.2} | {} | {:.1} | {:.1} | {:.0} | {:.0} |",
            rate(theirs),
            rate(ours),
            verdict(ratio >= 1.0),
            theirs.cpu.median(),
            ours.cpu.median(),
            theirs.peak_mib.median(),
            ours.peak_mib.median(),
        );
    }
    let _ = writeln!(
        text,
        "\nThe repository afterwards: restic {:.0} MiB, Holdfast {:.0} MiB.",
        restic.repository_mib, ours.repository_mib
    );
    Ok(text)
}

fn round_of_restic(volume: &LoopVolume, root: &Path, side: &mut Side) -> Result<(), BenchError> {
    let folder = scratch()?;
    let password = folder.path().join("password");
    fs::write(&password, "benchmark\n").map_err(BenchError::io("write a password"))?;
    let repository = folder.path().join("repository");
    let restic = |arguments: &[&OsStr]| {
        let mut restic = command("restic");
        restic.args(["--no-cache", "--quiet", "--compression", "auto", "--password-file"]).arg(&password);
        restic.arg("--repo").arg(&repository).args(arguments);
        restic
    };
    for (cache, measured) in Cache::BOTH.iter().zip(&mut side.backup) {
        if repository.exists() {
            fs::remove_dir_all(&repository).map_err(BenchError::io("remove a repository"))?;
        }
        run_command(&mut restic(&["init".as_ref()]), PATIENCE)?;
        ready(*cache, volume, root, folder.path())?;
        let mut backup = restic(&["backup".as_ref(), root.as_os_str()]);
        measured.push(&format!("restic backup, {}", cache.name()), measured::run(&mut backup, || Ok(()))?);
    }
    side.repository_mib = mib_below(&repository)?;

    let target = target(volume)?;
    ready(Cache::Cold, volume, root, folder.path())?;
    let arguments: [&OsStr; 4] =
        ["restore".as_ref(), "latest".as_ref(), "--target".as_ref(), target.as_os_str()];
    side.restore.push("restic restore", measured::run(&mut restic(&arguments), || sync(&target))?);
    let below = root.strip_prefix("/").unwrap_or(root);
    finish(root, &target.join(below), &target)
}

fn round_of_holdfast(volume: &LoopVolume, root: &Path, side: &mut Side) -> Result<(), BenchError> {
    let me = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let [cold, warm] = &mut side.backup;
    let backup = |cache: Cache, measured: &mut Measured| {
        let mut world = Holdfast::new()?;
        world.config().writer(WRITER, "files").set("paths", vec![root.to_string_lossy().as_ref()]);
        let mut init = Command::new(&me);
        run_command(init.arg(INIT).arg(world.repository()).arg(world.password_file()), PATIENCE)?;
        ready(cache, volume, root, world.root())?;
        let mut backup = world.command(["--json", "backup"])?;
        measured.push(&format!("holdfast backup, {}", cache.name()), measured::run(&mut backup, || Ok(()))?);
        Ok::<_, BenchError>(world)
    };
    drop(backup(Cache::Cold, cold)?);
    let world = backup(Cache::Warm, warm)?;
    side.repository_mib = mib_below(&world.repository())?;

    let target = target(volume)?;
    ready(Cache::Cold, volume, root, world.root())?;
    let mut restore = Command::new(&me);
    restore
        .arg(RESTORE)
        .arg(world.repository())
        .arg(world.password_file())
        .arg(root)
        .arg(target.join("tree"));
    side.restore.push("holdfast restore", measured::run(&mut restore, || Ok(()))?);
    finish(root, &target.join("tree"), &target)
}

/// What the child does that makes a repository: deriving a key takes memory, which the kernel would count as that of
/// every program started by this one afterwards.
pub fn init_child(arguments: &[String]) -> Result<(), BenchError> {
    let [repository, password_file] = arguments else {
        return Err(BenchError::Usage { argument: INIT.to_owned() });
    };
    Repository::init(repository, &password(Path::new(password_file))?, &Options::default())?;
    Ok(())
}

/// What the child does that restores: the set's tree to a new place, durable when it returns.
pub fn restore_child(arguments: &[String]) -> Result<(), BenchError> {
    let [repository, password_file, root, target] = arguments else {
        return Err(BenchError::Usage { argument: RESTORE.to_owned() });
    };
    let password = password(Path::new(password_file))?;
    let repository = Repository::open(repository, &password, &Options::default())?;
    let sets = repository.sets()?;
    let set = sets.first().ok_or(BenchError::Answer { what: "set", answer: "the repository".to_owned() })?;
    let selection = [(stored_path(WRITER, Path::new(root)), PathBuf::from(target))];
    repository.restore_files(set, &selection, &RestoreOptions::default())?;
    Ok(())
}

fn password(file: &Path) -> Result<Password, BenchError> {
    let text = fs::read_to_string(file).map_err(BenchError::io("read the password"))?;
    Ok(Password::new(text.trim_end_matches('\n')))
}

fn scratch() -> Result<tempfile::TempDir, BenchError> {
    tempfile::Builder::new()
        .prefix("holdfast-bench-")
        .tempdir()
        .map_err(BenchError::io("make a scratch folder"))
}

fn target(volume: &LoopVolume) -> Result<PathBuf, BenchError> {
    let target = volume.path().join("restored");
    fs::create_dir(&target).map_err(BenchError::io("make a folder to restore into"))?;
    Ok(target)
}

/// Nothing of the past is still being written, and the page cache is as it should be.
fn ready(cache: Cache, volume: &LoopVolume, root: &Path, scratch: &Path) -> Result<(), BenchError> {
    bare::cleaned(&volume.path())?;
    sync(&volume.path())?;
    sync(scratch)?;
    if cache == Cache::Cold {
        // Page cache, names and inodes.
        return fs::write("/proc/sys/vm/drop_caches", "3").map_err(BenchError::io("empty the page cache"));
    }
    each_file(root, &mut |path| {
        io::copy(&mut File::open(path)?, &mut io::sink())?;
        Ok(())
    })
    .map_err(BenchError::io("read the tree"))
}

fn sync(path: &Path) -> Result<(), BenchError> {
    let folder = File::open(path).map_err(BenchError::io(format!("open {}", path.display())))?;
    rustix::fs::syncfs(&folder).map_err(BenchError::io(format!("sync {}", path.display())))
}

/// A measurement of a restore that restored something else is worth nothing.
fn finish(root: &Path, restored: &Path, target: &Path) -> Result<(), BenchError> {
    // The provider's folder in the live subvolume, where snapshots were.
    let mut diff = command("diff");
    diff.args(["--recursive", "--brief", "--exclude=.holdfast-shadows"]).arg(root).arg(restored);
    run_command(&mut diff, PATIENCE)?;
    fs::remove_dir_all(target).map_err(BenchError::io("remove what was restored"))
}

fn mib_below(folder: &Path) -> Result<f64, BenchError> {
    let mut bytes = 0;
    each_file(folder, &mut |path| {
        bytes += fs::metadata(path)?.len();
        Ok(())
    })
    .map_err(BenchError::io("measure the repository"))?;
    Ok(bytes as f64 / f64::from(1 << 20))
}

fn each_file(folder: &Path, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { each_file(&entry.path(), each)? } else { each(&entry.path())? }
    }
    Ok(())
}

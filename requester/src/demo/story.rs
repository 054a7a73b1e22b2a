//! The story of `holdfast demo`, in order: live applications, a backup while they write, destruction, restore, the count.
//!
//! Owns: the order, how long is waited, what is told. Leaves to others: making and restoring a set ([`Engine`]),
//! printing ([`Line`]). Every way out kills the applications.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Serialize;

use super::count::{self, CountError, Hold, Verdict};
use super::places::{APPLICATIONS, Places};
use super::scene::{Launcher, Scene, SceneError};

/// What each application has written before the backup begins, if the disk is fast enough.
const PLENTY: u64 = 300;
/// What it must have written.
const FEWEST: u64 = 20;
/// How long it is given for plenty.
const WARM_UP: Duration = Duration::from_secs(8);
/// How long is waited for what must come, before the story is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// Writes of each application after the thaw: they must not come back.
const AFTERWARDS: u64 = 50;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// One line of the story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A part begins.
    Step {
        /// From 1.
        number: usize,
        /// Of how many.
        of: usize,
        /// What happens now.
        title: &'static str,
    },
    /// Something that was seen.
    Fact(String),
    /// Something that was proved.
    Proof(String),
    /// A proof that failed; the story ends in an error.
    Failure(String),
    /// Where something lies: what, and the path.
    Place(&'static str, String),
    /// Something to type next: the command, and what it does.
    Command(String, &'static str),
}

/// What the story needs of the requester.
#[async_trait(?Send)]
pub trait Engine: Send {
    /// Why there is no backup, or no restore.
    type Error: std::error::Error + Send + Sync + 'static;

    /// A full backup of all writers in [`Places::configuration`], whose applications are writing.
    async fn backup(&mut self, places: &Places) -> Result<BackupFacts, Self::Error>;

    /// Restores the set to the original places. The applications do not run, and their folders are gone; sealed keys
    /// are opened with [`Places::recovery_identity`] and the first line of [`Places::recovery_passphrase`].
    async fn restore(&mut self, places: &Places, set: &str) -> Result<RestoreFacts, Self::Error>;

    /// How `holdfast` is called for this folder, up to the subcommand.
    fn invocation(&self, places: &Places) -> String {
        format!("holdfast --config {}", places.configuration().display())
    }
}

/// What a backup says of itself. All of it comes from the set, not from the demonstration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupFacts {
    /// The set's id.
    pub set: String,
    /// The lowest level among its components.
    pub level: String,
    /// What cut the shadow copies.
    pub provider: String,
    /// From the first freeze called to the last thaw returned.
    pub window_ms: f64,
    /// From the first hold taken to the last.
    pub skew_ms: f64,
    /// Stored.
    pub bytes: u64,
    /// By writer id.
    pub holds: BTreeMap<String, Hold>,
}

/// What a restore says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestoreFacts {
    /// Files put in place.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Keys unsealed and proved.
    pub keys: u64,
}

/// How the story ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// What the backup said.
    pub backup: BackupFacts,
    /// What the restore said.
    pub restore: RestoreFacts,
    /// What was counted.
    pub verdict: Verdict,
}

/// Why the story ended early, or badly.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError<E: std::error::Error + 'static> {
    /// The applications.
    #[error("the applications of the demonstration do not play")]
    Scene(#[from] SceneError),
    /// They wrote too little: a very slow disk, or something holds them.
    #[error("after {} s {application} had acknowledged {count} writes, and {expected} were needed", PATIENCE.as_secs())]
    TooSlow {
        /// Which.
        application: &'static str,
        /// What was acknowledged.
        count: u64,
        /// What was needed.
        expected: u64,
    },
    /// The backup.
    #[error("the backup failed")]
    Backup(#[source] E),
    /// An application did not go on after the thaw.
    #[error("not every application has written again {} s after the thaw", PATIENCE.as_secs())]
    StillHeld,
    /// The restore.
    #[error("the restore failed")]
    Restore(#[source] E),
    /// The proof. This is the failure that the demonstration is there to show.
    #[error("the restored applications are not what they had acknowledged")]
    Count(#[from] CountError),
}

/// Tells the whole story in `dir` (see [`Scene::create`]), with applications started by `launcher`. What was made stays
/// there, for a person to look at; nothing runs any more on return, nor when the future is dropped.
///
/// # Errors
/// [`DemoError`]; above all [`DemoError::Count`] when an acknowledged write is missing.
pub async fn run<E: Engine>(
    dir: &Path,
    launcher: &Launcher,
    engine: &mut E,
    say: &mut (dyn FnMut(Line) + Send),
) -> Result<Outcome, DemoError<E::Error>> {
    let mut step = 0;
    let mut part = |title, say: &mut (dyn FnMut(Line) + Send)| {
        step += 1;
        say(Line::Step { number: step, of: 5, title });
    };

    part("Three applications, each writing as fast as its disk makes it durable", say);
    let mut scene = Scene::create(dir)?;
    let places = scene.places().clone();
    say(Line::Fact(format!("everything is made below {}", places.root().display())));
    say(Line::Fact("ca: issues X.509 certificates into SQLite (WAL), revokes, publishes a CRL".to_owned()));
    say(Line::Fact("directory: adds entries and memberships to SQLite (rollback journal)".to_owned()));
    say(Line::Fact("orchestrator: writes encrypted secrets and workflows as files under a lock".to_owned()));
    scene.start_with(launcher)?;
    let counts = warm_up(&mut scene).await?;
    say(Line::Fact(format!("acknowledged so far: {}", told(counts))));

    part("A full backup at one instant, while they go on", say);
    let backup = engine.backup(&places).await.map_err(DemoError::Backup)?;
    tell_backup(&backup, say);
    // Nothing is destroyed that could not be counted afterwards.
    if let Some(application) = APPLICATIONS.into_iter().find(|name| !backup.holds.contains_key(*name)) {
        return Err(CountError::NoHold { application }.into());
    }
    let thawed = backup.holds.values().map(|hold| hold.released_ns).max().unwrap_or(u64::MAX);
    let at_thaw = scene.acknowledged()?;
    let gave_up = Instant::now() + PATIENCE;
    while !scene.wrote_since(thawed) {
        scene.check()?;
        if Instant::now() > gave_up {
            return Err(DemoError::StillHeld);
        }
        tokio::time::sleep(LOOK).await;
    }
    let counts = wait_for(&mut scene, at_thaw.map(|count| count + AFTERWARDS)).await?;
    say(Line::Fact(format!("they were held, not stopped, and go on; acknowledged by now: {}", told(counts))));

    part("Destruction", say);
    scene.check()?;
    scene.stop();
    scene.destroy()?;
    say(Line::Fact(
        "all three killed (SIGKILL), their folders removed: databases, certificates, keys".to_owned(),
    ));

    part("Restore", say);
    let restore = engine.restore(&places, &backup.set).await.map_err(DemoError::Restore)?;
    say(Line::Fact(format!(
        "{} files ({}) put in place, {} keys unsealed with the recovery identity",
        restore.files,
        size(restore.bytes),
        restore.keys
    )));

    part("Proof, by counting", say);
    let verdict = match count::verify(places.root(), &places.acks(), &backup.holds) {
        Ok(verdict) => verdict,
        Err(error) => {
            if let CountError::Disproved { verdict } = &error {
                verdict.failures().into_iter().for_each(|failure| say(Line::Failure(failure)));
            }
            return Err(error.into());
        }
    };
    tell_verdict(&verdict, say);
    // Alive is more than readable: each opens its store with its key and writes on.
    scene.start_with(launcher)?;
    let before = scene.acknowledged()?;
    let after = wait_for(&mut scene, before.map(|count| count + FEWEST)).await?;
    scene.stop();
    let new = [0, 1, 2].map(|at| after[at] - before[at]);
    say(Line::Proof(format!("started again, they go on where the set ends; new: {}", told(new))));

    where_things_lie(&places, &engine.invocation(&places), &backup.set, say);
    Ok(Outcome { backup, restore, verdict })
}

async fn warm_up<E: std::error::Error + 'static>(scene: &mut Scene) -> Result<[u64; 3], DemoError<E>> {
    let enough = Instant::now() + WARM_UP;
    loop {
        let counts = scene.acknowledged()?;
        if counts.iter().all(|count| *count >= PLENTY) {
            return Ok(counts);
        }
        if Instant::now() > enough {
            return wait_for(scene, [FEWEST; 3]).await;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until each application has acknowledged as many writes as `expected` says.
async fn wait_for<E: std::error::Error + 'static>(
    scene: &mut Scene,
    expected: [u64; 3],
) -> Result<[u64; 3], DemoError<E>> {
    let gave_up = Instant::now() + PATIENCE;
    loop {
        let counts = scene.acknowledged()?;
        let Some(at) = (0..3).find(|at| counts[*at] < expected[*at]) else { return Ok(counts) };
        if Instant::now() > gave_up {
            let (application, count, expected) = (APPLICATIONS[at], counts[at], expected[at]);
            return Err(DemoError::TooSlow { application, count, expected });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn tell_backup(backup: &BackupFacts, say: &mut (dyn FnMut(Line) + Send)) {
    say(Line::Fact(format!("set {}, {}", backup.set, size(backup.bytes))));
    say(Line::Fact(format!(
        "level {}, cut by {}; window {:.1} ms, skew {:.1} ms",
        backup.level, backup.provider, backup.window_ms, backup.skew_ms
    )));
    let held: Vec<_> = backup
        .holds
        .iter()
        .map(|(writer, hold)| format!("{writer} {:.1} ms", millis(hold.called_ns, hold.released_ns)))
        .collect();
    say(Line::Fact(format!("from freeze to thaw: {}", held.join(", "))));
}

fn tell_verdict(verdict: &Verdict, say: &mut (dyn FnMut(Line) + Send)) {
    for counted in &verdict.applications {
        say(Line::Proof(format!(
            "{}: {} acknowledged before its freeze, {} found, {} missing; begun after the thaw and yet there: {}",
            counted.application,
            counted.acknowledged,
            counted.found,
            counted.missing.len(),
            counted.begun_after_thaw.len()
        )));
        for check in counted.checks.iter().filter(|check| check.good > 0) {
            say(Line::Proof(format!("{}: {}: {}", counted.application, check.what, check.good)));
        }
        say(Line::Fact(format!(
            "{}: the longest wait of a client from the freeze on was {:.1} ms; {} writes came too late for the set",
            counted.application, counted.longest_wait_ms, counted.later
        )));
    }
    say(Line::Proof(format!(
        "{} of {} acknowledged writes are back, unchanged",
        verdict.found(),
        verdict.acknowledged()
    )));
}

fn where_things_lie(places: &Places, holdfast: &str, set: &str, say: &mut (dyn FnMut(Line) + Send)) {
    for (what, path) in [
        ("applications, as restored", places.root().to_owned()),
        ("configuration", places.configuration()),
        ("repository (restic's format)", places.repository()),
        ("its password", places.repository_password()),
        ("recovery identity (age file)", places.recovery_identity()),
        ("its passphrase, here for the demonstration only", places.recovery_passphrase()),
        ("what was acknowledged", places.acks()),
    ] {
        say(Line::Place(what, path.display().to_string()));
    }
    let (repository, password) = (places.repository(), places.repository_password());
    for (command, what) in [
        (format!("{holdfast} list backups"), "what is in the repository"),
        (format!("{holdfast} restore plan {set}"), "what a restore would do, and every check"),
        (format!("{holdfast} verify {set}"), "read all of the set again"),
        (
            format!("restic -r {} --password-file {} ls latest", repository.display(), password.display()),
            "the same set without Holdfast",
        ),
        (format!("rm -r {}", places.root().display()), "nothing lies anywhere else"),
    ] {
        say(Line::Command(command, what));
    }
}

fn told(counts: [u64; 3]) -> String {
    let each = APPLICATIONS.iter().zip(counts).map(|(name, count)| format!("{name} {count}"));
    each.collect::<Vec<_>>().join(", ")
}

fn millis(from_ns: u64, to_ns: u64) -> f64 {
    Duration::from_nanos(to_ns.saturating_sub(from_ns)).as_secs_f64() * 1e3
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{}.{} kB", bytes / 1_000, bytes % 1_000 / 100),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests;

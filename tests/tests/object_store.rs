//! The command with its repository in a bucket that speaks S3: the whole way there and back, death in the middle of storing,
//! and what is refused. Credentials come from the environment, and stay there.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use holdfast_tests::{
    FixtureError,
    between::Between,
    holdfast::{Holdfast, Run},
    moto::Moto,
    paused::{all_gone, children},
    require::{require_tool, require_venv},
    restic::Restic,
    tree::{contains, files, noise},
};
use rustix::process::Signal;
use serde_json::Value;

type Tested = Result<(), FixtureError>;

const KEY_ID: &str = "AKIAHOLDFASTTEST";
const PATIENCE: Duration = Duration::from_secs(60);

/// The request that does not reach the server: so many more to objects of this kind go through before.
type Trigger = Arc<Mutex<Option<(&'static str, usize)>>>;

/// A bucket, and a world that backs up one folder into it.
struct Site {
    world: Holdfast,
    moto: Moto,
    between: Between,
    trigger: Trigger,
    data: PathBuf,
    secret: String,
}

impl Site {
    /// `None` without the server: said aloud.
    fn new() -> Result<Option<Self>, FixtureError> {
        let Some(_) = require_venv("moto", "moto_server") else { return Ok(None) };
        let moto = Moto::start()?;
        let trigger = Trigger::default();
        let armed = Arc::clone(&trigger);
        let between = Between::start(moto.port(), move |line| {
            let mut armed = armed.lock().expect("no panic");
            let Some((kind, left)) = armed.as_mut() else { return false };
            if !(line.starts_with("PUT ") && line.contains(&format!("/srv/{kind}/"))) {
                return false;
            }
            if *left == 0 {
                *armed = None;
                return true;
            }
            *left -= 1;
            false
        })?;
        let mut world = Holdfast::new()?;
        let data = world.root().join("data");
        fs::create_dir_all(data.join("below/deep")).expect("folders");
        for (name, content) in [
            ("small", b"content".to_vec()),
            ("empty", Vec::new()),
            ("below/large", noise(1, 3 << 20)),
            ("below/deep/ümlaut", noise(2, 10_000)),
        ] {
            fs::write(data.join(name), content).expect("a file");
        }
        world.config().writer("data", "files").set("paths", vec![data.clone()]);
        let location = format!("s3:http://127.0.0.1:{}/{}/srv", between.port(), moto.bucket());
        let password = world.password_file();
        world.config().repository(location, &password);
        let secret = format!("secret-{}", uuid::Uuid::new_v4());
        let mut site = Self { world, moto, between, trigger, data, secret };
        let secret = site.secret.clone();
        site.sign_with(KEY_ID, &secret);
        Ok(Some(site))
    }

    fn sign_with(&mut self, id: &str, secret: &str) {
        self.world.set_environment("AWS_ACCESS_KEY_ID", id);
        self.world.set_environment("AWS_SECRET_ACCESS_KEY", secret);
        self.world.set_environment("AWS_REGION", "us-east-1");
    }

    fn restic(&self) -> Restic {
        Restic::new(self.moto.repository("srv"), &self.world.password_file())
            .with_environment(self.moto.environment())
    }

    fn sets(&self) -> Result<usize, FixtureError> {
        let listed = self.world.json(["list", "backups"])?;
        Ok(listed["backups"].as_array().expect("an array").len())
    }

    /// Nothing of a session is left: no shadow copy, no recorded holder, no lock in the bucket.
    fn assert_clean(&self, when: &str) -> Tested {
        let shadows = self.world.json(["list", "shadows"])?;
        assert_eq!(shadows["shadows"], serde_json::json!([]), "{when}: {shadows}");
        let thawed = self.world.run(["thaw", "--all"])?.success()?;
        assert!(thawed.stdout.contains("nothing is held"), "{when}: {}", thawed.stdout);
        assert_eq!(self.moto.objects("srv/locks/")?, Vec::<String>::new(), "{when}");
        Ok(())
    }

    #[track_caller]
    fn assert_silent(&self, secret: &str, run: &Run) {
        assert!(!run.stderr.contains(secret) && !run.stdout.contains(secret), "{}{}", run.stderr, run.stdout);
    }
}

/// Every file below `folder` with its content, by its path there.
fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let below = |path: PathBuf| path.strip_prefix(folder).expect("below").to_owned();
    files(folder).into_iter().map(|path| (below(path.clone()), fs::read(path).expect("a file"))).collect()
}

/// Goal: with AWS_* in the environment the command backs up, lists, verifies and restores; stock restic reads the bucket.
#[test]
fn a_set_goes_into_a_bucket_and_comes_back_and_stock_restic_reads_it() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    let made = site.world.json(["backup"])?;
    let set = made["set"].as_str().expect("an id");
    let listed = site.world.json(["list", "backups"])?;
    assert_eq!(listed["backups"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(listed["backups"][0]["set"], set);
    assert_eq!(site.world.json(["verify", "latest"])?["sound"], true);
    site.assert_clean("after a backup")?;

    let before = contents(&site.data);
    fs::remove_dir_all(&site.data).expect("destroyed");
    site.world.run(["restore", "latest", "--assume-stopped"])?.success()?;
    assert_eq!(contents(&site.data), before, "what came back is not what was there");

    let Some(_) = require_tool("restic") else { return Ok(()) };
    let restic = site.restic();
    let snapshots = restic.snapshots()?;
    let tags = snapshots.iter().map(|snapshot| snapshot["tags"].to_string()).collect::<Vec<_>>();
    assert!(matches!(&*tags, [one] if one.contains(&format!("set:{set}"))), "{tags:?}");
    restic.check_read_data()?;
    let stored = format!("/data/data{}/below/large", site.data.display());
    assert_eq!(restic.dump("latest", &stored)?, noise(1, 3 << 20));
    Ok(())
}

/// Goal: the secret key is in the environment of the command and nowhere else: not in that of anything it starts, not in what it
/// says at its most talkative, not in its folders, not in the set, not on the wire.
#[test]
fn the_secret_key_shows_nowhere() -> Tested {
    let Some(mut site) = Site::new()? else { return Ok(()) };
    let seen_by_stop = site.world.root().join("seen-by-stop");
    let stop = format!("env > '{}'", seen_by_stop.display());
    site.world.config().append(&format!("stop = [['sh', '-c', \"{stop}\"]]\n"));
    let secret = site.secret.as_bytes();
    let paused = site.world.pause_at("frozen", ["-vv", "backup"])?;
    assert_eq!(paused.children().len(), 1, "a process for the writer");
    for process in paused.children() {
        for file in ["environ", "cmdline"] {
            let said = fs::read(format!("/proc/{}/{file}", process.pid)).expect("a process of ours");
            assert!(!said.is_empty() && !contains(&said, secret), "{file} of a writer's process");
        }
    }
    let run = paused.go_on()?.success()?;
    assert!(run.stderr.contains("DEBUG"), "it was to say all it can");
    site.assert_silent(&site.secret, &run);
    let mut traced = site.world.command(["verify", "latest"])?;
    traced.env("HOLDFAST_LOG", "trace");
    let traced = Holdfast::run_command(traced)?.success()?;
    assert!(traced.stderr.contains("TRACE"), "it was to say all it can");
    site.assert_silent(&site.secret, &traced);

    site.world.run(["restore", "latest", "--stop", "--assume-stopped"])?.success()?;
    let seen = fs::read_to_string(&seen_by_stop).expect("the stop command ran");
    assert!(seen.contains("PATH="), "{seen}");

    let kept = files(site.world.root());
    let logs: Vec<_> = kept.iter().filter(|path| path.extension().is_some_and(|e| e == "ndjson")).collect();
    assert_eq!(logs.len(), 1, "the session's event log: {kept:?}");
    for path in &kept {
        assert!(!contains(&fs::read(path).expect("a file"), secret), "{}", path.display());
    }
    // Nor does the repository's password, which lies in its own file only.
    let password = fs::read_to_string(site.world.password_file()).expect("the password");
    site.assert_silent(password.trim(), &run);
    site.assert_silent(password.trim(), &traced);
    let heads = site.between.heads();
    assert!(
        heads.iter().any(|head| head.contains(KEY_ID)),
        "requests are signed with the key that was given"
    );
    assert!(heads.iter().all(|head| !head.contains(&site.secret)), "on the wire");

    let Some(_) = require_tool("restic") else { return Ok(()) };
    let restic = site.restic();
    let entries = restic.ls("latest")?;
    let documents = entries.iter().filter(|entry| entry["type"] == "file").filter_map(|e| e["path"].as_str());
    let documents: Vec<_> = documents.filter(|path| path.starts_with("/holdfast/")).collect();
    assert!(documents.contains(&"/holdfast/events.ndjson"), "{documents:?}");
    for document in documents {
        assert!(!contains(&restic.dump("latest", document)?, secret), "{document}");
    }
    Ok(())
}

/// Goal: kill -9 while the set is being stored leaves no set; the next backup says what was left, removes it, and succeeds.
/// Method: the request at which it dies is held back for ever: the second pack, then the set's own snapshot, when all of its
/// content is there as a part.
#[test]
fn killed_in_the_middle_of_storing_the_next_backup_names_and_removes_what_was_left() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    site.world.run(["backup"])?.success()?;
    for (round, (kind, left, part)) in [("data", 1, false), ("snapshots", 1, true)].into_iter().enumerate() {
        let when = format!("killed at number {left} of {kind}/");
        let new = noise(round as u64 + 10, 2 << 20);
        fs::write(site.data.join("new"), &new).expect("a file");
        let (packs, snapshots) = (site.moto.objects("srv/data/")?, site.moto.objects("srv/snapshots/")?);
        *site.trigger.lock().expect("no panic") = Some((kind, left));
        let mut running = site.world.spawn(["backup"])?;
        site.between.wait_held(PATIENCE)?;
        let writers = children(running.pid());
        // The pack before the held one may still be on its way.
        let deadline = Instant::now() + PATIENCE;
        while site.moto.objects("srv/data/")?.len() <= packs.len() {
            assert!(Instant::now() < deadline, "{when}: nothing was stored");
            std::thread::yield_now();
        }
        assert_eq!(site.moto.objects("srv/locks/")?.len(), 1, "{when}: it is at work");
        running.kill();
        all_gone(&writers, PATIENCE)?;
        assert_eq!(site.moto.objects("srv/snapshots/")?.len(), snapshots.len() + usize::from(part), "{when}");

        assert_eq!(site.sets()?, round + 1, "{when}: a set was made");
        let next = site.world.run(["backup"])?.success()?;
        assert!(next.stderr.contains("shadow copy") && next.stderr.contains(": removed"), "{}", next.stderr);
        assert_eq!(
            next.stderr.contains("which was cut off while it was stored: removed"),
            part,
            "{}",
            next.stderr
        );
        assert_eq!(site.sets()?, round + 2, "{when}");
        assert_eq!(
            site.moto.objects("srv/snapshots/")?.len(),
            snapshots.len() + 1,
            "{when}: a part was left"
        );
        site.assert_clean(&when)?;
        let verified = site.world.json(["verify", "latest"])?;
        assert_eq!(verified["sound"], true, "{when}: {verified}");
    }
    let Some(_) = require_tool("restic") else { return Ok(()) };
    site.restic().check_read_data()?;
    assert_eq!(site.restic().snapshots()?.len(), 3);
    Ok(())
}

/// Goal: SIGTERM while the set is being stored, with a request that is not answered, gives the set up: exit 130, no set and no
/// part of one, and the next backup is not kept out by the lock of the dead.
#[test]
fn interrupted_in_the_middle_of_storing_there_is_no_set_and_the_next_one_is_stored() -> Tested {
    let Some(site) = Site::new()? else { return Ok(()) };
    site.world.run(["backup"])?.success()?;
    fs::write(site.data.join("new"), noise(10, 2 << 20)).expect("a file");
    *site.trigger.lock().expect("no panic") = Some(("data", 1));
    let running = site.world.spawn(["backup"])?;
    site.between.wait_held(PATIENCE)?;
    running.signal(Signal::TERM);
    let run = running.wait(PATIENCE)?;
    run.assert_failed(130, &["error: interrupted", "no set was made"]);
    assert_eq!(site.sets()?, 1);
    assert_eq!(site.moto.objects("srv/snapshots/")?.len(), 1, "a part was left");
    site.world.run(["backup"])?.success()?;
    assert_eq!(site.sets()?, 2);
    site.assert_clean("after the backup behind an interruption")
}

/// Goal: credentials that the server refuses are an error of that name, before anything is stored or held.
#[test]
fn refused_credentials_are_told_and_nothing_is_half_done() -> Tested {
    let Some(mut site) = Site::new()? else { return Ok(()) };
    site.world.run(["backup"])?.success()?;
    let (stored, known) = (site.moto.objects("srv/")?, files(site.world.root()));
    let key = site.moto.check_credentials()?;
    let wrong = format!("wrong-{}", uuid::Uuid::new_v4());
    for id in [key.id.as_str(), "AKIANOBODY"] {
        site.sign_with(id, &wrong);
        for command in [
            ["list", "backups"].as_slice(),
            &["backup"],
            &["verify", "latest"],
            &["forget", "--keep-last", "1"],
        ] {
            let run = site.world.run(command)?;
            run.assert_failed(
                1,
                &[
                    "the repository cannot be used",
                    "refuses access to config",
                    "no set was changed",
                    "AWS_ACCESS_KEY_ID",
                ],
            );
            site.assert_silent(&wrong, &run);
        }
    }
    // It is the credentials that were refused, not everything.
    if require_tool("restic").is_some() {
        let right = [("AWS_ACCESS_KEY_ID", &*key.id), ("AWS_SECRET_ACCESS_KEY", &*key.secret)];
        let restic = site.restic().with_environment(right);
        assert_eq!(restic.snapshots()?.len(), 1);
    }
    site.moto.check_no_credentials()?;
    assert_eq!(site.moto.objects("srv/")?, stored, "something was stored or removed");
    assert_eq!(files(site.world.root()), known, "a session was begun");
    site.assert_clean("after a refusal")
}

/// Goal: a bucket that is not there is exit 10 for every command, and is not made.
#[test]
fn a_missing_bucket_is_exit_10_and_is_not_made() -> Tested {
    let Some(mut site) = Site::new()? else { return Ok(()) };
    let location = format!("s3:{}/nobucket/srv", site.moto.endpoint());
    let password = site.world.password_file();
    site.world.config().repository(&location, &password);
    for command in [["list", "backups"].as_slice(), &["verify", "latest"], &["restore", "latest"]] {
        site.world.run(command)?.assert_failed(10, &["there is no repository at", "/nobucket/srv"]);
    }
    let run = site.world.run(["backup"])?;
    run.assert_failed(
        10,
        &["there is no bucket for a repository at", "/nobucket/srv", "make the bucket first"],
    );
    site.assert_silent(&site.secret, &run);
    let told: Value = site.world.run(["--json", "backup"])?.json()?;
    assert_eq!((&told["schema"], &told["exit"]), (&"holdfast.error/1".into(), &10.into()), "{told}");
    site.assert_clean("after a refusal")?;

    // Nor is it taken for a disk that is not mounted, once the bucket is there.
    site.world.config().repository(site.moto.repository("srv"), &password);
    site.world.run(["backup"])?.success()?;
    assert_eq!(site.sets()?, 1);
    Ok(())
}

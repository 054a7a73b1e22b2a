//! One run of the main job: a world with a recovery identity, a backup in the middle of a load, and what its event log
//! says of the hold.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use holdfast_tests::{
    FixtureError,
    holdfast::{Holdfast, Run},
    load::{Ack, Acks, Load},
    volumes::{LoopVolume, SMALL},
};
use serde_json::Value;

use super::authority::Site;

pub const PATIENCE: Duration = Duration::from_secs(60);
const PASSPHRASE: &str = "lantern gravel oboe thirty maple quiet";

/// What a CA lies on, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    Btrfs,
    Xfs,
    Ext4,
}

impl Ground {
    /// The volume, and the folder on it that CAs go into.
    pub fn make(self) -> Result<(LoopVolume, PathBuf), FixtureError> {
        let volume = match self {
            Self::Btrfs => LoopVolume::btrfs(SMALL)?,
            Self::Xfs => LoopVolume::xfs_reflink(SMALL)?,
            Self::Ext4 => LoopVolume::ext4(SMALL)?,
        };
        // Service users have to reach what is theirs.
        let above = volume.path().parent().expect("a folder").to_owned();
        fs::set_permissions(above, fs::Permissions::from_mode(0o711)).expect("chmod");
        let folder = match self {
            Self::Btrfs => volume.subvolume("srv")?,
            Self::Xfs | Self::Ext4 => {
                let folder = volume.path().join("srv");
                fs::create_dir(&folder).expect("make a folder");
                folder
            }
        };
        Ok((volume, folder))
    }

    /// The provider that must be chosen, and its atomicity.
    pub const fn provider(self) -> (&'static str, &'static str) {
        match self {
            Self::Btrfs => ("btrfs", "volume"),
            Self::Xfs => ("reflink", "file"),
            Self::Ext4 => ("copy", "none"),
        }
    }
}

/// A world with a recovery identity, whose private half lies in `recovery.age`.
pub struct World {
    pub holdfast: Holdfast,
    pub identity: PathBuf,
    pub passphrase: PathBuf,
}

impl World {
    pub fn new() -> Result<Self, FixtureError> {
        let mut holdfast = Holdfast::new()?;
        let identity = holdfast.root().join("recovery.age");
        let passphrase = holdfast.root().join("passphrase");
        fs::write(&passphrase, format!("{PASSPHRASE}\n")).expect("write the passphrase");
        fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).expect("chmod");
        let (output, from) = (text(&identity), text(&passphrase));
        let made = holdfast.json(["key", "identity", "--output", &output, "--passphrase-file", &from])?;
        let recipient = made["recipient"].as_str().expect("a recipient").to_owned();
        holdfast.config().recipients([recipient.as_str()]);
        Ok(Self { holdfast, identity, passphrase })
    }

    /// A folder for what must outlive a CA.
    pub fn aside(&self) -> &Path {
        self.holdfast.root()
    }

    /// `holdfast restore latest …` with the recovery identity and the word that the application is down: this test
    /// has killed it, but a machine may hide processes even from root.
    pub fn restore_arguments<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["--json", "restore", "latest", "--assume-stopped"].map(str::to_owned).into();
        arguments.extend(["--identity".to_owned(), text(&self.identity)]);
        arguments.extend(["--identity-passphrase-file".to_owned(), text(&self.passphrase)]);
        arguments.extend(more.into_iter().map(str::to_owned));
        arguments
    }

    /// Restores the last set; it must exit 0.
    pub fn restore<'a>(&self, more: impl IntoIterator<Item = &'a str>) -> Result<Value, FixtureError> {
        self.holdfast.run(self.restore_arguments(more))?.success()?.json()
    }

    /// Restores the last set below a new folder, and gives that folder.
    pub fn restore_to(&self, name: &str) -> Result<PathBuf, FixtureError> {
        let fresh = self.holdfast.root().join(name);
        self.restore(["--to", &text(&fresh)])?;
        Ok(fresh)
    }

    /// The snapshot of a set, as stock restic names it.
    pub fn snapshot(&self, set: &str) -> Result<Value, FixtureError> {
        let tag = format!("set:{set}");
        let has = |snapshot: &Value| {
            snapshot["tags"].as_array().is_some_and(|tags| tags.iter().any(|known| *known == tag.as_str()))
        };
        let mut found = self.holdfast.restic().snapshots()?;
        found.retain(has);
        assert_eq!(found.len(), 1, "snapshots of set {set}: {found:?}");
        Ok(found.remove(0))
    }

    /// When `writer` was held in the making of `set`, from the event log inside the set.
    pub fn hold(&self, set: &str, writer: &str) -> Result<Hold, FixtureError> {
        let snapshot = self.snapshot(set)?;
        let id = snapshot["id"].as_str().expect("an id");
        let log = self.holdfast.restic().dump(id, "/holdfast/events.ndjson")?;
        let log = String::from_utf8(log).expect("UTF-8");
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
        let lines: Vec<Value> = lines.collect();
        let at = |event: &str| {
            let mut found = lines.iter().filter(|line| {
                line["event"] == "writer" && line["writer"] == writer && line["moved"]["event"] == event
            });
            let at = found.next().unwrap_or_else(|| panic!("no `{event}` of `{writer}` in\n{log}"));
            assert!(found.next().is_none(), "more than one `{event}` of `{writer}` in\n{log}");
            at["at_ns"].as_u64().expect("a time")
        };
        let hold = Hold {
            called_ns: at("freeze-started"),
            taken_ns: at("freeze-done"),
            thaw_ns: at("thaw-started"),
            released_ns: at("thaw-done"),
        };
        let held = lines.iter().find(|line| line["event"] == "held" && line["writer"] == writer);
        assert!(held.is_some_and(|held| held["proof"] != ""), "the hold is proved: {held:?}");
        Ok(hold)
    }
}

/// The times of one writer's hold on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Hold {
    pub called_ns: u64,
    pub taken_ns: u64,
    pub thaw_ns: u64,
    pub released_ns: u64,
}

/// Backs up while all `loads` go on before and after it, and checks that they do.
pub fn back_up_under_load<'a>(
    world: &World,
    loads: impl IntoIterator<Item = &'a Load>,
    more: &[&str],
) -> Result<Value, FixtureError> {
    let all: Vec<&Acks> = loads.into_iter().map(Load::acks).collect();
    for acks in &all {
        acks.wait_for(10, PATIENCE)?;
        acks.wrote_again_within(PATIENCE)?;
    }
    let document = world.holdfast.json(["backup"].into_iter().chain(more.iter().copied()))?;
    for acks in &all {
        // Twice, so that at least one was begun after the end of the backup, too.
        acks.wrote_again_within(PATIENCE)?;
        acks.wrote_again_within(PATIENCE)?;
    }
    Ok(document)
}

/// What a set of one certificate authority says of itself must be so.
pub fn check_document(document: &Value, grounds: &[Ground], sites: &[(&str, &Site)]) {
    assert_eq!(document["schema"], "holdfast.backup/1");
    assert_eq!(document["level"], "application", "{document:#}");
    assert_eq!(document["one_instant"], true, "{document:#}");
    assert_eq!(document["exceptions"], Value::Array(vec![]), "{document:#}");
    let shadows = document["shadows"].as_array().expect("shadows");
    let mut providers: Vec<_> =
        shadows.iter().map(|shadow| (shadow["provider"].as_str(), shadow["atomicity"].as_str())).collect();
    let mut expected: Vec<_> =
        grounds.iter().map(|ground| ground.provider()).map(|(name, what)| (Some(name), Some(what))).collect();
    providers.sort_unstable();
    expected.sort_unstable();
    assert_eq!(providers, expected, "{document:#}");
    let window = document["window_ms"].as_f64().expect("a window");
    // The budget of a SQLite writer, whatever else would be allowed.
    assert!(window > 0.0 && window < 1000.0, "held for {window} ms");
    for (id, site) in sites {
        let components = document["components"].as_array().expect("components");
        let of_writer: Vec<_> = components.iter().filter(|component| component["writer"] == *id).collect();
        for component in &of_writer {
            let keys = component["component"] == "keys";
            let level = if keys { Value::Null } else { Value::from("application") };
            assert_eq!(component["level"], level, "{component:#}");
            assert_eq!(component["bytes"].as_u64() > Some(0), !keys, "{component:#}");
        }
        let names: Vec<_> =
            of_writer.iter().filter_map(|component| component["component"].as_str()).collect();
        for name in ["database", "keys", "configuration", "dynamic-files"] {
            assert!(names.contains(&name), "`{name}` is missing in {names:?}");
        }
        let keys = &document["keys"][id];
        assert_eq!(keys["state"], "sealed", "{keys:#}");
        let sealed = keys["keys"].as_array().expect("keys");
        let mut paths: Vec<_> =
            sealed.iter().filter_map(|key| key["path"].as_str()).map(PathBuf::from).collect();
        paths.sort();
        assert_eq!(paths, site.key_files());
        // The CA's own key, of all keys, is proved against its certificate.
        let ca =
            sealed.iter().find(|key| key["purpose"].as_str().is_some_and(|what| what.contains("CA key")));
        assert_eq!(ca.map(|key| &key["proof"]["state"]), Some(&Value::from("proved")), "{keys:#}");
    }
}

/// Every certificate acknowledged before the freeze was called is there, as it was acknowledged; none that was begun
/// after the thaw; nothing was acknowledged during the hold that was begun in it.
pub fn check_cut(site: &Site, hold: &Hold, acks: &[Ack]) {
    let restored = site.certificates();
    let before: Vec<_> = acks.iter().filter(|ack| ack.acked_ns < hold.called_ns).collect();
    let after: Vec<_> = acks.iter().filter(|ack| ack.begun_ns > hold.released_ns).collect();
    assert!(before.len() >= 10 && !after.is_empty(), "{} before, {} after", before.len(), after.len());
    for ack in &before {
        let pem = restored.get(&ack.serial).unwrap_or_else(|| panic!("{} is lost: {hold:?}", ack.name));
        assert_eq!(pem.trim(), ack.pem.trim(), "{} is another certificate", ack.name);
    }
    for ack in &after {
        assert!(!restored.contains_key(&ack.serial), "{} was begun after the thaw: {hold:?}", ack.name);
    }
    let inside = acks.iter().filter(|ack| ack.begun_ns > hold.taken_ns && ack.acked_ns < hold.thaw_ns);
    assert_eq!(inside.count(), 0, "certificates were issued under the hold");
    // Nothing else either: what is there was acknowledged, sooner or later.
    for serial in restored.keys() {
        let known = site.own.contains_key(serial) || acks.iter().any(|ack| ack.serial == *serial);
        assert!(known, "{serial} was never acknowledged");
    }
}

/// Removes a CA's folder completely.
pub fn destroy(site: &Site) {
    fs::remove_dir_all(&site.dir).expect("destroy the CA");
    assert!(!site.dir.exists());
}

/// Where `site` lies below the folder of a `--to`.
pub fn below(site: &Site, fresh: &Path) -> Site {
    site.at(fresh.join(site.dir.strip_prefix("/").expect("absolute")))
}

/// A run that must have ended with this exit code.
pub fn assert_code(run: &Run, code: i32) {
    assert_eq!(run.code, Some(code), "signal {:?}\n{}{}", run.signal, run.stderr, run.stdout);
}

pub fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}

//! Promise P9: a declared key is kept out of every file set, also under a name that nobody declared. Sets are opened and
//! searched for the key's bytes.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use holdfast::repository::{NodeKind, Options, Password, Repository};
use holdfast_tests::{
    FixtureError,
    holdfast::{Holdfast, Run},
    require::{require_root_or_skip, require_tool},
    volumes::{LoopVolume, SMALL},
};

type Tested = Result<(), FixtureError>;

/// How the copy is cut, and so what a file in it has to do with the live one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// Files of their own, with inode numbers of their own.
    Copy,
    /// The live inode numbers, on another device.
    Btrfs,
}

/// A folder whose owner declares a key in it, and the folder of another writer beside it.
struct Scene {
    world: Holdfast,
    app: PathBuf,
    www: PathBuf,
    provider: &'static str,
    /// Bytes in which no search for private keys can see one.
    secret: Vec<u8>,
    _volume: Option<LoopVolume>,
}

impl Scene {
    /// `None`, said aloud, where the ground cannot be had.
    fn new(ground: Ground) -> Result<Option<Self>, FixtureError> {
        let volume = match ground {
            Ground::Copy => None,
            Ground::Btrfs => {
                let (Some(()), Some(_)) = (require_root_or_skip(), require_tool("mkfs.btrfs")) else {
                    return Ok(None);
                };
                Some(LoopVolume::btrfs(SMALL)?)
            }
        };
        let mut world = Holdfast::new()?;
        let base =
            volume.as_ref().map_or_else(|| world.root().join("srv"), |volume| volume.path().join("srv"));
        let (app, www) = (base.join("app"), base.join("www"));
        for folder in [&base, &app, &www] {
            fs::create_dir(folder).expect("a folder");
        }
        let secret = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
        fs::write(app.join("app.key"), &secret).expect("the key");
        fs::write(app.join("data"), "content of app").expect("a file");
        fs::write(www.join("page"), "content of www").expect("a file");

        let passphrase = world.root().join("passphrase");
        fs::write(&passphrase, "lantern gravel oboe thirty maple quiet\n").expect("written");
        fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).expect("chmod");
        let made =
            world.json(["key", "identity", "-o", "identity.age", "--passphrase-file", "passphrase"])?;
        world.config().recipients([made["recipient"].as_str().expect("a recipient")]);
        // A table of the last writer, which is `app`.
        let key = app.join("app.key");
        world.config().append(&format!("[[writer.keys]]\npath = {key:?}\npurpose = \"a secret\"\n"));
        let provider = if ground == Ground::Btrfs { "btrfs" } else { "copy" };
        let mut scene = Self { world, app, www, provider, secret, _volume: volume };
        scene.configure(&[], false);
        Ok(Some(scene))
    }

    fn configure(&mut self, exclude: &[&str], held: bool) {
        let (app, www, provider) = (self.app.clone(), self.www.clone(), self.provider);
        let root = self.world.root().to_owned();
        let config = self.world.config().clear_writers();
        for (id, folder) in [("www", www), ("app", app)] {
            let writer = config.writer(id, "files").set("paths", vec![folder]).set("provider", provider);
            writer.set("exclude", exclude.to_vec());
            if held {
                let lock = root.join(format!("{id}.lock"));
                fs::write(&lock, "").expect("a lock file");
                writer.set("lock-file", lock.as_path());
            }
        }
    }

    fn open(&self) -> Repository {
        let password = fs::read_to_string(self.world.password_file()).expect("the password");
        let location = self.world.repository().to_string_lossy().into_owned();
        let opened = Repository::open(&location, &Password::new(password.trim()), &Options::default());
        opened.expect("the repository")
    }

    /// Neither a set nor a part of one.
    fn assert_nothing_stored(&self) {
        let repository = self.open();
        assert_eq!(repository.sets().expect("listed"), []);
        assert_eq!(repository.partials().expect("listed"), []);
    }

    /// Makes a set that must have the provider's and the files' names right, and returns the files in it that contain
    /// `bytes`.
    fn stored_with(&self, bytes: &[u8]) -> Result<Vec<PathBuf>, FixtureError> {
        let made = self.world.json(["backup"])?;
        assert_eq!(made["shadows"][0]["provider"], self.provider, "{made}");
        let repository = self.open();
        let set = repository.sets().expect("listed").pop().expect("the set");
        let reader = repository.reader(&set).expect("readable");
        let mut found = Vec::new();
        for node in repository.tree(&set).expect("readable") {
            let node = node.expect("an entry");
            if node.kind == NodeKind::File {
                let content = reader.read_file(&node.path, 1 << 20).expect("its content");
                if content.windows(bytes.len()).any(|window| window == bytes) {
                    found.push(node.path);
                }
            }
        }
        repository.forget(&[set.set]).expect("forgotten");
        Ok(found)
    }
}

fn link(from: &Path, to: &Path) {
    fs::hard_link(from, to).expect("a hard link");
}

#[track_caller]
fn assert_refused(run: &Run, link: &Path, key: &Path) {
    let told = format!("{}, the same file as {}, a key of `app`", link.display(), key.display());
    run.assert_failed(4, &[&told, "must not be stored in plain", "remove that link, exclude it, or"]);
    run.assert_failed(4, &["refused before it begins", "state: nothing was changed"]);
}

fn planned(ground: Ground) -> Tested {
    let Some(mut scene) = Scene::new(ground)? else { return Ok(()) };
    let key = scene.app.join("app.key");
    // The search finds what is there; the key itself is nowhere.
    assert_eq!(scene.stored_with(b"content of www")?.len(), 1);
    assert_eq!(scene.stored_with(&scene.secret)?, Vec::<PathBuf>::new());

    // In another writer's folder, and in the same writer's.
    for folder in [scene.www.clone(), scene.app.clone()] {
        let linked = folder.join("picture");
        link(&key, &linked);
        assert_refused(&scene.world.run(["backup"])?, &linked, &key);
        scene.assert_nothing_stored();
        fs::remove_file(linked).expect("removed");
    }
    // Also when the component with the key does not take part.
    let linked = scene.app.join("picture");
    link(&key, &linked);
    assert_refused(&scene.world.run(["backup", "--component", "app/files"])?, &linked, &key);
    fs::remove_file(linked).expect("removed");

    // Also when its writer does not take part.
    let linked = scene.www.join("picture");
    link(&key, &linked);
    assert_refused(&scene.world.run(["backup", "--writer", "www"])?, &linked, &key);
    fs::remove_file(linked).expect("removed");

    // As the refusal says: excluded, everything else is stored.
    link(&key, &scene.www.join("picture"));
    scene.configure(&["picture"], false);
    assert_eq!(scene.stored_with(b"content of www")?.len(), 1);
    assert_eq!(scene.stored_with(&scene.secret)?, Vec::<PathBuf>::new());
    Ok(())
}

/// A link made, or a key renewed, after the plan was found good.
fn cut(ground: Ground, held: bool) -> Tested {
    let Some(mut scene) = Scene::new(ground)? else { return Ok(()) };
    scene.configure(&[], held);
    let (key, linked) = (scene.app.join("app.key"), scene.www.join("picture"));
    let told = format!("{} is the same file as {}, a key of `app`", linked.display(), key.display());
    // What is held is copied only after the last of these; what is not must not change any more by then.
    let point = if held { "freeze" } else { "prepare-backup" };
    for renewed in [false, true] {
        let paused = scene.world.pause_at(point, ["backup"])?;
        if renewed {
            let new = scene.app.join("new");
            fs::write(&new, &scene.secret).expect("another file");
            fs::rename(new, &key).expect("renewed");
        }
        link(&key, &linked);
        let run = paused.go_on()?;
        run.assert_failed(
            4,
            &["component `files` of writer `www` cannot be stored", &told, "no set was made"],
        );
        scene.assert_nothing_stored();
        let shadows = scene.world.json(["list", "shadows"])?;
        assert_eq!(shadows["shadows"], serde_json::json!([]), "{shadows}");
        fs::remove_file(&linked).expect("removed");
    }
    assert_eq!(scene.stored_with(&scene.secret)?, Vec::<PathBuf>::new());
    assert_eq!(scene.stored_with(b"content of www")?.len(), 1);
    Ok(())
}

#[test]
fn a_linked_key_refuses_the_backup_where_files_are_copied() -> Tested {
    planned(Ground::Copy)
}

#[test]
fn a_linked_key_refuses_the_backup_on_btrfs() -> Tested {
    planned(Ground::Btrfs)
}

#[test]
fn a_key_linked_after_the_plan_is_noticed_in_what_was_copied() -> Tested {
    cut(Ground::Copy, false)
}

#[test]
fn a_key_linked_after_the_plan_is_noticed_in_what_was_copied_under_the_hold() -> Tested {
    cut(Ground::Copy, true)
}

#[test]
fn a_key_linked_after_the_plan_is_noticed_in_a_btrfs_snapshot() -> Tested {
    cut(Ground::Btrfs, false)
}

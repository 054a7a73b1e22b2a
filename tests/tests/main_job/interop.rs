//! Promise P11: stock restic reads what we wrote, and gives every file back bit for bit.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use holdfast_tests::{Journal, tree::walk};
use serde_json::Value;

use super::authority::{Product, Settings, Site};
use super::run::{Ground, PATIENCE, World, below};
use super::{SERVICE, Tested, ready};

/// Regular files below `folder`, by path relative to it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let relative = |path: PathBuf| path.strip_prefix(folder).expect("below the folder").to_owned();
    walk(folder).into_iter().filter(|path| path.is_file()).map(relative).collect()
}

/// Content, mode, owner, group and modification time.
fn shown(path: &Path) -> (Vec<u8>, [i64; 5]) {
    let meta = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let about = [
        i64::from(meta.mode()),
        i64::from(meta.uid()),
        i64::from(meta.gid()),
        meta.mtime(),
        meta.mtime_nsec(),
    ];
    (fs::read(path).expect("a file"), about)
}

fn restic_gives_back_bit_for_bit(journal: Journal, ground: Ground) -> Tested {
    let Some(()) = ready(Product::Cfssl) else { return Ok(()) };
    let (_volume, folder) = ground.make()?;
    let mut world = World::new()?;
    let (site, mut authority) =
        Site::create(Product::Cfssl, &folder.join("ca"), journal, SERVICE, world.aside())?;
    world.holdfast.config().append(&site.writer("ca", Settings::Discovered));
    let load = authority.issue_loop("load")?;
    load.acks().wait_for(30, PATIENCE)?;
    // At rest, with whatever log its end has left: the shadow copy is then what lies there afterwards.
    drop(load);
    drop(authority);
    let document = world.holdfast.json(["backup", "--tag", "nightly", "--tag", "before-the-move"])?;
    let set = document["set"].as_str().expect("a set");

    let restic = world.holdfast.restic();
    restic.check_read_data()?;
    let snapshot = world.snapshot(set)?;
    let tags: Vec<_> = snapshot["tags"].as_array().expect("tags").iter().filter_map(Value::as_str).collect();
    for tag in ["holdfast", "nightly", "before-the-move"] {
        assert!(tags.contains(&tag), "{tags:?}");
    }
    assert_eq!(restic.snapshots()?.len(), 1, "parts of sets are not left lying about");

    let opened = world.holdfast.root().join("opened");
    restic.restore(snapshot["id"].as_str().expect("an id"), &opened)?;
    let stored = opened.join("data/ca").join(site.dir.strip_prefix("/").expect("absolute"));
    let given = files(&stored);
    assert!(given.len() >= 5 && given.contains(&PathBuf::from("certs.db")), "{given:?}");
    let keys = site.key_files();
    for path in site.owners.keys().map(|path| site.dir.join(path)).filter(|path| path.is_file()) {
        let relative = path.strip_prefix(&site.dir).expect("below").to_owned();
        assert_eq!(given.contains(&relative), !keys.contains(&path), "{}", path.display());
    }
    for path in &given {
        let (restored, live) = (shown(&stored.join(path)), shown(&site.dir.join(path)));
        assert!(restored.0 == live.0, "{} differs", path.display());
        assert_eq!(restored.1, live.1, "mode, owner, group and time of {}", path.display());
    }

    // Our own restore gives the same; a database's log is folded in by then.
    let fresh = below(&site, &world.restore_to("fresh")?);
    for path in given.iter().filter(|path| !path.to_string_lossy().starts_with("certs.db")) {
        assert_eq!(shown(&fresh.dir.join(path)), shown(&stored.join(path)), "{}", path.display());
    }
    let of_restic = site.at(stored);
    assert!(of_restic.certificates().len() >= 30);
    assert_eq!(fresh.certificates(), of_restic.certificates());
    assert_eq!((fresh.integrity(), of_restic.integrity()), ("ok".to_owned(), "ok".to_owned()));
    if journal == Journal::Delete {
        assert!(
            fs::read(fresh.database()).expect("ours") == fs::read(of_restic.database()).expect("restic's")
        );
    }
    Ok(())
}

#[test]
fn restic_checks_shows_and_restores_a_set_with_a_rollback_journal_bit_for_bit() -> Tested {
    restic_gives_back_bit_for_bit(Journal::Delete, Ground::Xfs)
}

#[test]
fn restic_checks_shows_and_restores_a_set_with_a_wal_bit_for_bit() -> Tested {
    restic_gives_back_bit_for_bit(Journal::Wal, Ground::Btrfs)
}

//! The main job on real input: a live certificate authority is backed up at one instant while it goes on issuing,
//! destroyed, and brought back with every certificate it had acknowledged before the freeze.

#[path = "main_job/authority.rs"]
mod authority;
#[path = "main_job/gate.rs"]
mod gate;
#[path = "main_job/interop.rs"]
mod interop;
#[path = "main_job/proof.rs"]
mod proof;
#[path = "main_job/run.rs"]
mod run;
#[path = "main_job/secrets.rs"]
mod secrets;

use authority::{Product, Settings, Site};
use holdfast_tests::{
    FixtureError, Journal,
    require::{require_root_or_skip, require_tool, require_venv},
};
use run::{Ground, World, back_up_under_load, below, check_document, destroy};

type Tested = Result<(), FixtureError>;

/// A service user. Nobody needs to know its name.
const SERVICE: u32 = 4711;

/// Whether this machine has what the main job needs.
fn ready(product: Product) -> Option<()> {
    require_root_or_skip()?;
    for tool in ["mkfs.btrfs", "mkfs.xfs", "mkfs.ext4", "restic", "openssl"] {
        require_tool(tool)?;
    }
    match product {
        Product::Cfssl => require_tool("cfssl").map(drop),
        Product::DjangoCa => require_venv("django-ca", "python").map(drop),
    }
}

/// Where a restore goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Original,
    Fresh,
}

/// One case: make the CA, back it up under load, kill it, destroy it, restore it, prove it.
fn main_job(product: Product, ground: Ground, journal: Journal, places: &[Place]) -> Tested {
    let Some(()) = ready(product) else { return Ok(()) };
    // In WAL mode the writer finds everything by itself; with a rollback journal it is told.
    let settings = match journal {
        Journal::Wal => Settings::Discovered,
        Journal::Delete => Settings::Plain,
    };
    // cfssl belongs to a service user here. django-ca's Python may lie where only root can go.
    let owner = if product == Product::Cfssl { SERVICE } else { 0 };
    let (_volume, folder) = ground.make()?;
    let mut world = World::new()?;
    let (site, mut authority) = Site::create(product, &folder.join("ca"), journal, owner, world.aside())?;
    world.holdfast.config().append(&site.writer("ca", settings));

    let load = authority.issue_loop("load")?;
    let document = back_up_under_load(&world, [&load], &[])?;
    check_document(&document, &[ground], &[("ca", &site)]);
    let set = document["set"].as_str().expect("a set");
    // The server dies first, as in a disaster: in the middle of whatever it was asked.
    drop(authority);
    let (hold, acks) = (world.hold(set, "ca")?, load.kill());
    destroy(&site);

    for place in places {
        let (restored, original) = match place {
            Place::Original => {
                world.restore([])?;
                (site.clone(), true)
            }
            Place::Fresh => (below(&site, &world.restore_to("fresh")?), false),
        };
        proof::check_restored(&restored, original, &hold, &acks)?;
    }
    Ok(())
}

const BOTH: &[Place] = &[Place::Fresh, Place::Original];

#[test]
fn cfssl_with_a_wal_survives_its_destruction_on_btrfs() -> Tested {
    main_job(Product::Cfssl, Ground::Btrfs, Journal::Wal, BOTH)
}

#[test]
fn cfssl_with_a_rollback_journal_survives_its_destruction_on_btrfs() -> Tested {
    main_job(Product::Cfssl, Ground::Btrfs, Journal::Delete, BOTH)
}

#[test]
fn cfssl_with_a_wal_survives_its_destruction_on_xfs() -> Tested {
    main_job(Product::Cfssl, Ground::Xfs, Journal::Wal, BOTH)
}

#[test]
fn cfssl_with_a_rollback_journal_survives_its_destruction_on_xfs() -> Tested {
    main_job(Product::Cfssl, Ground::Xfs, Journal::Delete, BOTH)
}

#[test]
fn cfssl_with_a_wal_survives_its_destruction_on_ext4() -> Tested {
    main_job(Product::Cfssl, Ground::Ext4, Journal::Wal, BOTH)
}

#[test]
fn cfssl_with_a_rollback_journal_survives_its_destruction_on_ext4() -> Tested {
    main_job(Product::Cfssl, Ground::Ext4, Journal::Delete, BOTH)
}

#[test]
fn django_ca_with_a_wal_survives_its_destruction_on_btrfs() -> Tested {
    main_job(Product::DjangoCa, Ground::Btrfs, Journal::Wal, BOTH)
}

#[test]
fn django_ca_with_a_rollback_journal_survives_its_destruction_on_xfs() -> Tested {
    main_job(Product::DjangoCa, Ground::Xfs, Journal::Delete, BOTH)
}

#[test]
fn django_ca_with_a_wal_survives_its_destruction_on_xfs() -> Tested {
    main_job(Product::DjangoCa, Ground::Xfs, Journal::Wal, &[Place::Fresh])
}

#[test]
fn django_ca_with_a_rollback_journal_survives_its_destruction_on_ext4() -> Tested {
    main_job(Product::DjangoCa, Ground::Ext4, Journal::Delete, &[Place::Original])
}

#[test]
fn django_ca_with_a_wal_survives_its_destruction_on_ext4() -> Tested {
    main_job(Product::DjangoCa, Ground::Ext4, Journal::Wal, &[Place::Fresh])
}

#[test]
fn django_ca_with_a_rollback_journal_survives_its_destruction_on_btrfs() -> Tested {
    main_job(Product::DjangoCa, Ground::Btrfs, Journal::Delete, &[Place::Original])
}

/// Goal: a set of several applications shows one instant, though they lie on volumes of different kinds.
/// Method: the holds of both overlap, and each CA alone is brought back as the main job promises.
#[test]
fn cfssl_and_django_ca_in_one_set_share_one_instant() -> Tested {
    let (Some(()), Some(())) = (ready(Product::Cfssl), ready(Product::DjangoCa)) else { return Ok(()) };
    let (_xfs, of_cfssl) = Ground::Xfs.make()?;
    let (_btrfs, of_django) = Ground::Btrfs.make()?;
    let mut world = World::new()?;
    let aside = world.aside().to_owned();
    let make = |product, folder: &std::path::Path, name: &str, owner| {
        Site::create(product, &folder.join(name), Journal::Wal, owner, &aside)
    };
    let (cfssl, mut cfssl_live) = make(Product::Cfssl, &of_cfssl, "cfssl", SERVICE)?;
    let (django, mut django_live) = make(Product::DjangoCa, &of_django, "django", 0)?;
    let sites = [("cfssl", &cfssl), ("django", &django)];
    for (id, site) in sites {
        world.holdfast.config().append(&site.writer(id, Settings::Discovered));
    }
    let loads = [cfssl_live.issue_loop("one")?, django_live.issue_loop("two")?];
    let document = back_up_under_load(&world, &loads, &[])?;
    check_document(&document, &[Ground::Xfs, Ground::Btrfs], &sites);
    let set = document["set"].as_str().expect("a set");
    drop((cfssl_live, django_live));
    let acks = loads.map(holdfast_tests::load::Load::kill);
    let holds = [world.hold(set, "cfssl")?, world.hold(set, "django")?];
    let last_taken = holds.iter().map(|hold| hold.taken_ns).max();
    let first_thaw = holds.iter().map(|hold| hold.thaw_ns).min();
    assert!(last_taken < first_thaw, "there was an instant at which both were held: {holds:?}");
    let skew = document["skew_ms"].as_f64().expect("a skew");
    let window = document["window_ms"].as_f64().expect("a window");
    assert!(skew < window, "skew {skew} ms in a window of {window} ms");

    sites.iter().for_each(|(_, site)| destroy(site));
    world.restore([])?;
    for (n, (_, site)) in sites.iter().enumerate() {
        proof::check_restored(site, true, &holds[n], &acks[n])?;
    }
    Ok(())
}

//! The main job on real input: a live certificate authority is backed up at one instant while it goes on issuing,
//! destroyed, and brought back with every certificate it had acknowledged before the freeze.

#[path = "main_job/authority.rs"]
mod authority;
#[path = "main_job/proof.rs"]
mod proof;
#[path = "main_job/run.rs"]
mod run;

use authority::{Product, Settings, Site};
use holdfast_tests::{
    FixtureError, Journal,
    require::{require_root_or_skip, require_tool, require_venv},
};
use run::{Ground, Made, World, back_up_under_load, below, check_document, destroy};

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
    let set = document["set"].as_str().expect("a set").to_owned();
    // The server dies first, as in a disaster: in the middle of whatever it was asked.
    drop(authority);
    let made = Made { hold: world.hold(&set, "ca")?, acks: load.kill(), set, document };
    destroy(&site);

    for place in places {
        let (restored, original) = match place {
            Place::Original => {
                world.restore([])?;
                (site.clone(), true)
            }
            Place::Fresh => (below(&site, &world.restore_to("fresh")?), false),
        };
        proof::check_restored(&restored, original, &made.hold, &made.acks)?;
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

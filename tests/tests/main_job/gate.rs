//! Promise P8: from registration until recovery is finished a live path can neither be opened nor created by the
//! application, whoever starts it; a crash at any point leaves "not started", never "started half recovered".

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use holdfast_tests::{
    FixtureError, Journal, cfssl::Cfssl, django_ca, holdfast::Running, load::Ack, tree::walk,
};

use super::authority::{Product, Settings, Site};
use super::proof::check_restored;
use super::run::{Ground, Hold, PATIENCE, World, assert_code, back_up_under_load};
use super::{SERVICE, Tested, ready};

/// How long an application that must not serve is given to do so.
const NEVER: Duration = Duration::from_secs(6);

/// A CA that was backed up under load and went on; its server is dead, its folder as it left it.
struct BackedUp {
    world: World,
    site: Site,
    hold: Hold,
    acks: Vec<Ack>,
}

fn backed_up(
    product: Product,
    ground: Ground,
    journal: Journal,
) -> Result<(BackedUp, holdfast_tests::volumes::LoopVolume), FixtureError> {
    let (volume, folder) = ground.make()?;
    let mut world = World::new()?;
    let owner = if product == Product::Cfssl { SERVICE } else { 0 };
    let (site, mut authority) = Site::create(product, &folder.join("ca"), journal, owner, world.aside())?;
    world.holdfast.config().append(&site.writer("ca", Settings::Discovered));
    let load = authority.issue_loop("load")?;
    let document = back_up_under_load(&world, [&load], &[])?;
    drop(authority);
    let acks = load.kill();
    let hold = world.hold(document["set"].as_str().expect("a set"), "ca")?;
    Ok((BackedUp { world, site, hold, acks }, volume))
}

impl BackedUp {
    /// Begins a restore over what is there, and waits until it has come to `point`.
    fn restore_until(&mut self, point: &str) -> Result<Running, FixtureError> {
        let holdfast = &mut self.world.holdfast;
        holdfast.set_environment("HOLDFAST_PAUSE_AT", point);
        let arguments = self.world.restore_arguments([]);
        let mut restoring = self.world.holdfast.spawn(arguments)?;
        let there = self.world.holdfast.runtime_dir().join(format!("paused-at-{point}"));
        let begun = Instant::now();
        while !there.exists() {
            if !restoring.is_running() || begun.elapsed() > PATIENCE {
                let ended = restoring.wait(Duration::ZERO);
                panic!("the restore never came to `{point}`: {ended:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // What is run from now on goes through.
        self.world.holdfast.set_environment("HOLDFAST_PAUSE_AT", "");
        fs::remove_file(there).expect("forget the pause");
        Ok(restoring)
    }

    /// Started by hand, the application must not serve, and must not make anything at its path.
    fn assert_cannot_serve(&self, when: &str) {
        let before = self.names();
        assert!(!self.serves(), "served {when}");
        assert_eq!(self.names(), before, "something was made {when}");
        assert!(!self.site.database().is_file(), "a database is at the live path {when}");
    }

    fn serves(&self) -> bool {
        match self.site.product {
            Product::Cfssl => Cfssl::open(&self.site.dir).starts_and_serves(),
            Product::DjangoCa => django_ca::serve(&self.site.dir, &self.site.serial, NEVER).is_ok(),
        }
    }

    fn names(&self) -> BTreeSet<PathBuf> {
        walk(&self.site.dir).into_iter().collect()
    }
}

fn nothing_serves_before_the_recovery_is_finished(
    product: Product,
    ground: Ground,
    journal: Journal,
) -> Tested {
    let Some(()) = ready(product) else { return Ok(()) };
    let (mut it, _volume) = backed_up(product, ground, journal)?;
    assert!(it.serves(), "before the restore the old CA serves");
    let mut restoring = it.restore_until("blocked")?;
    it.assert_cannot_serve("while its restore was under way");
    // The start gate of the application, meanwhile: it waits, or says no.
    match it.world.holdfast.run_within(Duration::from_secs(5), ["recover", "--writer", "ca"]) {
        Ok(run) => assert!(run.code.is_some_and(|code| code != 0), "the gate opened: {run:?}"),
        Err(FixtureError::Deadline { .. }) => {}
        Err(other) => return Err(other),
    }
    it.assert_cannot_serve("after its gate was asked");
    assert!(restoring.is_running());
    restoring.kill();
    it.assert_cannot_serve("after its restore was killed");

    let recovered = it.world.holdfast.run(["recover", "--writer", "ca", "--assume-stopped"])?;
    assert_code(&recovered, 0);
    check_restored(&it.site, true, &it.hold, &it.acks)?;
    assert!(it.serves(), "the recovered CA serves");
    // And the gate lets it pass from now on.
    assert_code(&it.world.holdfast.run(["recover", "--writer", "ca"])?, 0);
    Ok(())
}

#[test]
fn cfssl_cannot_serve_before_its_recovery_is_finished() -> Tested {
    nothing_serves_before_the_recovery_is_finished(Product::Cfssl, Ground::Xfs, Journal::Wal)
}

#[test]
fn django_ca_cannot_serve_before_its_recovery_is_finished() -> Tested {
    nothing_serves_before_the_recovery_is_finished(Product::DjangoCa, Ground::Ext4, Journal::Delete)
}

/// Goal: wherever a restore dies, the CA is either as it was, or down until `recover` has brought the set back whole.
/// Method: kill -9 at every named point; one CA, one set, one restore after the other.
#[test]
fn a_restore_killed_at_any_point_is_finished_by_recover() -> Tested {
    let Some(()) = ready(Product::Cfssl) else { return Ok(()) };
    let (mut it, _volume) = backed_up(Product::Cfssl, Ground::Btrfs, Journal::Delete)?;
    for point in ["staged", "registered", "blocked", "recovered", "published"] {
        let old = it.site.database().is_file().then(|| it.site.certificates());
        it.restore_until(point)?.kill();
        if it.serves() {
            // Then it is all old or all new: never a database that is neither.
            let found = it.site.certificates();
            match point {
                // Registered, but nothing was moved yet: whoever goes round the gate finds the old CA whole.
                "staged" | "registered" => assert_eq!(Some(found), old, "nothing had been moved yet"),
                "published" => super::run::check_cut(&it.site, &it.hold, &it.acks),
                other => panic!("served after its restore was killed at `{other}`"),
            }
        }
        assert_code(&it.world.holdfast.run(["recover", "--writer", "ca", "--assume-stopped"])?, 0);
        if point == "staged" {
            assert_eq!(Some(it.site.certificates()), old, "there was nothing to finish");
        } else {
            check_restored(&it.site, true, &it.hold, &it.acks)?;
        }
    }
    Ok(())
}

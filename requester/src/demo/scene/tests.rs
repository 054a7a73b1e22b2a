use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use super::*;
use crate::demo::testing::Threads;
use crate::session::events::now_ns;

#[test]
fn the_configuration_loads_and_every_secret_is_private_and_fits() {
    let scratch = tempfile::tempdir().unwrap();
    let scene = Scene::create(&scratch.path().join("scene")).unwrap();
    let places = scene.places();
    let config = crate::config::load(&places.configuration()).unwrap();
    let writers: Vec<_> = config.writers.iter().map(|w| (w.id.as_str(), w.writer_type.as_str())).collect();
    assert_eq!(
        writers,
        [("ca", "certificate-authority"), ("directory", "sqlite"), ("orchestrator", "files")]
    );
    assert_eq!(config.repository.location, places.repository().to_str().map(str::to_owned));
    for secret in [
        places.repository_password(),
        places.recovery_identity(),
        places.recovery_passphrase(),
        places.ca_key(),
        places.encryption_key(),
        places.configuration(),
    ] {
        let mode = std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", secret.display());
    }
    let passphrase = std::fs::read_to_string(places.recovery_passphrase()).unwrap();
    let identity =
        RecoveryIdentity::load(&places.recovery_identity(), passphrase.lines().next().unwrap()).unwrap();
    assert_eq!(config.recovery.recipients, [identity.recipient().to_string()]);
}

#[test]
fn a_folder_with_something_in_it_is_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::write(scratch.path().join("mine"), "").unwrap();
    assert!(matches!(Scene::create(scratch.path()), Err(SceneError::Occupied { .. })));
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    let odd = scratch.path().join("a*b");
    assert!(matches!(Scene::create(&odd), Err(SceneError::UnusableFolder { .. })));
}

/// Goal: a hold from outside is to the applications what any lock is: nothing is acknowledged meanwhile, no error, no loss.
#[test]
fn held_applications_wait_and_go_on_where_they_were() {
    let scratch = tempfile::tempdir().unwrap();
    let scene = Scene::create(&scratch.path().join("scene")).unwrap();
    let (places, threads) = (scene.places(), Threads::start(scene.places()));
    threads.wait_for(20);

    let give_up = AtomicBool::new(false);
    let hold = |database: PathBuf| {
        let database = holdfast_store_sqlite::Database::open(database).unwrap();
        database.hold(Instant::now() + Duration::from_secs(5), &give_up).unwrap()
    };
    let lock = File::open(places.orchestrator_lock()).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let holds = [hold(places.ca_database()), hold(places.directory_database())];
    let held = now_ns();
    // Long enough for several writes of each, were they not held.
    while now_ns() < held + 100_000_000 {
        std::thread::yield_now();
    }
    let freed = now_ns();
    for hold in holds {
        hold.release().unwrap();
    }
    drop(lock);

    let counts = APPLICATIONS.map(|name| ack::count(&places.acks(), name).unwrap());
    threads.wait_for(counts.into_iter().max().unwrap() + 10);
    threads.stop();
    for name in APPLICATIONS {
        let acks = ack::read(&places.acks(), name).unwrap();
        // One that was durable already may be acknowledged a moment after the hold was taken.
        let written = |ack: &&ack::Ack| ack.begun_ns > held && ack.acked_ns < freed;
        assert_eq!(acks.iter().filter(written).count(), 0, "{name} wrote while it was held");
        let numbers: Vec<_> = acks.iter().map(|ack| ack.n).collect();
        assert_eq!(numbers, (1..=acks.len() as u64).collect::<Vec<_>>(), "{name}");
        assert!(acks.last().unwrap().begun_ns > freed, "{name} did not go on");
    }
}

/// Method: stock `openssl` verifies a certificate with the CRL, and refuses one that the CRL names.
#[test]
fn openssl_accepts_what_the_ca_issued_and_refuses_what_it_revoked() {
    if Command::new("openssl").arg("version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "`openssl` must be installed in CI");
        eprintln!("skipped: `openssl` is not installed");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let scene = Scene::create(&scratch.path().join("scene")).unwrap();
    let (places, threads) = (scene.places(), Threads::start(scene.places()));
    threads.wait_for(25);
    threads.stop();
    let database = rusqlite::Connection::open(places.ca_database()).unwrap();
    let verify = |number: u64| {
        let pem: String = database
            .query_row("SELECT pem FROM certificates WHERE number = ?", [number as i64], |row| row.get(0))
            .unwrap();
        let leaf = scratch.path().join("leaf.pem");
        std::fs::write(&leaf, pem).unwrap();
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-crl_check", "-CAfile"]).arg(places.ca_certificate());
        let output = openssl.arg("-CRLfile").arg(places.ca_crl()).arg(leaf).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (accepted, said) = verify(20);
    assert!(accepted, "{said}");
    let (accepted, said) = verify(12);
    assert!(!accepted && said.contains("certificate revoked"), "{said}");
}

#[tokio::test]
async fn the_writers_accept_the_configuration_and_know_both_keys() {
    use holdfast_writer_api::{Registry, WriterConfig};
    use {holdfast_writer_certificate_authority as _, holdfast_writer_plain as _};

    let scratch = tempfile::tempdir().unwrap();
    let scene = Scene::create(&scratch.path().join("scene")).unwrap();
    let registry = Registry::linked().unwrap();
    let mut known = String::new();
    for entry in crate::config::load(&scene.places().configuration()).unwrap().writers {
        let descriptor = registry.get(&entry.writer_type).unwrap();
        let writer = (descriptor.build)(WriterConfig { id: entry.id, settings: entry.settings }).unwrap();
        known += &serde_json::to_string(&writer.identify().await.unwrap()).unwrap();
    }
    for key in [scene.places().ca_key(), scene.places().encryption_key()] {
        assert!(known.contains(key.to_str().unwrap()), "{}: {known}", key.display());
    }
}

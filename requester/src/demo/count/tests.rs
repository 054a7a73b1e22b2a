use super::*;
use crate::demo::Scene;
use crate::demo::testing::{Threads, copy, held_now};

/// What is lost, how, and what the failure must say of it.
type Loss<'a> = (&'static str, &'a dyn Fn(), &'static [&'static str]);

/// Applications that have written and ended, and a copy of their folders.
struct Played {
    _scratch: tempfile::TempDir,
    scene: Scene,
    copy: PathBuf,
    holds: BTreeMap<String, Hold>,
    acks: [usize; 3],
}

impl Played {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let scene = Scene::create(&scratch.path().join("scene")).unwrap();
        let threads = Threads::start(scene.places());
        // A CRL with something on it comes with the 25th certificate.
        threads.wait_for(60);
        threads.stop();
        let copied = scratch.path().join("copy");
        std::fs::create_dir(&copied).unwrap();
        copy(scene.places().root(), &copied);
        let acks = APPLICATIONS.map(|name| ack::read(&scene.places().acks(), name).unwrap().len());
        Self { _scratch: scratch, scene, copy: copied, holds: held_now(), acks }
    }

    fn put_back(&self) {
        self.scene.destroy().unwrap();
        copy(&self.copy, self.scene.places().root());
    }

    fn verify(&self) -> Result<Verdict, CountError> {
        verify(self.scene.places().root(), &self.scene.places().acks(), &self.holds)
    }

    fn sql(&self, database: &Path, statement: &str) {
        let connection = rusqlite::Connection::open(database).unwrap();
        // Damage keeps no rules.
        connection.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        assert!(connection.execute(statement, []).unwrap() > 0);
    }
}

#[test]
fn applications_put_back_whole_are_proved_and_any_loss_is_named() {
    let played = Played::new();
    let places = played.scene.places();
    played.put_back();
    let verdict = played.verify().unwrap();
    for (counted, acks) in verdict.applications.iter().zip(played.acks) {
        assert_eq!((counted.acknowledged, counted.found), (acks as u64, acks as u64));
        assert_eq!((counted.present, counted.later), (acks as u64, 0));
        for check in &counted.checks {
            assert!(check.good > 0, "{}: nothing was looked at for: {}", counted.application, check.what);
        }
    }
    assert_eq!(verdict.found(), verdict.acknowledged());

    let ca = || places.ca_database();
    let secret = |n: u64| places.secrets().join(format!("{n:06}.json"));
    let losses: [Loss<'_>; 12] = [
        (
            "a certificate",
            &|| played.sql(&ca(), "DELETE FROM certificates WHERE number = 60"),
            &["ca: 1 acknowledged writes are missing: "],
        ),
        (
            "another certificate in its place",
            &|| {
                played.sql(
                    &ca(),
                    "UPDATE certificates SET pem = (SELECT pem FROM certificates WHERE number = 8) WHERE number = 7",
                );
            },
            &["ca: 1 acknowledged writes came back changed", "another certificate's serial"],
        ),
        (
            "the CA's certificate",
            &|| {
                let other = Scene::create(&places.root().join("other")).unwrap();
                std::fs::copy(other.places().ca_certificate(), places.ca_certificate()).unwrap();
                std::fs::remove_dir_all(other.places().root()).unwrap();
            },
            &[
                "private keys belong to their certificate",
                "the CA's signature does not verify",
                "lists verify",
            ],
        ),
        (
            "a revocation on the CRL",
            &|| {
                played.sql(&ca(), "UPDATE certificates SET revoked = 1 WHERE number = 3");
            },
            &["ca: not so for 1 of", "revoked certificates are on the revocation list"],
        ),
        (
            "an entry",
            &|| played.sql(&places.directory_database(), "DELETE FROM entries WHERE number = 5"),
            &["directory: 1 acknowledged writes are missing: uid=u000005", "members and their groups exist"],
        ),
        (
            "a membership",
            &|| {
                played.sql(
                    &places.directory_database(),
                    "DELETE FROM members WHERE member_dn LIKE 'uid=u000006%'",
                )
            },
            &["entries are in the group they were added with: uid=u000006"],
        ),
        (
            "an attribute",
            &|| {
                played.sql(
                    &places.directory_database(),
                    "UPDATE entries SET attributes = '{}' WHERE number = 6",
                );
            },
            &["directory: 1 acknowledged writes came back changed: uid=u000006"],
        ),
        (
            "a certificate that an entry names",
            &|| {
                played.sql(
                    &places.directory_database(),
                    r#"UPDATE entries SET attributes = '{"certificateSerial":"ff"}' WHERE number = 6"#,
                );
            },
            &["certificates named by an entry are in the CA's database"],
        ),
        (
            "a secret",
            &|| std::fs::remove_file(secret(10)).unwrap(),
            &[
                "orchestrator: 1 acknowledged writes are missing: 000010.json",
                "secrets named by a workflow exist",
            ],
        ),
        (
            "a secret under another's name",
            &|| assert!(std::fs::copy(secret(2), secret(3)).unwrap() > 0),
            &[
                "orchestrator: 1 acknowledged writes came back changed",
                "secrets decrypt under the key: 000003.json",
            ],
        ),
        (
            "a workflow",
            &|| std::fs::remove_file(places.workflows().join("000010.json")).unwrap(),
            &["orchestrator: 1 acknowledged writes came back changed: 000010.json"],
        ),
        (
            "the encryption key",
            &|| {
                use base64ct::Encoding;
                std::fs::write(places.encryption_key(), base64ct::Base64::encode_string(&[7; 32])).unwrap();
            },
            &["secrets decrypt under the key"],
        ),
    ];
    for (what, lose, expected) in losses {
        played.put_back();
        lose();
        let error = played.verify().expect_err(what);
        assert!(matches!(error, CountError::Disproved { .. }), "{what}: {error:?}");
        for part in expected {
            assert!(error.to_string().contains(part), "{what}: expected `{part}` in: {error}");
        }
    }

    for part in [places.ca_key(), places.ca_crl(), places.encryption_key(), places.directory_database()] {
        played.put_back();
        std::fs::remove_file(&part).unwrap();
        let error = played.verify().unwrap_err();
        assert!(
            matches!(&error, CountError::Unreadable { path, .. } if *path == part),
            "{}: {error:?}",
            part.display()
        );
    }
    assert!(!places.directory_database().exists(), "counting makes no database where there is none");
}

#[test]
fn a_set_that_has_writes_of_after_its_hold_and_a_proof_of_nothing_fail() {
    let mut played = Played::new();
    let acks = ack::read(&played.scene.places().acks(), CA).unwrap();
    let failures = |played: &Played| played.verify().unwrap_err().to_string();
    let mut hold = |hold: Hold| {
        played.holds.insert(CA.to_owned(), hold);
        failures(&played)
    };

    let at = acks[9].acked_ns + 1;
    let told = hold(Hold { called_ns: at, taken_ns: at, released_ns: at });
    assert!(told.contains("writes begun after the thaw are in the set: "), "{told}");
    let told = hold(Hold { called_ns: at, taken_ns: at, released_ns: u64::MAX });
    assert!(told.contains("writes begun while it was held are in the set: "), "{told}");
    let told = hold(Hold { called_ns: 0, taken_ns: u64::MAX, released_ns: u64::MAX });
    assert!(told.contains("ca: nothing was acknowledged before its freeze"), "{told}");
    let told = hold(Hold { called_ns: 2, taken_ns: 1, released_ns: 3 });
    assert!(told.contains("the hold of `ca` is said to end before it begins"), "{told}");
    played.holds.remove(CA);
    assert!(matches!(played.verify(), Err(CountError::NoHold { application: CA })));
}

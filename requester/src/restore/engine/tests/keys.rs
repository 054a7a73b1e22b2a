//! Keys on their way back (promise P9).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use holdfast_store_keys::{RecoveryIdentity, key_fingerprint, seal};
use holdfast_writer_api::document::KeyRecord;
use holdfast_writer_api::{ComponentRef, KeySeal};

use super::support::{App, Bench};
use crate::failure::{Exit, NOTHING_CHANGED};
use crate::restore::engine::{KeySource, RestoreOptions};

struct Sealed {
    bench: Bench,
    identity: Arc<RecoveryIdentity>,
    plain: String,
}

/// An application with a key at `name`, which is in the set sealed.
fn sealed(name: &str) -> Sealed {
    let identity = Arc::new(RecoveryIdentity::generate());
    let plain = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let (key, recipient) = (plain.clone(), identity.recipient());
    let bench = Bench::with(|root| {
        let mut app = App::new(root, "app");
        app.write(name, &key);
        fs::set_permissions(app.live.join(name), fs::Permissions::from_mode(0o600)).unwrap();
        let record = KeyRecord {
            component: ComponentRef::from_full_name("keys"),
            path: app.live.join(name),
            purpose: "CA key".into(),
            fingerprint: key_fingerprint(key.as_bytes(), None).unwrap(),
            proof: KeySeal::NotProved { why: "a test".into() },
            stored: "/holdfast/keys/app/0.age".into(),
            mode: 0o640,
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        app.keys = vec![(record, seal(key.as_bytes(), &[recipient]).unwrap())];
        vec![app]
    });
    Sealed { bench, identity, plain }
}

impl Sealed {
    fn key(&self) -> &Path {
        &self.bench.app().keys[0].0.path
    }
    fn options(&self) -> RestoreOptions {
        self.bench.options()
    }
    fn with_identity(&self) -> RestoreOptions {
        RestoreOptions { identity: Some(self.identity.clone()), ..self.options() }
    }
}

#[tokio::test]
async fn a_key_that_is_there_and_fits_is_left_alone_without_an_identity() {
    let case = sealed("key.pem");
    let report = case.bench.restore(case.options()).await.unwrap();
    assert_eq!(report.writers[0].keys[0].1, KeySource::Present);
    assert_eq!(fs::read_to_string(case.key()).unwrap(), case.plain);
    assert!(case.bench.app().is_restored());
}

#[tokio::test]
async fn a_missing_key_is_refused_with_its_own_code_and_opened_with_the_identity() {
    let case = sealed("key.pem");
    fs::remove_file(case.key()).unwrap();
    let refused = case.bench.restore(case.options()).await.unwrap_err();
    assert_eq!((refused.exit, refused.state.as_str()), (Exit::Key, NOTHING_CHANGED));
    assert!(refused.help.unwrap().contains(&case.identity.recipient().to_string()));
    let other = RestoreOptions { identity: Some(Arc::new(RecoveryIdentity::generate())), ..case.options() };
    assert_eq!(case.bench.restore(other).await.unwrap_err().exit, Exit::Key);
    assert!(case.bench.app().is_changed() && case.bench.is_clean());
    let report = case.bench.restore(case.with_identity()).await.unwrap();
    assert_eq!(report.writers[0].keys[0].1, KeySource::Opened);
    assert_eq!(fs::read_to_string(case.key()).unwrap(), case.plain);
    assert_eq!(fs::metadata(case.key()).unwrap().permissions().mode() & 0o7777, 0o640);
    assert!(case.bench.is_clean());
}

#[tokio::test]
async fn without_keys_goes_on_and_says_what_is_missing() {
    let case = sealed("key.pem");
    fs::remove_file(case.key()).unwrap();
    let report = case.bench.restore(RestoreOptions { without_keys: true, ..case.options() }).await.unwrap();
    assert!(report.needs[0].contains("recovery identity"), "{:?}", report.needs);
    assert!(!case.key().exists() && case.bench.app().is_restored());
}

#[tokio::test]
async fn a_key_inside_a_folder_that_is_replaced_is_taken_over_or_opened_into_the_new_one() {
    let case = sealed("certs/key.pem");
    let report = case.bench.restore(case.options()).await.unwrap();
    assert_eq!(report.writers[0].keys[0].1, KeySource::CarriedOver);
    assert_eq!(fs::read_to_string(case.key()).unwrap(), case.plain);
    assert_eq!(fs::metadata(case.key()).unwrap().permissions().mode() & 0o7777, 0o600, "as it was there");
    assert!(case.bench.app().is_restored());
    fs::remove_file(case.key()).unwrap();
    let report = case.bench.restore(case.with_identity()).await.unwrap();
    assert_eq!(report.writers[0].keys[0].1, KeySource::Opened);
    assert_eq!(fs::read_to_string(case.key()).unwrap(), case.plain);
    assert!(case.bench.is_clean());
}

#[tokio::test]
async fn another_key_at_the_target_is_never_removed() {
    for name in ["key.pem", "certs/key.pem"] {
        let case = sealed(name);
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        fs::write(case.key(), &other).unwrap();
        assert_eq!(case.bench.restore(case.options()).await.unwrap_err().exit, Exit::Key);
        let report = case.bench.restore(case.with_identity()).await.unwrap();
        assert_eq!(fs::read_to_string(case.key()).unwrap(), case.plain);
        let kept = &report.writers[0].old_data;
        let found = kept.iter().find_map(|path| {
            let inside = if path.is_dir() { path.join("key.pem") } else { path.clone() };
            fs::read_to_string(inside).ok().filter(|text| *text == other)
        });
        assert!(found.is_some(), "{name}: {kept:?}");
    }
}

#[tokio::test]
async fn a_link_in_the_stored_tree_does_not_lead_a_key_out_of_the_staging() {
    // The key's folder is a link now; the set's own folder is what counts.
    let case = sealed("certs/deep/key.pem");
    let outside = case.bench.root.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::remove_dir_all(case.bench.app().live.join("certs/deep")).unwrap();
    std::os::unix::fs::symlink(&outside, case.bench.app().live.join("certs/deep")).unwrap();
    case.bench.restore(case.with_identity()).await.unwrap();
    assert_eq!(fs::read_dir(outside).unwrap().count(), 0);
    assert_eq!(fs::read_to_string(case.key()).unwrap(), case.plain);
}

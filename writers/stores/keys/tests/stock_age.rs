//! What is sealed here opens with stock `age`, without anything of ours; and the other way round.

mod common;

use std::fs;

use common::{available, run};
use holdfast_store_keys::{Recipient, RecoveryIdentity, open, seal};

const PASSPHRASE: &str = "lantern gravel oboe thirty maple quiet";

/// `age` asks for a passphrase on its terminal only: gives it one and answers the first prompt.
const ANSWER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/answer_passphrase.py");

#[test]
fn a_sealed_key_opens_with_stock_age_and_the_identity_in_the_clear() {
    if !available("age") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (RecoveryIdentity::generate(), RecoveryIdentity::generate());
    let key: Vec<u8> = (0..200_000_u32).map(|index| index.to_le_bytes()[0]).collect();
    fs::write(folder.path().join("sealed.age"), seal(&key, &[one.recipient(), two.recipient()]).unwrap())
        .unwrap();
    for identity in [one, two] {
        fs::write(folder.path().join("identity"), identity.to_text().as_bytes()).unwrap();
        assert_eq!(run(folder.path(), "age -d -i identity sealed.age"), key);
    }
}

#[test]
fn what_stock_age_sealed_opens_here() {
    if !available("age") || !available("age-keygen") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), "age-keygen -o identity 2>/dev/null");
    let identity =
        RecoveryIdentity::from_text(&fs::read_to_string(folder.path().join("identity")).unwrap()).unwrap();
    let public = String::from_utf8(run(folder.path(), "age-keygen -y identity")).unwrap();
    assert_eq!(Recipient::parse(&public).unwrap(), identity.recipient());
    let sealed = run(folder.path(), &format!("printf secret | age -r {public}"));
    assert_eq!(open(&sealed, &identity).unwrap().as_slice(), b"secret");
}

#[test]
fn the_identity_file_opens_with_stock_age_and_the_passphrase_to_a_usable_identity_file() {
    if !available("age") || !available("python3") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let identity = RecoveryIdentity::generate();
    identity.save_encrypted(&folder.path().join("recovery.age"), PASSPHRASE).unwrap();
    fs::write(folder.path().join("passphrase"), PASSPHRASE).unwrap();
    let age = |arguments: &str| {
        run(folder.path(), &format!("python3 '{ANSWER}' passphrase age {arguments}"));
    };
    age("-d -o identity recovery.age");
    assert_eq!(fs::read_to_string(folder.path().join("identity")).unwrap(), *identity.to_text());
    fs::write(folder.path().join("sealed.age"), seal(b"key", &[identity.recipient()]).unwrap()).unwrap();
    assert_eq!(run(folder.path(), "age -d -i identity sealed.age"), b"key");
    // Stock `age` also takes the encrypted file itself as an identity.
    age("-d -i recovery.age -o opened sealed.age");
    assert_eq!(fs::read(folder.path().join("opened")).unwrap(), b"key");
    let loaded = RecoveryIdentity::load(&folder.path().join("recovery.age"), PASSPHRASE).unwrap();
    assert_eq!(loaded.recipient(), identity.recipient());
}

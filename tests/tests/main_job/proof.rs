//! What a restored certificate authority must be able to do: be whole, be its owner's, and go on.

use holdfast_tests::{FixtureError, openssl};

use super::authority::{Authority, Product, Site, owners};
use super::run::{Hold, check_cut};
use holdfast_tests::load::Ack;

/// Everything the main job promises of a restored place; `original`: it lies where it lay.
pub fn check_restored(site: &Site, original: bool, hold: &Hold, acks: &[Ack]) -> Result<(), FixtureError> {
    check_owners(site);
    check_cut(site, hold, acks);
    assert_eq!(site.integrity(), "ok");
    let restored = site.certificates();
    openssl::verify_all(&site.ca, restored.values().map(String::as_str))?;
    if !original && site.product == Product::Cfssl {
        // What an administrator does in another place: its configuration names the database by its whole path.
        holdfast_tests::cfssl::Cfssl::open(&site.dir).repoint()?;
    }
    match site.open()? {
        Authority::Cfssl(cfssl) => {
            let new = cfssl.issue("after.example")?;
            openssl::verify(&site.ca, &new.pem)?;
            let old = restored.keys().next().expect("a restored certificate");
            for serial in [&new.serial, old] {
                assert_eq!(cfssl.status_of(serial)?.as_deref(), Some("good"));
                cfssl.revoke(serial)?;
                assert_eq!(cfssl.status_of(serial)?.as_deref(), Some("revoked"));
            }
        }
        Authority::DjangoCa(django) => {
            assert_eq!(django.serial(), site.serial);
            let mut listed = django.list_certs()?;
            listed.sort();
            // Those it made for itself it does not list.
            let mut kept: Vec<_> =
                restored.keys().filter(|serial| !site.own.contains_key(*serial)).cloned().collect();
            kept.sort();
            assert_eq!(listed, kept, "django-ca lists what the database holds");
            let crl = openssl::crl(&site.ca, &django.dump_crl()?)?;
            assert!(crl.number > Some(site.crl_number), "{:?} after {}", crl.number, site.crl_number);
            let signed = django.sign_csr("after.example")?;
            openssl::verify(&site.ca, &signed)?;
        }
    }
    Ok(())
}

/// Owner, group and mode of every file and folder are what they were; keys are 0600.
fn check_owners(site: &Site) {
    let found = owners(&site.dir);
    for (path, expected) in &site.owners {
        let shown = site.dir.join(path);
        let seen = found.get(path).unwrap_or_else(|| panic!("{} was not restored", shown.display()));
        assert_eq!(seen, expected, "owner, group and mode of {}", shown.display());
    }
    for file in site.secrets.iter().map(|secret| &secret.file) {
        let name = file.file_name().expect("a name");
        let key = found.iter().find(|(path, _)| path.file_name() == Some(name));
        let (_, (_, _, mode)) = key.unwrap_or_else(|| panic!("{} was not restored", file.display()));
        assert_eq!(*mode, 0o600, "mode of {}", file.display());
    }
}

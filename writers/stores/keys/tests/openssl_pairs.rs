//! Keys and certificates as `openssl` (and `cfssl`, where it is installed) really write them.

mod common;

use std::fs;
use std::path::Path;

use common::{available, run};
use holdfast_store_keys::{
    KeyAlgorithm, KeyError, contains_private_key, find_private_key, key_fingerprint, prove_pair,
};

/// A key in `key.pem` (PKCS#8) and its certificate in `cert.pem`.
fn pair(folder: &Path, genpkey: &str) {
    run(
        folder,
        &format!(
            "openssl genpkey {genpkey} -out key.pem 2>/dev/null
             openssl req -x509 -new -key key.pem -subj /CN=ca -days 3650 -out cert.pem"
        ),
    );
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    fs::read(folder.join(name)).unwrap()
}

/// Every form that openssl writes for one key is proved, detected, and has the fingerprint that openssl computes.
fn every_form_is_proved(genpkey: &str, traditional: Option<&str>, algorithm: KeyAlgorithm) {
    if !available("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pair(folder, genpkey);
    let mut forms = vec!["key.pem", "key.der"];
    run(folder, "openssl pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der");
    if let Some(command) = traditional {
        run(
            folder,
            &format!(
                "openssl {command} -in key.pem -out old.pem; openssl {command} -in key.pem -outform DER -out old.der"
            ),
        );
        run(folder, "(echo some text; cat cert.pem old.pem) | sed 's/$/\\r/' > bundle.pem");
        forms.extend(["old.pem", "old.der", "bundle.pem"]);
    }
    let expected = run(folder, "openssl pkey -in key.pem -pubout -outform DER | sha256sum | cut -d' ' -f1");
    let expected = format!("SHA256:{}", String::from_utf8(expected).unwrap().trim());
    run(
        folder,
        "openssl x509 -in cert.pem -outform DER -out cert.der; openssl x509 -in cert.pem -text -out text.pem",
    );
    for form in forms {
        let key = read(folder, form);
        assert!(contains_private_key(&key), "{form}");
        assert_eq!(key_fingerprint(&key, None).as_ref(), Ok(&expected), "{form}");
        let proof = prove_pair(&key, &read(folder, "cert.pem"), None)
            .unwrap_or_else(|error| panic!("{form}: {error}"));
        assert_eq!((proof.algorithm, &proof.fingerprint), (algorithm, &expected), "{form}");
    }
    for certificate in ["cert.der", "text.pem"] {
        assert!(
            prove_pair(&read(folder, "key.pem"), &read(folder, certificate), None).is_ok(),
            "{certificate}"
        );
        assert!(!contains_private_key(&read(folder, certificate)), "{certificate}");
    }
    assert!(!contains_private_key(&run(folder, "openssl pkey -in key.pem -pubout -outform DER")));

    // Another key of the same kind.
    run(folder, "mkdir other");
    let other = folder.join("other");
    pair(&other, genpkey);
    let result = prove_pair(&read(&other, "key.pem"), &read(folder, "cert.pem"), None);
    assert!(matches!(result, Err(KeyError::Mismatch { certificate, .. }) if certificate == expected));
    // A bundle in which the second certificate is the one.
    let bundle = [read(&other, "cert.pem"), read(folder, "cert.pem")].concat();
    assert!(prove_pair(&read(folder, "key.pem"), &bundle, None).is_ok());
}

#[test]
fn rsa_2048_is_proved_in_every_form() {
    every_form_is_proved(
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        Some("rsa -traditional"),
        KeyAlgorithm::Rsa { bits: 2048 },
    );
}

#[test]
fn rsa_3000_with_exponent_3_is_proved_in_every_form() {
    every_form_is_proved(
        "-algorithm RSA -pkeyopt rsa_keygen_bits:3000 -pkeyopt rsa_keygen_pubexp:3",
        Some("rsa -traditional"),
        KeyAlgorithm::Rsa { bits: 3000 },
    );
}

#[test]
fn p256_is_proved_in_every_form() {
    every_form_is_proved("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", Some("ec"), KeyAlgorithm::EcP256);
}

#[test]
fn p384_is_proved_in_every_form() {
    every_form_is_proved("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", Some("ec"), KeyAlgorithm::EcP384);
}

#[test]
fn p521_is_proved_in_every_form() {
    every_form_is_proved("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", Some("ec"), KeyAlgorithm::EcP521);
}

#[test]
fn ed25519_is_proved_in_every_form() {
    every_form_is_proved("-algorithm ED25519", None, KeyAlgorithm::Ed25519);
}

/// openssl takes its time to find such primes, so the pair is a fixture.
#[test]
fn rsa_8192_is_proved() {
    let key = include_bytes!("fixtures/rsa-8192.key.pem");
    let proof = prove_pair(key, include_bytes!("fixtures/rsa-8192.cert.pem"), None).unwrap();
    assert_eq!(proof.algorithm, KeyAlgorithm::Rsa { bits: 8192 });
}

#[test]
fn the_parameters_block_that_openssl_writes_first_does_not_disturb() {
    if !available("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    run(
        folder.path(),
        "openssl ecparam -name secp384r1 -genkey -out key.pem; openssl req -x509 -new -key key.pem -subj /CN=ca -out cert.pem",
    );
    let key = read(folder.path(), "key.pem");
    assert!(key.starts_with(b"-----BEGIN EC PARAMETERS-----"));
    assert_eq!(
        prove_pair(&key, &read(folder.path(), "cert.pem"), None).unwrap().algorithm,
        KeyAlgorithm::EcP384
    );
}

#[test]
fn a_compressed_point_in_the_certificate_is_the_same_key() {
    if !available("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    run(
        folder.path(),
        "openssl ecparam -name prime256v1 -genkey -noout -conv_form compressed -out key.pem; openssl req -x509 -new -key key.pem -subj /CN=ca -out cert.pem",
    );
    assert!(prove_pair(&read(folder.path(), "key.pem"), &read(folder.path(), "cert.pem"), None).is_ok());
}

#[test]
fn encrypted_keys_need_their_passphrase_and_say_so() {
    if !available("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pair(folder, "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    let certificate = read(folder, "cert.pem");
    for options in
        ["-v2 aes-256-cbc", "-v2 aes128 -v2prf hmacWithSHA512 -iter 5000", "-scrypt", "-outform DER"]
    {
        run(folder, &format!("openssl pkcs8 -topk8 -in key.pem {options} -passout pass:geheim -out enc.pem"));
        let key = read(folder, "enc.pem");
        assert!(contains_private_key(&key), "{options}");
        let without = prove_pair(&key, &certificate, None).unwrap_err();
        assert_eq!(without, KeyError::Encrypted, "{options}");
        assert!(without.is_unproven());
        assert_eq!(
            prove_pair(&key, &certificate, Some(b"wrong")),
            Err(KeyError::WrongPassphrase),
            "{options}"
        );
        assert!(prove_pair(&key, &certificate, Some(b"geheim")).is_ok(), "{options}");
    }
    run(folder, "openssl ec -in key.pem -aes256 -passout pass:geheim -out enc.pem");
    let key = read(folder, "enc.pem");
    assert_eq!(prove_pair(&key, &certificate, None), Err(KeyError::Encrypted));
    let error = prove_pair(&key, &certificate, Some(b"geheim")).unwrap_err();
    assert!(matches!(&error, KeyError::UnsupportedEncryption { .. }) && error.is_unproven());
    run(
        folder,
        "openssl pkcs8 -topk8 -in key.pem -v1 PBE-SHA1-3DES -passout pass:geheim -outform DER -out enc.der",
    );
    assert!(contains_private_key(&read(folder, "enc.der")));
}

#[test]
fn a_key_file_cannot_demand_unbounded_work() {
    if !available("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pair(folder, "-algorithm ED25519");
    run(folder, "openssl pkcs8 -topk8 -in key.pem -iter 4096 -outform DER -passout pass:geheim -out enc.der");
    let mut key = read(folder, "enc.der");
    let iterations = key.windows(4).position(|window| window == [0x02, 0x02, 0x10, 0x00]).unwrap();
    // 4096 rounds become 2^31 - 1; every length around grows by two.
    key.splice(iterations..iterations + 4, [0x02, 0x04, 0x7f, 0xff, 0xff, 0xff]);
    for at in 1..iterations {
        let length = usize::from(key[at]);
        let encloses = key[at - 1] == 0x30 && (length < 0x80) && at + length >= iterations + 3;
        if encloses {
            key[at] += 2;
        }
    }
    if key[1] == 0x81 {
        key[2] += 2;
    }
    let error = prove_pair(&key, &read(folder, "cert.pem"), Some(b"geheim")).unwrap_err();
    assert!(
        matches!(&error, KeyError::UnsupportedEncryption { scheme } if scheme.contains("2147483647")),
        "{error:?}"
    );
}

#[test]
fn unsupported_kinds_are_unproven_and_not_wrong() {
    if !available("openssl") {
        return;
    }
    for options in [
        "-algorithm ED448",
        "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
        "-algorithm RSA -pkeyopt rsa_keygen_bits:1024",
    ] {
        let folder = tempfile::tempdir().unwrap();
        pair(folder.path(), options);
        let key = read(folder.path(), "key.pem");
        assert!(contains_private_key(&key));
        let error = prove_pair(&key, &read(folder.path(), "cert.pem"), None).unwrap_err();
        assert!(matches!(error, KeyError::Unsupported { .. }) && error.is_unproven(), "{options}: {error:?}");
    }
}

#[test]
fn no_flipped_bit_of_a_key_goes_unnoticed_or_panics() {
    if !available("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for options in [
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "-algorithm ED25519",
    ] {
        pair(folder, options);
        run(folder, "openssl pkcs8 -topk8 -nocrypt -in key.pem -outform DER -out key.der");
        let (key, certificate) = (read(folder, "key.der"), read(folder, "cert.pem"));
        // RSA signs slowly enough that every 41st byte must do.
        let step = if key.len() > 1000 { 41 } else { 1 };
        for at in (0..key.len()).step_by(step) {
            let mut changed = key.clone();
            changed[at] ^= 0x04;
            assert!(prove_pair(&changed, &certificate, None).is_err(), "{options}: byte {at}");
            assert!(prove_pair(&key[..at], &certificate, None).is_err());
        }
    }
}

#[test]
fn files_without_the_expected_content_have_their_own_errors() {
    if !available("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pair(folder, "-algorithm ED25519");
    let (key, certificate) = (read(folder, "key.pem"), read(folder, "cert.pem"));
    assert_eq!(prove_pair(&certificate, &certificate, None), Err(KeyError::NoPrivateKey));
    assert_eq!(prove_pair(&key, &key, None), Err(KeyError::NoCertificate));
    assert_eq!(prove_pair(b"", &certificate, None), Err(KeyError::NoPrivateKey));
    assert_eq!(prove_pair(&key, b"", None), Err(KeyError::NoCertificate));
    assert_eq!(
        prove_pair(&[key.clone(), key.clone()].concat(), &certificate, None),
        Err(KeyError::SeveralKeys { count: 2 })
    );
    assert!(matches!(prove_pair(&key, &certificate[..200], None), Err(KeyError::NoCertificate)));
    assert!(matches!(prove_pair(&vec![b'x'; 2 << 20], &certificate, None), Err(KeyError::TooLarge { .. })));
}

#[test]
fn containers_that_may_hold_a_key_count_as_keys() {
    if !available("openssl") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    pair(folder, "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    run(folder, "openssl pkcs12 -export -inkey key.pem -in cert.pem -passout pass:x -out all.p12");
    assert!(find_private_key(&read(folder, "all.p12")).is_some());
    run(
        folder,
        "openssl x509 -in cert.pem -outform DER -out cert.der; openssl crl2pkcs7 -nocrl -certfile cert.pem -outform DER -out certs.p7b",
    );
    assert_eq!(find_private_key(&read(folder, "cert.der")), None);
    assert_eq!(find_private_key(&read(folder, "certs.p7b")), None);
}

#[test]
fn a_cfssl_ca_is_proved() {
    if !available("cfssl") || !available("cfssljson") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (algorithm, size) in [("ecdsa", 256), ("ecdsa", 521), ("rsa", 2048)] {
        let request = format!(r#"{{"CN":"ca","key":{{"algo":"{algorithm}","size":{size}}}}}"#);
        fs::write(folder.path().join("ca-csr.json"), request).unwrap();
        run(folder.path(), "cfssl gencert -initca ca-csr.json 2>/dev/null | cfssljson -bare ca");
        let result = prove_pair(&read(folder.path(), "ca-key.pem"), &read(folder.path(), "ca.pem"), None);
        assert!(result.is_ok(), "{algorithm} {size}: {result:?}");
    }
}

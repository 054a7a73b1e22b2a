//! Whether a writer sealed what it declared (promise P9): the writer may be anybody's program.

use std::path::Path;

use holdfast_writer_api::{Cause, Component, SealedKey, WriterError};

/// How every `age` file begins, and how its text form does.
const AGE: [&[u8]; 2] = [b"age-encryption.org/v1\n", b"-----BEGIN AGE ENCRYPTED FILE-----"];

/// Checks that each key of `chosen` came back exactly once, in a sealed form, and nothing else did.
///
/// # Errors
/// [`WriterError::Key`], naming the key's path: no set is made.
pub fn check<'c>(
    writer: &str,
    chosen: impl Iterator<Item = &'c Component>,
    sealed: &[SealedKey],
) -> Result<(), WriterError> {
    let fail = |path: &Path, why: &str| {
        let cause = Cause::new(format!("{} {why}", path.display()));
        Err(WriterError::Key { writer: writer.to_owned(), cause })
    };
    let mut left: Vec<_> = sealed.iter().collect();
    for component in chosen {
        for key in &component.keys {
            let of_key = |sealed: &&SealedKey| component.is(&sealed.component) && sealed.path == key.path;
            match left.iter().position(of_key) {
                None => return fail(&key.path, "is declared, and was not sealed"),
                Some(at) if !AGE.iter().any(|head| left[at].sealed.starts_with(head)) => {
                    return fail(&key.path, "came back, and is not sealed: it is no `age` file");
                }
                Some(at) => drop(left.remove(at)),
            }
        }
    }
    match left.first() {
        None => Ok(()),
        Some(unknown) => fail(&unknown.path, "was sealed, and is not declared or was sealed before"),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_writer_api::{ComponentKind, KeyFile, KeySeal, chain};

    use super::*;

    fn component(keys: &[&str]) -> Component {
        let key = |path: &&str| KeyFile { path: path.into(), purpose: "CA key".into(), certificate: None };
        Component {
            kind: ComponentKind::Keys,
            path: String::new(),
            name: "keys".into(),
            caption: String::new(),
            selectable: true,
            selectable_for_restore: false,
            held: false,
            dependencies: vec![],
            files: vec![],
            exclude: vec![],
            keys: keys.iter().map(key).collect(),
        }
    }

    fn sealed(path: &str, content: &[u8]) -> SealedKey {
        SealedKey {
            component: component(&[]).reference(),
            path: path.into(),
            purpose: "CA key".into(),
            fingerprint: String::new(),
            proof: KeySeal::NotProved { why: "a test".into() },
            mode: 0o600,
            uid: 0,
            gid: 0,
            sealed: content.to_vec(),
        }
    }

    #[test]
    fn every_declared_key_comes_back_once_and_sealed_and_nothing_else_does() {
        let good = b"age-encryption.org/v1\n-> X25519 x\n";
        let (one, two) = (sealed("/one", good), sealed("/two", good));
        let check = |keys: &[&SealedKey]| {
            let keys: Vec<_> = keys.iter().map(|key| (*key).clone()).collect();
            check("w", [&component(&["/one", "/two"])].into_iter(), &keys).map_err(|error| chain(&error))
        };
        assert_eq!(check(&[&two, &one]), Ok(()));
        let plain = sealed("/two", b"-----BEGIN PRIVATE KEY-----\nsecret");
        let mut elsewhere = two.clone();
        elsewhere.component.name = "other".into();
        for (keys, expected) in [
            (vec![&one], "/two is declared, and was not sealed"),
            (vec![&one, &elsewhere], "/two is declared, and was not sealed"),
            (vec![&one, &plain], "/two came back, and is not sealed"),
            (vec![&one, &two, &two], "/two was sealed, and is not declared or was sealed before"),
        ] {
            let refused = check(&keys).unwrap_err();
            assert!(refused.contains(expected) && !refused.contains("secret"), "{refused}");
        }
    }
}

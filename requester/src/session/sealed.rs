//! What writers give back when their keys are to be sealed: exactly the declared keys, and sealed (promise P9).
//!
//! Owns: that no set lacks a key that it declares, and that no plain key gets into a set because a writer forgot to seal
//! it. Leaves to others: sealing and proving (the writers), what a set says of its keys (`super::record`).

use std::path::Path;

use holdfast_writer_api::{Cause, Component, ComponentRef, SealedKey, WriterError};

/// How every binary `age` file begins.
const AGE: &[u8] = b"age-encryption.org/v1\n";

/// Checks what `writer` gave back for the keys of `components`.
///
/// # Errors
/// [`WriterError::Key`], with the key that is missing, was not declared, or is not sealed.
pub fn check<'c>(
    writer: &str,
    components: impl Iterator<Item = &'c Component>,
    sealed: &[SealedKey],
) -> Result<(), WriterError> {
    let wrong = |why: String| Err(WriterError::Key { writer: writer.to_owned(), cause: Cause::new(why) });
    let mut declared: Vec<(ComponentRef, &Path)> = Vec::new();
    for component in components {
        declared.extend(component.keys.iter().map(|key| (component.reference(), key.path.as_path())));
    }
    for key in sealed {
        let path = key.path.display();
        let Some(at) = declared.iter().position(|one| *one == (key.component.clone(), key.path.as_path()))
        else {
            return wrong(format!(
                "it sealed {path} of `{}`, which is not asked for, or twice",
                key.component
            ));
        };
        declared.swap_remove(at);
        if !key.sealed.starts_with(AGE) {
            return wrong(format!("what it gave back for {path} is not sealed: it is no age file"));
        }
    }
    match declared.first() {
        Some((_, path)) => wrong(format!("it did not seal {}", path.display())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_writer_api::{ComponentKind, KeyFile, KeySeal, chain};

    use super::*;

    fn component(name: &str, keys: &[&str]) -> Component {
        let key = |path: &&str| KeyFile { path: path.into(), purpose: "key".into(), certificate: None };
        Component { keys: keys.iter().map(key).collect(), ..Component::new(ComponentKind::Keys, name) }
    }

    fn sealed(component: &str, path: &str, content: &[u8]) -> SealedKey {
        SealedKey {
            component: ComponentRef::from_full_name(component),
            path: path.into(),
            purpose: "key".into(),
            fingerprint: "SHA256:x".into(),
            proof: KeySeal::NotProved { why: "a test".into() },
            mode: 0o600,
            uid: 0,
            gid: 0,
            sealed: content.to_vec(),
        }
    }

    #[test]
    fn only_exactly_the_declared_keys_sealed_will_do() {
        let components = [component("a", &["/a", "/b"]), component("b", &["/b"])];
        let age = [AGE, b"..."].concat();
        let all = || vec![sealed("a", "/a", &age), sealed("b", "/b", &age), sealed("a", "/b", &age)];
        let complaint = |keys: &[SealedKey]| match check("w", components.iter(), keys) {
            Err(error @ WriterError::Key { .. }) => chain(&error),
            other => panic!("{other:?}"),
        };
        check("w", components.iter(), &all()).unwrap();
        assert!(complaint(&all()[..2]).contains("did not seal /b"));
        assert!(complaint(&[]).contains("did not seal"));
        let mut keys = all();
        keys.push(sealed("a", "/a", &age));
        assert!(complaint(&keys).contains("or twice"));
        keys = all();
        keys[0] = sealed("a", "/c", &age);
        assert!(complaint(&keys).contains("sealed /c of `a`, which is not asked for"));
        keys = all();
        keys[1].sealed = b"-----BEGIN PRIVATE KEY-----".to_vec();
        assert!(complaint(&keys).contains("/b is not sealed"));
    }
}

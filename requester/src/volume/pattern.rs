//! File names with `?` and `*`, as in VSS's file sets; nothing else is special.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use super::error::VolumeError;

const MAX_LENGTH: usize = 4096;

/// A checked pattern for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// # Errors
    /// [`VolumeError::BadPattern`]: empty, with a slash or NUL, or a name that no file can have.
    pub fn new(pattern: &str) -> Result<Self, VolumeError> {
        let bad = pattern.is_empty()
            || pattern.len() > MAX_LENGTH
            || pattern.contains(['/', '\0'])
            || matches!(pattern, "." | "..");
        if bad {
            return Err(VolumeError::BadPattern { pattern: pattern.chars().take(80).collect() });
        }
        Ok(Self(pattern.to_owned()))
    }

    /// The name, if only one file can match.
    pub fn literal(&self) -> Option<&str> {
        (!self.0.contains(['?', '*'])).then_some(&self.0)
    }

    /// Whether this name matches.
    pub fn matches(&self, name: &OsStr) -> bool {
        wildcard(self.0.as_bytes(), name.as_bytes())
    }
}

/// What is left out: a name (matching at any depth), or a path below the selection's folder. Either way with
/// everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclude(Vec<Pattern>);

impl Exclude {
    /// An absolute path counts if it lies below `folder`; one elsewhere excludes nothing here.
    ///
    /// # Errors
    /// [`VolumeError::BadPattern`].
    pub fn new(pattern: &str, folder: &Path) -> Result<Option<Self>, VolumeError> {
        let path = Path::new(pattern);
        let below = if path.is_absolute() {
            match path.strip_prefix(folder) {
                Ok(below) => below,
                Err(_) => return Ok(None),
            }
        } else {
            path
        };
        let mut parts = Vec::new();
        for part in below.components() {
            let (Component::Normal(_), Some(part)) = (part, part.as_os_str().to_str()) else {
                return Err(VolumeError::BadPattern { pattern: pattern.chars().take(80).collect() });
            };
            parts.push(Pattern::new(part)?);
        }
        if parts.is_empty() {
            return Err(VolumeError::BadPattern { pattern: pattern.chars().take(80).collect() });
        }
        // Anchored even if it is one name long: it was written as a path.
        if path.is_absolute() && parts.len() == 1 {
            parts.insert(0, Pattern(String::new()));
        }
        Ok(Some(Self(parts)))
    }

    /// Whether `rel`, below the selection's folder, is excluded. Its folders must have been asked about before.
    pub fn matches(&self, rel: &Path) -> bool {
        let parts = match self.0.as_slice() {
            [name] => return rel.file_name().is_some_and(|n| name.matches(n)),
            [first, rest @ ..] if first.0.is_empty() => rest,
            parts => parts,
        };
        parts.len() == rel.components().count()
            && parts.iter().zip(rel.components()).all(|(p, c)| p.matches(c.as_os_str()))
    }
}

/// Goes back to the last `*` only, so the time is at most the product of the lengths.
fn wildcard(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(b'?') => {
                p += 1;
                n += char_length(&name[n..]);
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// `?` stands for one character where the name is UTF-8, else for one byte.
fn char_length(name: &[u8]) -> usize {
    let length = match name.first() {
        Some(0xC2..=0xDF) => 2,
        Some(0xE0..=0xEF) => 3,
        Some(0xF0..=0xF4) => 4,
        _ => 1,
    };
    if name.get(..length).is_some_and(|c| std::str::from_utf8(c).is_ok()) { length } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_mark_and_star_match_and_brackets_are_plain() {
        let cases = [
            ("*", "", true),
            ("*.db", "a.db", true),
            ("*.db", "a.db-wal", false),
            ("a?c", "abc", true),
            ("a?c", "aüc", true),
            ("a?c", "ac", false),
            ("[a].db", "[a].db", true),
            ("[a].db", "a.db", false),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*c", "xxaxxbxx", false),
            ("db", "db", true),
        ];
        for (pattern, name, expected) in cases {
            assert_eq!(wildcard(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
        let (stars, name) = ("*a".repeat(1000), "a".repeat(999));
        assert!(!wildcard(stars.as_bytes(), name.as_bytes()));
        assert!(wildcard(b"?", b"\xff") && !wildcard(b"?", b"\xff\xff"));
    }

    #[test]
    fn what_is_no_file_name_is_refused() {
        for bad in ["", "a/b", "..", ".", "a\0"] {
            assert!(matches!(Pattern::new(bad), Err(VolumeError::BadPattern { .. })), "{bad:?}");
        }
        for bad in ["", "../x", "/srv"] {
            assert!(
                matches!(Exclude::new(bad, Path::new("/srv")), Err(VolumeError::BadPattern { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn an_exclude_is_a_name_at_any_depth_or_a_path_below_the_folder() {
        let new = |e| Exclude::new(e, Path::new("/srv/ca")).unwrap();
        let hits = |e, rel: &str| new(e).is_some_and(|e| e.matches(Path::new(rel)));
        assert!(hits("*.tmp", "a/b.tmp") && hits("*.tmp", "b.tmp"));
        assert!(hits("cache/*.tmp", "cache/b.tmp") && !hits("cache/*.tmp", "a/cache/b.tmp"));
        assert!(hits("/srv/ca/key", "key") && !hits("/srv/ca/key", "a/key"));
        assert!(new("/other/key").is_none());
    }
}

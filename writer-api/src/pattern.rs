//! What a file set's pattern and a component's exclusions mean: `?` and `*` inside one name, as in VSS's file sets;
//! nothing else is special.
//! Owns: the syntax and the match, so that requester and writers take and leave out the same files.
//! Leaves to others: walking folders.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// The longest pattern, in bytes: that of a path.
const MAX_LENGTH: usize = 4096;
/// As much of a pattern is shown in an error, in characters.
const SHOWN: usize = 80;

/// A pattern that can match nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is no pattern; expected {expected}")]
pub struct BadPattern {
    /// Its beginning.
    pub pattern: String,
    /// What it should have been.
    pub expected: &'static str,
}

impl BadPattern {
    fn new(pattern: &str, expected: &'static str) -> Self {
        Self { pattern: pattern.chars().take(SHOWN).collect(), expected }
    }
}

/// A checked pattern for one name: [`FileSet::pattern`](crate::FileSet::pattern).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// # Errors
    /// [`BadPattern`]: empty, with a slash or NUL, longer than 4096 bytes, or a name that no file can have.
    pub fn new(pattern: &str) -> Result<Self, BadPattern> {
        let bad = pattern.is_empty()
            || pattern.len() > MAX_LENGTH
            || pattern.contains(['/', '\0'])
            || matches!(pattern, "." | "..");
        if bad {
            return Err(BadPattern::new(pattern, "a file name, with `?` and `*`"));
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

/// What is left out of a file set: a name (matching at any depth), or a path below the set's folder. Either way with
/// everything below it. See [`Component::exclude`](crate::Component::exclude).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclude {
    names: Vec<Pattern>,
    /// Counted from the folder, even if it is one name long.
    is_path: bool,
}

impl Exclude {
    /// For a file set in `folder`. An absolute pattern counts if it lies below that; one elsewhere excludes nothing here.
    ///
    /// # Errors
    /// [`BadPattern`]: no name at all, `.` or `..` among the names, the folder itself, more than 4096 bytes.
    pub fn new(pattern: &str, folder: &Path) -> Result<Option<Self>, BadPattern> {
        let bad = || {
            BadPattern::new(
                pattern,
                "a name, or a path below the folder without `.` and `..`, with `?` and `*`",
            )
        };
        let path = Path::new(pattern);
        let named = |path: &Path| {
            let part = |part| match part {
                Component::Normal(name) => Pattern::new(name.to_str()?).ok(),
                Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
            };
            let names: Option<Vec<_>> = path.components().map(part).collect();
            names.filter(|names| !names.is_empty() && pattern.len() <= MAX_LENGTH).ok_or_else(bad)
        };
        let names = named(path.strip_prefix("/").unwrap_or(path))?;
        if !path.is_absolute() {
            let is_path = names.len() > 1;
            return Ok(Some(Self { names, is_path }));
        }
        path.strip_prefix(folder)
            .ok()
            .map(|below| Ok(Self { names: named(below)?, is_path: true }))
            .transpose()
    }

    /// All of a component's exclusions that count in `folder`.
    ///
    /// # Errors
    /// [`BadPattern`], for the first that is one.
    pub fn all(patterns: &[String], folder: &Path) -> Result<Vec<Self>, BadPattern> {
        patterns.iter().filter_map(|pattern| Self::new(pattern, folder).transpose()).collect()
    }

    /// Whether `rel`, below the file set's folder, is excluded. Its folders must have been asked about before.
    pub fn matches(&self, rel: &Path) -> bool {
        match self.names.as_slice() {
            [name] if !self.is_path => rel.file_name().is_some_and(|file| name.matches(file)),
            names => {
                names.len() == rel.components().count()
                    && names.iter().zip(rel.components()).all(|(name, part)| name.matches(part.as_os_str()))
            }
        }
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
            ("*.crl", "ca.crl", true),
            ("*.crl", "ca.crl.old", false),
            ("?a*b", "xaXbXb", true),
            ("?", "", false),
            ("a*b*c", "abbbc", true),
            ("a*b*c", "abbb", false),
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
        let long = "a".repeat(MAX_LENGTH + 1);
        for bad in ["", "a/b", "..", ".", "a\0", &long] {
            let error = Pattern::new(bad).unwrap_err();
            assert!(error.to_string().contains("expected a file name"), "{bad:?}: {error}");
            assert!(error.pattern.len() <= SHOWN);
        }
    }

    #[test]
    fn what_is_neither_a_name_nor_a_path_below_the_folder_is_refused() {
        let long = "a/".repeat(MAX_LENGTH);
        for bad in ["", "/", "..", "../x", "a/../b", "./a", "/srv/../x", "/other/../x", "a\0", &long, "/srv"]
        {
            assert!(Exclude::new(bad, Path::new("/srv")).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_exclude_is_a_name_at_any_depth_or_a_path_below_the_folder() {
        let new = |exclude| Exclude::new(exclude, Path::new("/srv/www")).unwrap();
        let hits = |exclude, rel: &str| new(exclude).is_some_and(|exclude| exclude.matches(Path::new(rel)));
        assert!(hits("*.tmp", "a/b.tmp") && hits("*.tmp", "b.tmp") && !hits("*.tmp", "b.tmp2"));
        assert!(hits("cache/", "a/cache") && hits("a*b*c", "axxbyybzc") && !hits("a*b*c", "axxbyyb"));
        assert!(hits("cache/*.tmp", "cache/b.tmp") && !hits("cache/*.tmp", "a/cache/b.tmp"));
        assert!(hits("/srv/www/key", "key") && !hits("/srv/www/key", "a/key"));
        assert!(hits("/srv/www/*/k?y", "a/kéy") && !hits("/srv/www/*/k?y", "kéy"));
        assert!(new("/other/key").is_none() && new("/srv").is_none());
    }

    #[test]
    fn a_list_keeps_what_counts_in_the_folder_and_names_the_first_bad_one() {
        let all = |patterns: &[&str]| {
            Exclude::all(&patterns.iter().map(|&p| p.to_owned()).collect::<Vec<_>>(), Path::new("/srv"))
        };
        assert_eq!(all(&["*.tmp", "/other/x", "/srv/x"]).unwrap().len(), 2);
        assert_eq!(all(&["*.tmp", "a/..", "/"]).unwrap_err().pattern, "a/..");
    }
}

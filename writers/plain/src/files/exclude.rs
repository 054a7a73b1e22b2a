//! What is left out of the file sets, read as the requester reads it.
//! Owns: the syntax of an exclusion, so that the search for keys looks into exactly what will be stored.
//! Leaves to others: leaving it out (the requester).

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The longest pattern, in bytes.
const MAX_LENGTH: usize = 4096;

/// Patterns with `?` and `*` inside one name; nothing else is special. One name counts at any depth, several are a path
/// below the set's folder, and with a `/` at its start a pattern is a whole path. What matches is left out with
/// everything below it.
#[derive(Debug)]
pub(super) struct Excluded(Vec<PathBuf>);

impl Excluded {
    /// # Errors
    /// Which pattern, and what is wrong with it.
    pub(super) fn new(patterns: &[String]) -> Result<Self, String> {
        for pattern in patterns {
            let path = Path::new(pattern);
            let names = path.strip_prefix("/").unwrap_or(path);
            let plain = names.components().all(|part| matches!(part, Component::Normal(_)));
            if names.as_os_str().is_empty() || !plain || pattern.len() > MAX_LENGTH || pattern.contains('\0')
            {
                return Err(format!(
                    "`{pattern}` leaves nothing out; expected a name, or a path without `.` and `..`, with `?` and `*`"
                ));
            }
        }
        Ok(Self(patterns.iter().map(PathBuf::from).collect()))
    }

    /// Whether `below`, a path below the set's `folder`, is left out. Its folders must have been asked about before.
    pub(super) fn covers(&self, folder: &Path, below: &Path) -> bool {
        self.0.iter().any(|pattern| {
            if !pattern.is_absolute() && pattern.components().count() == 1 {
                return below.file_name().is_some_and(|name| wildcard(bytes(pattern), name.as_bytes()));
            }
            let pattern =
                if pattern.is_absolute() { pattern.strip_prefix(folder) } else { Ok(pattern.as_path()) };
            pattern.is_ok_and(|pattern| {
                pattern.components().count() == below.components().count()
                    && pattern
                        .components()
                        .zip(below.components())
                        .all(|(p, name)| wildcard(p.as_os_str().as_bytes(), name.as_os_str().as_bytes()))
            })
        })
    }
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Goes back to the last `*` only, so that the time is at most the product of the lengths.
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
                n += character(&name[n..]);
            }
            Some(byte) if *byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                n = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Bytes of the character that `?` stands for; one where the name is not UTF-8.
fn character(rest: &[u8]) -> usize {
    (1..=rest.len().min(4)).find(|n| std::str::from_utf8(&rest[..*n]).is_ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_counts_at_any_depth_and_a_path_where_it_stands() {
        let covers = |pattern: &str, below: &str| {
            Excluded::new(&[pattern.to_owned()]).unwrap().covers(Path::new("/srv/www"), Path::new(below))
        };
        assert!(covers("*.tmp", "a/b.tmp") && covers("*.tmp", "b.tmp") && !covers("*.tmp", "b.tmp2"));
        assert!(covers("cache/*.tmp", "cache/b.tmp") && !covers("cache/*.tmp", "a/cache/b.tmp"));
        assert!(covers("/srv/www/key", "key") && !covers("/srv/www/key", "a/key"));
        assert!(!covers("/other/key", "key") && covers("/srv/www/*/k?y", "a/kéy"));
        assert!(covers("a*b*c", "axxbyybzc") && !covers("a*b*c", "axxbyyb"));
        for bad in ["", "/", "..", "a/../b", "./a"] {
            assert!(Excluded::new(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}

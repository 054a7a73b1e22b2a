//! Where a restored path goes: to its original place, beneath another folder, or where a rule sends it.
//! A pure function of its arguments: nothing here looks at a disk.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, Path, PathBuf},
};

/// Why a path cannot be sent anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A rule is not `OLD=NEW` with two absolute paths.
    #[error("`{rule}` is not OLD=NEW with two absolute paths")]
    NotARule {
        /// The rule as given, shown with replacement characters where it is not UTF-8.
        rule: String,
    },
    /// A rule can be read in more than one way.
    #[error("`{rule}` has more than one `=/`; it is not clear where OLD ends")]
    Ambiguous {
        /// The rule as given.
        rule: String,
    },
    /// Two rules send the same path to different places.
    #[error("`{old}` is mapped twice")]
    MappedTwice {
        /// The original path.
        old: PathBuf,
    },
    /// A path is empty, relative or contains `..`.
    #[error("`{path}` is not a plain absolute path")]
    NotPlain {
        /// The path.
        path: PathBuf,
    },
    /// Two original paths would lie on, or inside, each other.
    #[error("`{first}` and `{second}` would both be restored to `{target}`")]
    Conflict {
        /// One original path.
        first: PathBuf,
        /// The other.
        second: PathBuf,
        /// Where they meet.
        target: PathBuf,
    },
}

/// Sends original paths to where they are to be restored. The longest matching rule wins, then `--to`, then the
/// original place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetMap {
    to: Option<PathBuf>,
    rules: BTreeMap<PathBuf, PathBuf>,
}

impl TargetMap {
    /// `to`: everything goes beneath this folder, `/a/b` to `to/a/b`. `rules`: pairs of old and new path.
    ///
    /// # Errors
    /// [`TargetError::NotPlain`], [`TargetError::MappedTwice`].
    pub fn new(
        to: Option<&Path>,
        rules: impl IntoIterator<Item = (PathBuf, PathBuf)>,
    ) -> Result<Self, TargetError> {
        let mut map = Self { to: to.map(plain).transpose()?, rules: BTreeMap::new() };
        for (old, new) in rules {
            let (old, new) = (plain(&old)?, plain(&new)?);
            if map.rules.get(&old).is_some_and(|known| *known != new) {
                return Err(TargetError::MappedTwice { old });
            }
            map.rules.insert(old, new);
        }
        Ok(map)
    }

    /// Reads one `OLD=NEW`. Either path may contain `=`, as long as only one is followed by `/`.
    ///
    /// # Errors
    /// [`TargetError::NotARule`], [`TargetError::Ambiguous`], [`TargetError::NotPlain`].
    pub fn parse_rule(rule: &OsStr) -> Result<(PathBuf, PathBuf), TargetError> {
        let bytes = rule.as_bytes();
        let shown = || rule.to_string_lossy().into_owned();
        let mut cuts = bytes.windows(2).enumerate().filter(|(_, pair)| pair == b"=/").map(|(at, _)| at);
        let at = cuts.next().ok_or_else(|| TargetError::NotARule { rule: shown() })?;
        if cuts.next().is_some() {
            return Err(TargetError::Ambiguous { rule: shown() });
        }
        let (old, new) = bytes.split_at(at);
        let path = |bytes: &[u8]| PathBuf::from(OsString::from_vec(bytes.to_vec()));
        Ok((plain(&path(old))?, plain(&path(new.get(1..).unwrap_or_default()))?))
    }

    /// Where `original` goes.
    ///
    /// # Errors
    /// [`TargetError::NotPlain`]: original paths come out of a repository and are not trusted to stay inside `--to`.
    pub fn target(&self, original: &Path) -> Result<PathBuf, TargetError> {
        let original = plain(original)?;
        for prefix in original.ancestors() {
            if let (Some(new), Ok(rest)) = (self.rules.get(prefix), original.strip_prefix(prefix)) {
                return Ok(join(new, rest));
            }
        }
        match (&self.to, original.strip_prefix("/")) {
            (Some(to), Ok(rest)) => Ok(join(to, rest)),
            _ => Ok(original),
        }
    }

    /// The original paths that rules are given for.
    pub fn rules(&self) -> impl Iterator<Item = &Path> {
        self.rules.keys().map(PathBuf::as_path)
    }

    /// Where all of `originals` go. Given twice counts once.
    ///
    /// # Errors
    /// [`TargetError::Conflict`] when two would meet, or one come to lie in another that did not contain it before.
    pub fn targets<'a>(
        &self,
        originals: impl IntoIterator<Item = &'a Path>,
    ) -> Result<BTreeMap<PathBuf, PathBuf>, TargetError> {
        let mut targets = BTreeMap::new();
        for original in originals {
            targets.insert(plain(original)?, self.target(original)?);
        }
        let by_target: BTreeMap<&Path, &Path> = {
            let mut seen: BTreeMap<&Path, &Path> = BTreeMap::new();
            for (original, target) in &targets {
                if let Some(first) = seen.insert(target, original) {
                    return Err(conflict(first, original, target));
                }
            }
            seen
        };
        for (target, original) in &by_target {
            for above in target.ancestors().skip(1) {
                if let Some(outer) = by_target.get(above)
                    && !original.starts_with(outer)
                {
                    return Err(conflict(outer, original, target));
                }
            }
        }
        Ok(targets)
    }
}

fn conflict(first: &Path, second: &Path, target: &Path) -> TargetError {
    TargetError::Conflict { first: first.into(), second: second.into(), target: target.into() }
}

/// Without the slash that joining an empty path would leave at the end.
fn join(base: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { base.to_owned() } else { base.join(rest) }
}

fn plain(path: &Path) -> Result<PathBuf, TargetError> {
    let refused = || TargetError::NotPlain { path: path.to_owned() };
    if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
        return Err(refused());
    }
    if path.components().any(|part| matches!(part, Component::ParentDir)) {
        return Err(refused());
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(to: Option<&str>, rules: &[(&str, &str)]) -> TargetMap {
        let rules = rules.iter().map(|(old, new)| (PathBuf::from(old), PathBuf::from(new)));
        TargetMap::new(to.map(Path::new), rules).unwrap()
    }

    #[test]
    fn the_longest_rule_wins_then_the_folder_then_the_original_place() {
        let map = map(Some("/mnt"), &[("/srv", "/x"), ("/srv/ca", "/y/"), ("/srv/ca/db", "/z")]);
        for (from, to) in [
            ("/srv/ca/db", "/z"),
            ("/srv/ca/db/a", "/z/a"),
            ("/srv/ca/dbs", "/y/dbs"),
            ("/srv/ca/keys/", "/y/keys"),
            ("/srv/other", "/x/other"),
            ("/etc/ca", "/mnt/etc/ca"),
        ] {
            assert_eq!(map.target(Path::new(from)).unwrap(), Path::new(to), "{from}");
        }
        assert_eq!(TargetMap::default().target(Path::new("/a/b")).unwrap(), Path::new("/a/b"));
    }

    #[test]
    fn no_path_out_of_a_set_leaves_the_folder_given() {
        let map = map(Some("/mnt"), &[]);
        for bad in ["", "a", "/a/../../etc/shadow", "/.."] {
            assert!(matches!(map.target(Path::new(bad)), Err(TargetError::NotPlain { .. })), "{bad}");
        }
        assert!(TargetMap::new(Some(Path::new("out")), []).is_err());
        assert!(TargetMap::new(Some(Path::new("")), []).is_err());
    }

    #[test]
    fn two_originals_on_one_target_or_newly_inside_each_other_are_refused() {
        let originals = ["/a", "/b/c"].map(Path::new);
        let meet = map(None, &[("/a", "/t"), ("/b/c", "/t")]).targets(originals);
        assert!(matches!(meet, Err(TargetError::Conflict { .. })));
        let inside = map(None, &[("/a", "/t"), ("/b", "/t/x")]).targets(originals);
        assert!(matches!(inside, Err(TargetError::Conflict { .. })));
        let kept = map(Some("/t"), &[]).targets(["/a", "/a/b", "/a"].map(Path::new)).unwrap();
        assert_eq!(kept.len(), 2);
    }

    #[test]
    fn a_rule_is_two_absolute_paths_and_has_one_reading() {
        let parse = |rule: &str| TargetMap::parse_rule(OsStr::new(rule));
        assert_eq!(parse("/a=b=/c=d").unwrap(), ("/a=b".into(), "/c=d".into()));
        assert!(matches!(parse("/a=b"), Err(TargetError::NotARule { .. })));
        assert!(matches!(parse("a=/b"), Err(TargetError::NotPlain { .. })));
        assert!(matches!(parse("/a=/b=/c"), Err(TargetError::Ambiguous { .. })));
        let twice = [("/a".into(), "/b".into()), ("/a/".into(), "/c".into())];
        assert!(matches!(TargetMap::new(None, twice), Err(TargetError::MappedTwice { .. })));
    }
}

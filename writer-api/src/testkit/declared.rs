//! The files that a component declares, found and copied as a requester does it. Only sample applications are copied
//! this way: there is no protection against links that are swapped in meanwhile.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::{Component as Part, Path, PathBuf};

use super::fixture::below;
use crate::{Component, FileSet};

/// The files, folders and links that the component declares.
///
/// # Errors
/// What is declared and not there, or is not what it is declared to be; as a sentence.
pub fn find(component: &Component) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    for set in &component.files {
        let (folder, pattern) = settled(set);
        let excluded = |path: &Path| is_excluded(&component.exclude, &folder, path);
        if is_name(&pattern) && !set.recursive {
            let file = folder.join(&pattern);
            if excluded(&file) {
                continue;
            }
            match fs::symlink_metadata(&file) {
                Ok(meta) if meta.is_file() => found.extend([file]),
                Ok(_) => {
                    return Err(format!("`{}` is declared by name and is no regular file", file.display()));
                }
                Err(_) if set.optional => {}
                Err(error) => {
                    return Err(format!("`{}` is declared, and cannot be found: {error}", file.display()));
                }
            }
        } else {
            if set.recursive {
                found.insert(folder.clone());
            }
            let failed = |error| format!("`{}` is declared, and cannot be read: {error}", folder.display());
            match walk(&folder, &pattern, set.recursive, &excluded, &mut found) {
                Err(error) if set.optional && error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(failed)?,
            }
        }
    }
    Ok(found)
}

/// Whether the file at `path` would be stored with the component.
pub fn covers(component: &Component, path: &Path) -> bool {
    component.files.iter().any(|set| {
        let (folder, pattern) = settled(set);
        let Ok(rest) = path.strip_prefix(&folder) else { return false };
        let deep = rest.components().count() > 1;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (set.recursive || !deep)
            && matches(&pattern, &name)
            && !path
                .ancestors()
                .take_while(|part| *part != folder)
                .any(|part| is_excluded(&component.exclude, &folder, part))
    })
}

/// Copies what the components declare to below `root`, each at its original path; how many there were.
///
/// # Errors
/// As [`find`]; or what could not be copied.
pub fn copy(components: &[&Component], root: &Path) -> Result<usize, String> {
    let mut all = BTreeSet::new();
    for component in components {
        all.extend(find(component).map_err(|why| format!("component `{}`: {why}", component.reference()))?);
    }
    for path in &all {
        let to = below(root, path);
        copy_one(path, &to).map_err(|error| format!("`{}` cannot be copied: {error}", path.display()))?;
    }
    Ok(all.len())
}

/// Where each file and folder of the components lies below `root`.
pub fn roots(components: &[&Component], root: &Path) -> Vec<(PathBuf, PathBuf)> {
    let sets = components.iter().flat_map(|component| &component.files);
    let original = sets.map(|set| {
        let (folder, pattern) = settled(set);
        if is_name(&pattern) && !set.recursive { folder.join(pattern) } else { folder }
    });
    original.collect::<BTreeSet<_>>().into_iter().map(|path| (path.clone(), below(root, &path))).collect()
}

/// Writes a file of a copy.
///
/// # Errors
/// As a sentence.
pub fn put(to: &Path, bytes: &[u8]) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", to.display());
    to.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    fs::write(to, bytes).map_err(failed)
}

/// A path that names a file is its folder and its name.
fn settled(set: &FileSet) -> (PathBuf, String) {
    match (set.path.parent(), set.path.file_name().and_then(|name| name.to_str())) {
        (Some(folder), Some(name)) if set.path.is_file() => (folder.to_owned(), name.to_owned()),
        _ => (set.path.clone(), set.pattern.clone()),
    }
}

fn is_name(pattern: &str) -> bool {
    !pattern.contains(['*', '?'])
}

fn walk(
    folder: &Path,
    pattern: &str,
    recursive: bool,
    excluded: &dyn Fn(&Path) -> bool,
    found: &mut BTreeSet<PathBuf>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if excluded(&path) {
            continue;
        }
        if fs::symlink_metadata(&path)?.is_dir() {
            if recursive {
                found.insert(path.clone());
                walk(&path, pattern, recursive, excluded, found)?;
            }
        } else if matches(pattern, &name.to_string_lossy()) {
            found.insert(path);
        }
    }
    Ok(())
}

fn copy_one(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder)?;
    }
    let meta = match fs::symlink_metadata(from) {
        // Gone between the look and the copy: a log that was rotated away.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let owner = |of: &fs::Metadata| (Some(of.uid()), Some(of.gid()));
    let as_root = rustix::process::geteuid().is_root();
    if meta.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
        if as_root {
            lchown(to, owner(&meta).0, owner(&meta).1)?;
        }
        return Ok(());
    }
    if meta.is_dir() {
        fs::create_dir_all(to)?;
    } else if meta.is_file() {
        fs::copy(from, to)?;
    } else {
        // Pipes and sockets have no contents.
        return Ok(());
    }
    fs::set_permissions(to, meta.permissions())?;
    if as_root {
        chown(to, owner(&meta).0, owner(&meta).1)?;
    }
    Ok(())
}

/// A name at any depth, or a path below the folder; each with all that lies below it, which is not asked about then.
fn is_excluded(patterns: &[String], folder: &Path, path: &Path) -> bool {
    let Ok(rest) = path.strip_prefix(folder) else { return false };
    let rest: Vec<_> = rest.components().map(|part| part.as_os_str().to_string_lossy()).collect();
    patterns.iter().any(|pattern| {
        let pattern = Path::new(pattern);
        let anchored = if pattern.is_absolute() {
            match pattern.strip_prefix(folder) {
                Ok(anchored) => anchored,
                Err(_) => return false,
            }
        } else {
            pattern
        };
        let parts: Vec<_> = anchored
            .components()
            .filter(|part| matches!(part, Part::Normal(_)))
            .map(|part| part.as_os_str().to_string_lossy())
            .collect();
        if let ([name], false) = (&parts[..], pattern.is_absolute()) {
            return rest.last().is_some_and(|last| matches(name, last));
        }
        parts.len() == rest.len() && parts.iter().zip(&rest).all(|(pattern, name)| matches(pattern, name))
    })
}

/// `?` is one character, `*` any number of them.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (p, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ComponentKind, FileRole};

    fn component(folder: &Path, sets: &[(&str, bool, bool)], exclude: &[&str]) -> Component {
        let set = |(pattern, recursive, optional): &(&str, bool, bool)| FileSet {
            path: folder.to_owned(),
            pattern: (*pattern).to_owned(),
            recursive: *recursive,
            optional: *optional,
            role: FileRole::Data,
        };
        Component {
            kind: ComponentKind::FileGroup,
            path: String::new(),
            name: "c".into(),
            caption: String::new(),
            selectable: true,
            selectable_for_restore: false,
            held: false,
            dependencies: vec![],
            files: sets.iter().map(set).collect(),
            exclude: exclude.iter().map(|text| (*text).to_owned()).collect(),
            keys: vec![],
        }
    }

    fn tree() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("sub/empty")).unwrap();
        for name in ["a.db", "b.tmp", "key", "sub/key", "sub/c.db", "sub/d.tmp"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        folder
    }

    fn names(folder: &Path, component: &Component) -> Vec<String> {
        let short = |path: &PathBuf| path.strip_prefix(folder).unwrap().display().to_string();
        find(component).unwrap().iter().map(short).collect()
    }

    #[test]
    fn a_set_is_what_its_pattern_matches_and_no_exclude_does() {
        let folder = tree();
        let at = folder.path();
        let key = at.join("key").display().to_string();
        // Pattern, recursive, optional; excluded; expected.
        type Case<'c> = (&'c [(&'c str, bool, bool)], &'c [&'c str], &'c [&'c str]);
        let cases: [Case; 6] = [
            (&[("a.db", false, false)], &[], &["a.db"]),
            (&[("gone", false, true), ("a.db", false, false)], &[], &["a.db"]),
            (&[("*.db", false, false)], &[], &["a.db"]),
            (
                &[("*", true, false)],
                &["*.tmp", &key],
                &["", "a.db", "sub", "sub/c.db", "sub/empty", "sub/key"],
            ),
            (&[("*", true, false)], &["*.tmp", "key"], &["", "a.db", "sub", "sub/c.db", "sub/empty"]),
            (&[("*.db", true, false)], &["sub"], &["", "a.db"]),
        ];
        for (sets, exclude, expected) in cases {
            let component = component(at, sets, exclude);
            assert_eq!(names(at, &component), expected, "{sets:?} {exclude:?}");
            // Both ways of asking agree.
            for name in ["a.db", "b.tmp", "key", "sub/key", "sub/c.db"] {
                assert_eq!(
                    covers(&component, &at.join(name)),
                    expected.contains(&name),
                    "{name}: {sets:?} {exclude:?}"
                );
            }
        }
        let missing = component(at, &[("gone", false, false)], &[]);
        assert!(find(&missing).unwrap_err().contains("gone"), "{:?}", find(&missing));
        let link = component(at, &[("link", false, false)], &[]);
        symlink("a.db", at.join("link")).unwrap();
        assert!(find(&link).unwrap_err().contains("no regular file"));
    }

    #[test]
    fn a_copy_lies_at_the_original_path_below_its_root() {
        let (folder, root) = (tree(), tempfile::tempdir().unwrap());
        let component = component(folder.path(), &[("*", true, false)], &[]);
        copy(&[&component], root.path()).unwrap();
        let [(original, copied)] = &roots(&[&component], root.path())[..] else { panic!() };
        assert_eq!(original, folder.path());
        assert_eq!(fs::read(copied.join("sub/c.db")).unwrap(), b"sub/c.db");
        assert!(copied.join("sub/empty").is_dir());
    }
}

//! Declared keys, kept out of every file set by what they are and not by what they are called (promise P9).
//!
//! Owns: which files of this machine are declared keys, before the cut and after it, and noticing one among the files
//! that are to be stored: under the name of a hard link, or reached through another way into its folder.
//! Leaves to others: file sets that name a key's own path ([`super::plan`]), sealing (the writers).
//!
//! A key is only ever looked at here, never opened: its content is for its writer alone.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use holdfast_writer_api::WriterMetadata;

use crate::provider::{ProviderError, ShadowCopy};
use crate::volume::{FileId, FileSelection, Kind, Root, VolumeError, VolumeMap, resolve};

/// A key that a writer declares, whether or not its component takes part.
#[derive(Debug, Clone)]
pub struct DeclaredKey {
    /// Its writer's id.
    pub writer: String,
    /// As it was declared.
    pub path: PathBuf,
    /// The same without links, when it was last there.
    real: Option<PathBuf>,
    /// The files that it was, each time it was looked at.
    was: BTreeSet<FileId>,
}

/// All keys that the writers of a session declare.
#[derive(Debug, Clone, Default)]
pub struct DeclaredKeys(Vec<DeclaredKey>);

impl DeclaredKeys {
    /// The keys of these writers, as they are now.
    ///
    /// # Errors
    /// A sentence for each that cannot be looked at: nobody could tell it from another file then. One that is not there
    /// is no error here, but its writer's to report.
    pub fn look<'m>(writers: impl IntoIterator<Item = &'m WriterMetadata>) -> Result<Self, Vec<String>> {
        let mut keys = Self::default();
        for writer in writers {
            for key in writer.components.iter().flat_map(|component| &component.keys) {
                let (writer, path) = (writer.id.clone(), key.path.clone());
                keys.0.push(DeclaredKey { writer, path, real: None, was: BTreeSet::new() });
            }
        }
        let looked = keys.0.iter_mut().filter_map(|key| {
            let error = key.look().err()?;
            Some(format!("writer `{}`: cannot look at its key {}: {error}", key.writer, key.path.display()))
        });
        let problems: Vec<_> = looked.collect();
        if problems.is_empty() { Ok(keys) } else { Err(problems) }
    }

    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, DeclaredKey> {
        self.0.iter()
    }

    /// The key that this file is.
    pub fn find(&self, file: FileId) -> Option<&DeclaredKey> {
        self.0.iter().find(|key| key.was.contains(&file))
    }

    /// The files of a selection, as they are now, that are keys under other names than their own. What cannot be listed
    /// is left to the provider, which refuses it; nothing is stored that was not looked at once more.
    pub fn among(&self, selection: &FileSelection) -> Vec<(PathBuf, &DeclaredKey)> {
        let listed = Root::open(&selection.path).and_then(|root| resolve(&root, selection));
        let files = listed.unwrap_or_default().into_iter().filter(|file| file.meta.kind == Kind::File);
        let keys = files.filter_map(|file| Some((file.path, self.find(file.meta.id())?)));
        keys.filter(|(path, key)| *path != key.path).collect()
    }

    /// Those that may lie on a volume, by its id: no file of another one can be theirs.
    pub fn on_volume(&self, map: &VolumeMap, volume: &str) -> bool {
        self.0.iter().any(|key| {
            let real = key.real.as_deref();
            real.is_some_and(|real| map.resolve(real).map_or(true, |found| found.id == volume))
        })
    }

    /// The same keys, looked at once more after the cut: as they are now, and as they are in the shadow copies. A key
    /// that was renewed meanwhile is known by both of its files.
    ///
    /// # Errors
    /// A key, or its place in a copy, that cannot be looked at.
    pub fn after_the_cut(&self, copies: &[ShadowCopy]) -> Result<Self, ProviderError> {
        let mut keys = self.clone();
        for key in &mut keys.0 {
            key.look().map_err(|source| ProviderError::io("look at", &key.path, source))?;
            let Some(real) = &key.real else { continue };
            for copy in copies {
                key.was.extend(in_copy(copy, real)?);
            }
        }
        Ok(keys)
    }
}

impl DeclaredKey {
    /// Through links, as its writer will open it: nothing is opened here, so there is nowhere to be led to.
    fn look(&mut self) -> io::Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(found) => {
                self.was.insert(FileId { dev: found.dev(), ino: found.ino() });
                self.real = std::fs::canonicalize(&self.path).ok();
                Ok(())
            }
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The file that lay at a path at the instant of the cut, if the copy shows it.
fn in_copy(copy: &ShadowCopy, path: &Path) -> Result<Option<FileId>, ProviderError> {
    let looked = copy.locate(path).and_then(|(folder, name)| Ok(folder.stat(&name)?));
    match looked {
        Ok(meta) => Ok(Some(copy.original(&meta))),
        Err(ProviderError::NotInShadow { .. }) => Ok(None),
        Err(ProviderError::Files { source }) if nothing_there(&source) => Ok(None),
        Err(other) => Err(other),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A copy of one volume shows an empty folder, or none, where another one is mounted.
fn nothing_there(error: &VolumeError) -> bool {
    matches!(error, VolumeError::Missing { .. } | VolumeError::NotAFolder { .. })
        || error.io().is_some_and(is_absent)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn declared(path: &Path) -> DeclaredKeys {
        let key = DeclaredKey { writer: "ca".into(), path: path.into(), real: None, was: BTreeSet::new() };
        let mut keys = DeclaredKeys(vec![key]);
        keys.0[0].look().unwrap();
        keys
    }

    /// A key in a folder of its own, and another folder.
    fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (key, data) = (base.join("ca/ca.key"), base.join("www"));
        fs::create_dir(base.join("ca")).unwrap();
        fs::create_dir(&data).unwrap();
        fs::write(&key, "secret").unwrap();
        fs::write(data.join("page"), "secret").unwrap();
        (dir, key, data)
    }

    fn names(keys: &DeclaredKeys, folder: &Path) -> Vec<PathBuf> {
        keys.among(&FileSelection::tree(folder)).into_iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn a_key_is_found_under_the_name_of_every_hard_link_and_a_file_of_the_same_content_is_not_it() {
        let (_dir, key, data) = place();
        let keys = declared(&key);
        assert_eq!(names(&keys, &data), Vec::<PathBuf>::new());
        fs::create_dir(data.join("deep")).unwrap();
        for link in ["deep/picture", "spare"] {
            fs::hard_link(&key, data.join(link)).unwrap();
        }
        assert_eq!(names(&keys, &data), [data.join("deep/picture"), data.join("spare")]);
        let excluding = FileSelection { exclude: vec!["deep".into()], ..FileSelection::tree(&data) };
        assert_eq!(keys.among(&excluding).len(), 1, "what is left out is not stored");
        assert_eq!(keys.among(&excluding)[0].1.path, key);
        // Its own name is refused or excluded by path.
        assert_eq!(names(&keys, key.parent().unwrap()), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_key_is_found_through_another_way_into_its_folder() {
        let (dir, key, _) = place();
        let way = dir.path().canonicalize().unwrap().join("way");
        std::os::unix::fs::symlink(key.parent().unwrap(), &way).unwrap();
        assert_eq!(names(&declared(&key), &way), [way.join("ca.key")]);
        assert_eq!(names(&declared(&way.join("ca.key")), key.parent().unwrap()), [key]);
    }

    #[test]
    fn a_key_renewed_after_the_plan_is_known_by_both_files_and_one_that_is_gone_by_its_last() {
        let (_dir, key, data) = place();
        let planned = declared(&key);
        fs::hard_link(&key, data.join("old")).unwrap();
        fs::write(key.with_extension("new"), "renewed").unwrap();
        fs::rename(key.with_extension("new"), &key).unwrap();
        fs::hard_link(&key, data.join("renewed")).unwrap();
        assert_eq!(names(&planned, &data), [data.join("old")]);
        let again = planned.after_the_cut(&[]).unwrap();
        assert_eq!(names(&again, &data), [data.join("old"), data.join("renewed")]);
        fs::remove_file(&key).unwrap();
        let gone = again.after_the_cut(&[]).unwrap();
        assert_eq!(names(&gone, &data).len(), 2);
    }

    #[test]
    fn a_key_that_is_not_there_is_its_writers_to_report() {
        let (dir, key, data) = place();
        assert!(declared(&dir.path().join("none")).find(FileId { dev: 0, ino: 0 }).is_none());
        assert_eq!(names(&declared(&key.join("not-a-folder")), &data), Vec::<PathBuf>::new());
    }

    #[test]
    fn only_selections_on_a_keys_own_volume_have_to_be_listed() {
        let (_dir, key, _) = place();
        let map = VolumeMap::read().unwrap();
        let here = map.resolve(&key).unwrap().id;
        assert!(declared(&key).on_volume(&map, &here));
        assert!(!declared(&key).on_volume(&map, "another"));
        assert!(!DeclaredKeys::default().on_volume(&map, &here));
    }
}

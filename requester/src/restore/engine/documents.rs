//! The documents and sealed keys of a set as plain files, for a machine without its writers.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::fault;
use super::request::{sync_dir, write_durably};
use super::set::{DOCUMENTS, SetContents};
use crate::failure::{Exit, Failure};
use crate::repository::NodeKind;
use crate::restore::target::TargetMap;

/// Below the folder of `--to`.
pub(super) const FOLDER: &str = "/.holdfast-documents";

/// Where the documents of a restore go; `None` when everything goes to its original place.
pub(super) fn place(map: &TargetMap) -> Option<PathBuf> {
    let place = map.target(Path::new(FOLDER)).ok()?;
    (place != Path::new(FOLDER)).then_some(place)
}

/// Writes every document of the set below `folder`, which is made. Keys in it are sealed; folder and files are for
/// nobody but us. Blocks.
///
/// # Errors
/// The repository's; the system's.
pub(super) fn write(contents: &SetContents, folder: &Path) -> Result<(), Failure> {
    let state = "the files are restored; their documents are not";
    let failed = |error: io::Error| {
        Failure::new(
            Exit::Failed,
            format!("the documents cannot be written to {}", folder.display()),
            error,
            state,
        )
    };
    make(folder).map_err(failed)?;
    let unread = |error| Failure {
        state: state.into(),
        ..fault::repository("the set's documents cannot be read", error)
    };
    let mut folders = vec![folder.to_owned()];
    for node in contents.reader.walk(Path::new(DOCUMENTS)).map_err(unread)? {
        let node = node.map_err(unread)?;
        let Ok(below) = node.path.strip_prefix(DOCUMENTS) else { continue };
        let path = folder.join(below);
        match node.kind {
            NodeKind::Directory => {
                make(&path).map_err(failed)?;
                folders.push(path);
            }
            NodeKind::File => {
                let limit = holdfast_writer_api::schema::MAX_DOCUMENT_BYTES as u64;
                let bytes = contents.reader.read_file(&node.path, limit).map_err(unread)?;
                write_durably(&path, &bytes).map_err(failed)?;
            }
            // Documents are files; whatever else was put there is none.
            NodeKind::Symlink { .. }
            | NodeKind::Fifo
            | NodeKind::Socket
            | NodeKind::BlockDevice { .. }
            | NodeKind::CharDevice { .. } => {}
        }
    }
    folders.iter().rev().try_for_each(|folder| sync_dir(folder)).map_err(failed)
}

fn make(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(0o700).create(folder) {
        Err(error)
            if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(folder)?.is_dir() =>
        {
            Ok(())
        }
        done => done,
    }
}

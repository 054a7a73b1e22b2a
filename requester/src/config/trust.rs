//! Nothing is trusted for being there (promise P10): who could have written this file?

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file, or a folder above it, that someone else can change.
#[derive(Debug, thiserror::Error)]
#[error("{} {problem}", path.display())]
pub struct Untrusted {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// Checks that `path` and every folder above it belong to root or to the running user and can be
/// written by no one else. A sticky folder such as `/tmp` is no danger: others cannot rename in it.
///
/// # Errors
/// [`Untrusted`], naming the first that fails.
pub fn check_trusted(path: &Path) -> Result<(), Untrusted> {
    let fail = |path: &Path, problem: String| Err(Untrusted { path: path.to_owned(), problem });
    let whole = match std::fs::canonicalize(path) {
        Ok(whole) => whole,
        Err(error) => return fail(path, format!("cannot be looked at: {error}")),
    };
    let us = rustix::process::geteuid().as_raw();
    for (depth, part) in whole.ancestors().enumerate() {
        let meta = match std::fs::metadata(part) {
            Ok(meta) => meta,
            Err(error) => return fail(part, format!("cannot be looked at: {error}")),
        };
        if meta.uid() != 0 && meta.uid() != us {
            return fail(part, format!("belongs to user {}; it must belong to root or to you", meta.uid()));
        }
        let sticky_folder = depth > 0 && meta.mode() & 0o1000 != 0;
        if meta.mode() & 0o022 != 0 && !sticky_folder {
            let mode = meta.mode() & 0o7777;
            return fail(part, format!("can be written by others (mode {mode:o}); run `chmod go-w` on it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_others_can_write_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("holdfast.toml");
        std::fs::write(&file, "").unwrap();
        let mode =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(&file, 0o600);
        check_trusted(&file).unwrap();
        mode(&file, 0o660);
        assert_eq!(check_trusted(&file).unwrap_err().path, file.canonicalize().unwrap());
        mode(&file, 0o600);
        mode(dir.path(), 0o777);
        assert_eq!(check_trusted(&file).unwrap_err().path, dir.path().canonicalize().unwrap());
    }
}

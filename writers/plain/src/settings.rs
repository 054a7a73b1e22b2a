//! What the settings of both writers have in common.

use std::path::{Component, Path};

use holdfast_writer_api::SettingsError;

/// Refuses a path that is not absolute, or has `.` or `..` in it.
pub(crate) fn absolute(key: &str, path: &Path) -> Result<(), SettingsError> {
    let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    // `components` swallows a trailing slash and `/./`, which would not compare equal later.
    let canonical = path.components().collect::<std::path::PathBuf>().as_os_str() == path.as_os_str();
    if path.is_absolute() && plain && canonical && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(());
    }
    Err(SettingsError::new(
        key,
        format!(
            "`{}` is not usable; expected an absolute path without `.`, `..` and a slash at its end",
            path.display()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_needs_its_root_and_no_dots() {
        absolute("p", Path::new("/srv/a b")).unwrap();
        for bad in ["", "a", "./a", "/a/../b", "/a/./b", "/a/", "//a"] {
            assert!(absolute("p", Path::new(bad)).is_err(), "{bad}");
        }
    }
}

//! From a location as the configuration gives it to a storage.
//! Owns: the schemes of locations and which of them this build has.

use std::{path::PathBuf, sync::Arc};

use super::{
    error::RepositoryError,
    storage::{LocalStorage, Storage},
};

/// What a location may need besides itself. The library reads no environment: the caller fills this in.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {}

/// Storages of restic's that a build may have or could get, by scheme.
fn feature_of(scheme: &str) -> Option<Option<&'static str>> {
    match scheme {
        "s3" => Some(Some("s3")),
        "rest" | "sftp" | "b2" | "azure" | "gs" | "swift" | "rclone" | "opendal" => Some(None),
        _ => None,
    }
}

/// Finds the storage; touches nothing.
pub(super) fn storage(location: &str, _options: &Options) -> Result<Arc<dyn Storage>, RepositoryError> {
    let invalid = |reason: &str| RepositoryError::InvalidLocation {
        location: location.to_owned(),
        reason: reason.to_owned(),
    };
    let (scheme, rest) = match location.split_once(':') {
        // A path may hold a colon; a scheme holds no slash, and one letter of a scheme is none.
        Some((scheme, rest))
            if scheme.len() > 1 && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+') =>
        {
            (scheme, rest)
        }
        _ => ("local", location),
    };
    if scheme == "local" {
        if rest.is_empty() {
            return Err(invalid("the path is empty"));
        }
        let path = PathBuf::from(rest);
        // The current directory may change under a running session.
        let path = std::path::absolute(&path).map_err(|error| invalid(&error.to_string()))?;
        return Ok(Arc::new(LocalStorage::new(path)));
    }
    Err(RepositoryError::UnknownScheme { scheme: scheme.to_owned(), feature: feature_of(scheme).flatten() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_local_with_and_without_its_scheme() {
        for location in ["/var/backups/x", "local:/var/backups/x", "/var/../var/backups/x"] {
            let storage = storage(location, &Options::default()).expect("local");
            assert!(storage.location().ends_with("backups/x"), "{location}");
        }
        assert!(storage("/with:colon", &Options::default()).is_ok());
    }

    #[test]
    fn schemes_of_other_builds_name_the_feature() {
        #[cfg(not(feature = "s3"))]
        assert!(matches!(
            storage("s3:http://127.0.0.1:9000/bucket", &Options::default()),
            Err(RepositoryError::UnknownScheme { feature: Some("s3"), .. })
        ));
        for location in ["sftp:host:/path", "rest:http://host/", "nonsense:x"] {
            let refused = storage(location, &Options::default());
            assert!(
                matches!(refused, Err(RepositoryError::UnknownScheme { feature: None, .. })),
                "{location}"
            );
        }
    }

    #[test]
    fn an_empty_location_is_refused() {
        for location in ["", "local:"] {
            let refused = storage(location, &Options::default());
            assert!(matches!(refused, Err(RepositoryError::InvalidLocation { .. })), "{location:?}");
        }
    }
}

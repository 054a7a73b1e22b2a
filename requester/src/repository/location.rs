//! From a location as the configuration gives it to a storage.
//! Owns: the schemes of locations, what each needs besides, and which of them this build has.

use std::{fmt, path::PathBuf, sync::Arc};

use zeroize::Zeroizing;

use super::{
    error::RepositoryError,
    storage::{LocalStorage, Storage},
};

/// What a location may need besides itself. The library reads no environment and no file for it: the caller does.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Options {
    /// For `s3:` locations; without it requests are not signed.
    pub s3: Option<S3Options>,
}

impl Options {
    /// Options for an `s3:` location.
    #[must_use]
    pub fn with_s3(s3: S3Options) -> Self {
        Self { s3: Some(s3) }
    }
}

/// The environment variables in which a command is given what [`S3Options`] keeps secret. Programs that are started get
/// their environment without them (promise P9).
pub const SECRET_VARIABLES: [&str; 2] = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// How to sign requests to an S3 server.
#[derive(Clone)]
pub struct S3Options {
    /// `AWS_ACCESS_KEY_ID`; empty for a bucket open to all.
    pub access_key_id: String,
    /// `AWS_SECRET_ACCESS_KEY`. Wiped when dropped; never printed.
    pub secret_access_key: Zeroizing<String>,
    /// `AWS_SESSION_TOKEN`.
    pub session_token: Option<Zeroizing<String>>,
    /// `AWS_REGION`; servers of one's own mostly take any.
    pub region: String,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            access_key_id: String::new(),
            secret_access_key: Zeroizing::default(),
            session_token: None,
            region: "us-east-1".to_owned(),
        }
    }
}

impl fmt::Debug for S3Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { access_key_id, region, .. } = self;
        f.debug_struct("S3Options")
            .field("access_key_id", access_key_id)
            .field("region", region)
            .finish_non_exhaustive()
    }
}

impl S3Options {
    /// Reads one profile of an AWS credentials file (`[default]`, `aws_access_key_id = …`). `None` if it has no such
    /// profile, or not both keys in it.
    #[must_use]
    pub fn from_credentials_file(content: &str, profile: &str) -> Option<Self> {
        let mut options = Self::default();
        let mut inside = false;
        for line in content.lines().map(str::trim) {
            if let Some(section) = line.strip_prefix('[') {
                inside = section.strip_suffix(']').is_some_and(|name| name.trim() == profile);
            } else if inside && let Some((key, value)) = line.split_once('=') {
                let value = value.trim();
                match key.trim() {
                    "aws_access_key_id" => value.clone_into(&mut options.access_key_id),
                    "aws_secret_access_key" => options.secret_access_key = Zeroizing::new(value.to_owned()),
                    "aws_session_token" => options.session_token = Some(Zeroizing::new(value.to_owned())),
                    "region" => value.clone_into(&mut options.region),
                    _ => {}
                }
            }
        }
        (!options.access_key_id.is_empty() && !options.secret_access_key.is_empty()).then_some(options)
    }
}

/// Where in S3.
#[cfg_attr(not(feature = "s3"), allow(dead_code, reason = "parsed in every build, used with the feature"))]
#[derive(Debug, PartialEq, Eq)]
pub(super) struct S3Place {
    /// With scheme, without trailing slash.
    pub(super) endpoint: String,
    pub(super) bucket: String,
    /// Without slashes around; may be empty.
    pub(super) prefix: String,
}

/// restic's forms: `http://host:port/bucket/prefix`, `https://…`, and `host/bucket`, which means https.
fn s3_place(rest: &str) -> Result<S3Place, &'static str> {
    let (scheme, path) = match rest.split_once("://") {
        Some((scheme @ ("http" | "https"), path)) => (scheme, path),
        Some(("", path)) => ("https", path),
        Some(_) => return Err("only http and https lead to S3"),
        None => ("https", rest.trim_start_matches("//")),
    };
    let mut parts = path.splitn(3, '/');
    let host = parts.next().filter(|host| !host.is_empty()).ok_or("it names no host")?;
    if host.contains('@') {
        return Err("credentials do not belong into a location");
    }
    let bucket = parts.next().filter(|bucket| !bucket.is_empty()).ok_or("it names no bucket")?;
    let prefix = parts.next().unwrap_or_default().trim_matches('/');
    Ok(S3Place {
        endpoint: format!("{scheme}://{host}"),
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
    })
}

/// Finds the storage; touches nothing.
pub(super) fn storage(location: &str, options: &Options) -> Result<Arc<dyn Storage>, RepositoryError> {
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
    match scheme {
        "local" if rest.is_empty() => Err(invalid("the path is empty")),
        "local" => {
            let path = PathBuf::from(rest);
            // The current directory may change under a running session.
            let path = std::path::absolute(&path).map_err(|error| invalid(&error.to_string()))?;
            Ok(Arc::new(LocalStorage::new(path)))
        }
        "s3" => {
            let place = s3_place(rest).map_err(invalid)?;
            s3_storage(location, &place, options)
        }
        _ => Err(RepositoryError::UnknownScheme { scheme: scheme.to_owned(), feature: None }),
    }
}

#[cfg(feature = "s3")]
fn s3_storage(
    location: &str,
    place: &S3Place,
    options: &Options,
) -> Result<Arc<dyn Storage>, RepositoryError> {
    let s3 = options.s3.clone().unwrap_or_default();
    Ok(Arc::new(super::storage::S3Storage::new(location, place, &s3)?))
}

#[cfg(not(feature = "s3"))]
fn s3_storage(_: &str, _: &S3Place, _: &Options) -> Result<Arc<dyn Storage>, RepositoryError> {
    Err(RepositoryError::UnknownScheme { scheme: "s3".to_owned(), feature: Some("s3") })
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

    #[cfg(not(feature = "s3"))]
    #[test]
    fn a_build_without_s3_names_the_feature() {
        let refused = storage("s3:http://127.0.0.1:9000/bucket", &Options::default());
        assert!(matches!(refused, Err(RepositoryError::UnknownScheme { feature: Some("s3"), .. })));
    }

    #[test]
    fn schemes_that_holdfast_has_not_are_named() {
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
        for location in
            ["", "local:", "s3:", "s3:http://host", "s3:ftp://host/bucket", "s3:http://me:pw@host/bucket"]
        {
            let refused = storage(location, &Options::default());
            assert!(matches!(refused, Err(RepositoryError::InvalidLocation { .. })), "{location:?}");
        }
    }

    #[test]
    fn s3_locations_are_read_as_restic_reads_them() {
        for (location, endpoint, bucket, prefix) in [
            ("http://127.0.0.1:9000/bucket", "http://127.0.0.1:9000", "bucket", ""),
            ("https://host/bucket/a/b/", "https://host", "bucket", "a/b"),
            ("s3.amazonaws.com/bucket", "https://s3.amazonaws.com", "bucket", ""),
            ("//host/bucket/a", "https://host", "bucket", "a"),
        ] {
            let place = s3_place(location).expect("a place");
            assert_eq!((&*place.endpoint, &*place.bucket, &*place.prefix), (endpoint, bucket, prefix));
        }
    }

    #[test]
    fn a_credentials_file_gives_the_profile_asked_for_and_prints_no_secret() {
        let file = "[default]\naws_access_key_id=A\naws_secret_access_key = hidden\n\n[other]\nregion = x\n";
        let options = S3Options::from_credentials_file(file, "default").expect("a profile");
        assert_eq!((&*options.access_key_id, &**options.secret_access_key), ("A", "hidden"));
        assert!(!format!("{:?}", Options::with_s3(options)).contains("hidden"));
        assert!(S3Options::from_credentials_file(file, "other").is_none());
        assert!(S3Options::from_credentials_file(file, "none").is_none());
    }
}

//! What the configuration says about one certificate authority, checked without touching a file.
//! Leaves to others: whether the paths exist (`installation`), what is discovered (`discover`).

use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use holdfast_writer_api::{SettingsError, budget, duration};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor, value};

/// How long django-ca's own Python may take to answer.
const DEFAULT_DISCOVERY_TIMEOUT: Duration = Duration::from_secs(60);
const LONGEST_DISCOVERY_TIMEOUT: Duration = Duration::from_secs(600);

/// The settings of a `[[writer]]` of type `certificate-authority`.
///
/// Either `database` or `discover` must be there; what is written here wins over, or adds to, what is discovered.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// The SQLite database.
    pub database: Option<PathBuf>,
    /// The CA's certificates, against which its keys are proved.
    #[serde(alias = "certificates", deserialize_with = "one_or_many")]
    pub certificate: Vec<PathBuf>,
    /// Its private keys; each a path, or a table.
    pub private_keys: Vec<KeySetting>,
    /// Files and folders of its configuration.
    pub configuration: Vec<PathBuf>,
    /// Files and folders that it makes and serves, such as CRLs.
    pub dynamic_files: Vec<PathBuf>,
    /// Where to look for all of that.
    pub discover: Option<Discover>,
    /// What a person calls it.
    pub name: Option<String>,
    /// The service an administrator stops for a restore.
    pub service: Option<String>,
    /// How long the application waits for a locked database, such as `5s`.
    #[serde(deserialize_with = "budget::busy_timeout")]
    pub busy_timeout: Option<Duration>,
}

/// A private key in the settings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KeySetting {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is for.
    pub purpose: Option<String>,
    /// The certificate it belongs to; absent: one of the CA's.
    pub certificate: Option<PathBuf>,
    /// The file that holds its passphrase, which is needed to prove it, not to seal it.
    pub passphrase_file: Option<PathBuf>,
    /// Not a private key in a known form, or one without a certificate here: sealed as it is, not proved.
    pub opaque: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct KeyTable {
    path: PathBuf,
    purpose: Option<String>,
    certificate: Option<PathBuf>,
    passphrase_file: Option<PathBuf>,
    #[serde(default)]
    opaque: bool,
}

/// An installation that describes itself.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Discover {
    /// cfssl's `db.json`.
    pub cfssl: Option<PathBuf>,
    /// cfssl's `-ca`.
    pub ca: Option<PathBuf>,
    /// cfssl's `-ca-key`.
    pub ca_key: Option<PathBuf>,
    /// cfssl's `-config`.
    pub config: Option<PathBuf>,
    /// The systemd unit that runs cfssl, by name or path; its `ExecStart` gives the rest.
    pub unit: Option<String>,
    /// The folder that cfssl's relative paths count from.
    pub working_directory: Option<PathBuf>,
    /// django-ca's project folder, with `manage.py`.
    pub django_ca: Option<PathBuf>,
    /// The Python that runs it.
    pub python: Option<PathBuf>,
    /// How long that may take, such as `60s`.
    #[serde(deserialize_with = "duration::optional")]
    pub timeout: Option<Duration>,
}

/// Which product is discovered, once the settings are known to make sense.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Discovery {
    Cfssl(CfsslHints),
    DjangoCa { project: PathBuf, python: Option<PathBuf>, timeout: Duration },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct CfsslHints {
    pub(crate) db_config: PathBuf,
    pub(crate) ca: Option<PathBuf>,
    pub(crate) ca_key: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) unit: Option<String>,
    pub(crate) working_directory: Option<PathBuf>,
}

impl Settings {
    /// Checks what types cannot.
    ///
    /// # Errors
    /// [`SettingsError`] with the key.
    pub fn check(&self) -> Result<(), SettingsError> {
        let Some(discover) = &self.discover else {
            let Some(database) = &self.database else {
                return Err(SettingsError::new(
                    "database",
                    "`database` is missing: expected the path of the CA's SQLite database, or `discover`",
                ));
            };
            self.check_paths(Some(database))?;
            return self.check_keys();
        };
        discover.check()?;
        self.check_paths(self.database.as_deref())?;
        self.check_keys()
    }

    fn check_paths(&self, database: Option<&Path>) -> Result<(), SettingsError> {
        let lists = [
            ("certificate", &self.certificate),
            ("configuration", &self.configuration),
            ("dynamic-files", &self.dynamic_files),
        ];
        database.map_or(Ok(()), |path| plain("database", path))?;
        lists.iter().try_for_each(|(key, paths)| paths.iter().try_for_each(|path| plain(key, path)))?;
        for (key, paths) in lists {
            if let Some(path) = paths.iter().find(|path| Some(path.as_path()) == database) {
                return Err(SettingsError::new(key, format!("`{}` is the database already", path.display())));
            }
        }
        Ok(())
    }

    fn check_keys(&self) -> Result<(), SettingsError> {
        let problem = |text: String| Err(SettingsError::new("private-keys", text));
        for (index, key) in self.private_keys.iter().enumerate() {
            plain("private-keys", &key.path)?;
            key.certificate.as_deref().map_or(Ok(()), |path| plain("certificate", path))?;
            key.passphrase_file.as_deref().map_or(Ok(()), |path| plain("passphrase-file", path))?;
            let shown = key.path.display();
            if Some(&key.path) == self.database.as_ref() {
                return problem(format!("`{shown}` is the database; a key inside it needs no entry"));
            }
            if self.private_keys[..index].iter().any(|other| other.path == key.path) {
                return problem(format!("`{shown}` is named twice"));
            }
            if key.opaque && key.certificate.is_some() {
                return problem(format!(
                    "`{shown}` is `opaque` and has a certificate: an opaque key is not proved"
                ));
            }
            if let Some(set) =
                self.configuration.iter().chain(&self.dynamic_files).find(|path| **path == key.path)
            {
                return problem(format!(
                    "`{}` is a private key and must not be in a file set as well",
                    set.display()
                ));
            }
            let proved = key.opaque || key.certificate.is_some() || !self.certificate.is_empty();
            if !proved && self.discover.is_none() {
                return problem(format!(
                    "`{shown}` cannot be proved without `certificate` (or say `opaque = true`)"
                ));
            }
        }
        Ok(())
    }
}

impl Discover {
    fn check(&self) -> Result<(), SettingsError> {
        self.discovery().map(|_| ())
    }

    pub(crate) fn discovery(&self) -> Result<Discovery, SettingsError> {
        let problem = |key: &str, text: &str| SettingsError::new(key, format!("`discover`: {text}"));
        let of_cfssl = [
            ("ca", &self.ca),
            ("ca-key", &self.ca_key),
            ("config", &self.config),
            ("working-directory", &self.working_directory),
        ];
        for (key, path) in of_cfssl.iter().chain(&[("python", &self.python)]) {
            path.as_deref().map_or(Ok(()), |path| plain(key, path))?;
        }
        match (&self.cfssl, &self.django_ca) {
            (Some(db_config), None) => {
                plain("cfssl", db_config)?;
                if self.python.is_some() || self.timeout.is_some() {
                    return Err(problem("python", "`python` and `timeout` belong to `django-ca`"));
                }
                if self.unit.as_deref().is_some_and(|unit| !unit.starts_with('/') && unit.contains('/')) {
                    return Err(problem("unit", "`unit` must be a unit's name or its absolute path"));
                }
                Ok(Discovery::Cfssl(CfsslHints {
                    db_config: db_config.clone(),
                    ca: self.ca.clone(),
                    ca_key: self.ca_key.clone(),
                    config: self.config.clone(),
                    unit: self.unit.clone(),
                    working_directory: self.working_directory.clone(),
                }))
            }
            (None, Some(project)) => {
                plain("django-ca", project)?;
                if self.unit.is_some() || of_cfssl.iter().any(|(_, path)| path.is_some()) {
                    return Err(problem(
                        "unit",
                        "`ca`, `ca-key`, `config`, `unit` and `working-directory` belong to `cfssl`",
                    ));
                }
                let timeout = self.timeout.unwrap_or(DEFAULT_DISCOVERY_TIMEOUT);
                if timeout.is_zero() || timeout > LONGEST_DISCOVERY_TIMEOUT {
                    return Err(problem("timeout", "`timeout` must be above 0s, and at most 10m"));
                }
                Ok(Discovery::DjangoCa { project: project.clone(), python: self.python.clone(), timeout })
            }
            (Some(_), Some(_)) => Err(problem("cfssl", "name one of `cfssl` and `django-ca`, not both")),
            (None, None) => {
                Err(problem("discover", "name `cfssl` (its db.json) or `django-ca` (its project folder)"))
            }
        }
    }
}

/// Absolute, without `.` and `..`, and without characters that a file set's pattern gives a meaning.
pub(crate) fn plain(key: &str, path: &Path) -> Result<(), SettingsError> {
    plain_path(path).map_err(|why| SettingsError::new(key, format!("`{key}`: `{}` {why}", path.display())))
}

/// The same rule for paths that were discovered.
pub(crate) fn plain_path(path: &Path) -> Result<(), &'static str> {
    let Some(text) = path.to_str() else { return Err("is not UTF-8") };
    let normal = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !normal || text == "/" {
        return Err("must be an absolute path below `/`, without `..`");
    }
    // `components` drops these silently, and a path is compared by its text elsewhere.
    if text.ends_with('/') || text.contains("//") || text.contains("/./") || text.ends_with("/.") {
        return Err("must be written without `//`, `/./` and a closing `/`");
    }
    if text.contains(['*', '?', '[', ']', '{', '}', '!', '\\', '\0', '\n']) {
        return Err("contains a character that has a meaning in patterns, and cannot be backed up by name");
    }
    Ok(())
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<PathBuf>, D::Error> {
    struct Paths;
    impl<'de> Visitor<'de> for Paths {
        type Value = Vec<PathBuf>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path or a list of paths")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.into()])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(value::SeqAccessDeserializer::new(list))
        }
    }
    from.deserialize_any(Paths)
}

impl<'de> Deserialize<'de> for KeySetting {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        // Not an untagged enum, whose errors name neither the key nor what was expected.
        struct Key;
        impl<'de> Visitor<'de> for Key {
            type Value = KeySetting;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the path of a private key, or a table with `path`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(KeySetting { path: text.into(), ..KeySetting::default() })
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let table = KeyTable::deserialize(value::MapAccessDeserializer::new(map))?;
                let KeyTable { path, purpose, certificate, passphrase_file, opaque } = table;
                Ok(KeySetting { path, purpose, certificate, passphrase_file, opaque })
            }
        }
        from.deserialize_any(Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_writer_api::WriterConfig;
    use serde_json::{Value, json};

    fn settings(value: Value) -> Result<Settings, SettingsError> {
        let settings: Settings = WriterConfig { id: "ca".into(), settings: value }.settings()?;
        settings.check().map(|()| settings)
    }

    #[test]
    fn the_documented_settings_are_understood() {
        let settings = settings(json!({
            "database": "/srv/ca/db.sqlite3",
            "certificate": "/srv/ca/ca.pem",
            "private-keys": ["/srv/ca/ca-key.pem", {"path": "/srv/ca/tls.key", "certificate": "/srv/ca/tls.pem"}],
            "configuration": ["/etc/ca"],
            "dynamic-files": ["/srv/ca/crl"],
            "busy-timeout": "5s",
        }))
        .unwrap();
        assert_eq!(settings.busy_timeout, Some(Duration::from_secs(5)));
        assert_eq!(settings.certificate, [PathBuf::from("/srv/ca/ca.pem")]);
        assert_eq!(settings.private_keys[1].certificate.as_deref(), Some(Path::new("/srv/ca/tls.pem")));
    }

    #[test]
    fn every_mistake_names_its_key_and_what_was_expected() {
        let cases = [
            (json!({}), "database", "expected the path"),
            (json!({"databse": "/x"}), "databse", "expected"),
            (json!({"database": "relative"}), "database", "absolute"),
            (json!({"database": "/srv/../etc/x"}), "database", "absolute"),
            (json!({"database": "/srv/a*b"}), "database", "patterns"),
            (json!({"database": "/srv/ca/"}), "database", "closing"),
            (json!({"database": "/d", "configuration": ["/d"]}), "configuration", "is the database already"),
            (json!({"database": "/d", "private-keys": ["/k"]}), "private-keys", "without `certificate`"),
            (
                json!({"database": "/d", "certificate": "/c", "private-keys": ["/k", "/k"]}),
                "private-keys",
                "twice",
            ),
            (
                json!({"database": "/d", "certificate": "/c", "private-keys": ["/k"], "configuration": ["/k"]}),
                "private-keys",
                "file set",
            ),
            (json!({"database": "/d", "private-keys": ["/d"]}), "private-keys", "is the database"),
            (
                json!({"database": "/d", "private-keys": [{"path": "/k", "opaque": true, "certificate": "/c"}]}),
                "private-keys",
                "opaque",
            ),
            (
                json!({"database": "/d", "private-keys": [{"path": "/k", "opak": true}]}),
                "private-keys",
                "`opak`, expected",
            ),
            (json!({"database": "/d", "busy-timeout": "0s"}), "busy-timeout", "cannot be held"),
            (json!({"database": "/d", "busy-timeout": "5"}), "busy-timeout", "expected a number and a unit"),
            (json!({"database": "/d", "busy-timeout": 5000}), "busy-timeout", "expected a string"),
            (json!({"database": "/d", "busy-timeout-ms": 5000}), "busy-timeout-ms", "unknown field"),
            (json!({"discover": {}}), "discover", "name `cfssl`"),
            (json!({"discover": {"cfssl": "/a", "django-ca": "/b"}}), "cfssl", "not both"),
            (json!({"discover": {"cfssl": "/a", "python": "/b"}}), "python", "belong to `django-ca`"),
            (json!({"discover": {"django-ca": "/a", "unit": "x"}}), "unit", "belong to `cfssl`"),
            (json!({"discover": {"django-ca": "/a", "timeout": "0s"}}), "timeout", "above 0s"),
            (json!({"discover": {"django-ca": "/a", "timeout": "11m"}}), "timeout", "at most 10m"),
            (json!({"discover": {"django-ca": "/a", "timeout": 60}}), "discover", "expected a string"),
            (json!({"discover": {"cfssl": "db.json"}}), "cfssl", "absolute"),
            (json!({"discover": {"xca": "/x"}}), "discover", "`xca`, expected"),
        ];
        for (value, key, expected) in cases {
            let error = settings(value.clone()).unwrap_err();
            assert_eq!(error.key.as_deref(), Some(key), "{value}: {error}");
            assert!(error.problem.contains(expected), "{value}: {error}");
        }
    }

    #[test]
    fn wrong_types_say_what_was_expected() {
        for (value, expected) in [
            (json!({"database": 5}), "expected path string"),
            (json!({"database": "/d", "certificate": 5}), "expected a path or a list of paths"),
            (json!({"database": "/d", "private-keys": "/k"}), "expected a sequence"),
            (
                json!({"database": "/d", "private-keys": [5]}),
                "expected the path of a private key, or a table",
            ),
            (json!({"discover": "cfssl"}), "expected struct Discover"),
        ] {
            let error = settings(value.clone()).unwrap_err();
            assert!(error.problem.contains(expected), "{value}: {error}");
        }
    }
}

//! Finds a cfssl installation from its `db.json`, its options and the unit that runs it.
//!
//! What cfssl needs is spread: `db.json` names the database, the command line names certificates, keys and policy, and
//! the policy may contain or name the secrets of its remote users (`auth_keys`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::unit::{self, Unit};
use super::{DiscoverError, read_configuration};
use crate::installation::{CertificateSource, Installation, Key, Product};
use crate::settings::CfsslHints;

/// go-sqlite3's own default.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct DbConfig {
    driver: String,
    data_source: String,
}

/// cfssl's options that name files.
#[derive(Debug, Default, PartialEq)]
struct Options {
    ca: Option<String>,
    ca_key: Option<String>,
    config: Option<String>,
    db_config: Option<String>,
    responder: Option<String>,
    responder_key: Option<String>,
    tls_cert: Option<String>,
    tls_key: Option<String>,
    plain: Vec<String>,
}

/// Reads the installation.
pub(crate) fn discover(hints: &CfsslHints) -> Result<Installation, DiscoverError> {
    let db_config: DbConfig =
        serde_json::from_str(&read_configuration(&hints.db_config)?).map_err(|error| {
            DiscoverError::content(&hints.db_config, format!("{error}; expected `driver` and `data_source`"))
        })?;
    if db_config.driver != "sqlite3" {
        let problem = format!("its driver is `{}`; this writer backs up `sqlite3`", db_config.driver);
        return Err(DiscoverError::content(&hints.db_config, problem));
    }
    let unit = hints.unit.as_deref().map(unit::read).transpose()?;
    let options = unit.as_ref().map(options_of).transpose()?.unwrap_or_default();
    let base = base_folder(hints, unit.as_ref());
    if let Some(other) = options.db_config.as_deref().map(|path| absolute(&base, path))
        && !same_file(&other, &hints.db_config)
    {
        let problem = format!("the unit starts cfssl with another `-db-config`: {}", other.display());
        return Err(DiscoverError::content(&hints.db_config, problem));
    }
    let (database, busy_timeout) = data_source(&db_config.data_source)
        .map_err(|problem| DiscoverError::content(&hints.db_config, problem))?;
    let mut found = Installation {
        product: Product::Cfssl,
        database: absolute(&base, &database),
        busy_timeout: Some(busy_timeout),
        configuration: vec![hints.db_config.clone()],
        ..Installation::default()
    };
    if let Some(unit) = &unit {
        found.configuration.extend(unit.files.iter().cloned());
    }
    let file = |hint: &Option<PathBuf>, option: &Option<String>| -> Result<Option<PathBuf>, DiscoverError> {
        match (hint, option) {
            (Some(hint), _) => Ok(Some(hint.clone())),
            (None, Some(option)) => file_option(&hints.db_config, &base, option).map(Some),
            (None, None) => Ok(None),
        }
    };
    let pairs = [
        ("CA key", file(&hints.ca, &options.ca)?, file(&hints.ca_key, &options.ca_key)?),
        ("OCSP responder key", file(&None, &options.responder)?, file(&None, &options.responder_key)?),
        ("TLS key", file(&None, &options.tls_cert)?, file(&None, &options.tls_key)?),
    ];
    for (purpose, certificate, key) in pairs {
        found.certificates.extend(certificate.clone());
        if let Some(path) = key {
            let certificate = certificate.map_or(CertificateSource::Declared, CertificateSource::File);
            found.keys.push(Key::new(path, purpose, certificate));
        }
    }
    for option in &options.plain {
        found.configuration.push(file_option(&hints.db_config, &base, option)?);
    }
    if let Some(policy) = file(&hints.config, &options.config)? {
        add_policy(&mut found, &base, policy)?;
    }
    Ok(found)
}

/// The signing policy: sealed whole when it contains secrets, plain configuration otherwise.
fn add_policy(found: &mut Installation, base: &Path, policy: PathBuf) -> Result<(), DiscoverError> {
    let text = read_configuration(&policy)?;
    let content: Value =
        serde_json::from_str(&text).map_err(|error| DiscoverError::content(&policy, error.to_string()))?;
    let mut inside = false;
    for secret in
        content.get("auth_keys").and_then(Value::as_object).into_iter().flat_map(|keys| keys.values())
    {
        let text = secret.get("key").and_then(Value::as_str).unwrap_or_default();
        if let Some(path) = text.strip_prefix("file:") {
            found.keys.push(Key::opaque(absolute(base, path), "authentication key"));
        } else if text.starts_with("env:") {
            found.warnings.push(format!(
                "{}: an authentication key comes from the environment and is not in this backup",
                policy.display()
            ));
        } else {
            inside = true;
        }
    }
    if inside {
        found.keys.push(Key::opaque(policy, "signing policy with authentication keys"));
    } else {
        found.configuration.push(policy);
    }
    Ok(())
}

fn options_of(unit: &Unit) -> Result<Options, DiscoverError> {
    let path = &unit.files[0];
    let is_cfssl = |word: &String| Path::new(word).file_name().is_some_and(|name| name == "cfssl");
    // Also behind a wrapper such as `/usr/bin/env cfssl serve …` or `flock … cfssl serve …`.
    let command = unit.commands.iter().find_map(|words| {
        let at = words.iter().position(is_cfssl)?;
        words[at..].iter().any(|word| word == "serve" || word == "ocspserve").then(|| &words[at + 1..])
    });
    let Some(words) = command else {
        return Err(DiscoverError::content(path, "no ExecStart of this unit runs `cfssl serve`"));
    };
    let mut options = Options::default();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        // Go's flags: one dash or two, the value behind `=` or as the next word.
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        let (name, inline) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
        let plain = matches!(
            name,
            "int-bundle" | "ca-bundle" | "int-dir" | "metadata" | "responses" | "mutual-tls-ca"
        );
        let slot = match name {
            "ca" => Some(&mut options.ca),
            "ca-key" => Some(&mut options.ca_key),
            "config" => Some(&mut options.config),
            "db-config" => Some(&mut options.db_config),
            "responder" => Some(&mut options.responder),
            "responder-key" => Some(&mut options.responder_key),
            "tls-cert" => Some(&mut options.tls_cert),
            "tls-key" => Some(&mut options.tls_key),
            _ => None,
        };
        if slot.is_none() && !plain {
            continue;
        }
        let Some(value) = inline.or_else(|| words.next().map(String::as_str)) else { continue };
        // Only systemd knows these values.
        if value.contains('$') || value.replace("%%", "").contains('%') {
            let problem = format!(
                "`-{name} {value}` uses a variable or specifier; name the file in the settings instead"
            );
            return Err(DiscoverError::content(path, problem));
        }
        let value = value.replace("%%", "%");
        match slot {
            Some(slot) => *slot = Some(value),
            None => options.plain.push(value),
        }
    }
    Ok(options)
}

fn base_folder(hints: &CfsslHints, unit: Option<&Unit>) -> PathBuf {
    let of_db_config = || hints.db_config.parent().unwrap_or(Path::new("/")).to_owned();
    match (&hints.working_directory, unit) {
        (Some(folder), _) => folder.clone(),
        // systemd starts system services in the root folder.
        (None, Some(unit)) => unit.working_directory.clone().unwrap_or_else(|| "/".into()),
        // Without a unit nobody says so; cfssl is usually started where its files lie.
        (None, None) => of_db_config(),
    }
}

/// A file option may be written `file:…`, and a certificate or key may come from the environment, `env:…`.
fn file_option(at: &Path, base: &Path, option: &str) -> Result<PathBuf, DiscoverError> {
    if let Some(variable) = option.strip_prefix("env:") {
        let problem = format!(
            "cfssl takes a file from the environment variable `{variable}`; keep it in a file to back it up"
        );
        return Err(DiscoverError::content(at, problem));
    }
    Ok(absolute(base, option.strip_prefix("file:").unwrap_or(option)))
}

/// go-sqlite3's data source: a path or `file:` URI, options behind `?`. Its path and the busy timeout.
fn data_source(text: &str) -> Result<(String, Duration), String> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    let uri = path.strip_prefix("file:");
    let path = match uri {
        Some(uri) => percent_decoded(uri.strip_prefix("//").unwrap_or(uri))
            .ok_or_else(|| format!("data_source `{text}` is no readable URI"))?,
        None => path.to_owned(),
    };
    let options: Vec<(&str, &str)> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let memory = path.is_empty() || path == ":memory:" || options.contains(&("mode", "memory"));
    if memory {
        return Err(format!("data_source `{text}` is a database in memory: there is nothing to back up"));
    }
    let timeout = options.iter().find(|(name, _)| matches!(*name, "_busy_timeout" | "_timeout"));
    let timeout = timeout.and_then(|(_, milliseconds)| milliseconds.parse().ok());
    Ok((path, timeout.map_or(BUSY_TIMEOUT, Duration::from_millis)))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// `path` from `base`, with `.` and `..` taken out by name (links are refused later).
fn absolute(base: &Path, path: &str) -> PathBuf {
    let mut result = PathBuf::new();
    for part in base.join(path).components() {
        match part {
            std::path::Component::ParentDir => {
                result.pop();
            }
            std::path::Component::CurDir => {}
            part @ (std::path::Component::RootDir
            | std::path::Component::Normal(_)
            | std::path::Component::Prefix(_)) => result.push(part),
        }
    }
    result
}

fn same_file(one: &Path, two: &Path) -> bool {
    one == two || matches!((one.canonicalize(), two.canonicalize()), (Ok(one), Ok(two)) if one == two)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn layout() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::write(path.join("db.json"), r#"{"driver":"sqlite3","data_source":"certs.db"}"#).unwrap();
        fs::write(path.join("config.json"), r#"{"signing":{"default":{"expiry":"8760h"}}}"#).unwrap();
        (folder, path)
    }

    fn hints(path: &Path) -> CfsslHints {
        CfsslHints {
            db_config: path.join("db.json"),
            ca: Some(path.join("ca.pem")),
            ca_key: Some(path.join("ca-key.pem")),
            config: Some(path.join("config.json")),
            ..CfsslHints::default()
        }
    }

    #[test]
    fn paths_count_from_db_json_without_a_unit() {
        let (_guard, path) = layout();
        let found = discover(&hints(&path)).unwrap();
        assert_eq!(found.database, path.join("certs.db"));
        assert_eq!(found.certificates, [path.join("ca.pem")]);
        assert_eq!(
            found.keys,
            [Key::new(path.join("ca-key.pem"), "CA key", CertificateSource::File(path.join("ca.pem")))]
        );
        assert_eq!(found.configuration, [path.join("db.json"), path.join("config.json")]);
        assert_eq!(found.busy_timeout, Some(BUSY_TIMEOUT));
    }

    #[test]
    fn the_unit_gives_every_file_and_the_folder_they_count_from() {
        let (_guard, path) = layout();
        let unit = path.join("cfssl.service");
        let text = format!(
            "[Service]\nWorkingDirectory={0}\nExecStart=/usr/bin/env cfssl serve -address 127.0.0.1 -ca=ca.pem --ca-key file:ca-key.pem \\\n \
             -config config.json -db-config {0}/db.json -responder ocsp.pem -responder-key ocsp-key.pem -tls-cert tls.pem -tls-key tls-key.pem -int-bundle int.pem\n",
            path.display()
        );
        fs::write(&unit, text).unwrap();
        let hints = CfsslHints {
            db_config: path.join("db.json"),
            unit: unit.to_str().map(Into::into),
            ..CfsslHints::default()
        };
        let found = discover(&hints).unwrap();
        let names = |paths: &[PathBuf]| {
            paths.iter().map(|p| p.strip_prefix(&path).unwrap().display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&found.certificates), ["ca.pem", "ocsp.pem", "tls.pem"]);
        let keys: Vec<PathBuf> = found.keys.iter().map(|key| key.path.clone()).collect();
        assert_eq!(names(&keys), ["ca-key.pem", "ocsp-key.pem", "tls-key.pem"]);
        assert_eq!(names(&found.configuration), ["db.json", "cfssl.service", "int.pem", "config.json"]);
    }

    #[test]
    fn a_policy_with_secrets_is_a_key_and_not_configuration() {
        let (_guard, path) = layout();
        let policy = r#"{"signing":{},"auth_keys":{"a":{"type":"standard","key":"00112233"},"b":{"type":"standard","key":"file:b.key"},"c":{"type":"standard","key":"env:C"}}}"#;
        fs::write(path.join("config.json"), policy).unwrap();
        let found = discover(&hints(&path)).unwrap();
        let opaque: Vec<&PathBuf> =
            found.keys.iter().filter(|key| key.is_opaque()).map(|key| &key.path).collect();
        assert_eq!(opaque, [&path.join("b.key"), &path.join("config.json")]);
        assert_eq!(found.configuration, [path.join("db.json")]);
        assert!(found.warnings[0].contains("environment"));
    }

    #[test]
    fn what_cannot_be_backed_up_is_refused_with_its_reason() {
        let (_guard, path) = layout();
        let refused = |content: &str| {
            fs::write(path.join("db.json"), content).unwrap();
            discover(&hints(&path)).unwrap_err().to_string()
        };
        assert!(refused(r#"{"driver":"postgres","data_source":"x"}"#).contains("driver is `postgres`"));
        assert!(refused(r#"{"driver":"sqlite3","data_source":":memory:"}"#).contains("in memory"));
        assert!(refused(r#"{"driver":"sqlite3","data_source":"file:x?mode=memory"}"#).contains("in memory"));
        assert!(refused("{").contains("expected `driver`"));
        assert!(refused(r#"{"driver":"sqlite3"}"#).contains("data_source"));
        fs::remove_file(path.join("db.json")).unwrap();
        assert!(matches!(discover(&hints(&path)), Err(DiscoverError::Read { .. })));
    }

    #[test]
    fn units_that_do_not_tell_are_refused() {
        let (_guard, path) = layout();
        let unit = path.join("x.service");
        let refused = |exec: &str| {
            fs::write(&unit, format!("[Service]\nExecStart={exec}\n")).unwrap();
            let hints = CfsslHints { unit: unit.to_str().map(Into::into), ..hints(&path) };
            discover(&hints).unwrap_err().to_string()
        };
        assert!(refused("/usr/bin/nginx").contains("no ExecStart"));
        assert!(refused("/usr/bin/cfssl serve -ca $CA").contains("variable"));
        assert!(refused("/usr/bin/cfssl serve -tls-key %d/key").contains("specifier"));
        assert!(
            refused("/usr/bin/cfssl serve -responder-key env:KEY").contains("environment variable `KEY`")
        );
        assert!(refused("/usr/bin/cfssl serve -db-config /other.json").contains("another `-db-config`"));
    }

    #[test]
    fn data_sources_are_read_as_go_sqlite3_reads_them() {
        let read = |text| {
            let (path, timeout) = data_source(text).unwrap();
            (path, timeout.as_millis())
        };
        assert_eq!(read("certs.db"), ("certs.db".into(), 5000));
        assert_eq!(read("/a/c.db?_busy_timeout=2000&cache=shared"), ("/a/c.db".into(), 2000));
        assert_eq!(read("file:/a%20b/c.db?_timeout=7"), ("/a b/c.db".into(), 7));
        assert_eq!(read("file:///a/c.db"), ("/a/c.db".into(), 5000));
    }
}

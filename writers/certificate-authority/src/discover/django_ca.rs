//! Finds a django-ca installation by asking it: its own Python, run as its own user, prints what it uses.
//!
//! Settings of Django are a program; nothing short of running them tells what they are. That program belongs to the
//! project's owner, so it is run as that user, never with more rights (promise P10).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::child::{self, User};
use super::{DiscoverError, trusted};
use crate::installation::{CertificateSource, Installation, Key, Passphrase, Product};

const SCRIPT: &str = include_str!("django_ca.py");
const MARKER: &str = "HOLDFAST-DISCOVERY ";
/// Python's and Django's own default.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
const SQLITE: &str = "django.db.backends.sqlite3";

#[derive(Deserialize)]
struct Answer {
    databases: std::collections::BTreeMap<String, Database>,
    database: String,
    keys: Vec<FoundKey>,
    certificates: Vec<String>,
    configuration: Vec<FoundFile>,
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Database {
    engine: String,
    name: PathBuf,
    timeout: Option<f64>,
}

#[derive(Deserialize)]
struct FoundKey {
    path: PathBuf,
    purpose: String,
    certificate: Option<String>,
    passphrase: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
struct FoundFile {
    path: PathBuf,
    secret: bool,
}

/// Asks the installation in `project`.
pub(crate) async fn discover(
    project: &Path,
    python: Option<&Path>,
    timeout: Duration,
) -> Result<Installation, DiscoverError> {
    let manage = project.join("manage.py");
    let read = |source| DiscoverError::Read { path: manage.clone(), source };
    let found = std::fs::symlink_metadata(&manage).map_err(read)?;
    if !found.is_file() {
        return Err(DiscoverError::content(&manage, "is not a regular file"));
    }
    let user = user_for(&manage, User { uid: found.uid(), gid: found.gid() })?;
    let runs_as = user.map_or_else(own_uid, |user| user.uid);
    let python = python.map_or_else(|| default_python(project), Path::to_owned);
    let program =
        python.canonicalize().map_err(|source| DiscoverError::Read { path: python.clone(), source })?;
    for path in [&manage, project, &program] {
        trusted(path, runs_as)?;
    }
    // The name within the virtual environment, not what it leads to: Python finds its packages by it.
    let output = child::ask(&python, &["manage.py", "shell", "-c", SCRIPT], project, user, timeout).await?;
    let garbled = |problem: String| DiscoverError::Program { program: python.clone(), problem };
    let text = std::str::from_utf8(&output)
        .map_err(|_| garbled("answered with something that is not UTF-8".into()))?;
    let answer = text.lines().rev().find_map(|line| line.strip_prefix(MARKER));
    let answer = answer.ok_or_else(|| garbled("did not say what the installation consists of".into()))?;
    // Not the parser's words: they could quote a passphrase.
    let answer: Answer = serde_json::from_str(answer).map_err(|error| {
        garbled(format!("gave an answer that is cut off or malformed at column {}", error.column()))
    })?;
    installation(&manage, answer)
}

fn installation(manage: &Path, answer: Answer) -> Result<Installation, DiscoverError> {
    let problem = |text: String| DiscoverError::content(manage, text);
    let database = answer.databases.get(&answer.database);
    let database =
        database.ok_or_else(|| problem(format!("no database `{}` in DATABASES", answer.database)))?;
    if database.engine != SQLITE {
        return Err(problem(format!(
            "its database engine is `{}`; this writer backs up `{SQLITE}`",
            database.engine
        )));
    }
    if !database.name.is_absolute() {
        return Err(problem(format!("its database is `{}`: no file to back up", database.name.display())));
    }
    let mut found = Installation {
        product: Product::DjangoCa,
        database: database.name.clone(),
        known_certificates: answer.certificates.concat().into_bytes(),
        busy_timeout: Some(busy_timeout(database.timeout)),
        warnings: answer.warnings,
        ..Installation::default()
    };
    for key in answer.keys {
        let certificate = key
            .certificate
            .map_or(CertificateSource::Declared, |pem| CertificateSource::Known(pem.into_bytes()));
        let passphrase = match key.passphrase.as_deref().map(|text| bytes_of_hex(text)) {
            None => None,
            Some(Some(bytes)) => Some(Passphrase::Known(bytes)),
            Some(None) => return Err(problem("a passphrase was not readable".into())),
        };
        found.keys.push(Key { passphrase, ..Key::new(key.path, &key.purpose, certificate) });
    }
    for file in answer.configuration {
        if file.secret {
            found.keys.push(Key::opaque(file.path, "settings with secrets"));
        } else {
            found.configuration.push(file.path);
        }
    }
    Ok(found)
}

fn busy_timeout(seconds: Option<f64>) -> Duration {
    seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(BUSY_TIMEOUT)
}

fn bytes_of_hex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
    for pair in digits.chunks(2) {
        bytes.push(u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?);
    }
    Some(bytes)
}

/// Whom to run as: the owner when we are root; ourselves when the project is ours or root's; nobody else's.
fn user_for(manage: &Path, owner: User) -> Result<Option<User>, DiscoverError> {
    let own = own_uid();
    if own == 0 && owner.uid != 0 {
        return Ok(Some(owner));
    }
    if owner.uid == own || owner.uid == 0 {
        return Ok(None);
    }
    let problem = format!("belongs to user {}; only root or that user can ask it", owner.uid);
    Err(DiscoverError::Untrusted { path: manage.to_owned(), problem })
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn default_python(project: &Path) -> PathBuf {
    let inside = [".venv", "venv", "env"].map(|folder| project.join(folder).join("bin/python"));
    inside.into_iter().find(|python| python.exists()).unwrap_or_else(|| "/usr/bin/python3".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, chown};

    /// A project whose "Python" answers with `script`.
    fn project(script: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        fs::write(path.join("manage.py"), "").unwrap();
        let python = path.join("python");
        fs::write(&python, format!("#!/bin/sh\n{script}\n")).unwrap();
        for (file, mode) in [("manage.py", 0o644), ("python", 0o755), (".", 0o755)] {
            fs::set_permissions(path.join(file), fs::Permissions::from_mode(mode)).unwrap();
        }
        (folder, path, python)
    }

    fn answer(database: &str, engine: &str) -> String {
        format!(
            r#"echo "17 objects imported"; echo; cat <<'END'
HOLDFAST-DISCOVERY {{"databases":{{"default":{{"engine":"{engine}","name":"{database}","timeout":30}}}},"database":"default","keys":[{{"path":"/k/ca.key","purpose":"CA key","certificate":"PEM1","passphrase":"00ff"}}],"certificates":["PEM1","PEM2"],"configuration":[{{"path":"/p/settings.py","secret":true}},{{"path":"/p/urls.py","secret":false}}],"warnings":["w"]}}
END"#
        )
    }

    async fn ask(path: &Path, python: &Path) -> Result<Installation, DiscoverError> {
        discover(path, Some(python), Duration::from_secs(20)).await
    }

    #[tokio::test]
    async fn the_answer_becomes_an_installation_and_settings_with_secrets_become_keys() {
        let (_guard, path, python) = project(&answer("/p/db.sqlite3", SQLITE));
        let found = ask(&path, &python).await.unwrap();
        assert_eq!(found.database, PathBuf::from("/p/db.sqlite3"));
        assert_eq!(
            (found.busy_timeout, found.known_certificates.as_slice()),
            (Some(Duration::from_secs(30)), &b"PEM1PEM2"[..])
        );
        assert_eq!(found.configuration, [PathBuf::from("/p/urls.py")]);
        let paths: Vec<_> = found.keys.iter().map(|key| (key.path.as_path(), key.is_opaque())).collect();
        assert_eq!(paths, [(Path::new("/k/ca.key"), false), (Path::new("/p/settings.py"), true)]);
        assert!(
            matches!(&found.keys[0].passphrase, Some(Passphrase::Known(bytes)) if bytes.as_slice() == [0, 255])
        );
        assert_eq!(found.warnings, ["w"]);
    }

    #[tokio::test]
    async fn other_engines_and_garbled_answers_are_refused() {
        for (script, expected) in [
            (answer("/p/db", "django.db.backends.postgresql"), "engine is `django.db.backends.postgresql`"),
            (answer(":memory:", SQLITE), "no file to back up"),
            ("echo HOLDFAST-DISCOVERY {".into(), "cut off or malformed"),
            ("echo hello".into(), "did not say"),
            ("echo 'ModuleNotFoundError: django' >&2; exit 1".into(), "ModuleNotFoundError"),
        ] {
            let (_guard, path, python) = project(&script);
            let error = ask(&path, &python).await.unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn what_others_can_change_is_not_run() {
        for file in ["manage.py", "python", "."] {
            let (_guard, path, python) = project("touch ran");
            fs::set_permissions(path.join(file), fs::Permissions::from_mode(0o777)).unwrap();
            let error = ask(&path, &python).await.unwrap_err();
            assert!(matches!(error, DiscoverError::Untrusted { .. }), "{file}: {error}");
            assert!(!path.join("ran").exists());
        }
        let (_guard, path, python) = project("");
        fs::remove_file(path.join("manage.py")).unwrap();
        assert!(matches!(ask(&path, &python).await, Err(DiscoverError::Read { .. })));
    }

    #[tokio::test]
    async fn a_project_is_asked_as_its_owner_and_never_as_root() {
        if own_uid() != 0 {
            eprintln!("skipped: changing the user needs root");
            return;
        }
        let (_guard, path, python) = project("id -u >&2; id -G >&2; exit 1");
        for file in [&path, &path.join("manage.py"), &python] {
            chown(file, Some(12345), Some(12346)).unwrap();
        }
        let error = ask(&path, &python).await.unwrap_err();
        assert!(error.to_string().contains("12345; 12346"), "{error}");
        // Owned by a third user: neither root's nor the project's.
        chown(&python, Some(12399), Some(12346)).unwrap();
        assert!(matches!(ask(&path, &python).await, Err(DiscoverError::Untrusted { .. })));
    }
}

//! Where a writer comes from: built in, or a program of somebody else's.
//!
//! Owns: that no program is started that others could have changed (promise P10).

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use holdfast_writer_api::{Registry, SettingsError, WriterDescriptor};

use crate::config::{ConfigError, PluginsConfig, WriterEntry, check_trusted};

/// Where a writer comes from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// It is linked into this program.
    BuiltIn(&'static WriterDescriptor),
    /// It is this program.
    Program(PathBuf),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn(_) => f.write_str("built in"),
            Self::Program(path) => path.display().fmt(f),
        }
    }
}

/// Where the writer of `entry` comes from: built in, then `program`, then a folder of programs.
///
/// # Errors
/// [`ConfigError`] with file and line.
pub fn origin(
    entry: &WriterEntry,
    plugins: &PluginsConfig,
    registry: &Registry,
) -> Result<Origin, ConfigError> {
    let fail =
        |key: &str, problem: String| Err(ConfigError::setting(entry, &SettingsError::new(key, problem)));
    let writer_type = &entry.writer_type;
    match (registry.get(writer_type), &entry.common.program) {
        (Some(_), Some(_)) => fail(
            "program",
            format!("type `{writer_type}` is built in; a program is a writer of a type of its own"),
        ),
        (Some(_), None) if !entry.common.arguments.is_empty() => {
            fail("arguments", format!("type `{writer_type}` is built in, and takes no arguments"))
        }
        (Some(descriptor), None) => Ok(Origin::BuiltIn(descriptor)),
        (None, Some(program)) if !program.is_absolute() => {
            fail("program", format!("`{}` is not absolute", program.display()))
        }
        (None, Some(program)) => checked(entry, "program", program),
        (None, None) => {
            let found = plugins.paths.iter().map(|folder| folder.join(writer_type));
            // What is there counts, usable or not: a damaged link must not let the next folder speak for it.
            if let Some(program) = found.into_iter().find(|program| program.symlink_metadata().is_ok()) {
                return checked(entry, "type", &program);
            }
            let mut expected = format!("expected one of `{}`", registry.names().join("`, `"));
            if !plugins.paths.is_empty() {
                let folders: Vec<_> =
                    plugins.paths.iter().map(|folder| folder.display().to_string()).collect();
                expected = format!("{expected}, or a program of that name in {}", folders.join(" or "));
            }
            fail("type", format!("there is no writer type `{writer_type}`; {expected}"))
        }
    }
}

fn checked(entry: &WriterEntry, key: &str, program: &Path) -> Result<Origin, ConfigError> {
    let fail = |problem: String| Err(ConfigError::setting(entry, &SettingsError::new(key, problem)));
    match program.metadata() {
        Err(error) => return fail(format!("{} cannot be looked at: {error}", program.display())),
        Ok(meta) if !meta.is_file() => return fail(format!("{} is no file", program.display())),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => {
            return fail(format!("{} is not executable; run `chmod +x` on it", program.display()));
        }
        Ok(_) => {}
    }
    check_trusted(program).map_err(|source| ConfigError::UntrustedProgram {
        file: entry.source.file.clone(),
        line: entry.source.line_of(key),
        writer: entry.id.clone(),
        source,
    })?;
    Ok(Origin::Program(program.to_owned()))
}

#[cfg(test)]
mod tests {
    use holdfast_writer_api::{Writer, WriterConfig};

    use super::*;
    use crate::config::WriterCommon;

    fn build(_: WriterConfig) -> Result<Box<dyn Writer>, SettingsError> {
        Err(SettingsError::new("x", "a test writer"))
    }
    static BUILT_IN: WriterDescriptor = WriterDescriptor { name: "sqlite", summary: "", build };

    struct Site {
        dir: tempfile::TempDir,
        plugins: PluginsConfig,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let paths = ["first", "second"].map(|name| dir.path().join(name)).to_vec();
            for path in &paths {
                std::fs::create_dir(path).unwrap();
                std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
            }
            Self { dir, plugins: PluginsConfig { paths } }
        }

        fn program(&self, name: &str, mode: u32) -> PathBuf {
            let path = self.dir.path().join(name);
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        }

        fn origin(&self, writer_type: &str, program: Option<PathBuf>) -> Result<Origin, ConfigError> {
            let mut registry = Registry::empty();
            registry.register(&BUILT_IN).unwrap();
            let entry = WriterEntry {
                id: "w".into(),
                writer_type: writer_type.into(),
                settings: serde_json::Value::Null,
                common: WriterCommon { program, ..WriterCommon::default() },
                source: crate::config::Source {
                    file: "/holdfast.toml".into(),
                    line: 7,
                    ..Default::default()
                },
            };
            origin(&entry, &self.plugins, &registry)
        }

        fn complaint(&self, writer_type: &str, program: Option<PathBuf>) -> String {
            holdfast_writer_api::chain(&self.origin(writer_type, program).unwrap_err())
        }
    }

    #[test]
    fn built_in_comes_first_then_the_named_program_then_the_folders_in_order() {
        let site = Site::new();
        let named = site.program("named", 0o755);
        site.program("second/redis", 0o755);
        site.program("second/sqlite", 0o755);
        let found = |writer_type: &str, program| site.origin(writer_type, program).unwrap().to_string();
        assert_eq!(found("sqlite", None), "built in");
        assert_eq!(found("redis", Some(named.clone())), named.display().to_string());
        assert!(found("redis", None).ends_with("second/redis"));
        site.program("first/redis", 0o755);
        assert!(found("redis", None).ends_with("first/redis"));
    }

    #[test]
    fn what_cannot_be_started_is_refused_with_file_and_line() {
        let site = Site::new();
        let named = site.program("named", 0o755);
        let dull = site.program("first/dull", 0o644);
        std::os::unix::fs::symlink("nowhere", site.dir.path().join("first/broken")).unwrap();
        site.program("second/broken", 0o755);
        for (complaint, expected) in [
            (site.complaint("sqlite", Some(named)), "built in"),
            (site.complaint("redis", Some("relative".into())), "not absolute"),
            (site.complaint("redis", Some(site.dir.path().join("absent"))), "cannot be looked at"),
            (site.complaint("redis", Some(site.dir.path().into())), "is no file"),
            (site.complaint("redis", Some(dull)), "not executable"),
            (site.complaint("redis", None), "expected one of `sqlite`, or a program of that name in"),
            (site.complaint("broken", None), "cannot be looked at"),
        ] {
            assert!(complaint.starts_with("/holdfast.toml:7: writer `w`: "), "{complaint}");
            assert!(complaint.contains(expected), "{expected}: {complaint}");
        }
    }

    #[test]
    fn a_program_that_others_could_change_is_refused_by_name() {
        let site = Site::new();
        let open = site.program("open", 0o777);
        let complaint = site.complaint("redis", Some(open.clone()));
        assert!(complaint.contains("/holdfast.toml:7: the program of writer `w` cannot be trusted"));
        assert!(complaint.contains("written by others"), "{complaint}");
        std::fs::set_permissions(&open, PermissionsExt::from_mode(0o755)).unwrap();
        site.origin("redis", Some(open)).unwrap();
        // So is one in a folder that others could change.
        site.program("first/redis", 0o755);
        let folder = &site.plugins.paths[0];
        std::fs::set_permissions(folder, PermissionsExt::from_mode(0o777)).unwrap();
        let complaint = site.complaint("redis", None);
        assert!(complaint.contains("first can be written by others"), "{complaint}");
        if rustix::process::geteuid().is_root() {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).unwrap();
            std::os::unix::fs::chown(folder.join("redis"), Some(65534), None).unwrap();
            assert!(site.complaint("redis", None).contains("belongs to user 65534"));
        }
    }
}

//! Reads `holdfast.toml` and `conf.d/*.toml` beside it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{
    BackupConfig, COMMON_KEYS, Config, ConfigError, KeepConfig, PluginsConfig, RecoveryConfig,
    RepositoryConfig, Source, WriterCommon, WriterEntry, check_trusted,
};

/// Longest configuration file we read.
const MAX_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    repository: Option<RepositoryConfig>,
    recovery: Option<RecoveryConfig>,
    backup: Option<BackupConfig>,
    keep: Option<KeepConfig>,
    plugins: Option<PluginsConfig>,
    #[serde(default)]
    writer: Vec<toml::Spanned<toml::Table>>,
}

/// Reads the configuration at `path` and in `conf.d` beside it, in the order of names.
///
/// # Errors
/// [`ConfigError`] with file, line and key. Files that others can write are refused unread.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    if !path.exists() {
        return Err(ConfigError::Missing { path: path.to_owned() });
    }
    let mut config = Config::default();
    let mut set_by: [Option<PathBuf>; 5] = Default::default();
    let mut allowed_at = None;
    for file in files(path)? {
        check_trusted(&file).map_err(ConfigError::Untrusted)?;
        let text = read(&file)?;
        let parsed: File = toml::from_str(&text).map_err(|error| from_toml(&file, &text, &error))?;
        let mut once = |index: usize, table: &str, given: bool| {
            match (&set_by[index], given) {
                (Some(first), true) => {
                    return Err(ConfigError::Invalid {
                        file: file.clone(),
                        line: line_of_table(&text, table),
                        key: Some(table.to_owned()),
                        problem: format!("[{table}] is already set in {}", first.display()),
                    });
                }
                (None, true) => set_by[index] = Some(file.clone()),
                (_, false) => {}
            }
            Ok(())
        };
        once(0, "repository", parsed.repository.is_some())?;
        once(1, "recovery", parsed.recovery.is_some())?;
        once(2, "backup", parsed.backup.is_some())?;
        once(3, "keep", parsed.keep.is_some())?;
        once(4, "plugins", parsed.plugins.is_some())?;
        if parsed.backup.is_some() {
            allowed_at = Some((file.clone(), line_of_key(&text, "backup", "allow-incomplete")));
        }
        config.repository = parsed.repository.unwrap_or(config.repository);
        config.recovery = parsed.recovery.unwrap_or(config.recovery);
        config.backup = parsed.backup.unwrap_or(config.backup);
        config.keep = parsed.keep.unwrap_or(config.keep);
        config.plugins = parsed.plugins.unwrap_or(config.plugins);
        if let Some(relative) = config.plugins.paths.iter().find(|path| !path.is_absolute()) {
            return Err(ConfigError::Invalid {
                file: file.clone(),
                line: line_of_table(&text, "plugins"),
                key: Some("paths".into()),
                problem: format!("`paths` of [plugins]: `{}` is not absolute", relative.display()),
            });
        }
        for table in parsed.writer {
            let entry = writer(&file, &text, table)?;
            if let Some(first) = config.writers.iter().find(|w| w.id == entry.id) {
                let at = format!("{}:{}", first.source.file.display(), first.source.line);
                return Err(invalid(&entry.source, "id", format!("the id `{}` is taken at {at}", entry.id)));
            }
            config.writers.push(entry);
        }
    }
    let ids: Vec<_> = config.writers.iter().map(|writer| writer.id.as_str()).collect();
    let unknown = config.backup.allow_incomplete.iter().find(|id| !ids.contains(&id.as_str()));
    match (unknown, allowed_at) {
        // Whoever is meant by it would not be allowed to fail, and that would show on the day that it does.
        (Some(unknown), Some((file, line))) => Err(ConfigError::Invalid {
            file,
            line,
            key: Some("allow-incomplete".into()),
            problem: format!(
                "`allow-incomplete` of [backup]: there is no writer `{unknown}`; configured are: {}",
                ids.join(", ")
            ),
        }),
        _ => Ok(config),
    }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let mut found = vec![path.to_owned()];
    let folder = path.with_file_name("conf.d");
    let unreadable = |source| ConfigError::Unreadable { path: folder.clone(), source };
    match std::fs::read_dir(&folder) {
        Ok(entries) => {
            let mut more = Vec::new();
            for entry in entries {
                let file = entry.map_err(unreadable)?.path();
                if file.extension().is_some_and(|ending| ending == "toml") {
                    more.push(file);
                }
            }
            more.sort();
            found.extend(more);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(error)),
    }
    Ok(found)
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > MAX_BYTES {
        let source = std::io::Error::other(format!("{size} bytes are more than a configuration can have"));
        return Err(unreadable(source));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

fn writer(file: &Path, text: &str, table: toml::Spanned<toml::Table>) -> Result<WriterEntry, ConfigError> {
    let source = source(file, text, table.span());
    let mut table = table.into_inner();
    let mut text_of = |key: &str| match table.remove(key) {
        Some(toml::Value::String(value)) if is_plain(&value) => Ok(value),
        Some(other) => Err(invalid(
            &source,
            key,
            format!(
                "`{key}` is a {}; expected a text of letters, digits, `-`, `_` and `.`",
                other.type_str()
            ),
        )),
        None => Err(invalid(&source, key, format!("a [[writer]] needs `{key}`"))),
    };
    let id = text_of("id")?;
    let writer_type = text_of("type")?;
    let mut common = toml::Table::new();
    for key in COMMON_KEYS {
        if let Some(value) = table.remove(key) {
            common.insert(key.to_owned(), value);
        }
    }
    let common = common_part(common).map_err(|(key, problem)| invalid(&source, &key, problem))?;
    let settings = serde_json::to_value(&table)
        .map_err(|error| invalid(&source, "id", format!("settings that cannot be passed on: {error}")))?;
    Ok(WriterEntry { id, writer_type, settings, common, source })
}

/// One key at a time, so that a wrong value is reported with its key.
fn common_part(table: toml::Table) -> Result<WriterCommon, (String, String)> {
    for (key, value) in &table {
        let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
        if let Err(error) = WriterCommon::deserialize(toml::Value::Table(alone)) {
            return Err((key.clone(), format!("`{key}`: {}", error.message())));
        }
    }
    WriterCommon::deserialize(toml::Value::Table(table))
        .map_err(|error| (String::new(), error.message().to_owned()))
}

/// Ids become file names and paths in the repository.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && !text.starts_with('.')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn invalid(source: &Source, key: &str, problem: String) -> ConfigError {
    let line = source.line_of(key);
    ConfigError::Invalid { file: source.file.clone(), line, key: Some(key.to_owned()), problem }
}

fn source(file: &Path, text: &str, span: Range<usize>) -> Source {
    // The span of a table ends with its header; its text goes on to the next one.
    let start = span.start.min(text.len());
    let body = &text[start..];
    let after_header = body.find('\n').map_or(body.len(), |at| at + 1);
    let end = body[after_header..].find("\n[").map_or(body.len(), |at| after_header + at);
    Source { file: file.to_owned(), line: line_at(text, start), text: body[..end].to_owned() }
}

fn line_at(text: &str, byte: usize) -> usize {
    1 + text.as_bytes()[..byte.min(text.len())].iter().filter(|b| **b == b'\n').count()
}

fn line_of_table(text: &str, table: &str) -> usize {
    let header = format!("[{table}]");
    1 + text.lines().position(|line| line.trim() == header).unwrap_or(0)
}

fn line_of_key(text: &str, table: &str, key: &str) -> usize {
    let from = line_of_table(text, table);
    from + text.lines().skip(from).position(|line| line.trim_start().starts_with(key)).map_or(0, |at| at + 1)
}

fn from_toml(file: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    let line = line_at(text, at);
    let key =
        text.lines().nth(line - 1).and_then(|line| line.split_once('=')).map(|(k, _)| k.trim().to_owned());
    let mut problem = error.message().to_owned();
    if let Some(key) = key.as_deref().filter(|key| !problem.contains(&format!("`{key}`"))) {
        problem = format!("`{key}`: {problem}");
    }
    ConfigError::Invalid { file: file.to_owned(), line, key, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.toml");
        std::fs::write(&path, text).unwrap();
        load(&path)
    }

    fn complaint(text: &str) -> (usize, Option<String>, String) {
        let error = load_text(text).unwrap_err();
        let ConfigError::Invalid { line, key, problem, .. } = error else { panic!("{error:?}") };
        (line, key, problem)
    }

    #[test]
    fn a_writer_keeps_its_own_settings_and_the_requester_its_own() {
        let config = load_text(
            "[repository]\nlocation = \"/r\"\n\n[[writer]]\nid = \"ca\"\ntype = \"sqlite\"\n\
             freeze-budget = \"900ms\"\npatience = \"1m\"\ndatabase = \"/d\"\n",
        )
        .unwrap();
        let writer = &config.writers[0];
        assert_eq!(writer.settings, serde_json::json!({"database": "/d"}));
        assert_eq!(writer.common.freeze_budget, Some(std::time::Duration::from_millis(900)));
        assert_eq!(writer.common.patience, Some(std::time::Duration::from_secs(60)));
        assert_eq!(writer.source.line_of("database"), 9);
    }

    #[test]
    fn every_complaint_names_line_key_and_what_was_expected() {
        let (line, key, problem) = complaint("[repository]\nlocatoin = \"/r\"\n");
        assert_eq!((line, key.as_deref()), (2, Some("locatoin")));
        assert!(problem.contains("expected"), "{problem}");

        let (line, key, problem) = complaint("[repository]\n\nlocation = 7\n");
        assert_eq!((line, key.as_deref()), (3, Some("location")));
        assert!(problem.contains("expected a string"), "{problem}");

        let (line, key, problem) =
            complaint("[[writer]]\nid = \"a\"\ntype = \"x\"\nfreeze-budget = \"10\"\n");
        assert_eq!((line, key.as_deref()), (4, Some("freeze-budget")));
        assert!(problem.contains("unit"), "{problem}");

        let (line, key, _) = complaint("[[writer]]\ntype = \"x\"\n");
        assert_eq!((line, key.as_deref()), (1, Some("id")));

        let (line, _, problem) =
            complaint("[[writer]]\nid = \"a\"\ntype = \"x\"\n[[writer]]\nid = \"a\"\ntype = \"x\"\n");
        assert_eq!(line, 5);
        assert!(problem.contains("taken"), "{problem}");

        let (_, key, _) = complaint("[[writer]]\nid = \"../a\"\ntype = \"x\"\n");
        assert_eq!(key.as_deref(), Some("id"));

        let (line, key, problem) = complaint(
            "[[writer]]\nid = \"a\"\ntype = \"x\"\n[backup]\nfreeze-budget = \"1s\"\nallow-incomplete = [\"a\", \"b\"]\n",
        );
        assert_eq!((line, key.as_deref()), (6, Some("allow-incomplete")));
        assert!(problem.contains("there is no writer `b`; configured are: a"), "{problem}");
    }

    #[test]
    fn garbage_and_a_missing_file_are_named_errors() {
        assert!(matches!(load_text("\u{0}[["), Err(ConfigError::Invalid { .. })));
        assert!(matches!(load(Path::new("/nonexistent.toml")), Err(ConfigError::Missing { .. })));
    }

    #[test]
    fn conf_d_adds_writers_and_may_not_set_a_table_twice() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("holdfast.toml");
        std::fs::write(&path, "[repository]\nlocation = \"/r\"\n").unwrap();
        std::fs::create_dir(dir.path().join("conf.d")).unwrap();
        let more = dir.path().join("conf.d/ca.toml");
        std::fs::write(&more, "[[writer]]\nid = \"ca\"\ntype = \"x\"\n").unwrap();
        assert_eq!(load(&path).unwrap().writers.len(), 1);
        std::fs::write(&more, "[repository]\nlocation = \"/other\"\n").unwrap();
        assert!(matches!(load(&path), Err(ConfigError::Invalid { line: 1, .. })));
    }
}

//! Whom a writer's process runs as.

use std::os::unix::fs::MetadataExt;

use holdfast_writer_api::{ComponentKind, SettingsError, WriterMetadata};

use crate::config::{ConfigError, WriterEntry};

/// The user and group that `run-as` names, if it names one.
///
/// # Errors
/// [`ConfigError`] with file and line: there is no such user. That we may not become him is found when his process
/// is to be started.
pub fn configured(entry: &WriterEntry) -> Result<Option<(u32, u32)>, ConfigError> {
    let Some(name) = &entry.common.run_as else { return Ok(None) };
    match lookup(name) {
        Some(user) => Ok(Some(user)),
        None => {
            let error = SettingsError::new("run-as", format!("there is no user `{name}`"));
            Err(ConfigError::setting(entry, &error))
        }
    }
}

/// The owner of the first database, else of the first file or folder, links not followed.
pub fn owner(metadata: &WriterMetadata) -> Option<(u32, u32)> {
    let mut components: Vec<_> = metadata.components.iter().filter(|c| !c.files.is_empty()).collect();
    components.sort_by_key(|c| c.kind != ComponentKind::Database);
    components.iter().flat_map(|c| &c.files).find_map(|set| {
        let file = set.path.join(&set.pattern);
        let found = std::fs::symlink_metadata(file).or_else(|_| std::fs::symlink_metadata(&set.path)).ok()?;
        Some((found.uid(), found.gid()))
    })
}

fn lookup(name: &str) -> Option<(u32, u32)> {
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(())?;
        let uid = fields.nth(1)?.parse().ok()?;
        Some((uid, fields.next()?.parse().ok()?))
    })
}

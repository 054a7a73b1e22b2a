//! What `SCRIPT describe` prints, and the writer's metadata that it becomes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_writer_api::{
    Capabilities, Component, ComponentKind, DataSource, FileRole, FileSet, FreezeLevel, RestoreMethod,
    RestorePolicy, RestoreRank, WriterError, WriterMetadata, duration,
};
use serde::Deserialize;

/// The one component.
const DATA: &str = "data";
/// How much of a line that is not understood is shown.
const LINE: usize = 80;

/// TOML.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Description {
    /// What a person calls the application; default: the writer's id.
    name: Option<String>,
    /// Of the script.
    #[serde(default)]
    version: String,
    /// Its files and folders, absolute.
    paths: Vec<PathBuf>,
    /// What to leave out of the folders, as in the writer `files`.
    #[serde(default)]
    exclude: Vec<String>,
    /// When it is frozen among others; default: `front-end`.
    #[serde(default)]
    level: FreezeLevel,
    /// The longest hold that the application bears, such as `2s`.
    #[serde(default, deserialize_with = "duration::optional")]
    budget: Option<Duration>,
    /// The service to stop for a restore.
    service: Option<String>,
}

impl Description {
    /// # Errors
    /// [`WriterError::Rejected`]: it is no such description.
    pub fn parse(writer: &str, text: &str) -> Result<Self, WriterError> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let before = &text.as_bytes()[..error.span().map_or(0, |span| span.start.min(text.len()))];
            let number = before.iter().filter(|byte| **byte == b'\n').count();
            let line: String =
                text.lines().nth(number).unwrap_or_default().trim().chars().take(LINE).collect();
            let (number, why) = (number + 1, error.message());
            let why = format!("what `describe` printed is not understood: line {number} (`{line}`): {why}");
            WriterError::rejected(writer, why)
        })
    }

    /// # Errors
    /// [`WriterError::Rejected`]: one of its paths is not there, or not absolute.
    pub fn metadata(self, writer_type: &str, id: &str) -> Result<WriterMetadata, WriterError> {
        let files: Result<Vec<_>, _> = self.paths.iter().map(|path| file_set(id, path)).collect();
        Ok(WriterMetadata {
            name: self.name.unwrap_or_else(|| id.to_owned()),
            version: self.version,
            source: DataSource::Other,
            restore: RestorePolicy {
                method: RestoreMethod::StopRestoreStart,
                rank: RestoreRank::Applications,
                service: self.service,
            },
            freeze_level: self.level,
            freeze_budget_ms: self.budget.map(duration::millis),
            capabilities: Capabilities { freeze: true, ..Capabilities::default() },
            components: vec![Component {
                held: true,
                files: files?,
                exclude: self.exclude,
                ..Component::new(ComponentKind::FileGroup, DATA)
            }],
            ..WriterMetadata::new(writer_type, id)
        })
    }
}

fn file_set(writer: &str, path: &Path) -> Result<FileSet, WriterError> {
    if !path.is_absolute() {
        return Err(WriterError::rejected(writer, format!("`paths`: `{}` is not absolute", path.display())));
    }
    let found = std::fs::symlink_metadata(path).map_err(|error| {
        WriterError::rejected(writer, format!("`paths`: `{}` cannot be found: {error}", path.display()))
    })?;
    Ok(if found.is_dir() { FileSet::tree(path, FileRole::Data) } else { FileSet::file(path, FileRole::Data) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_becomes_metadata_that_keep_the_rules() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display();
        let text = format!(
            "name = 'L'\npaths = ['{path}']\nexclude = ['*.tmp']\nlevel = 'back-end'\nbudget = '2s'\n"
        );
        let metadata = Description::parse("l", &text).unwrap().metadata("ledger", "l").unwrap();
        metadata.check().unwrap();
        assert_eq!((metadata.freeze_level, metadata.freeze_budget_ms), (FreezeLevel::BackEnd, Some(2000)));
        assert!(metadata.components[0].held && metadata.capabilities.freeze);
        assert_eq!(metadata.components[0].files, [FileSet::tree(folder.path(), FileRole::Data)]);
    }

    #[test]
    fn what_is_no_description_is_refused_with_the_reason() {
        for (text, why) in [
            ("", "missing field `paths`"),
            ("paths = ['/x']\nfreeze = 1", "line 2 (`freeze = 1`): unknown field `freeze`"),
            ("hello world\n", "not understood: line 1 (`hello world`)"),
            ("paths = ['/x']\n\nbudget = '2'", "line 3 (`budget = '2'`): "),
            ("paths = '/x'", "line 1 (`paths = '/x'`): invalid type: string"),
            ("paths = ['x']", "`paths`: `x` is not absolute"),
        ] {
            let described = Description::parse("l", text).and_then(|d| d.metadata("t", "l"));
            let error = described.unwrap_err();
            assert!(holdfast_writer_api::chain(&error).contains(why), "{text}: {error:?}");
        }
        let absent =
            Description::parse("l", "paths = ['/not/there']").unwrap().metadata("t", "l").unwrap_err();
        assert!(holdfast_writer_api::chain(&absent).contains("`/not/there` cannot be found"), "{absent:?}");
    }
}

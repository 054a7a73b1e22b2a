//! Looks at what a call names, at the moment it is named: the files, and the commands of the script.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use holdfast_writer_api::protocol::Call;
use holdfast_writer_api::{ComponentRef, FileSet, WriterMetadata};

use crate::journal::{Looked, Seen};
use crate::script::Look;

/// How much is kept of what a command said.
const SAID: usize = 2000;

/// What `call` names and where it lies. `components` are those that take part, `metadata` what was said of them.
pub fn seen(call: &Call, metadata: Option<&WriterMetadata>, components: &[ComponentRef]) -> Vec<Seen> {
    match call {
        Call::PostSnapshot(shadow) => {
            let mut seen: Vec<_> = shadow.roots.iter().map(pair).collect();
            seen.extend(needed(metadata, components, |path| shadow.locate(path)));
            seen
        }
        Call::Check(staged) | Call::Verify(staged) | Call::Recover { staged, .. } => {
            let mut seen: Vec<_> = staged.roots.iter().chain(&staged.keys).map(pair).collect();
            seen.extend(needed(metadata, components, |path| staged.locate(path)));
            seen
        }
        Call::Register(registration) => {
            let marker = registration.marker.clone();
            vec![Seen { found: there(&marker), at: Some(marker.clone()), original: marker }]
        }
        Call::Hello(_)
        | Call::Identify {}
        | Call::BeginBackup(_)
        | Call::PrepareBackup(_)
        | Call::SealKeys { .. }
        | Call::PrepareSnapshot(_)
        | Call::Freeze(_)
        | Call::Thaw {}
        | Call::BackupComplete(_)
        | Call::Abort {}
        | Call::ListStreams {}
        | Call::OpenStream { .. }
        | Call::CloseStream { .. }
        | Call::ListLogs {}
        | Call::BeginRestore(_)
        | Call::OnlineState {}
        | Call::RegisterComplete {}
        | Call::PostRestoreSteps {}
        | Call::RunStep { .. }
        | Call::Unregister {} => Vec::new(),
    }
}

fn pair((original, at): &(PathBuf, PathBuf)) -> Seen {
    Seen { original: original.clone(), at: Some(at.clone()), found: there(at) }
}

/// The files that the components cannot be without, located.
fn needed(
    metadata: Option<&WriterMetadata>,
    components: &[ComponentRef],
    locate: impl Fn(&Path) -> Option<PathBuf>,
) -> Vec<Seen> {
    let declared = metadata.into_iter().flat_map(|metadata| &metadata.components);
    let taking_part = declared.filter(|component| components.iter().any(|reference| component.is(reference)));
    let files = taking_part.flat_map(|component| &component.files);
    files
        .filter_map(always_there)
        .map(|original| {
            let at = locate(&original);
            Seen { found: at.as_deref().is_some_and(there), original, at }
        })
        .collect()
}

/// What a file set has in any case: the folder that is taken with all below it, or the file that is named.
fn always_there(files: &FileSet) -> Option<PathBuf> {
    if files.optional {
        return None;
    }
    if files.pattern.contains(['*', '?']) {
        return files.recursive.then(|| files.path.clone());
    }
    (!files.recursive).then(|| files.path.join(&files.pattern))
}

fn there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Runs the commands for a call of `method` in `set`.
pub fn looked(looks: &[Look], method: &str, set: &str) -> Vec<Looked> {
    let of_method = looks.iter().filter(|look| look.method == method);
    of_method.map(|look| run(look.command.iter().map(|word| word.replace("{set}", set)).collect())).collect()
}

fn run(command: Vec<String>) -> Looked {
    let (program, arguments) = command.split_first().map_or(("", [].as_slice()), |(p, a)| (p.as_str(), a));
    let done = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    match done {
        Ok(output) => {
            let mut said = output.stderr;
            said.extend(output.stdout);
            let end = said.len().saturating_sub(SAID);
            let said = String::from_utf8_lossy(&said[end..]).into_owned();
            Looked { command, code: output.status.code(), said }
        }
        Err(error) => Looked { command, code: None, said: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use holdfast_writer_api::ShadowContext;
    use serde_json::json;

    use super::*;

    fn metadata(folder: &Path) -> WriterMetadata {
        let files = json!([
            {"path": folder, "pattern": "*", "recursive": true, "role": "data"},
            {"path": folder, "pattern": "app.db", "role": "database"},
            {"path": folder, "pattern": "app.db-wal", "optional": true, "role": "log"},
            {"path": folder, "pattern": "*.log", "role": "log"},
        ]);
        serde_json::from_value(json!({
            "schema": holdfast_writer_api::METADATA_SCHEMA,
            "writer_type": "test", "id": "w", "name": "w", "version": "1", "usage": "other", "source": "other",
            "restore": {"method": "custom", "rank": "applications"}, "freeze_level": "system",
            "backup_types": {}, "capabilities": {},
            "components": [
                {"kind": "database", "name": "data", "selectable": true, "files": files},
                {"kind": "database", "name": "other", "selectable": true, "files": files},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn what_a_component_cannot_be_without_is_looked_for_in_the_shadow_copy() {
        let folder = tempfile::tempdir().unwrap();
        let shadow = folder.path().join("shadow");
        std::fs::create_dir(&shadow).unwrap();
        let original = Path::new("/srv/app");
        let roots = vec![(original.to_owned(), shadow.clone())];
        let call = Call::PostSnapshot(ShadowContext { set: uuid::Uuid::nil(), roots });
        let components = [ComponentRef::from_full_name("data")];
        let look = || seen(&call, Some(&metadata(original)), &components);
        let found: Vec<_> = look().iter().map(|seen| (seen.original.clone(), seen.found)).collect();
        let file = original.join("app.db");
        assert_eq!(found, [(original.into(), true), (original.into(), true), (file, false)]);
        std::fs::write(shadow.join("app.db"), "").unwrap();
        assert!(look().iter().all(|seen| seen.found));
    }

    #[test]
    fn a_look_tells_how_its_command_ended_and_what_it_said() {
        let command = ["sh", "-c", "echo \"$0\" >&2; exit 3", "{set}"].map(String::from).to_vec();
        let looks = [Look { method: "Freeze".into(), command }];
        let looked = looked(&looks, "Freeze", "abc");
        assert_eq!((looked[0].code, looked[0].said.as_str()), (Some(3), "abc\n"));
        assert!(super::looked(&looks, "Thaw", "abc").is_empty());
    }
}

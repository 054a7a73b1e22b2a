//! One restore of files: they are complete as they are.
//! Owns: that every named file and folder is there, and that a restored key fits its certificate.
//! Leaves to others: putting files in place, and whether the application runs (the requester).

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use holdfast_store_keys::read_key_file;
use holdfast_writer_api::{
    Cause, CheckReport, Component, Finding, KeySeal, OnlineState, RecoverContext, Recovered,
    RestoreParticipant, RestoreRequest, StagedFiles, WriterError,
};

use super::keys;
use crate::{blocking, io_error};

pub(super) struct FilesRestore {
    id: String,
    /// As the set's own document has them.
    components: Vec<Component>,
}

impl FilesRestore {
    pub(super) fn new(id: &str, request: &RestoreRequest) -> Result<Self, WriterError> {
        let find = |wanted| {
            request.metadata.component(wanted).cloned().ok_or_else(|| {
                WriterError::rejected(id, format!("the set's metadata has no component `{wanted}`"))
            })
        };
        Ok(Self {
            id: id.to_owned(),
            components: request.components.iter().map(find).collect::<Result<_, _>>()?,
        })
    }

    async fn look(&self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        let (id, components, staged) = (self.id.clone(), self.components.clone(), staged.clone());
        blocking(&self.id, move || {
            let mut report = CheckReport::default();
            for component in &components {
                present(&id, component, &staged, &mut report)?;
                fitting(&id, component, &staged, &mut report)?;
            }
            Ok(report)
        })
        .await
    }
}

/// Every folder, and every file with a name of its own. A folder without what lies below it comes back file by file, and
/// may have had none.
fn present(
    id: &str,
    component: &Component,
    staged: &StagedFiles,
    report: &mut CheckReport,
) -> Result<(), WriterError> {
    for set in &component.files {
        let named = !set.pattern.contains(['*', '?']);
        if named && set.optional {
            continue;
        }
        let original = if named { set.path.join(&set.pattern) } else { set.path.clone() };
        if !named && !set.recursive && staged.locate(&original).is_none() {
            let count = staged.roots.iter().filter(|(file, _)| file.parent() == Some(&set.path)).count();
            let check = format!("files of {}", original.display());
            report.findings.push(Finding { check, result: format!("{count} present"), warning: count == 0 });
            continue;
        }
        let Some(copy) = staged.locate(&original) else {
            return Err(WriterError::rejected(
                id,
                format!("`{}` is not among the staged files", original.display()),
            ));
        };
        let found = std::fs::symlink_metadata(&copy)
            .map_err(|error| io_error(id, &copy, "find the staged", &error))?;
        let (fits, kind) = if named { (found.is_file(), "file") } else { (found.is_dir(), "folder") };
        if !fits {
            return Err(WriterError::rejected(
                id,
                format!("the staged `{}` is not a {kind}", original.display()),
            ));
        }
        let check = format!("{kind} {}", original.display());
        report.findings.push(Finding { check, result: "present".into(), warning: false });
    }
    Ok(())
}

/// Each key that the restore has in plain form, against its certificate.
fn fitting(
    id: &str,
    component: &Component,
    staged: &StagedFiles,
    report: &mut CheckReport,
) -> Result<(), WriterError> {
    for key in &component.keys {
        let Some((_, copy)) = staged.keys.iter().find(|(original, _)| *original == key.path) else {
            continue;
        };
        let content = read_key_file(copy)
            .map_err(|error| WriterError::Key { writer: id.to_owned(), cause: Cause::from_error(&error) })?
            .content;
        let certificate = key.certificate.as_deref().and_then(|path| newest(path, staged));
        let (_, proof) = keys::prove(id, &key.path, &content, certificate.as_deref())?;
        let (result, warning) = match proof {
            KeySeal::Proved { algorithm } => (format!("ok, {algorithm}"), false),
            KeySeal::NotProved { why } => (format!("not proved: {why}"), true),
        };
        report.findings.push(Finding { check: format!("key {}", key.path.display()), result, warning });
    }
    Ok(())
}

/// The certificate as it comes back, else as it is.
fn newest(path: &Path, staged: &StagedFiles) -> Option<PathBuf> {
    let exists = |path: &PathBuf| std::fs::symlink_metadata(path).is_ok();
    staged.locate(path).filter(exists).or_else(|| Some(path.to_owned()).filter(exists))
}

#[async_trait]
impl RestoreParticipant for FilesRestore {
    /// Files say nothing of who reads them now and then.
    async fn online_state(&mut self) -> Result<OnlineState, WriterError> {
        Ok(OnlineState::Unknown)
    }

    async fn check(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.look(staged).await
    }

    async fn recover(&mut self, _: &StagedFiles, _: &RecoverContext) -> Result<Recovered, WriterError> {
        Ok(Recovered { done: vec!["files need no recovery".into()], ..Recovered::default() })
    }

    async fn verify(&mut self, staged: &StagedFiles) -> Result<CheckReport, WriterError> {
        self.look(staged).await
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use uuid::Uuid;

    use super::*;
    use crate::files::tests::built;

    #[tokio::test]
    async fn a_restore_is_refused_when_a_named_file_or_folder_is_missing_or_a_key_does_not_fit() {
        let folder = tempfile::tempdir().unwrap();
        let (live, stage) = (folder.path().join("live"), folder.path().join("stage"));
        fs::create_dir_all(live.join("tree")).unwrap();
        let pair = rcgen::generate_simple_self_signed(["www.example.org".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(["other.example.org".to_owned()]).unwrap();
        fs::write(live.join("tls.crt"), pair.cert.pem()).unwrap();
        let settings = serde_json::json!({
            "paths": [live.join("tree"), live.join("tls.crt")],
            "keys": [{"path": live.join("tls.key"), "purpose": "TLS key", "certificate": live.join("tls.crt")}],
        });
        let writer = built(settings).unwrap();
        let metadata = writer.identify().await.unwrap();
        let components = metadata.components.iter().map(|c| c.reference()).collect();
        let request = RestoreRequest { set: Uuid::nil(), metadata, components, in_place: true };
        let mut run = writer.begin_restore(request).await.unwrap();

        fs::create_dir_all(stage.join("tree")).unwrap();
        fs::copy(live.join("tls.crt"), stage.join("tls.crt")).unwrap();
        fs::remove_dir_all(&live).unwrap();
        let plain = folder.path().join("plain.key");
        fs::write(&plain, pair.signing_key.serialize_pem()).unwrap();
        let staged = StagedFiles {
            roots: vec![(live.clone(), stage.clone())],
            keys: vec![(live.join("tls.key"), plain.clone())],
        };
        let report = run.check(&staged).await.unwrap();
        assert_eq!(report.findings.len(), 3);
        assert!(report.findings.iter().all(|finding| !finding.warning), "{report:?}");
        assert_eq!(
            run.recover(&staged, &RecoverContext::default()).await.unwrap().done,
            ["files need no recovery"]
        );
        run.verify(&staged).await.unwrap();
        assert_eq!(run.online_state().await.unwrap(), OnlineState::Unknown);

        fs::write(&plain, other.signing_key.serialize_pem()).unwrap();
        assert!(matches!(run.check(&staged).await, Err(WriterError::Key { .. })));
        fs::write(&plain, pair.signing_key.serialize_pem()).unwrap();
        fs::remove_file(stage.join("tls.crt")).unwrap();
        assert!(matches!(run.check(&staged).await, Err(WriterError::Rejected { .. })));
        assert!(matches!(run.check(&StagedFiles::default()).await, Err(WriterError::Rejected { .. })));
    }

    #[tokio::test]
    async fn a_folder_that_was_taken_without_what_lies_below_comes_back_file_by_file() {
        let folder = tempfile::tempdir().unwrap();
        let (live, stage) = (folder.path().join("live"), folder.path().join("stage"));
        fs::create_dir_all(&live).unwrap();
        let writer = built(serde_json::json!({"paths": [live], "recursive": false})).unwrap();
        let metadata = writer.identify().await.unwrap();
        let components = metadata.components.iter().map(|c| c.reference()).collect();
        let request = RestoreRequest { set: Uuid::nil(), metadata, components, in_place: true };
        let mut run = writer.begin_restore(request).await.unwrap();
        let one = |file: &str| (live.join(file), stage.join(file));
        let staged = |roots| StagedFiles { roots, keys: vec![] };
        for (roots, result, warning) in
            [(vec![one("a"), one("b")], "2 present", false), (vec![], "0 present", true)]
        {
            let report = run.check(&staged(roots)).await.unwrap();
            assert_eq!((&*report.findings[0].result, report.findings[0].warning), (result, warning));
        }
    }
}

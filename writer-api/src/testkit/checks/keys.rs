//! W17: keys leave sealed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::protocol::message::Call;
use crate::testkit::bench::{Bench, listed};
use crate::testkit::declared;
use crate::testkit::keyring::{Keyring, Traces};
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::rules::Part;
use crate::testkit::talk::OrElsewhere;
use crate::{BackupType, KeyFile, SealedKey};

/// W17.
pub async fn leave_sealed(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Keys).await?;
    bench.application().await?;
    let metadata = bench.metadata().await?;
    let declared: Vec<KeyFile> = metadata.components.iter().flat_map(|c| c.keys.clone()).collect();
    let (one, two) = (Keyring::new(), Keyring::new());
    let mut talk = bench.begun(BackupType::Full).await?;
    talk.prepare_backup().await.or_broken("PrepareBackup")?;
    let sealed = talk.seal_keys(&[one.recipient(), two.recipient()]).await.or_broken("SealKeys")?;
    bench.steps.did(format!("it sealed {}", listed(sealed.iter().map(|key| key.path.display()))));
    let mut plain = Vec::new();
    for key in &declared {
        let bytes = bench.app.key(&key.path).await?;
        let found: Vec<&SealedKey> = sealed.iter().filter(|sealed| sealed.path == key.path).collect();
        let [found] = found[..] else {
            return Err(Stop::Broken(format!(
                "the key `{}` is declared, and `SealKeys` sealed it {} times",
                key.path.display(),
                found.len()
            )));
        };
        for (nth, keyring) in [("first", &one), ("second", &two)] {
            opens(found, keyring, &bytes, nth)?;
        }
        has_its_mode(found)?;
        plain.push((key.path.clone(), bytes));
    }
    if let Some(stray) = sealed.iter().find(|sealed| !declared.iter().any(|key| key.path == sealed.path)) {
        return Err(Stop::Broken(format!(
            "`SealKeys` sealed `{}`, which is no declared key",
            stray.path.display()
        )));
    }
    refuses_what_is_no_recipient(bench).await?;
    shows_nowhere(bench, &plain).await?;
    Ok(Some(format!("{} keys, each opened by two identities", plain.len())))
}

fn opens(sealed: &SealedKey, keyring: &Keyring, plain: &[u8], nth: &str) -> Result<(), Stop> {
    let path = sealed.path.display();
    match keyring.open(&sealed.sealed) {
        Ok(opened) if opened == plain => Ok(()),
        Ok(opened) => Err(Stop::Broken(format!(
            "the sealed form of `{path}` opens with the {nth} identity, and is {} other bytes than the key's {}",
            opened.len(),
            plain.len()
        ))),
        Err(why) => Err(Stop::Broken(format!(
            "the sealed form of `{path}` does not open with the {nth} identity: {why}"
        ))),
    }
}

/// A key that came back readable by all would be worse than none.
fn has_its_mode(sealed: &SealedKey) -> Result<(), Stop> {
    let path = sealed.path.display();
    let Ok(meta) = std::fs::metadata(&sealed.path) else { return Ok(()) };
    let mode = meta.permissions().mode() & 0o7777;
    if sealed.mode & 0o7777 == mode {
        return Ok(());
    }
    Err(Stop::Broken(format!(
        "the key `{path}` has mode {mode:o}, and was sealed as one of mode {:o}",
        sealed.mode
    )))
}

/// Sealed to nobody, a key is lost; and the refusal is an error text to look at.
async fn refuses_what_is_no_recipient(bench: &mut Bench) -> Result<(), Stop> {
    for recipients in [vec![], vec!["age1-this-is-no-recipient".to_owned()]] {
        let mut talk = bench.begun(BackupType::Full).await?;
        talk.prepare_backup().await.or_broken("PrepareBackup")?;
        if talk.seal_keys(&recipients).await.is_ok() {
            return Err(Stop::Broken(format!(
                "`SealKeys` took {} for recipients, and answered with keys",
                listed(recipients)
            )));
        }
    }
    Ok(())
}

/// In all that was answered or said up to now, and in all files that would be stored.
async fn shows_nowhere(bench: &mut Bench, plain: &[(PathBuf, Vec<u8>)]) -> Result<(), Stop> {
    let metadata = bench.metadata().await?;
    let root = bench.scratch.path().join("declared");
    let components: Vec<_> = metadata.components.iter().collect();
    declared::copy(&components, &root).map_err(|why| Stop::elsewhere("W2", why))?;
    // An application may say something of a key when it runs into a restore.
    let staged = crate::StagedFiles {
        roots: declared::roots(&components, &root),
        keys: plain.iter().map(|(path, _)| (path.clone(), root.join("no-such-key"))).collect(),
    };
    let mut restore = bench.restore(false).await?;
    let limit = bench.limits.call;
    let _ = restore.ask::<crate::CheckReport>(&Call::Check(staged), limit).await;
    drop(restore);
    let said = bench.writer.said().last(usize::MAX);
    for (path, bytes) in plain {
        let traces = Traces::of(bytes);
        let shown = |place: String| {
            Err(Stop::Broken(format!(
                "the key `{}`, or a part of it, is in {place} in plain form",
                path.display()
            )))
        };
        if let Some(component) =
            metadata.components.iter().find(|component| declared::covers(component, path))
        {
            return shown(format!("the files of component `{}`", component.reference()));
        }
        if let Some(answer) = bench.steps.all_heard().iter().find(|text| traces.are_in(text.as_bytes())) {
            let beginning: String = answer.chars().take_while(|c| !c.is_ascii_digit()).take(40).collect();
            return shown(format!("an answer or an error of the writer (it begins with `{beginning}`)"));
        }
        if said.iter().any(|line| traces.are_in(line.as_bytes())) {
            return shown("what the writer wrote to standard error".into());
        }
        if let Some(file) = files_below(&root)
            .into_iter()
            .find(|file| std::fs::read(file).is_ok_and(|content| traces.are_in(&content)))
        {
            let original = file.strip_prefix(&root).unwrap_or(&file);
            return shown(format!("the declared file `/{}`", original.display()));
        }
    }
    Ok(())
}

fn files_below(folder: &std::path::Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files.extend(files_below(&path)),
            Ok(kind) if kind.is_file() => files.push(path),
            Ok(_) | Err(_) => {}
        }
    }
    files
}

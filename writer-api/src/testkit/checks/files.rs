//! W11: a backup of exactly the declared files is a backup.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::protocol::message::Call;
use crate::testkit::bench::{Bench, Cut, SOON, listed};
use crate::testkit::declared;
use crate::testkit::fixture::{FixtureError, below};
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::talk::OrElsewhere;
use crate::{BackupType, CheckReport, RecoverContext, Recovered, StagedFiles};

/// Most ids that a message names.
const NAMED: usize = 5;

/// W11.
pub async fn declared_are_needed(bench: &mut Bench) -> Verdict {
    bench.application().await?;
    let metadata = bench.metadata().await?;
    for _ in 0..3 {
        bench.write().await?;
    }
    let request = bench.request(BackupType::Full).await?;
    let components = request.components.clone();
    let mut talk = bench.begun_with(request).await?;
    talk.prepare_backup().await.or_broken("PrepareBackup")?;
    talk.prepare_snapshot().await.or_broken("PrepareSnapshot")?;
    // What is written between the preparation and the freeze counts as well.
    bench.write().await?;
    let acknowledged: BTreeSet<String> = bench.contents().await?.into_iter().collect();
    let mut cut = bench.cut_prepared(talk, components).await?;
    let mut later = BTreeSet::new();
    for _ in 0..2 {
        let written = bench.comes_free(SOON).await?;
        let (id, _) = written.ok_or_else(|| {
            Stop::elsewhere("W4", "`Thaw` was answered, and the application was still held")
        })?;
        later.insert(id);
    }
    cut.talk.post_snapshot(cut.roots.clone()).await.or_broken("PostSnapshot")?;
    bench.stop().await?;
    // The backup is over before the restore begins.
    let Cut { talk, roots, root, .. } = cut;
    drop(talk);
    let staged = StagedFiles { roots, keys: place_keys(bench, &root).await? };
    let mut restore = bench.restore(false).await?;
    let limit = bench.limits.call;
    restore.ask::<CheckReport>(&Call::Check(staged.clone()), limit).await.or_broken("Check")?;
    if metadata.capabilities.recover {
        let recover = Call::Recover { staged: staged.clone(), context: RecoverContext::default() };
        restore.ask::<Recovered>(&recover, limit).await.or_broken("Recover")?;
        // It may run again after a crash.
        restore.ask::<Recovered>(&recover, limit).await.or_broken("Recover, called again,")?;
    }
    restore.ask::<CheckReport>(&Call::Verify(staged), limit).await.or_broken("Verify")?;
    drop(restore);
    opened(bench, &root, &acknowledged, &later).await
}

/// The application itself opens the copy and counts.
async fn opened(
    bench: &mut Bench,
    root: &std::path::Path,
    acknowledged: &BTreeSet<String>,
    later: &BTreeSet<String>,
) -> Verdict {
    let limit = bench.limits.fixture;
    let found = match tokio::time::timeout(limit, bench.app.contents_of(root)).await {
        Ok(Ok(found)) => found.into_iter().collect::<BTreeSet<String>>(),
        Ok(Err(error @ FixtureError::Failed { .. })) => {
            let why = crate::chain(&error);
            return Err(Stop::Broken(format!("the application does not open the restored copy: {why}")));
        }
        Ok(Err(other)) => return Err(other.into()),
        Err(_) => return Err(Stop::Fixture("it did not open the restored copy in time".into())),
    };
    bench.steps.did(format!("the application opened the restored copy: {} entries", found.len()));
    let missing: Vec<_> = acknowledged.difference(&found).take(NAMED).collect();
    if !missing.is_empty() {
        let lost = acknowledged.difference(&found).count();
        return Err(Stop::Broken(format!(
            "{lost} of {} writes that were acknowledged before the freeze are not in the restored copy: {}{}",
            acknowledged.len(),
            listed(missing),
            if lost > NAMED { " …" } else { "" }
        )));
    }
    let early: Vec<_> = later.intersection(&found).collect();
    if !early.is_empty() {
        return Err(Stop::Broken(format!(
            "the restored copy has writes that were begun after the thaw: {}",
            listed(early)
        )));
    }
    Ok(Some(format!("all {} acknowledged writes came back", acknowledged.len())))
}

/// The plain keys, where the application looks for them in the copy.
async fn place_keys(bench: &mut Bench, root: &std::path::Path) -> Result<Vec<(PathBuf, PathBuf)>, Stop> {
    let mut placed = Vec::new();
    for key in bench.metadata().await?.components.into_iter().flat_map(|component| component.keys) {
        let bytes = bench.app.key(&key.path).await?;
        let to = below(root, &key.path);
        declared::put(&to, &bytes).map_err(Stop::Fixture)?;
        let closed = std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600));
        closed.map_err(|error| Stop::Fixture(format!("cannot close {}: {error}", to.display())))?;
        placed.push((key.path, to));
    }
    Ok(placed)
}

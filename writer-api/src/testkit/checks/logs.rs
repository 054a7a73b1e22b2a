//! W12 and W13: stamps, and the truncation of logs.

use std::collections::BTreeSet;

use crate::selection::for_backup;
use crate::testkit::bench::{Bench, Cut, listed};
use crate::testkit::outcome::{Stop, Verdict};
use crate::testkit::rules::Part;
use crate::testkit::talk::OrElsewhere;
use crate::{BackupRequest, BackupType, ComponentRef, LogFile};

/// W12.
pub async fn stamps_are_taken_back(bench: &mut Bench) -> Verdict {
    bench.application().await?;
    let metadata = bench.metadata().await?;
    let all = bench.request(BackupType::Full).await?;
    let mut cut = bench.cut(all.clone()).await?;
    let stamps = finished(&mut cut).await?;
    if let Some(foreign) = stamps.keys().find(|name| !took_part(&cut.components, name)) {
        return Err(Stop::Broken(format!(
            "`PostSnapshot` gave a stamp to `{foreign}`, which did not take part; the components were {}",
            listed(&cut.components)
        )));
    }
    let components = cut.components.clone();
    cut.talk.backup_complete(BackupType::Full, components, vec![]).await.or_broken("BackupComplete")?;
    drop(cut);
    of_a_part(bench, &all).await?;

    let types = metadata.backup_types;
    let chained = types.incremental || types.differential;
    if stamps.is_empty() && chained {
        return Err(Stop::broken(
            "an incremental or differential backup is declared, and `PostSnapshot` gave no stamp to build one on",
        ));
    }
    if stamps.is_empty() {
        return Ok(Some("it gives no stamps, and declares no backup that would need them".into()));
    }
    let next = match (types.incremental, types.differential) {
        (true, _) => BackupType::Incremental,
        (false, true) => BackupType::Differential,
        (false, false) => BackupType::Full,
    };
    let mut talk = bench.talk().await.or_see("W1", "Hello")?;
    let request = BackupRequest { backup_type: next, previous_stamps: stamps.clone(), ..all };
    talk.begin_backup(request).await.or_broken("BeginBackup, with its own stamps as the base's,")?;
    talk.prepare_backup().await.or_broken("PrepareBackup, with its own stamps as the base's,")?;
    Ok(Some(format!("{} stamps were given and taken back", stamps.len())))
}

/// A backup of one selectable component gives no stamp to the others.
async fn of_a_part(bench: &mut Bench, all: &BackupRequest) -> Result<(), Stop> {
    let metadata = bench.metadata().await?;
    let Some(one) = metadata.components.iter().find(|component| component.selectable) else { return Ok(()) };
    let Ok(chosen) = for_backup(&metadata.components, &[one.reference()]) else { return Ok(()) };
    let components: Vec<_> = chosen.iter().map(|(component, _)| component.reference()).collect();
    if components.len() == all.components.len() {
        return Ok(());
    }
    let mut cut = bench.cut(BackupRequest { components, ..all.clone() }).await?;
    let stamps = finished(&mut cut).await?;
    match stamps.keys().find(|name| !took_part(&cut.components, name)) {
        None => Ok(()),
        Some(foreign) => Err(Stop::Broken(format!(
            "only {} took part, and `PostSnapshot` gave a stamp to `{foreign}`",
            listed(&cut.components)
        ))),
    }
}

fn took_part(components: &[ComponentRef], name: &str) -> bool {
    components.iter().any(|component| component.full_name() == name)
}

async fn finished(cut: &mut Cut) -> Result<std::collections::BTreeMap<String, String>, Stop> {
    Ok(cut.talk.post_snapshot(cut.roots.clone()).await.or_see("W11", "PostSnapshot")?.stamps)
}

/// W13.
pub async fn truncated_last_and_exactly(bench: &mut Bench) -> Verdict {
    bench.needs(Part::Logs).await?;
    bench.application().await?;
    let before = bench.logs().await?;

    // A copy leaves no trace.
    let mut run = Run::cut(bench, BackupType::Copy, &before).await?;
    run.complete(bench, BackupType::Copy, &[]).await?;
    run.unchanged(bench, &before, "a backup of type `copy` was completed").await?;
    drop(run);

    // Who gave the backup up, truncates nothing.
    let mut run = Run::cut(bench, BackupType::Full, &before).await?;
    run.cut.talk.abort().await.or_see("W10", "Abort")?;
    run.unchanged(bench, &before, "a full backup was given up").await?;
    drop(run);

    // Nothing was stored, so nothing may go.
    let mut run = Run::cut(bench, BackupType::Full, &before).await?;
    run.cut.components.clear();
    run.complete(bench, BackupType::Full, &[]).await?;
    run.unchanged(bench, &before, "a full backup was completed in which no component had succeeded").await?;
    drop(run);

    // All but the newest of the listed.
    let mut run = Run::cut(bench, BackupType::Full, &before).await?;
    run.listed.sort_by_key(|log| log.generation);
    let stored: Vec<LogFile> = run.listed[..run.listed.len() - 1].to_vec();
    run.complete(bench, BackupType::Full, &stored).await?;
    let after = bench.logs().await?;
    let gone: BTreeSet<String> = before.difference(&after).cloned().collect();
    let wanted: BTreeSet<String> = stored.iter().map(file_name).collect();
    if gone == wanted {
        return Ok(Some(format!("{} of {} logs were truncated, as told", wanted.len(), before.len())));
    }
    Err(Stop::Broken(format!(
        "`BackupComplete` was given {}, and {} are gone from the application",
        listed(&wanted),
        listed(&gone)
    )))
}

/// One backup of an application with logs.
struct Run {
    cut: Cut,
    listed: Vec<LogFile>,
}

impl Run {
    /// Through `PostSnapshot`, with a look at the logs.
    async fn cut(
        bench: &mut Bench,
        backup_type: BackupType,
        before: &BTreeSet<String>,
    ) -> Result<Self, Stop> {
        let request = bench.request(backup_type).await?;
        let mut cut = bench.cut(request).await?;
        let logs = cut.talk.list_logs().await.or_see("W16", "ListLogs")?;
        finished(&mut cut).await?;
        let run = Self { cut, listed: logs };
        run.unchanged(bench, before, "`BackupComplete` had not been called yet").await?;
        if let Some(unknown) = run.listed.iter().find(|log| !before.contains(&file_name(log))) {
            return Err(Stop::Broken(format!(
                "`ListLogs` names `{}`; the application has {}",
                file_name(unknown),
                listed(before)
            )));
        }
        if run.listed.len() < 2 {
            let why = format!(
                "show that only some logs are truncated: `ListLogs` names {}, and two are needed",
                run.listed.len()
            );
            return Err(crate::testkit::fixture::FixtureError::unable(why).into());
        }
        Ok(run)
    }

    async fn complete(
        &mut self,
        bench: &mut Bench,
        backup_type: BackupType,
        stored: &[LogFile],
    ) -> Result<(), Stop> {
        let names: Vec<String> = stored.iter().map(|log| log.name.clone()).collect();
        let succeeded = self.cut.components.clone();
        let done = self.cut.talk.backup_complete(backup_type, succeeded, names.clone()).await;
        let done = done.or_broken("BackupComplete")?;
        bench.steps.did(format!("it says that it truncated {}", listed(&done.logs)));
        let (said, asked): (BTreeSet<_>, BTreeSet<_>) = (done.logs.iter().collect(), names.iter().collect());
        if said == asked {
            return Ok(());
        }
        Err(Stop::Broken(format!(
            "`BackupComplete` was given {}, and answered with {}",
            listed(asked),
            listed(said)
        )))
    }

    async fn unchanged(&self, bench: &mut Bench, before: &BTreeSet<String>, when: &str) -> Result<(), Stop> {
        let after = bench.logs().await?;
        let gone: Vec<_> = before.difference(&after).collect();
        if gone.is_empty() {
            return Ok(());
        }
        Err(Stop::Broken(format!("{when}, and the logs {} are gone from the application", listed(gone))))
    }
}

/// As the application calls it.
fn file_name(log: &LogFile) -> String {
    log.path.file_name().unwrap_or(log.path.as_os_str()).to_string_lossy().into_owned()
}

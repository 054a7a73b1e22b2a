//! What every check stands on: the application, its writer, and a folder of its own.
//!
//! Owns: deadlines of the fixture, how patient a write is, the way to a held application and to a cut.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use uuid::Uuid;

use super::declared;
use super::fixture::{Fixture, Poke};
use super::outcome::{Stop, answered};
use super::steps::Steps;
use super::talk::{OrElsewhere, Talk};
use crate::budget::freeze_budget;
use crate::protocol::RemoteWriter;
use crate::protocol::message::{Call, Identified};
use crate::{BackupRequest, BackupType, ComponentRef, RestoreRequest, WriterError, WriterMetadata};

/// Deadlines of the kit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a call that holds nothing.
    pub call: Duration,
    /// For `Thaw` and `Abort`: what a requester waits before it ends the writer's process.
    pub thaw: Duration,
    /// For what the fixture does, beyond the patience it is given.
    pub fixture: Duration,
    /// For a whole check.
    pub check: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            call: Duration::from_secs(30),
            thaw: Duration::from_millis(1000),
            fixture: Duration::from_secs(60),
            check: Duration::from_secs(300),
        }
    }
}

/// The longest hold that a check asks for.
const LONGEST_HOLD: Duration = Duration::from_secs(10);
/// How soon an application has to be free where no shorter time is promised.
pub const SOON: Duration = Duration::from_secs(2);
/// How long a write gets before it counts as held, at least.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long a write may take while nothing is held.
const UNHELD: Duration = Duration::from_secs(20);
/// A write that waits is repeated, so that a fixture that cannot wait long does as well.
const ONE_WAIT: Duration = Duration::from_millis(250);

/// The surroundings of one check.
pub struct Bench {
    /// The application. First, so that it outlives nothing that needs it.
    pub app: Box<dyn Fixture>,
    /// Its writer; each conversation is a process of its own.
    pub writer: RemoteWriter,
    /// A folder for copies.
    pub scratch: TempDir,
    /// What was done.
    pub steps: Steps,
    /// Deadlines.
    pub limits: Limits,
    metadata: Option<WriterMetadata>,
    patience: Option<Duration>,
}

/// A backup that was cut: the hold is over, `PostSnapshot` comes next.
pub struct Cut {
    pub talk: Talk,
    /// Original path → path in the copy.
    pub roots: Vec<(PathBuf, PathBuf)>,
    /// Below which the copy lies.
    pub root: PathBuf,
    pub components: Vec<ComponentRef>,
}

impl Bench {
    pub fn new(
        app: Box<dyn Fixture>,
        writer: RemoteWriter,
        scratch: TempDir,
        steps: Steps,
        limits: Limits,
    ) -> Self {
        Self { app, writer, scratch, steps, limits, metadata: None, patience: None }
    }

    /// Starts a process of the writer, and says hello.
    pub async fn talk(&mut self) -> Result<Talk, WriterError> {
        let connected = tokio::time::timeout(self.limits.call, self.writer.connect()).await;
        let (process, _) = connected.unwrap_or_else(|_| {
            let budget_ms = u64::try_from(self.limits.call.as_millis()).unwrap_or(u64::MAX);
            Err(WriterError::TimedOut { writer: "test".into(), action: "answer `Hello`".into(), budget_ms })
        })?;
        self.steps.did("started the writer, and said `Hello`");
        Ok(Talk::new(process, self.steps.clone(), self.limits))
    }

    /// `Identify`, in a process of its own, unchecked.
    pub async fn identify(&mut self) -> Result<WriterMetadata, WriterError> {
        let mut talk = match self.talk().await {
            Ok(talk) => talk,
            Err(error) => {
                self.steps.did(format!("started the writer, and said `Hello`: {}", crate::chain(&error)));
                return Err(error);
            }
        };
        let limit = self.limits.call;
        talk.ask::<Identified>(&Call::Identify {}, limit).await.map(|reply| reply.metadata)
    }

    /// What the writer says of its application; asked once.
    pub async fn metadata(&mut self) -> Result<WriterMetadata, Stop> {
        if let Some(known) = &self.metadata {
            return Ok(known.clone());
        }
        let metadata = self.identify().await.or_see("W1", "Identify")?;
        self.metadata = Some(metadata.clone());
        Ok(metadata)
    }

    /// What the writer said of its application, if it was asked.
    pub fn known_metadata(&mut self) -> Option<WriterMetadata> {
        self.metadata.take()
    }

    /// The longest hold that a requester would ask this writer for, ten seconds at most.
    pub async fn budget(&mut self) -> Result<Duration, Stop> {
        let metadata = self.metadata().await?;
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        Ok(freeze_budget(Some(LONGEST_HOLD), time(metadata.freeze_budget_ms), time(metadata.busy_timeout_ms)))
    }

    /// The rule that is about a backup's way to the freeze.
    async fn way_to_freeze(&mut self) -> Result<&'static str, Stop> {
        Ok(if self.metadata().await?.capabilities.freeze { "W3" } else { "W11" })
    }

    /// A request for all components, without a base.
    pub async fn request(&mut self, backup_type: BackupType) -> Result<BackupRequest, Stop> {
        let components = self.metadata().await?.components.iter().map(|c| c.reference()).collect();
        // Each conversation has a set of its own, which it puts in.
        Ok(BackupRequest { set: Uuid::nil(), backup_type, components, previous_stamps: Default::default() })
    }

    /// A backup that `BeginBackup` has begun, of all components.
    pub async fn begun(&mut self, backup_type: BackupType) -> Result<Talk, Stop> {
        let request = self.request(backup_type).await?;
        self.begun_with(request).await
    }

    /// The same with a request of one's own.
    pub async fn begun_with(&mut self, request: BackupRequest) -> Result<Talk, Stop> {
        let rule = self.way_to_freeze().await?;
        let mut talk = self.talk().await.or_see("W1", "Hello")?;
        talk.begin_backup(request).await.or_see(rule, "BeginBackup")?;
        Ok(talk)
    }

    /// A backup that waits for its freeze.
    pub async fn ready(&mut self, backup_type: BackupType) -> Result<Talk, Stop> {
        let mut talk = self.begun(backup_type).await?;
        self.prepare(&mut talk).await?;
        Ok(talk)
    }

    async fn prepare(&mut self, talk: &mut Talk) -> Result<(), Stop> {
        let rule = self.way_to_freeze().await?;
        talk.prepare_backup().await.or_see(rule, "PrepareBackup")?;
        talk.prepare_snapshot().await.or_see(rule, "PrepareSnapshot")
    }

    /// A held application, which was seen not to write; and when the freeze was called.
    pub async fn held(&mut self, budget: Duration) -> Result<(Talk, Instant), Stop> {
        self.patience().await?;
        let mut talk = self.ready(BackupType::Full).await?;
        let called = Instant::now();
        talk.freeze(budget).await.or_see("W3", "Freeze")?;
        match self.poke(self.patience_within(budget)).await? {
            Poke::Held => Ok((talk, called)),
            Poke::Written(_) if called.elapsed() >= budget => Err(Stop::Fixture(format!(
                "a write took longer than the whole hold of {} ms",
                budget.as_millis()
            ))),
            Poke::Written(id) => Err(Stop::elsewhere(
                "W3",
                format!("`Freeze` was answered, and still the application acknowledged the write `{id}`"),
            )),
        }
    }

    /// A backup of these components through freeze, copy and thaw.
    pub async fn cut(&mut self, request: BackupRequest) -> Result<Cut, Stop> {
        let components = request.components.clone();
        let mut talk = self.begun_with(request).await?;
        self.prepare(&mut talk).await?;
        self.cut_prepared(talk, components).await
    }

    /// The same from a prepared backup on.
    pub async fn cut_prepared(&mut self, mut talk: Talk, components: Vec<ComponentRef>) -> Result<Cut, Stop> {
        self.application().await?;
        let metadata = self.metadata().await?;
        let chosen: Vec<_> = components.iter().filter_map(|name| metadata.component(name)).collect();
        let root = self.scratch.path().join(format!("cut-{}", Uuid::new_v4()));
        let (rule, budget) = (self.way_to_freeze().await?, self.budget().await?);
        let called = Instant::now();
        talk.freeze(budget).await.or_see(rule, "Freeze")?;
        let copied = declared::copy(&chosen, &root).map_err(|why| Stop::elsewhere("W2", why))?;
        self.steps.did(format!("copied the {copied} declared files and folders"));
        if metadata.capabilities.stream {
            for stream in talk.list_streams().await.or_see("W18", "ListStreams")? {
                if components.contains(&stream.component) {
                    let bytes = talk.read_stream(&stream.name, None).await.or_see("W18", "OpenStream")?;
                    let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    talk.close_stream(&stream.name, count).await.or_see("W18", "CloseStream")?;
                    declared::put(&super::fixture::below(&root, &stream.path), &bytes)
                        .map_err(Stop::Fixture)?;
                }
            }
        }
        if let Err(error) = talk.thaw().await {
            let took = called.elapsed();
            if took < budget {
                return Err(Stop::elsewhere("W4", answered("Thaw", &error)));
            }
            return Err(Stop::Fixture(format!(
                "copying its files took {} ms, longer than the hold of {} ms may last; give the sample application less data",
                took.as_millis(),
                budget.as_millis()
            )));
        }
        let roots = declared::roots(&chosen, &root);
        Ok(Cut { talk, roots, root, components })
    }

    /// A restore of all components, begun.
    pub async fn restore(&mut self, in_place: bool) -> Result<Talk, Stop> {
        let metadata = self.metadata().await?;
        let components = metadata.components.iter().map(|c| c.reference()).collect();
        let mut talk = self.talk().await.or_see("W1", "Hello")?;
        let request = RestoreRequest { set: Uuid::new_v4(), metadata, components, in_place };
        talk.done(Call::BeginRestore(Box::new(request))).await.or_see("W11", "BeginRestore")?;
        Ok(talk)
    }

    /// One write past the writer.
    pub async fn poke(&mut self, patience: Duration) -> Result<Poke, Stop> {
        let limit = patience + self.limits.fixture;
        let poked = tokio::time::timeout(limit, self.app.poke(patience)).await;
        let poked = poked.map_err(|_| {
            Stop::Fixture(format!("a write did not return within {} ms", limit.as_millis()))
        })??;
        self.steps.did(match &poked {
            Poke::Written(id) => format!("a write past the writer: acknowledged as `{id}`"),
            Poke::Held => {
                format!("a write past the writer: not acknowledged within {} ms", patience.as_millis())
            }
        });
        Ok(poked)
    }

    /// A write while nothing is held; its id.
    pub async fn write(&mut self) -> Result<String, Stop> {
        match self.comes_free(UNHELD).await? {
            Some((id, _)) => Ok(id),
            None => Err(Stop::Fixture(format!(
                "the application acknowledged no write within {} ms, though nothing holds it",
                UNHELD.as_millis()
            ))),
        }
    }

    /// Sees that there is an application that runs: it acknowledges writes. Where nobody watches one, nothing is held,
    /// copied or run either.
    pub async fn application(&mut self) -> Result<(), Stop> {
        self.patience().await.map(drop)
    }

    /// Waits until a write is acknowledged: its id, and how long that took.
    pub async fn comes_free(&mut self, within: Duration) -> Result<Option<(String, Duration)>, Stop> {
        let began = Instant::now();
        loop {
            let left = within.saturating_sub(began.elapsed());
            if let Poke::Written(id) = self.poke(left.min(ONE_WAIT)).await? {
                return Ok(Some((id, began.elapsed())));
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Whether a write is acknowledged now, without waiting for more than itself.
    pub async fn is_free(&mut self) -> Result<bool, Stop> {
        let patience = self.patience().await?;
        Ok(matches!(self.poke(patience).await?, Poke::Written(_)))
    }

    /// How long a write gets before it counts as held: four times what one takes while nothing is held.
    pub async fn patience(&mut self) -> Result<Duration, Stop> {
        if let Some(known) = self.patience {
            return Ok(known);
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..3 {
            let began = Instant::now();
            self.write().await?;
            slowest = slowest.max(began.elapsed());
        }
        let patience = PATIENCE.max(slowest * 4);
        self.patience = Some(patience);
        Ok(patience)
    }

    /// The same, so short that a hold of `budget` does not end meanwhile.
    pub fn patience_within(&self, budget: Duration) -> Duration {
        self.patience.unwrap_or(PATIENCE).min(budget / 3)
    }

    /// What the application has.
    pub async fn contents(&mut self) -> Result<Vec<String>, Stop> {
        let limit = self.limits.fixture;
        let contents = within(limit, "tell its application's contents", self.app.contents()).await?;
        self.steps.did(format!("the application has {} entries", contents.len()));
        Ok(contents)
    }

    /// Stops the application.
    pub async fn stop(&mut self) -> Result<(), Stop> {
        let limit = self.limits.fixture;
        within(limit, "stop its application", self.app.stop()).await?;
        self.steps.did("stopped the application");
        Ok(())
    }

    /// Starts it again; whether it came up.
    pub async fn start(&mut self) -> Result<bool, Stop> {
        let limit = self.limits.fixture;
        let up = within(limit, "start its application", self.app.start()).await?;
        self.steps.did(if up {
            "started the application"
        } else {
            "started the application: it does not come up"
        });
        Ok(up)
    }

    /// The logs that the application has.
    pub async fn logs(&mut self) -> Result<std::collections::BTreeSet<String>, Stop> {
        let limit = self.limits.fixture;
        let logs = within(limit, "list its application's logs", self.app.logs()).await?;
        self.steps.did(format!("the application has the logs {}", listed(&logs)));
        Ok(logs.into_iter().collect())
    }

    /// Refuses a rule that needs an undeclared part.
    pub async fn needs(&mut self, part: super::rules::Part) -> Result<(), Stop> {
        if part.declared(&self.metadata().await?.capabilities) {
            return Ok(());
        }
        Err(Stop::NotApplicable(format!("the capability `{}` is not declared", part.as_str())))
    }
}

/// Names in backquotes, for a sentence.
pub fn listed<T: std::fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "(none)".into() } else { names.join(", ") }
}

async fn within<T>(
    limit: Duration,
    what: &str,
    work: impl Future<Output = Result<T, super::fixture::FixtureError>>,
) -> Result<T, Stop> {
    match tokio::time::timeout(limit, work).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Stop::Fixture(format!("it did not {what} within {} ms", limit.as_millis()))),
    }
}

//! The shadow copies of one session: prepared, cut together, finished, and removed whatever happens.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_writer_api::chain;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::events::now_ns;
use super::plan::CutPlan;
use crate::failure::Exit;
use crate::paths::Paths;
use crate::provider::{self, PreparedShadow, ProviderError, ShadowArea, ShadowCopy, ShadowRequest};

/// How long a cut that missed its deadline may take to notice, before it is left to itself. The writers
/// are thawed at the deadline all the same.
const STRAGGLER: Duration = Duration::from_millis(5);

/// Cuts under way, in threads that outlive a session that is given up.
static CUTS: AtomicUsize = AtomicUsize::new(0);

/// How long such a cut may take to notice.
const NOTICE: Duration = Duration::from_secs(5);

/// Waits until no cut of this process is under way any more, and what nobody waits for is removed.
pub(super) fn wait_for_cuts() {
    let until = Instant::now() + NOTICE;
    while CUTS.load(Ordering::SeqCst) > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Counts a cut for as long as it lives, panics included.
struct UnderWay;

impl UnderWay {
    fn begin() -> Self {
        CUTS.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        CUTS.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Tells the cuts that they were given up, when the session that waits for them is.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Why there are no shadow copies.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShadowError {
    /// A provider failed.
    #[error("provider `{provider}` failed on {}", volume.display())]
    Provider {
        /// The provider.
        provider: String,
        /// The volume.
        volume: PathBuf,
        /// Why.
        #[source]
        source: ProviderError,
    },
    /// A cut was not done when the shortest hold had to end.
    #[error("the cut was not done within the budget of the shortest hold")]
    Late,
    /// A provider's code failed in a way that none should.
    #[error("a provider's code ended abnormally")]
    Panicked,
}

impl ShadowError {
    /// The exit code while nothing was frozen.
    #[expect(clippy::wildcard_enum_match_arm, reason = "whatever is not a refusal is a plain failure")]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Provider { source, .. } => match source {
                ProviderError::EstimateExceedsBudget { .. }
                | ProviderError::NotSupported { .. }
                | ProviderError::Files { .. }
                | ProviderError::OtherVolume { .. }
                | ProviderError::AreaRefused { .. } => Exit::Refused,
                _ => Exit::Failed,
            },
            Self::Late | Self::Panicked => Exit::Failed,
        }
    }
}

/// One volume's cut, as it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The provider.
    pub provider: String,
    /// The volume.
    pub volume: PathBuf,
    /// What is one instant.
    pub atomicity: String,
    /// When it was begun, on the monotonic clock.
    pub begun_ns: u64,
    /// How long it took.
    pub commit_ms: f64,
}

struct OneShadow {
    about: Cut,
    prepared: Box<dyn PreparedShadow>,
}

/// All shadow copies of a session, in the order of [`CutPlan::volumes`].
pub struct Shadows {
    set: Uuid,
    state: PathBuf,
    prepared: Vec<OneShadow>,
    copies: Vec<ShadowCopy>,
}

impl Shadows {
    /// None yet.
    pub fn new(set: Uuid, paths: &Paths) -> Self {
        Self { set, state: paths.state.clone(), prepared: Vec::new(), copies: Vec::new() }
    }

    /// Where this session's copies and records go.
    pub fn area(state: &Path, configured: Option<&Path>) -> ShadowArea {
        ShadowArea { state_dir: state.to_owned(), dir: configured.map(Path::to_owned) }
    }

    /// Lets every provider do its slow work, before anything is held.
    ///
    /// # Errors
    /// The first provider's; nothing is left of the others' work either.
    pub async fn prepare(
        &mut self,
        plan: &CutPlan,
        budget: Duration,
        configured: Option<&Path>,
    ) -> Result<(), ShadowError> {
        let area = Self::area(&self.state, configured);
        let preparing = plan.volumes.iter().map(|volume| {
            let request = ShadowRequest {
                set: self.set,
                volume: volume.volume.clone(),
                files: volume.selections.clone(),
                area: area.clone(),
                budget,
            };
            let about = Cut {
                provider: volume.provider.name().to_owned(),
                volume: volume.root(),
                atomicity: volume.provider.atomicity().to_string(),
                begun_ns: 0,
                commit_ms: 0.0,
            };
            let provider = Arc::clone(&volume.provider);
            async move {
                let prepared = spawn_blocking(move || provider.prepare(request)).await;
                match prepared {
                    Ok(Ok(prepared)) => Ok(OneShadow { about, prepared }),
                    Ok(Err(source)) => {
                        Err(ShadowError::Provider { provider: about.provider, volume: about.volume, source })
                    }
                    Err(_) => Err(ShadowError::Panicked),
                }
            }
        });
        for prepared in join_all(preparing).await {
            // Those that were prepared are removed when they are dropped.
            self.prepared.push(prepared?);
        }
        Ok(())
    }

    /// Cuts all volumes, together. Returns at the deadline whether or not they are done.
    ///
    /// # Errors
    /// The first provider's, or [`ShadowError::Late`].
    pub async fn commit(&mut self, deadline: Instant) -> Result<Vec<Cut>, ShadowError> {
        let cancel = Arc::new(AtomicBool::new(false));
        let _cancel_on_drop = CancelOnDrop(Arc::clone(&cancel));
        let committing = std::mem::take(&mut self.prepared).into_iter().map(|mut one| {
            let cancel = Arc::clone(&cancel);
            let under_way = UnderWay::begin();
            spawn_blocking(move || {
                let begun = Instant::now();
                one.about.begun_ns = now_ns();
                let committed = one.prepared.commit(deadline, &cancel);
                one.about.commit_ms = begun.elapsed().as_secs_f64() * 1e3;
                // Counts until what was cut is taken, or, where nobody waits any more, removed.
                (one, committed, under_way)
            })
        });
        let all = join_all(committing.collect::<Vec<_>>());
        let done = tokio::time::timeout_at((deadline + STRAGGLER).into(), all).await;
        let Ok(done) = done else {
            // They notice soon, and remove what they made when they are dropped over there.
            return Err(ShadowError::Late);
        };
        let mut cuts = Vec::new();
        let mut failed = None;
        for one in done {
            match one {
                Ok((one, Ok(()), _)) => {
                    cuts.push(one.about.clone());
                    self.prepared.push(one);
                }
                Ok((one, Err(source), _)) => {
                    let (provider, volume) = (one.about.provider.clone(), one.about.volume.clone());
                    self.prepared.push(one);
                    failed.get_or_insert(ShadowError::Provider { provider, volume, source });
                }
                Err(_) => {
                    failed.get_or_insert(ShadowError::Panicked);
                }
            }
        }
        failed.map_or(Ok(cuts), Err)
    }

    /// Completes them, after the thaw.
    ///
    /// # Errors
    /// The first provider's.
    pub async fn finish(&mut self) -> Result<(), ShadowError> {
        for one in std::mem::take(&mut self.prepared) {
            let OneShadow { about, prepared } = one;
            let finished = spawn_blocking(move || prepared.finish()).await;
            match finished {
                Ok(Ok(copy)) => self.copies.push(copy),
                Ok(Err(source)) => {
                    let (provider, volume) = (about.provider, about.volume);
                    return Err(ShadowError::Provider { provider, volume, source });
                }
                Err(_) => return Err(ShadowError::Panicked),
            }
        }
        Ok(())
    }

    /// The finished copies.
    pub fn copies(&self) -> &[ShadowCopy] {
        &self.copies
    }

    /// Original folder → folder in the shadow copy.
    pub fn roots(&self) -> Vec<(PathBuf, PathBuf)> {
        let mappings = self.copies.iter().flat_map(|copy| &copy.mappings);
        mappings.map(|mapping| (mapping.original.clone(), mapping.shadow.clone())).collect()
    }

    /// Removes every copy, finished or not. Returns what could not be removed; its record stays for `gc`.
    pub async fn remove(self) -> Vec<String> {
        let Self { set, state, prepared, copies } = self;
        let removed = spawn_blocking(move || {
            // One that missed its deadline is removed over there.
            wait_for_cuts();
            let aborted = prepared.into_iter().map(|one| one.prepared.abort());
            let deleted = copies.into_iter().map(ShadowCopy::delete);
            let failed = aborted.chain(deleted).filter_map(Result::err).map(|error| chain(&error));
            let mut problems: Vec<_> = failed.collect();
            let recorded = provider::list(&state).map(|listed| listed.records).unwrap_or_default();
            let ours = recorded.iter().filter(|record| record.set == set).count();
            // What was dropped told nobody.
            if problems.is_empty() && ours > 0 {
                problems.push(format!("{ours} are still on record"));
            }
            problems
        });
        removed.await.unwrap_or_else(|_| vec!["a provider's code ended abnormally".into()])
    }
}

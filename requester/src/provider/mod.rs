//! Providers make, hold and delete the point-in-time copy of a volume; they talk to no writer.
//!
//! Owns: the contract, the built-in providers (`btrfs`, `reflink`, `copy`), choosing among them, and the
//! records by which what a dead session left is found. Leaves to others: when to hold (`session`).

mod area;
mod btrfs;
mod budget;
mod choose;
mod copy;
mod error;
mod mirror;
mod owner;
mod record;
mod reflink;
mod registry;
mod shadow;
mod unchanged;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use uuid::Uuid;

pub use area::ShadowArea;
pub use choose::{NoProvider, VolumeGroup, check_contained, choose, group};
pub use error::{NotSupported, ProviderError};
pub use owner::Owner;
pub use record::{RecordError, Records, SCHEMA, ShadowRecord, list, orphans};
pub use registry::{DuplicateProvider, ProviderDescriptor, Providers};
pub use shadow::{DeleteShadow, Mapping, Origins, Pending, ShadowCopy};

use crate::volume::{FileSelection, Volume};

/// What may be concluded about files of one copy, from strong to weak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atomicity {
    /// All files of the volume at one instant. What nobody holds is as after a power cut at that instant:
    /// everything synced is there, and of the rest any part.
    Volume,
    /// Each file at one instant; several only if all are held, or proven unchanged.
    File,
    /// Not even one file, unless it is held, or proven unchanged.
    None,
}

impl fmt::Display for Atomicity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Volume => "volume",
            Self::File => "file",
            Self::None => "none",
        })
    }
}

/// What is asked of a provider.
#[derive(Debug, Clone)]
pub struct ShadowRequest {
    /// The snapshot set.
    pub set: Uuid,
    /// What to copy or snapshot.
    pub volume: Volume,
    /// All selections on that volume.
    pub files: Vec<FileSelection>,
    /// Where records and copies go.
    pub area: ShadowArea,
    /// How long the work under the hold may take (promise P3).
    pub budget: Duration,
}

/// Makes shadow copies of volumes. All calls block and belong on a thread that may.
///
/// Order: [`supports`](Self::supports), [`prepare`](Self::prepare) before anything is held,
/// [`PreparedShadow::commit`] while all writers hold, [`PreparedShadow::finish`] after the thaw.
pub trait Provider: Send + Sync {
    /// What the configuration and records call it.
    fn name(&self) -> &'static str;

    /// What its copies are worth.
    fn atomicity(&self) -> Atomicity;

    /// Whether it can serve these files of this volume; touches nothing that stays.
    ///
    /// # Errors
    /// [`NotSupported`] with the reason, for a person.
    fn supports(
        &self,
        volume: &Volume,
        files: &[FileSelection],
        area: &ShadowArea,
    ) -> Result<(), NotSupported>;

    /// Does everything slow, before anything is held: records the copy, makes folders, flushes, measures.
    ///
    /// # Contract
    /// - The record is durable before anything else exists. On `Err` nothing is left.
    /// - Files that nobody holds may be copied here, if `commit` proves that they have not changed since.
    ///
    /// # Errors
    /// - [`ProviderError::EstimateExceedsBudget`]: with both numbers; nothing was held.
    /// - [`ProviderError::NoSpace`], [`ProviderError::Files`], [`ProviderError::OtherVolume`].
    fn prepare(&self, request: ShadowRequest) -> Result<Box<dyn PreparedShadow>, ProviderError>;

    /// Deletes what a record describes, finished or not; the caller removes the record afterwards.
    ///
    /// # Contract
    /// - Nothing there is no error.
    /// - The record is not believed: whatever was not made by this provider is refused.
    ///
    /// # Errors
    /// [`ProviderError::DeleteRefused`], [`ProviderError::AreaRefused`], [`ProviderError::Io`].
    fn delete(&self, record: &ShadowRecord) -> Result<(), ProviderError>;
}

/// A shadow copy that can be cut at once. Dropping it, in any state, removes what there is of it.
pub trait PreparedShadow: Send {
    /// How long `commit` will take, from what was measured on this disk.
    fn estimate(&self) -> Duration;

    /// Cuts the copy: the only call made while writers hold, once.
    ///
    /// # Contract
    /// - On `Ok`, the copy contains every write that was acknowledged before the call, and none that was begun
    ///   after it returned.
    /// - Returns soon after `deadline` or after `cancel` is set, also in the middle of a file.
    ///
    /// # Errors
    /// [`ProviderError::DeadlineExceeded`], [`ProviderError::Cancelled`],
    /// [`ProviderError::ChangedDuringCut`] (retryable), [`ProviderError::NoSpace`],
    /// [`ProviderError::Files`]. Call [`abort`](Self::abort) after any.
    fn commit(&mut self, deadline: Instant, cancel: &AtomicBool) -> Result<(), ProviderError>;

    /// Completes and verifies the copy, after the thaw; it is read-only from then on.
    ///
    /// # Errors
    /// [`ProviderError::Verification`], [`ProviderError::OutOfOrder`]. Nothing is left then.
    fn finish(self: Box<Self>) -> Result<ShadowCopy, ProviderError>;

    /// Removes everything there is of the copy.
    ///
    /// # Errors
    /// What could not be removed; its record stays for `gc`.
    fn abort(self: Box<Self>) -> Result<(), ProviderError>;
}

/// Deletes what a record describes, by the provider that made it, and then the record.
///
/// # Errors
/// [`ProviderError::NoSuchProvider`], else as [`Provider::delete`]; the record stays then.
pub fn delete(record: &ShadowRecord, providers: &[Box<dyn Provider>]) -> Result<(), ProviderError> {
    let provider = providers.iter().find(|p| p.name() == record.provider);
    let provider = provider.ok_or_else(|| ProviderError::NoSuchProvider { name: record.provider.clone() })?;
    provider.delete(record)?;
    Ok(record.remove()?)
}

//! What a base copy says of the generations it needs.
//! Owns: the stamp, and the comparison of its range with one that is to be replayed.
//! Leaves to others: where a stamp is kept (the backup set's documents), the base copy's content.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{LogError, Range};

/// Kept with a base copy. Copied while the application went on, the copy is consistent only after all of generations
/// `low` to `high` were replayed into it; later ones roll it forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The log set.
    pub chain: Uuid,
    /// The database's path at backup, as in the generations.
    pub database: PathBuf,
    /// Its index there.
    pub index: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// The generation that was open when the copy began. Zero: the copy needs none, and none can be replayed.
    pub low: u32,
    /// The last generation it needs.
    pub high: u32,
}

impl Range {
    /// Errors unless a base copy with this stamp becomes consistent by this range.
    ///
    /// # Errors
    /// [`LogError::RestoreOfNonBackupDatabase`], [`LogError::DatabaseLogSetMismatch`],
    /// [`LogError::AttachedDatabaseMismatch`], [`LogError::StartingRestoreLogTooHigh`],
    /// [`LogError::EndingRestoreLogTooLow`].
    pub fn check_base(&self, stamp: &Stamp) -> Result<(), LogError> {
        let database = stamp.database.clone();
        if stamp.low == 0 {
            return Err(LogError::RestoreOfNonBackupDatabase { database });
        }
        if stamp.chain != self.chain() {
            return Err(LogError::DatabaseLogSetMismatch {
                database,
                database_chain: stamp.chain,
                chain: self.chain(),
            });
        }
        let known = self.databases().get(stamp.index as usize);
        if known.is_none_or(|known| known.path != stamp.database || known.page_size != stamp.page_size) {
            return Err(LogError::AttachedDatabaseMismatch {
                path: database,
                why: "is not, or not so, in the table of databases of these generations",
            });
        }
        if stamp.low < self.low() {
            return Err(LogError::StartingRestoreLogTooHigh {
                database,
                required: stamp.low,
                low: self.low(),
            });
        }
        if stamp.high > self.high() {
            return Err(LogError::EndingRestoreLogTooLow {
                database,
                required: stamp.high,
                high: self.high(),
            });
        }
        Ok(())
    }
}

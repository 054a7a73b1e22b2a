//! A folder of generations, and a range of them that has been verified as a whole.
//! Owns: what a folder has, whether it is one chain, and whether each generation follows the one before.
//! Leaves to others: a single file's content (`reader`), what a base copy needs (`stamp`).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::name::SUFFIX;
use crate::{Database, Generation, LogError, Place, Reader, file_name, verify};

/// The closed generations in one folder, all of one chain. Their headers have been read, not yet the rest.
#[derive(Debug, Clone)]
pub struct LogSet {
    folder: PathBuf,
    place: Place,
    chain: Option<(Uuid, Vec<Database>)>,
    numbers: BTreeMap<u32, PathBuf>,
}

/// Generations `low` to `high` of one chain, every byte verified, each following the one before.
#[derive(Debug, Clone)]
pub struct Range {
    generations: Vec<Generation>,
    /// The last of them, again: there is at least one.
    last: Generation,
}

impl LogSet {
    /// Reads the headers of all `*.hlog` files in `folder`. Files of other names are passed over, so those that are not
    /// closed (`*.hlog.new`). One folder has one chain.
    ///
    /// # Errors
    /// [`LogError::InvalidPath`], [`LogError::LogGenerationMismatch`] (the name is another generation's; so a doubled
    /// one shows), [`LogError::AttachedDatabaseMismatch`], [`LogError::BadLogVersion`], [`LogError::DiskIo`], and by place:
    /// bad signature, torn, corrupt.
    pub fn open(folder: &Path, place: Place) -> Result<Self, LogError> {
        if !folder.is_dir() {
            return Err(LogError::InvalidPath { path: folder.to_owned(), why: "is not a folder" });
        }
        let failed = |e| LogError::io(folder, "list", e);
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            if name.as_bytes().ends_with(SUFFIX.as_bytes()) {
                paths.push(folder.join(name));
            }
        }
        paths.sort();
        let mut set = Self { folder: folder.to_owned(), place, chain: None, numbers: BTreeMap::new() };
        for path in paths {
            set.add(path)?;
        }
        Ok(set)
    }

    fn add(&mut self, path: PathBuf) -> Result<(), LogError> {
        let header = Reader::open(&path, self.place)?.header().clone();
        match &self.chain {
            Some((chain, _)) if *chain != header.chain => {
                return Err(LogError::bad_signature(&path, self.place, header.chain, *chain));
            }
            Some((_, databases)) if *databases != header.databases => {
                return Err(LogError::AttachedDatabaseMismatch {
                    path,
                    why: "has another table of databases than the others of its chain",
                });
            }
            Some(_) => {}
            None => self.chain = Some((header.chain, header.databases)),
        }
        // The header decides what a file is; its name must agree, or somebody has mixed files up.
        if path.file_name().is_none_or(|name| name != file_name(header.number).as_str()) {
            return Err(LogError::LogGenerationMismatch { path, number: header.number });
        }
        self.numbers.insert(header.number, path);
        Ok(())
    }

    /// The chain's signature; `None` without a generation.
    #[must_use]
    pub fn chain(&self) -> Option<Uuid> {
        self.chain.as_ref().map(|(chain, _)| *chain)
    }

    /// The numbers that are there, in order; there may be gaps.
    pub fn numbers(&self) -> impl Iterator<Item = u32> {
        self.numbers.keys().copied()
    }

    /// Verifies generations `low` to `high`, both included, from end to end. Others in the folder are left alone.
    ///
    /// # Errors
    /// [`LogError::InvalidParameter`]: `low` is zero or above `high`; [`LogError::FileNotFound`] names the first that is
    /// missing; all of [`verify`]; by place: bad signature, not contiguous.
    pub fn range(&self, low: u32, high: u32) -> Result<Range, LogError> {
        if low == 0 || low > high {
            return Err(LogError::InvalidParameter {
                what: "a range goes from 1 or more to the same or more",
            });
        }
        // All present before the first is read.
        let found = self.numbers.range(low..=high).map(|(number, _)| *number);
        if let Some(missing) = first_missing(low, high, found) {
            return Err(LogError::FileNotFound { path: self.folder.join(file_name(missing)) });
        }
        let first = self.whole(low)?;
        let mut range = Range { generations: vec![first.clone()], last: first };
        for number in self.numbers.range(low..=high).skip(1).map(|(number, _)| *number) {
            range.push(self.whole(number)?, self.place)?;
        }
        Ok(range)
    }

    /// Verifies one of those found, and that it still is what its header said.
    fn whole(&self, number: u32) -> Result<Generation, LogError> {
        let missing = || LogError::FileNotFound { path: self.folder.join(file_name(number)) };
        let generation = verify(self.numbers.get(&number).ok_or_else(missing)?, self.place)?;
        if generation.header.number != number {
            return Err(LogError::LogGenerationMismatch {
                path: generation.path,
                number: generation.header.number,
            });
        }
        Ok(generation)
    }
}

/// The first of `low..=high` that an ordered listing of numbers in that range has not.
fn first_missing(low: u32, high: u32, found: impl Iterator<Item = u32>) -> Option<u32> {
    let mut next = Some(low);
    for number in found {
        if next != Some(number) {
            return next;
        }
        next = number.checked_add(1);
    }
    next.filter(|next| *next <= high)
}

impl Range {
    /// Its chain's signature.
    #[must_use]
    pub const fn chain(&self) -> Uuid {
        self.last.header.chain
    }

    /// The databases of its chain.
    #[must_use]
    pub fn databases(&self) -> &[Database] {
        &self.last.header.databases
    }

    /// The first generation's number.
    #[must_use]
    pub fn low(&self) -> u32 {
        self.generations.first().unwrap_or(&self.last).header.number
    }

    /// The last generation's number.
    #[must_use]
    pub const fn high(&self) -> u32 {
        self.last.header.number
    }

    /// The last commit number.
    #[must_use]
    pub const fn last_commit(&self) -> u64 {
        self.last.footer.last_commit
    }

    /// The generations, in order.
    #[must_use]
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// The last of them, which a new generation follows.
    #[must_use]
    pub const fn last(&self) -> &Generation {
        &self.last
    }

    /// Adds every generation above [`high`](Self::high) that the live folder still has (phase IIb), and says how many.
    /// None is no error; a gap is. Nothing is added on an error.
    ///
    /// # Errors
    /// [`LogError::ExistingLogFileHasBadSignature`], [`LogError::ExistingLogFileIsNotContiguous`],
    /// [`LogError::MissingCurrentLogFiles`], [`LogError::LogTornWriteDuringHardRecovery`],
    /// [`LogError::LogCorruptDuringHardRecovery`], and the rest of [`verify`].
    pub fn roll_forward(&mut self, live: &LogSet) -> Result<usize, LogError> {
        if let (Some(found), Some(path)) = (live.chain(), live.numbers.values().next())
            && found != self.chain()
        {
            return Err(LogError::bad_signature(path, live.place, found, self.chain()));
        }
        let (Some(next), Some(last)) = (self.high().checked_add(1), live.numbers.keys().next_back()) else {
            return Ok(0);
        };
        let found = live.numbers.range(next..).map(|(number, _)| *number);
        if let Some(missing) = first_missing(next, *last, found) {
            return Err(LogError::MissingCurrentLogFiles { path: live.folder.join(file_name(missing)) });
        }
        let before = self.generations.len();
        let mut longer = self.clone();
        for number in next..=*last {
            longer.push(live.whole(number)?, live.place)?;
        }
        *self = longer;
        Ok(self.generations.len() - before)
    }

    fn push(&mut self, generation: Generation, place: Place) -> Result<(), LogError> {
        let (before, header) = (&self.last, &generation.header);
        if header.chain != before.header.chain {
            let expected = before.header.chain;
            return Err(LogError::bad_signature(&generation.path, place, header.chain, expected));
        }
        if header.databases != before.header.databases {
            return Err(LogError::AttachedDatabaseMismatch {
                path: generation.path,
                why: "has another table of databases than the generation before",
            });
        }
        let why = if header.predecessor != before.sha256 {
            Some("it names another file as the one before")
        } else if header.commit_before != before.footer.last_commit {
            Some("its commit numbers do not go on")
        } else if header.created_ms < before.footer.sealed_ms {
            Some("it is older")
        } else {
            None
        };
        if let Some(why) = why {
            let before = before.header.number;
            return Err(LogError::not_contiguous(&generation.path, place, before, why));
        }
        self.generations.push(generation.clone());
        self.last = generation;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::first_missing;

    #[test]
    fn the_first_missing_number_is_named_on_either_side_and_in_the_middle() {
        let missing = |low, high, found: &[u32]| first_missing(low, high, found.iter().copied());
        assert_eq!(missing(3, 5, &[3, 4, 5]), None);
        assert_eq!(missing(3, 5, &[4, 5]), Some(3));
        assert_eq!(missing(3, 5, &[3, 5]), Some(4));
        assert_eq!(missing(3, 5, &[3, 4]), Some(5));
        assert_eq!(missing(3, 5, &[]), Some(3));
        assert_eq!(missing(u32::MAX, u32::MAX, &[u32::MAX]), None);
    }
}

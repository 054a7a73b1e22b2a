//! Whether everything a restore is about to stage fits, asked once for all targets together.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::proc;

/// What will be written at one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Absolute path; need not exist yet.
    pub target: PathBuf,
    /// Bytes, as they will lie on disk.
    pub bytes: u64,
    /// Files and folders.
    pub entries: u64,
}

/// What has to stay free beyond the data, per filesystem: the larger of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Margin {
    /// Bytes.
    pub bytes: u64,
    /// Percent of what is needed.
    pub percent: u8,
}

impl Default for Margin {
    /// 64 MiB or 5 %: recovery writes journals beside what it recovers.
    fn default() -> Self {
        Self { bytes: 64 << 20, percent: 5 }
    }
}

/// One filesystem that is too small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// A folder on it.
    pub folder: PathBuf,
    /// Bytes needed, margin included.
    pub needed_bytes: u64,
    /// Bytes free to users who are not root.
    pub available_bytes: u64,
    /// Files and folders needed.
    pub needed_entries: u64,
    /// Files and folders that can still be made; `None` where the filesystem sets no limit.
    pub available_entries: Option<u64>,
}

/// Why a restore has no room. In every case nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// At least one filesystem is too small.
    #[error("{}", describe(shortages))]
    NotEnough {
        /// Every filesystem that is; never empty.
        shortages: Vec<Shortage>,
    },
    /// A target's filesystem cannot be asked.
    #[error("cannot tell how much space `{path}` has")]
    Unknown {
        /// The nearest folder that exists.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn describe(shortages: &[Shortage]) -> String {
    let one = |short: &Shortage| {
        let entries = short.available_entries.filter(|available| *available < short.needed_entries);
        match entries {
            Some(available) => {
                format!("`{}` needs {} files, has {available}", short.folder.display(), short.needed_entries)
            }
            None => format!(
                "`{}` needs {} bytes, has {}",
                short.folder.display(),
                short.needed_bytes,
                short.available_bytes
            ),
        }
    };
    format!("not enough space: {}", shortages.iter().map(one).collect::<Vec<_>>().join("; "))
}

/// Checks that `needs` fit, summed up by filesystem.
///
/// # Errors
/// [`SpaceError::NotEnough`] with every filesystem that is too small; [`SpaceError::Unknown`].
pub fn check(needs: &[Need], margin: Margin) -> Result<(), SpaceError> {
    check_with(needs, margin, &ask)
}

/// What a filesystem says of itself.
struct Free {
    filesystem: u64,
    bytes: u64,
    entries: Option<u64>,
}

fn ask(folder: &Path) -> io::Result<Free> {
    let stat = rustix::fs::statvfs(folder)?;
    Ok(Free {
        // Not st_dev: btrfs subvolumes differ in it and share their space.
        filesystem: proc::filesystem_of(folder)?,
        bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        // btrfs makes inodes as it goes and reports none at all.
        entries: (stat.f_files > 0).then_some(stat.f_favail),
    })
}

fn check_with(
    needs: &[Need],
    margin: Margin,
    ask: &dyn Fn(&Path) -> io::Result<Free>,
) -> Result<(), SpaceError> {
    let mut sums: BTreeMap<u64, Shortage> = BTreeMap::new();
    for need in needs {
        let folder = nearest_existing(&need.target);
        let free = ask(folder).map_err(|source| SpaceError::Unknown { path: folder.to_owned(), source })?;
        let sum = sums.entry(free.filesystem).or_insert_with(|| Shortage {
            folder: folder.to_owned(),
            needed_bytes: 0,
            available_bytes: free.bytes,
            needed_entries: 0,
            available_entries: free.entries,
        });
        sum.needed_bytes = sum.needed_bytes.saturating_add(need.bytes);
        sum.needed_entries = sum.needed_entries.saturating_add(need.entries);
    }
    let mut shortages: Vec<_> = sums.into_values().collect();
    for sum in &mut shortages {
        let percent = sum.needed_bytes / 100 * u64::from(margin.percent);
        sum.needed_bytes = sum.needed_bytes.saturating_add(margin.bytes.max(percent));
    }
    shortages.retain(|sum| {
        sum.needed_bytes > sum.available_bytes
            || sum.available_entries.is_some_and(|available| sum.needed_entries > available)
    });
    if shortages.is_empty() { Ok(()) } else { Err(SpaceError::NotEnough { shortages }) }
}

fn nearest_existing(path: &Path) -> &Path {
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Margin = Margin { bytes: 0, percent: 0 };

    fn need(target: &str, bytes: u64) -> Need {
        Need { target: target.into(), bytes, entries: 1 }
    }

    #[test]
    fn targets_on_one_filesystem_are_summed_up() {
        let ask = |_: &Path| Ok(Free { filesystem: 1, bytes: 100, entries: None });
        assert!(check_with(&[need("/a", 60), need("/b", 40)], NONE, &ask).is_ok());
        let Err(SpaceError::NotEnough { shortages }) =
            check_with(&[need("/a", 60), need("/b", 41)], NONE, &ask)
        else {
            panic!("101 bytes fit into 100");
        };
        assert_eq!((shortages[0].needed_bytes, shortages[0].available_bytes), (101, 100));
    }

    #[test]
    fn the_larger_margin_counts_and_inodes_count_too() {
        let ask = |_: &Path| Ok(Free { filesystem: 1, bytes: 1000, entries: Some(1) });
        let margin = Margin { bytes: 10, percent: 50 };
        assert!(check_with(&[need("/a", 600)], margin, &ask).is_ok());
        assert!(check_with(&[need("/a", 800)], margin, &ask).is_err());
        let error = check_with(&[need("/a", 1), need("/b", 1)], NONE, &ask).unwrap_err();
        assert!(error.to_string().contains("needs 2 files, has 1"), "{error}");
    }

    #[test]
    fn a_real_filesystem_has_room_for_a_byte_and_none_for_everything() {
        let target = std::env::temp_dir().join("no/such/folder");
        let need = |bytes| Need { target: target.clone(), bytes, entries: 1 };
        check(&[need(1)], NONE).unwrap();
        let error = check(&[need(u64::MAX)], Margin::default()).unwrap_err();
        assert!(matches!(error, SpaceError::NotEnough { .. }), "{error}");
    }
}

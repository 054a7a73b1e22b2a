//! Numbered log generations: what a database's pages became, transaction by transaction, in files that form a chain.
//!
//! A *generation* is one file: a header that names its *chain* (the log set's signature), its number and the hash of the
//! generation before; one record for each committed transaction; a footer that closes it. Several databases may share a
//! chain. A base copy together with the generations that follow it is what hard recovery needs: JET's words and errors,
//! on a format of our own, which `docs/format-generations.md` describes to the byte.
//!
//! ```
//! use holdfast_store_generations::{Database, GenerationWriter, Kind, LogSet, Place};
//!
//! # fn main() -> Result<(), holdfast_store_generations::LogError> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! let chain = uuid::Uuid::new_v4();
//! let database = Database { path: "/srv/ca/db.sqlite3".into(), page_size: 4096 };
//! let mut first = GenerationWriter::begin_chain(folder, chain, vec![database], 1_700_000_000_000)?;
//! let mut record = first.record(0, Kind::Transaction, 7, 1_700_000_000_500)?;
//! record.page(3, &[0; 4096])?;
//! record.finish()?;
//! let first = first.seal(1_700_000_001_000)?; // gen00001.hlog
//! GenerationWriter::follow(folder, &first, 1_700_000_001_000)?.seal(1_700_000_002_000)?;
//!
//! let range = LogSet::open(folder, Place::Backup)?.range(1, 2)?; // everything verified, or a named error
//! assert_eq!(range.last_commit(), 1);
//! # Ok(()) }
//! ```
//!
//! Nothing read is trusted: every length is bounded before it is used, at most one page is in memory, and a file is
//! identified by its header, never by its name.

mod error;
mod format;
mod name;
mod reader;
mod set;
mod stamp;
mod writer;

pub use error::{LogError, Place};
pub use format::{Database, Footer, Header, Kind, MAX_DATABASES, MAX_PATH_BYTES, RecordHead};
pub use name::{FIRST_LONG_NUMBER, file_name, unsealed_name};
pub use reader::{Generation, Page, Prefix, Reader, verify, verify_prefix};
pub use set::{LogSet, Range};
pub use stamp::Stamp;
pub use writer::{GenerationWriter, Position, RecordWriter};

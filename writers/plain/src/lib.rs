//! The two plain writers: what a user without a special writer takes.
//!
//! - `sqlite`: one SQLite database, or several held together. It is held from outside, by a write transaction that
//!   writes nothing; the application needs no change.
//! - `files`: files and folders. If the application takes a lock file around its writes, that is held and they
//!   form one point in time; otherwise they are cut as they are.
//!
//! Both are registered with [`inventory`] by linking this crate; [`SQLITE`] and [`FILES`] serve programs that register
//! by hand.

mod files;
mod holder;
mod settings;
mod sqlite;

use holdfast_writer_api::{Cause, WriterDescriptor, WriterError, inventory};

pub use files::{FilesSettings, KeySettings};
pub use sqlite::SqliteSettings;

/// The writer `sqlite`; its settings are [`SqliteSettings`].
pub const SQLITE: WriterDescriptor = WriterDescriptor {
    name: "sqlite",
    summary: "SQLite databases, held from outside while they are cut",
    build: sqlite::build,
};

/// The writer `files`; its settings are [`FilesSettings`].
pub const FILES: WriterDescriptor = WriterDescriptor {
    name: "files",
    summary: "files and folders, held by the application's lock file if it has one",
    build: files::build,
};

inventory::submit! { SQLITE }
inventory::submit! { FILES }

/// Runs `work`, which blocks, beside the runtime.
async fn blocking<T: Send + 'static>(
    writer: &str,
    work: impl FnOnce() -> Result<T, WriterError> + Send + 'static,
) -> Result<T, WriterError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(WriterError::not_responding(writer, "its code panicked")),
    }
}

/// The file system's refusal as the contract's classes.
fn io_error(writer: &str, path: &std::path::Path, action: &str, error: &std::io::Error) -> WriterError {
    let writer = writer.to_owned();
    let cause = Cause::new(format!("cannot {action} `{}`: {error}", path.display()));
    let kind = error.kind();
    if kind == std::io::ErrorKind::PermissionDenied {
        WriterError::Denied { writer, cause }
    } else if matches!(kind, std::io::ErrorKind::OutOfMemory | std::io::ErrorKind::StorageFull) {
        WriterError::OutOfResources { writer, cause }
    } else {
        WriterError::Rejected { writer, cause }
    }
}

#[cfg(test)]
mod tests {
    use holdfast_writer_api::Registry;

    #[test]
    fn both_plain_writers_are_linked() {
        assert_eq!(Registry::linked().unwrap().names(), ["files", "sqlite"]);
    }
}

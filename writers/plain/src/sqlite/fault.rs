//! Sorts the store's errors into the contract's classes, with the store's advice in the text.

use holdfast_store_sqlite::{Retry, SqliteError};
use holdfast_writer_api::{Cause, WriterError};
use rusqlite::ErrorCode;

/// The error of this layer, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct Advised {
    text: String,
    source: Option<Cause>,
}

/// What the store met, as a reason.
pub(super) fn cause(error: &SqliteError) -> Cause {
    let source = std::error::Error::source(error).map(Cause::from_error);
    Cause::from_error(&Advised { text: format!("{error} ({})", error.help()), source })
}

/// What the store met with a live database.
pub(super) fn live(writer: &str, error: &SqliteError) -> WriterError {
    let (writer, cause) = (writer.to_owned(), cause(error));
    match error.retry() {
        _ if is_denied(error) => WriterError::Denied { writer, cause },
        Retry::WhenQuieter => WriterError::Busy { writer, cause },
        Retry::Never => WriterError::Rejected { writer, cause },
    }
}

/// Whether a right is missing, and nothing is known of the database itself.
pub(super) fn is_denied(error: &SqliteError) -> bool {
    let refused = |kind| kind == std::io::ErrorKind::PermissionDenied;
    // The file was found, and still SQLite may not open it.
    let shut = |answer: Option<ErrorCode>| answer == Some(ErrorCode::CannotOpen);
    matches!(error, SqliteError::ReadOnly { .. })
        || matches!(error, SqliteError::Io { source, .. } if refused(source.kind()))
        || matches!(error, SqliteError::Engine { source, .. } if shut(source.sqlite_error_code()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_by_itself_is_busy_and_what_needs_a_right_is_denied() {
        let path = || "/srv/shop.db".into();
        let busy = live("shop", &SqliteError::HoldTimeout { path: path(), waited_ms: 500 });
        assert!(
            matches!(&busy, WriterError::Busy { cause, .. } if cause.to_string().contains("500 ms")),
            "{busy:?}"
        );
        let denied = live("shop", &SqliteError::ReadOnly { path: path() });
        assert!(matches!(&denied, WriterError::Denied { cause, .. } if cause.to_string().contains("owner")));
        assert!(matches!(live("shop", &SqliteError::Missing { path: path() }), WriterError::Rejected { .. }));
    }
}

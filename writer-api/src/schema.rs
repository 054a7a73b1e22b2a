//! Versioned documents: every one names its schema, `name/major`, first of all.
//!
//! A reader takes its own major version and older ones it still knows; unknown *fields* are ignored, an
//! unknown *major* is a named error, since guessing at a newer document is how a restore goes wrong.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest document we parse. A set of a thousand writers stays far below.
pub const MAX_DOCUMENT_BYTES: usize = 64 << 20;

/// Why a document cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Written by a newer Holdfast.
    #[error("the document has schema `{found}`, this version reads `{known}`: a newer Holdfast wrote it")]
    Newer {
        /// What it says it is.
        found: String,
        /// What we read.
        known: &'static str,
    },
    /// Another kind of document altogether.
    #[error("expected a document of schema `{known}`, found `{found}`")]
    Foreign {
        /// What it says it is; empty when it says nothing.
        found: String,
        /// What we read.
        known: &'static str,
    },
    /// Not JSON, or not of its schema's shape.
    #[error("the document of schema `{known}` is damaged")]
    Malformed {
        /// What we tried to read.
        known: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Longer than [`MAX_DOCUMENT_BYTES`].
    #[error("the document is {bytes} bytes long, more than the {MAX_DOCUMENT_BYTES} allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
}

/// Reads a document whose `schema` field must be `known` (`name/major`).
///
/// # Errors
/// [`DocumentError`], by what is wrong; never panics whatever the bytes are.
pub fn parse<T: DeserializeOwned>(bytes: &[u8], known: &'static str) -> Result<T, DocumentError> {
    #[derive(serde::Deserialize)]
    struct Head {
        #[serde(default)]
        schema: String,
    }
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(DocumentError::TooLong { bytes: bytes.len() });
    }
    let malformed = |source| DocumentError::Malformed { known, source };
    let found = serde_json::from_slice::<Head>(bytes).map_err(malformed)?.schema;
    if found != known {
        return Err(match (split(&found), split(known)) {
            (Some((name, major)), Some((ours, newest))) if name == ours && major > newest => {
                DocumentError::Newer { found, known }
            }
            _ => DocumentError::Foreign { found, known },
        });
    }
    serde_json::from_slice(bytes).map_err(malformed)
}

/// The document as it is stored: indented, so that a person with `restic dump` can read it.
pub fn to_bytes<T: Serialize>(document: &T) -> Vec<u8> {
    // Our documents have string keys and finite numbers only; serializing them cannot fail.
    let mut bytes = serde_json::to_vec_pretty(document).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

fn split(schema: &str) -> Option<(&str, u32)> {
    let (name, major) = schema.rsplit_once('/')?;
    Some((name, major.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[allow(dead_code, reason = "only the parse is of interest")]
    struct Doc {
        schema: String,
        n: u8,
    }

    #[test]
    fn a_newer_major_a_foreign_schema_and_damage_are_told_apart() {
        let read = |text: &str| parse::<Doc>(text.as_bytes(), "holdfast.doc/2");
        assert_eq!(read(r#"{"schema":"holdfast.doc/2","n":1,"later":true}"#).unwrap().n, 1);
        assert!(matches!(read(r#"{"schema":"holdfast.doc/3"}"#), Err(DocumentError::Newer { .. })));
        assert!(matches!(read(r#"{"schema":"other/2"}"#), Err(DocumentError::Foreign { .. })));
        assert!(matches!(read("{}"), Err(DocumentError::Foreign { .. })));
        assert!(matches!(
            read(r#"{"schema":"holdfast.doc/2","n":"x"}"#),
            Err(DocumentError::Malformed { .. })
        ));
        assert!(matches!(read("\u{0}garbage"), Err(DocumentError::Malformed { .. })));
    }
}

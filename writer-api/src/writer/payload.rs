//! What a writer hands over itself instead of letting its files be copied: sealed keys, streams, logs.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::ComponentRef;

/// A key, sealed. The plain key is not in here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SealedKey {
    /// The component it belongs to.
    pub component: ComponentRef,
    /// Where the application keeps it.
    pub path: PathBuf,
    /// What it is for.
    pub purpose: String,
    /// Identifies the key without revealing it: `SHA256:…` of its public half.
    pub fingerprint: String,
    /// What was proved and how, or why nothing could be.
    pub proof: KeySeal,
    /// Mode, owner and group of the file.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The `age` file.
    #[serde(with = "hex")]
    pub sealed: Vec<u8>,
}

/// Whether a key was proved to fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum KeySeal {
    /// The public half equals the certificate's, and a fresh signature verified.
    Proved {
        /// Algorithm, as a person writes it.
        algorithm: String,
    },
    /// Sealed, but whether it fits could not be shown.
    NotProved {
        /// Why.
        why: String,
    },
}

/// A file that a writer streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamFile {
    /// Handed to `open_stream`; unique.
    pub name: String,
    /// The component it belongs to.
    pub component: ComponentRef,
    /// Where the file would lie if it were copied.
    pub path: PathBuf,
    /// Expected size in bytes; the stream may be longer or shorter.
    pub size_hint: u64,
}

/// An open stream.
#[derive(Debug)]
pub struct Stream {
    /// Read to its end. A pipe or socket: the writer may stand on its other side.
    pub fd: OwnedFd,
}

/// A log file of a writer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogFile {
    /// Its name, as `backup_complete` hands it back.
    pub name: String,
    /// Its generation.
    pub generation: u64,
    /// Where it lies.
    pub path: PathBuf,
}

/// Bytes as hexadecimal text: plain enough for a plugin in any language.
mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(bytes: &[u8], out: S) -> Result<S::Ok, S::Error> {
        use std::fmt::Write;
        let mut text = String::with_capacity(bytes.len() * 2);
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        out.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        let digits: Option<Vec<u8>> =
            text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
        match digits {
            Some(digits) if digits.len().is_multiple_of(2) => {
                Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
            }
            _ => Err(D::Error::custom("expected an even number of hexadecimal digits")),
        }
    }
}

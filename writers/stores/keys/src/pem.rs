//! Finds and decodes the PEM blocks of a file, whatever text stands around them.
//!
//! Our own, because what is decoded here are private keys: every intermediate buffer is wiped, base64 is decoded in
//! constant time, and the traditional `Proc-Type: 4,ENCRYPTED` header is seen rather than taken for damage.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";
/// Longest label; `ENCRYPTED PRIVATE KEY` has 21.
const MAX_LABEL: usize = 64;
/// Most blocks of one file.
const MAX_BLOCKS: usize = 256;

/// One block between `BEGIN` and `END`.
pub(crate) struct Block<'a> {
    /// What stands after `BEGIN`.
    pub label: &'a str,
    /// Whether the traditional header says that the content is encrypted.
    pub encrypted: bool,
    body: &'a [u8],
}

/// The blocks of a file, in order; incomplete ones end the list.
pub(crate) fn blocks(mut bytes: &[u8]) -> Vec<Block<'_>> {
    let mut found = Vec::new();
    while found.len() < MAX_BLOCKS {
        let Some(start) = find(bytes, BEGIN) else { break };
        bytes = &bytes[start + BEGIN.len()..];
        let Some(label) = label_at(bytes) else { continue };
        let content = &bytes[label.len() + DASHES.len()..];
        let Some(end) = ends(content).find(|at| content[at + END.len()..].starts_with(label.as_bytes()))
        else {
            continue;
        };
        let body = &content[..end];
        // A new BEGIN before our END: this one was cut off; go on with the next.
        if find(body, BEGIN).is_some() {
            continue;
        }
        found.push(Block { label, encrypted: find(body, b"4,ENCRYPTED").is_some(), body });
        bytes = &content[end + END.len()..];
    }
    found
}

impl Block<'_> {
    /// Its bytes, or `None` when they are not base64.
    pub(crate) fn decode(&self) -> Option<Zeroizing<Vec<u8>>> {
        let mut text = Zeroizing::new(Vec::with_capacity(self.body.len()));
        for line in self.body.split(|byte| *byte == b'\n') {
            if !line.contains(&b':') {
                text.extend(line.iter().copied().filter(|byte| !byte.is_ascii_whitespace()));
            }
        }
        let mut decoded = Zeroizing::new(vec![0; text.len() / 4 * 3]);
        let length = Base64::decode(text.as_slice(), decoded.as_mut_slice()).ok()?.len();
        decoded.truncate(length);
        Some(decoded)
    }
}

/// The label at the start of `bytes`, when five dashes follow it.
pub(crate) fn label_at(bytes: &[u8]) -> Option<&str> {
    let within = &bytes[..bytes.len().min(MAX_LABEL + DASHES.len())];
    let label = &within[..find(within, DASHES)?];
    let plain = label.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b' ');
    std::str::from_utf8(label).ok().filter(|_| plain)
}

/// Every place where a label may follow `BEGIN`.
pub(crate) fn labels(bytes: &[u8]) -> impl Iterator<Item = &str> {
    positions(bytes, BEGIN).filter_map(|at| label_at(&bytes[at + BEGIN.len()..]))
}

/// The first place of `needle`.
pub(crate) fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, needle)
}

fn ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    positions(bytes, END)
}

fn positions<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    memchr::memmem::find_iter(bytes, needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_text_and_cut_off_ones_are_skipped() {
        let text = b"Certificate:\n  text\n-----BEGIN CUT-----\nAA\n-----BEGIN ONE-----\r\nAQID\r\n-----END ONE-----\r\n\
            -----BEGIN TWO KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nBAUG\n-----END TWO KEY-----\n-----BEGIN X";
        let found = blocks(text);
        assert_eq!(
            found.iter().map(|block| (block.label, block.encrypted)).collect::<Vec<_>>(),
            [("ONE", false), ("TWO KEY", true)]
        );
        assert_eq!(found[0].decode().unwrap().as_slice(), [1, 2, 3]);
        assert_eq!(found[1].decode().unwrap().as_slice(), [4, 5, 6]);
        assert_eq!(labels(text).collect::<Vec<_>>(), ["CUT", "ONE", "TWO KEY"]);
    }

    #[test]
    fn what_is_not_base64_is_none_and_not_a_panic() {
        for body in ["!", "A", "AAA", "====", ""] {
            let text = format!("-----BEGIN A-----\n{body}\n-----END A-----");
            let decoded = blocks(text.as_bytes())[0].decode();
            assert_eq!(decoded.is_some(), body.is_empty(), "{body}");
        }
    }
}

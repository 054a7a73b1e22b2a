//! An identity to which keys are sealed, and the traces by which a plain key is recognized.

use std::io::Read;

/// An `age` identity that lives as long as a check.
pub struct Keyring(age::x25519::Identity);

impl Keyring {
    pub fn new() -> Self {
        Self(age::x25519::Identity::generate())
    }

    /// Its public half: `age1…`.
    pub fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// A recipient whose identity is thrown away.
    pub fn recipient_of_nobody() -> String {
        Self::new().recipient()
    }

    /// Opens an `age` file, binary or armored.
    ///
    /// # Errors
    /// Why it does not open, as a sentence.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let decryptor = age::Decryptor::new_buffered(sealed).map_err(|error| error.to_string())?;
        let opened = decryptor.decrypt(std::iter::once(&self.0 as &dyn age::Identity));
        let mut plain = Vec::new();
        opened
            .map_err(|error| error.to_string())?
            .read_to_end(&mut plain)
            .map_err(|error| error.to_string())?;
        Ok(plain)
    }
}

/// Shortest piece of a key that counts as one: shorter ones are found in anything.
const SHORTEST: usize = 12;

/// What a key looks like where it must not be.
pub struct Traces(Vec<Vec<u8>>);

impl Traces {
    /// Of a key's bytes: as they are, line by line for text, and in hexadecimal. A heading such as
    /// `-----BEGIN PRIVATE KEY-----` is no secret.
    pub fn of(key: &[u8]) -> Self {
        let mut traces = Vec::new();
        match std::str::from_utf8(key) {
            Ok(text) => {
                let lines = text.lines().map(str::trim).filter(|line| !line.starts_with("-----"));
                traces.extend(lines.map(|line| line.as_bytes().to_vec()));
            }
            Err(_) => traces.push(key.to_vec()),
        }
        traces.push(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into_bytes());
        traces.retain(|trace| trace.len() >= SHORTEST);
        Self(traces)
    }

    /// Whether one of them is in `text`.
    pub fn are_in(&self, text: &[u8]) -> bool {
        self.0.iter().any(|trace| text.windows(trace.len()).any(|part| part == trace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recognized_by_any_line_and_in_hexadecimal_and_not_by_its_heading() {
        let key = b"-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\nshort\n-----END PRIVATE KEY-----\n";
        let traces = Traces::of(key);
        assert!(traces.are_in(b"error: cannot parse MC4CAQAwBQYDK2VwBCIEIA at line 1"));
        assert!(!traces.are_in(b"-----BEGIN PRIVATE KEY----- short"));
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(traces.are_in(hex.as_bytes()));
        let binary = Traces::of(&[0xff; 32]);
        assert!(binary.are_in(&[0xff; 40]) && !binary.are_in(&[0xff; 31]));
    }
}

//! The version of the protocol: which is ours, and which two sides speak with each other.

use std::fmt;
use std::str::FromStr;

/// `major.minor`; a minor only adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// The same on both sides, or there is no conversation.
    pub major: u32,
    /// The lower one is spoken.
    pub minor: u32,
}

impl Version {
    /// What this crate speaks.
    pub const OURS: Self = Self { major: 1, minor: 0 };

    /// What two sides speak with each other, if anything.
    pub fn agreed(self, theirs: Self) -> Option<Self> {
        (self.major == theirs.major).then(|| self.min(theirs))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Not `major.minor` in decimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no version of the protocol; expected one such as `{}`", Version::OURS)]
pub struct NoVersion {
    /// What was said, cut to what a person can read.
    pub text: String,
}

impl FromStr for Version {
    type Err = NoVersion;

    fn from_str(text: &str) -> Result<Self, NoVersion> {
        let number =
            |digits: &str| digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?;
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self { major: number(major)?, minor: number(minor)? }))
            .ok_or_else(|| NoVersion { text: text.chars().take(32).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn the_major_must_be_the_same_and_the_lower_minor_is_spoken() {
        assert_eq!(version("1.7").agreed(version("1.2")), Some(version("1.2")));
        assert_eq!(version("1.2").agreed(version("1.7")), Some(version("1.2")));
        assert_eq!(version("2.0").agreed(version("1.7")), None);
        assert_eq!(version(&Version::OURS.to_string()), Version::OURS);
    }

    #[test]
    fn what_is_no_version_is_a_named_error() {
        for bad in ["", "1", "1.", ".1", "1.0.0", "+1.0", "1.x", "99999999999.0", "one.two"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}

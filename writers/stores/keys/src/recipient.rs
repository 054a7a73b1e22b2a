//! The public half of a recovery identity: what a configuration names, and what a key is sealed to.

use std::fmt;
use std::str::FromStr;

use ring::{agreement, rand::SystemRandom};

/// An X25519 recipient, written `age1…`. Public: may stand in configuration, documents and logs.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Recipient(age::x25519::Recipient);

/// Why a text is not a recipient. Never repeats a secret that was pasted by mistake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipientError {
    /// Nothing there.
    #[error("a recipient is empty; one looks like `age1…`")]
    Empty,
    /// A secret key stands where the public half belongs. It has been exposed to whoever can read that place.
    #[error(
        "this is a secret key (`AGE-SECRET-KEY-1…`), not a recipient; remove it, it must never be kept on this machine"
    )]
    SecretKey,
    /// A recipient of another kind, which stock `age` might need a plugin for.
    #[error("a recipient of kind `{kind}` is not supported; only X25519 recipients (`age1…`) are")]
    OtherKind {
        /// Its kind, such as `ssh-ed25519` or `age1yubikey`.
        kind: String,
    },
    /// Not readable as a recipient: a character was lost or changed.
    #[error("`{text}` is not a recipient: mistyped or cut off")]
    Malformed {
        /// The text, shortened to 80 characters.
        text: String,
    },
    /// A point to which anybody could open what is sealed.
    #[error("`{text}` is a recipient that protects nothing (a point of low order)")]
    LowOrder {
        /// The recipient as written.
        text: String,
    },
}

impl Recipient {
    /// Reads `age1…`, surrounding white space ignored.
    ///
    /// # Errors
    /// [`RecipientError`]: which of the usual mistakes it is.
    pub fn parse(text: &str) -> Result<Self, RecipientError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(RecipientError::Empty);
        }
        if text.to_ascii_uppercase().contains("AGE-SECRET-KEY-") {
            return Err(RecipientError::SecretKey);
        }
        if let Some(kind) = text.split_whitespace().next().filter(|kind| kind.starts_with("ssh-")) {
            return Err(RecipientError::OtherKind { kind: shortened(kind) });
        }
        let malformed = || RecipientError::Malformed { text: shortened(text) };
        let (kind, point) = bech32::decode(text).map_err(|_| malformed())?;
        if kind.as_str() != "age" {
            return Err(RecipientError::OtherKind { kind: shortened(kind.as_str()) });
        }
        let recipient = age::x25519::Recipient::from_str(text).map_err(|_| malformed())?;
        // Such a point makes the shared secret zero; the library answers with a panic when sealing to it.
        if !agrees_on_a_secret(&point) {
            return Err(RecipientError::LowOrder { text: shortened(text) });
        }
        Ok(Self(recipient))
    }

    pub(crate) const fn from_age(recipient: age::x25519::Recipient) -> Self {
        Self(recipient)
    }

    pub(crate) const fn as_age(&self) -> &age::x25519::Recipient {
        &self.0
    }
}

impl FromStr for Recipient {
    type Err = RecipientError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Recipient({})", self.0)
    }
}

fn agrees_on_a_secret(point: &[u8]) -> bool {
    let Ok(secret) = agreement::EphemeralPrivateKey::generate(&agreement::X25519, &SystemRandom::new())
    else {
        return false;
    };
    let peer = agreement::UnparsedPublicKey::new(&agreement::X25519, point);
    agreement::agree_ephemeral(secret, &peer, |_| ()).is_ok()
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bech32::Hrp;

    const GOOD: &str = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";

    fn encode(kind: &str, bytes: &[u8]) -> String {
        bech32::encode::<bech32::Bech32>(Hrp::parse(kind).unwrap(), bytes).unwrap()
    }

    #[test]
    fn a_recipient_reads_and_prints_the_same() {
        assert_eq!(Recipient::parse(&format!("  {GOOD}\n")).unwrap().to_string(), GOOD);
    }

    #[test]
    fn every_usual_mistake_has_its_own_name() {
        assert_eq!(Recipient::parse("  "), Err(RecipientError::Empty));
        assert_eq!(
            Recipient::parse("ssh-ed25519 AAAAC3Nz a@b"),
            Err(RecipientError::OtherKind { kind: "ssh-ed25519".into() })
        );
        assert_eq!(
            Recipient::parse(&encode("age1yubikey", &[2; 33])),
            Err(RecipientError::OtherKind { kind: "age1yubikey".into() })
        );
        for text in [&GOOD[..40], &GOOD.replace("t7rx", "t7rz"), "age1", "nonsense", &encode("age", &[7; 31])]
        {
            assert!(matches!(Recipient::parse(text), Err(RecipientError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn a_pasted_secret_key_is_refused_and_not_repeated() {
        let secret = "AGE-SECRET-KEY-1GQ9778VQXMMJVE8SK7J6VT8UJ4HDQAJUVSFCWCM02D8GEWQ72PVQ2Y5J33";
        let error = Recipient::parse(secret).unwrap_err();
        assert_eq!(error, RecipientError::SecretKey);
        assert!(!format!("{error} {error:?}").contains("GQ9778"));
    }

    #[test]
    fn a_point_of_low_order_is_refused_instead_of_panicking_while_sealing() {
        let mut one = [0; 32];
        one[0] = 1;
        for point in [[0; 32], one] {
            assert!(matches!(Recipient::parse(&encode("age", &point)), Err(RecipientError::LowOrder { .. })));
        }
    }
}

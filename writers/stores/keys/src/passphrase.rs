//! Says whether a passphrase is worth the recovery identity it protects, and makes one that is.
//! Owns: one small rule (length, repetition, a rough entropy estimate). Not a dictionary: it refuses what a person can
//! see is weak, and says why in a sentence.

use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

/// Fewest characters of a passphrase that is not made of words.
const MIN_CHARS: usize = 12;
/// Words from which on a passphrase counts as a phrase.
const MIN_WORDS: usize = 6;
/// Longest accepted passphrase, in bytes: a bound, not advice.
const MAX_BYTES: usize = 1024;
/// Estimated bits below which a passphrase is refused.
const MIN_BITS: f64 = 40.0;
/// Letters and digits that cannot be mistaken for each other on paper; 32 of them, 5 bits each.
const READABLE: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// What people begin with when asked for a password.
const COMMON: [&str; 14] = [
    "password",
    "passwort",
    "passphrase",
    "holdfast",
    "letmein",
    "welcome",
    "qwertyuiop",
    "qwertzuiop",
    "qwerty",
    "qwertz",
    "asdfghjkl",
    "changeme",
    "correcthorsebatterystaple",
    "administrator",
];

/// Why a passphrase was refused. Never contains the passphrase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WeakPassphrase {
    /// Too few characters, and not a phrase of words either.
    #[error("the passphrase has {chars} characters; at least {MIN_CHARS}, or {MIN_WORDS} words, are needed")]
    TooShort {
        /// Characters it has.
        chars: usize,
    },
    /// Over the upper bound.
    #[error("the passphrase has {bytes} bytes; at most {MAX_BYTES} are accepted")]
    TooLong {
        /// Bytes it has.
        bytes: usize,
    },
    /// A newline or another control character: nobody could type it again.
    #[error(
        "the passphrase contains a control character, such as a line break, and could not be typed again"
    )]
    Untypable,
    /// The same few characters, or the same piece, again and again.
    #[error("the passphrase repeats itself: the same few characters, or the same piece, again and again")]
    Repetitive,
    /// A series such as `abcdef` or `123456`, or too few kinds of character for its length.
    #[error(
        "the passphrase is too easy to guess: series of neighbours such as `abc` or `123`, or digits alone, add little"
    )]
    Predictable,
    /// What is left beside a common word is too short.
    #[error("the passphrase is a common word with little added to it")]
    Common,
}

/// Refuses passphrases that a stranger would guess, with a plain reason.
///
/// Accepted are at least 12 characters, or at least 6 different words, that are not trivially repetitive.
///
/// # Errors
/// [`WeakPassphrase`]: the first reason found.
pub fn check_passphrase(passphrase: &str) -> Result<(), WeakPassphrase> {
    if passphrase.len() > MAX_BYTES {
        return Err(WeakPassphrase::TooLong { bytes: passphrase.len() });
    }
    if passphrase.chars().any(char::is_control) {
        return Err(WeakPassphrase::Untypable);
    }
    if distinct_words(passphrase) >= MIN_WORDS {
        return Ok(());
    }
    let chars: Zeroizing<Vec<char>> = Zeroizing::new(passphrase.chars().collect());
    if chars.len() < MIN_CHARS {
        return Err(WeakPassphrase::TooShort { chars: chars.len() });
    }
    if distinct(&chars) < 6 || repeats_a_piece(&chars) {
        return Err(WeakPassphrase::Repetitive);
    }
    let lower = Zeroizing::new(passphrase.to_lowercase());
    for word in COMMON {
        if lower.contains(word) && chars.len() - word.len().min(chars.len()) < 8 {
            return Err(WeakPassphrase::Common);
        }
    }
    if estimated_bits(&chars) < MIN_BITS { Err(WeakPassphrase::Predictable) } else { Ok(()) }
}

/// A passphrase of 125 random bits: five groups of five letters and digits that cannot be mistaken for each other.
///
/// # Panics
/// When the operating system has no random numbers; nothing secret can be made then.
pub fn generate_passphrase() -> Zeroizing<String> {
    let mut random = Zeroizing::new([0_u8; 25]);
    SystemRandom::new().fill(random.as_mut_slice()).expect("the operating system gives random numbers");
    let mut text = Zeroizing::new(String::with_capacity(29));
    for (index, byte) in random.iter().enumerate() {
        if index > 0 && index % 5 == 0 {
            text.push('-');
        }
        text.push(char::from(READABLE[usize::from(byte & 31)]));
    }
    text
}

fn distinct_words(passphrase: &str) -> usize {
    let mut words: Vec<&str> = passphrase
        .split(|c: char| c.is_whitespace() || c == '-' || c == '.' || c == '_')
        .filter(|word| word.chars().count() >= 3)
        .collect();
    words.sort_unstable();
    words.dedup();
    words.len()
}

fn distinct(chars: &[char]) -> usize {
    let mut sorted = Zeroizing::new(chars.to_vec());
    sorted.sort_unstable();
    1 + sorted.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Whether the whole is one piece written twice or more (the last one may be cut short).
fn repeats_a_piece(chars: &[char]) -> bool {
    (1..=chars.len() / 2).any(|period| chars.iter().zip(&chars[period..]).all(|(a, b)| a == b))
}

/// Characters that do not follow from the one before, times the bits of the classes used.
fn estimated_bits(chars: &[char]) -> f64 {
    let surprising =
        1 + chars.windows(2).filter(|pair| u32::from(pair[0]).abs_diff(u32::from(pair[1])) > 1).count();
    let mut class = 0_u32;
    let mut add = |test: fn(&char) -> bool, size: u32| class += if chars.iter().any(test) { size } else { 0 };
    add(char::is_ascii_lowercase, 26);
    add(char::is_ascii_uppercase, 26);
    add(char::is_ascii_digit, 10);
    add(|c| c.is_ascii() && !c.is_ascii_alphanumeric(), 33);
    add(|c| !c.is_ascii(), 64);
    #[expect(clippy::cast_precision_loss, reason = "at most 1024 characters")]
    let count = surprising as f64;
    count * f64::from(class).log2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_passphrases_are_refused_with_the_reason_that_applies() {
        for (passphrase, reason) in [
            ("", WeakPassphrase::TooShort { chars: 0 }),
            ("Tr0ub4dor&3", WeakPassphrase::TooShort { chars: 11 }),
            ("one two ten", WeakPassphrase::TooShort { chars: 11 }),
            ("aaaaaaaaaaaaaaaaaa", WeakPassphrase::Repetitive),
            ("abababababababab", WeakPassphrase::Repetitive),
            ("s3cretXs3cretXs3c", WeakPassphrase::Repetitive),
            ("abcdefghijklmnop", WeakPassphrase::Predictable),
            ("1234567890123", WeakPassphrase::Predictable),
            ("0987654321abcdef", WeakPassphrase::Predictable),
            ("583920174628", WeakPassphrase::Predictable),
            ("Password12345", WeakPassphrase::Common),
            ("holdfast-2026", WeakPassphrase::Common),
            ("correct-horse\nbattery", WeakPassphrase::Untypable),
        ] {
            assert_eq!(check_passphrase(passphrase), Err(reason), "{passphrase:?}");
        }
        assert_eq!(check_passphrase(&"x1".repeat(600)), Err(WeakPassphrase::TooLong { bytes: 1200 }));
    }

    #[test]
    fn phrases_of_words_and_mixed_passphrases_are_accepted() {
        for passphrase in [
            "Kx9#mQ2vL!pW",
            "lantern gravel oboe thirty maple quiet",
            "wickelkommode-zinn-oper-garten-mond-rad",
            "Übermut süß wie Gärten",
        ] {
            assert_eq!(check_passphrase(passphrase), Ok(()), "{passphrase:?}");
        }
    }

    #[test]
    fn generated_passphrases_are_strong_readable_and_different() {
        let (one, two) = (generate_passphrase(), generate_passphrase());
        assert_ne!(*one, *two);
        assert_eq!(one.len(), 29);
        assert_eq!(check_passphrase(&one), Ok(()));
        assert!(one.bytes().all(|byte| byte == b'-' || READABLE.contains(&byte)));
    }
}

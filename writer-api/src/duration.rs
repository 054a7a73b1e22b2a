//! Times as people write them, in every setting and option: `500ms`, `10s`, `2m`, `1h`.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A number with its unit, `ms`, `s`, `m` or `h`.
///
/// # Errors
/// What was expected, as a sentence.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let expected = || format!("`{text}` is not a time; expected a number and a unit, such as 500ms, 10s, 2m");
    let number: u64 = text[..digits].parse().map_err(|_| expected())?;
    let scale = match text[digits..].trim() {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    number.checked_mul(scale).map(Duration::from_millis).ok_or_else(expected)
}

/// Whole milliseconds, as documents and the protocol carry a time; the largest number for a longer one.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// For a field `Option<Duration>`: `#[serde(default, deserialize_with = "duration::optional")]`.
///
/// # Errors
/// [`parse`]'s, and serde's for what is no text.
pub fn optional<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).map(Some).map_err(serde::de::Error::custom)
}

/// For a field `Duration` of a document or a message: `#[serde(rename = "…_ms", with = "as_millis")]`.
pub(crate) mod as_millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(value: &Duration, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_u64(super::millis(*value))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_unit() {
        assert_eq!(parse("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse(" 2 m "), Ok(Duration::from_secs(120)));
        for bad in
            ["", "10", "s", "-1s", "1.5s", "10 parsecs", "99999999999999999999h", "18446744073709551615h"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}

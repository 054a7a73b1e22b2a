//! How long an application may be held: one rule for every writer (promise P3).

use std::time::Duration;

use serde::de::{Deserializer, Error as _};

use crate::duration;

/// No hold is ever longer, whatever anyone asks for. VSS's own freeze→thaw window.
pub const LONGEST: Duration = Duration::from_secs(60);

/// What a writer gets that knows nothing better of its application.
pub const DEFAULT: Duration = Duration::from_secs(10);

/// Kept free between the end of a hold and the application's own patience, so that a write that waits
/// for us still succeeds: a fifth of it, at least 50 ms.
const fn margin(busy_timeout: Duration) -> Duration {
    let fifth = Duration::from_millis(busy_timeout.as_millis() as u64 / 5);
    let floor = Duration::from_millis(50);
    if fifth.as_millis() > floor.as_millis() { fifth } else { floor }
}

/// The hold's limit: the smallest of [`LONGEST`], what the user set, what the writer declares
/// (else [`DEFAULT`]), and the application's busy timeout less a margin.
///
/// ```
/// use holdfast_writer_api::budget::freeze_budget;
/// use std::time::Duration;
/// let sqlite = Some(Duration::from_secs(1));
/// assert_eq!(freeze_budget(None, sqlite, Some(Duration::from_secs(5))), Duration::from_secs(1));
/// assert_eq!(freeze_budget(None, sqlite, Some(Duration::from_secs(1))), Duration::from_millis(800));
/// ```
pub fn freeze_budget(
    user: Option<Duration>,
    writer: Option<Duration>,
    busy_timeout: Option<Duration>,
) -> Duration {
    let patience = busy_timeout.map_or(LONGEST, |t| t.saturating_sub(margin(t)));
    LONGEST.min(user.unwrap_or(LONGEST)).min(writer.unwrap_or(DEFAULT)).min(patience)
}

/// For a writer's setting `busy-timeout`, how long the application itself waits for a lock, such as `5s`:
/// `#[serde(default, deserialize_with = "budget::busy_timeout")]` on a field `Option<Duration>`.
///
/// # Errors
/// What is no time, and one that leaves nothing for a hold.
pub fn busy_timeout<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let time = duration::optional(from)?;
    match time.filter(|time| freeze_budget(None, None, Some(*time)).is_zero()) {
        Some(short) => Err(D::Error::custom(format!(
            "an application that waits only {} ms for a lock cannot be held; expected more than 50ms",
            short.as_millis()
        ))),
        None => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_budget_exceeds_the_window() {
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(freeze_budget(hour, hour, hour), LONGEST);
    }

    #[test]
    fn the_smallest_wish_wins_and_an_impatient_application_counts() {
        let secs = |s| Some(Duration::from_secs(s));
        assert_eq!(freeze_budget(secs(3), secs(5), None), Duration::from_secs(3));
        assert_eq!(freeze_budget(None, None, None), DEFAULT);
        assert_eq!(freeze_budget(None, secs(5), Some(Duration::from_millis(40))), Duration::ZERO);
    }

    #[test]
    fn a_busy_timeout_that_leaves_no_hold_is_refused() {
        let read =
            |text: &str| busy_timeout(serde_json::Value::from(text)).map_err(|error| error.to_string());
        assert_eq!(read("51ms"), Ok(Some(Duration::from_millis(51))));
        for (bad, why) in [("0s", "cannot be held"), ("50ms", "only 50 ms"), ("5", "a unit")] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}

//! Time under the hold: what it may take, and when it must stop (promise P3).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_writer_api::duration::millis;

use super::error::ProviderError;

/// When work must stop. Before anything is held there is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits<'a>(Option<(Instant, &'a AtomicBool)>);

impl<'a> Limits<'a> {
    pub(super) const fn new(deadline: Instant, cancel: &'a AtomicBool) -> Self {
        Self(Some((deadline, cancel)))
    }

    /// # Errors
    /// [`ProviderError::DeadlineExceeded`], [`ProviderError::Cancelled`].
    pub(super) fn check(self) -> Result<(), ProviderError> {
        let Some((deadline, cancel)) = self.0 else { return Ok(()) };
        if cancel.load(Ordering::Relaxed) {
            return Err(ProviderError::Cancelled);
        }
        let now = Instant::now();
        if now > deadline {
            return Err(ProviderError::DeadlineExceeded { late_ms: millis(now - deadline) });
        }
        Ok(())
    }
}

/// Refuses work that would take longer than is allowed, with both numbers.
///
/// # Errors
/// [`ProviderError::EstimateExceedsBudget`].
pub(super) fn check_estimate(estimate: Duration, budget: Duration) -> Result<(), ProviderError> {
    if estimate <= budget {
        return Ok(());
    }
    Err(ProviderError::EstimateExceedsBudget { estimate_ms: millis(estimate), budget_ms: millis(budget) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_stops_at_the_deadline_and_when_it_is_cancelled() {
        let (cancel, now) = (AtomicBool::new(false), Instant::now());
        Limits::default().check().unwrap();
        Limits::new(now + Duration::from_secs(60), &cancel).check().unwrap();
        let late = Limits::new(now.checked_sub(Duration::from_millis(50)).unwrap(), &cancel).check();
        assert!(matches!(late, Err(ProviderError::DeadlineExceeded { late_ms: 50.. })));
        cancel.store(true, Ordering::Relaxed);
        let cancelled = Limits::new(now + Duration::from_secs(60), &cancel).check();
        assert!(matches!(cancelled, Err(ProviderError::Cancelled)));
    }

    #[test]
    fn a_refusal_names_both_numbers() {
        check_estimate(Duration::from_secs(1), Duration::from_secs(1)).unwrap();
        let refused = check_estimate(Duration::from_secs(3), Duration::from_secs(1)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the work under the hold would take 3000 ms, and 1000 ms are allowed"
        );
    }
}

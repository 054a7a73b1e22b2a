//! Medians and spreads: machines hiccup, means tell of the hiccups.

use std::fmt;

/// Values of one measurement, in one unit.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Linear between neighbours; `q` from 0 to 1. Without values, NaN.
    pub fn quantile(&self, q: f64) -> f64 {
        let Some(last) = self.0.len().checked_sub(1) else { return f64::NAN };
        let at = q * last as f64;
        let below = at.floor();
        let (low, high) = (self.0[below as usize], self.0[(below as usize + 1).min(last)]);
        low + (high - low) * (at - below)
    }
}

/// `12.3 (11.0–15.2)`, with as many digits as the precision says, or 1.
impl fmt::Display for Samples {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        let (low, high) = (self.quantile(0.1), self.quantile(0.9));
        write!(f, "{:.digits$} ({low:.digits$}–{high:.digits$})", self.median())
    }
}

/// What a goal came to.
pub fn verdict(met: bool) -> &'static str {
    if met { "met" } else { "**missed**" }
}

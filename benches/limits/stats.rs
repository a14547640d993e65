//! Medians and percentiles.

use std::time::Duration;

/// The length that this share of all is not longer than. They are sorted.
pub fn percentile(lengths: &[Duration], share: f64) -> Duration {
    let index = (lengths.len() as f64 * share) as usize;
    lengths.get(index.min(lengths.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// The middle of some values.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => f64::NAN,
        (middle, 0) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        (middle, _) => sorted[middle],
    }
}

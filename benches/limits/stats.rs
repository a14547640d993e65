//! Medians and percentiles.

use std::time::Duration;

/// The percentile of sorted durations, as a share between 0 and 1.
pub fn percentile(durations: &[Duration], share: f64) -> Duration {
    let index = (durations.len() as f64 * share) as usize;
    durations.get(index.min(durations.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// The median.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len() / 2, sorted.len() % 2) {
        (0, 0) => f64::NAN,
        (middle, 0) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        (middle, _) => sorted[middle],
    }
}

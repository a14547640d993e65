//! How single fields are printed, in tables and in JSON: times as RFC 3339 with six digits, statuses as `enabled` and
//! `disabled`.

use prost_types::Timestamp;

use crate::api::pb::FeatureFlagStatus;
use crate::domain::time;

/// A time with six digits, which is the precision of the log.
pub(in crate::cli) fn time(time: Option<&Timestamp>) -> Option<String> {
    let time = time?;
    let micros = time.seconds.checked_mul(1_000_000)?.checked_add(i64::from(time.nanos) / 1_000)?;
    jiff::Timestamp::from_microsecond(time::Timestamp::from_micros(micros).micros())
        .ok()
        .map(|time| format!("{time:.6}"))
}

/// A status by its name, or by its number if only a newer server knows it.
pub(in crate::cli) fn status(status: i32) -> String {
    match FeatureFlagStatus::try_from(status) {
        Ok(FeatureFlagStatus::Enabled) => "enabled".to_owned(),
        Ok(FeatureFlagStatus::Disabled) => "disabled".to_owned(),
        _ => format!("status {status}"),
    }
}

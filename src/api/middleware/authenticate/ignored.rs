//! Permissions in single sign-on tokens that count for nothing: counted, and logged at a limited rate.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::domain::access::{Directory, Permissions};
use crate::telemetry::log_throttle::LogThrottle;
use crate::telemetry::metrics::IGNORED_PERMISSIONS;

/// Counts and logs permissions that name an unknown environment. The issuer may be ahead of this service, so that is no reason to
/// refuse the token.
#[derive(Default)]
pub(in crate::api) struct IgnoredPermissionLog(Mutex<LogThrottle>);

impl IgnoredPermissionLog {
    /// Records what is ignored of the permissions that a verified token grants.
    pub(super) fn record(&self, granted: &Permissions, directory: &impl Directory) {
        let ignored = granted.minus(&granted.in_known_environments(|key| directory.has_environment(key)));
        let Some(first) = ignored.iter().next() else { return };
        metrics::counter!(IGNORED_PERMISSIONS).increment(ignored.iter().count() as u64);
        let suppressed = self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        let Some(suppressed) = suppressed else { return };
        let permission = first.to_string();
        tracing::warn!(permission, suppressed, "permission in a single sign-on token ignored: unknown environment");
    }
}

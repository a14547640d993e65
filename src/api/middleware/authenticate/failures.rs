//! Failed authentications: counted, and logged at a limited rate.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::api::call::CallSource;
use crate::auth::jwt::JwtRejection;
use crate::telemetry::log_throttle::LogThrottle;

/// Why a caller was not authenticated. Only for logs and metrics: callers get no reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api) enum AuthFailure {
    /// The request carries no credentials.
    Missing,
    /// The credentials are not one bearer token.
    Malformed,
    /// No token has this secret.
    Unknown,
    /// The token or certificate was revoked or has expired, or its user is deactivated.
    NoLongerValid,
    /// The ticket of a stream of events is too old. Clients come with such a ticket after some days, and get another one.
    TicketExpired,
    /// The single sign-on token was rejected.
    Rejected(JwtRejection),
}

impl AuthFailure {
    fn label(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::NoLongerValid => "ended",
            Self::TicketExpired => "ticket_expired",
            Self::Rejected(reason) => reason.label(),
        }
    }
}

/// Counts and logs failed authentications.
#[derive(Default)]
pub(in crate::api) struct AuthFailureLog(Mutex<LogThrottle>);

impl AuthFailureLog {
    pub(super) fn record(&self, failure: AuthFailure, source: &CallSource) {
        metrics::counter!(crate::telemetry::metrics::AUTHENTICATION_FAILURES, "reason" => failure.label()).increment(1);
        let suppressed = self.0.lock().unwrap_or_else(PoisonError::into_inner).admit(Instant::now());
        let Some(suppressed) = suppressed else { return };
        let (reason, peer) = (failure.label(), source.peer.map(|peer| peer.to_string()).unwrap_or_default());
        tracing::warn!(reason, peer, method = &*source.method, suppressed, "authentication failed");
    }
}

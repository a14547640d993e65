//! The size of a request's message.

use crate::auth::policy::{Policy, ServedMethod};
use crate::config::FixedLimits;

/// How large a method's request message may be, in bytes. The router gives its service the same limit.
pub(in crate::api) fn max_message_bytes(limits: &FixedLimits, method: &ServedMethod) -> usize {
    match method.policy {
        Policy::Public => limits.max_public_request_bytes,
        // flagd's.
        _ if method.anonymous_on_request => limits.max_flagd_request_bytes,
        _ => limits.max_request_bytes,
    }
}

//! Limits on what one caller, and all callers together, may use. Each is checked where its resource is taken.

mod body_deadline;
mod changes;
mod denials;
mod streams;

pub(in crate::api) use body_deadline::with_deadline;
pub(in crate::api) use changes::ChangeRateLimiter;
pub(in crate::api) use denials::{AdmittedDenial, DenialLimiter};
pub(in crate::api) use streams::{StreamLimiter, StreamOwner};

//! Who calls.

mod failures;

pub(in crate::api) use failures::{Failures, Why};

//! The layers that every call passes, outermost first: `observe`, then `authorize`, which uses the others.

pub(super) mod authenticate;
pub(super) mod authorize;
pub(super) mod idempotency;
pub(super) mod limits;
pub(super) mod observe;

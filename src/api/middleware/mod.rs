//! The layers that every call passes, outermost first: `observe`, `admit`, then `authorize`, which uses the others.

pub(super) mod admit;
pub(super) mod authenticate;
pub(super) mod authorize;
pub(super) mod idempotency;
pub(super) mod limits;
pub(super) mod observe;

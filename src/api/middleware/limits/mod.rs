//! Limits on what one caller, and all callers together, may use. Each is checked where its resource is taken.

mod bytes;
mod changes;
mod connections;
mod denials;
mod messages;
mod owner;
mod streams;

pub use bytes::ByteBudget;
pub(in crate::api) use bytes::{
    AnswerKind, Arrival, ByteAccount, CallSlots, Charge, ChargedAnswer, ChargedBody, ConnectionBytes, FRAMES_PER_SLOT,
    FREE_SLOTS, Precedence, SharedAnswer, SharedBytes, SharedMessage, UnfinishedHead, UnreadBody, Unsent, charged_body,
    charged_refusal, charged_request,
};
pub(in crate::api) use changes::ChangeRateLimiter;
pub(in crate::api) use connections::{ConnectionLimiter, ConnectionPermit};
pub(in crate::api) use denials::{AdmittedDenial, DenialLimiter};
pub(in crate::api) use messages::max_message_bytes;
pub(in crate::api) use owner::Owner;
pub(in crate::api) use streams::StreamLimiter;

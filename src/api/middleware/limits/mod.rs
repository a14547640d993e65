//! How much one caller, and all together, may ask for.

mod body_deadline;
mod changes;
mod denials;
mod streams;

pub(in crate::api) use body_deadline::arriving;
pub(in crate::api) use changes::Fairness;
pub(in crate::api) use denials::{Admitted, Windows};
pub(in crate::api) use streams::{OpenStream, Opener, Streams};

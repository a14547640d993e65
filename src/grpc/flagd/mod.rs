//! flagd's services: flags as OpenFeature's providers read them. A flag is a boolean that is the same for everybody.
//!
//! Everything is answered from the mirror, never from the database. A stream holds a subscription and how far it has
//! told, and reads the rest when its client takes more: one that is slow costs no memory and finds the latest.

mod configuration;
mod evaluation;
mod events;
mod feed;
mod sync;

use crate::domain::flag::Status as FlagStatus;

pub use evaluation::Evaluation;
pub use sync::Sync;

/// What flagd calls a value: the name by which it is chosen.
fn variant(status: FlagStatus) -> &'static str {
    match status {
        FlagStatus::Enabled => "on",
        FlagStatus::Disabled => "off",
    }
}

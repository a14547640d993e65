//! flagd's services: flags as OpenFeature's providers read them. A flag is a boolean that is the same for everybody.
//!
//! Everything is answered from the mirror, never from the database. A stream holds a subscription and how far it has
//! told, and reads the rest when its client takes more: one that is slow costs the message that it has not taken, and finds
//! the latest after it.

mod configuration;
mod evaluation;
mod events;
mod sync;
#[cfg(test)]
mod tests;

pub use evaluation::Evaluation;
pub use sync::FlagSync;

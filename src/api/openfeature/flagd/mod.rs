//! flagd's services, which OpenFeature's flagd providers call.
//!
//! They read the mirror only, never the database. A stream keeps a subscription and its position, and reads the state when its
//! client takes a message: a slow client costs one message of memory and then gets the latest state.

mod configuration;
mod evaluation;
mod events;
mod sync;
#[cfg(test)]
mod tests;

pub use evaluation::Evaluation;
pub use sync::FlagSync;

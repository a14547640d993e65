//! The conformance suite of the store: every method of `Store` and `Writer`, the same tests on every backend.
//!
//! It replaces compile-time checks of SQL, which sqlx offers for one database per crate. A backend that passes keeps the
//! promises that the layers above rely on: an append is atomic and happens only at the head it was decided at, reads return
//! what was written, and the database itself refuses changes that must never happen.

mod append;
mod closing;
mod counts;
mod files;
mod follow;
mod hold;
mod lost;
mod migrations;
mod million;
mod moved;
mod open;
mod past;
mod queries;
mod questions;
pub mod raw;
mod refused;
mod requests;
pub mod retention;
mod rules;
mod server_keys;
mod session;
mod unusable;
pub mod world;

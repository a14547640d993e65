//! The conformance suite of the store: every method of `Store` and `Writer`, the same tests on every backend.
//!
//! It stands in for SQL that is checked when it is compiled, which sqlx does for one database a crate. A backend that
//! passes holds what the layers above rely on: an append is all or nothing and happens only at the head that it was
//! decided at, what is read is what was written, and the database itself refuses what must never be.

mod append;
mod counts;
mod follow;
mod hold;
mod lost;
mod migrations;
mod million;
mod open;
mod past;
mod queries;
pub mod raw;
mod refused;
mod requests;
pub mod retention;
mod rules;
pub mod world;

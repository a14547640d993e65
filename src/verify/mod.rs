//! Verification of the audit log: recomputes every entry's hash from the entry and the hash before it, compares the log with
//! hashes known from elsewhere, and classifies the first fault.
//!
//! One library for the server's check at start ([`verify_at_start`]), for `toggled audit verify` ([`verify_database`],
//! [`verify_archive`], and a [`Verifier`] fed from a server's stream), for `audit trim` ([`find_in_archive`]) and for tests.

mod archive;
mod bounds;
mod chain;
mod database;
mod diagnose;
mod fault;
mod replay;
mod report;
mod segment;
mod verifier;

pub use archive::{ArchiveError, ArchiveReport, LineEnd, find_in_archive, read_line, verify_archive};
pub use bounds::{Bounds, GivenCheckpoint, parse_keys};
pub use chain::Chain;
pub use database::{DatabaseError, DatabaseReport, Scope, verify_at_start, verify_database};
pub use fault::{Fault, HashSource, Problem};
pub use replay::Replay;
pub use report::{OnProgress, Progress, Report, Stop};
pub use segment::Segment;
pub use verifier::{KnownHash, Start, Verified, Verifier};

//! The rules of the service, free of I/O: flags, users, environments, audit entries, and the effect of every change. No rule depends on
//! gRPC, SQL or the clock; callers pass in what it needs.

pub mod access;
pub mod advance;
pub mod audit;
pub mod environment;
pub mod error;
pub mod filter;
pub mod flag;
pub mod flag_access;
pub mod hash;
pub mod hex;
pub mod history;
pub mod state;
pub mod text;
pub mod time;

/// A position in the audit log: 0 before the first entry, then 1, 2, 3, ... without gaps, in commit order.
///
/// It is also an object's version (the revision of its last change), the cursor of a stream, and what a writer passes
/// to read its own write.
pub type Revision = i64;

/// A SHA-256 hash.
pub type Hash = [u8; 32];

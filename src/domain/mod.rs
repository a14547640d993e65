//! The rules of the service, free of I/O: what a flag, a user and an audit entry are, and what a change does to
//! them. Nothing here knows of gRPC, SQL or the clock; what a rule needs from outside is handed in.

pub mod access;
pub mod advance;
pub mod audit;
pub mod error;
pub mod filter;
pub mod flag;
pub mod hash;

pub mod history;
pub mod state;
pub mod text;
pub mod time;

/// A position in the log: 0 before the first entry, then 1, 2, 3, ... without a gap, in the order of commitment.
///
/// It is also the version of an object (the revision that last changed it), the cursor of a stream, and the token by
/// which a writer reads its own write.
pub type Revision = i64;

/// A SHA-256 value.
pub type Hash = [u8; 32];

//! The wire: the generated types, what a request must look like, what an answer and an error look like, who may call,
//! and one part a service; beside gRPC, OFREP. Outside this folder only the command line,
//! which is a client, names the generated types, and its `remote` tonic.

mod access;
mod audit;
mod call;
mod change;
mod convert;
mod errors;
mod feed;
mod flags;
mod listener;
mod middleware;
mod openfeature;
mod paging;
pub mod pb;
mod protocol;
mod reader;
mod router;
mod validate;

use std::time::Duration;

pub use errors::code;
pub use router::{Health, Outsiders, Parts, Router, RouterError, SERVICES};

/// How long an idle stream says nothing before it says that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// A page of flags or a message of a stream ends at about this many bytes, so that none comes near the largest. A page of
/// the log is limited by its 100 entries.
const PAGE_BYTES: usize = 1024 * 1024;

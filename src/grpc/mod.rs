//! The wire: the generated types, what a request must look like, what an answer and an error look like, who may call,
//! and one part a service; beside gRPC, OFREP. Outside this folder only the command line,
//! which is a client, names the generated types, and its `remote` tonic.

mod access;
mod audit;
mod authorize;
mod change;
mod convert;
mod fairness;
mod feed;
mod fields;
mod flagd;
mod incoming;
mod list;
mod observe;
mod ofrep;
mod openfeature;
mod paging;
mod past;
pub mod pb;
mod reads;
mod replay;
mod router;
mod status;
mod toggle;
mod watch;
mod wire;

use std::time::Duration;

pub use router::{Health, Outsiders, Parts, Router, RouterError, SERVICES};
pub use status::code;

/// How long an idle stream says nothing before it says that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// A page of flags or a message of a stream ends at about this many bytes, so that none comes near the largest. A page of
/// the log is limited by its 100 entries.
const PAGE_BYTES: usize = 1024 * 1024;

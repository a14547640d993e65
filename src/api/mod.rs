//! The API: connections, protocols, middleware, and a folder for each service.
//!
//! A call passes, in this order: `connection` (TLS, and what is read and written), `transport` (HTTP), `router` (every service and
//! layer), `protocol` (from Connect and gRPC-Web to gRPC), `middleware` (observe, admit, authorize), then a service: `flags`, `audit`,
//! `access`, `environments`, `openfeature`. A service parses with `validate`, reads through `reader`, changes through `change`, converts
//! with `convert`, and fails with `errors`. But `audit` reads the log from the store itself, and `openfeature` reads the mirror alone.
//! Outside this folder only the command line, which is a client, names generated types, and only its `remote` names tonic.

mod access;
mod audit;
mod call;
mod change;
pub(crate) mod codec;
mod conformance;
mod connection;
mod convert;
mod environments;
mod errors;
mod flags;
mod health;
mod middleware;
mod openfeature;
pub mod paging;
pub mod pb;
mod protocol;
mod reader;
mod reflection;
mod request_body;
mod router;
mod streams;
mod transport;
mod validate;

pub use conformance::serve_for_conformance;
pub use errors::{Limit, LimitRow, code, list as list_limits};
pub use health::Health;
pub use middleware::authenticate::AuthMethods;
pub use middleware::limits::ByteBudget;
pub use router::{Router, RouterError, SERVICES, ServiceContext};

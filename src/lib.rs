//! toggled: a gRPC service that owns on/off feature flags and the log of every change to them.
//!
//! All changes form one log. A change is decided by a pure function on the state in memory at revision R, and
//! appended to the database as revision R+1 (a batch of changes from R+1 on), if the database is still at R. Data flows one way:
//!
//! ```text
//! request -> api: authorize, parse -> committer: gathers a batch
//!             -> domain::advance: decides it on the mirror's state -> store: appends it if the log is still at R
//!             -> mirror: moves on -> api: answers
//! reads      <- mirror <- follower: what other replicas append
//! ```
//!
//! Each layer imports only from those below it: `cli`; `server`; `api` and `bootstrap`; `committer`; `mirror`, `config` and
//! `verify`; `store`, `auth`, `checkpoint` and `tls`; `domain` and `telemetry`; `visible`. Only `api` and `cli` use tonic, only
//! `store` uses SQL, and `domain` uses neither; its rules get the time as an argument. A test checks this.

pub mod api;
pub mod auth;
pub mod bootstrap;
pub mod checkpoint;
pub mod cli;
pub mod committer;
pub mod config;
pub mod domain;
pub mod mirror;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod verify;
pub mod visible;

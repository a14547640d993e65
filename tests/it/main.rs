//! Everything against real databases and the real program: one test binary, one module a subject.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod access;
mod audit;
mod backups;
mod cancel;
mod certificate;
mod checkpoints;
mod cli;
mod concurrency;
mod docs;
mod flagd;
mod layers;
mod limits;
mod manager;
mod many;
mod matrix;
mod offline;
mod ofrep;
mod outcome;
mod refusals;
mod replicas;
mod retention;
mod retry;
mod revert;
mod security;
mod shutdown;
mod single_sign_on;
mod startup;
mod store;
mod support;
mod tampering;
mod telemetry;
mod time_travel;
mod tls;
mod toggle;
mod watch;

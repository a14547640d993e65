//! `toggled audit verify` detects every manipulation of the log, and reports its revision and kind.

mod between_checkpoints;
mod files;
mod invalid_entries;
mod long_log;
mod rows;
mod tampered_log;
mod through_server;
mod trimmed;

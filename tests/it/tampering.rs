//! Whatever is done to the log past the service, `toggled audit verify` finds it, and says where and what.

mod between_checkpoints;
mod files;
mod invalid_entries;
mod long_log;
mod rows;
mod tampered_log;
mod through_server;
mod trimmed;

//! The generated types of the wire contract, and its descriptors.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("toggled.v1");

/// All .proto files with their imports, comments and options, encoded.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

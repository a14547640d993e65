//! The generated types of the wire contract, and its descriptors.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("toggled.v1");

pub mod flagd {
    pub mod evaluation {
        pub mod v1 {
            tonic::include_proto!("flagd.evaluation.v1");
        }
        pub mod v2 {
            tonic::include_proto!("flagd.evaluation.v2");
        }
    }
    pub mod sync {
        pub mod v1 {
            tonic::include_proto!("flagd.sync.v1");
        }
    }
}

pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// All .proto files with their imports, comments and options, encoded.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

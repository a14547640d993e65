//! The Connect protocol, <https://connectrpc.com/docs/protocol>: every service over plain HTTP of any version, in JSON or protobuf.
//!
//! It has two halves, around the layers that all calls share. The outer one, [`super::translate`], turns the head of a Connect request
//! into that of a gRPC request, and the status of the answer into Connect's. It reads no body. The inner one, [`transcode`], comes after
//! authentication and permission: it turns the body into gRPC's messages, and the messages of the answer into Connect's. So
//! authentication, permissions, limits, idempotency and the request log exist once, and see gRPC calls alone.

mod answer;
mod envelope;
mod error;
mod head;
mod json;
mod request;
pub(super) mod response;
mod transcode;

use std::sync::Arc;

use super::Shape;
use crate::auth::policy::ServedMethod;

pub(in crate::api) use json::{MAX_DEPTH, MAX_VALUES};
pub(in crate::api) use request::grpc_body;
pub(in crate::api) use transcode::{Transcode, TranscodeLayer};

pub(super) use envelope::framed;
pub(super) use head::{HeadError, read_head, read_query};

/// A Connect call: what its head says. The outer half puts it into the extensions of the gRPC request.
#[derive(Debug, Clone)]
pub(in crate::api) struct ConnectCall(Arc<Head>);

#[derive(Debug)]
struct Head {
    method: Arc<ServedMethod>,
    shape: Shape,
    codec: Codec,
    /// Whether the request is compressed with gzip. Other compression is refused by its service.
    is_compressed: bool,
    /// Whether the client accepts answers that are compressed with gzip.
    accepts_gzip: bool,
    /// The message of a GET request.
    query: Option<QueryMessage>,
}

/// How messages are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Json,
    Proto,
}

/// The message in a query string.
#[derive(Debug)]
struct QueryMessage {
    text: String,
    is_base64: bool,
}

impl ConnectCall {
    /// Whether the body is one message without gRPC's framing.
    pub fn is_unary(&self) -> bool {
        self.0.shape == Shape::Unary
    }
}

impl Codec {
    fn content_type(self, shape: Shape) -> &'static str {
        match (shape, self) {
            (Shape::Unary, Self::Json) => "application/json",
            (Shape::Unary, Self::Proto) => "application/proto",
            (Shape::Stream, Self::Json) => "application/connect+json",
            (Shape::Stream, Self::Proto) => "application/connect+proto",
        }
    }
}

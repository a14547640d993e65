//! The messages of Connect's conformance suite that its service reads and writes. The suite's own .proto files describe them in JSON.

use prost_types::Any;

macro_rules! messages {
    ($($name:ident { $(#[$field:meta] $field_name:ident: $kind:ty,)* })*) => {
        $(#[derive(Clone, PartialEq, prost::Message)] pub struct $name { $(#[$field] pub $field_name: $kind,)* })*
    };
}

messages! {
    ServerRequest {
        #[prost(uint32, tag = "6")] message_receive_limit: u32,
    }
    ServerResponse {
        #[prost(string, tag = "1")] host: String,
        #[prost(uint32, tag = "2")] port: u32,
    }
    Header {
        #[prost(string, tag = "1")] name: String,
        #[prost(string, repeated, tag = "2")] value: Vec<String>,
    }
    Error {
        #[prost(int32, tag = "1")] code: i32,
        #[prost(string, tag = "2")] message: String,
        #[prost(message, repeated, tag = "3")] details: Vec<Any>,
    }
    UnaryDefinition {
        #[prost(message, repeated, tag = "1")] headers: Vec<Header>,
        #[prost(bytes = "vec", tag = "2")] data: Vec<u8>,
        #[prost(message, optional, tag = "3")] error: Option<Error>,
        #[prost(message, repeated, tag = "4")] trailers: Vec<Header>,
        #[prost(uint32, tag = "6")] delay_ms: u32,
    }
    UnaryRequest {
        #[prost(message, optional, tag = "1")] definition: Option<UnaryDefinition>,
    }
    StreamDefinition {
        #[prost(message, repeated, tag = "1")] headers: Vec<Header>,
        #[prost(bytes = "vec", repeated, tag = "2")] data: Vec<Vec<u8>>,
        #[prost(uint32, tag = "3")] delay_ms: u32,
        #[prost(message, optional, tag = "4")] error: Option<Error>,
        #[prost(message, repeated, tag = "5")] trailers: Vec<Header>,
    }
    StreamRequest {
        #[prost(message, optional, tag = "1")] definition: Option<StreamDefinition>,
    }
    BidiRequest {
        #[prost(message, optional, tag = "1")] definition: Option<StreamDefinition>,
        #[prost(bool, tag = "2")] is_full_duplex: bool,
    }
    RequestInfo {
        #[prost(message, repeated, tag = "1")] headers: Vec<Header>,
        #[prost(int64, optional, tag = "2")] timeout_ms: Option<i64>,
        #[prost(message, repeated, tag = "3")] requests: Vec<Any>,
    }
    Payload {
        #[prost(bytes = "vec", tag = "1")] data: Vec<u8>,
        #[prost(message, optional, tag = "2")] info: Option<RequestInfo>,
    }
    Answer {
        #[prost(message, optional, tag = "1")] payload: Option<Payload>,
    }
}

//! Sends random bytes as a Connect request of each method to a running server: in JSON and protobuf, compressed or not, in one message or
//! as a stream of them. No answer may report a defect of the server.
#![no_main]

use std::sync::OnceLock;

use arbitrary::Arbitrary;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use libfuzzer_sys::fuzz_target;
use prost_reflect::MethodDescriptor;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

mod server;

use server::{TOKEN, methods, start};

#[derive(Debug, Arbitrary)]
struct Input {
    method: u8,
    is_json: bool,
    is_compressed: bool,
    /// Whether the bytes of a stream are one message, or also its framing.
    is_framed: bool,
    bytes: Vec<u8>,
}

/// A server that runs until the process ends, and a connection to it.
struct Context {
    runtime: Runtime,
    channel: Channel,
    methods: Vec<(String, MethodDescriptor)>,
    _folder: TempDir,
}

impl Context {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = TempDir::new().expect("a folder");
        let channel = runtime.block_on(start(&folder));
        Self { runtime, channel, methods: methods(), _folder: folder }
    }

    /// The error of the first message, if it is one.
    async fn call(&self, input: Input) -> Option<Value> {
        let (path, method) = &self.methods[usize::from(input.method) % self.methods.len()];
        let is_stream = method.is_server_streaming() || method.is_client_streaming();
        let codec = if input.is_json { "json" } else { "proto" };
        let (content_type, encoding) = match is_stream {
            true => (format!("application/connect+{codec}"), "connect-content-encoding"),
            false => (format!("application/{codec}"), "content-encoding"),
        };
        let mut body = input.bytes;
        if is_stream && !input.is_framed {
            let length = u32::try_from(body.len()).expect("a small input").to_be_bytes();
            body = [&[u8::from(input.is_compressed)][..], &length, &body].concat();
        }
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", content_type)
            .header("authorization", format!("Bearer {TOKEN}"));
        if input.is_compressed {
            request = request.header(encoding, "gzip");
        }
        let request = request.body(Body::new(http_body_util::Full::new(body.into()))).expect("a request");
        let mut channel = self.channel.clone();
        let response = channel.ready().await.expect("the server").call(request).await.expect("an answer");
        let (head, mut body) = response.into_parts();
        if !is_stream {
            let body = body.collect().await.expect("a whole answer").to_bytes();
            return (head.status != StatusCode::OK).then(|| serde_json::from_slice(&body).expect("an error"));
        }
        assert_eq!(head.status, StatusCode::OK);
        let first = body.frame().await.expect("a message").expect("a message").into_data().expect("data");
        let end: Option<Value> = (first[0] & 2 != 0).then(|| serde_json::from_slice(&first[5..]).expect("an end"));
        end.map(|end| end["error"].clone()).filter(|error| !error.is_null())
    }
}

fuzz_target!(|input: Input| {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    let context = CONTEXT.get_or_init(Context::new);
    if let Some(error) = context.runtime.block_on(context.call(input)) {
        let code = error["code"].as_str().expect("a code");
        let defects = ["unknown", "internal", "data_loss", "unavailable", "unauthenticated"];
        assert!(!defects.contains(&code), "{error}");
    }
});

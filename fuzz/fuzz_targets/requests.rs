//! Sends random bytes as a request of each method to a running server. No answer may report a defect of the server.
#![no_main]

use std::sync::OnceLock;

use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use prost::bytes::Bytes;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Shared with the tests.
#[path = "../../tests/it/support/raw_codec.rs"]
mod raw_codec;
mod server;

use raw_codec::RawCodec;
use server::{TOKEN, methods, start};

/// A server that runs until the process ends, and a connection to it.
struct Context {
    runtime: Runtime,
    channel: Channel,
    methods: Vec<PathAndQuery>,
    _folder: TempDir,
}

impl Context {
    fn new() -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let folder = TempDir::new().expect("a folder");
        let channel = runtime.block_on(start(&folder));
        let methods = methods().into_iter().map(|(path, _)| PathAndQuery::try_from(path).expect("a path")).collect();
        Self { runtime, channel, methods, _folder: folder }
    }

    async fn call(&self, method: u8, message: &[u8]) -> Result<(), Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.expect("the server");
        let mut request = Request::new(Bytes::copy_from_slice(message));
        request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().expect("a header"));
        let path = self.methods[usize::from(method) % self.methods.len()].clone();
        let mut answer = grpc.server_streaming(request, path, RawCodec).await?.into_inner();
        answer.message().await.map(drop)
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    static CONTEXT: OnceLock<Context> = OnceLock::new();
    let context = CONTEXT.get_or_init(Context::new);
    let answer = context.runtime.block_on(context.call(input.0, input.1));
    let defects = [Code::Unknown, Code::Internal, Code::DataLoss, Code::Unavailable, Code::Unauthenticated];
    if let Err(status) = answer {
        assert!(!defects.contains(&status.code()), "{status:?}");
    }
});

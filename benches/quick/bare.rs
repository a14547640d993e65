//! The limit of reads: tonic and nothing else. Decodes a GetFeatureFlagRequest, asks nobody who sends it, and gives the
//! one answer that it was started with.

use std::convert::Infallible;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};

use prost::Message;
use toggled::grpc::pb::{GetFeatureFlagRequest, GetFeatureFlagResponse};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower::{Service, service_fn};

use crate::Result;

/// The argument that makes this program the server.
pub const COMMAND: &str = "bare-server";

/// Serves until killed. The encoded answer is its input.
pub async fn serve() -> Result<()> {
    let mut answer = Vec::new();
    std::io::stdin().read_to_end(&mut answer)?;
    let bare = Bare { answer: GetFeatureFlagResponse::decode(&answer[..])? };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("bare server listens on {}\nready", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Server::builder().add_service(bare).serve_with_incoming(incoming).await?)
}

/// What the generated service does, for one method.
#[derive(Clone)]
struct Bare {
    answer: GetFeatureFlagResponse,
}

impl NamedService for Bare {
    const NAME: &'static str = "toggled.v1.ToggleService";
}

impl Service<http::Request<Body>> for Bare {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answer = self.answer.clone();
        let method = service_fn(move |_: Request<GetFeatureFlagRequest>| {
            std::future::ready(Ok::<_, Status>(Response::new(answer.clone())))
        });
        Box::pin(async move { Ok(Grpc::new(ProstCodec::default()).unary(method, request).await) })
    }
}

//! The limit of reads and of watching: tonic and nothing else. It asks nobody who calls, and gives the answers that it was
//! started with; a flip sends one of them to everybody who watches.

use std::convert::Infallible;
use std::future::ready;
use std::io::Read;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use prost::Message;
use prost::bytes::Buf;
use toggled::api::pb::flagd::evaluation::v2::{ResolveBooleanRequest, ResolveBooleanResponse};
use toggled::api::pb::{
    GetFeatureFlagRequest, GetFeatureFlagResponse, ToggleFeatureFlagRequest, ToggleFeatureFlagResponse,
    WatchFeatureFlagsRequest, WatchFeatureFlagsResponse,
};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
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

/// Messages that a watcher may be behind.
const BEHIND: usize = 64;

/// What it says.
#[derive(Clone, PartialEq)]
pub struct Answers {
    pub flag: GetFeatureFlagResponse,
    pub value: ResolveBooleanResponse,
    pub change: WatchFeatureFlagsResponse,
}

impl Answers {
    pub fn encode(&self) -> Vec<u8> {
        let Self { flag, value, change } = self;
        [
            flag.encode_length_delimited_to_vec(),
            value.encode_length_delimited_to_vec(),
            change.encode_length_delimited_to_vec(),
        ]
        .concat()
    }

    fn decode(mut bytes: &[u8]) -> Result<Self> {
        let bytes = &mut bytes;
        let flag = GetFeatureFlagResponse::decode_length_delimited(&mut *bytes)?;
        let value = ResolveBooleanResponse::decode_length_delimited(&mut *bytes)?;
        let change = WatchFeatureFlagsResponse::decode_length_delimited(&mut *bytes)?;
        if bytes.has_remaining() {
            Err("that is not what a bare server is to answer".into())
        } else {
            Ok(Self { flag, value, change })
        }
    }
}

/// Serves until killed. The encoded answers are its input.
pub async fn serve() -> Result<()> {
    let mut answers = Vec::new();
    std::io::stdin().read_to_end(&mut answers)?;
    let (changes, _) = broadcast::channel(BEHIND);
    let answers = Answers::decode(&answers)?;
    let (flags, values) = (Bare::<Flags>::new(&answers, &changes), Bare::<Values>::new(&answers, &changes));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("bare server listens on {}\nready", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Server::builder().add_service(flags).add_service(values).serve_with_incoming(incoming).await?)
}

/// What the generated services do, for a few methods. `S` is one of the two services below.
struct Bare<S> {
    answers: Answers,
    changes: broadcast::Sender<WatchFeatureFlagsResponse>,
    service: PhantomData<fn() -> S>,
}

impl<S> Bare<S> {
    fn new(answers: &Answers, changes: &broadcast::Sender<WatchFeatureFlagsResponse>) -> Self {
        Self { answers: answers.clone(), changes: changes.clone(), service: PhantomData }
    }
}

impl<S> Clone for Bare<S> {
    fn clone(&self) -> Self {
        Self::new(&self.answers, &self.changes)
    }
}

struct Flags;

impl NamedService for Bare<Flags> {
    const NAME: &'static str = "toggled.v1.ToggleService";
}

struct Values;

impl NamedService for Bare<Values> {
    const NAME: &'static str = "flagd.evaluation.v2.Service";
}

impl<S> Service<http::Request<Body>> for Bare<S> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Answers { flag, value, change } = &self.answers;
        match request.uri().path().rsplit('/').next() {
            Some("GetFeatureFlag") => Box::pin(unary::<GetFeatureFlagRequest, _>(request, flag.clone())),
            Some("ResolveBoolean") => Box::pin(unary::<ResolveBooleanRequest, _>(request, value.clone())),
            Some("ToggleFeatureFlag") => Box::pin(flip(self.changes.clone(), change.clone(), request)),
            _ => Box::pin(watch(self.changes.clone(), change.clone(), request)),
        }
    }
}

type Answered = std::result::Result<http::Response<Body>, Infallible>;

async fn unary<Q, A>(request: http::Request<Body>, answer: A) -> Answered
where
    Q: Message + Default + Send + 'static,
    A: Message + Clone + Send + Sync + 'static,
{
    let method = service_fn(move |_: Request<Q>| ready(Ok::<_, Status>(Response::new(answer.clone()))));
    Ok(Grpc::new(ProstCodec::default()).unary(method, request).await)
}

/// Everybody who watches is told, and then the caller.
fn flip(
    changes: broadcast::Sender<WatchFeatureFlagsResponse>,
    change: WatchFeatureFlagsResponse,
    request: http::Request<Body>,
) -> impl Future<Output = Answered> {
    let answer = ToggleFeatureFlagResponse { revision: change.revision, ..Default::default() };
    // Nobody may be watching.
    let _ = changes.send(change);
    unary::<ToggleFeatureFlagRequest, _>(request, answer)
}

/// What there is at first, and then every change.
async fn watch(
    changes: broadcast::Sender<WatchFeatureFlagsResponse>,
    change: WatchFeatureFlagsResponse,
    request: http::Request<Body>,
) -> Answered {
    let method = service_fn(move |_: Request<WatchFeatureFlagsRequest>| {
        let first = WatchFeatureFlagsResponse { feature_flags: Vec::new(), ..change.clone() };
        let changes = BroadcastStream::new(changes.subscribe());
        let changes = changes.map(|change| change.map_err(|behind| Status::data_loss(behind.to_string())));
        ready(Ok::<_, Status>(Response::new(tokio_stream::once(Ok(first)).chain(changes))))
    });
    Ok(Grpc::new(ProstCodec::default()).server_streaming(method, request).await)
}

//! The limit of reads and watches: a server that is tonic and nothing else. It checks no credentials and always sends the
//! answers that it was started with. A flip sends one of them to all watchers.

use std::convert::Infallible;
use std::future::ready;
use std::io::Read;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
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

/// Argument that makes the benchmark run as this server.
pub const COMMAND: &str = "bare-server";

/// Messages that the broadcast channel keeps for a slow watcher.
const CHANNEL_CAPACITY: usize = 64;

/// The server's answers.
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
            Err("the answers for the bare server have trailing bytes".into())
        } else {
            Ok(Self { flag, value, change })
        }
    }
}

/// Serves until killed. Reads the encoded answers from standard input.
pub async fn serve() -> Result<()> {
    let mut answers = Vec::new();
    std::io::stdin().read_to_end(&mut answers)?;
    let changes = Changes { sender: broadcast::channel(CHANNEL_CAPACITY).0, revision: Arc::default() };
    let answers = Answers::decode(&answers)?;
    let (flags, values) = (Bare::<Flags>::new(&answers, &changes), Bare::<Values>::new(&answers, &changes));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("bare server listens on {}\nready", listener.local_addr()?);
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Ok(Server::builder().add_service(flags).add_service(values).serve_with_incoming(incoming).await?)
}

/// The flips so far: their number is the revision.
#[derive(Clone)]
struct Changes {
    sender: broadcast::Sender<WatchFeatureFlagsResponse>,
    revision: Arc<AtomicI64>,
}

/// Implements a few methods of the service `S`, which is one of the two below.
struct Bare<S> {
    answers: Answers,
    changes: Changes,
    service: PhantomData<fn() -> S>,
}

impl<S> Bare<S> {
    fn new(answers: &Answers, changes: &Changes) -> Self {
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

/// Sends the change to all watchers, then answers the caller.
fn flip(
    changes: Changes,
    change: WatchFeatureFlagsResponse,
    request: http::Request<Body>,
) -> impl Future<Output = Answered> {
    let revision = changes.revision.fetch_add(1, Ordering::Relaxed) + 1;
    let answer = ToggleFeatureFlagResponse { revision, ..Default::default() };
    // Fails if there are no watchers, which is allowed.
    let _ = changes.sender.send(WatchFeatureFlagsResponse { revision, ..change });
    unary::<ToggleFeatureFlagRequest, _>(request, answer)
}

/// Sends an initial state, then every change.
async fn watch(changes: Changes, change: WatchFeatureFlagsResponse, request: http::Request<Body>) -> Answered {
    let method = service_fn(move |_: Request<WatchFeatureFlagsRequest>| {
        let revision = changes.revision.load(Ordering::Relaxed);
        let first = WatchFeatureFlagsResponse { feature_flags: Vec::new(), revision, ..change.clone() };
        let changes = BroadcastStream::new(changes.sender.subscribe());
        let changes = changes.map(|change| change.map_err(|behind| Status::data_loss(behind.to_string())));
        ready(Ok::<_, Status>(Response::new(tokio_stream::once(Ok(first)).chain(changes))))
    });
    Ok(Grpc::new(ProstCodec::default()).server_streaming(method, request).await)
}

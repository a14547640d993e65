//! The protocols on the port: what their paths take, which one a request speaks, and how to refuse a request in it.

pub(super) mod connect;
mod cors;
pub(super) mod grpc;
mod grpc_web;
pub(super) mod ofrep;
pub(super) mod query;
mod translate;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use tonic::body::Body;

use super::errors::{ApiError, status};
use crate::auth::policy::ServedMethod;
use connect::Codec;
use ofrep::{OfrepError, with_header};

pub(super) use cors::cors_layer;
pub(super) use translate::{Translate, TranslateLayer};

static ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");

/// A protocol, as layers and services see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC, and what [`translate`] has made of other ways to call the services.
    Grpc,
    /// OFREP: JSON over HTTP of any version.
    Ofrep,
    /// OFREP's streams of events: server-sent events over HTTP of any version.
    OfrepEvents,
}

/// What a request speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// gRPC itself. It needs HTTP/2: it sends its status in trailers, which few clients of HTTP/1.1 read, and without which a failure
    /// looks like a success.
    Grpc,
    GrpcWeb,
    Connect(Shape, Codec),
    Ofrep,
    OfrepEvents,
}

/// Whether a Connect call has one message each way, or streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Unary,
    Stream,
}

impl Shape {
    fn of(method: &ServedMethod) -> Self {
        if method.is_server_streaming || method.is_client_streaming { Self::Stream } else { Self::Unary }
    }
}

/// What a dialect takes.
struct Accepted {
    paths: Paths,
    dialect: Dialect,
    min_version: Version,
    content_types: &'static [&'static str],
}

const fn accepted(dialect: Dialect, content_types: &'static [&'static str]) -> Accepted {
    Accepted { paths: Paths::Services, dialect, min_version: Version::HTTP_10, content_types }
}

/// Everything that the port takes, by POST. Besides, Connect takes GET for methods without side effects, OFREP takes a request without a
/// body, and so without a type, and its streams of events are for GET. All else is refused before authentication: browsers send `text/plain`
/// and forms to any address without asking, and with a client certificate if they have one.
const ACCEPTED: [Accepted; 7] = [
    Accepted {
        min_version: Version::HTTP_2,
        ..accepted(Dialect::Grpc, &["application/grpc", "application/grpc+proto"])
    },
    accepted(Dialect::Connect(Shape::Unary, Codec::Json), &["application/json"]),
    accepted(Dialect::Connect(Shape::Unary, Codec::Proto), &["application/proto"]),
    accepted(Dialect::Connect(Shape::Stream, Codec::Json), &["application/connect+json"]),
    accepted(Dialect::Connect(Shape::Stream, Codec::Proto), &["application/connect+proto"]),
    accepted(Dialect::GrpcWeb, &["application/grpc-web", "application/grpc-web+proto"]),
    Accepted { paths: Paths::Ofrep, ..accepted(Dialect::Ofrep, &["application/json"]) },
];

/// The only method that all paths take, but those of streams of events.
const METHOD: Method = Method::POST;
const METHOD_NAME: &str = "POST";

/// The beginning of gRPC's content types for other encodings than protobuf's.
const GRPC_CODEC: &str = "application/grpc+";

/// A kind of path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paths {
    /// `/SERVICE/METHOD`, and everything that is none of the others.
    Services,
    /// Below [`ofrep::ROOT`].
    Ofrep,
}

/// Why a request is refused before its method is known, or for its head.
#[derive(Debug)]
pub(super) enum Refusal {
    /// gRPC needs a newer version of HTTP.
    Version,
    /// The path does not take this method.
    Method(Expected),
    /// The path does not take this content type.
    ContentType(Expected),
    /// gRPC with another encoding than protobuf's. Its clients expect a gRPC status.
    Codec(String),
    /// The head of a call has an error, which is answered as one of the call.
    Call(ApiError),
}

/// A request and its protocol, or why its path does not take it.
pub(super) struct ReadRequest {
    pub protocol: Result<Protocol, Refusal>,
    pub request: Request<Body>,
}

/// What a path takes, instead of what the request has.
#[derive(Debug)]
pub(super) struct Expected {
    paths: Paths,
    accepted: Vec<&'static str>,
}

impl Dialect {
    /// What a request speaks, by its path, version, method and content type.
    ///
    /// # Errors
    /// Why the path does not take the request.
    fn of<B: http_body::Body>(request: &Request<B>) -> Result<Self, Refusal> {
        let paths = Paths::of(request.uri().path());
        let of_path = || ACCEPTED.iter().filter(|accepted| accepted.paths == paths);
        if request.uri().path() == ofrep::EVENTS {
            let refused = || Refusal::Method(Expected { paths, accepted: vec!["GET"] });
            return (request.method() == Method::GET).then_some(Self::OfrepEvents).ok_or_else(refused);
        }
        if request.method() != METHOD {
            return Err(Refusal::Method(Expected { paths, accepted: vec![METHOD_NAME] }));
        }
        if paths == Paths::Ofrep && !request.headers().contains_key(CONTENT_TYPE) && request.body().is_end_stream() {
            return Ok(Self::Ofrep);
        }
        let content_type = content_type(request.headers());
        let dialect = of_path().find(|accepted| accepted.takes(content_type));
        if let Some(accepted) = dialect.filter(|accepted| request.version() >= accepted.min_version) {
            return Ok(accepted.dialect);
        }
        let codec = content_type.filter(|own| is_codec(own) && paths == Paths::Services);
        if dialect.is_some() || (codec.is_some() && request.version() < Version::HTTP_2) {
            return Err(Refusal::Version);
        }
        if let Some(codec) = codec {
            return Err(Refusal::Codec(codec.chars().take(100).collect()));
        }
        let accepted = of_path().flat_map(|accepted| accepted.content_types).copied().collect();
        Err(Refusal::ContentType(Expected { paths, accepted }))
    }
}

impl Protocol {
    /// The response that refuses a request.
    pub fn refuse(self, error: impl Into<ApiError>) -> Response<Body> {
        match self {
            Self::Grpc => status(error).into_http(),
            Self::Ofrep => OfrepError::from(error.into()).response(None),
            Self::OfrepEvents => OfrepError::from(error.into()).events_response(),
        }
    }
}

impl Accepted {
    fn takes(&self, content_type: Option<&str>) -> bool {
        content_type.is_some_and(|own| self.content_types.iter().any(|accepted| accepted.eq_ignore_ascii_case(own)))
    }
}

impl Paths {
    fn of(path: &str) -> Self {
        if path.starts_with(ofrep::ROOT) { Self::Ofrep } else { Self::Services }
    }

    /// The response with an error of HTTP.
    fn error(self, status: StatusCode, text: &str) -> Response<Body> {
        match self {
            Self::Services => plain_text(status, text),
            Self::Ofrep => OfrepError::general(status, text).response(None),
        }
    }
}

impl Refusal {
    /// A method takes Connect requests of this shape only.
    fn shape(needed: Shape) -> Self {
        let of_shape = |dialect| matches!(dialect, Dialect::Connect(shape, _) if shape == needed);
        let accepted = ACCEPTED.iter().filter(|accepted| of_shape(accepted.dialect));
        let accepted = accepted.flat_map(|accepted| accepted.content_types).copied().collect();
        Self::ContentType(Expected { paths: Paths::Services, accepted })
    }

    /// The response that refuses the request.
    pub fn response(self) -> Response<Body> {
        match self {
            Self::Version => Paths::Services.error(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "gRPC needs HTTP/2; over HTTP/1.1 use Connect, with application/json or application/proto, or gRPC-Web",
            ),
            Self::Method(Expected { paths, accepted }) => {
                let accepted = accepted.join(", ");
                let response = paths.error(StatusCode::METHOD_NOT_ALLOWED, &format!("use {accepted}"));
                with_list(response, ALLOW, accepted)
            }
            Self::ContentType(Expected { paths, accepted }) => {
                let text = format!("the content type must be {}", accepted.join(" or "));
                let response = paths.error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &text);
                with_list(response, ACCEPT_POST.clone(), accepted.join(", "))
            }
            Self::Call(error) => Protocol::Grpc.refuse(error),
            Self::Codec(name) => Protocol::Grpc.refuse(ApiError::UnsupportedCodec(name)),
        }
    }
}

fn with_list(response: Response<Body>, name: HeaderName, list: String) -> Response<Body> {
    match HeaderValue::try_from(list) {
        Ok(list) => with_header(response, name, list),
        Err(_) => response,
    }
}

/// The only content type, without its parameters.
fn content_type(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    let (Some(only), None) = (values.next(), values.next()) else { return None };
    let text = only.to_str().ok()?;
    Some(text.split_once(';').map_or(text, |(essence, _)| essence).trim())
}

fn is_codec(content_type: &str) -> bool {
    content_type.get(..GRPC_CODEC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC_CODEC))
}

fn plain_text(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::new(format!("{text}\n")));
    *response.status_mut() = status;
    with_header(response, CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))
}

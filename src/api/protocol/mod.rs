//! The protocols on the port: what their paths take, which one a request speaks, and how to refuse a request in it.

pub(super) mod grpc;
pub(super) mod ofrep;

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tonic::body::Body;

use super::errors::{ApiError, status};
use ofrep::{OfrepError, with_header};

/// A protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// gRPC, which needs HTTP/2: it sends its status in trailers, which few clients of HTTP/1.1 read, and without which a failure
    /// looks like a success.
    Grpc,
    /// OFREP: JSON over HTTP of any version.
    Ofrep,
}

/// What a protocol takes.
struct Accepted {
    paths: Paths,
    protocol: Protocol,
    min_version: Version,
    method: Method,
    content_types: &'static [&'static str],
}

/// Everything that the port takes. All else is refused before authentication: browsers send `text/plain` and forms to any address
/// without asking, and with a client certificate if they have one.
const ACCEPTED: [Accepted; 2] = [
    Accepted {
        paths: Paths::Services,
        protocol: Protocol::Grpc,
        min_version: Version::HTTP_2,
        method: Method::POST,
        content_types: &["application/grpc", "application/grpc+proto"],
    },
    Accepted {
        paths: Paths::Ofrep,
        protocol: Protocol::Ofrep,
        min_version: Version::HTTP_10,
        method: Method::POST,
        content_types: &["application/json"],
    },
];

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

/// Why a request is refused in terms of HTTP.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The path needs a newer version of HTTP.
    Version,
    /// The path does not take this method.
    Method(Expected),
    /// The path does not take this content type.
    ContentType(Expected),
    /// gRPC with another encoding than protobuf's. Its clients expect a gRPC status.
    Codec(String),
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
    accepted: String,
}

impl Protocol {
    /// The protocol of a request, by its path, version, method and content type.
    ///
    /// # Errors
    /// Why the path does not take the request.
    pub fn of<B>(request: &Request<B>) -> Result<Self, Refusal> {
        let paths = Paths::of(request.uri().path());
        let content_type = content_type(request.headers());
        let of_path = || ACCEPTED.iter().filter(|accepted| accepted.paths == paths);
        let of_version = || of_path().filter(|accepted| request.version() >= accepted.min_version);
        let of_method = || of_version().filter(|accepted| accepted.method == request.method());
        if let Some(accepted) = of_method().find(|accepted| accepted.takes(content_type)) {
            return Ok(accepted.protocol);
        }
        if of_version().next().is_none() {
            return Err(Refusal::Version);
        }
        if of_method().next().is_none() {
            let methods: Vec<_> = of_version().map(|accepted| accepted.method.as_str()).collect();
            return Err(Refusal::Method(Expected { paths, accepted: methods.join(", ") }));
        }
        if let Some(codec) = content_type.filter(|own| is_codec(own) && paths == Paths::Services) {
            return Err(Refusal::Codec(codec.chars().take(100).collect()));
        }
        let types: Vec<_> = of_method().flat_map(|accepted| accepted.content_types).copied().collect();
        Err(Refusal::ContentType(Expected { paths, accepted: types.join(" or ") }))
    }

    /// The response that refuses a request.
    pub fn refuse(self, error: impl Into<ApiError>) -> Response<Body> {
        match self {
            Self::Grpc => status(error).into_http(),
            Self::Ofrep => OfrepError::from(error.into()).response(None),
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
    /// The response that refuses the request.
    pub fn response(self) -> Response<Body> {
        match self {
            Self::Version => Paths::Services.error(
                StatusCode::HTTP_VERSION_NOT_SUPPORTED,
                "gRPC needs HTTP/2; over HTTP/1.1 only /ofrep/ is served",
            ),
            Self::Method(Expected { paths, accepted }) => {
                let response = paths.error(StatusCode::METHOD_NOT_ALLOWED, &format!("use {accepted}"));
                match HeaderValue::try_from(accepted) {
                    Ok(allow) => with_header(response, ALLOW, allow),
                    Err(_) => response,
                }
            }
            Self::ContentType(Expected { paths, accepted }) => {
                paths.error(StatusCode::UNSUPPORTED_MEDIA_TYPE, &format!("the content type must be {accepted}"))
            }
            Self::Codec(name) => Protocol::Grpc.refuse(ApiError::UnsupportedCodec(name)),
        }
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

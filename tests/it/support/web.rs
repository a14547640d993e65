//! A client of Connect and gRPC-Web over both versions of HTTP. It writes heads and bodies by itself, so that tests can send any.

use std::net::SocketAddr;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use prost::Message;
use prost::bytes::Bytes;
use prost_reflect::{DescriptorPool, DynamicMessage};
use prost_types::Any;
use serde_json::Value;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

use super::h2_client::with_prefix;
use super::methods::Method;
use super::with_timeout;

/// A client.
#[derive(Clone)]
pub struct Web {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

/// A way to call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    ConnectJson,
    ConnectProto,
    ConnectGet,
    GrpcWeb,
}

impl Dialect {
    pub const ALL: [Self; 4] = [Self::ConnectJson, Self::ConnectProto, Self::ConnectGet, Self::GrpcWeb];

    /// Whether the method can be called in this way.
    pub fn fits(self, method: &Method) -> bool {
        self != Self::ConnectGet || (method.has_no_side_effects && !method.is_streaming)
    }

    fn content_type(self, is_streaming: bool) -> &'static str {
        match (self, is_streaming) {
            (Self::ConnectGet, _) | (Self::ConnectJson, false) => "application/json",
            (Self::ConnectJson, true) => "application/connect+json",
            (Self::ConnectProto, false) => "application/proto",
            (Self::ConnectProto, true) => "application/connect+proto",
            (Self::GrpcWeb, _) => "application/grpc-web+proto",
        }
    }
}

/// A message of a stream, or its end.
#[derive(Debug)]
pub struct Envelope {
    pub flags: u8,
    pub message: Vec<u8>,
}

/// The body of an answer, as it arrives.
pub struct Envelopes {
    body: Incoming,
    bytes: Vec<u8>,
}

impl Web {
    /// For the server at this address, over HTTP/1.1 and HTTP/2.
    pub fn both(address: SocketAddr) -> [Self; 2] {
        [false, true].map(|http2| {
            let client = Client::builder(TokioExecutor::new()).http2_only(http2).build_http();
            Self { client, address }
        })
    }

    /// Sends a request to a path, and returns the answer once its head has arrived.
    pub async fn open(&self, mut request: Request<Vec<u8>>) -> Response<Incoming> {
        let path = request.uri().path_and_query().unwrap().as_str();
        *request.uri_mut() = format!("http://{}{path}", self.address).parse().unwrap();
        let request = request.map(|body| Full::new(Bytes::from(body)));
        with_timeout("an answer", self.client.request(request)).await.unwrap()
    }

    /// Sends a request, and reads the whole answer.
    pub async fn send(&self, request: Request<Vec<u8>>) -> Response<Vec<u8>> {
        let (head, body) = self.open(request).await.into_parts();
        let body = with_timeout("the rest of an answer", body.collect()).await.unwrap().to_bytes().to_vec();
        Response::from_parts(head, body)
    }

    /// Calls a method with an empty request, and reads the first message or the error.
    pub async fn call(
        &self,
        dialect: Dialect,
        method: &Method,
        authorization: impl IntoIterator<Item = MetadataValue<Ascii>>,
    ) -> Result<(), Status> {
        let mut request = empty_request(dialect, method);
        for value in authorization {
            let value = HeaderValue::from_bytes(value.as_encoded_bytes()).unwrap();
            request.headers_mut().append("authorization", value);
        }
        let response = self.open(request).await;
        let (head, body) = response.into_parts();
        let expected = dialect.content_type(method.is_streaming);
        let error = match (dialect, method.is_streaming) {
            (Dialect::GrpcWeb, _) => {
                assert_eq!(
                    (head.status, &head.headers[CONTENT_TYPE]),
                    (StatusCode::OK, &HeaderValue::from_static(expected))
                );
                match Status::from_header_map(&head.headers) {
                    Some(status) => Some(status),
                    None => first_grpc_web(Envelopes { body, bytes: Vec::new() }).await,
                }
            }
            (_, true) => {
                assert_eq!(
                    (head.status, &head.headers[CONTENT_TYPE]),
                    (StatusCode::OK, &HeaderValue::from_static(expected))
                );
                let first = Envelopes { body, bytes: Vec::new() }.next().await.expect("a message or the end");
                first.end().and_then(|end| status_of(&end["error"]))
            }
            (_, false) => {
                let body = with_timeout("the rest of an answer", body.collect()).await.unwrap().to_bytes();
                let is_error = head.status != StatusCode::OK;
                let expected = if is_error { "application/json" } else { expected };
                assert_eq!(head.headers[CONTENT_TYPE], expected, "{head:?}");
                let error = is_error.then(|| status_of(&serde_json::from_slice(&body).unwrap()).expect("an error"));
                if let Some(error) = &error {
                    assert_eq!(head.status.as_u16(), http_status(error.code()), "{error}");
                }
                error
            }
        };
        match error.filter(|status| status.code() != Code::Ok) {
            Some(status) => Err(status),
            None => Ok(()),
        }
    }
}

/// The first message of a gRPC-Web answer, or its status.
async fn first_grpc_web(mut body: Envelopes) -> Option<Status> {
    let first = body.next().await.expect("a message or the trailers");
    if first.flags & 0x80 == 0 {
        return None;
    }
    let text = String::from_utf8(first.message).unwrap();
    let trailers: HeaderMap = text
        .lines()
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()))
        .collect();
    Some(Status::from_header_map(&trailers).expect("a status"))
}

/// A request to a method with an empty message.
pub fn empty_request(dialect: Dialect, method: &Method) -> Request<Vec<u8>> {
    let (path, is_json) = (&method.path, dialect == Dialect::ConnectJson);
    let message: &[u8] = if is_json { b"{}" } else { b"" };
    let body =
        if method.is_streaming || dialect == Dialect::GrpcWeb { with_prefix(0, message) } else { message.to_vec() };
    if dialect == Dialect::ConnectGet {
        return Request::get(format!("{path}?connect=v1&encoding=json&message=%7B%7D")).body(Vec::new()).unwrap();
    }
    post(path, dialect.content_type(method.is_streaming), None, body)
}

/// A POST request.
pub fn post(path: &str, content_type: &str, token: Option<&str>, body: impl Into<Vec<u8>>) -> Request<Vec<u8>> {
    let mut request = Request::post(path).header(CONTENT_TYPE, content_type);
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(body.into()).unwrap()
}

/// A GET request with a message in JSON or protobuf.
pub fn get(path: &str, encoding: &str, token: &str, message: &[u8]) -> Request<Vec<u8>> {
    let message = URL_SAFE_NO_PAD.encode(message);
    let path = format!("{path}?connect=v1&encoding={encoding}&base64=1&message={message}");
    Request::get(path).header("authorization", format!("Bearer {token}")).body(Vec::new()).unwrap()
}

impl Envelopes {
    pub fn of(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), bytes: Vec::new() }
    }

    /// The next one; `None` at the end of the body.
    pub async fn next(&mut self) -> Option<Envelope> {
        loop {
            if let Some((prefix, rest)) = self.bytes.split_first_chunk::<5>() {
                let [flags, length @ ..] = *prefix;
                let length = u32::from_be_bytes(length) as usize;
                if let Some(message) = rest.get(..length) {
                    let envelope = Envelope { flags, message: message.to_vec() };
                    self.bytes.drain(..5 + length);
                    return Some(envelope);
                }
            }
            match with_timeout("more of an answer", self.body.frame()).await {
                Some(frame) => self.bytes.extend_from_slice(&frame.unwrap().into_data().unwrap_or_default()),
                None => {
                    assert!(self.bytes.is_empty(), "the answer ends inside a message");
                    return None;
                }
            }
        }
    }
}

impl Envelope {
    /// The end of the stream, if it is that.
    pub fn end(&self) -> Option<Value> {
        (self.flags & 2 != 0).then(|| serde_json::from_slice(&self.message).unwrap())
    }

    /// The message in JSON.
    pub fn json(&self) -> Value {
        assert_eq!(self.flags, 0, "{}", String::from_utf8_lossy(&self.message));
        serde_json::from_slice(&self.message).unwrap()
    }
}

/// The error of an answer in JSON.
pub fn error_of(response: &Response<Vec<u8>>) -> Status {
    let status = status_of(&serde_json::from_slice(response.body()).unwrap()).unwrap();
    assert_eq!(response.status().as_u16(), http_status(status.code()), "{status}");
    status
}

/// The status that a Connect error stands for, as gRPC sends it; `None` without an error.
pub fn status_of(error: &Value) -> Option<Status> {
    let name = error.get("code")?.as_str().unwrap();
    let codes = (1..17).map(Code::from);
    let code = codes.into_iter().find(|code| code_name(*code) == name).unwrap_or_else(|| panic!("{error}"));
    let message = error.get("message").map_or("", |message| message.as_str().unwrap());
    let details = error["details"].as_array().into_iter().flatten().map(|detail| {
        let kind = detail["type"].as_str().unwrap();
        assert!(detail["debug"].is_object(), "{detail}");
        let value = STANDARD_NO_PAD.decode(detail["value"].as_str().unwrap()).unwrap();
        Any { type_url: format!("type.googleapis.com/{kind}"), value }
    });
    let details = tonic_types::Status { code: code as i32, message: message.to_owned(), details: details.collect() };
    Some(Status::with_details(code, message, details.encode_to_vec().into()))
}

fn code_name(code: Code) -> String {
    if code == Code::Cancelled {
        return "canceled".to_owned();
    }
    let camel = format!("{code:?}");
    let snake = camel.chars().enumerate().map(|(at, char)| match char {
        'A'..='Z' if at > 0 => format!("_{}", char.to_ascii_lowercase()),
        _ => char.to_ascii_lowercase().to_string(),
    });
    snake.collect()
}

/// Connect's table.
fn http_status(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::Cancelled => 499,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::AlreadyExists | Code::Aborted => 409,
        Code::ResourceExhausted => 429,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

/// Whether two statuses are the same, with their details.
pub fn assert_same(left: &Result<(), Status>, right: &Result<(), Status>, what: &str) {
    let parts = |result: &Result<(), Status>| {
        result.as_ref().err().map(|status| (status.code(), status.message().to_owned(), details(status)))
    };
    assert_eq!(parts(left), parts(right), "{what}");
}

/// The details of a status. Maps in them have no order, so each is decoded again.
fn details(status: &Status) -> Vec<(String, String)> {
    let decoded = tonic_types::Status::decode(status.details()).unwrap();
    static POOL: LazyLock<DescriptorPool> =
        LazyLock::new(|| DescriptorPool::decode(tonic_types::pb::FILE_DESCRIPTOR_SET).unwrap());
    let show = |any: Any| {
        let kind = any.type_url.rsplit('/').next().unwrap().to_owned();
        let message = DynamicMessage::decode(POOL.get_message_by_name(&kind).unwrap(), &*any.value).unwrap();
        (kind, serde_json::to_value(&message).unwrap().to_string())
    };
    decoded.details.into_iter().map(show).collect()
}

//! The suite's service. It speaks gRPC by hand, since the suite asks for trailers of successful calls, which tonic does not send.

use std::convert::Infallible;
use std::io::Read;
use std::task::{Context, Poll};
use std::time::Duration;

use flate2::read::GzDecoder;
use futures::future::{BoxFuture, FutureExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use prost::bytes::{Buf, Bytes};
use prost_types::Any;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use crate::messages::{
    Answer, BidiRequest, Error, Header, Payload, RequestInfo, StreamDefinition, StreamRequest, UnaryRequest,
};

/// The name of the service.
pub const NAME: &str = "connectrpc.conformance.v1.ConformanceService";

/// The service.
#[derive(Clone)]
pub struct Conformance {
    /// The largest message.
    pub max_bytes: usize,
}

impl Service<Request<Body>> for Conformance {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let max_bytes = self.max_bytes;
        async move { Ok(answer(request, max_bytes).await.unwrap_or_else(Status::into_http)) }.boxed()
    }
}

async fn answer(request: Request<Body>, max_bytes: usize) -> Result<Response<Body>, Status> {
    let (head, body) = request.into_parts();
    let method = head.uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let is_gzip = match head.headers.get("grpc-encoding").map(HeaderValue::as_bytes) {
        None | Some(b"identity") => false,
        Some(b"gzip") => true,
        Some(_) => return Err(Status::unimplemented("unknown compression: use gzip or identity")),
    };
    let requests = Requests { body, bytes: Vec::new(), is_gzip, max_bytes };
    match &*method {
        "Unary" | "IdempotentUnary" => unary(&method, &head.headers, vec![requests.only().await?]).await,
        "ClientStream" => unary(&method, &head.headers, requests.all().await?).await,
        "ServerStream" => {
            let message = requests.only().await?;
            let definition = StreamRequest::decode(&*message).map_err(malformed)?.definition;
            let info = info(&method, &head.headers, &[message]);
            Ok(stream(definition.unwrap_or_default(), info, None))
        }
        "BidiStream" => bidi(&method, &head.headers, requests).await,
        _ => Err(Status::unimplemented("not implemented")),
    }
}

/// One answer to all requests.
async fn unary(method: &str, headers: &HeaderMap, requests: Vec<Bytes>) -> Result<Response<Body>, Status> {
    let first = requests.first().cloned().unwrap_or_default();
    let definition = UnaryRequest::decode(first).map_err(malformed)?.definition.unwrap_or_default();
    let info = info(method, headers, &requests);
    tokio::time::sleep(Duration::from_millis(definition.delay_ms.into())).await;
    let (message, status) = match definition.error {
        Some(error) => (None, status(error, Some(&info))),
        None => {
            let payload = Payload { data: definition.data, info: Some(info) };
            (Some(Answer { payload: Some(payload) }), Status::ok(""))
        }
    };
    let frames = message.map(|message| frame(&message)).into_iter().chain([trailers(&status, &definition.trailers)]);
    Ok(response(&definition.headers, futures::stream::iter(frames.collect::<Vec<_>>())))
}

async fn bidi(method: &str, headers: &HeaderMap, mut requests: Requests) -> Result<Response<Body>, Status> {
    let Some(first) = requests.next().await? else {
        return Ok(response(&[], futures::stream::iter([trailers(&Status::ok(""), &[])])));
    };
    let BidiRequest { definition, is_full_duplex } = BidiRequest::decode(&*first).map_err(malformed)?;
    let definition = definition.unwrap_or_default();
    if is_full_duplex {
        return Ok(stream(definition, info(method, headers, &[first]), Some(requests)));
    }
    let mut all = vec![first];
    all.extend(requests.all().await?);
    Ok(stream(definition, info(method, headers, &all), None))
}

/// An answer of several messages. With `requests`, each message but the first waits for another request.
fn stream(definition: StreamDefinition, info: RequestInfo, mut requests: Option<Requests>) -> Response<Body> {
    let StreamDefinition { headers, data, delay_ms, error, trailers: metadata } = definition;
    let frames = async_stream::stream! {
        let mut info = Some(info);
        for data in data {
            if info.is_none() && let Some(open) = &mut requests {
                match open.next().await {
                    Ok(Some(message)) => info = Some(RequestInfo { requests: vec![any("BidiStreamRequest", &message)], ..Default::default() }),
                    Ok(None) => requests = None,
                    Err(status) => {
                        yield trailers(&status, &metadata);
                        return;
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(delay_ms.into())).await;
            yield frame(&Answer { payload: Some(Payload { data, info: info.take() }) });
        }
        let status = error.map_or_else(|| Status::ok(""), |error| status(error, info.as_ref()));
        yield trailers(&status, &metadata);
    };
    response(&headers, frames)
}

fn response(
    metadata: &[Header],
    frames: impl futures::Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(Body::new(StreamBody::new(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    add(response.headers_mut(), metadata);
    response
}

fn frame(message: &Answer) -> Result<Frame<Bytes>, Status> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).expect("a small message").to_be_bytes();
    Ok(Frame::data([&[0][..], &length, &message].concat().into()))
}

fn trailers(status: &Status, metadata: &[Header]) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    add(&mut trailers, metadata);
    status.add_header(&mut trailers)?;
    Ok(Frame::trailers(trailers))
}

fn add(headers: &mut HeaderMap, metadata: &[Header]) {
    for Header { name, value } in metadata {
        for value in value {
            let name: HeaderName = name.parse().expect("a name of a header");
            headers.append(name, value.parse().expect("a value of a header"));
        }
    }
}

/// An error, with what was requested if no message was sent that says so.
fn status(Error { code, message, mut details }: Error, info: Option<&RequestInfo>) -> Status {
    details.extend(info.map(|info| any("ConformancePayload.RequestInfo", &info.encode_to_vec())));
    let encoded = tonic_types::Status { code, message: message.clone(), details }.encode_to_vec();
    Status::with_details(Code::from(code), message, encoded.into())
}

fn any(name: &str, message: &[u8]) -> Any {
    Any { type_url: format!("type.googleapis.com/connectrpc.conformance.v1.{name}"), value: message.to_vec() }
}

fn info(method: &str, headers: &HeaderMap, requests: &[Bytes]) -> RequestInfo {
    let header = |name: &HeaderName| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        Header { name: name.to_string(), value: values.map(str::to_owned).collect() }
    };
    RequestInfo {
        headers: headers.keys().map(header).collect(),
        timeout_ms: headers.get("grpc-timeout").and_then(|timeout| milliseconds(timeout.to_str().ok()?)),
        requests: requests.iter().map(|message| any(&format!("{method}Request"), message)).collect(),
    }
}

fn milliseconds(timeout: &str) -> Option<i64> {
    let (number, unit) = timeout.split_at_checked(timeout.len().checked_sub(1)?)?;
    let number: i64 = number.parse().ok()?;
    Some(match unit {
        "H" => number * 3_600_000,
        "M" => number * 60_000,
        "S" => number * 1_000,
        "m" => number,
        "u" => number / 1_000,
        _ => number / 1_000_000,
    })
}

fn malformed(error: prost::DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

/// The messages of a request.
struct Requests {
    body: Body,
    bytes: Vec<u8>,
    is_gzip: bool,
    max_bytes: usize,
}

impl Requests {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some((&[flags, ref length @ ..], rest)) = self.bytes.split_first_chunk::<5>() {
                let length = u32::from_be_bytes(length[..].try_into().expect("four bytes")) as usize;
                if length > self.max_bytes {
                    return Err(Status::resource_exhausted("message too large"));
                }
                if let Some(message) = rest.get(..length) {
                    let message = self.message(flags, message)?;
                    self.bytes.drain(..5 + length);
                    return Ok(Some(message));
                }
            }
            match self.body.frame().await {
                Some(frame) => self.bytes.extend_from_slice(frame?.into_data().unwrap_or_default().chunk()),
                None if self.bytes.is_empty() => return Ok(None),
                None => return Err(Status::invalid_argument("the request ends inside a message")),
            }
        }
    }

    fn message(&self, flags: u8, message: &[u8]) -> Result<Bytes, Status> {
        match flags {
            0 => Ok(Bytes::copy_from_slice(message)),
            1 if self.is_gzip => {
                let mut decompressed = Vec::new();
                let read = GzDecoder::new(message).take(self.max_bytes as u64 + 1).read_to_end(&mut decompressed);
                if decompressed.len() > self.max_bytes {
                    return Err(Status::resource_exhausted("message too large"));
                }
                read.map_err(|error| Status::invalid_argument(error.to_string()))?;
                Ok(decompressed.into())
            }
            _ => Err(Status::internal("a message that is compressed without grpc-encoding, or has unknown flags")),
        }
    }

    async fn all(mut self) -> Result<Vec<Bytes>, Status> {
        let mut all = Vec::new();
        while let Some(message) = self.next().await? {
            all.push(message);
        }
        Ok(all)
    }

    async fn only(self) -> Result<Bytes, Status> {
        let all: [Bytes; 1] = self.all().await?.try_into().map_err(|_| Status::unimplemented("not one message"))?;
        let [only] = all;
        Ok(only)
    }
}

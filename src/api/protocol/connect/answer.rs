//! The messages of an answer, as Connect's: decided by the call, before the answer's bytes are charged.

use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use http::header::CONTENT_ENCODING;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use prost::bytes::{Bytes, BytesMut};
use tonic::Status;
use tonic::body::Body;

use super::envelope::{COMPRESSED, Deframer, PREFIX_BYTES, put_framed};
use super::{Codec, ConnectCall, json};
use crate::api::errors::{ApiError, status};
use crate::api::middleware::limits::{SharedAnswer, SharedBytes, SharedMessage};
use crate::domain::error::Error;

/// Smaller messages are not worth compressing.
const LEAST_COMPRESSED: usize = 1 << 10;

/// No message of our own is longer.
const MAX_MESSAGE: usize = u32::MAX as usize;

static STREAM_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");

const GZIP: HeaderValue = HeaderValue::from_static("gzip");

impl ConnectCall {
    /// The service's answer with Connect's messages. Its status stays in gRPC's headers and trailers.
    pub(super) async fn encode_answer(&self, response: Response<Body>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        if Status::from_header_map(&head.headers).is_some() {
            return Response::from_parts(head, body);
        }
        let answer =
            if self.is_unary() { self.encode_one(&mut head, body).await } else { Ok(self.encode_all(&mut head, body)) };
        match answer {
            Ok(body) => Response::from_parts(head, body),
            Err(status) => status.into_http(),
        }
    }

    /// The only message, without framing.
    async fn encode_one(&self, head: &mut Parts, body: Body) -> Result<Body, Status> {
        let shared = head.extensions.remove::<SharedAnswer>().and_then(SharedAnswer::into_messages);
        let (framed, trailers) = match shared {
            Some((mut messages, _)) => match messages.next().await {
                Some(message) => (message?.to_bytes(), ok_trailers()?),
                None => (Bytes::new(), ok_trailers()?),
            },
            None => {
                let collected = body.collect().await?;
                let trailers = collected.trailers().cloned().unwrap_or_default();
                (collected.to_bytes(), trailers)
            }
        };
        // Without a message, the trailers have an error.
        let data = match framed.len().checked_sub(PREFIX_BYTES) {
            Some(_) => self.convert(framed.slice(PREFIX_BYTES..)).map_err(status)?,
            None => Bytes::new(),
        };
        let data = match self.compressed(&data) {
            Some(compressed) => {
                head.headers.insert(CONTENT_ENCODING, GZIP);
                compressed
            }
            None => data,
        };
        Ok(Body::new(OneMessage { data: Some(data).filter(|data| !data.is_empty()), trailers: Some(trailers) }))
    }

    /// All messages of a stream, in Connect's framing. In protobuf that is gRPC's: they stay as they are, and are sent to many clients
    /// without a copy.
    fn encode_all(&self, head: &mut Parts, body: Body) -> Body {
        if self.0.codec == Codec::Proto {
            return body;
        }
        if self.0.accepts_gzip {
            head.headers.insert(&STREAM_ENCODING, GZIP);
        }
        let shared = head.extensions.remove::<SharedAnswer>().and_then(SharedAnswer::into_messages);
        let Some((messages, unsent)) = shared else {
            let messages = Deframer::new(MAX_MESSAGE);
            return Body::new(AllMessages { call: self.clone(), body: Some(body), messages });
        };
        let call = self.clone();
        let messages = messages.map(move |message| -> Result<SharedMessage, Status> {
            let bytes = call.convert_framed(&mut Deframer::new(MAX_MESSAGE), &message?.to_bytes()).map_err(status)?;
            Ok(SharedMessage { head: Bytes::new(), shared: SharedBytes::new(bytes) })
        });
        head.extensions.insert(SharedAnswer::with(unsent, messages));
        Body::empty()
    }

    fn convert(&self, message: Bytes) -> Result<Bytes, ApiError> {
        match (self.0.codec, &self.0.method.output) {
            (Codec::Proto, _) => Ok(message),
            (Codec::Json, Some(output)) => Ok(json::encode(output, &message)?.into()),
            (Codec::Json, None) => Err(Error::internal("a method without a descriptor").into()),
        }
    }

    /// The messages that this part of a stream completes, converted and with framing.
    fn convert_framed(&self, messages: &mut Deframer, part: &[u8]) -> Result<Bytes, ApiError> {
        messages.add(part);
        let mut converted = BytesMut::new();
        while let Some(envelope) = messages.next()? {
            let message = self.convert(envelope.message)?;
            match self.compressed(&message) {
                Some(compressed) => put_framed(&mut converted, COMPRESSED, &compressed),
                None => put_framed(&mut converted, 0, &message),
            }
        }
        Ok(converted.freeze())
    }

    /// The same compressed, if that is worth while and the client understands it.
    fn compressed(&self, message: &[u8]) -> Option<Bytes> {
        if !self.0.accepts_gzip || message.len() < LEAST_COMPRESSED {
            return None;
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(message).ok()?;
        Some(encoder.finish().ok()?.into())
    }
}

fn ok_trailers() -> Result<HeaderMap, Status> {
    let mut trailers = HeaderMap::new();
    Status::ok("").add_header(&mut trailers)?;
    Ok(trailers)
}

/// A message and the status.
struct OneMessage {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl http_body::Body for OneMessage {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(data) = self.data.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// The messages of a stream.
struct AllMessages {
    call: ConnectCall,
    /// `None` once it has ended.
    body: Option<Body>,
    messages: Deframer,
}

impl http_body::Body for AllMessages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let Self { call, body: Some(body), messages } = &mut *self else { return Poll::Ready(None) };
            let frame = ready!(Pin::new(body).poll_frame(context));
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => {
                    self.body = None;
                    return Poll::Ready(ended);
                }
            };
            match call.convert_framed(messages, &data) {
                Ok(converted) if converted.is_empty() => {}
                Ok(converted) => return Poll::Ready(Some(Ok(Frame::data(converted)))),
                Err(error) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(status(error))));
                }
            }
        }
    }
}

//! The body of a Connect request, as gRPC's messages.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http_body::Frame;
use prost::bytes::{Bytes, BytesMut};
use tonic::Status;
use tonic::body::Body;

use super::envelope::{COMPRESSED, Deframer, framed, put_framed};
use super::{Codec, ConnectCall, QueryMessage, json};
use crate::api::errors::{ApiError, Limit, status};
use crate::api::protocol::Shape;

/// The base64 of query strings. Some clients add padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The body of a call as gRPC's messages. It is read and decoded when the service, or a layer, reads messages; the body and each message
/// may have at most `max_bytes`.
pub(in crate::api) fn grpc_body(call: &ConnectCall, body: Body, max_bytes: usize) -> Body {
    let call = call.clone();
    match (call.0.shape, call.0.codec) {
        (Shape::Unary, _) => Body::new(UnaryRequest { call, body: Some(body), parts: Parts::default(), max_bytes }),
        // The framing and its compression are gRPC's own.
        (Shape::Stream, Codec::Proto) => body,
        (Shape::Stream, Codec::Json) => {
            Body::new(StreamRequest { call, body: Some(body), messages: Deframer::new(max_bytes), max_bytes })
        }
    }
}

/// A request of one message without framing.
struct UnaryRequest {
    call: ConnectCall,
    /// `None` once the message was returned.
    body: Option<Body>,
    /// What has arrived.
    parts: Parts,
    max_bytes: usize,
}

/// The bytes of a body, in parts of this size at most. A buffer that grows with the body would be allocated again and again.
#[derive(Default)]
struct Parts {
    parts: Vec<Vec<u8>>,
    length: usize,
}

const PART_BYTES: usize = 64 << 10;

impl Parts {
    /// Adds bytes. They are copied, so that small frames do not keep the large buffers that they were read into.
    fn add(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        while !bytes.is_empty() {
            if self.parts.last().is_none_or(|part| part.len() == part.capacity()) {
                // Most bodies arrive at once.
                let size = if self.parts.is_empty() { bytes.len().min(PART_BYTES) } else { PART_BYTES };
                self.parts.push(Vec::with_capacity(size));
            }
            if let Some(part) = self.parts.last_mut() {
                let (taken, rest) = bytes.split_at(bytes.len().min(part.capacity() - part.len()));
                part.extend_from_slice(taken);
                bytes = rest;
            }
        }
    }

    fn into_bytes(self) -> Vec<u8> {
        match <[Vec<u8>; 1]>::try_from(self.parts) {
            Ok([only]) => only,
            Err(parts) => parts.concat(),
        }
    }
}

impl UnaryRequest {
    fn add(&mut self, part: &[u8]) -> Result<(), ApiError> {
        if self.parts.length + part.len() > self.max_bytes {
            return Err(Limit::RequestSize.reached(self.max_bytes).into());
        }
        self.parts.add(part);
        Ok(())
    }

    /// The message with gRPC's framing.
    fn message(&mut self) -> Result<Bytes, ApiError> {
        let body = std::mem::take(&mut self.parts).into_bytes();
        let message = match &self.call.0.query {
            Some(query) => query.decode(self.max_bytes)?,
            None => body,
        };
        match self.call.0.codec {
            // An empty message may lack the frame of gzip.
            Codec::Proto if self.call.0.is_compressed && !message.is_empty() => Ok(framed(COMPRESSED, &message)),
            Codec::Proto => Ok(framed(0, &message)),
            Codec::Json => Ok(framed(0, &self.call.json_message(self.call.0.is_compressed, &message, self.max_bytes)?)),
        }
    }
}

impl QueryMessage {
    fn decode(&self, max_bytes: usize) -> Result<Vec<u8>, ApiError> {
        // Base64 of the longest message is a third longer.
        if self.text.len() / 4 * 3 > max_bytes {
            return Err(Limit::RequestSize.reached(max_bytes).into());
        }
        if !self.is_base64 {
            return Ok(self.text.as_bytes().to_vec());
        }
        BASE64.decode(&self.text).map_err(|_| ApiError::MalformedQuery("message must be URL-safe base64"))
    }
}

impl ConnectCall {
    /// The encoded message that JSON describes.
    fn json_message(&self, is_compressed: bool, text: &[u8], max_bytes: usize) -> Result<Vec<u8>, ApiError> {
        let decompressed = if is_compressed { Some(json::decompress(text, max_bytes)?) } else { None };
        let Some(input) = &self.0.method.input else {
            return Err(ApiError::UnknownMethod(self.0.method.name.to_string()));
        };
        json::decode(input, decompressed.as_deref().unwrap_or(text))
    }
}

impl http_body::Body for UnaryRequest {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Err(error) = frame.data_ref().map_or(Ok(()), |data| self.add(data)) {
                        self.body = None;
                        return Poll::Ready(Some(Err(status(error))));
                    }
                }
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.body = None;
                    return Poll::Ready(Some(self.message().map(Frame::data).map_err(status)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }
}

/// A stream of messages in JSON.
struct StreamRequest {
    call: ConnectCall,
    /// `None` once it has ended.
    body: Option<Body>,
    messages: Deframer,
    max_bytes: usize,
}

impl StreamRequest {
    /// The messages that this part completes.
    fn receive(&mut self, part: &[u8]) -> Result<Bytes, ApiError> {
        self.messages.add(part);
        let mut converted = BytesMut::new();
        while let Some(envelope) = self.messages.next()? {
            let is_compressed = match envelope.flags {
                0 => false,
                COMPRESSED if self.call.0.is_compressed => true,
                COMPRESSED => return Err(malformed("a compressed message without connect-content-encoding")),
                _ => return Err(malformed("unknown flags of a message")),
            };
            let message = self.call.json_message(is_compressed, &envelope.message, self.max_bytes)?;
            put_framed(&mut converted, 0, &message);
        }
        Ok(converted.freeze())
    }
}

fn malformed(problem: &str) -> ApiError {
    ApiError::MalformedMessage(problem.to_owned())
}

impl http_body::Body for StreamRequest {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            let part = match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    self.body = None;
                    let is_broken = self.messages.is_inside_message();
                    return Poll::Ready(is_broken.then(|| Err(status(malformed("it ends inside a message")))));
                }
            };
            match self.receive(&part) {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => return Poll::Ready(Some(Ok(Frame::data(messages)))),
                Err(error) => {
                    self.body = None;
                    return Poll::Ready(Some(Err(status(error))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }
}

//! gRPC calls over HTTP/2 with headers of the test's own, and without the deadlines that client libraries apply themselves.

use std::net::SocketAddr;

use h2::client::SendRequest;
use http::request::Builder;
use http::{HeaderMap, Request, StatusCode};
use prost::Message;
use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tonic::Status;

use super::with_timeout;

/// One connection. Clones share it.
#[derive(Clone)]
pub struct H2Client {
    sender: SendRequest<Bytes>,
}

/// A complete answer.
pub struct H2Answer {
    pub http_status: StatusCode,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    pub body: Vec<u8>,
}

impl H2Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        // Calls are sent at once, not together with the next.
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends a request, and reads the whole answer.
    pub async fn call(&self, request: Builder, body: Vec<u8>) -> H2Answer {
        let answer = async {
            let request = request.body(()).unwrap();
            let mut sender = self.sender.clone().ready().await.unwrap();
            let (response, mut sending) = sender.send_request(request, false).unwrap();
            // Fails if the server has answered already.
            let _ = sending.send_data(body.into(), true);
            let (head, mut receiving) = response.await.unwrap().into_parts();
            let mut body = Vec::new();
            while let Some(part) = receiving.data().await {
                let part = part.unwrap();
                receiving.flow_control().release_capacity(part.len()).unwrap();
                body.extend_from_slice(&part);
            }
            let trailers = receiving.trailers().await.unwrap().unwrap_or_default();
            H2Answer { http_status: head.status, headers: head.headers, trailers, body }
        };
        with_timeout("an answer", answer).await
    }
}

impl H2Answer {
    /// The call's status.
    pub fn status(&self) -> Status {
        let status = [&self.headers, &self.trailers].into_iter().find_map(Status::from_header_map);
        status.unwrap_or_else(|| panic!("no gRPC status, HTTP {}: {:?}", self.http_status, self.headers))
    }

    /// A header, or an empty text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A call of a method, as gRPC's clients send it.
pub fn grpc_call(path: &str, token: Option<&str>) -> Builder {
    let request = Request::post(format!("http://localhost{path}")).header("te", "trailers");
    let request = request.header("content-type", "application/grpc");
    match token {
        Some(token) => request.header("authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// A message as it travels.
pub fn framed(message: &impl Message) -> Vec<u8> {
    with_prefix(0, &message.encode_to_vec())
}

/// Bytes with the prefix of a message: whether it is compressed, and its length.
pub fn with_prefix(is_compressed: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[is_compressed], &length[..], bytes].concat()
}

//! An HTTP client. It writes HTTP/1.1 by hand, so that tests control every byte and can send invalid requests.

use std::net::SocketAddr;

use http::{Request, Response, Version};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{Service, ServiceExt};

use super::with_timeout;

/// One persistent connection.
pub enum Http {
    One(BufReader<Box<dyn Stream>>),
    Two(Channel),
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for S {}

impl Http {
    /// Connects with HTTP/1.1.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::from_stream(TcpStream::connect(address).await.unwrap())
    }

    /// HTTP/1.1 on an existing stream.
    pub fn from_stream(stream: impl Stream + 'static) -> Self {
        Self::One(BufReader::new(Box::new(stream)))
    }

    /// Sends a request, and reads the whole response.
    pub async fn send(&mut self, request: Request<String>) -> Response<Vec<u8>> {
        let answer = async {
            match self {
                Self::One(stream) => {
                    stream.write_all(encode(&request).as_bytes()).await.unwrap();
                    read(stream).await
                }
                Self::Two(channel) => {
                    let response = channel.ready().await.unwrap().call(request.map(Body::new)).await.unwrap();
                    let (head, body) = response.into_parts();
                    Response::from_parts(head, body.collect().await.unwrap().to_bytes().to_vec())
                }
            }
        };
        with_timeout("an answer", answer).await
    }

    /// Sends bytes over HTTP/1.1, and reads until the server closes the connection.
    pub async fn send_raw(self, bytes: &[u8]) -> String {
        let Self::One(mut stream) = self else { panic!("send_raw needs HTTP/1.1") };
        stream.write_all(bytes).await.unwrap();
        let mut answer = String::new();
        with_timeout("the server to close", stream.read_to_string(&mut answer)).await.unwrap();
        answer
    }
}

fn encode(request: &Request<String>) -> String {
    let (method, target, body) = (request.method(), request.uri(), request.body());
    let mut text = format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in request.headers() {
        text += &format!("{name}: {}\r\n", value.to_str().unwrap());
    }
    text + "\r\n" + body
}

async fn read(stream: &mut BufReader<Box<dyn Stream>>) -> Response<Vec<u8>> {
    let line = line(stream).await;
    let status = line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{line:?}"));
    let mut response = Response::builder().version(Version::HTTP_11).status(&status[..3]);
    loop {
        let line = self::line(stream).await;
        match line.split_once(": ") {
            Some((name, value)) => response = response.header(name, value),
            None => break,
        }
    }
    let length = response.headers_ref().unwrap().get("content-length").map(|length| length.to_str().unwrap());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    response.body(body).unwrap()
}

async fn line(stream: &mut BufReader<Box<dyn Stream>>) -> String {
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    line.trim_end().to_owned()
}

/// The body of a response, which must be JSON.
pub fn json(response: &Response<Vec<u8>>) -> Value {
    assert_eq!(header(response, "content-type"), Some("application/json"), "{response:?}");
    serde_json::from_slice(response.body()).unwrap()
}

/// A header of a response.
pub fn header<'a>(response: &'a Response<Vec<u8>>, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

//! Answers that are given before the request was read: they reach a client of HTTP/1.1 that sends everything before it reads.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{TOGGLE, is_enabled, start};
use crate::support::{TOKEN, with_timeout};

/// More than the buffers of both sockets hold.
const BODY: usize = 7 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn early_answer_reaches_client_that_still_sends() {
    let (_database, server, mut admin, _) = start().await;
    let token = format!("authorization: Bearer {TOKEN}\r\n");
    for (content_type, authorization, status) in [
        ("application/grpc", &*token, "505"),
        ("text/plain", &token, "415"),
        ("application/json", "", "401"),
        ("application/json", &token, "429"),
    ] {
        for framing in
            [format!("content-length: {BODY}\r\n\r\n"), format!("transfer-encoding: chunked\r\n\r\n{BODY:x}\r\n")]
        {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            let head = format!(
                "POST {TOGGLE} HTTP/1.1\r\nhost: x\r\ncontent-type: {content_type}\r\n{authorization}{framing}"
            );
            let mut answer = Vec::new();
            let exchange = async {
                stream.write_all(head.as_bytes()).await.unwrap();
                for part in vec![b' '; BODY].chunks(64 << 10) {
                    stream.write_all(part).await.unwrap_or_else(|error| panic!("{content_type}: {error}"));
                }
                stream.read_to_end(&mut answer).await.unwrap_or_else(|error| panic!("{content_type}: {error}"));
            };
            with_timeout("the answer", exchange).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
            assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        }
    }
    assert!(!is_enabled(&mut admin, "a").await);
}

//! Limits of what a request may hold, before and after decompression, and compressed answers.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use toggled::api::pb::{GetFeatureFlagRequest, get_feature_flag_request};
use tonic::Code;

use super::{LIST, TOGGLE, WATCH, is_enabled, start};
use crate::support::h2_client::with_prefix;
use crate::support::hostile::HostileConnection;
use crate::support::web::{Envelopes, error_of, post};
use crate::support::{Backend, Database, Server, TOKEN, reason_of, with_timeout};

const MIB: usize = 1 << 20;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_requests_and_answers_are_understood() {
    let (_database, _server, mut admin, web) = start().await;
    for number in 0..40 {
        admin.create(&format!("flag-{number}")).await;
    }
    for web in web {
        let was_enabled = is_enabled(&mut admin, "a").await;
        let mut request = post(TOGGLE, "application/json", Some(TOKEN), gzip(br#"{"key":"a"}"#));
        request.headers_mut().insert("content-encoding", "gzip".parse().unwrap());
        let answer = web.send(request).await;
        assert_eq!(answer.status(), 200);
        assert_ne!(is_enabled(&mut admin, "a").await, was_enabled);
        for content_type in ["application/json", "application/proto"] {
            let message: &[u8] = if content_type.ends_with("json") { b"{}" } else { b"" };
            let plain = web.send(post(LIST, content_type, Some(TOKEN), message)).await;
            assert!(plain.headers().get("content-encoding").is_none());
            let mut request = post(LIST, content_type, Some(TOKEN), message);
            request.headers_mut().insert("accept-encoding", "br, gzip".parse().unwrap());
            let answer = web.send(request).await;
            assert_eq!(answer.headers()["content-encoding"], "gzip");
            let mut decompressed = Vec::new();
            GzDecoder::new(&**answer.body()).read_to_end(&mut decompressed).unwrap();
            assert_eq!(decompressed, *plain.body());
        }
        let mut request = post(WATCH, "application/connect+json", Some(TOKEN), with_prefix(1, &gzip(b"{}")));
        for name in ["connect-content-encoding", "connect-accept-encoding"] {
            request.headers_mut().insert(name, "gzip".parse().unwrap());
        }
        let response = web.open(request).await;
        assert_eq!(response.headers()["connect-content-encoding"], "gzip");
        let first = Envelopes::of(response).next().await.unwrap();
        assert_eq!(first.flags, 1);
        let mut text = String::new();
        GzDecoder::new(&*first.message).read_to_string(&mut text).unwrap();
        assert!(text.contains("flag-39"));
    }
}

/// Bodies that are never finished: what has arrived of them counts for the budget of bytes, as with gRPC.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unfinished_bodies_have_a_budget() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start_with(&database, &[("TOGGLED_MAX_BUFFERED_MIB", "16")]).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let before = server.resident_mib();
    let mut connection = HostileConnection::open(server.address, 65_535).await;
    let mut calls = FuturesUnordered::new();
    for _ in 0..6 {
        let mut call =
            connection.call_with(TOGGLE, Some(TOKEN), &[("content-type", "application/json")]).await.unwrap();
        call.send(vec![b' '; 4 * MIB - 1].into(), false).await;
        calls.push(call.headers());
    }
    // The bodies lack their ends, so the only answer is a refusal.
    let (headers, mut body) = calls.next().await.unwrap().unwrap();
    assert_eq!(headers["content-type"], "application/json");
    let error = body.data().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&error).contains("BUFFER_LIMIT"), "{error:?}");
    let after = server.resident_mib();
    assert!(after < before + 48, "{before} MiB before, {after} MiB after");
    drop(calls);
    // Once the server has seen that the calls are cancelled, the same caller is served again.
    let flag = Some(get_feature_flag_request::Flag::Key("a".to_owned()));
    let read = GetFeatureFlagRequest { flag, ..Default::default() };
    with_timeout("the budget to be free", async {
        while let Err(refused) = admin.toggle.get_feature_flag(read.clone()).await {
            assert_eq!(reason_of(&refused), "BUFFER_LIMIT");
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!is_enabled(&mut admin, "a").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_deep_requests_are_refused() {
    let (_database, server, mut admin, web) = start().await;
    let bomb = gzip(&vec![b' '; 64 * MIB]);
    let before = server.resident_mib();
    for web in web {
        let send = async |path: &str, content_type: &str, encoding: Option<&str>, body: Vec<u8>| {
            let mut request = post(path, content_type, Some(TOKEN), body);
            if let Some(encoding) = encoding {
                request.headers_mut().insert("content-encoding", encoding.parse().unwrap());
            }
            error_of(&web.send(request).await)
        };
        let resolve = "/flagd.evaluation.v2.Service/ResolveBoolean";
        let nested = format!(r#"{{"context":{{"a":{}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
        let many = format!(r#"{{"context":{{"a":[{}1]}}}}"#, "1,".repeat(100_000));
        let large = format!(r#"{{"key":"{}"}}"#, "x".repeat(5 * MIB));
        for (path, content_type, encoding, body) in [
            (TOGGLE, "application/json", None, large.clone().into_bytes()),
            (TOGGLE, "application/proto", None, large.into_bytes()),
            (TOGGLE, "application/json", Some("gzip"), bomb.clone()),
            (TOGGLE, "application/proto", Some("gzip"), bomb.clone()),
            (resolve, "application/json", None, nested.into_bytes()),
            (resolve, "application/json", None, many.into_bytes()),
        ] {
            let error = send(path, content_type, encoding, body).await;
            let found = (error.code(), reason_of(&error));
            assert_eq!(found, (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into()), "{path} {content_type}: {error}");
        }
        let mut request = post(WATCH, "application/connect+json", Some(TOKEN), with_prefix(1, &bomb));
        request.headers_mut().insert("connect-content-encoding", "gzip".parse().unwrap());
        let end = Envelopes::of(web.open(request).await).next().await.unwrap().end().unwrap();
        assert_eq!(end["error"]["code"], "resource_exhausted");
    }
    let after = server.resident_mib();
    assert!(after < before + 150, "{before} MiB before, {after} MiB after");
    assert!(!is_enabled(&mut admin, "a").await);
}

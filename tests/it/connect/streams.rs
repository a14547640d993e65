//! Streams over Connect and gRPC-Web.

use prost::Message;
use serde_json::json;
use toggled::api::pb::flagd::evaluation::v2::EventStreamResponse;
use toggled::api::pb::*;
use tonic::Code;

use super::{WATCH, start};
use crate::support::h2_client::with_prefix;
use crate::support::web::{Envelopes, post, status_of};
use crate::support::{TOKEN, reason_of};

const EVENTS: &str = "/flagd.evaluation.v2.Service/EventStream";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_in_json_shows_flips_and_ends_with_access() {
    let (_database, server, mut admin, web) = start().await;
    for (number, web) in web.into_iter().enumerate() {
        let secret = admin.new_user(&format!("u{number}@example.com"), &["view_feature_flags"]).await;
        let mut me = server.client(Some(&secret)).await;
        let token = me.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().token_id;
        let request = post(WATCH, "application/connect+json", Some(&secret), with_prefix(0, b"{}"));
        let response = web.open(request).await;
        assert_eq!(response.headers()["content-type"], "application/connect+json");
        let mut messages = Envelopes::of(response);
        assert_eq!(messages.next().await.unwrap().json()["featureFlags"][0]["key"], "a");
        let revision = admin.flip("a").await.revision;
        loop {
            let message = messages.next().await.unwrap().json();
            if message["revision"].as_str() == Some(&*revision.to_string()) {
                assert_eq!(message["featureFlags"][0]["revision"], revision.to_string());
                break;
            }
        }
        admin.access.revoke_token(RevokeTokenRequest { id: token, ..Default::default() }).await.unwrap();
        let end = loop {
            if let Some(end) = messages.next().await.unwrap().end() {
                break end;
            }
        };
        let status = status_of(&end["error"]).unwrap();
        assert_eq!((status.code(), &*reason_of(&status)), (Code::Unauthenticated, "UNAUTHENTICATED"));
        assert!(messages.next().await.is_none());
    }
}

/// As flagd's provider for Go reads it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_flagd_are_sent_in_protobuf() {
    let (_database, _server, mut admin, web) = start().await;
    for web in web {
        let mut request = post(EVENTS, "application/connect+proto", Some(TOKEN), with_prefix(0, b""));
        request.headers_mut().insert("connect-accept-encoding", "gzip".parse().unwrap());
        let mut messages = Envelopes::of(web.open(request).await);
        let mut next = async || {
            let envelope = messages.next().await.unwrap();
            assert_eq!(envelope.flags, 0);
            EventStreamResponse::decode(&*envelope.message).unwrap()
        };
        assert_eq!(next().await.r#type, "provider_ready");
        assert_eq!(next().await.r#type, "configuration_change");
        admin.flip("a").await;
        assert_eq!(next().await.r#type, "configuration_change");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_stream_is_its_end_alone() {
    let (_database, _server, mut admin, web) = start().await;
    let reader = admin.new_user("bob@example.com", &["view_audit_logs"]).await;
    for web in web {
        for (codec, message) in [("json", &b"{}"[..]), ("proto", b"")] {
            let content_type = format!("application/connect+{codec}");
            for (token, code) in [(None, Code::Unauthenticated), (Some(&*reader), Code::PermissionDenied)] {
                let response = web.open(post(WATCH, &content_type, token, with_prefix(0, message))).await;
                assert_eq!(
                    (response.status(), response.headers()["content-type"].to_str().unwrap()),
                    (http::StatusCode::OK, &*content_type)
                );
                assert!(!response.headers().keys().any(|name| name.as_str().starts_with("grpc-")));
                let mut messages = Envelopes::of(response);
                let end = messages.next().await.unwrap().end().unwrap();
                assert_eq!((status_of(&end["error"]).unwrap().code(), end.get("metadata")), (code, None));
                assert!(messages.next().await.is_none());
            }
            // The caller's own deadline.
            let mut request = post(WATCH, &content_type, Some(TOKEN), with_prefix(0, message));
            request.headers_mut().insert("connect-timeout-ms", "300".parse().unwrap());
            let mut messages = Envelopes::of(web.open(request).await);
            let end = loop {
                if let Some(end) = messages.next().await.unwrap().end() {
                    break end;
                }
            };
            assert_eq!(status_of(&end["error"]).unwrap().code(), Code::DeadlineExceeded);
        }
        // What a request must not be.
        for (body, problem) in [
            (with_prefix(0, br#"{"keyz":["a"]}"#), "keyz"),
            (with_prefix(2, b"{}"), "flags"),
            (with_prefix(1, b"{}"), "connect-content-encoding"),
            (with_prefix(0, b"{}").repeat(2), "more than one message"),
        ] {
            let mut messages =
                Envelopes::of(web.open(post(WATCH, "application/connect+json", Some(TOKEN), body)).await);
            let end = messages.next().await.unwrap().end().unwrap();
            assert_eq!(end["error"]["code"], json!("invalid_argument"), "{problem}");
            assert!(end["error"]["message"].as_str().unwrap().contains(problem), "{end}");
        }
    }
}

//! Calls with one message each way.

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::{Value, json};
use toggled::api::pb::*;
use tonic::Code;

use super::{GET, LIST, TOGGLE, is_enabled, start};
use crate::permission_matrix::authorized_code;
use crate::support::methods::{channel, methods};
use crate::support::web::{Dialect, Web, assert_same, empty_request, error_of, post};
use crate::support::{Database, Server};
use crate::support::{TOKEN, checkpoint_key, on_both_databases, reason_of};

fn body(response: &http::Response<Vec<u8>>) -> Value {
    assert_eq!(response.status(), 200, "{}", String::from_utf8_lossy(response.body()));
    assert_eq!(response.headers()["content-type"], "application/json");
    serde_json::from_slice(response.body()).unwrap()
}

on_both_databases! {
    async fn every_method_answers_in_json_and_protobuf(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start_with(&database, &[checkpoint_key()]).await;
        server.admin().await.create("a").await;
        let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
        let bearer = || format!("Bearer {TOKEN}").parse().unwrap();
        let channel = channel(&server).await;
        for method in methods() {
            let grpc = crate::support::methods::call(&channel, &method.path, [bearer()]).await;
            assert_eq!(grpc.as_ref().err().map_or(Code::Ok, |status| status.code()), authorized_code(&method.path));
            for web in Web::both(server.address) {
                for dialect in Dialect::ALL.into_iter().filter(|dialect| dialect.fits(&method)) {
                    let result = web.call(dialect, &method, [bearer()]).await;
                    assert_same(&result, &grpc, &format!("{} by {dialect:?}", method.path));
                }
                if method.is_streaming || grpc.is_err() {
                    continue;
                }
                // The same message in both encodings.
                let answer = async |dialect| {
                    let mut request = empty_request(dialect, &method);
                    request.headers_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
                    web.send(request).await.into_body()
                };
                let (service, name) = method.path[1..].split_once('/').unwrap();
                let service = pool.get_service_by_name(service).unwrap();
                let output = service.methods().find(|method| method.name() == name).unwrap().output();
                let text = answer(Dialect::ConnectJson).await;
                let mut text = serde_json::Deserializer::from_slice(&text);
                let from_json = DynamicMessage::deserialize(output.clone(), &mut text).unwrap();
                let from_proto = DynamicMessage::decode(output, &*answer(Dialect::ConnectProto).await).unwrap();
                if !["WhoAmI", "GetAuditCheckpoint"].contains(&name) {
                    assert_eq!(from_json, from_proto, "{}", method.path);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flip_by_json_is_the_flip_of_grpc() {
    let (_database, _server, mut admin, web) = start().await;
    for (number, web) in web.into_iter().enumerate() {
        let was_enabled = is_enabled(&mut admin, "a").await;
        let request = json!({"key": "a", "requestId": format!("r{number}"), "reason": "why"}).to_string();
        let answer = web.send(post(TOGGLE, "application/json", Some(TOKEN), request.clone())).await;
        let flipped = body(&answer);
        let expected = if was_enabled { "FEATURE_FLAG_STATUS_DISABLED" } else { "FEATURE_FLAG_STATUS_ENABLED" };
        assert_eq!(flipped["featureFlag"]["status"], expected);
        assert!(answer.headers().get("x-request-replayed").is_none());
        assert_ne!(is_enabled(&mut admin, "a").await, was_enabled);
        // A retry gets the first answer, by either encoding.
        let again = web.send(post(TOGGLE, "application/json; charset=utf-8", Some(TOKEN), request)).await;
        assert_eq!((body(&again), &again.headers()["x-request-replayed"]), (flipped.clone(), &"true".parse().unwrap()));
        let message = ToggleFeatureFlagRequest {
            request_id: Some(format!("r{number}")),
            reason: "why".into(),
            ..crate::support::toggle("a")
        };
        let again = web.send(post(TOGGLE, "application/proto", Some(TOKEN), message.encode_to_vec())).await;
        let replayed = ToggleFeatureFlagResponse::decode(&**again.body()).unwrap();
        assert_eq!(replayed.revision.to_string(), flipped["revision"].as_str().unwrap());
        let entry = admin.log().await.pop().unwrap();
        assert_eq!((entry.reason(), &*entry.method), ("why", "toggled.v1.ToggleService/ToggleFeatureFlag"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_json_is_refused_and_changes_nothing() {
    let (_database, _server, mut admin, web) = start().await;
    let flag = admin.get("a").await;
    for web in web {
        for (text, problem) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("null", "null"),
            ("[]", "expected"),
            (r#"{"key":"a"}{"key":"a"}"#, "trailing"),
            (r#"{"key":"a","reson":"x"}"#, "reson"),
            (r#"{"key":"a","id":"b"}"#, "flag"),
            (r#"{"key":1}"#, "integer"),
            (r#"{"key":"a","expectedRevision":"1e3"}"#, "invalid digit"),
            (r#"{"key":"a","expectedRevision":99999999999999999999}"#, "out of range"),
        ] {
            let answer = web.send(post(TOGGLE, "application/json", Some(TOKEN), text)).await;
            let error = error_of(&answer);
            assert_eq!((error.code(), &*reason_of(&error)), (Code::InvalidArgument, "MALFORMED"), "{text}: {error}");
            assert!(error.message().contains(problem), "{text}: {error}");
            // Who may not call learns nothing about it.
            let denied = error_of(&web.send(post(TOGGLE, "application/json", None, text)).await);
            assert_eq!(denied.code(), Code::Unauthenticated);
        }
        let malformed = web.send(post(TOGGLE, "application/proto", Some(TOKEN), vec![0xff; 9])).await;
        assert_eq!(reason_of(&error_of(&malformed)), "MALFORMED");
    }
    assert_eq!(admin.get("a").await, flag);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_change_in_json_is_recorded_with_its_object() {
    let (_database, _server, mut admin, web) = start().await;
    let flag = admin.get("a").await;
    let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    for web in web {
        let answer = web.send(post(TOGGLE, "application/json", Some(&secret), r#"{"key":"a"}"#)).await;
        let error = error_of(&answer);
        assert_eq!(error.message(), "Insufficient permissions: toggle_feature_flags required");
        let entry = admin.log().await.pop().unwrap();
        assert_eq!((&*entry.action_type, entry.entity_id()), ("access_denied", &*flag.id));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_of_a_call_is_checked() {
    let (_database, _server, mut admin, web) = start().await;
    let flag = admin.get("a").await;
    for web in web {
        let send = async |name: &'static str, value: &str| {
            let mut request = post(TOGGLE, "application/json", Some(TOKEN), r#"{"key":"a"}"#);
            request.headers_mut().insert(name, value.parse().unwrap());
            error_of(&web.send(request).await)
        };
        for (name, value, code, reason) in [
            ("connect-protocol-version", "2", Code::InvalidArgument, "MALFORMED"),
            ("connect-timeout-ms", "soon", Code::InvalidArgument, "MALFORMED"),
            ("connect-timeout-ms", "12345678901", Code::InvalidArgument, "MALFORMED"),
            ("connect-timeout-ms", "0", Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            ("content-encoding", "br", Code::Unimplemented, "UNSUPPORTED_ENCODING"),
        ] {
            let error = send(name, value).await;
            assert_eq!((error.code(), &*reason_of(&error)), (code, reason), "{name}: {value}: {error}");
        }
        let nothing = web.send(post("/toggled.v1.ToggleService/Nothing", "application/json", Some(TOKEN), "{}")).await;
        let error: Value = serde_json::from_slice(nothing.body()).unwrap();
        let found = (nothing.status().as_u16(), &error["code"], &error["details"][0]["debug"]["reason"]);
        assert_eq!(found, (404, &json!("unimplemented"), &json!("UNKNOWN_METHOD")));
        // A timeout that suffices, and the version.
        let mut request = post(LIST, "application/json", Some(TOKEN), "{}");
        for (name, value) in [("connect-timeout-ms", "9999999999"), ("connect-protocol-version", "1")] {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        assert_eq!(body(&web.send(request).await)["featureFlags"][0]["key"], "a");
    }
    assert_eq!(admin.get("a").await, flag);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unary_and_stream_methods_take_their_own_content_types() {
    let (_database, _server, _, web) = start().await;
    for web in web {
        for (path, content_type, accepted) in [
            (GET, "application/connect+json", "application/json, application/proto"),
            (super::WATCH, "application/json", "application/connect+json, application/connect+proto"),
        ] {
            let answer = web.send(post(path, content_type, Some(TOKEN), "{}")).await;
            assert_eq!((answer.status().as_u16(), answer.headers()["accept-post"].to_str().unwrap()), (415, accepted));
        }
        let answer = web.send(post(GET, "text/plain", Some(TOKEN), "{}")).await;
        assert_eq!(answer.status(), 415);
        assert!(answer.headers()["accept-post"].to_str().unwrap().contains("application/grpc-web"));
    }
}

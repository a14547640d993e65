//! What each path takes: methods and content types. All else is refused before the caller is known.

use http::{HeaderValue, StatusCode};
use toggled::api::pb::health::HealthCheckRequest;
use tonic::Code;

use crate::support::h2_client::{H2Answer, H2Client, framed, grpc_call};
use crate::support::{Backend, Database, Server, TOKEN, reason_of, toggle};

const TOGGLE: &str = "/toggled.v1.ToggleService/ToggleFeatureFlag";

/// Flips the flag `a` with these content types.
async fn flip(client: &H2Client, token: Option<&str>, content_types: &[&str]) -> H2Answer {
    let mut call = grpc_call(TOGGLE, token);
    let headers = call.headers_mut().unwrap();
    headers.remove("content-type");
    for value in content_types {
        headers.append("content-type", HeaderValue::from_str(value).unwrap());
    }
    client.call(call, framed(&toggle("a"))).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_content_types_are_refused_before_authentication() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let flag = admin.create("a").await;
    let client = H2Client::connect(server.address).await;
    let refused: [&[&str]; 8] = [
        &[],
        &[""],
        &["text/plain"],
        &["application/x-www-form-urlencoded"],
        &["multipart/form-data; boundary=application/grpc"],
        &["application/grpc-web-text"],
        &["application/grpcx"],
        &["application/grpc", "application/grpc"],
    ];
    for types in refused {
        for token in [Some(TOKEN), None] {
            let answer = flip(&client, token, types).await;
            assert_eq!(answer.http_status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{types:?}");
            assert!(!answer.headers.contains_key("grpc-status"), "{types:?}: a gRPC answer");
            assert!(String::from_utf8(answer.body).unwrap().contains("application/grpc"), "{types:?}");
        }
    }
    assert_eq!(admin.get("a").await, flag);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_codecs_get_a_grpc_status() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let flag = admin.create("a").await;
    let client = H2Client::connect(server.address).await;
    for codec in ["application/grpc+json", "application/grpc+thrift;x=y", "Application/GRPC+"] {
        let answer = flip(&client, None, &[codec]).await;
        assert_eq!((answer.http_status, answer.header("content-type")), (StatusCode::OK, "application/grpc"));
        let status = answer.status();
        assert_eq!((status.code(), &*reason_of(&status)), (Code::Unimplemented, "UNSUPPORTED_ENCODING"), "{codec}");
    }
    assert_eq!(admin.get("a").await, flag);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_type_of_grpc_is_recognized_in_all_its_forms() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    server.admin().await.create("a").await;
    let client = H2Client::connect(server.address).await;
    for form in
        ["application/grpc", "application/grpc+proto", "Application/gRPC;charset=utf-8", "application/grpc+PROTO ; x"]
    {
        assert_eq!(flip(&client, Some(TOKEN), &[form]).await.status().code(), Code::Ok, "{form}");
        assert_eq!(flip(&client, None, &[form]).await.status().code(), Code::Unauthenticated, "{form}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_are_refused_before_authentication() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let flag = admin.create("a").await;
    let client = H2Client::connect(server.address).await;
    let health = ("/grpc.health.v1.Health/Check", framed(&HealthCheckRequest::default()));
    for (path, body) in [(TOGGLE, framed(&toggle("a"))), health, ("/", Vec::new()), ("/nothing/at/all", Vec::new())] {
        for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "post"] {
            for token in [Some(TOKEN), None] {
                let answer = client.call(grpc_call(path, token).method(method), body.clone()).await;
                let (status, allow) = (answer.http_status, answer.header("allow"));
                assert_eq!((status, allow), (StatusCode::METHOD_NOT_ALLOWED, "POST"), "{method} {path}");
                assert!(!answer.headers.contains_key("grpc-status"), "{method} {path}: a gRPC answer");
            }
        }
    }
    assert_eq!(admin.get("a").await, flag);
}

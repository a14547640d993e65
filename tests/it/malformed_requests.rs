//! Random and malformed requests: each is answered, and never with an internal error.

use http::uri::PathAndQuery;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use prost::Message;
use prost::bytes::Bytes;
use toggled::api::pb::*;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::support::methods::{channel, methods};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::raw_codec::RawCodec;
use crate::support::{Backend, Database, Server, TOKEN, reason_of, with_timeout};

/// The number of random requests per method.
const CASES: u32 = 40;

/// Random bytes, or an encoded message with numbers, texts (some of them meaningful) and nested messages.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        Just("flag-1".to_owned()),
        Just("ann@example.com".to_owned()),
        Just("01890000-0000-7000-8000-000000000000".to_owned()),
        Just("\u{0}".to_owned()),
        any::<String>(),
    ];
    let value = prop_oneof![
        any::<u64>().prop_map(Value::Number),
        (0u64..5).prop_map(Value::Number),
        text.prop_map(|text| Value::Bytes(text.into_bytes())),
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Value::Bytes),
    ];
    let fields = value.prop_recursive(3, 30, 5, |inner| {
        proptest::collection::vec((1u32..16, inner), 0..6).prop_map(|fields| Value::Bytes(encode(&fields)))
    });
    let fields = proptest::collection::vec((1u32..16, fields), 0..6).prop_map(|fields| encode(&fields));
    prop_oneof![3 => fields, 1 => proptest::collection::vec(any::<u8>(), 0..200)]
}

#[derive(Debug, Clone)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

fn encode(fields: &[(u32, Value)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, value) in fields {
        match value {
            Value::Number(number) => prost::encoding::uint64::encode(*tag, number, &mut bytes),
            Value::Bytes(text) => prost::encoding::bytes::encode(*tag, text, &mut bytes),
        }
    }
    bytes
}

/// Calls a method with this message, or with an empty request stream.
async fn call(channel: &Channel, path: &str, message: Option<Vec<u8>>) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    with_timeout("the connection", grpc.ready()).await.unwrap();
    let mut request = Request::new(futures::stream::iter(message.map(Bytes::from)));
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let path = PathAndQuery::try_from(path).unwrap();
    let mut answer = with_timeout("an answer", grpc.streaming(request, path, RawCodec)).await?.into_inner();
    with_timeout("the first message", answer.message()).await.map(drop)
}

#[test]
fn random_requests_never_cause_internal_errors() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let database = runtime.block_on(Database::new(Backend::Sqlite));
    let server = runtime.block_on(Server::start(&database));
    for method in methods() {
        let channel = runtime.block_on(channel(&server));
        let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let result = runner.run(&message(), |message| {
            let answer = runtime.block_on(call(&channel, &method.path, Some(message)));
            let Err(status) = answer else { return Ok(()) };
            let server_errors =
                [Code::Unknown, Code::Internal, Code::DataLoss, Code::Unavailable, Code::Unauthenticated];
            prop_assert!(!server_errors.contains(&status.code()), "{:?}", status);
            prop_assert!(!reason_of(&status).is_empty(), "{:?}", status);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{}: {error}", method.path);
        }
    }
    runtime.block_on(async { server.admin().await.wait_until_authenticated().await });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_request_is_an_invalid_argument() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let channel = channel(&server).await;
    for method in methods() {
        // Field 1,000 with five bytes that are missing, and no message at all.
        for (message, text) in [(Some(vec![0xc2, 0x3e, 5]), "buffer underflow"), (None, "Missing request message")] {
            let refused = call(&channel, &method.path, message).await.unwrap_err();
            let error = (refused.code(), reason_of(&refused));
            assert_eq!(error, (Code::InvalidArgument, "MALFORMED".to_owned()), "{}: {refused}", method.path);
            assert!(refused.message().contains(text), "{}: {refused}", method.path);
        }
    }
}

/// A decoded request may be large until it is known to be valid, so nothing is awaited before. Here the database does not answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_request_is_refused_without_database() {
    let database = Database::new(Backend::Postgres).await;
    let proxy = PostgresProxy::new(&database).await;
    let server = Server::start(&proxy.database).await;
    let channel = channel(&server).await;
    server.admin().await.wait_until_authenticated().await;
    proxy.set(Link::Stalled);
    let id = "01890000-0000-7000-8000-000000000000".to_owned();
    // Each is valid but for one field.
    let revert = RevertFeatureFlagRequest { audit_log_id: id, reason: "r".repeat(3 << 20), ..Default::default() };
    let trim = TrimAuditLogsRequest {
        through_revision: 1,
        through_hash: vec![0; 32],
        reason: "r".repeat(3 << 20),
        ..Default::default()
    };
    let list = ListAuditLogsRequest { page_token: "t".repeat(3 << 20), ..Default::default() };
    let stream = StreamAuditLogsRequest { after_hash: Some(vec![0; 3 << 20]), ..Default::default() };
    let requests = [
        ("ToggleService/RevertFeatureFlag", revert.encode_to_vec()),
        ("AuditService/TrimAuditLogs", trim.encode_to_vec()),
        ("AuditService/ListAuditLogs", list.encode_to_vec()),
        ("AuditService/StreamAuditLogs", stream.encode_to_vec()),
    ];
    for (method, message) in requests {
        let refused = call(&channel, &format!("/toggled.v1.{method}"), Some(message)).await.unwrap_err();
        assert_eq!(
            (refused.code(), &*reason_of(&refused)),
            (Code::InvalidArgument, "INVALID_FIELD"),
            "{method}: {refused}"
        );
    }
}

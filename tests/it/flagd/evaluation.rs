//! Single evaluations.

use http::uri::PathAndQuery;
use prost::Message;
use prost_types::Struct;
use toggled::api::pb::flagd::evaluation::{v1, v2};
use toggled::api::pb::flagd::sync::v1 as sync;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::{configuration, flags};
use crate::support::methods::channel;
use crate::support::{Backend, Database, Server, TOKEN, reason_of, with_timeout};

const OTHER_TYPES: [&str; 4] = ["String", "Int", "Float", "Object"];

/// Calls a Resolve method. All of them have the same request fields.
async fn resolve(channel: &Channel, version: &str, kind: &str, key: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    with_timeout("the connection", grpc.ready()).await.unwrap();
    let mut request = Request::new(v1::ResolveBooleanRequest { flag_key: key.into(), context: Vec::new() });
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let path = PathAndQuery::try_from(format!("/flagd.evaluation.{version}.Service/Resolve{kind}")).unwrap();
    let codec = tonic_prost::ProstCodec::<v1::ResolveBooleanRequest, ()>::default();
    with_timeout("an answer", grpc.unary(request, path, codec)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boolean_flag_ignores_the_context() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let context = Some(Struct { fields: [("targetingKey".to_owned(), "ann".to_owned().into())].into() });
    for (on, variant) in [(false, "off"), (true, "on")] {
        let request = v1::ResolveBooleanRequest {
            flag_key: "a".into(),
            context: context.clone().unwrap_or_default().encode_to_vec(),
        };
        let answer = admin.evaluation_v1.resolve_boolean(request).await.unwrap().into_inner();
        let (reason, metadata) = ("STATIC".to_owned(), None);
        assert_eq!(answer, v1::ResolveBooleanResponse { value: on, variant: variant.into(), reason, metadata });
        let request = v2::ResolveBooleanRequest { flag_key: "a".into(), context: Vec::new() };
        let answer = admin.evaluation_v2.resolve_boolean(request).await.unwrap().into_inner();
        // The value is present even if it is false.
        let (value, variant, reason) = (Some(on), Some(variant.to_owned()), "STATIC".to_owned());
        assert_eq!(answer, v2::ResolveBooleanResponse { value, variant, reason, metadata: None });
        admin.flip("a").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_or_archived_key_is_not_found() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("archived").await;
    admin.archive("archived").await;
    let channel = channel(&server).await;
    for version in ["v1", "v2"] {
        for kind in OTHER_TYPES.into_iter().chain(["Boolean"]) {
            for key in
                ["unknown", "archived", "", "no key", "-x", "nul\0", "🦀", &"k".repeat(129), &"ä".repeat(100_000)]
            {
                let what = format!("Resolve{kind} {version} {:.20}", key);
                let status = resolve(&channel, version, kind, key).await.unwrap_err();
                assert_eq!((status.code(), reason_of(&status).as_str()), (Code::NotFound, "FLAG_NOT_FOUND"), "{what}");
                assert!(status.message().len() + status.details().len() < 4_096, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_another_type_is_an_invalid_argument() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    server.admin().await.create("a").await;
    let channel = channel(&server).await;
    for version in ["v1", "v2"] {
        for kind in OTHER_TYPES {
            let status = resolve(&channel, version, kind, "a").await.unwrap_err();
            let expected = (Code::InvalidArgument, "INVALID_FIELD");
            assert_eq!((status.code(), reason_of(&status).as_str()), expected, "{version} {kind}");
        }
        resolve(&channel, version, "Boolean", "a").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolve_all_leaves_out_archived_flags() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    for key in ["b", "c", "a"] {
        admin.create(key).await;
    }
    admin.flip("b").await;
    admin.archive("c").await;

    let all = admin.evaluation_v1.resolve_all(v1::ResolveAllRequest::default()).await.unwrap().into_inner();
    let any = |on, variant: &str| v1::AnyFlag {
        reason: "STATIC".into(),
        variant: variant.into(),
        metadata: None,
        value: Some(v1::any_flag::Value::BoolValue(on)),
    };
    assert_eq!(all.flags, [("a".to_owned(), any(false, "off")), ("b".to_owned(), any(true, "on"))].into());

    let fetched = admin.sync.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await.unwrap().into_inner();
    assert_eq!(flags(&fetched.flag_configuration), configuration([("a", false), ("b", true)]));
}

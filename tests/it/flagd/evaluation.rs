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
    let mut version = admin.create("a").await.revision;
    let context = Some(Struct { fields: [("targetingKey".to_owned(), "ann".to_owned().into())].into() });
    for (on, variant) in [(false, "off"), (true, "on")] {
        let request = v1::ResolveBooleanRequest {
            flag_key: "a".into(),
            context: context.clone().unwrap_or_default().encode_to_vec(),
        };
        let answer = admin.evaluation_v1.resolve_boolean(request).await.unwrap().into_inner();
        let reason = "STATIC".to_owned();
        let metadata = Some(metadata(version));
        let expected = v1::ResolveBooleanResponse {
            value: on,
            variant: variant.into(),
            reason: reason.clone(),
            metadata: metadata.clone(),
        };
        assert_eq!(answer, expected);
        let request = v2::ResolveBooleanRequest { flag_key: "a".into(), context: Vec::new() };
        let answer = admin.evaluation_v2.resolve_boolean(request).await.unwrap().into_inner();
        // The value is present even if it is false.
        let (value, variant) = (Some(on), Some(variant.to_owned()));
        assert_eq!(answer, v2::ResolveBooleanResponse { value, variant, reason, metadata });
        version = admin.flip("a").await.feature_flag.unwrap().revision;
    }
}

/// Clients take the default that their caller has passed, and report no error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archived_flag_is_disabled_as_any_type() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    admin.flip("a").await;
    let version = admin.archive("a").await.revision;
    let request = v1::ResolveBooleanRequest { flag_key: "a".into(), context: Vec::new() };
    let answer = admin.evaluation_v1.resolve_boolean(request).await.unwrap().into_inner();
    let (reason, metadata) = ("DISABLED".to_owned(), Some(metadata(version)));
    let expected = v1::ResolveBooleanResponse {
        value: false,
        variant: String::new(),
        reason: reason.clone(),
        metadata: metadata.clone(),
    };
    assert_eq!(answer, expected);
    let request = v2::ResolveBooleanRequest { flag_key: "a".into(), context: Vec::new() };
    let answer = admin.evaluation_v2.resolve_boolean(request).await.unwrap().into_inner();
    let (value, variant) = (None, None);
    assert_eq!(
        answer,
        v2::ResolveBooleanResponse { value, variant, reason: reason.clone(), metadata: metadata.clone() }
    );
    let request = v2::ResolveStringRequest { flag_key: "a".into(), context: Vec::new() };
    let answer = admin.evaluation_v2.resolve_string(request).await.unwrap().into_inner();
    assert_eq!(answer, v2::ResolveStringResponse { value: None, variant: None, reason, metadata });
    let channel = channel(&server).await;
    for version in ["v1", "v2"] {
        for kind in OTHER_TYPES {
            resolve(&channel, version, kind, "a").await.unwrap();
        }
    }
}

/// What answers say of the environment, when this revision has last changed one of its flags.
fn metadata(version: i64) -> Struct {
    let fields = [("flagSetId", "default".to_owned()), ("version", version.to_string())];
    Struct { fields: fields.map(|(name, text)| (name.to_owned(), text.into())).into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_key_is_not_found() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let channel = channel(&server).await;
    for version in ["v1", "v2"] {
        for kind in OTHER_TYPES.into_iter().chain(["Boolean"]) {
            for key in ["unknown", "", "no key", "-x", "nul\0", "🦀", &"k".repeat(129), &"ä".repeat(100_000)] {
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
async fn all_answers_show_archived_flags_as_disabled() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    for key in ["b", "c", "a"] {
        admin.create(key).await;
    }
    admin.flip("b").await;
    admin.archive("c").await;

    let all = admin.evaluation_v1.resolve_all(v1::ResolveAllRequest::default()).await.unwrap().into_inner();
    let any = |reason: &str, on: Option<bool>, variant: &str| v1::AnyFlag {
        reason: reason.into(),
        variant: variant.into(),
        metadata: None,
        value: on.map(v1::any_flag::Value::BoolValue),
    };
    let expected = [
        ("a", any("STATIC", Some(false), "off")),
        ("b", any("STATIC", Some(true), "on")),
        ("c", any("DISABLED", None, "")),
    ];
    assert_eq!(all.flags, expected.map(|(key, flag)| (key.to_owned(), flag)).into());

    let fetched = admin.sync.fetch_all_flags(sync::FetchAllFlagsRequest::default()).await.unwrap().into_inner();
    let expected = configuration([("a", false), ("b", true), ("c", false)]);
    let archived = expected.replace(r#""c":{"state":"ENABLED""#, r#""c":{"state":"DISABLED""#);
    assert_eq!(flags(&fetched.flag_configuration), archived);
}

/// grpc-java, as flagd's provider sets it, would retry until its deadline.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn permanent_errors_ask_for_no_retry() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    server.admin().await.create("a").await;
    let channel = channel(&server).await;
    let request = || v1::ResolveBooleanRequest { flag_key: "a".into(), context: Vec::new() };
    let unauthenticated = server.client(None).await.evaluation_v1.resolve_boolean(request()).await.unwrap_err();
    let mut stranger = server.client(Some("toggled_wrong")).await;
    let stream = stranger.sync.sync_flags(sync::SyncFlagsRequest::default()).await.unwrap_err();
    let refusals = [
        (Code::NotFound, resolve(&channel, "v1", "Boolean", "unknown").await.unwrap_err()),
        (Code::InvalidArgument, resolve(&channel, "v2", "String", "a").await.unwrap_err()),
        (Code::Unimplemented, resolve(&channel, "v2", "Nothing", "a").await.unwrap_err()),
        (Code::Unauthenticated, unauthenticated),
        (Code::Unauthenticated, stream),
    ];
    for (code, refusal) in refusals {
        let pushback = refusal.metadata().get("grpc-retry-pushback-ms").map(|value| value.as_bytes());
        assert_eq!((refusal.code(), pushback), (code, Some(&b"-1"[..])), "{refusal}");
    }
}

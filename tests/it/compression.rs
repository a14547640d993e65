//! Compressed requests: gzip is understood, within the limits of plain requests, and all else is refused with a reason.

use std::io::Write;

use flate2::write::GzEncoder;
use flate2::{Compress, Compression, FlushCompress};
use prost::Message;
use toggled::api::pb::health::HealthCheckRequest;
use toggled::api::pb::health::health_client::HealthClient;
use toggled::api::pb::toggle_service_client::ToggleServiceClient;
use toggled::api::pb::*;
use tonic::codec::CompressionEncoding;
use tonic::{Code, Request};

use crate::support::h2_client::{H2Client, grpc_call, with_prefix};
use crate::support::methods::{channel, methods};
use crate::support::{Backend, Database, Server, TOKEN, reason_of, toggle};

const TOGGLE: &str = "/toggled.v1.ToggleService/ToggleFeatureFlag";
const MIB: usize = 1024 * 1024;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Zeros, compressed a thousandfold. The end is missing: a server that reads so far has read too much.
fn bomb(mib: usize) -> Vec<u8> {
    let mut part = Vec::with_capacity(MIB);
    let mut compress = Compress::new(Compression::best(), false);
    compress.compress_vec(&vec![0; MIB], &mut part, FlushCompress::Sync).unwrap();
    assert_eq!(compress.total_in(), MIB as u64);
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    [header.to_vec(), part.repeat(mib)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gzip_requests_are_understood() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let mut client = ToggleServiceClient::new(channel(&server).await)
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip);
    let mut request = Request::new(toggle("a"));
    request.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
    let answer = client.toggle_feature_flag(request).await.unwrap();
    assert_eq!(answer.get_ref().feature_flag.as_ref().unwrap().status(), FeatureFlagStatus::Enabled);
    assert!(answer.metadata().get("grpc-encoding").is_none(), "the answer is compressed");
    let mut health = HealthClient::new(channel(&server).await).send_compressed(CompressionEncoding::Gzip);
    health.check(HealthCheckRequest { service: "toggled.v1.ToggleService".into() }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_hold_for_decompressed_bytes() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let client = H2Client::connect(server.address).await;
    let bomb = with_prefix(1, &bomb(256));
    assert!(bomb.len() < MIB);
    let before = server.resident_mib();
    let public = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"].map(str::to_owned);
    for path in methods().into_iter().map(|method| method.path).chain(public) {
        let call = grpc_call(&path, Some(TOKEN)).header("grpc-encoding", "gzip");
        let refused = client.call(call, bomb.clone()).await.status();
        let error = (refused.code(), reason_of(&refused));
        assert_eq!(error, (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into()), "{path}: {refused}");
    }
    let after = server.resident_mib();
    assert!(after < before + 100, "{before} MiB before, {after} MiB after");
    // The length of the compressed message alone is too large.
    let call = grpc_call(TOGGLE, Some(TOKEN)).header("grpc-encoding", "gzip");
    let refused = client.call(call, with_prefix(1, &vec![0; 5 * MIB])[..64].to_vec()).await.status();
    assert_eq!(reason_of(&refused), "MESSAGE_TOO_LARGE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_compression_is_refused_with_a_reason() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let flag = admin.create("a").await;
    let client = H2Client::connect(server.address).await;
    let message = toggle("a").encode_to_vec();
    for encoding in ["deflate", "zstd", "br", "GZIP", "gzip,gzip", ""] {
        let call = grpc_call(TOGGLE, Some(TOKEN)).header("grpc-encoding", encoding);
        let answer = client.call(call, with_prefix(1, &gzip(&message))).await;
        let refused = answer.status();
        let error = (refused.code(), reason_of(&refused));
        assert_eq!(error, (Code::Unimplemented, "UNSUPPORTED_ENCODING".into()), "{encoding}: {refused}");
        assert_eq!(answer.header("grpc-accept-encoding"), "gzip,identity", "{encoding}");
    }
    let malformed =
        [(Some("gzip"), &b"no gzip"[..]), (Some("gzip"), &[]), (None, &gzip(&message)), (Some("identity"), &message)];
    for (encoding, bytes) in malformed {
        let mut call = grpc_call(TOGGLE, Some(TOKEN));
        if let Some(encoding) = encoding {
            call = call.header("grpc-encoding", encoding);
        }
        let refused = client.call(call, with_prefix(1, bytes)).await.status();
        let error = (refused.code(), reason_of(&refused));
        assert_eq!(error, (Code::InvalidArgument, "MALFORMED".into()), "{encoding:?}: {refused}");
    }
    assert_eq!(admin.get("a").await, flag);
}

/// A refused change is read by the middleware, not by its service.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn denied_change_is_recorded_if_compressed() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let mut admin = server.admin().await;
    let flag = admin.create("a").await;
    let secret = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let client = H2Client::connect(server.address).await;
    for bytes in [gzip(&toggle("a").encode_to_vec()), bomb(8)] {
        let call = grpc_call(TOGGLE, Some(&secret)).header("grpc-encoding", "gzip");
        let denied = client.call(call, with_prefix(1, &bytes)).await.status();
        assert_eq!((denied.code(), &*reason_of(&denied)), (Code::PermissionDenied, "PERMISSION_DENIED"));
    }
    let log = admin.log().await;
    let denials = log.iter().filter(|entry| entry.action_type == "access_denied");
    let subjects: Vec<_> = denials.map(|entry| entry.entity_id().to_owned()).collect();
    assert_eq!(subjects, [flag.id, String::new()]);
}

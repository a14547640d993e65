//! Authentication by client certificate.

use std::time::{Duration, SystemTime};

use http::Request;
use toggled::api::pb::*;
use tonic::{Code, Status};

use crate::support::http::{Http, json};
use crate::support::tls::{Ca, Files, Identity, admin, client, connect_http1};
use crate::support::{Backend, Database, Server, invoke, read_until_error, toggle};

const CHECKOUT: &str = "spiffe://example.com/checkout";
const OTHER: &str = "spiffe://example.com/other";
const USERS: &str = "spiffe://example.com/checkout=checkout@example.com; spiffe://example.com/other=other@example.com";

struct TlsServer {
    server: Server,
    ca: Ca,
    _database: Database,
    _files: Files,
}

async fn start() -> TlsServer {
    let ca = Ca::new("ours");
    let files = Files::new(&ca.server(), Some(&ca));
    let database = Database::new(Backend::Sqlite).await;
    let mut server = Server::launch(
        &database.url,
        &[
            ("TOGGLED_TLS_CERTIFICATE", &files.path("server.pem")),
            ("TOGGLED_TLS_KEY", &files.path("server.key")),
            ("TOGGLED_CLIENT_CA", &files.path("clients.pem")),
            ("TOGGLED_CLIENT_CERTIFICATE_USER", USERS),
        ],
    )
    .await;
    server.ready().await;
    TlsServer { server, ca, _database: database, _files: files }
}

impl TlsServer {
    async fn call(&self, identity: &Identity, token: Option<&str>) -> Result<WhoAmIResponse, Status> {
        let mut client = client(self.server.address, &self.ca, Some(identity), token).await.unwrap();
        client.access.who_am_i(WhoAmIRequest {}).await.map(tonic::Response::into_inner)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_authenticates_the_mapped_user() {
    let setup = start().await;
    let checkout = setup.ca.client(CHECKOUT);
    let mut admin = admin(setup.server.address, &setup.ca, Some(&checkout)).await.unwrap();
    admin.create("a").await;
    let unauthenticated = |result: Result<WhoAmIResponse, Status>| {
        assert_eq!(result.unwrap_err().code(), Code::Unauthenticated);
    };
    // A certificate does not create a user.
    unauthenticated(setup.call(&checkout, None).await);
    let permissions = ["toggle_feature_flags", "view_audit_logs"];
    let secret = admin.new_user("checkout@example.com", &permissions).await;
    admin.new_user("other@example.com", &[]).await;

    let me = setup.call(&checkout, None).await.unwrap();
    assert_eq!((me.user.unwrap().email.as_str(), me.token_id.as_str()), ("checkout@example.com", ""));
    assert_eq!(me.permissions, permissions);
    let mut service = client(setup.server.address, &setup.ca, Some(&checkout), None).await.unwrap();
    let entry = service.toggle.toggle_feature_flag(toggle("a")).await.unwrap().into_inner().audit_log.unwrap();
    assert_eq!((entry.user_email.as_str(), entry.token_id), ("checkout@example.com", None));

    // A token takes precedence over the certificate, even an invalid one.
    assert_eq!(
        setup.call(&setup.ca.client(OTHER), Some(&secret)).await.unwrap().user.unwrap().email,
        "checkout@example.com"
    );
    unauthenticated(setup.call(&checkout, Some("an-unknown-token-that-was-never-issued")).await);
    unauthenticated(setup.call(&setup.ca.client("spiffe://example.com/unknown"), None).await);
    unauthenticated(setup.call(&setup.ca.client("spiffe://example.com/Checkout"), None).await);
    // A certificate that maps to two users is rejected.
    unauthenticated(setup.call(&setup.ca.client_until(&[CHECKOUT, OTHER], None), None).await);
    let with_others = setup.ca.client_until(&["spiffe://example.com/unknown", CHECKOUT], None);
    setup.call(&with_others, None).await.unwrap();
}

/// A ticket of a certificate's user for server-sent events.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticket_ends_with_the_user_of_its_certificate() {
    let setup = start().await;
    let (checkout, other) = (setup.ca.client(CHECKOUT), setup.ca.client(OTHER));
    let mut admin = admin(setup.server.address, &setup.ca, Some(&other)).await.unwrap();
    admin.new_user("checkout@example.com", &["view_feature_flags"]).await;
    let send = async |identity: &Identity, request: Request<String>| {
        let stream = connect_http1(setup.server.address, &setup.ca, identity).await.unwrap();
        Http::from_stream(stream).send(request).await
    };
    let bulk = Request::post("/ofrep/v1/evaluate/flags").header("content-type", "application/json");
    let bulk = json(&send(&checkout, bulk.body("{}".to_owned()).unwrap()).await);
    let uri = bulk["eventStreams"][0]["endpoint"]["requestUri"].as_str().unwrap();
    let status = async |identity: &Identity, uri: &str| {
        send(identity, Request::get(uri).body(String::new()).unwrap()).await.status().as_u16()
    };
    // The ticket counts, and no certificate.
    assert_eq!([status(&checkout, uri).await, status(&other, uri).await], [200, 200]);
    assert_eq!(status(&checkout, "/ofrep/v1/events").await, 204);
    let users = admin.access.list_users(ListUsersRequest::default()).await.unwrap().into_inner().users;
    let id = users.into_iter().find(|user| user.email == "checkout@example.com").unwrap().id;
    admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
    assert_eq!(status(&other, uri).await, 204);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_end_with_their_certificate_or_user() {
    let setup = start().await;
    let mut admin = admin(setup.server.address, &setup.ca, Some(&setup.ca.client(OTHER))).await.unwrap();
    admin.new_user("checkout@example.com", &["view_audit_logs"]).await;
    admin.new_user("other@example.com", &["view_audit_logs"]).await;
    let follow = StreamAuditLogsRequest { follow: true, ..Default::default() };

    let end = SystemTime::now() + Duration::from_secs(8);
    let expiring = setup.ca.client_until(&[CHECKOUT], Some(end));
    let mut expiring_client = client(setup.server.address, &setup.ca, Some(&expiring), None).await.unwrap();
    let mut other = client(setup.server.address, &setup.ca, Some(&setup.ca.client(OTHER)), None).await.unwrap();
    let mut expiring = expiring_client.audit.stream_audit_logs(follow.clone()).await.unwrap().into_inner();
    let mut kept = other.audit.stream_audit_logs(follow).await.unwrap().into_inner();
    let status = read_until_error(&mut expiring).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(expiring_client.access.who_am_i(WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);

    let id = other.access.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().user.unwrap().id;
    admin.access.deactivate_user(DeactivateUserRequest { id, ..Default::default() }).await.unwrap();
    let status = read_until_error(&mut kept).await;
    assert_eq!(status.code(), Code::Unauthenticated);
    assert_eq!(other.access.who_am_i(WhoAmIRequest {}).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn invalid_certificate_mapping_fails_the_start() {
    let two = format!("{CHECKOUT}=a@example.com;{CHECKOUT}=b@example.com");
    let files = [("TOGGLED_TLS_CERTIFICATE", "c"), ("TOGGLED_TLS_KEY", "k"), ("TOGGLED_CLIENT_CA", "a")];
    for (value, with_ca, expected) in [
        ("nothing", true, "NAME=EMAIL"),
        ("=a@example.com", true, "NAME=EMAIL"),
        ("name=nobody", true, "name@host"),
        (USERS, false, "--client-ca"),
        (two.as_str(), true, "two users"),
    ] {
        let mut settings = vec![("TOGGLED_CLIENT_CERTIFICATE_USER", value)];
        settings.extend(files.iter().filter(|_| with_ca));
        let output = invoke(&["serve"], &settings).await;
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{value}: {message}");
        assert!(message.contains(expected), "{value}: {message}");
    }
}

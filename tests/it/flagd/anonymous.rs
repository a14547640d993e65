//! Reads without credentials: off by default; a setting opens flagd's reads and nothing else.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

use crate::permission_matrix::authorized_code;
use crate::support::methods::{call, channel, methods};
use crate::support::{Backend, Database, Server, reason_of};

async fn start_with_anonymous_reads() -> (Database, Server) {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start_with(&database, &[("TOGGLED_ANONYMOUS_FLAGD_ENVIRONMENTS", "default")]).await;
    (database, server)
}

fn assert_unauthenticated(result: Result<(), Status>, what: &str) {
    let status = result.map(|()| panic!("{what}: accepted")).unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{what}");
}

#[test]
fn only_flagd_reads_can_be_anonymous() {
    let methods = methods();
    assert_eq!(methods.iter().filter(|method| method.anonymous_on_request).count(), 16);
    for method in methods {
        assert_eq!(method.anonymous_on_request, method.path.starts_with("/flagd."), "{}", method.path);
        assert!(!(method.anonymous_on_request && method.changes), "{}", method.path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setting_opens_flagd_reads_and_nothing_else() {
    let (_database, server) = start_with_anonymous_reads().await;
    let channel = channel(&server).await;
    for method in methods() {
        let result = call(&channel, &method.path, []).await;
        if method.path.starts_with("/flagd.") {
            assert_eq!(
                result.err().map_or(Code::Ok, |status| status.code()),
                authorized_code(&method.path),
                "{}",
                method.path
            );
        } else {
            assert_unauthenticated(result, &method.path);
        }
    }
    let elsewhere = [
        "/flagd.evaluation.v1.Service/Nothing",
        "/flagd.evaluation.v2.Service/ResolveAll",
        "/flagd.evaluation.v2.Service/ResolveBoolean/",
        "/flagd.sync.v1.FlagSyncService/",
        "/flagd.sync.v1.FlagSyncService/syncflags",
        "/flagd.sync.v1.FlagSyncService/../../toggled.v1.ToggleService/ListFeatureFlags",
        "//flagd.sync.v1.FlagSyncService/SyncFlags",
        "/toggled.v1.ToggleService/SyncFlags",
        "/schema.v1.Service/ResolveBoolean",
        "/",
    ];
    for path in elsewhere {
        assert_unauthenticated(call(&channel, path, []).await, path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_token_is_rejected_on_anonymous_methods() {
    let (_database, server) = start_with_anonymous_reads().await;
    let channel = channel(&server).await;
    let plain = |text: &str| text.parse::<MetadataValue<Ascii>>().unwrap();
    let secret = server.admin().await.new_user("nobody@example.com", &["view_audit_logs"]).await;
    for method in methods().into_iter().filter(|method| method.anonymous_on_request) {
        for wrong in [vec![plain("")], vec![plain("Bearer nobody-has-this-token")], vec![plain("Basic a"), plain("b")]]
        {
            assert_unauthenticated(call(&channel, &method.path, wrong).await, &method.path);
        }
        let status = call(&channel, &method.path, [plain(&format!("Bearer {secret}"))]).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{}", method.path);
    }
}

//! Who may read without credentials, and what: nobody anything, unless it is asked for, and then flagd's reads.

use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Status};

use crate::permission_matrix::due;
use crate::support::methods::{call, channel, methods};
use crate::support::{Backend, Database, Server, reason_of};

async fn open() -> (Database, Server) {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start_with(&database, &[("TOGGLED_ANONYMOUS_FLAGD_READS", "true")]).await;
    (database, server)
}

fn assert_unauthenticated(result: Result<(), Status>, what: &str) {
    let status = result.map(|()| panic!("{what}: let in")).unwrap_err();
    assert_eq!((status.code(), reason_of(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{what}");
}

#[test]
fn no_method_but_flagds_reads_can_be_opened() {
    let methods = methods();
    assert_eq!(methods.iter().filter(|method| method.anonymous_on_request).count(), 16);
    for method in methods {
        assert_eq!(method.anonymous_on_request, method.path.starts_with("/flagd."), "{}", method.path);
        assert!(!(method.anonymous_on_request && method.changes), "{}", method.path);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_request_flagds_reads_are_open_to_callers_without_credentials_and_nothing_else() {
    let (_database, server) = open().await;
    let channel = channel(&server).await;
    for method in methods() {
        let result = call(&channel, &method.path, []).await;
        if method.path.starts_with("/flagd.") {
            assert_eq!(result.err().map_or(Code::Ok, |status| status.code()), due(&method.path), "{}", method.path);
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
async fn a_token_that_does_not_work_is_refused_where_none_is_needed() {
    let (_database, server) = open().await;
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

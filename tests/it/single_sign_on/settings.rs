//! Settings of the single sign-on, and its keys at startup.

use crate::support::{Backend, Database, Issuer, Server, invoke, with_timeout};

use super::who_am_i;

/// Runs the program with these settings, which must fail. Returns the exit code and the one line on standard error.
async fn startup_error(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = invoke(&[], settings).await;
    assert!(output.stdout.is_empty());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.lines().count() == 1 && !stderr.contains("panicked"), "{stderr}");
    (output.status.code(), stderr)
}

#[tokio::test]
async fn invalid_settings_print_one_line_and_exit_with_2() {
    let complete = [
        ("TOGGLED_OIDC_ISSUER", "https://id.example.com"),
        ("TOGGLED_OIDC_AUDIENCE", "toggled"),
        ("TOGGLED_OIDC_JWKS", "https://id.example.com/keys"),
    ];
    for (missing, _) in complete {
        let settings: Vec<_> = complete.into_iter().filter(|(name, _)| *name != missing).collect();
        let (code, stderr) = startup_error(&settings).await;
        assert!(code == Some(2) && stderr.contains(missing), "{stderr}");
    }
    for (name, bad) in [
        ("TOGGLED_OIDC_JWKS", "http://id.example.com/keys"),
        ("TOGGLED_OIDC_ISSUER", ""),
        ("TOGGLED_OIDC_GROUP", "ops=everything"),
        ("TOGGLED_OIDC_GROUP", "ops=*;developers"),
        ("TOGGLED_OIDC_PERMISSIONS_CLAIM", ""),
        ("TOGGLED_OIDC_ENVIRONMENT_CLAIM", ""),
    ] {
        let mut settings = complete.to_vec();
        settings.push((name, bad));
        let (code, stderr) = startup_error(&settings).await;
        assert!(code == Some(2) && stderr.contains(name), "{stderr}");
    }
}

#[tokio::test]
async fn key_file_without_keys_prints_one_line() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("keys.json");
    let settings = [
        ("TOGGLED_OIDC_ISSUER", "https://id.example.com"),
        ("TOGGLED_OIDC_AUDIENCE", "toggled"),
        ("TOGGLED_OIDC_JWKS", path.to_str().unwrap()),
    ];
    for document in [None, Some("{}"), Some(r#"{"keys":[]}"#)] {
        if let Some(document) = document {
            std::fs::write(&path, document).unwrap();
        }
        let (code, stderr) = startup_error(&settings).await;
        assert!(code == Some(2) && stderr.contains("TOGGLED_OIDC_JWKS") && stderr.contains("keys.json"), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_can_be_read_from_a_file() {
    let (issuer, database) = (Issuer::start().await, Database::new(Backend::Sqlite).await);
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("keys.json");
    std::fs::write(&path, issuer.keys().to_string()).unwrap();
    let mut settings = issuer.settings();
    settings.push(("TOGGLED_OIDC_JWKS", path.to_str().unwrap()));
    let server = Server::start_with(&database, &settings).await;
    let token = issuer.token(&issuer.claims("sue@example.com", &["view_audit_logs"]));
    assert_eq!(who_am_i(&server, &token).await.unwrap().permissions, ["view_audit_logs"]);
    assert_eq!(issuer.key_requests(), 0);
}

/// The server trusts the issuer's certificate by `SSL_CERT_FILE`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_fetched_at_startup() {
    let issuer = Issuer::start().await;
    let database = Database::new(Backend::Sqlite).await;
    let mut server = Server::launch(&database.url, &issuer.settings()).await;
    server.ready().await;
    with_timeout("the keys to be fetched", issuer.wait_for_key_requests(1)).await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_starts_while_issuer_is_down() {
    let issuer = Issuer::start().await;
    issuer.stop().await;
    let database = Database::new(Backend::Sqlite).await;
    let mut server = Server::launch(&database.url, &issuer.settings()).await;
    server.ready().await;
    server.admin().await.create("a").await;
    assert!(server.terminate().await.success());
}

//! The single sign-on: its settings, and an issuer that comes and goes.

use crate::support::{Backend, Database, Issuer, Server, invoke, soon};

/// How the program ends with these settings, and what it says.
async fn refused(settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = invoke(&[], settings).await;
    assert!(output.stdout.is_empty());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.lines().count() == 1 && !told.contains("panicked"), "{told}");
    (output.status.code(), told)
}

#[tokio::test]
async fn a_wrong_sign_on_is_one_clear_line_and_status_64() {
    let whole = [
        ("TOGGLED_OIDC_ISSUER", "https://id.example.com"),
        ("TOGGLED_OIDC_AUDIENCE", "toggled"),
        ("TOGGLED_OIDC_JWKS", "https://id.example.com/keys"),
    ];
    for (missing, _) in whole {
        let settings: Vec<_> = whole.into_iter().filter(|(name, _)| *name != missing).collect();
        let (code, told) = refused(&settings).await;
        assert!(code == Some(64) && told.contains(missing), "{told}");
    }
    for (name, bad) in [
        ("TOGGLED_OIDC_JWKS", "http://id.example.com/keys"),
        ("TOGGLED_OIDC_ISSUER", ""),
        ("TOGGLED_OIDC_GROUP", "ops=everything"),
        ("TOGGLED_OIDC_GROUP", "ops=*;developers"),
        ("TOGGLED_OIDC_PERMISSIONS_CLAIM", ""),
    ] {
        let mut settings = whole.to_vec();
        settings.push((name, bad));
        let (code, told) = refused(&settings).await;
        assert!(code == Some(64) && told.contains(name), "{told}");
    }
}

#[tokio::test]
async fn a_file_without_keys_is_one_clear_line() {
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
        let (code, told) = refused(&settings).await;
        assert!(code == Some(1) && told.contains("TOGGLED_OIDC_JWKS") && told.contains("keys.json"), "{told}");
    }
}

/// The certificate's root comes by `SSL_CERT_FILE`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_are_fetched_when_the_server_starts() {
    let issuer = Issuer::start().await;
    let database = Database::new(Backend::Sqlite).await;
    let mut server = Server::launch(&database.url, &issuer.settings()).await;
    server.ready().await;
    soon("the keys to be fetched", issuer.served(1)).await;
    assert!(server.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_while_the_issuer_is_down() {
    let issuer = Issuer::start().await;
    issuer.stop().await;
    let database = Database::new(Backend::Sqlite).await;
    let mut server = Server::launch(&database.url, &issuer.settings()).await;
    server.ready().await;
    server.admin().await.create("a").await;
    assert!(server.terminate().await.success());
}

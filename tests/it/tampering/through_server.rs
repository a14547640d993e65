//! Manipulations of the log, verified through a server.

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use serde_json::Value;
use tempfile::TempDir;
use toggled::checkpoint::SigningKey;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use super::tampered_log::*;
use crate::cli::Shell;
use crate::support::{Server, on_both_databases};

on_both_databases! {
    async fn altered_log_is_detected_through_the_server(backend: Backend) {
        let (mut tampered, past) = TamperedLog::with_past(backend).await;
        let entries = tampered.entries().await;
        let server = Server::start(&tampered.database).await;
        // The setting of a server's database does not select the database to verify.
        let shell = Shell::new(server.address).with("TOGGLED_DATABASE_URL", "sqlite:///nowhere");
        let output = shell.succeeds(&["audit", "verify"]).await;
        let last = entries.len();
        assert!(output.starts_with(&format!("intact: entries {last}, revisions 1..{last} of log ")), "{output}");
        let [kept, end] = [&entries[FULL as usize - 1], entries.last().unwrap()].map(plain);
        for (argument, checkpoint, range) in [
            ("--since", &kept, format!("revisions {}..{last} ", FULL + 1)),
            ("--until", &kept, format!("revisions 1..{FULL} ")),
            ("--since", &end, "entries 0 of log".to_owned()),
            ("--until", &end, format!("revisions 1..{last} ")),
        ] {
            let output = shell.succeeds(&["audit", "verify", argument, checkpoint]).await;
            assert!(output.contains(&range), "{argument} {checkpoint}: {output}");
        }
        tampered.save().await;
        for (sql, revision, kind) in [
            (format!("UPDATE audit_logs SET reason = 'x' WHERE revision = {FULL}"), FULL, "altered"),
            (format!("DELETE FROM audit_logs WHERE revision = {FULL}"), FULL, "missing"),
            (format!("DELETE FROM audit_logs WHERE revision > {FULL}"), FULL + 1, "truncated"),
            // With an invalid entry, the server cannot send even the entries before it.
            (format!("UPDATE audit_logs SET hash_version = 300 WHERE revision = {FULL}"), FULL, "altered"),
            ("UPDATE audit_logs SET hash_version = 300 WHERE revision = 1".to_owned(), 1, "altered"),
            (
                format!(
                    "UPDATE audit_logs SET hash_version = 300 WHERE revision = {FULL};
                     UPDATE audit_logs SET reason = 'x' WHERE revision = {}",
                    FULL - 2
                ),
                FULL - 2,
                "altered",
            ),
        ] {
            tampered.raw.run(&sql).await;
            let output = shell.fails(&["audit", "verify"], 1).await;
            assert!(output.starts_with(&format!("toggled: not intact: revision {revision}: {kind}: ")), "{sql}: {output}");
            let (_, out, _) = shell.run(&["audit", "verify", "--output", "json"]).await;
            let output: Value = serde_json::from_str(&out).unwrap();
            assert_eq!((&output["first_bad_revision"], &output["problem"]), (&revision.into(), &kind.into()), "{sql}: {output}");
            tampered.undo().await;
        }
        tampered.raw.run(&format!("UPDATE audit_logs SET hash_version = 300 WHERE revision = {}", FULL + 1)).await;
        shell.succeeds(&["audit", "verify", "--until", &kept]).await;
        tampered.undo().await;
        let wrong = plain(&entries[FULL as usize]).replacen(&(FULL + 1).to_string(), &FULL.to_string(), 1);
        for argument in ["--since", "--until"] {
            let output = shell.fails(&["audit", "verify", argument, &wrong], 1).await;
            assert!(output.contains(&format!("revision {FULL}: forked: ")), "{argument}: {output}");
        }
        let older_server = Server::start(&past).await;
        let behind = last_revision(&past).await + 1;
        for argument in ["--since", "--until"] {
            let output = Shell::new(older_server.address).fails(&["audit", "verify", argument, &end], 1).await;
            assert!(output.contains(&format!("revision {behind}: truncated: ")), "{argument}: {output}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_result_is_available_as_json() {
    let mut tampered = TamperedLog::new(crate::support::Backend::Sqlite).await;
    let entries = tampered.entries().await;
    let server = Server::start(&tampered.database).await;
    let shell = Shell::new(server.address);
    let intact = shell.object(&["audit", "verify"]).await;
    let log_id = tampered.store().await.head().await.unwrap().log_id;
    let hash = plain(entries.last().unwrap()).split_once(':').unwrap().1.to_owned();
    let last = entries.len();
    let expected = serde_json::json!({
        "intact": true, "entries": last, "first_revision": 1, "last_revision": last, "log_id": log_id.to_string(), "hash": hash,
    });
    assert_eq!(intact, expected);

    let key = SigningKey::generate().unwrap();
    let (folder, id) = (TempDir::new().unwrap(), log_id);
    let signed = file(&folder, "note", &note(&key, id, entries.last().unwrap()));
    let (code, _, output) = shell.run(&["audit", "verify", "--until", &signed]).await;
    assert!(code == 0 && output.contains("not verified"), "{output}");
    shell.succeeds(&["audit", "verify", "--until", &signed, "--public-key", &key.verifier(id).to_string()]).await;

    tampered.raw.run(&format!("DELETE FROM audit_logs WHERE revision = {FULL}")).await;
    let (code, out, _) = shell.run(&["audit", "verify", "--output", "json"]).await;
    let output: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &output["intact"], &output["problem"]), (1, &Value::Bool(false), &"missing".into()));
    assert_eq!((&output["first_bad_revision"], &output["last_revision"]), (&FULL.into(), &(FULL - 1).into()));

    Shell::anonymous(server.address).fails(&["audit", "verify"], 4).await;
    Shell::new("127.0.0.1:1").fails(&["audit", "verify"], 6).await;
}

/// A server whose streams end at once without an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_stream_verifies_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = async |request: Request<Body>| match request.uri().path() {
        "/toggled.v1.AuditService/StreamAuditLogs" => Status::ok("").into_http::<tonic::body::Body>(),
        _ => Status::unimplemented("").into_http(),
    };
    let routes = Routes::from(Router::new().fallback(answer));
    tokio::spawn(
        tonic::transport::Server::builder().add_routes(routes).serve_with_incoming(TcpIncoming::from(listener)),
    );
    let checkpoint = format!("5:{}", "0".repeat(64));
    for range in [&[][..], &["--until", &checkpoint], &["--since", &checkpoint]] {
        let output = Shell::new(address).fails(&[&["audit", "verify"], range].concat(), 1).await;
        assert!(output.contains("nothing was verified"), "{range:?}: {output}");
    }
}

//! `toggled audit checkpoint`, as text and JSON.

use serde_json::json;
use tempfile::TempDir;
use toggled::checkpoint::{Note, VerifierKey};

use super::{Shell, server};
use crate::support::{Backend, Database, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_is_printed_as_signed() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    let log = admin.log().await;
    let shell = Shell::new(server.address);
    let object = shell.object(&["audit", "checkpoint"]).await;
    let names: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, ["hash", "key_id", "log_id", "note", "revision", "signature", "time", "verifier_keys"]);
    let keys = object["verifier_keys"].as_array().unwrap();
    let keys: Vec<_> = keys.iter().map(|key| VerifierKey::parse(key.as_str().unwrap()).unwrap()).collect();
    for revision in [None, Some("2")] {
        let more = revision.map(|revision| ["--revision", revision]).unwrap_or_default();
        let arguments = [&["audit", "checkpoint"][..], if revision.is_some() { &more } else { &[] }].concat();
        let printed = shell.succeeds(&arguments).await;
        let note = Note::parse(&printed).unwrap();
        assert_eq!(note.to_string(), printed, "byte for byte");
        assert_eq!(note.verify(&keys).unwrap().id().to_string(), object["key_id"]);
        let at = revision.map_or(4, |revision| revision.parse().unwrap());
        assert_eq!((note.checkpoint.revision, &note.checkpoint.hash[..]), (at, &log[at as usize - 1].hash[..]));
    }
    let note = Note::parse(object["note"].as_str().unwrap()).unwrap();
    assert_eq!((object["revision"].clone(), object["log_id"].clone()), (json!(4), json!(note.checkpoint.log_id)));
    assert!(shell.fails(&["audit", "checkpoint", "--revision", "0"], 2).await.contains("--revision"));
    assert!(shell.fails(&["audit", "checkpoint", "--revision", "5"], 2).await.contains("revision 5"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checkpoint_file_is_never_replaced() {
    let (server, _database) = server().await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("checkpoint.txt");
    let shell = Shell::new(server.address);
    let arguments = ["audit", "checkpoint", "--output-file", path.to_str().unwrap()];
    let (code, out, message) = shell.run(&arguments).await;
    assert_eq!((code, out.as_str()), (0, ""));
    let kept = std::fs::read_to_string(&path).unwrap();
    let note = Note::parse(&kept).unwrap();
    assert_eq!(note.to_string(), kept);
    assert!(message.contains("revision 3") && message.contains(&note.signature().unwrap().0.to_string()), "{message}");

    assert!(shell.fails(&arguments, 2).await.contains("the file exists already"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), kept);
    let nowhere = ["audit", "checkpoint", "--output-file", "/nowhere/at/all"];
    assert!(shell.fails(&nowhere, 2).await.contains("/nowhere/at/all"));
    // No file is left if the server does not sign.
    let (beyond, path) = (["--revision", "9"], folder.path().join("beyond.txt"));
    let arguments = [&["audit", "checkpoint", "--output-file", path.to_str().unwrap()], &beyond[..]].concat();
    shell.fails(&arguments, 2).await;
    assert!(!path.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_without_key_names_the_setting() {
    let database = Database::new(Backend::Postgres).await;
    let server = Server::start(&database).await;
    let message = Shell::new(server.address).fails(&["audit", "checkpoint"], 5).await;
    assert!(message.contains("--checkpoint-key-file"), "{message}");
}

//! Where the signing key comes from, and what happens when it is replaced.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;
use toggled::api::pb::*;
use toggled::checkpoint::SigningKey;
use tonic::Code;
use tonic_types::StatusExt;

use super::{assert_signed, every_ten, list, revisions, sign, wait_until_stored, write_to};
use crate::store::raw::Raw;
use crate::support::{Backend, CHECKPOINT_KEY, Database, Server, checkpoint_key, invoke, on_both_databases, reason_of};

/// The key file next to an SQLite database.
fn key_file(database: &Database) -> PathBuf {
    PathBuf::from(database.url.strip_prefix("sqlite://").unwrap()).with_file_name("toggled-checkpoint.key")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_is_created_next_to_sqlite_and_reused() {
    let database = Database::new(Backend::Sqlite).await;
    // Two servers that start at the same time use the same key.
    let (first, second) = tokio::join!(Server::start(&database), Server::start(&database));
    let path = key_file(&database);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let pem = std::fs::read_to_string(&path).unwrap();
    let mut signed = Vec::new();
    for server in [first, second] {
        signed.push(sign(&mut server.admin().await, None).await);
        server.terminate().await;
    }
    let server = Server::start(&database).await;
    signed.push(sign(&mut server.admin().await, None).await);
    let ids: Vec<_> = signed.iter().map(|signed| &signed.checkpoint.as_ref().unwrap().key_id).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!(signed[2].keys.len(), 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), pem);
    let left = std::fs::read_dir(path.parent().unwrap()).unwrap().map(|file| file.unwrap().file_name());
    assert!(
        left.into_iter().all(|name| !name.to_string_lossy().ends_with(".part")),
        "a temporary file was left behind"
    );
}

/// Starts a server and signs a checkpoint. Returns the log and the key id.
async fn logged_key(database: &Database, settings: &[(&str, &str)]) -> (String, String) {
    let (mut server, log) = Server::launch_with_log(&database.url, settings).await;
    server.ready().await;
    let signed = sign(&mut server.admin().await, None).await;
    server.terminate().await;
    (log.rest().await, signed.checkpoint.unwrap().key_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signing_key_and_its_creation_are_logged() {
    let database = Database::new(Backend::Sqlite).await;
    let (path, mut ids) = (key_file(&database), Vec::new());
    let file = path.to_str().unwrap();
    // The first start, the second, and a start after the key was deleted.
    for made in [true, false, true] {
        let (log, id) = logged_key(&database, &[]).await;
        assert_eq!(log.matches("checkpoint key created").count(), usize::from(made), "{log}");
        let line = log.lines().find(|line| line.contains("signed with this key")).unwrap();
        assert!(line.contains(&id) && line.contains(file), "{log}");
        assert!(!log.contains("chmod"), "{log}");
        assert_eq!(ids.last() == Some(&id), !made);
        if !made {
            std::fs::remove_file(&path).unwrap();
        }
        ids.push(id);
    }
    let (log, id) = logged_key(&database, &[checkpoint_key()]).await;
    let line = log.lines().find(|line| line.contains("signed with this key")).unwrap();
    assert!(line.contains(&id) && line.contains(checkpoint_key().1) && !log.contains(file), "{log}");
    assert!(!log.contains(CHECKPOINT_KEY.lines().nth(1).unwrap()), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_readable_by_others_is_warned_about() {
    let (database, folder) = (Database::new(Backend::Postgres).await, TempDir::new().unwrap());
    let path = folder.path().join("shared.key");
    std::fs::write(&path, CHECKPOINT_KEY).unwrap();
    let file = ("TOGGLED_CHECKPOINT_KEY_FILE", path.to_str().unwrap());
    for (mode, warned) in [(0o640, 1), (0o604, 1), (0o600, 0), (0o400, 0)] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let (log, _) = logged_key(&database, &[file]).await;
        assert_eq!(log.matches("restrict the file").count(), warned, "{mode:o}: {log}");
        assert!(warned == 0 || log.contains(file.1) && log.contains(&format!("{mode:o}")), "{log}");
        assert!(!log.contains(CHECKPOINT_KEY.lines().nth(1).unwrap()), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_key_fails_the_start_without_leaking() {
    let folder = TempDir::new().unwrap();
    let broken = folder.path().join("broken.key");
    let secret = CHECKPOINT_KEY.lines().nth(1).unwrap();
    std::fs::write(&broken, secret).unwrap();
    let broken = broken.to_str().unwrap();
    let url = format!("sqlite://{}/toggled.db", folder.path().display());
    let file = "TOGGLED_CHECKPOINT_KEY_FILE";
    for (settings, named) in [
        (vec![(file, broken)], "broken.key"),
        (vec![(file, "/nowhere/at/all.key")], "/nowhere/at/all.key"),
        (vec![("TOGGLED_CHECKPOINT_KEY", secret)], "TOGGLED_CHECKPOINT_KEY_FILE"),
        (vec![("TOGGLED_CHECKPOINT_INTERVAL", "0")], "--checkpoint-interval"),
    ] {
        let all = [&settings[..], &[("TOGGLED_DATABASE_URL", &url), ("TOGGLED_LISTEN", "127.0.0.1:0")]].concat();
        let output = invoke(&["serve"], &all).await;
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), message.lines().count()), (Some(2), 1), "{message}");
        assert!(message.contains(named) && !message.contains(secret), "{message}");
    }
    // A corrupted key file that the server had created itself.
    std::fs::write(folder.path().join("toggled-checkpoint.key"), secret).unwrap();
    let output = invoke(&["serve"], &[("TOGGLED_DATABASE_URL", &url), ("TOGGLED_LISTEN", "127.0.0.1:0")]).await;
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
    assert!(message.contains("toggled-checkpoint.key") && !message.contains(secret), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_without_a_key_signs_nothing() {
    let database = Database::new(Backend::Postgres).await;
    let settings = [("TOGGLED_CHECKPOINT_INTERVAL", "1")];
    let (mut server, mut log) = Server::launch_with_log(&database.url, &settings).await;
    log.wait_for_line("--checkpoint-key-file").await;
    server.ready().await;
    let mut admin = server.admin().await;
    write_to(&mut admin, 5).await;
    let error = admin.audit.get_audit_checkpoint(GetAuditCheckpointRequest::default()).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error).as_str()), (Code::FailedPrecondition, "NO_CHECKPOINT_KEY"));
    assert!(error.message().contains("--checkpoint-key-file"), "{error}");
    assert_eq!(list(&mut admin).await, ListAuditCheckpointsResponse::default());
}

on_both_databases! {
    /// An invalid key and an invalid checkpoint are inserted directly into the database.
    async fn invalid_rows_do_not_hide_valid_ones(backend: Backend) {
        let database = Database::new(backend).await;
        let (mut server, log) = Server::launch_with_log(&database.url, &every_ten()).await;
        server.ready().await;
        let mut admin = server.admin().await;
        write_to(&mut admin, 25).await;
        let (whole, mut raw) = (wait_until_stored(&mut admin, 2).await, Raw::connect(&database).await);
        raw.run("INSERT INTO checkpoint_keys SELECT 'no key at all', added_at FROM checkpoint_keys").await;
        assert_eq!(list(&mut admin).await, whole);
        assert_eq!(sign(&mut admin, None).await.keys, whole.keys);

        raw.run("INSERT INTO checkpoints (revision, note) VALUES (15, 'no checkpoint at all')").await;
        for from_revision in [None, Some(11), Some(15)] {
            let request = ListAuditCheckpointsRequest { from_revision, ..Default::default() };
            let error = admin.audit.list_audit_checkpoints(request).await.unwrap_err();
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::DataLoss, "LOG_CORRUPT"));
            assert_eq!(error.get_details_error_info().unwrap().metadata["first_bad_revision"], "15");
            assert!(error.message().contains("from_revision 16"), "{error}");
        }
        let request = ListAuditCheckpointsRequest { from_revision: Some(16), ..Default::default() };
        let rest = admin.audit.list_audit_checkpoints(request).await.unwrap().into_inner();
        assert_eq!((&rest.checkpoints[..], &rest.keys), (&whole.checkpoints[1..], &whole.keys));

        // The key is missing, as in a backup that is older than the key.
        raw.unguard().await;
        raw.run("DELETE FROM checkpoint_keys").await;
        for _ in 0..2 {
            let signed = sign(&mut admin, None).await;
            assert_eq!(signed.keys.len(), 1);
            assert_signed(&signed.checkpoint.unwrap(), &signed.keys);
        }
        server.terminate().await;
        let log_text = log.rest().await;
        assert_eq!(log_text.matches("no key at all").count(), 1, "logged once: {log_text}");
    }

    /// Each key has signed checkpoints.
    async fn old_checkpoints_verify_after_a_key_change(backend: Backend) {
        let (database, folder) = (Database::new(backend).await, TempDir::new().unwrap());
        let path = folder.path().join("first.key");
        std::fs::write(&path, SigningKey::generate().unwrap().to_pem()).unwrap();
        let file = ("TOGGLED_CHECKPOINT_KEY_FILE", path.to_str().unwrap());
        let server = Server::start_with(&database, &[file, every_ten()[1]]).await;
        let mut admin = server.admin().await;
        write_to(&mut admin, 15).await;
        let first = wait_until_stored(&mut admin, 1).await;
        assert_eq!(first.keys.len(), 1);
        server.terminate().await;

        let server = Server::start_with(&database, &every_ten()).await;
        let mut admin = server.admin().await;
        let signed = sign(&mut admin, None).await;
        assert_eq!(signed.keys.len(), 2, "the new key is listed before it has signed a stored checkpoint");
        assert_eq!(signed.keys[0], first.keys[0], "keys are listed oldest first");
        write_to(&mut admin, 25).await;
        let both = wait_until_stored(&mut admin, 2).await;
        assert_eq!((revisions(&both), &both.keys), (vec![10, 20], &signed.keys));
        assert_eq!(both.checkpoints[0], first.checkpoints[0]);
        for checkpoint in &both.checkpoints {
            assert_signed(checkpoint, &both.keys);
        }
        let ids: Vec<_> = both.checkpoints.iter().map(|checkpoint| &checkpoint.key_id).collect();
        assert_eq!(ids, both.keys.iter().map(|key| &key.key_id).collect::<Vec<_>>());
        if backend == Backend::Sqlite {
            assert!(!key_file(&database).exists(), "no key is created when one is configured");
        }
    }
}

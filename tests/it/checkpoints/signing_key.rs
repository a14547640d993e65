//! Where the key comes from, and what becomes of one that is replaced.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;
use toggled::api::pb::*;
use toggled::checkpoint::SigningKey;
use tonic::Code;
use tonic_types::StatusExt;

use super::{EVERY_TEN, assert_signed, list, revisions, sign, until_stored, write_to};
use crate::store::raw::Raw;
use crate::support::{Backend, CHECKPOINT_KEY, Database, Server, invoke, on_both_databases, reason_of};

/// The file beside a database that is one.
fn beside(database: &Database) -> PathBuf {
    PathBuf::from(database.url.strip_prefix("sqlite://").unwrap()).with_file_name("toggled-checkpoint.key")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_made_beside_a_file_and_used_from_then_on() {
    let database = Database::new(Backend::Sqlite).await;
    // Two that start at once end up with the same.
    let (first, second) = tokio::join!(Server::start(&database), Server::start(&database));
    let path = beside(&database);
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
    assert!(left.into_iter().all(|name| !name.to_string_lossy().ends_with(".part")), "nothing is left over");
}

/// What a server logs from its start until it says which key it signs with.
async fn told_of_key(database: &Database, settings: &[(&str, &str)]) -> (String, String) {
    let (mut server, log) = Server::launch_with_log(&database.url, settings).await;
    server.ready().await;
    let signed = sign(&mut server.admin().await, None).await;
    server.terminate().await;
    (log.rest().await, signed.checkpoint.unwrap().key_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_says_which_key_it_signs_with_and_when_it_made_one() {
    let database = Database::new(Backend::Sqlite).await;
    let (path, mut ids) = (beside(&database), Vec::new());
    let file = path.to_str().unwrap();
    // The first start, the second, and the one after the key was lost.
    for made in [true, false, true] {
        let (told, id) = told_of_key(&database, &[]).await;
        assert_eq!(told.matches("made a new key").count(), usize::from(made), "{told}");
        let line = told.lines().find(|line| line.contains("signed with this key")).unwrap();
        assert!(line.contains(&id) && line.contains(file), "{told}");
        assert!(!told.contains("chmod"), "{told}");
        assert_eq!(ids.last() == Some(&id), !made);
        if !made {
            std::fs::remove_file(&path).unwrap();
        }
        ids.push(id);
    }
    let (told, id) = told_of_key(&database, &[CHECKPOINT_KEY]).await;
    let line = told.lines().find(|line| line.contains("signed with this key")).unwrap();
    assert!(line.contains(&id) && line.contains("TOGGLED_CHECKPOINT_KEY") && !told.contains(file), "{told}");
    assert!(!told.contains(CHECKPOINT_KEY.1.lines().nth(1).unwrap()), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_others_may_read_is_warned_of() {
    let (database, folder) = (Database::new(Backend::Postgres).await, TempDir::new().unwrap());
    let path = folder.path().join("shared.key");
    std::fs::write(&path, CHECKPOINT_KEY.1).unwrap();
    let file = ("TOGGLED_CHECKPOINT_KEY_FILE", path.to_str().unwrap());
    for (mode, warned) in [(0o640, 1), (0o604, 1), (0o600, 0), (0o400, 0)] {
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        let (told, _) = told_of_key(&database, &[file]).await;
        assert_eq!(told.matches("chmod 600").count(), warned, "{mode:o}: {told}");
        assert!(warned == 0 || told.contains(file.1) && told.contains(&format!("{mode:o}")), "{told}");
        assert!(!told.contains(CHECKPOINT_KEY.1.lines().nth(1).unwrap()), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_of_no_use_stops_the_start_and_is_not_shown() {
    let folder = TempDir::new().unwrap();
    let (broken, whole) = (folder.path().join("broken.key"), folder.path().join("whole.key"));
    std::fs::write(&whole, CHECKPOINT_KEY.1).unwrap();
    let secret = CHECKPOINT_KEY.1.lines().nth(1).unwrap();
    std::fs::write(&broken, secret).unwrap();
    let (broken, whole) = (broken.to_str().unwrap(), whole.to_str().unwrap());
    let url = format!("sqlite://{}/toggled.db", folder.path().display());
    let file = "TOGGLED_CHECKPOINT_KEY_FILE";
    for (settings, named) in [
        (vec![(file, broken)], "broken.key"),
        (vec![(file, "/nowhere/at/all.key")], "/nowhere/at/all.key"),
        (vec![("TOGGLED_CHECKPOINT_KEY", secret)], "--checkpoint-key"),
        (vec![(file, whole), CHECKPOINT_KEY], "--checkpoint-key-file"),
        (vec![("TOGGLED_CHECKPOINT_INTERVAL", "0")], "--checkpoint-interval"),
    ] {
        let all = [&settings[..], &[("TOGGLED_DATABASE_URL", &url), ("TOGGLED_LISTEN", "127.0.0.1:0")]].concat();
        let output = invoke(&["serve"], &all).await;
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), told.lines().count()), (Some(2), 1), "{told}");
        assert!(told.contains(named) && !told.contains(secret), "{told}");
    }
    // The one that the server makes itself, once somebody has broken it.
    std::fs::write(folder.path().join("toggled-checkpoint.key"), secret).unwrap();
    let output = invoke(&["serve"], &[("TOGGLED_DATABASE_URL", &url), ("TOGGLED_LISTEN", "127.0.0.1:0")]).await;
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), told.lines().count()), (Some(1), 1), "{told}");
    assert!(told.contains("toggled-checkpoint.key") && !told.contains(secret), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_postgresql_nothing_is_signed_without_a_key() {
    let database = Database::new(Backend::Postgres).await;
    let settings = [("TOGGLED_CHECKPOINT_INTERVAL", "1")];
    let (mut server, mut log) = Server::launch_with_log(&database.url, &settings).await;
    log.wait_for_line("--checkpoint-key-file").await;
    server.ready().await;
    let mut admin = server.admin().await;
    write_to(&mut admin, 5).await;
    let told = admin.audit.get_audit_checkpoint(GetAuditCheckpointRequest::default()).await.unwrap_err();
    assert_eq!((told.code(), reason_of(&told).as_str()), (Code::FailedPrecondition, "NO_CHECKPOINT_KEY"));
    assert!(told.message().contains("--checkpoint-key-file"), "{told}");
    assert_eq!(list(&mut admin).await, ListAuditCheckpointsResponse::default());
}

on_both_databases! {
    /// Of the keys, and of the checkpoints, one that somebody has put there past the service.
    async fn what_cannot_be_read_does_not_hide_the_rest(backend: Backend) {
        let database = Database::new(backend).await;
        let (mut server, log) = Server::launch_with_log(&database.url, &EVERY_TEN).await;
        server.ready().await;
        let mut admin = server.admin().await;
        write_to(&mut admin, 25).await;
        let (whole, mut raw) = (until_stored(&mut admin, 2).await, Raw::connect(&database).await);
        raw.run("INSERT INTO checkpoint_keys SELECT 'no key at all', added_at FROM checkpoint_keys").await;
        assert_eq!(list(&mut admin).await, whole);
        assert_eq!(sign(&mut admin, None).await.keys, whole.keys);

        raw.run("INSERT INTO checkpoints (revision, note) VALUES (15, 'no checkpoint at all')").await;
        for from_revision in [None, Some(11), Some(15)] {
            let request = ListAuditCheckpointsRequest { from_revision, ..Default::default() };
            let told = admin.audit.list_audit_checkpoints(request).await.unwrap_err();
            assert_eq!((told.code(), reason_of(&told).as_str()), (Code::DataLoss, "LOG_CORRUPT"));
            assert_eq!(told.get_details_error_info().unwrap().metadata["first_bad_revision"], "15");
            assert!(told.message().contains("from_revision 16"), "{told}");
        }
        let request = ListAuditCheckpointsRequest { from_revision: Some(16), ..Default::default() };
        let rest = admin.audit.list_audit_checkpoints(request).await.unwrap().into_inner();
        assert_eq!((&rest.checkpoints[..], &rest.keys), (&whole.checkpoints[1..], &whole.keys));

        // As in a backup that is older than the key.
        raw.unguard().await;
        raw.run("DELETE FROM checkpoint_keys").await;
        for _ in 0..2 {
            let signed = sign(&mut admin, None).await;
            assert_eq!(signed.keys.len(), 1);
            assert_signed(&signed.checkpoint.unwrap(), &signed.keys);
        }
        server.terminate().await;
        let told = log.rest().await;
        assert_eq!(told.matches("no key at all").count(), 1, "told once: {told}");
    }

    /// Each of two keys, one given as a file and one by the environment, and what both have signed.
    async fn what_an_old_key_has_signed_can_be_verified_when_there_is_a_new_one(backend: Backend) {
        let (database, folder) = (Database::new(backend).await, TempDir::new().unwrap());
        let path = folder.path().join("first.key");
        std::fs::write(&path, SigningKey::generate().unwrap().to_pem()).unwrap();
        let file = ("TOGGLED_CHECKPOINT_KEY_FILE", path.to_str().unwrap());
        let server = Server::start_with(&database, &[file, EVERY_TEN[1]]).await;
        let mut admin = server.admin().await;
        write_to(&mut admin, 15).await;
        let first = until_stored(&mut admin, 1).await;
        assert_eq!(first.keys.len(), 1);
        server.terminate().await;

        let server = Server::start_with(&database, &EVERY_TEN).await;
        let mut admin = server.admin().await;
        let signed = sign(&mut admin, None).await;
        assert_eq!(signed.keys.len(), 2, "known before anything is stored");
        assert_eq!(signed.keys[0], first.keys[0], "the oldest first");
        write_to(&mut admin, 25).await;
        let both = until_stored(&mut admin, 2).await;
        assert_eq!((revisions(&both), &both.keys), (vec![10, 20], &signed.keys));
        assert_eq!(both.checkpoints[0], first.checkpoints[0]);
        for checkpoint in &both.checkpoints {
            assert_signed(checkpoint, &both.keys);
        }
        let ids: Vec<_> = both.checkpoints.iter().map(|checkpoint| &checkpoint.key_id).collect();
        assert_eq!(ids, both.keys.iter().map(|key| &key.key_id).collect::<Vec<_>>());
        if backend == Backend::Sqlite {
            assert!(!beside(&database).exists(), "none is made where one is given");
        }
    }
}

//! Signed checkpoints: when they are stored, how they are read, and that they verify.

mod signing_key;
mod startup_verification;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, UnparsedPublicKey};
use sha2::{Digest, Sha256};
use toggled::api::pb::*;
use toggled::checkpoint::{Note, VerifierKey};
use tonic::Code;
use tonic_types::StatusExt;

use crate::store::raw::Raw;
use crate::support::{Client, Database, Server, checkpoint_key, on_both_databases, reason_of, with_timeout};

/// Settings with a checkpoint every ten revisions.
fn every_ten() -> [(&'static str, &'static str); 2] {
    [checkpoint_key(), ("TOGGLED_CHECKPOINT_INTERVAL", "10")]
}

async fn sign(client: &mut Client, revision: Option<i64>) -> GetAuditCheckpointResponse {
    client.audit.get_audit_checkpoint(GetAuditCheckpointRequest { revision }).await.unwrap().into_inner()
}

async fn list(client: &mut Client) -> ListAuditCheckpointsResponse {
    client.audit.list_audit_checkpoints(ListAuditCheckpointsRequest::default()).await.unwrap().into_inner()
}

fn revisions(list: &ListAuditCheckpointsResponse) -> Vec<i64> {
    list.checkpoints.iter().map(|checkpoint| checkpoint.revision).collect()
}

/// Waits until at least `count` checkpoints are stored.
async fn wait_until_stored(client: &mut Client, count: usize) -> ListAuditCheckpointsResponse {
    with_timeout("checkpoints", async {
        loop {
            let list = list(client).await;
            if list.checkpoints.len() >= count {
                return list;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

/// Flips a flag until the log has reached a revision.
async fn write_to(client: &mut Client, revision: i64) {
    if client.log().await.iter().all(|entry| entry.entity_key != "a") {
        client.create("a").await;
    }
    while client.flip("a").await.revision < revision {}
}

/// Verifies a checkpoint by docs/audit-proof.md alone, and then with the library.
fn assert_signed(checkpoint: &AuditCheckpoint, keys: &[CheckpointKey]) {
    let AuditCheckpoint { log_id, revision, hash, key_id, signature, note, .. } = checkpoint;
    let (text, signatures) = note.split_once("\n\n").unwrap();
    let text = format!("{text}\n");
    let time = text.lines().nth(3).unwrap();
    assert_eq!(text, format!("toggled/{log_id}\n{revision}\n{}\n{time}\n", STANDARD.encode(hash)));
    let line = signatures.strip_prefix(&format!("\u{2014} toggled/{log_id} ")).unwrap();
    let signed = STANDARD.decode(line.strip_suffix('\n').unwrap()).unwrap();
    let hex = hex::encode(&signed[..4]);
    assert_eq!((&hex, &signed[4..]), (key_id, &signature[..]));

    let key = keys.iter().find(|key| key.key_id == *key_id).unwrap();
    let [name, id, key] = key.verifier_key.splitn(3, '+').collect::<Vec<_>>()[..] else { panic!("{key:?}") };
    let key = STANDARD.decode(key).unwrap();
    let computed = Sha256::digest([name.as_bytes(), b"\n\x01", &key[1..]].concat());
    assert_eq!((&computed[..4], id, key[0]), (&signed[..4], hex.as_str(), 1));
    UnparsedPublicKey::new(&ED25519, &key[1..]).verify(text.as_bytes(), signature).unwrap();

    let keys: Vec<_> = keys.iter().map(|key| VerifierKey::parse(&key.verifier_key).unwrap()).collect();
    let read = Note::parse(note).unwrap();
    assert_eq!(read.verify(&keys).unwrap().id().to_string(), *key_id);
    assert_eq!((read.checkpoint.revision, &read.checkpoint.hash[..]), (*revision, &hash[..]));
}

on_both_databases! {
    /// This includes revisions inside a batch. Two servers sign, and each checkpoint is stored once.
    async fn checkpoint_is_stored_at_each_interval(backend: Backend) {
        let database = Database::new(backend).await;
        let here = Server::start_with(&database, &every_ten()).await;
        let there = Server::start_with(&database, &every_ten()).await;
        let (mut admin, mut other) = (here.admin().await, there.admin().await);
        let keys: Vec<String> = (0..35).map(|number| format!("flag-{number}")).collect();
        for key in &keys {
            admin.create(key).await;
        }
        let item = |key: &String| BatchSetItem {
            flag: Some(batch_set_item::Flag::Key(key.clone())),
            status: FeatureFlagStatus::Enabled.into(),
            ..Default::default()
        };
        let batch = BatchSetFeatureFlagsRequest { items: keys.iter().map(item).collect(), ..Default::default() };
        let at = other.toggle.batch_set_feature_flags(batch).await.unwrap().into_inner().revision;
        write_to(&mut admin, at + 30).await;
        let log = admin.log().await;
        let due: Vec<i64> = (1..=log.len() as i64 / 10).map(|number| number * 10).collect();
        let stored = wait_until_stored(&mut other, due.len()).await;
        assert_eq!(revisions(&stored), due);
        for checkpoint in &stored.checkpoints {
            assert_signed(checkpoint, &stored.keys);
            assert_eq!(checkpoint.hash, log[checkpoint.revision as usize - 1].hash);
        }
        assert_eq!(stored.keys.len(), 1);
    }

    /// A server that starts later stores the newest checkpoint that is due, and then all that follow.
    async fn start_stores_the_newest_missing_checkpoint(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start_with(&database, &[checkpoint_key()]).await;
        write_to(&mut server.admin().await, 25).await;
        server.terminate().await;
        let server = Server::start_with(&database, &every_ten()).await;
        let mut admin = server.admin().await;
        assert_eq!(revisions(&wait_until_stored(&mut admin, 1).await), [20]);
        write_to(&mut admin, 40).await;
        assert_eq!(revisions(&wait_until_stored(&mut admin, 3).await), [20, 30, 40]);
    }

    async fn failed_checkpoint_is_stored_later(backend: Backend) {
        let database = Database::new(backend).await;
        let (mut server, mut log) = Server::launch_with_log(&database.url, &every_ten()).await;
        server.ready().await;
        let (mut admin, mut raw) = (server.admin().await, Raw::connect(&database).await);
        raw.run("ALTER TABLE checkpoints RENAME TO elsewhere").await;
        write_to(&mut admin, 35).await;
        log.wait_for_line("checkpoint not stored").await;
        raw.run("ALTER TABLE elsewhere RENAME TO checkpoints").await;
        assert_eq!(revisions(&wait_until_stored(&mut admin, 3).await), [10, 20, 30]);
        server.terminate().await;
        assert!(!log.rest().await.contains("checkpoint not stored"), "the failure is logged once");
    }

    async fn any_revision_in_the_log_can_be_signed(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start_with(&database, &[checkpoint_key()]).await;
        let mut admin = server.admin().await;
        write_to(&mut admin, 8).await;
        let log = admin.log().await;
        for revision in [None, Some(1), Some(5), Some(8)] {
            let signed = sign(&mut admin, revision).await;
            let checkpoint = signed.checkpoint.unwrap();
            assert_signed(&checkpoint, &signed.keys);
            assert_eq!(checkpoint.revision, revision.unwrap_or(8));
            assert_eq!(checkpoint.hash, log[checkpoint.revision as usize - 1].hash);
        }
        for (revision, code, reason) in [
            (0, Code::InvalidArgument, "INVALID_FIELD"),
            (-1, Code::InvalidArgument, "INVALID_FIELD"),
            (9, Code::OutOfRange, "CURSOR_IN_FUTURE"),
        ] {
            let request = GetAuditCheckpointRequest { revision: Some(revision) };
            let error = admin.audit.get_audit_checkpoint(request).await.unwrap_err();
            assert_eq!((error.code(), reason_of(&error).as_str()), (code, reason));
        }
    }

    /// The revision just before the oldest entry can still be signed. Checkpoints of removed entries are kept.
    async fn trimmed_log_keeps_its_checkpoints(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start_with(&database, &every_ten()).await;
        let mut admin = server.admin().await;
        write_to(&mut admin, 25).await;
        let (log, before) = (admin.log().await, wait_until_stored(&mut admin, 2).await);
        let through_hash = log[14].hash.clone();
        let request = TrimAuditLogsRequest { through_revision: 15, through_hash, ..Default::default() };
        admin.audit.trim_audit_logs(request).await.unwrap();
        server.terminate().await;

        for all in ["false", "true"] {
            let settings = [&every_ten()[..], &[("TOGGLED_VERIFY_ON_START", all)]].concat();
            let server = Server::start_with(&database, &settings).await;
            let mut admin = server.admin().await;
            assert_eq!(list(&mut admin).await.checkpoints, before.checkpoints);
            for revision in [15, 16, 25] {
                let signed = sign(&mut admin, Some(revision)).await;
                assert_signed(signed.checkpoint.as_ref().unwrap(), &signed.keys);
                assert_eq!(signed.checkpoint.unwrap().hash, log[revision as usize - 1].hash);
            }
            let request = GetAuditCheckpointRequest { revision: Some(14) };
            let error = admin.audit.get_audit_checkpoint(request).await.unwrap_err();
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::OutOfRange, "CURSOR_TOO_OLD"));
            assert_eq!(error.get_details_error_info().unwrap().metadata["oldest_revision"], "16");
            server.terminate().await;
        }
    }

    async fn checkpoint_list_is_paged(backend: Backend) {
        let database = Database::new(backend).await;
        let settings = [checkpoint_key(), ("TOGGLED_CHECKPOINT_INTERVAL", "1")];
        let server = Server::start_with(&database, &settings).await;
        let mut admin = server.admin().await;
        write_to(&mut admin, 105).await;
        let all = with_timeout("the last checkpoints", async {
            loop {
                let request = ListAuditCheckpointsRequest { page_size: 1_000, ..Default::default() };
                let list = admin.audit.list_audit_checkpoints(request).await.unwrap().into_inner();
                if revisions(&list).ends_with(&[105]) {
                    return list;
                }
            }
        })
        .await;
        // The first start writes several revisions at once, and signs the newest of them.
        let oldest = revisions(&all)[0];
        assert!(oldest <= 3, "{oldest}");
        assert_eq!(revisions(&all), (oldest..=105).collect::<Vec<_>>());
        assert_eq!((list(&mut admin).await.checkpoints.len(), all.next_page_token.as_str()), (100, ""));
        for (from_revision, page_size, first) in
            [(None, 0, oldest), (Some(0), 7, oldest), (Some(50), 56, 50), (Some(105), 1, 105)]
        {
            let mut request = ListAuditCheckpointsRequest { page_size, from_revision, ..Default::default() };
            let mut seen = Vec::new();
            loop {
                let page = admin.audit.list_audit_checkpoints(request.clone()).await.unwrap().into_inner();
                seen.extend(revisions(&page));
                request.page_token = page.next_page_token;
                if request.page_token.is_empty() {
                    break;
                }
            }
            assert_eq!(seen, (first..=105).collect::<Vec<_>>(), "{from_revision:?} {page_size}");
        }
        let token = ListAuditCheckpointsRequest { page_size: 1, ..Default::default() };
        let token = admin.audit.list_audit_checkpoints(token).await.unwrap().into_inner().next_page_token;
        for (page_size, from_revision, page_token) in
            [(-1, None, ""), (1_001, None, ""), (0, Some(-1), ""), (0, None, "nonsense"), (0, Some(2), &token)]
        {
            let request = ListAuditCheckpointsRequest { page_size, from_revision, page_token: page_token.into() };
            let error = admin.audit.list_audit_checkpoints(request).await.unwrap_err();
            assert_eq!(error.code(), Code::InvalidArgument, "{page_size} {from_revision:?} {page_token}");
        }
    }
}

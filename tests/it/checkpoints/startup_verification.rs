//! A server refuses to start on a log that was tampered with. A running server reports corrupt entries to readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use toggled::api::pb::*;
use toggled::checkpoint::{Note, SigningKey};
use tonic::Code;
use tonic_types::StatusExt;

use super::{every_ten, wait_until_stored, write_to};
use crate::store::raw::Raw;
use crate::store::retention::trim;
use crate::store::world::{World, create, service, toggle};
use crate::support::postgres_proxy::{Link, PostgresProxy};
use crate::support::{
    Backend, CHECKPOINT_KEY, Database, Server, checkpoint_key, invoke, on_both_databases, reason_of, with_timeout,
};

/// A database with 25 entries and two checkpoints, without a server, and a connection that bypasses its triggers.
async fn unguarded_log(backend: Backend) -> (Database, Raw) {
    let database = Database::new(backend).await;
    let server = Server::start_with(&database, &every_ten()).await;
    let mut admin = server.admin().await;
    write_to(&mut admin, 25).await;
    wait_until_stored(&mut admin, 2).await;
    server.terminate().await;
    let mut raw = Raw::connect(&database).await;
    raw.unguard().await;
    (database, raw)
}

/// The reason with which a server refuses to start.
async fn refusal(database: &Database, more: &[(&str, &str)]) -> String {
    let own =
        [("TOGGLED_DATABASE_URL", database.url.as_str()), ("TOGGLED_LISTEN", "127.0.0.1:0"), ("TOGGLED_LOG", "error")];
    let output = invoke(&["serve"], &[&own, &every_ten()[..], more].concat()).await;
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
    assert!(!String::from_utf8(output.stdout).unwrap().contains("ready"));
    let message = message.strip_prefix("toggled: DATA_LOSS: the audit log is not intact: ").unwrap().trim_end();
    let (what, advice) = message.split_once("; not serving; run toggled audit verify --database ").unwrap();
    assert!(!advice.is_empty());
    what.to_owned()
}

async fn assert_starts(database: &Database) {
    assert!(Server::start_with(database, &every_ten()).await.terminate().await.success());
}

/// A log with this many entries and no checkpoint.
async fn long_log(backend: Backend, entries: i64) -> World {
    let mut setup = World::new(backend).await;
    setup.commit(&[service(create("a"))]).await;
    setup.lengthen(service(toggle("a")), entries).await;
    setup
}

const ALTERED: &str = "altered: the entry's hash does not match its content and the hash of the entry before it";

on_both_databases! {
    async fn altered_entry_is_found(backend: Backend) {
        let (database, mut raw) = unguarded_log(backend).await;
        assert_starts(&database).await;
        raw.run("UPDATE audit_logs SET user_email = 'nobody@example.com' WHERE revision = 23").await;
        assert_eq!(refusal(&database, &[]).await, format!("revision 23: {ALTERED}"));
        raw.run("UPDATE audit_logs SET user_email = 'admin@localhost' WHERE revision = 23").await;
        assert_starts(&database).await;
        // An entry that cannot be decoded.
        raw.run("UPDATE audit_logs SET hash_version = 300 WHERE revision = 22").await;
        assert_eq!(refusal(&database, &[]).await, format!("revision 22: {ALTERED}"));
    }

    /// Entries before the last checkpoint are verified only on request.
    async fn entry_altered_before_the_checkpoint_is_found(backend: Backend) {
        let (database, mut raw) = unguarded_log(backend).await;
        raw.run("UPDATE audit_logs SET reason = 'why not' WHERE revision = 4").await;
        assert_starts(&database).await;
        let all = [("TOGGLED_VERIFY_ON_START", "true")];
        assert_eq!(refusal(&database, &all).await, format!("revision 4: {ALTERED}"));
        raw.run("DELETE FROM audit_logs WHERE revision = 4").await;
        assert_eq!(refusal(&database, &all).await, "revision 4: missing: the next entry is at revision 5");
    }

    async fn moved_head_is_found(backend: Backend) {
        let (database, mut raw) = unguarded_log(backend).await;
        raw.run("UPDATE log_head SET revision = 24").await;
        let forked = "forked: the hash differs from the one in the head of the log";
        assert_eq!(refusal(&database, &[]).await, format!("revision 24: {forked}"));
        raw.run("UPDATE log_head SET revision = 27").await;
        let expected = "revision 26: truncated: the log ends at revision 25, but the head of the log is at revision 27";
        assert_eq!(refusal(&database, &[]).await, expected);
        let hash = raw.hash(7);
        raw.run(&format!("UPDATE log_head SET revision = 25, hash = {hash}")).await;
        assert_eq!(refusal(&database, &[]).await, format!("revision 25: {forked}"));
        raw.run("UPDATE log_head SET hash = (SELECT hash FROM audit_logs WHERE revision = 25)").await;
        assert_starts(&database).await;
    }

    async fn deleted_end_of_the_log_is_found(backend: Backend) {
        let (database, mut raw) = unguarded_log(backend).await;
        raw.run("DELETE FROM audit_logs WHERE revision > 22").await;
        let expected = "revision 23: truncated: the log ends at revision 22, but the head of the log is at revision 25";
        assert_eq!(refusal(&database, &[]).await, expected);
        // The same with a head that matches the shortened log.
        raw.run("DELETE FROM audit_logs WHERE revision > 17").await;
        let cut = "UPDATE log_head SET revision = 17, hash = (SELECT hash FROM audit_logs WHERE revision = 17)";
        raw.run(cut).await;
        let expected = "revision 18: truncated: the log ends at revision 17, but the checkpoint stored with the log is at revision 20";
        assert_eq!(refusal(&database, &[]).await, expected);
    }

    async fn deleted_start_of_the_log_is_found(backend: Backend) {
        let (database, mut raw) = unguarded_log(backend).await;
        let hash = "(SELECT hash FROM audit_logs WHERE revision = 4)";
        raw.run(&format!("UPDATE log_head SET floor = 4, floor_hash = {hash}")).await;
        raw.run("DELETE FROM audit_logs WHERE revision <= 4").await;
        let expected = "revision 4: missing: the log starts at revision 5, and no log_trimmed entry confirms the hash before it";
        assert_eq!(refusal(&database, &[]).await, expected);
    }

    /// The stored hash still matches the checkpoint; the other columns do not match the hash.
    async fn altered_entry_at_the_checkpoint_is_found(backend: Backend) {
        let (database, mut raw) = unguarded_log(backend).await;
        raw.run("UPDATE audit_logs SET reason = 'why not' WHERE revision = 20").await;
        assert_eq!(refusal(&database, &[]).await, format!("revision 20: {ALTERED}"));
    }

    async fn entry_past_the_head_is_found(backend: Backend) {
        let (database, mut raw) = unguarded_log(backend).await;
        let columns = "timestamp, user_email, action_type, entity_type, entity_key, entity_name, method, hash_version, hash";
        let id = raw.id(uuid::Uuid::now_v7());
        let sql = format!(
            "INSERT INTO audit_logs (id, revision, {columns}) SELECT {id}, 26, {columns} FROM audit_logs WHERE revision = 2"
        );
        raw.run(&sql).await;
        assert_eq!(refusal(&database, &[]).await, "revision 26: inserted: the entry is not part of the chain");
    }

    async fn forged_checkpoint_is_found(backend: Backend) {
        let (database, mut raw) = unguarded_log(backend).await;
        let own = SigningKey::from_pem(CHECKPOINT_KEY.as_bytes()).unwrap();
        let text = raw.texts("SELECT note FROM checkpoints WHERE revision = 20").await.remove(0);
        let checkpoint = Note::parse(&text).unwrap().checkpoint;
        let (mut other_hash, mut other_log, mut other_revision) = (checkpoint, checkpoint, checkpoint);
        other_hash.hash = [7; 32];
        other_log.log_id = uuid::Uuid::nil();
        other_revision.revision = 19;
        let nil = uuid::Uuid::nil();
        for (forged, why) in [
            ("hello".to_owned(), "not a signed checkpoint of a toggled log".to_owned()),
            (SigningKey::generate().unwrap().sign(checkpoint).to_string(), "not signed by any of the known keys".into()),
            (own.sign(other_log).to_string(), "not signed by any of the known keys".into()),
            (own.sign(other_revision).to_string(), format!("signed for revision 19 of log {}", checkpoint.log_id)),
            (text.replace("\ntime 2", "\ntime 3"), format!("the signature of key {} does not match the checkpoint",
                own.verifier(checkpoint.log_id).id())),
        ] {
            raw.run(&format!("UPDATE checkpoints SET note = '{}' WHERE revision = 20", forged.replace('\'', "''"))).await;
            let message = refusal(&database, &[]).await;
            assert_eq!(message, format!("revision 20: forged: the checkpoint is not authentic: {why}"));
        }
        raw.run(&format!("UPDATE checkpoints SET note = '{}' WHERE revision = 20", own.sign(other_hash))).await;
        let expected = "revision 20: forked: the hash differs from the one in the checkpoint stored with the log";
        assert_eq!(refusal(&database, &[]).await, expected);
        // A checkpoint of another log, signed with a listed key.
        let listed = own.verifier(nil);
        raw.run(&format!("INSERT INTO checkpoint_keys SELECT '{listed}', added_at FROM checkpoint_keys")).await;
        raw.run(&format!("UPDATE checkpoints SET note = '{}' WHERE revision = 20", own.sign(other_log))).await;
        let this = checkpoint.log_id;
        let expected = format!("revision 20: forked: the checkpoint belongs to log {nil}, and this is log {this}");
        assert_eq!(refusal(&database, &[]).await, expected);
        raw.run(&format!("UPDATE checkpoints SET note = '{text}' WHERE revision = 20")).await;
        assert_starts(&database).await;
    }

    /// Other servers keep writing while one starts.
    async fn log_that_grows_during_the_check_is_accepted(backend: Backend) {
        let database = Database::new(backend).await;
        let settings = [checkpoint_key(), ("TOGGLED_CHECKPOINT_INTERVAL", "1"), ("TOGGLED_VERIFY_ON_START", "true")];
        let server = Server::start_with(&database, &settings).await;
        let mut admin = server.admin().await;
        admin.create("a").await;
        let (reached, stop) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let (grows, stopped) = (Arc::clone(&reached), Arc::clone(&stop));
        let writing = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                grows.store(admin.flip("a").await.revision, Ordering::Relaxed);
            }
        });
        for _ in 0..3 {
            let before = reached.load(Ordering::Relaxed);
            let other = Server::start_with(&database, &settings).await;
            assert!(reached.load(Ordering::Relaxed) > before, "the log did not grow during the start");
            other.terminate().await;
        }
        stop.store(true, Ordering::Relaxed);
        writing.await.unwrap();
    }

    /// Without a checkpoint, and unless all entries are requested, the last 10,000 entries are verified.
    async fn verification_covers_the_last_10_000_entries(backend: Backend) {
        let mut setup = long_log(backend, 10_020).await;
        setup.raw.unguard().await;
        setup.raw.run("UPDATE audit_logs SET reason = 'why not' WHERE revision = 21").await;
        assert_eq!(refusal(&setup.database, &[]).await, format!("revision 21: {ALTERED}"));
        setup.raw.run("UPDATE audit_logs SET reason = NULL WHERE revision = 21").await;
        setup.raw.run("UPDATE audit_logs SET reason = 'why not' WHERE revision = 20").await;
        // Without a key, so that this start signs nothing either.
        assert!(Server::start(&setup.database).await.terminate().await.success());
        let all = [("TOGGLED_VERIFY_ON_START", "true")];
        assert_eq!(refusal(&setup.database, &all).await, format!("revision 20: {ALTERED}"));
    }

    async fn reading_a_corrupt_entry_returns_data_loss(backend: Backend) {
        let database = Database::new(backend).await;
        let (mut server, mut log) = Server::launch_with_log(&database.url, &every_ten()).await;
        server.ready().await;
        let mut admin = server.admin().await;
        write_to(&mut admin, 7).await;
        let id = admin.log().await[4].id.clone();
        let mut raw = Raw::connect(&database).await;
        raw.unguard().await;
        raw.run("UPDATE audit_logs SET hash_version = 300 WHERE revision = 5").await;
        let listed = admin.audit.list_audit_logs(ListAuditLogsRequest::default()).await.map(drop);
        let read = admin.audit.get_audit_log(GetAuditLogRequest { id }).await.map(drop);
        let mut stream = admin.audit.stream_audit_logs(StreamAuditLogsRequest::default()).await.unwrap().into_inner();
        let streamed = with_timeout("the end of the stream", stream.message()).await.map(drop);
        for answer in [listed, read, streamed] {
            let error = answer.unwrap_err();
            assert_eq!((error.code(), reason_of(&error).as_str()), (Code::DataLoss, "LOG_CORRUPT"), "{error}");
            assert_eq!(error.get_details_error_info().unwrap().metadata["first_bad_revision"], "5");
            assert!(!error.message().contains("hash_version"), "{error}");
            log.wait_for_line("hash_version of row 5").await;
        }
        // Other calls are served.
        admin.flip("a").await;
    }
}

/// Another server trims the entries that are being verified. The verification starts again with the remaining ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_trimmed_during_the_check_is_accepted() {
    let mut setup = long_log(Backend::Postgres, 2_600).await;
    let proxy = PostgresProxy::new(&setup.database).await;
    // This stalls within the second page of 1,000 entries. The first rows are a few flags and users.
    proxy.stall_after(1_500);
    let mut server = Server::launch(&proxy.database.url, &[]).await;
    proxy.wait_until_stalled().await;
    trim(&mut setup, 2_500).await;
    proxy.set(Link::Open);
    server.ready().await;
    assert!(server.terminate().await.success());
}

//! `audit export`: writes all entries, and continues an interrupted export.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;
use toggled::api::pb::*;
use toggled::domain::audit::{Action, EntityType, Entry};
use toggled::domain::hash::{GENESIS, entry_hash};
use toggled::domain::hex::hex_digits;
use toggled::domain::time::Timestamp;
use uuid::Uuid;

use super::export::odd_flags;
use super::{Shell, server};
use crate::audit::environments;
use crate::support::tcp_proxy::{Route, TcpProxy};
use crate::support::{BOOTSTRAP_ENTRIES, Backend, Database, Server, on_both_databases};

/// Exports the log to this file; returns the summary.
async fn audit_export(shell: &Shell, path: &str, arguments: &[&str]) -> String {
    let (code, out, message) = shell.run(&[&["audit", "export", "--output-file", path], arguments].concat()).await;
    assert_eq!((code, out.as_str()), (0, ""), "{message}");
    message
}

/// Positions in the middle of lines, quoted fields and characters, around line ends, and others.
fn cuts(whole: &[u8]) -> BTreeSet<usize> {
    let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
    let around = ends.flat_map(|at| [at.saturating_sub(1), at, at + 1, at + 2]);
    let wide = whole.iter().position(|byte| !byte.is_ascii()).unwrap();
    around.chain((0..whole.len()).step_by(211)).chain([1, 5, wide + 1]).filter(|cut| *cut <= whole.len()).collect()
}

on_both_databases! {
    async fn cut_export_is_continued(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let shell = Shell::new(server.address);
        let mut admin = server.admin().await;
        odd_flags(&mut admin).await;
        let folder = TempDir::new().unwrap();
        for format in ["ndjson", "csv"] {
            let path = folder.path().join(format).display().to_string();
            let message = audit_export(&shell, &path, &["--format", format]).await;
            let entries = admin.log().await.len();
            assert!(message.starts_with(&format!("entries {entries}, revisions 1..{entries} of log ")), "{message}");
            let whole = fs::read(&path).unwrap();
            let (_, out, _) = shell.run(&["audit", "export", "--format", format]).await;
            assert_eq!(out.as_bytes(), whole, "to standard output it is the same");
            // The file is the same with both databases, so with PostgreSQL a few cuts will do.
            let every = if backend == Backend::Sqlite { 1 } else { 10 };
            for cut in cuts(&whole).into_iter().step_by(every) {
                fs::write(&path, &whole[..cut]).unwrap();
                assert_eq!(audit_export(&shell, &path, &["--format", format]).await, message, "{format} cut at {cut}");
                assert_eq!(fs::read(&path).unwrap(), whole, "{format} cut at {cut}");
            }
            admin.flip("plain").await;
            audit_export(&shell, &path, &["--format", format]).await;
            let longer = fs::read(&path).unwrap();
            assert!(longer.starts_with(&whole) && longer.len() > whole.len(), "what comes later is added");
        }
    }

    async fn export_to_mismatched_file_changes_nothing(backend: Backend) {
        let [one, other] = [Database::new(backend).await, Database::new(backend).await];
        let [one, other] = [Server::start(&one).await, Server::start(&other).await];
        let folder = TempDir::new().unwrap();
        for (format, foreign) in [("ndjson", "csv"), ("csv", "ndjson")] {
            let path = folder.path().join(format).display().to_string();
            let export = ["audit", "export", "--format", format, "--output-file", &path];
            let shell = Shell::new(one.address);
            let message = audit_export(&shell, &path, &["--format", format]).await;
            let whole = fs::read_to_string(&path).unwrap();
            let cut = &whole[..whole.len() - 7];
            fs::write(&path, cut).unwrap();
            let refused = Shell::new(other.address).fails(&export, 5).await;
            assert!(refused.contains("another log"), "{refused}");
            assert_eq!(fs::read_to_string(&path).unwrap(), cut);

            // The same log with another hash, as after a restore from a backup.
            let hash = message.trim_end().rsplit(':').next().unwrap();
            let altered = whole.replace(hash, &hash.chars().rev().collect::<String>());
            fs::write(&path, &altered).unwrap();
            assert!(shell.fails(&export, 5).await.contains("restored from a backup"));
            assert_eq!(fs::read_to_string(&path).unwrap(), altered);

            if format == "csv" {
                let (head, rest) = whole.split_once('\n').unwrap();
                for newer in [",environment", ",reverts,environment"] {
                    fs::write(&path, format!("{}\n{rest}", head.strip_suffix(newer).unwrap())).unwrap();
                    let message = shell.fails(&export, 2).await;
                    assert!(message.contains("an older version wrote it") && message.contains("name another file"), "{message}");
                }
            }
            fs::write(&path, &whole).unwrap();
            let wrong = ["audit", "export", "--format", foreign, "--output-file", &path];
            assert!(shell.fails(&wrong, 2).await.contains("line 1"));
            fs::write(&path, format!("{whole}7\n")).unwrap();
            assert!(shell.fails(&export, 2).await.contains("that audit export wrote"));
            assert_eq!(fs::read_to_string(&path).unwrap(), format!("{whole}7\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn second_export_to_same_file_is_refused() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log").display().to_string();
    audit_export(&shell, &path, &[]).await;
    let whole = fs::read(&path).unwrap();
    let file = fs::File::open(&path).unwrap();
    file.lock().unwrap();
    let message = shell.fails(&["audit", "export", "--output-file", &path], 1).await;
    assert!(message.contains("another export") && fs::read(&path).unwrap() == whole, "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filtered_file_needs_same_filters() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    odd_flags(&mut admin).await;
    let folder = TempDir::new().unwrap();
    for format in ["ndjson", "csv"] {
        let path = folder.path().join(format).display().to_string();
        let export = ["audit", "export", "--format", format, "--output-file", &path];
        let filtered = ["--format", format, "--action", "flag_archived"];
        let message = audit_export(&shell, &path, &filtered).await;
        assert!(message.contains(", filtered and so not verifiable, through "), "{message}");
        let holes = fs::read(&path).unwrap();
        assert!(shell.fails(&export, 2).await.contains("entries are missing"));
        if format == "ndjson" {
            let message = shell.fails(&["audit", "verify", "--file", &path], 1).await;
            assert!(message.contains("if the file was exported with filters, it cannot be verified"), "{message}");
        }
        let message = shell.fails(&[&export[..], &["--after", "1", "--action", "flag_archived"]].concat(), 2).await;
        assert!(message.contains("--after"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), holes);
        assert_eq!(audit_export(&shell, &path, &filtered).await.lines().count(), 1, "continues with the same filters");
        fs::remove_file(&path).unwrap();
        let message = audit_export(&shell, &path, &["--format", format, "--after", "3"]).await;
        assert!(message.contains(", revisions 4..") && !message.contains("filtered"), "{message}");
        audit_export(&shell, &path, &["--format", format]).await;
        let whole = fs::read(&path).unwrap();
        let message = shell.fails(&[&export[..], &["-e", "default", "--action", "flag_archived"]].concat(), 2).await;
        assert!(message.contains("is an entry that the filters leave out"), "{message}");
        for filters in [&["--key", "a"][..], &["--key-prefix", "a"], &["--without-reason"]] {
            let message = shell.fails(&[&export[..], filters].concat(), 2).await;
            assert!(message.contains("is an entry that the filters leave out"), "{message}");
        }
        assert_eq!(fs::read(&path).unwrap(), whole);
    }
}

/// A log restored from a backup is shorter than the exported file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_to_file_ahead_of_log_is_a_conflict() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log").display().to_string();
    audit_export(&shell, &path, &[]).await;
    let text = fs::read_to_string(&path).unwrap();
    let last = text.lines().last().unwrap();
    let ahead = format!("{text}{}\n", last.replace("\"revision\":3,", "\"revision\":4,"));
    assert_ne!(ahead, format!("{text}{last}\n"));
    fs::write(&path, &ahead).unwrap();
    let message = shell.fails(&["audit", "export", "--output-file", &path], 5).await;
    assert!(
        message.contains(&path) && message.contains("restored from a backup") && message.contains("start a new one"),
        "{message}"
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), ahead);
    assert!(shell.fails(&["audit", "export", "--after", "99999"], 2).await.contains("99999"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filtered_export_prints_a_json_summary() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    odd_flags(&mut admin).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("log").display().to_string();
    let arguments = ["--action", "flag_archived", "--output", "json"];
    let log = admin.log().await;
    let archived: Vec<_> = log.iter().filter(|entry| entry.action_type == "flag_archived").collect();
    let summary = |log: &[AuditLog], log_id: &Value| {
        json!({
            "filtered": true, "entries": 2, "first_revision": archived[0].revision, "last_revision": archived[1].revision, "log_id": log_id,
            "through_revision": log.len(), "through_hash": hex(&log.last().unwrap().hash),
        })
    };
    let message: Value = serde_json::from_str(&audit_export(&shell, &path, &arguments).await).unwrap();
    assert_eq!(message, summary(&log, &message["log_id"]));
    let whole = fs::read(&path).unwrap();
    // Continues from the last entry that passes the filter, before the end of the log.
    admin.flip("plain").await;
    let message: Value = serde_json::from_str(&audit_export(&shell, &path, &arguments).await).unwrap();
    assert_eq!(message, summary(&admin.log().await, &message["log_id"]));
    assert_eq!(fs::read(&path).unwrap(), whole);

    let (_, none, message) = shell.run(&["audit", "export", "--action", "log_trimmed", "--format", "csv"]).await;
    assert!(none.lines().count() == 1 && message.starts_with("entries 0 of log "), "{none}{message}");
    let (_, last, _) = shell.run(&["audit", "export", "--after", &log.len().to_string()]).await;
    assert_eq!(last.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_environment_is_listed_and_exported() {
    let (server, _database) = environments::start(Backend::Sqlite).await;
    let mut admin = server.admin().await;
    environments::write_history(&mut admin).await;
    let shell = Shell::new(server.address);
    let in_staging = Shell::new(server.address).with("TOGGLED_ENVIRONMENT", "staging");
    let all = admin.log().await.len();
    let count = async |shell: &Shell, command: &[&str]| shell.objects(&[&["audit"], command].concat()).await.len();
    for command in [&["list"][..], &["tail", "--no-follow", "--lines", "99"]] {
        assert_eq!(count(&shell, command).await, all, "{command:?}");
        assert_eq!(count(&in_staging, command).await, 5, "{command:?}");
        assert_eq!(count(&in_staging, &[command, &["-e", "-"]].concat()).await, all, "{command:?}");
        assert_eq!(count(&shell, &[command, &["-e", "production", "--flag", "a"]].concat()).await, 3, "{command:?}");
    }
    let (_, lines, message) = shell.run(&["audit", "export", "--environment", "staging"]).await;
    assert_eq!(lines.lines().count(), 5);
    assert!(message.contains(", filtered and so not verifiable, through "), "{message}");
    let (_, lines, message) = shell.run(&["audit", "export", "-e", "-"]).await;
    assert!(lines.lines().count() == all && !message.contains("filtered"), "{message}");
    // The whole log is verified, whatever the variable says.
    assert!(in_staging.succeeds(&["audit", "verify"]).await.starts_with(&format!("intact: entries {all}, ")));
    assert!(shell.fails(&["audit", "list", "-e", ""], 2).await.contains("--environment"));
    assert!(shell.fails(&["audit", "list", "-e", "-", "--flag", "a"], 2).await.contains("--environment"));
    let secret = admin.new_user("ann@example.com", &["view_audit_logs@staging"]).await;
    let scoped = Shell::of(server.address, &secret);
    assert_eq!(count(&scoped, &["list", "-e", "staging"]).await, 5);
    assert!(scoped.fails(&["audit", "list"], 2).await.contains("staging"));
    scoped.fails(&["audit", "export"], 4).await;
    scoped.fails(&["audit", "verify"], 4).await;
}

fn hex(hash: &[u8]) -> String {
    hex_digits(hash.try_into().unwrap())
}

/// The entry of an NDJSON line.
fn entry(line: &Value) -> Entry {
    let text = |name: &str| line[name].as_str();
    let shared = |name| text(name).map(Into::into);
    let id = |name| text(name).map(|id| Uuid::parse_str(id).unwrap());
    let time = |name| Timestamp::from_micros(text(name).unwrap().parse::<jiff::Timestamp>().unwrap().as_microsecond());
    Entry {
        id: id("id").unwrap(),
        revision: line["revision"].as_i64().unwrap(),
        timestamp: time("timestamp"),
        user_id: id("user_id"),
        user_email: shared("user_email").unwrap(),
        token_id: id("token_id"),
        action: Action::parse(text("action_type").unwrap()).unwrap(),
        entity_type: EntityType::parse(text("entity_type").unwrap()).unwrap(),
        entity_id: id("entity_id"),
        entity_key: shared("entity_key").unwrap(),
        entity_name: shared("entity_name").unwrap(),
        old_value: shared("old_value"),
        new_value: shared("new_value"),
        reason: shared("reason"),
        request_id: shared("request_id"),
        method: shared("method").unwrap(),
        peer: shared("peer"),
        user_agent: shared("user_agent"),
        previous_entity_revision: line["previous_entity_revision"].as_i64(),
        reverts: id("reverts"),
        environment: shared("environment"),
        hash_version: u8::try_from(line["hash_version"].as_i64().unwrap()).unwrap(),
        hash: GENESIS,
        created_at: time("created_at"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_can_be_recomputed_from_a_file() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    odd_flags(&mut admin).await;
    // An entry without an object: its required texts are empty.
    let reader = admin.new_user("ann@example.com", &["view_feature_flags"]).await;
    let mut reader = server.client(Some(&reader)).await;
    reader.wait_until_authenticated().await;
    let request = BatchSetFeatureFlagsRequest::default();
    reader.toggle.batch_set_feature_flags(request).await.unwrap_err();
    let (_, out, message) = shell.run(&["audit", "export"]).await;
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["action_type"] == "access_denied" && line["entity_key"] == ""), "{out}");
    assert!(lines.iter().all(|line| line["timestamp"].as_str().unwrap().len() == "2026-01-31T12:00:00.000000Z".len()));
    let mut hash = GENESIS;
    for line in &lines {
        hash = entry_hash(&hash, line["log_id"].as_str().unwrap().parse().unwrap(), &entry(line));
        assert_eq!(line["hash"], hex(&hash), "{line}");
    }
    assert!(message.trim_end().ends_with(&format!(", through {}:{}", lines.len(), hex(&hash))), "{message}");
    assert_eq!(lines.len(), admin.log().await.len());
}

/// A reader that pauses holds the export up in the middle: the log does not fit the buffers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn export_continues_after_server_restart() {
    let database = Database::new(Backend::Sqlite).await;
    let server = Server::start(&database).await;
    let proxy = TcpProxy::new(Route::Forward(server.address)).await;
    let mut admin = server.admin().await;
    let keys: Vec<_> = (0..1_000).map(|n| format!("flag-{n}")).collect();
    for key in &keys {
        admin.create(key).await;
    }
    for status in [FeatureFlagStatus::Enabled, FeatureFlagStatus::Disabled].into_iter().cycle().take(6) {
        let item = |key: &String| BatchSetItem {
            flag: Some(batch_set_item::Flag::Key(key.clone())),
            status: status.into(),
            expected_revision: None,
            environment: None,
        };
        let items = keys.iter().map(item).collect();
        let request = BatchSetFeatureFlagsRequest { items, reason: "r".repeat(1_000), ..Default::default() };
        admin.toggle.batch_set_feature_flags(request).await.unwrap();
    }
    let (_, whole, summary) = Shell::new(server.address).run(&["audit", "export"]).await;
    let whole: Vec<_> = whole.lines().collect();
    assert_eq!(whole.len(), BOOTSTRAP_ENTRIES + 7_000);

    let mut export = Shell::new(proxy.address).start(&["audit", "export"]);
    assert_eq!(export.line().await, whole[0]);
    drop(server);
    proxy.set(Route::Reject);
    let server = Server::start(&database).await;
    proxy.set(Route::Forward(server.address));
    let (code, rest, message) = export.wait().await;
    assert_eq!((code, message.len()), (0, 2), "{message:?}");
    assert!(message[0].contains("resuming"), "{message:?}");
    assert_eq!(message[1], summary.trim_end());
    assert!(rest == whole[1..], "not a line is missing, doubled or different");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unwritable_export_file_is_reported() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    assert!(shell.fails(&["audit", "export", "--output-file", "/nowhere/at/all"], 2).await.contains("/nowhere"));
    assert!(shell.fails(&["audit", "export", "--output-file", "/dev/null"], 2).await.contains("/dev/null"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exported_csv_runs_nothing_in_a_spreadsheet() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    let mut admin = server.admin().await;
    admin.create("a").await;
    let reason = "=HYPERLINK(\"https://example.com\")".to_owned();
    admin.toggle.toggle_feature_flag(ToggleFeatureFlagRequest { reason, ..crate::support::toggle("a") }).await.unwrap();
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (defused, raw) = (path("defused"), path("raw"));
    audit_export(&shell, &defused, &["--format", "csv"]).await;
    audit_export(&shell, &raw, &["--format", "csv", "--raw-cells"]).await;
    let reason = |path: &str| {
        let mut rows = csv::Reader::from_path(path).unwrap();
        let column = rows.headers().unwrap().iter().position(|name| name == "reason").unwrap();
        rows.records().last().unwrap().unwrap()[column].to_owned()
    };
    let formula = "=HYPERLINK(\"https://example.com\")";
    assert_eq!((reason(&defused), reason(&raw)), (format!("'{formula}"), formula.to_owned()));

    let export = ["audit", "export", "--format", "csv", "--output-file", &raw];
    let whole = fs::read(&raw).unwrap();
    assert!(shell.fails(&export, 2).await.contains("pass --raw-cells"));
    assert_eq!(fs::read(&raw).unwrap(), whole);
    assert!(shell.fails(&["audit", "export", "--raw-cells"], 2).await.contains("--format csv"));
    admin.flip("a").await;
    for (path, options) in [(&raw, &["--format", "csv", "--raw-cells"][..]), (&defused, &["--format", "csv"])] {
        let before = fs::read(path).unwrap();
        audit_export(&shell, path, options).await;
        assert!(fs::read(path).unwrap().len() > before.len() && fs::read(path).unwrap().starts_with(&before));
    }
}

//! `toggled audit list` and `audit tail`, as text and JSON.

use serde_json::json;
use toggled::domain::hex::hex_digits;

use super::{Shell, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_shows_every_field_newest_first() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    let shell = Shell::new(server.address);
    shell.succeeds(&["flag", "create", "a", "--reason", "why not"]).await;
    let entry = shell.object(&["audit", "list", "--limit", "1"]).await;
    let kept = admin.log().await.pop().unwrap();
    assert_eq!(entry["id"], kept.id);
    assert_eq!(entry["revision"], kept.revision);
    let hex = hex_digits(&kept.hash.clone().try_into().unwrap());
    assert_eq!(entry["hash"], hex);
    assert_eq!(entry["timestamp"].as_str().unwrap().len(), "2026-01-31T12:00:00.000000Z".len());
    assert_eq!((&entry["reason"], &entry["hash_version"]), (&json!("why not"), &json!(1)));
    assert_eq!(entry["new_value"].as_str(), kept.new_value.as_deref(), "as it was hashed");
    for absent in ["old_value", "previous_entity_revision"] {
        assert!(entry.get(absent).is_none(), "{absent}");
    }
    let names: Vec<_> = entry.as_object().unwrap().keys().map(String::as_str).collect();
    let known = "action_type created_at entity_id entity_key entity_name entity_type environment hash hash_version id method new_value \
                 peer reason request_id revision timestamp token_id user_agent user_email user_id";
    assert_eq!(names, known.split_whitespace().collect::<Vec<_>>());

    let rows = shell.rows(&["audit", "list"]).await;
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0][1..], ["4", "admin@localhost", "flag_created", "default", "a", "why not"]);
}

/// The largest page has 100 entries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_reads_as_many_pages_as_needed() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    admin.create("a").await;
    for _ in 0..250 {
        admin.flip("a").await;
    }
    let shell = Shell::new(server.address);
    for (arguments, from, to) in [
        (&["audit", "list"][..], 254, 205),
        (&["audit", "list", "--limit", "100"], 254, 155),
        (&["audit", "list", "--limit", "230"], 254, 25),
        (&["audit", "list", "--limit", "10000"], 254, 1),
        (&["audit", "tail", "--no-follow"], 245, 254),
        (&["audit", "tail", "--no-follow", "--lines", "150"], 105, 254),
        (&["audit", "tail", "--no-follow", "--after", "200"], 201, 254),
        (&["audit", "tail", "--no-follow", "--after", "0"], 1, 254),
    ] {
        let entries = shell.objects(arguments).await;
        let revisions: Vec<_> = entries.iter().map(|entry| entry["revision"].as_i64().unwrap()).collect();
        let expected: Vec<_> = if from > to { (to..=from).rev().collect() } else { (from..=to).collect() };
        assert_eq!(revisions, expected, "{arguments:?}");
    }
    assert_eq!(shell.succeeds(&["audit", "tail", "--no-follow", "--lines", "0"]).await, "");
    assert!(shell.fails(&["audit", "list", "--limit", "0"], 2).await.contains("--limit"));
}

/// The server's clock decides what lies ahead, and the list waits for what is about to pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_up_to_a_time_just_ahead_waits_for_it() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    let to = jiff::Timestamp::now() + std::time::Duration::from_secs(3);
    let listing = Shell::new(server.address).start(&["audit", "list", "--to", &to.to_string(), "--output", "json"]);
    let mut last = 0;
    while jiff::Timestamp::now() < to {
        last += 1;
        admin.create(&format!("flag-{last}")).await;
    }
    let (code, lines, _) = listing.wait().await;
    let keys: Vec<_> = lines.iter().filter(|line| line.contains("flag_created")).collect();
    assert_eq!(code, 0);
    // The last one may be dated after that time.
    assert!(keys.len() >= (last - 1).min(50), "{} of {last}", keys.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_select_entries() {
    let (server, _database) = server().await;
    let mut admin = server.admin().await;
    for key in ["a", "b"] {
        admin.create(key).await;
        admin.flip(key).await;
    }
    let ann = admin.new_user("ann@example.com", &["toggle_feature_flags", "view_feature_flags"]).await;
    let as_ann = Shell::of(server.address, &ann);
    as_ann.succeeds(&["flag", "disable", "a"]).await;
    let id = admin.get("b").await.id;

    let shell = Shell::new(server.address);
    for (filters, expected) in [
        (&["--flag", "a"][..], &[10, 5, 4][..]),
        (&["--flag", "a", "--user", "ANN@example.com"], &[10]),
        (&["--entity-id", &id], &[7, 6]),
        (&["--entity-type", "user"], &[8, 2]),
        (&["--entity-type", "environment"], &[1]),
        (&["--action", "toggle_enabled"], &[7, 5]),
        (&["--action", "toggle_enabled", "--action", "user_created"], &[8, 7, 5, 2]),
        (&["--key", "a"], &[10, 5, 4]),
        (&["--key", "ann@example.com"], &[8]),
        (&["--key-prefix", "a", "--action", "toggle_enabled", "--action", "toggle_disabled"], &[10, 5]),
        (&["--without-reason"], &[10, 7, 5]),
        (&["--without-reason", "--key", "b"], &[7]),
        (&["--from", "1h", "--to", "2100-01-01", "--action", "toggle_disabled"], &[10]),
        (&["--to", "1h ago"], &[]),
        (&["--from", "2100-01-01"], &[]),
    ] {
        let listed = shell.objects(&[&["audit", "list"], filters].concat()).await;
        let revisions: Vec<_> = listed.iter().map(|entry| entry["revision"].as_i64().unwrap()).collect();
        assert_eq!(revisions, expected, "{filters:?}");
        for begin in [&["--after", "0"][..], &["--lines", "50"]] {
            let mut tailed = shell.objects(&[&["audit", "tail", "--no-follow"], begin, filters].concat()).await;
            tailed.reverse();
            assert_eq!(tailed, listed, "{begin:?} {filters:?}");
        }
    }
    for (filters, code, message) in [
        (&["--flag", "nope"][..], 3, "nope"),
        (&["--action", "fly"], 3, "--action: fly does not exist; known are "),
        (&["--action", "flag_created", "--action", "fly"], 3, "--action: fly does not exist"),
        (&["--key", ""], 2, "must be 1 to 1,024 bytes"),
        (&["--key", "a", "--key-prefix", "a"], 2, "--key"),
        (&["--key", "a", "--flag", "a"], 2, "--flag"),
        (&["--from", "yesterday"], 2, "--from"),
        (&["--from", "2026-02-01", "--to", "2026-01-31"], 2, "--from is after --to"),
        (&["--entity-id", "a"], 2, "--entity-id"),
        (&["--flag", "a", "--entity-id", &id], 2, "--flag"),
    ] {
        assert!(shell.fails(&[&["audit", "list"], filters].concat(), code).await.contains(message), "{filters:?}");
    }
    assert!(as_ann.fails(&["audit", "list"], 4).await.contains("view_audit_logs"));
    assert!(shell.fails(&["audit", "tail", "--after", "1000"], 2).await.contains("1000"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_names_in_filters_are_not_found() {
    let (server, _database) = server().await;
    let shell = Shell::new(server.address);
    for (filter, expected) in [
        (["--user", "nobody@example.com"], "no entry by nobody@example.com"),
        (["--action", "flag_create"], "did you mean flag_created?"),
        (["--entity-type", "feature_flags"], "did you mean feature_flag?"),
        (["--action", "x"], "known are toggle_enabled, "),
    ] {
        for command in ["list", "export"] {
            let error = shell.fails(&["audit", command, filter[0], filter[1]], 3).await;
            assert!(error.contains(expected), "{error}");
        }
    }
}

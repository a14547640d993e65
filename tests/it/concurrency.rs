//! Concurrent flips, on one server and on two.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use toggled::api::pb::*;

use crate::support::{Backend, Client, Database, Server, on_both_databases, toggle};

const CLIENTS: usize = 64;
const FLAGS: usize = 20;

/// The number of flips, about 30 from each client. Each flag gets an even number of them.
const FLIPS: usize = 2_000;

/// The same, but each flag gets an odd number.
const ODD_FLIPS: usize = 1_020;

/// Makes this many flips from 64 clients, spread over the servers.
async fn flip_concurrently(servers: &[&Server], flips: usize) -> Vec<ToggleFeatureFlagResponse> {
    let mut admin = servers[0].admin().await;
    for flag in 0..FLAGS {
        admin.create(&format!("flag-{flag}")).await;
    }
    let last = admin.log().await.last().unwrap().revision;
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CLIENTS {
        let mut client = servers[caller % servers.len()].admin().await;
        // Wait until each server has the flags.
        let list = ListFeatureFlagsRequest { min_revision: Some(last), ..Default::default() };
        client.toggle.list_feature_flags(list).await.unwrap();
        let next = Arc::clone(&next);
        callers.spawn(async move {
            let mut answers = Vec::new();
            loop {
                let turn = next.fetch_add(1, Ordering::Relaxed);
                if turn >= flips {
                    return answers;
                }
                let answer = client.toggle.toggle_feature_flag(toggle(&format!("flag-{}", turn % FLAGS))).await;
                answers.push(answer.unwrap().into_inner());
            }
        });
    }
    callers.join_all().await.into_iter().flatten().collect()
}

/// Each flip has exactly one entry, there is no gap, timestamps are ordered, and each flag has the parity of its flips.
async fn assert_consistent(admin: &mut Client, answers: &[ToggleFeatureFlagResponse], toggles: usize) {
    assert_eq!(answers.len(), toggles);
    let log = admin.log().await;
    for (index, entry) in log.iter().enumerate() {
        assert_eq!(entry.revision, index as i64 + 1, "no gap");
    }
    for pair in log.windows(2) {
        let time = |entry: &AuditLog| entry.timestamp.map(|t| (t.seconds, t.nanos));
        assert!(time(&pair[0]) <= time(&pair[1]), "timestamps never decrease");
    }
    let flips: Vec<_> = log.iter().filter(|e| e.action_type.starts_with("toggle_")).collect();
    assert_eq!(flips.len(), toggles);
    let logged: HashMap<i64, &AuditLog> = flips.iter().map(|e| (e.revision, *e)).collect();
    for answer in answers {
        let entry = answer.audit_log.as_ref().unwrap();
        assert_eq!(Some(&entry), logged.get(&entry.revision), "the answer and the log agree");
    }
    for flag in 0..FLAGS {
        let key = format!("flag-{flag}");
        let own: Vec<_> = flips.iter().filter(|e| e.entity_key == key).collect();
        assert_eq!(own.len(), toggles / FLAGS);
        let mut status = "disabled";
        for entry in own {
            assert_eq!(entry.old_value(), status, "each flip starts from the status of the previous one");
            status = if status == "disabled" { "enabled" } else { "disabled" };
            assert_eq!(entry.new_value(), status);
        }
        let enabled = admin.get(&key).await.status() == FeatureFlagStatus::Enabled;
        assert_eq!(enabled, (toggles / FLAGS) % 2 == 1);
        assert_eq!(enabled, status == "enabled");
    }
}

on_both_databases! {
    async fn concurrent_flips_make_one_entry_each(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let answers = flip_concurrently(&[&server], FLIPS).await;
        assert_consistent(&mut server.admin().await, &answers, FLIPS).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_postgres_share_one_log() {
    let database = Database::new(Backend::Postgres).await;
    let (first, second) = tokio::join!(Server::start(&database), Server::start(&database));
    let answers = flip_concurrently(&[&first, &second], ODD_FLIPS).await;
    assert_consistent(&mut first.admin().await, &answers, ODD_FLIPS).await;
    // The second server has the same log once it has caught up.
    let last = answers.iter().map(|a| a.revision).max();
    let mut other = second.admin().await;
    let list = ListFeatureFlagsRequest { min_revision: last, ..Default::default() };
    other.toggle.list_feature_flags(list).await.unwrap();
    assert_consistent(&mut other, &answers, ODD_FLIPS).await;
}

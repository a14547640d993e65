//! Many callers at once, on one server and on two.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use toggled::api::pb::*;

use crate::support::{Backend, Client, Database, Server, on_both_databases, toggle};

const CLIENTS: usize = 64;
const FLAGS: usize = 20;

/// 64 callers, so many flips of 20 flags in all, spread over these servers.
async fn storm(servers: &[&Server], flips: usize) -> Vec<ToggleFeatureFlagResponse> {
    let mut admin = servers[0].admin().await;
    for flag in 0..FLAGS {
        admin.create(&format!("flag-{flag}")).await;
    }
    let last = admin.log().await.last().unwrap().revision;
    let next = Arc::new(AtomicUsize::new(0));
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CLIENTS {
        let mut client = servers[caller % servers.len()].admin().await;
        // The other server may not have heard of the flags yet.
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

/// Exactly one entry a flip, no gap, time and hashes in order, and every flag as the parity of its flips says.
async fn check(admin: &mut Client, answers: &[ToggleFeatureFlagResponse], toggles: usize) {
    assert_eq!(answers.len(), toggles);
    let log = admin.log().await;
    for (index, entry) in log.iter().enumerate() {
        assert_eq!(entry.revision, index as i64 + 1, "gap-free");
    }
    for pair in log.windows(2) {
        let time = |entry: &AuditLog| entry.timestamp.map(|t| (t.seconds, t.nanos));
        assert!(time(&pair[0]) <= time(&pair[1]), "time never runs backwards");
    }
    let flips: Vec<_> = log.iter().filter(|e| e.action_type.starts_with("toggle_")).collect();
    assert_eq!(flips.len(), toggles);
    let kept: HashMap<i64, &AuditLog> = flips.iter().map(|e| (e.revision, *e)).collect();
    for answer in answers {
        let told = answer.audit_log.as_ref().unwrap();
        assert_eq!(Some(&told), kept.get(&told.revision), "what was answered is what is kept");
    }
    for flag in 0..FLAGS {
        let key = format!("flag-{flag}");
        let own: Vec<_> = flips.iter().filter(|e| e.entity_key == key).collect();
        assert_eq!(own.len(), toggles / FLAGS);
        let mut status = "disabled";
        for entry in own {
            assert_eq!(entry.old_value(), status, "each flip begins where the one before it ended");
            status = if status == "disabled" { "enabled" } else { "disabled" };
            assert_eq!(entry.new_value(), status);
        }
        let enabled = admin.get(&key).await.status() == FeatureFlagStatus::Enabled;
        assert_eq!(enabled, (toggles / FLAGS) % 2 == 1);
        assert_eq!(enabled, status == "enabled");
    }
}

on_both_databases! {
    async fn ten_thousand_flips_by_64_callers_are_ten_thousand_entries(backend: Backend) {
        let database = Database::new(backend).await;
        let server = Server::start(&database).await;
        let answers = storm(&[&server], 10_000).await;
        check(&mut server.admin().await, &answers, 10_000).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_on_one_postgres_are_one_log() {
    let database = Database::new(Backend::Postgres).await;
    let (first, second) = tokio::join!(Server::start(&database), Server::start(&database));
    // Each flag an odd number of times.
    let answers = storm(&[&first, &second], 5_020).await;
    check(&mut first.admin().await, &answers, 5_020).await;
    // The other one sees the same once it has caught up.
    let last = answers.iter().map(|a| a.revision).max();
    let mut other = second.admin().await;
    let list = ListFeatureFlagsRequest { min_revision: last, ..Default::default() };
    other.toggle.list_feature_flags(list).await.unwrap();
    check(&mut other, &answers, 5_020).await;
}

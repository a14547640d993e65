//! Questions about past times, asked while changes are made, and again at the end: the answers must be the same.

use std::time::{Duration, SystemTime};

use futures::future::join_all;
use prost_types::Timestamp;
use toggled::api::pb::*;
use tonic::Response;

use super::Refusal;
use crate::support::{Client, Server, reason_of};

/// A question about the past. The time is a moment ago, when an entry of that time may still be on its way.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    pub microseconds_ago: u64,
    pub replica: usize,
    /// How often the present is read before, so that questions come at all moments of a change.
    pub reads_before: usize,
}

/// What was answered for a time.
#[derive(Debug, Clone, PartialEq)]
struct PastAnswer {
    /// The environment, the status and the revision of each flag. A trim removes who changed it, and when.
    flags: Vec<(String, i32, i64)>,
    revision: i64,
    /// The last entry of that time.
    last: Option<i64>,
}

/// The answers so far, by time.
pub struct Past {
    replicas: Vec<Client>,
    prefix: String,
    answers: Vec<(Timestamp, usize, Result<PastAnswer, Refusal>)>,
}

impl Past {
    pub async fn new(servers: &[Server], prefix: &str) -> Self {
        let mut replicas = Vec::new();
        for server in servers {
            replicas.push(server.admin().await);
        }
        Self { replicas, prefix: prefix.to_owned(), answers: Vec::new() }
    }

    /// Asks questions at the same time, and keeps the answers.
    pub async fn ask(&mut self, questions: &[Question]) {
        let asked = questions.iter().map(async |question| {
            let client = self.replicas[question.replica].clone();
            for _ in 0..question.reads_before {
                let present = ListFeatureFlagsRequest { page_size: 1, ..Default::default() };
                client.clone().toggle.list_feature_flags(present).await.unwrap();
            }
            let time = Timestamp::from(SystemTime::now() - Duration::from_micros(question.microseconds_ago));
            (time, question.replica, answer(client, &self.prefix, time).await)
        });
        let answers = join_all(asked).await;
        self.answers.extend(answers);
    }

    /// Asks all questions again, each on the other replica, and returns the answers that differ.
    pub async fn changed_answers(&mut self) -> Vec<String> {
        let mut changed = Vec::new();
        for (time, replica, before) in std::mem::take(&mut self.answers) {
            let other = self.replicas[(replica + 1) % self.replicas.len()].clone();
            let now = answer(other, &self.prefix, time).await;
            if !is_same(&before, &now) {
                changed.push(format!("{time}: first {before:?}, then {now:?}"));
            }
        }
        changed
    }
}

async fn answer(mut client: Client, prefix: &str, time: Timestamp) -> Result<PastAnswer, Refusal> {
    let flags = ListFeatureFlagsRequest {
        as_of_time: Some(time),
        key_prefix: prefix.to_owned(),
        include_archived: true,
        environment: Some("-".to_owned()),
        ..Default::default()
    };
    let refusal = |status: tonic::Status| (status.code(), reason_of(&status));
    let flags = client.toggle.list_feature_flags(flags).await.map(Response::into_inner).map_err(refusal)?;
    let newest = ListAuditLogsRequest { to_date: Some(time), limit: Some(1), ..Default::default() };
    let newest = client.audit.list_audit_logs(newest).await.map(Response::into_inner).map_err(refusal)?;
    Ok(PastAnswer {
        revision: flags.revision,
        flags: flags.feature_flags.into_iter().map(|flag| (flag.environment, flag.status, flag.revision)).collect(),
        last: newest.items.first().map(|entry| entry.revision),
    })
}

/// Whether a later answer is the same as far as the log still reaches back.
fn is_same(before: &Result<PastAnswer, Refusal>, now: &Result<PastAnswer, Refusal>) -> bool {
    match (before, now) {
        (Ok(before), Ok(now)) => *now == PastAnswer { last: now.last.and(before.last), ..before.clone() },
        (_, Err((_, reason))) => reason == "CURSOR_TOO_OLD",
        (Err(_), Ok(_)) => false,
    }
}

//! What everybody was told, compared with what is kept.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use toggled::api::pb::*;

use crate::load::PREFIX;
use crate::readers::Seen;
use crate::support::invoke;

/// A flip that was acknowledged.
pub struct Flip {
    pub request_id: String,
    pub answer: ToggleFeatureFlagResponse,
    /// From the first attempt to the acknowledgement.
    pub took: Duration,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Verdict {
    pub acknowledged: usize,
    /// Flips that were acknowledged and are not in the log as they were.
    pub lost: usize,
    /// Entries that nobody has asked for, or for the second time.
    pub doubled: usize,
    /// Revisions that are missing.
    pub gaps: usize,
    pub chain_is_intact: bool,
    /// The longest that a client waited for an acknowledgement.
    pub outage: Duration,
    /// What else is wrong.
    pub problems: Vec<String>,
}

impl Verdict {
    pub async fn reach(url: &str, flips: &[Flip], log: &[AuditLog], flags: &[FeatureFlag], seen: &[Seen]) -> Self {
        let by_request: HashMap<&str, &AuditLog> =
            log.iter().filter_map(|entry| Some((entry.request_id.as_deref()?, entry))).collect();
        let is_kept = |flip: &&Flip| {
            let (entry, told) = (by_request.get(flip.request_id.as_str()), &flip.answer);
            entry.is_some_and(|entry| told.audit_log.as_ref() == Some(*entry) && agrees(told, entry))
        };
        let toggled = log.iter().filter(|entry| entry.action_type.starts_with("toggle_")).count();
        let kept = flips.iter().filter(is_kept).count();
        let verified = invoke(&["audit", "verify", "--database", url], &[]).await;
        let mut verdict = Self {
            acknowledged: flips.len(),
            lost: flips.len() - kept,
            doubled: toggled.saturating_sub(kept),
            gaps: missing(log),
            chain_is_intact: verified.status.success(),
            outage: flips.iter().map(|flip| flip.took).max().unwrap_or_default(),
            problems: Vec::new(),
        };
        if !verdict.chain_is_intact {
            verdict.problems.push(String::from_utf8_lossy(&verified.stderr).into_owned());
        }
        verdict.problems.extend(out_of_order(log));
        verdict.problems.extend(flags.iter().filter_map(|flag| unlike_its_log(flag, log)));
        verdict.problems.extend(seen.iter().filter_map(|seen| unlike_what_was_seen(seen, log, flags)));
        verdict
    }

    /// Both of them together.
    pub fn and(mut self, other: Self) -> Self {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.gaps += other.gaps;
        self.chain_is_intact &= other.chain_is_intact;
        self.outage = self.outage.max(other.outage);
        self.problems.extend(other.problems);
        self
    }

    pub fn is_good(&self) -> bool {
        (self.lost, self.doubled, self.gaps) == (0, 0, 0) && self.chain_is_intact && self.problems.is_empty()
    }
}

/// Whether what an answer says of the flag is what the entry says.
fn agrees(told: &ToggleFeatureFlagResponse, entry: &AuditLog) -> bool {
    let flag = told.feature_flag.as_ref().map(|flag| (status(flag), flag.revision));
    flag == Some((entry.new_value(), entry.revision)) && told.revision >= entry.revision
}

fn status(flag: &FeatureFlag) -> &'static str {
    if flag.status() == FeatureFlagStatus::Enabled { "enabled" } else { "disabled" }
}

/// How many revisions are not in the log, from the first one on, or there more than once.
fn missing(log: &[AuditLog]) -> usize {
    let last = log.last().map_or(0, |entry| entry.revision);
    usize::try_from(last).unwrap_or_default().abs_diff(log.len())
}

fn out_of_order(log: &[AuditLog]) -> Option<String> {
    let time = |entry: &AuditLog| entry.timestamp.map(|time| (time.seconds, time.nanos));
    let back = log.windows(2).find(|pair| time(&pair[0]) > time(&pair[1]))?;
    Some(format!("time runs backwards at revision {}", back[1].revision))
}

/// Every flip begins where the one before it ended, and the last is what the flag is.
fn unlike_its_log(flag: &FeatureFlag, log: &[AuditLog]) -> Option<String> {
    let mut before = "disabled";
    for entry in log.iter().filter(|entry| entry.action_type.starts_with("toggle_") && entry.entity_key == flag.key) {
        if entry.old_value() != before {
            return Some(format!("revision {} does not begin where the one before it ended", entry.revision));
        }
        before = entry.new_value();
    }
    let is = status(flag);
    (is != before).then(|| format!("{} is {is} and {before} by the log", flag.key))
}

fn unlike_what_was_seen(seen: &Seen, log: &[AuditLog], flags: &[FeatureFlag]) -> Option<String> {
    match seen {
        Seen::Entries(entries) if entries == log => None,
        Seen::Entries(entries) => Some(format!("a reader has seen {} entries, not these {}", entries.len(), log.len())),
        Seen::Flags(history) => {
            let last: BTreeMap<_, _> = flags.iter().map(|flag| (flag.key.clone(), flag.clone())).collect();
            if history.last().is_none_or(|(_, seen)| *seen != last) {
                return Some("a watcher has other flags than there are".to_owned());
            }
            missed(history, log).map(|revision| format!("a watcher that was up to date missed revision {revision}"))
        }
    }
}

/// The first change that a watcher did not have once it had come up to it.
fn missed(history: &[(i64, BTreeMap<String, FeatureFlag>)], log: &[AuditLog]) -> Option<i64> {
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut entries = log.iter().filter(|entry| entry.entity_key.starts_with(PREFIX)).peekable();
    for (through, seen) in history {
        while let Some(entry) = entries.next_if(|entry| entry.revision <= *through) {
            newest.insert(&entry.entity_key, entry.revision);
        }
        let other = newest.iter().find(|(key, revision)| seen.get(**key).map(|flag| flag.revision) != Some(**revision));
        if let Some((_, revision)) = other {
            return Some(*revision);
        }
    }
    None
}

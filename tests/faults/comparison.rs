//! Compares the answers that clients received with what the database holds.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use toggled::api::pb::*;

use crate::load::KEY_PREFIX;
use crate::readers::Observed;
use crate::support::invoke;

/// A flip that was acknowledged.
pub struct Flip {
    pub request_id: String,
    pub answer: ToggleFeatureFlagResponse,
    /// From the first attempt to the acknowledgement.
    pub took: Duration,
}

/// The result of the comparison.
#[derive(Debug, Default)]
pub struct Comparison {
    pub acknowledged: usize,
    /// Acknowledged flips that are missing from the log, or differ there.
    pub lost: usize,
    /// Flips in the log beyond those that were acknowledged: never requested, or made twice.
    pub duplicated: usize,
    /// Revisions missing from the log.
    pub gaps: usize,
    pub chain_is_intact: bool,
    /// The longest time that a client waited for an acknowledgement.
    pub outage: Duration,
    /// Everything else that is wrong.
    pub problems: Vec<String>,
}

impl Comparison {
    pub async fn new(url: &str, flips: &[Flip], log: &[AuditLog], flags: &[FeatureFlag], seen: &[Observed]) -> Self {
        let by_request: HashMap<&str, &AuditLog> =
            log.iter().filter_map(|entry| Some((entry.request_id.as_deref()?, entry))).collect();
        let is_kept = |flip: &&Flip| {
            let (entry, answer) = (by_request.get(flip.request_id.as_str()), &flip.answer);
            entry.is_some_and(|entry| answer.audit_log.as_ref() == Some(*entry) && agrees(answer, entry))
        };
        let toggled = log.iter().filter(|entry| entry.action_type.starts_with("toggle_")).count();
        let kept = flips.iter().filter(is_kept).count();
        let verified = invoke(&["audit", "verify", "--database", url], &[]).await;
        let mut comparison = Self {
            acknowledged: flips.len(),
            lost: flips.len() - kept,
            duplicated: toggled.saturating_sub(kept),
            gaps: missing(log),
            chain_is_intact: verified.status.success(),
            outage: flips.iter().map(|flip| flip.took).max().unwrap_or_default(),
            problems: Vec::new(),
        };
        if !comparison.chain_is_intact {
            comparison.problems.push(String::from_utf8_lossy(&verified.stderr).into_owned());
        }
        comparison.problems.extend(out_of_order(log));
        comparison.problems.extend(flags.iter().filter_map(|flag| differs_from_log(flag, log)));
        comparison.problems.extend(seen.iter().filter_map(|seen| differs_from_observed(seen, log, flags)));
        comparison
    }

    /// Adds up two comparisons.
    pub fn and(mut self, other: Self) -> Self {
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.gaps += other.gaps;
        self.chain_is_intact &= other.chain_is_intact;
        self.outage = self.outage.max(other.outage);
        self.problems.extend(other.problems);
        self
    }

    pub fn is_passed(&self) -> bool {
        (self.lost, self.duplicated, self.gaps) == (0, 0, 0) && self.chain_is_intact && self.problems.is_empty()
    }
}

/// Whether the flag in an answer matches the entry.
fn agrees(answer: &ToggleFeatureFlagResponse, entry: &AuditLog) -> bool {
    let flag = answer.feature_flag.as_ref().map(|flag| (status(flag), flag.revision));
    flag == Some((entry.new_value(), entry.revision)) && answer.revision >= entry.revision
}

fn status(flag: &FeatureFlag) -> &'static str {
    if flag.status() == FeatureFlagStatus::Enabled { "enabled" } else { "disabled" }
}

/// How many revisions are missing from the log, counted from the first, or appear more than once.
fn missing(log: &[AuditLog]) -> usize {
    let last = log.last().map_or(0, |entry| entry.revision);
    usize::try_from(last).unwrap_or_default().abs_diff(log.len())
}

fn out_of_order(log: &[AuditLog]) -> Option<String> {
    let time = |entry: &AuditLog| entry.timestamp.map(|time| (time.seconds, time.nanos));
    let back = log.windows(2).find(|pair| time(&pair[0]) > time(&pair[1]))?;
    Some(format!("the timestamp of revision {} is earlier than the one before it", back[1].revision))
}

/// Each flip starts from the status that the previous flip set, and the last one matches the flag.
fn differs_from_log(flag: &FeatureFlag, log: &[AuditLog]) -> Option<String> {
    let mut before = "disabled";
    for entry in log.iter().filter(|entry| entry.action_type.starts_with("toggle_") && entry.entity_id() == flag.id) {
        if entry.old_value() != before {
            return Some(format!("revision {} does not start from the status of the previous flip", entry.revision));
        }
        before = entry.new_value();
    }
    let is = status(flag);
    (is != before).then(|| format!("{} of {} is {is}, but {before} according to the log", flag.key, flag.environment))
}

fn differs_from_observed(seen: &Observed, log: &[AuditLog], flags: &[FeatureFlag]) -> Option<String> {
    match seen {
        Observed::Entries(entries) if entries == log => None,
        Observed::Entries(entries) => {
            Some(format!("a stream delivered {} entries that differ from the {} of the log", entries.len(), log.len()))
        }
        Observed::Flags(history) => {
            let last: BTreeMap<_, _> = flags.iter().map(|flag| (flag.id.clone(), flag.clone())).collect();
            if history.last().is_none_or(|(_, seen)| *seen != last) {
                return Some("a watcher's last flags differ from the current ones".to_owned());
            }
            missed(history, log).map(|revision| format!("a watcher was caught up without revision {revision}"))
        }
    }
}

/// The first change that a watcher lacked although it was caught up to a later revision.
fn missed(history: &[(i64, BTreeMap<String, FeatureFlag>)], log: &[AuditLog]) -> Option<i64> {
    let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut entries = log.iter().filter(|entry| entry.entity_key.starts_with(KEY_PREFIX)).peekable();
    for (through, seen) in history {
        while let Some(entry) = entries.next_if(|entry| entry.revision <= *through) {
            newest.insert(entry.entity_id(), entry.revision);
        }
        let other = newest.iter().find(|(id, revision)| seen.get(**id).map(|flag| flag.revision) != Some(**revision));
        if let Some((_, revision)) = other {
            return Some(*revision);
        }
    }
    None
}

//! Flags, and the results of changes to them.

use console::Style;
use serde::Serialize;

use super::Printable;
use super::entry::entry_json;
use super::fields::{status, time};
use crate::api::pb;
use crate::cli::table::Cell;

#[derive(Serialize)]
struct FlagJson<'a> {
    id: &'a str,
    key: &'a str,
    environment: &'a str,
    name: &'a str,
    description: &'a str,
    status: String,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    updated_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    archived_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_flip: Option<LastFlipJson<'a>>,
}

#[derive(Serialize)]
struct LastFlipJson<'a> {
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    audit_log_id: &'a str,
}

/// The JSON object of a flag's last flip.
fn last_flip_json(flip: &pb::LastFlip) -> LastFlipJson<'_> {
    LastFlipJson {
        revision: flip.revision,
        time: time(flip.time.as_ref()),
        by: &flip.by,
        reason: flip.reason.as_deref(),
        audit_log_id: &flip.audit_log_id,
    }
}

/// The JSON object of a flag.
fn flag_json(flag: &pb::FeatureFlag) -> impl Serialize {
    FlagJson {
        id: &flag.id,
        key: &flag.key,
        environment: &flag.environment,
        name: &flag.name,
        description: &flag.description,
        status: status(flag.status),
        revision: flag.revision,
        created_at: time(flag.created_at.as_ref()),
        updated_at: time(flag.updated_at.as_ref()),
        updated_by: &flag.updated_by,
        archived_at: time(flag.archived_at.as_ref()),
        last_flip: flag.last_flip.as_ref().map(last_flip_json),
    }
}

/// The status of a flag, and whether it is archived.
fn status_cell(flag: &pb::FeatureFlag) -> Cell {
    if flag.archived_at.is_some() {
        return Cell::new(status_words(flag), Style::new().dim());
    }
    colored_status(flag.status)
}

/// The status of a flag, and whether it is archived, in words.
fn status_words(flag: &pb::FeatureFlag) -> String {
    let archived = if flag.archived_at.is_some() { ", archived" } else { "" };
    format!("{}{archived}", status(flag.status))
}

fn colored_status(code: i32) -> Cell {
    let on = pb::FeatureFlagStatus::try_from(code) == Ok(pb::FeatureFlagStatus::Enabled);
    Cell::new(status(code), if on { Style::new().green() } else { Style::new().yellow() })
}

impl Printable<7> for pb::FeatureFlag {
    const HEADER: [&str; 7] = ["KEY", "ENVIRONMENT", "STATUS", "NAME", "REVISION", "CHANGED AT", "BY"];

    fn row(&self) -> [Cell; 7] {
        [
            Cell::from(&*self.key),
            Cell::from(&*self.environment),
            status_cell(self),
            Cell::from(&*self.name),
            Cell::from(self.revision.to_string()),
            Cell::from(time(self.updated_at.as_ref()).unwrap_or_default()),
            Cell::from(&*self.updated_by),
        ]
    }

    fn json(&self) -> impl Serialize {
        flag_json(self)
    }
}

/// The result of a change to one flag.
pub(in crate::cli) struct ChangeResult {
    pub flag: Option<pb::FeatureFlag>,
    pub audit_log: Option<pb::AuditLog>,
    pub revision: i64,
    pub dry_run: bool,
}

#[derive(Serialize)]
struct ChangeResultJson<F, E> {
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_flag: Option<F>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_log: Option<E>,
    revision: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// The cell that says whether the flag was changed.
pub(super) fn changed_word(changed: bool, dry_run: bool) -> &'static str {
    match changed {
        _ if dry_run => "dry run",
        true => "yes",
        false => "no",
    }
}

impl Printable<5> for ChangeResult {
    const HEADER: [&str; 5] = ["KEY", "ENVIRONMENT", "STATUS", "CHANGED", "REVISION"];

    fn row(&self) -> [Cell; 5] {
        [
            Cell::from(self.flag.as_ref().map_or("", |flag| &flag.key)),
            Cell::from(self.flag.as_ref().map_or("", |flag| &flag.environment)),
            self.flag.as_ref().map_or_else(|| Cell::from(""), status_cell),
            Cell::from(changed_word(self.audit_log.is_some(), self.dry_run)),
            Cell::from(self.flag.as_ref().map_or(self.revision, |flag| flag.revision).to_string()),
        ]
    }

    fn json(&self) -> impl Serialize {
        ChangeResultJson {
            feature_flag: self.flag.as_ref().map(flag_json),
            audit_log: self.audit_log.as_ref().map(entry_json),
            revision: self.revision,
            dry_run: self.dry_run,
        }
    }
}

/// The result for one of several flags that were set together.
pub(in crate::cli) struct SetResult {
    pub result: pb::BatchSetResult,
    pub dry_run: bool,
}

#[derive(Serialize)]
struct SetResultJson<'a> {
    id: &'a str,
    key: &'a str,
    environment: &'a str,
    status: String,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_log_id: Option<&'a str>,
    changed: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

impl Printable<5> for SetResult {
    const HEADER: [&str; 5] = ChangeResult::HEADER;

    fn row(&self) -> [Cell; 5] {
        let Self { result, dry_run } = self;
        let changed = Cell::from(changed_word(result.changed, *dry_run));
        [
            Cell::from(&*result.key),
            Cell::from(&*result.environment),
            colored_status(result.status),
            changed,
            Cell::from(result.revision.to_string()),
        ]
    }

    fn json(&self) -> impl Serialize {
        let Self { result, dry_run } = self;
        SetResultJson {
            id: &result.id,
            key: &result.key,
            environment: &result.environment,
            status: status(result.status),
            revision: result.revision,
            audit_log_id: result.audit_log_id.as_deref(),
            changed: result.changed,
            dry_run: *dry_run,
        }
    }
}

/// A flag after a change, as a watch reports it.
pub(in crate::cli) struct WatchedFlag(pub pb::FeatureFlag);

impl Printable<5> for WatchedFlag {
    const HEADER: [&str; 5] = ["TIME", "KEY", "ENVIRONMENT", "STATUS", "BY"];

    fn row(&self) -> [Cell; 5] {
        let Self(flag) = self;
        [
            Cell::from(time(flag.updated_at.as_ref()).unwrap_or_default()),
            Cell::from(&*flag.key),
            Cell::from(&*flag.environment),
            status_cell(flag),
            Cell::from(&*flag.updated_by),
        ]
    }

    fn json(&self) -> impl Serialize {
        flag_json(&self.0)
    }
}

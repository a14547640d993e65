//! Flags, and what became of them.

use console::Style;
use serde::Serialize;

use super::Item;
use super::entry::entry;
use super::fields::{status, time};
use crate::api::pb;
use crate::cli::table::Cell;

#[derive(Serialize)]
struct FlagShape<'a> {
    id: &'a str,
    key: &'a str,
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
}

/// What is told to scripts of a flag.
fn flag(flag: &pb::FeatureFlag) -> impl Serialize {
    FlagShape {
        id: &flag.id,
        key: &flag.key,
        name: &flag.name,
        description: &flag.description,
        status: status(flag.status),
        revision: flag.revision,
        created_at: time(flag.created_at.as_ref()),
        updated_at: time(flag.updated_at.as_ref()),
        updated_by: &flag.updated_by,
        archived_at: time(flag.archived_at.as_ref()),
    }
}

/// The status as people see it at once.
fn state(flag: &pb::FeatureFlag) -> Cell {
    if flag.archived_at.is_some() {
        return Cell::new(format!("{}, archived", status(flag.status)), Style::new().dim());
    }
    colour(flag.status)
}

fn colour(code: i32) -> Cell {
    let on = pb::FeatureFlagStatus::try_from(code) == Ok(pb::FeatureFlagStatus::Enabled);
    Cell::new(status(code), if on { Style::new().green() } else { Style::new().yellow() })
}

impl Item<6> for pb::FeatureFlag {
    const HEAD: [&str; 6] = ["KEY", "STATUS", "NAME", "REVISION", "CHANGED", "BY"];

    fn row(&self) -> [Cell; 6] {
        [
            Cell::from(&*self.key),
            state(self),
            Cell::from(&*self.name),
            Cell::from(self.revision.to_string()),
            Cell::from(time(self.updated_at.as_ref()).unwrap_or_default()),
            Cell::from(&*self.updated_by),
        ]
    }

    fn json(&self) -> impl Serialize {
        flag(self)
    }
}

/// What came of a change.
pub(in crate::cli) struct Changed {
    pub flag: Option<pb::FeatureFlag>,
    pub audit_log: Option<pb::AuditLog>,
    pub revision: i64,
    pub dry_run: bool,
}

#[derive(Serialize)]
struct ChangedShape<F, E> {
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_flag: Option<F>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_log: Option<E>,
    revision: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

/// Whether something was changed, or would be.
fn word(changed: bool, dry_run: bool) -> &'static str {
    match changed {
        _ if dry_run => "dry run",
        true => "yes",
        false => "no",
    }
}

impl Item<4> for Changed {
    const HEAD: [&str; 4] = ["KEY", "STATUS", "CHANGED", "REVISION"];

    fn row(&self) -> [Cell; 4] {
        [
            Cell::from(self.flag.as_ref().map_or("", |flag| &flag.key)),
            self.flag.as_ref().map_or_else(|| Cell::from(""), state),
            Cell::from(word(self.audit_log.is_some(), self.dry_run)),
            Cell::from(self.flag.as_ref().map_or(self.revision, |flag| flag.revision).to_string()),
        ]
    }

    fn json(&self) -> impl Serialize {
        ChangedShape {
            feature_flag: self.flag.as_ref().map(flag),
            audit_log: self.audit_log.as_ref().map(entry),
            revision: self.revision,
            dry_run: self.dry_run,
        }
    }
}

/// What came of one flag of several that were set together.
pub(in crate::cli) struct WasSet {
    pub result: pb::BatchSetResult,
    pub dry_run: bool,
}

#[derive(Serialize)]
struct ResultShape<'a> {
    id: &'a str,
    key: &'a str,
    status: String,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_log_id: Option<&'a str>,
    changed: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

impl Item<4> for WasSet {
    const HEAD: [&str; 4] = Changed::HEAD;

    fn row(&self) -> [Cell; 4] {
        let Self { result, dry_run } = self;
        let changed = Cell::from(word(result.changed, *dry_run));
        [Cell::from(&*result.key), colour(result.status), changed, Cell::from(result.revision.to_string())]
    }

    fn json(&self) -> impl Serialize {
        let Self { result, dry_run } = self;
        ResultShape {
            id: &result.id,
            key: &result.key,
            status: status(result.status),
            revision: result.revision,
            audit_log_id: result.audit_log_id.as_deref(),
            changed: result.changed,
            dry_run: *dry_run,
        }
    }
}

/// A flag as it is since its last change: what a watcher is told.
pub(in crate::cli) struct Seen(pub pb::FeatureFlag);

impl Item<4> for Seen {
    const HEAD: [&str; 4] = ["TIME", "KEY", "STATUS", "BY"];

    fn row(&self) -> [Cell; 4] {
        let Self(flag) = self;
        [
            Cell::from(time(flag.updated_at.as_ref()).unwrap_or_default()),
            Cell::from(&*flag.key),
            state(flag),
            Cell::from(&*flag.updated_by),
        ]
    }

    fn json(&self) -> impl Serialize {
        flag(&self.0)
    }
}

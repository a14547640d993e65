//! Environments, and the results of changes to them.

use console::Style;
use serde::Serialize;

use super::Printable;
use super::entry::entry_json;
use super::fields::time;
use super::flag::changed_word;
use crate::api::pb;
use crate::cli::table::Cell;

#[derive(Serialize)]
struct EnvironmentJson<'a> {
    id: &'a str,
    key: &'a str,
    name: &'a str,
    description: &'a str,
    require_reason: bool,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<String>,
    updated_by: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    archived_at: Option<String>,
}

fn environment_json(environment: &pb::Environment) -> EnvironmentJson<'_> {
    EnvironmentJson {
        id: &environment.id,
        key: &environment.key,
        name: &environment.name,
        description: &environment.description,
        require_reason: environment.require_reason,
        revision: environment.revision,
        created_at: time(environment.created_at.as_ref()),
        updated_at: time(environment.updated_at.as_ref()),
        updated_by: &environment.updated_by,
        archived_at: time(environment.archived_at.as_ref()),
    }
}

fn state_cell(environment: &pb::Environment) -> Cell {
    match environment.archived_at {
        Some(_) => Cell::new("archived", Style::new().dim()),
        None => Cell::from("active"),
    }
}

fn reason_cell(environment: &pb::Environment) -> Cell {
    Cell::from(if environment.require_reason { "required" } else { "optional" })
}

impl Printable<7> for pb::Environment {
    const HEADER: [&str; 7] = ["KEY", "STATE", "NAME", "REASON", "REVISION", "CHANGED AT", "BY"];

    fn row(&self) -> [Cell; 7] {
        [
            Cell::from(&*self.key),
            state_cell(self),
            Cell::from(&*self.name),
            reason_cell(self),
            Cell::from(self.revision.to_string()),
            Cell::from(time(self.updated_at.as_ref()).unwrap_or_default()),
            Cell::from(&*self.updated_by),
        ]
    }

    fn json(&self) -> impl Serialize {
        environment_json(self)
    }
}

/// The result of a change to an environment.
pub(in crate::cli) struct EnvironmentChange {
    pub environment: Option<pb::Environment>,
    pub audit_log: Option<pb::AuditLog>,
    pub revision: i64,
    pub dry_run: bool,
}

#[derive(Serialize)]
struct EnvironmentChangeJson<'a, E> {
    #[serde(skip_serializing_if = "Option::is_none")]
    environment: Option<EnvironmentJson<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audit_log: Option<E>,
    revision: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dry_run: bool,
}

impl Printable<5> for EnvironmentChange {
    const HEADER: [&str; 5] = ["KEY", "STATE", "REASON", "CHANGED", "REVISION"];

    fn row(&self) -> [Cell; 5] {
        let of = |cell: fn(&pb::Environment) -> Cell| self.environment.as_ref().map_or_else(|| Cell::from(""), cell);
        [
            of(|environment| Cell::from(&*environment.key)),
            of(state_cell),
            of(reason_cell),
            Cell::from(changed_word(self.audit_log.is_some(), self.dry_run)),
            Cell::from(self.revision.to_string()),
        ]
    }

    fn json(&self) -> impl Serialize {
        EnvironmentChangeJson {
            environment: self.environment.as_ref().map(environment_json),
            audit_log: self.audit_log.as_ref().map(entry_json),
            revision: self.revision,
            dry_run: self.dry_run,
        }
    }
}

//! Unleash: whether a flag is on in one environment. A flag that is on for some users only, or only while another flag is on,
//! keeps its status on the server: toggled has one status for all users.

mod export;
mod index;
#[cfg(test)]
mod tests;

use export::{Export, Feature, Strategy};
use index::ExportIndex;
use serde_json::Value;

use super::document::parse_document;
use super::{FileFormat, FileStart};
use crate::cli::flag::import::imported::{FlagCollector, FlagFields, ImportedFlags, ParseErrors};
use crate::domain::flag::Status;

pub(super) const FORMAT: FileFormat = FileFormat {
    name: "unleash",
    help: "An export of Unleash, JSON or YAML",
    detect: |start: &FileStart<'_>| start.has_field("features"),
    has_environments: true,
    is_csv: false,
    parse: |text, options| parse(text, options.environment.as_deref()),
};

fn parse(text: &str, environment: Option<&str>) -> Result<ImportedFlags, ParseErrors> {
    let export: Export = parse_document(text, "an export of Unleash")?;
    let environment = select_environment(&export, environment).map_err(|error| vec![error])?;
    let mut collector = FlagCollector::default();
    export.unread.report_document(&mut collector);
    let index = ExportIndex::new(&export, environment, &mut collector);
    for (position, feature) in export.features.iter().enumerate() {
        add_flag(&index, &format!("features[{position}]"), feature, &mut collector);
    }
    collector.finish()
}

/// The environment whose statuses are imported. An export of a version without environments has none.
fn select_environment<'a>(export: &'a Export, requested: Option<&str>) -> Result<Option<&'a str>, String> {
    let all = export.environments();
    let names = all.iter().copied().collect::<Vec<_>>().join(", ");
    match (requested, all.len()) {
        (Some(requested), 0) => {
            Err(format!("the export has no environments, and so no {requested:?}; omit --environment"))
        }
        (Some(requested), _) => {
            let found = all.get(requested).copied().map(Some);
            found.ok_or_else(|| format!("no environment {requested:?}; the export has {names}"))
        }
        (None, 0 | 1) => Ok(all.first().copied()),
        (None, _) => Err(format!("the export has several environments; pass one of them with --environment: {names}")),
    }
}

fn add_flag(index: &ExportIndex<'_>, location: &str, feature: &Feature, collector: &mut FlagCollector) {
    let mut reasons = Vec::new();
    let status = status(index, feature, &mut reasons);
    collector.omit(&feature.name, &reasons);
    if feature.archived == Some(false) && feature.archived_at.is_some() {
        collector.error(location, "archived is false, but archivedAt is set; remove one of them");
    }
    let archived = feature.archived.or_else(|| feature.archived_at.as_ref().map(|_| true));
    let (key, description) = (feature.name.as_str(), feature.description.as_deref());
    collector.add(location, &FlagFields { key, name: None, description, status, archived });
    report_fields(index, feature, collector);
    for (path, strategy) in index.strategies(feature) {
        report_strategy(path, key, strategy, index.is_for_all(strategy), collector);
    }
}

/// Reports the fields of a flag that no flag of toggled has. Those with the value that Unleash gives a new flag are left out.
fn report_fields(index: &ExportIndex<'_>, feature: &Feature, collector: &mut FlagCollector) {
    let key = feature.name.as_str();
    let is_set = |field: Option<bool>| field.filter(|is_set| *is_set).map(Value::from);
    let project = feature.project.as_deref().filter(|project| *project != "default");
    let in_environment = index.environment.is_some();
    let fields = [
        ("stale", is_set(feature.stale)),
        ("impressionData", is_set(feature.impression_data)),
        ("project", project.map(Value::from)),
        ("archivedAt", feature.archived_at.as_deref().map(Value::from)),
        ("enabled", feature.enabled.filter(|_| in_environment).map(Value::from)),
    ];
    for (name, value) in fields {
        collector.omit_field(&format!("features[].{name}"), key, &value.unwrap_or_default());
    }
    for dependency in index.dependencies(feature) {
        collector.omit_field("dependencies[]", key, dependency);
    }
    feature.unread.report("features[]", key, collector);
}

/// Reports the parts of a strategy that the flag's status does not express.
fn report_strategy(path: &str, key: &str, strategy: &Strategy, is_for_all: bool, collector: &mut FlagCollector) {
    let mut report = |name: &str, value: &Value| collector.omit_field(&format!("{path}.{name}"), key, value);
    if !is_for_all || strategy.is_disabled() {
        report("name", &Value::from(strategy.name.as_str()));
        report("constraints", &Value::from(strategy.constraints.clone()));
        report("segments", &Value::from(strategy.segments.clone()));
    }
    if strategy.is_disabled() {
        report("disabled", &Value::from(true));
    }
    // A rollout to all users does not depend on these parameters.
    let is_relevant = |name: &str| !is_for_all || !["rollout", "stickiness", "groupId"].contains(&name);
    let parameters = strategy.parameters.iter().flat_map(|parameters| &parameters.0);
    report("parameters", &parameters.filter(|(name, _)| is_relevant(name)).cloned().collect());
    strategy.unread.report(path, key, collector);
}

/// The flag's status, if it is the same for every user and does not depend on other flags. `None` also if all strategies of the flag
/// are disabled.
fn status(index: &ExportIndex<'_>, feature: &Feature, reasons: &mut Vec<String>) -> Option<Status> {
    let Some(enabled) = index.enabled(feature) else {
        let place = index.environment.map_or_else(String::new, |name| format!(" in {name}"));
        reasons.push(format!("no status{place}: status not imported"));
        return None;
    };
    if !enabled {
        return Some(Status::Disabled);
    }
    let strategies = index.strategies(feature).map(|(_, strategy)| strategy);
    let (disabled, active): (Vec<_>, Vec<_>) = strategies.partition(|strategy| strategy.is_disabled());
    let is_for_all = active.iter().any(|strategy| index.is_for_all(strategy));
    if !is_for_all && !active.is_empty() {
        reasons.push(format!("on for some users only ({}): status not imported", names(&active)));
    } else if !is_for_all && !disabled.is_empty() {
        reasons.push(format!("all strategies disabled ({}): status not imported", names(&disabled)));
    }
    if index.has_release_plan(feature) {
        reasons.push("a release plan decides who gets it: status not imported".to_owned());
    }
    let parents: Vec<_> = index.dependencies(feature).map(parent_name).collect();
    if !parents.is_empty() {
        reasons.push(format!("depends on {}: status not imported", parents.join(", ")));
    }
    reasons.is_empty().then_some(Status::Enabled)
}

fn names(strategies: &[&Strategy]) -> String {
    strategies.iter().map(|strategy| strategy.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// The flag that a dependency names. In `features` it can be the name alone.
fn parent_name(dependency: &Value) -> &str {
    dependency.as_str().or_else(|| dependency.get("feature")?.as_str()).unwrap_or("another flag")
}

//! Unleash: whether a flag is on in each environment. A flag that is on for some users only, or only while another flag is on,
//! keeps its status on the server: toggled has one status for all users.

mod export;
mod index;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use export::{Export, Feature, Strategy};
use index::{ExportIndex, OF_ENVIRONMENT, Pass};
use serde_json::Value;

use super::document::parse_document;
use super::{FileFormat, FileStart, ParseOptions, environments};
use crate::cli::flag::import::imported::{FlagCollector, FlagFields, ImportedFlags, ParseErrors};
use crate::domain::flag::Status;

pub(super) const FORMAT: FileFormat = FileFormat {
    name: "unleash",
    help: "An export of Unleash, JSON or YAML",
    detect: |start: &FileStart<'_>| start.has_field("features"),
    selects_environments: true,
    is_csv: false,
    parse,
};

fn parse(text: &str, options: &ParseOptions) -> Result<ImportedFlags, ParseErrors> {
    let export: Export = parse_document(text, "an export of Unleash")?;
    let all = export.environments();
    let selected = environments::select(&all, options).map_err(|error| vec![error])?;
    let keys = keys(&selected, options.target.as_ref()).map_err(|error| vec![error])?;
    let mut collector = FlagCollector::default();
    export.unread.report_document(&mut collector);
    // An export of a version without environments has none.
    let mut passes: Vec<_> = selected.iter().zip(&keys).map(|(name, key)| (Some(*name), Some(key.as_str()))).collect();
    if passes.is_empty() {
        passes.push((None, None));
    }
    for (position, (environment, key)) in passes.into_iter().enumerate() {
        let pass = Pass { environment, key, is_first: position == 0, selected: &selected };
        let index = ExportIndex::new(&export, pass, &mut collector);
        for (position, feature) in export.features.iter().enumerate() {
            add_flag(&index, &format!("features[{position}]"), feature, &mut collector);
        }
        // A wrong flag is wrong in every environment.
        if collector.has_errors() {
            break;
        }
    }
    collector.finish()
}

/// The key that each environment has here: the target's, or one made from its name.
fn keys(selected: &[&str], target: Option<&String>) -> Result<Vec<String>, String> {
    if let Some(target) = target {
        return Ok(selected.iter().map(|_| target.clone()).collect());
    }
    let mut names = BTreeMap::new();
    let key = |name: &&str| {
        let hint = "import the environments one by one, with --from-environment and --environment";
        let key = environments::key_of(name)
            .ok_or_else(|| format!("no key can be made of the environment {name:?}; {hint}"))?;
        match names.insert(key.clone(), name.to_string()) {
            Some(other) => Err(format!("the environments {other:?} and {name:?} would both be {key}; {hint}")),
            None => Ok(key),
        }
    };
    selected.iter().map(key).collect()
}

fn add_flag(index: &ExportIndex<'_>, location: &str, feature: &Feature, collector: &mut FlagCollector) {
    let mut reasons = Vec::new();
    let status = status(index, feature, &mut reasons);
    let environment = index.pass.key;
    collector.omit(environment, &feature.name, &reasons);
    if feature.archived == Some(false) && feature.archived_at.is_some() {
        collector.error(location, "archived is false, but archivedAt is set; remove one of them");
    }
    let archived = feature.archived.or_else(|| feature.archived_at.as_ref().map(|_| true));
    let (key, description) = (feature.name.as_str(), feature.description.as_deref());
    collector.add(location, &FlagFields { environment, key, name: None, description, status, archived });
    if index.pass.is_first {
        report_fields(index, feature, collector);
    }
    for (path, strategy) in index.strategies(feature) {
        // One that names no environment is of all of them, and is reported once.
        if index.pass.is_first || path == OF_ENVIRONMENT || strategy.environment.is_some() {
            report_strategy(path, key, strategy, index.is_for_all(strategy), collector);
        }
    }
}

/// Reports the fields of a flag that no flag of toggled has. Those with the value that Unleash gives a new flag are left out.
fn report_fields(index: &ExportIndex<'_>, feature: &Feature, collector: &mut FlagCollector) {
    let key = feature.name.as_str();
    let is_set = |field: Option<bool>| field.filter(|is_set| *is_set).map(Value::from);
    let project = feature.project.as_deref().filter(|project| *project != "default");
    let in_environment = index.pass.environment.is_some();
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
        let place = index.pass.environment.map_or_else(String::new, |name| format!(" in {name}"));
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

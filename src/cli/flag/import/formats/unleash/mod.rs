//! Unleash: whether a flag is on in one environment. A flag that is on for some users only keeps its status.

mod export;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use export::{Export, Feature, Strategy};

use super::{FileFormat, FileStart, parse_json};
use crate::cli::flag::import::imported::{FlagCollector, FlagFields, ImportedFlags, ParseErrors};
use crate::domain::flag::Status;

pub(super) const FORMAT: FileFormat = FileFormat {
    name: "unleash",
    help: "An export of Unleash, JSON",
    detect: |start: &FileStart<'_>| start.has_json_field("features"),
    has_environments: true,
    parse,
};

fn parse(text: &str, environment: Option<&str>) -> Result<ImportedFlags, ParseErrors> {
    let export: Export = parse_json(text, "an export of Unleash")?;
    let environment = select_environment(&export, environment).map_err(|error| vec![error])?;
    let mut collector = FlagCollector::default();
    let parts = [
        ("segments", &export.segments),
        ("strategies", &export.strategies),
        ("context fields", &export.context_fields),
    ];
    for (part, items) in parts.into_iter().filter(|(_, items)| !items.is_empty()) {
        collector.omit_from_file(format!("{part}: {}", items.len()));
    }
    let index = ExportIndex::new(&export, environment);
    for (position, feature) in export.features.iter().enumerate() {
        index.add_flag(&format!("features[{position}]"), feature, &mut collector);
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

/// What the export says about a flag outside of the flag itself, by the flag's name.
struct ExportIndex<'a> {
    environment: Option<&'a str>,
    enabled: HashMap<&'a str, bool>,
    strategies: HashMap<&'a str, Vec<&'a Strategy>>,
    /// The ids of strategies that are limited to segments, as the older export lists them.
    segmented_strategies: HashSet<&'a str>,
    variant_counts: HashMap<&'a str, usize>,
    tag_counts: HashMap<&'a str, usize>,
    dependency_counts: HashMap<&'a str, usize>,
}

impl<'a> ExportIndex<'a> {
    fn new(export: &'a Export, environment: Option<&'a str>) -> Self {
        let in_environment =
            export.feature_environments.iter().filter(|it| Some(it.environment.as_str()) == environment);
        let segments = export.feature_strategy_segments.iter();
        let mut index = Self {
            environment,
            enabled: in_environment.clone().map(|it| (it.feature_name.as_str(), it.enabled)).collect(),
            strategies: HashMap::new(),
            segmented_strategies: segments.map(|it| it.feature_strategy_id.as_str()).collect(),
            variant_counts: sums(in_environment.map(|it| (it.feature_name.as_str(), it.variants.len()))),
            tag_counts: sums(export.feature_tags.iter().map(|tag| (tag.feature_name.as_str(), 1))),
            dependency_counts: sums(export.dependencies.iter().map(|it| (it.feature.as_str(), it.dependencies.len()))),
        };
        // An export of a single environment may omit its name.
        let is_elsewhere =
            |strategy: &&Strategy| strategy.environment.as_deref().is_some_and(|e| Some(e) != environment);
        for strategy in export.feature_strategies.iter().filter(|strategy| !is_elsewhere(strategy)) {
            if let Some(name) = &strategy.feature_name {
                index.strategies.entry(name).or_default().push(strategy);
            }
        }
        index
    }

    fn add_flag(&self, location: &str, feature: &Feature, collector: &mut FlagCollector) {
        let mut omitted = Vec::new();
        let status = self.status(feature, &mut omitted);
        omitted.extend(self.counted_parts(feature));
        omitted.extend(feature.stale.filter(|stale| *stale).map(|_| "stale".to_owned()));
        omitted.extend(feature.impression_data.filter(|has_data| *has_data).map(|_| "impression data".to_owned()));
        omitted.extend(feature.kind.as_ref().map(|kind| format!("type {kind}")));
        omitted.extend(feature.project.as_ref().filter(|p| *p != "default").map(|p| format!("project {p}")));
        collector.omit(&feature.name, &omitted);
        let archived = feature.archived.or_else(|| feature.archived_at.as_ref().map(|_| true));
        let (key, description) = (feature.name.as_str(), feature.description.as_deref());
        collector.add(location, &FlagFields { key, name: None, description, status, archived });
    }

    /// What a flag has some number of, and cannot be imported.
    fn counted_parts(&self, feature: &'a Feature) -> impl Iterator<Item = String> {
        let count = |counts: &HashMap<&str, usize>| counts.get(feature.name.as_str()).copied().unwrap_or_default();
        let in_strategies: usize = self.strategies(feature).map(|strategy| strategy.variants.len()).sum();
        let parts = [
            ("variants", feature.variants.len() + count(&self.variant_counts) + in_strategies),
            ("tags", count(&self.tag_counts)),
            ("dependencies on other flags", count(&self.dependency_counts)),
        ];
        parts.into_iter().filter(|(_, number)| *number > 0).map(|(part, number)| format!("{part}: {number}"))
    }

    fn strategies(&self, feature: &'a Feature) -> impl Iterator<Item = &'a Strategy> {
        self.strategies.get(feature.name.as_str()).into_iter().flatten().copied().chain(&feature.strategies)
    }

    /// The flag's status if it is the same for every user, and otherwise none: to turn a flag on that is on for some
    /// users would give it to all. The same holds for a flag of which all strategies are disabled.
    fn status(&self, feature: &'a Feature, omitted: &mut Vec<String>) -> Option<Status> {
        let enabled = match self.environment {
            Some(_) => self.enabled.get(feature.name.as_str()).copied(),
            None => feature.enabled,
        };
        let Some(enabled) = enabled else {
            let place = self.environment.map_or_else(String::new, |name| format!(" in {name}"));
            omitted.push(format!("no status{place}: status not imported"));
            return None;
        };
        let (active, disabled): (Vec<_>, Vec<_>) =
            self.strategies(feature).partition(|strategy| strategy.disabled != Some(true));
        let (for_all, for_some): (Vec<_>, Vec<_>) = active.into_iter().partition(|strategy| self.is_for_all(strategy));
        let on_for_some = enabled && for_all.is_empty() && !for_some.is_empty();
        let on_for_none = enabled && for_all.is_empty() && for_some.is_empty() && !disabled.is_empty();
        if on_for_some {
            omitted.push(format!("on for some users only ({}): status not imported", names(&for_some)));
        } else if !for_some.is_empty() {
            omitted.push(format!("strategies: {}", names(&for_some)));
        }
        if on_for_none {
            omitted.push(format!("all strategies disabled ({}): status not imported", names(&disabled)));
        } else if !disabled.is_empty() {
            omitted.push(format!("disabled strategies: {}", names(&disabled)));
        }
        (!on_for_some && !on_for_none).then_some(if enabled { Status::Enabled } else { Status::Disabled })
    }

    fn is_for_all(&self, strategy: &Strategy) -> bool {
        let segmented = strategy.id.as_deref().is_some_and(|id| self.segmented_strategies.contains(id));
        strategy.is_for_all() && !segmented
    }
}

fn names(strategies: &[&Strategy]) -> String {
    strategies.iter().map(|strategy| strategy.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// Adds up the numbers of each flag.
fn sums<'a>(counts: impl Iterator<Item = (&'a str, usize)>) -> HashMap<&'a str, usize> {
    let mut sums = HashMap::new();
    for (name, count) in counts {
        *sums.entry(name).or_default() += count;
    }
    sums
}

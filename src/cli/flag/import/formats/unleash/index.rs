//! What an export says about a flag outside of its object in `features`, by the flag's name.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::export::{Export, Feature, FeatureEnvironment, Strategy};
use crate::cli::flag::import::imported::FlagCollector;

/// The fields of release plans, whose milestones turn a flag on for more and more users.
const RELEASE_PLANS: [&str; 4] = ["releasePlans", "releasePlan", "milestones", "releasePlanMilestones"];

/// A strategy, and the path of the list that it is in.
type StrategyAt<'a> = (&'static str, &'a Strategy);

/// The path of the strategies of a flag in one environment.
pub(super) const OF_ENVIRONMENT: &str = "featureEnvironments[].strategies[]";

/// One environment of the import: the file is read once for each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass<'a> {
    /// Its name in the export; `None` for an export without environments.
    pub environment: Option<&'a str>,
    /// The key of the environment that its flags go into.
    pub key: Option<&'a str>,
    /// Whether this pass reports what belongs to no environment.
    pub is_first: bool,
    /// The names of all environments that are imported.
    pub selected: &'a [&'a str],
}

pub(super) struct ExportIndex<'a> {
    pub pass: Pass<'a>,
    enabled: HashMap<&'a str, bool>,
    strategies: HashMap<&'a str, Vec<StrategyAt<'a>>>,
    /// The ids of strategies that are limited to segments, as the older export lists them.
    segmented_strategies: HashSet<&'a str>,
    dependencies: HashMap<&'a str, Vec<&'a Value>>,
    /// The flags with a release plan in the environment.
    planned: HashSet<&'a str>,
}

impl<'a> ExportIndex<'a> {
    /// Reports what belongs to an environment that is not imported, or to a flag that the export lacks.
    pub fn new(export: &'a Export, pass: Pass<'a>, collector: &mut FlagCollector) -> Self {
        let environment = pass.environment;
        let segments = export.feature_strategy_segments.iter();
        for it in segments.clone().filter(|_| pass.is_first) {
            collector.omit_field("featureStrategySegments[].segmentId", "", &it.segment_id);
        }
        let mut index = Self {
            pass,
            enabled: HashMap::new(),
            strategies: HashMap::new(),
            segmented_strategies: segments.map(|it| it.feature_strategy_id.as_str()).collect(),
            dependencies: HashMap::new(),
            planned: HashSet::new(),
        };
        let text = |plan: &'a Value, name: &str| plan.get(name).and_then(Value::as_str);
        for plan in export.unread.items(&RELEASE_PLANS) {
            // A plan that names no environment may be of any.
            if text(plan, "environment").is_none_or(|of_plan| environment.is_none_or(|selected| of_plan == selected)) {
                index.planned.extend(text(plan, "featureName").or(text(plan, "feature")));
            }
        }
        let mut selection = Selection { known: names(export), pass, collector };
        for (position, it) in export.feature_environments.iter().enumerate() {
            if selection.takes("featureEnvironments[]", &it.feature_name, Some(&it.environment)) {
                index.add_environment(position, it, selection.collector);
            }
        }
        for strategy in &export.feature_strategies {
            let name = strategy.feature_name.as_deref().unwrap_or_default();
            // An export of a single environment may omit its name.
            if selection.takes("featureStrategies[]", name, strategy.environment.as_deref()) {
                index.strategies.entry(name).or_default().push(("featureStrategies[]", strategy));
            }
        }
        for it in &export.dependencies {
            if selection.takes("dependencies[]", &it.feature, None) {
                index.dependencies.entry(&it.feature).or_default().extend(&it.dependencies);
                if pass.is_first {
                    it.unread.report("dependencies[]", &it.feature, selection.collector);
                }
            }
        }
        index
    }

    fn add_environment(&mut self, position: usize, it: &'a FeatureEnvironment, collector: &mut FlagCollector) {
        let name = it.feature_name.as_str();
        if self.enabled.insert(name, it.enabled).is_some() {
            let location = format!("featureEnvironments[{position}]");
            collector.error(location, format_args!("a second status of {name:?} in {:?}", it.environment));
        }
        let strategies = it.strategies.iter().map(|strategy| (OF_ENVIRONMENT, strategy));
        self.strategies.entry(name).or_default().extend(strategies);
        if it.unread.items(&RELEASE_PLANS).next().is_some() {
            self.planned.insert(name);
        }
        it.unread.report("featureEnvironments[]", name, collector);
    }

    /// Whether the flag is on, before its strategies; none if the export does not say.
    pub fn enabled(&self, feature: &Feature) -> Option<bool> {
        match self.pass.environment {
            Some(_) => self.enabled.get(feature.name.as_str()).copied(),
            None => feature.enabled,
        }
    }

    pub fn strategies(&self, feature: &'a Feature) -> impl Iterator<Item = StrategyAt<'a>> {
        let own = feature.strategies.iter().map(|strategy| ("features[].strategies[]", strategy));
        self.strategies.get(feature.name.as_str()).into_iter().flatten().copied().chain(own)
    }

    /// The dependencies of a flag on other flags.
    pub fn dependencies(&self, feature: &'a Feature) -> impl Iterator<Item = &'a Value> {
        self.dependencies.get(feature.name.as_str()).into_iter().flatten().copied().chain(&feature.dependencies)
    }

    /// Whether a release plan decides who gets a flag that is on.
    pub fn has_release_plan(&self, feature: &Feature) -> bool {
        self.planned.contains(feature.name.as_str()) || feature.unread.items(&RELEASE_PLANS).next().is_some()
    }

    pub fn is_for_all(&self, strategy: &Strategy) -> bool {
        let segmented = strategy.id.as_deref().is_some_and(|id| self.segmented_strategies.contains(id));
        strategy.is_for_all() && !segmented
    }
}

fn names(export: &Export) -> HashSet<&str> {
    export.features.iter().map(|feature| feature.name.as_str()).collect()
}

/// Selects the objects that belong to the export's flags in one environment, and reports all others.
struct Selection<'a, 'c> {
    known: HashSet<&'a str>,
    pass: Pass<'a>,
    collector: &'c mut FlagCollector,
}

impl Selection<'_, '_> {
    fn takes(&mut self, path: &str, name: &str, environment: Option<&str>) -> bool {
        if !self.known.contains(name) {
            let name = if name.is_empty() { "none" } else { name };
            if self.pass.is_first {
                self.collector.omit_field(&format!("{path} of flags that the file lacks"), "", &Value::from(name));
            }
            return false;
        }
        match environment {
            Some(elsewhere) if Some(elsewhere) != self.pass.environment => {
                if self.pass.is_first && !self.pass.selected.contains(&elsewhere) {
                    self.collector.omit_field(&format!("{path} of other environments"), name, &Value::from(elsewhere));
                }
                false
            }
            _ => true,
        }
    }
}

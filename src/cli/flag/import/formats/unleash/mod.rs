//! Unleash: whether a flag is on in one environment, if it is on there for everybody.

mod export;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};

use export::{Feature, File, Strategy};

use crate::cli::flag::import::imported::{Contents, Lost, Raw};
use crate::domain::flag::Status;

pub(super) fn parse(text: &str, environment: Option<&str>) -> Contents {
    let file: File = match serde_json::from_str(text) {
        Ok(file) => file,
        Err(error) => return Contents::unusable(format!("it is no export of Unleash: {error}")),
    };
    let environment = match choose(&file, environment) {
        Ok(environment) => environment,
        Err(fault) => return Contents::unusable(fault),
    };
    let mut contents = Contents::default();
    let parts =
        [("segments", &file.segments), ("strategies", &file.strategies), ("context fields", &file.context_fields)];
    for (part, there) in parts.into_iter().filter(|(_, there)| !there.is_empty()) {
        contents.lost.push(Lost::new("the file", format!("{part}: {}", there.len())));
    }
    let details = Details::new(&file, environment);
    for (index, feature) in file.features.iter().enumerate() {
        details.take(&format!("features[{index}]"), feature, &mut contents);
    }
    contents
}

/// The environment that counts; none where the export is older than environments.
fn choose<'a>(file: &'a File, asked: Option<&str>) -> Result<Option<&'a str>, String> {
    let all = file.environments();
    let names = all.iter().copied().collect::<Vec<_>>().join(", ");
    match (asked, all.len()) {
        (Some(asked), 0) => Err(format!("there are no environments in it, and so no {asked:?}")),
        (Some(asked), _) => {
            let found = all.get(asked).copied().map(Some);
            found.ok_or_else(|| format!("there is no environment {asked:?} in it, only {names}"))
        }
        (None, 0 | 1) => Ok(all.first().copied()),
        (None, _) => Err(format!("it has several environments: pick one by --environment, out of {names}")),
    }
}

/// What the file says of flags elsewhere than at the flag, by the flag's name.
struct Details<'a> {
    environment: Option<&'a str>,
    enabled: HashMap<&'a str, bool>,
    strategies: HashMap<&'a str, Vec<&'a Strategy>>,
    /// Ids of strategies that hold for segments only, as the older export has it.
    segmented: HashSet<&'a str>,
    variants: HashMap<&'a str, usize>,
    tags: HashMap<&'a str, usize>,
    dependencies: HashMap<&'a str, usize>,
}

impl<'a> Details<'a> {
    fn new(file: &'a File, environment: Option<&'a str>) -> Self {
        let here = file.feature_environments.iter().filter(|there| Some(there.environment.as_str()) == environment);
        let mut details = Self {
            environment,
            enabled: here.clone().map(|there| (there.feature_name.as_str(), there.enabled)).collect(),
            strategies: HashMap::new(),
            segmented: file.feature_strategy_segments.iter().map(|it| it.feature_strategy_id.as_str()).collect(),
            variants: HashMap::new(),
            tags: HashMap::new(),
            dependencies: HashMap::new(),
        };
        for there in here {
            *details.variants.entry(&there.feature_name).or_default() += there.variants.len();
        }
        for tag in &file.feature_tags {
            *details.tags.entry(&tag.feature_name).or_default() += 1;
        }
        for child in &file.dependencies {
            *details.dependencies.entry(&child.feature).or_default() += child.dependencies.len();
        }
        // An export of one environment may leave out which.
        let elsewhere = |strategy: &&Strategy| strategy.environment.as_deref().is_some_and(|e| Some(e) != environment);
        for strategy in file.feature_strategies.iter().filter(|strategy| !elsewhere(strategy)) {
            if let Some(name) = &strategy.feature_name {
                details.strategies.entry(name).or_default().push(strategy);
            }
        }
        details
    }

    fn take(&self, place: &str, feature: &Feature, contents: &mut Contents) {
        let name = feature.name.as_str();
        let mut lost = Vec::new();
        let status = self.status(feature, &mut lost);
        let count = |all: &HashMap<&str, usize>| all.get(name).copied().unwrap_or_default();
        let in_strategies: usize = self.strategies(feature).0.iter().map(|strategy| strategy.variants.len()).sum();
        for (what, number) in [
            ("variants", feature.variants.len() + count(&self.variants) + in_strategies),
            ("tags", count(&self.tags)),
            ("dependencies on other flags", count(&self.dependencies)),
        ] {
            if number > 0 {
                lost.push(format!("{what}: {number}"));
            }
        }
        lost.extend(feature.stale.filter(|stale| *stale).map(|_| "that it is stale".to_owned()));
        lost.extend(feature.impression_data.filter(|wanted| *wanted).map(|_| "impression data".to_owned()));
        lost.extend(feature.kind.as_ref().map(|kind| format!("its type, {kind}")));
        lost.extend(feature.project.as_ref().filter(|p| *p != "default").map(|p| format!("its project, {p}")));
        if !lost.is_empty() {
            contents.lost.push(Lost::new(name, lost.join("; ")));
        }
        let archived = feature.archived.or_else(|| feature.archived_at.as_ref().map(|_| true));
        let description = feature.description.as_deref();
        contents.take(place, &Raw { key: name, description, status, archived, ..Raw::default() });
    }

    /// The strategies that say who gets the flag, and those that are disabled.
    fn strategies(&self, feature: &'a Feature) -> (Vec<&'a Strategy>, Vec<&'a Strategy>) {
        let elsewhere = self.strategies.get(feature.name.as_str()).into_iter().flatten().copied();
        elsewhere.chain(&feature.strategies).partition(|strategy| strategy.disabled != Some(true))
    }

    /// On or off for everybody. A flag that is on for some only is neither: to turn it on would give to all what was
    /// meant for few, so it is left as it is; likewise where all that says for whom it is on is disabled.
    fn status(&self, feature: &'a Feature, lost: &mut Vec<String>) -> Option<Status> {
        let enabled = match self.environment {
            Some(_) => self.enabled.get(feature.name.as_str()).copied(),
            None => feature.enabled,
        };
        let Some(enabled) = enabled else {
            let place = self.environment.map_or_else(String::new, |name| format!(" in {name}"));
            lost.push(format!("that nothing says whether it is on{place}: its status is left alone"));
            return None;
        };
        let for_everybody = |strategy: &&Strategy| {
            let segmented = strategy.id.as_deref().is_some_and(|id| self.segmented.contains(id));
            strategy.is_for_everybody() && !segmented
        };
        let (active, disabled) = self.strategies(feature);
        let (all, some): (Vec<_>, Vec<_>) = active.into_iter().partition(for_everybody);
        let names = |all: &[&Strategy]| all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
        let partly = enabled && all.is_empty() && !some.is_empty();
        let nobody = enabled && all.is_empty() && some.is_empty() && !disabled.is_empty();
        if partly {
            lost.push(format!("that it is on for some only ({}): its status is left alone", names(&some)));
        } else if !some.is_empty() {
            lost.push(format!("strategies: {}", names(&some)));
        }
        if nobody {
            lost.push(format!("that all its strategies are disabled ({}): its status is left alone", names(&disabled)));
        } else if !disabled.is_empty() {
            lost.push(format!("disabled strategies: {}", names(&disabled)));
        }
        (!partly && !nobody).then_some(if enabled { Status::Enabled } else { Status::Disabled })
    }
}
